"""The netx format: which networks are plain netx, and typed access to the groups and connections of a file.

Sources in lava-dl 0.6: ``lib/dl/netx/hdf5.py`` builds layers from a file, ``lib/dl/netx/utils.py`` derives weight widths.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, NetxError, counted, unsupported_kind
from neurodeploy.ir.arrays import Integers, is_plain
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedNetwork,
    QuantizedSparse,
    QuantizedSynapse,
)
from neurodeploy.targets.loihi.target import as_lava_reads, as_lava_reads_together, check_synapse, width_of

# ---------------------------------------------------------------------------------------------- plain netx

DELAY_MAX = 62
"""Longest delay in steps; netx clamps longer ones (hdf5.py: create_dense)."""

MATRIX_MAX = 1 << 26
"""Most entries of a matrix that a sparse layer is written as: 64 million, 128 MB before compression."""


def plain_kinds(network: QuantizedNetwork) -> tuple[str, ...] | None:
    """Return the netx type of each layer, ``conv``, ``dense`` or ``dense_rec``; None for a network that is no chain of those."""
    kinds: list[str] = []
    source = INPUT
    for layer in network:
        is_image = not kinds or kinds[-1] == "conv"  # a convolution needs an image; netx flattens the output of all other layers
        kind = _kind(layer, source, is_image)
        if kind is None:
            return None
        kinds.append(kind)
        source = layer.name
    return tuple(kinds)


def _kind(layer: QuantizedLayer, source: str, is_image: bool) -> str | None:
    first, *others = layer.connections
    if first.source != source:
        return None
    if others:
        return "dense_rec" if _is_recurrent_dense(layer.name, first, others) else None
    match first.synapse:
        case QuantizedConv():
            return "conv" if is_image and first.delay_steps == 0 else None
        case QuantizedDense():
            return "dense" if first.delay_steps <= DELAY_MAX else None
        case QuantizedSparse():
            return "dense" if first.delay_steps <= DELAY_MAX and _is_matrix(first.synapse) else None
        case _:
            raise unsupported_kind(first.synapse)


def _is_recurrent_dense(name: str, first: Connection[QuantizedSynapse], others: list[Connection[QuantizedSynapse]]) -> bool:
    back = others[0]
    if len(others) > 1 or back.source != name or first.delay_steps or back.delay_steps:
        return False
    matrices = [c.synapse.weight for c in (first, back) if isinstance(c.synapse, QuantizedDense)]
    if len(matrices) < 2 or not any(matrix.any() for matrix in matrices):
        return False
    # netx joins both matrices and derives one width for them (hdf5.py: create_dense), so they are checked together.
    return all(np.array_equal(read, meant) for read, meant in zip(as_lava_reads_together(*matrices), matrices, strict=True))


def _is_matrix(synapse: QuantizedSparse) -> bool:
    # Lava cannot read a matrix of zeros.
    if synapse.n_out * synapse.n_in > MATRIX_MAX or not synapse.weight.any():
        return False
    matrix = synapse.matrix().astype(np.int64)
    return np.array_equal(as_lava_reads(matrix), matrix)


def check_lava_reads(where: str, weight: Integers) -> None:
    """Raise `NetxError` for a dense layer that Lava would run with other weights, or could not read."""
    if not weight.any():
        raise NetxError(
            where, "has no synapse left: all its weights are zero, and Lava cannot read such a layer",
            remedy="Prune less: at least one weight has to be left.",
        )  # fmt: skip
    read = as_lava_reads(weight)
    if not np.array_equal(read, weight):
        row, column = (int(i) for i in np.argwhere(read != weight)[0])
        raise NetxError(
            where, f"would run in Lava with {read[row, column]} for its weight[{row}, {column}] = {weight[row, column]}",
            source="netx/utils.py: optimize_weight_bits",
            remedy="Change a weight of the layer by a step, or scale the layer anew.",
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------- groups of a file

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class NetxGroup:
    """A group of a file, with its path for errors; its methods return values of one kind, or raise `NetxError`."""

    where: str
    group: h5py.Group

    def __contains__(self, key: str) -> bool:
        return key in self.group or key in self.group.attrs

    def sub(self, key: str) -> NetxGroup:
        if not isinstance(self.group.get(key), h5py.Group):
            raise NetxError(self.where, f"has no group {key!r}", remedy="Is it a network file of netx?")
        return NetxGroup(f"{self.where}/{key}", self.group[key])

    def text(self, key: str) -> str:
        value = self.value(key)
        # Stored as one string or, by slayer, as an array of one.
        first = value.flat[0] if value.size == 1 else None
        if isinstance(first, str):
            return str(first)  # h5py gives NumPy's own kind, which it cannot write again
        if not isinstance(first, bytes) or not first.isascii():
            raise NetxError(self.where, f"{key} is not one ASCII string")
        return first.decode("ascii")

    def floats(self, key: str) -> NDArray[np.float64]:
        value = self.value(key)
        if value.dtype.kind not in "biuf" or not np.isfinite(value).all():
            raise NetxError(self.where, f"{key} is not finite numbers")
        return value.astype(np.float64)

    def integers(self, key: str) -> Integers:
        value = self.floats(key)
        # From 2**53 on doubles have gaps, and every one is whole.
        if (value % 1).any() or (np.abs(value) >= 1 << 53).any():
            raise NetxError(self.where, f"{key} is not whole numbers", remedy="Export the network quantised to integers.")
        return value.astype(np.int64)

    def integer(self, key: str) -> int:
        value = self.integers(key)
        if value.size != 1:
            raise NetxError(self.where, f"{key} has shape {value.shape}, not ()")
        return int(value.flat[0])

    def per_neuron(self, key: str, shape: tuple[int, ...], is_image: bool = False) -> Integers:
        """One number for all, as () however it was stored, or one a neuron.

        Numbers of an image of C, H, W are stored one a neuron as W, H, C, or one a channel.
        """
        value = self.integers(key)
        if is_image and value.shape == shape[::-1]:
            return value.transpose(2, 1, 0).reshape(-1)
        if is_image and value.shape == shape[:1]:
            return value[0].reshape(()) if (value == value[0]).all() else np.repeat(value, int(np.prod(shape[1:])))
        if is_image and value.size > 1:
            raise NetxError(self.where, f"{key} has shape {value.shape}, not (), {shape[:1]} or {shape[::-1]}")
        # A layer of one neuron keeps its (1,), so that it reads back as it was written.
        return value.reshape(()) if value.size == 1 and value.shape != (int(np.prod(shape)),) else value

    def pair(self, key: str) -> tuple[int, int]:
        """Return a number for rows and one for columns; a single one counts for both."""
        value = self.integers(key).ravel()
        if value.size not in (1, 2):
            raise NetxError(self.where, f"{key} {value.tolist()} is not one number or two")
        return int(value[0]), int(value[-1])

    def sides(self, key: str) -> tuple[int, ...]:
        value = self.integers(key)
        if value.size == 0 or value.min() < 1:
            raise NetxError(self.where, f"{key} {value.tolist()} is not a shape")
        return tuple(int(side) for side in value.ravel())

    def value(self, key: str) -> NDArray[Any]:
        """Numbers or text as they are stored."""
        try:
            item = self.group.get(key)
            if not isinstance(item, h5py.Dataset) and (item is not None or key not in self.group.attrs):
                raise NetxError(self.where, f"has no {key!r}")
            if not is_plain(item.id if item is not None else self.group.attrs.get_id(key)):
                raise NetxError(self.where, f"{key} is neither numbers nor text")
            return np.asarray(self.group.attrs[key] if item is None else item[()])
        except (TypeError, ValueError) as error:  # what h5py raises on a kind of number or text that it does not know
            raise NetxError(self.where, f"{key} cannot be read: {error}") from error


@contextmanager
def as_netx_error(where: str) -> Iterator[None]:
    """Turn a `NetworkError` into a `NetxError` at this place of a file."""
    try:
        yield
    except NetworkError as error:
        raise NetxError(where, f"{error.where} {error.what}", remedy=error.remedy) from error


def reason(error: Exception) -> str:
    """Return the operating system's text of an error where there is one; HDF5's are long."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).strip("'\"")


# ---------------------------------------------------------------------------------------------- connections

Connections: TypeAlias = "tuple[Connection[QuantizedSynapse], ...]"


@dataclass(frozen=True)
class ConnectionReader:
    """Reader of the connections into the layer whose group this is."""

    node: NetxGroup

    def dense(self, kind: str, source: str, name: str, n_neurons: int) -> Connections:
        """Read the connections of a ``dense`` layer, or of a ``dense_rec`` layer, which also has one from itself."""
        weight = self._matrix("weight", n_neurons)
        for key, size in zip(("outFeatures", "inFeatures"), weight.shape, strict=True):
            if key in self.node and self.node.integer(key) != size:
                raise NetxError(self.node.where, f"has {key} {self.node.integer(key)}, but weights of shape {weight.shape}")
        delays = self._delays(weight.shape)
        if kind == "dense":
            with as_netx_error(self.node.where):
                connections = self._delayed(source, weight, delays)
                for connection in connections:
                    check_synapse(connection.synapse)
            check_lava_reads(self.node.where, weight)
            return connections
        if delays.any():
            raise NetxError(self.node.where, "has delays and recurrent weights, from which together Lava builds other weights")
        back = self._matrix("weight_rec", n_neurons)
        with as_netx_error(self.node.where):
            first: QuantizedSynapse = self._dense("weight_bits", weight)
            again: QuantizedSynapse = self._dense("weight_rec_bits", back)
            check_synapse(first)
            check_synapse(again)
        self._check_read_together(weight, back)
        return Connection(source=source, synapse=first), Connection(source=name, synapse=again)

    def _delayed(self, source: str, weight: Integers, delays: Integers) -> Connections:
        """One connection for a matrix of one delay; for one of many, a list of its synapses for each delay."""
        if (delays == delays.flat[0]).all():
            synapse: QuantizedSynapse = self._lists(weight) if "sources" in self.node else self._dense("weight_bits", weight)
            return (Connection(source=source, synapse=synapse, delay_steps=int(delays.flat[0])),)
        connections: list[Connection[QuantizedSynapse]] = []
        for steps in np.unique(delays[weight != 0]):
            rows, sources = np.nonzero((weight != 0) & (delays == steps))
            starts = np.searchsorted(rows, np.arange(len(weight) + 1))
            some = weight[rows, sources]
            synapse = QuantizedSparse(
                n_in=weight.shape[1],
                starts=starts,
                sources=sources.astype(np.int32),
                weight=some,
                weight_bits=max(1, width_of(some)),
            )
            connections.append(Connection(source=source, synapse=synapse, delay_steps=int(steps)))
        return tuple(connections)

    def _check_read_together(self, weight: Integers, back: Integers) -> None:
        if not weight.any() and not back.any():
            check_lava_reads(self.node.where, weight)
        for key, read, meant in zip(("weight", "weight_rec"), as_lava_reads_together(weight, back), (weight, back), strict=True):
            if not np.array_equal(read, meant):
                raise NetxError(
                    self.node.where, f"its {key} would run in Lava with other numbers than it holds",
                    source="netx/utils.py: optimize_weight_bits", remedy="Change a weight of the layer by a step.",
                )  # fmt: skip

    def _delays(self, shape: tuple[int, ...]) -> Integers:
        """(n_out, n_in): the delay of each synapse, stored as one for all, one a neuron, one an input or one a synapse."""
        delays = self.node.integers("delay") if "delay" in self.node else np.zeros((), dtype=np.int64)
        if delays.size == 0 or delays.min() < 0 or delays.max() > DELAY_MAX:
            raise NetxError(self.node.where, f"has delays outside 0..{DELAY_MAX} steps", source="netx/hdf5.py: create_dense")
        if delays.ndim == 1 and delays.size == shape[0]:  # first of all, if as many neurons as inputs (hdf5.py: create_dense)
            delays = delays.reshape(-1, 1)
        if delays.ndim > 2 or any(side not in (1, n) for side, n in zip(delays.shape[::-1], shape[::-1], strict=False)):
            raise NetxError(self.node.where, f"has delays of shape {delays.shape} for weights of shape {shape}")
        return np.broadcast_to(delays, shape)

    def _matrix(self, key: str, n_neurons: int) -> Integers:
        weight = self.node.integers(key)
        # As netx does (hdf5.py: create_dense).
        if weight.ndim == 1 and weight.size % n_neurons == 0:
            weight = weight.reshape(n_neurons, -1)
        if weight.ndim != 2 or weight.shape[0] != n_neurons or weight.size == 0:
            raise NetxError(self.node.where, f"has {counted(n_neurons, 'neuron')}, but weights of shape {weight.shape}")
        if key == "weight_rec" and weight.shape[1] != n_neurons:
            raise NetxError(self.node.where, f"has {counted(n_neurons, 'neuron')}, but recurrent weights of shape {weight.shape}")
        return weight

    def _width(self, key: str, weight: Integers) -> int:
        return self.node.integer(key) if key in self.node else max(1, width_of(weight))

    def _dense(self, bits: str, weight: Integers) -> QuantizedDense:
        return QuantizedDense(weight=weight, weight_bits=self._width(bits, weight))

    def _lists(self, matrix: Integers) -> QuantizedSparse:
        """Read the listed synapses of a matrix; all other entries have to be zero."""
        starts, sources = self.node.integers("starts"), self.node.integers("sources").astype(np.int32)
        width = self._width("weight_bits", matrix)
        wiring = QuantizedSparse(
            n_in=matrix.shape[1], starts=starts, sources=sources, weight=np.zeros(sources.shape), weight_bits=width
        )
        rows = np.repeat(np.arange(wiring.n_out), np.diff(wiring.starts))
        if wiring.n_out != len(matrix) or np.count_nonzero(matrix[rows, wiring.sources]) != np.count_nonzero(matrix):
            raise NetxError(self.node.where, "lists other synapses in starts and sources than its weights have")
        return QuantizedSparse(
            n_in=matrix.shape[1], starts=starts, sources=sources, weight=matrix[rows, wiring.sources], weight_bits=width
        )

    def conv(self, source: str, input_shape: tuple[int, ...]) -> Connections:
        """Read the connection of a ``conv`` layer."""
        weight = self.node.integers("weight")
        # slayer's kernels have an axis for time at the end.
        if weight.ndim == 5 and weight.shape[-1] == 1:
            weight = weight[..., 0]
        if weight.ndim != 4 or weight.size == 0:
            raise NetxError(self.node.where, f"has weights of shape {weight.shape}, not (out, in / groups, rows, columns)")
        if len(input_shape) != 3:
            raise NetxError(
                self.node.where, f"is a convolution of {input_shape or 'an input of unknown shape'}, not of (C, H, W)"
            )
        window = self._window()
        stated = {
            "outChannels": weight.shape[:1],
            "inChannels": (weight.shape[1] * window["groups"],),
            "kernelSize": weight.shape[2:],
        }
        for key, sides in stated.items():
            if key in self.node and not (
                self.node.integers(key).size in (1, len(sides)) and (self.node.integers(key).ravel() == sides).all()
            ):
                raise NetxError(
                    self.node.where, f"has {key} {self.node.integers(key).tolist()}, but weights of shape {weight.shape}"
                )
        if "delay" in self.node and self.node.integers("delay").any():
            raise NetxError(self.node.where, "has delays, which Lava silently leaves out of convolutions")
        with as_netx_error(self.node.where):
            synapse = QuantizedConv(
                weight=weight, weight_bits=self._width("weight_bits", weight),
                input_shape=(input_shape[0], input_shape[1], input_shape[2]), **window,
            )  # fmt: skip
            return (Connection(source=source, synapse=synapse),)

    def _window(self) -> dict[str, Any]:
        return {key: self.node.pair(key) for key in ("stride", "padding", "dilation")} | {"groups": self.node.integer("groups")}

    def population(self, n_neurons: int) -> Connections:
        """Read the connections of a ``population``."""
        group = self.node.sub("connection")
        readers = [ConnectionReader(group.sub(str(index))) for index in range(len(group.group))]
        connections = []
        for reader in readers:
            with as_netx_error(reader.node.where):
                synapse = reader._synapse(n_neurons)
                connections.append(
                    Connection(source=reader.node.text("source"), synapse=synapse, delay_steps=reader.node.integer("delay_steps"))
                )
        return tuple(connections)

    def _synapse(self, n_neurons: int) -> QuantizedSynapse:
        kind, weight, bits = self.node.text("type"), self.node.integers("weight"), self.node.integer("weight_bits")
        if kind == "dense":
            return QuantizedDense(weight=self._matrix("weight", n_neurons), weight_bits=bits)
        if kind == "sparse":
            starts, sources = self.node.integers("starts"), self.node.integers("sources").astype(np.int32)
            return QuantizedSparse(
                n_in=self.node.integer("inFeatures"), starts=starts, sources=sources, weight=weight, weight_bits=bits
            )
        if kind == "conv":
            shape = self.node.sides("shapeIn")
            if len(shape) != 3:
                raise NetxError(self.node.where, f"shapeIn {shape} is not (C, H, W)")
            return QuantizedConv(weight=weight, weight_bits=bits, input_shape=(shape[0], shape[1], shape[2]), **self._window())
        raise NetxError(self.node.where, f"its type {kind!r} is not dense, sparse or conv")
