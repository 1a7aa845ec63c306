"""Netx network files: reading those of lava-dl's slayer and of neurodeploy as Lava runs them, and writing networks to them.

Chains of layers become plain netx; other networks get layers of a type of their own (``population``), which Lava's netx skips.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, NetxError, check_arguments, counted, unsupported_kind
from neurodeploy.ir.arrays import Integers, hdf5_damage
from neurodeploy.ir.connectivity import is_convolution, is_dense
from neurodeploy.ir.files import absence, in_memory
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    GRADED_BITS,
    Encoder,
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSigmaDelta,
    QuantizedSparse,
    QuantizedSubtractiveLIF,
    QuantizedSynapse,
    is_sigma_delta,
)
from neurodeploy.targets.loihi.netx_format import (
    ConnectionReader,
    NetxGroup,
    PathLike,
    as_netx_error,
    check_lava_reads,
    plain_kinds,
    reason,
)
from neurodeploy.targets.loihi.target import (
    DECAY_UNITY,
    LOIHI,
    MANTISSA_SHIFT,
    NEVER_FIRES,
    check_layer,
    check_neuron,
    check_sigma_delta,
    resets_by_subtraction,
)

# ---------------------------------------------------------------------------------------------- reading

_TRANSFORM = {"weight": 64, "bias": 0}  # of raw input, where an input layer does not say (hdf5.py: create_input)
# Of a layer without neurons (hdf5.py: create_dense): u adds up for ever, and v is u.
_INTEGRATOR = QuantizedLI(du=np.array(0), dv=np.array(DECAY_UNITY))
_UNSUPPORTED_TYPES = {
    "input": "is out of place: only the first layer may have it",
    "dense_comp": "is complex-valued, and Lava itself cannot build it",
    **dict.fromkeys(("pool", "convT", "unpool", "average", "concat"), "is one that Lava itself does not implement"),
}


@check_arguments
def read_netx(path: PathLike, *, trusted: bool = False) -> QuantizedNetwork:
    """Read a network as Lava runs it, from a file of neurodeploy or of lava-dl's slayer.

    A layer that never fires (``vThMant`` of 2**17 or no ``neuron`` at all) is read as a `QuantizedLI`. Files that do not say
    it get the names ``layer1``, ``layer2``, ..., the narrowest ``weight_bits`` and a ``scale`` of 0.

    Parameters
    ----------
    trusted : bool
        Whether the file is known to be whole, so that a trial reading in a process of its own may be left out.

    Raises
    ------
    NetxError
        The file is not a network of integers that neurodeploy and Lava can run; the error names the place and the reason.
    """
    source = Path(path)
    if why := absence(source):
        raise NetxError(str(source), why)
    try:
        if not h5py.is_hdf5(source):
            raise NetxError(str(source), "is not an HDF5 file")
        if not trusted and (why := hdf5_damage(source)):
            raise NetxError(str(source), f"cannot be read: it {why}")
        with h5py.File(source, "r") as file:
            return NetworkReader(NetxGroup(str(source), file)).network()
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises on bytes that have been damaged
        raise NetxError(str(source), f"cannot be read: {reason(error)}") from error


class NetworkReader:
    """Reader of the layers of a file, in the order in which they follow each other."""

    def __init__(self, file: NetxGroup) -> None:
        self.file = file
        self.input_shape: tuple[int, ...] = ()
        self.encoder: Encoder | None = None
        self.layers: list[QuantizedLayer] = []
        self.notes: tuple[str, ...] = ()
        self.flatten: NetxGroup | None = None  # a flatten that waits for its layer

    def network(self) -> QuantizedNetwork:
        """Read the whole file."""
        chain = self.file.sub("layer")
        groups = [chain.sub(str(index)) for index in range(len(chain.group))]
        if groups and groups[0].text("type") == "input":
            self.read_input(groups.pop(0))
        for group in groups:
            kind = group.text("type")
            if kind == "flatten":
                second, self.flatten = self.flatten is not None, group
                if second:
                    self.refuse_flatten()
            elif kind == "average" and group is groups[-1] and self.layers:
                self.average(group)
            else:
                self.layers.append(self.layer(group, kind))
                self.flatten = None
        if not self.layers:
            raise NetxError(chain.where, "holds no layer of neurons")
        self.refuse_flatten()
        with as_netx_error(self.file.where):
            # Without an input layer, the first layer's weights give the number of inputs.
            shape = self.input_shape or (self.layers[0].connections[0].synapse.n_in,)
            network = QuantizedNetwork(input_shape=shape, layers=tuple(self.layers), encoder=self.encoder, notes=self.notes)
            check_sigma_delta(network)
            check_netx_chain(network)
            if is_sigma_delta(network):
                sent = f"Neurons are sigma-delta: their spikes carry the change of a number, {GRADED_BITS} bits each."
                network = replace(network, notes=(*self.notes, sent))
            return network

    def read_input(self, group: NetxGroup) -> None:
        """Read the shape of the input, and its population where it has one."""
        lava_shape = group.sides("shape")
        self.input_shape = group.sides("input_shape") if "input_shape" in group else lava_shape
        # input_shape is ours: Lava's shape has one or three sides only, see `LayerWriter.input`.
        if np.prod(self.input_shape) != np.prod(lava_shape):
            raise NetxError(group.where, f"has shape {lava_shape} for Lava, but input_shape {self.input_shape}")
        if "neuron" not in group:
            return
        neuron = self.neuron(group.sub("neuron"), (1,))
        weight, bias = (group.integer(key) if key in group else default for key, default in _TRANSFORM.items())
        match neuron:
            case QuantizedLIF() | QuantizedSigmaDelta(only_sums=False):
                self.encoder = Encoder(neuron=neuron, weight=weight, bias=bias)
            case QuantizedSubtractiveLIF():
                raise resets_by_subtraction(group.where)
            case QuantizedSigmaDelta():
                raise NetxError(group.where, "has neurons that only sum, which Lava's input block ignores")
            case QuantizedLI():
                raise NetxError(group.where, "has neurons that never fire: no spike would reach the network")
            case _:
                raise unsupported_kind(neuron)

    def average(self, group: NetxGroup) -> None:
        """Note the mean over groups of outputs at the end of a file, which the host computes (slayer: AbstractAverage)."""
        groups, output = int(np.prod(group.sides("shape"))), self.layers[-1]
        if output.n_neurons % groups:
            raise NetxError(group.where, f"averages {output.n_neurons} outputs in {groups} groups, which are of unequal size")
        each = f"{counted(groups, 'group')} of {output.n_neurons // groups} in a row"
        self.notes = (
            f"The file ends in an average of the outputs of {output.name!r}: {each}. As in Lava, it is left to the host.",
        )

    def refuse_flatten(self) -> None:
        """Raise for a flatten that Lava could not connect to what follows it."""
        if self.flatten is not None:
            raise NetxError(
                self.flatten.where,
                "its type 'flatten' is out of place: Lava connects it only between a convolution and a dense layer",
            )

    def layer(self, group: NetxGroup, kind: str) -> QuantizedLayer:
        """Read a layer of a type that has neurons."""
        if kind not in ("dense", "dense_rec", "conv", "population"):
            why = _UNSUPPORTED_TYPES.get(kind, "is unknown: Lava would skip it silently")
            raise NetxError(group.where, f"its type {kind!r} {why}")
        before = self.layers[-1] if self.layers else None
        after_image = before is not None and is_convolution(before.connections[0].synapse)
        if kind not in ("dense", "dense_rec") or (before is not None and not after_image):
            self.refuse_flatten()
        name = group.text("name") if "name" in group else f"layer{len(self.layers) + 1}"
        group = NetxGroup(f"{group.where} {name!r}", group.group)
        shape, source = group.sides("shape"), INPUT if before is None else before.name
        reader = ConnectionReader(group)
        if kind == "population":
            connections = reader.population(int(np.prod(shape)))
        elif kind == "conv":
            connections = reader.conv(source, self.input_shape if before is None else before.shape)
        elif after_image and self.flatten is None:
            raise NetxError(group.where, "follows a convolution with no 'flatten' between them: Lava cannot connect them")
        else:
            connections = reader.dense(kind, source, name, int(np.prod(shape)))
        is_image = kind == "conv"
        if is_image and "neuron" not in group:
            raise NetxError(group.where, "has no group 'neuron', without which Lava cannot build a convolution")
        with as_netx_error(group.where):
            layer = QuantizedLayer(
                name=name,
                shape=shape,
                neuron=self.neuron(group.sub("neuron"), shape, is_image) if "neuron" in group else _INTEGRATOR,
                connections=connections,
                bias=group.per_neuron("bias", shape, is_image) if "bias" in group else np.array(0),
                scale=group.floats("scale") if "scale" in group else np.array(0.0),
            )
            check_layer(layer)
            return layer

    def neuron(self, group: NetxGroup, shape: tuple[int, ...], is_image: bool = False) -> QuantizedNeuron:
        """Read neurons; with thresholds that no membrane passes they are a `QuantizedLI`."""
        kind = group.text("type")
        if kind == "SDNN":
            return self.sigma_delta(group)
        if kind not in ("CUBA", "LOIHI"):
            raise NetxError(group.where, f"its type {kind!r} is not supported", remedy="Only CUBA, LOIHI and SDNN are.")
        if "messageBits" in group and group.integers("messageBits").any():
            raise NetxError(group.where, "sends graded spikes (messageBits): not supported yet")
        vth, du, dv = (group.per_neuron(key, shape, is_image) for key in ("vThMant", "iDecay", "vDecay"))
        stored = group.value("vThMant")
        if stored.ndim and stored.dtype.kind in "iu" and int(vth.max()) << MANTISSA_SHIFT > np.iinfo(stored.dtype).max:
            # Only arrays: Lava makes a Python integer of a single threshold.
            raise NetxError(
                group.where, f"vThMant is {stored.dtype.name}, in which Lava shifts it by six bits and loses bits of {vth.max()}",
                source="lava-nc 0.10 proc/lif/models.py: scale_threshold", remedy="Store it as int32.",
            )  # fmt: skip
        with as_netx_error(group.where):
            neuron = QuantizedLI(du=du, dv=dv) if (vth >= NEVER_FIRES).all() else QuantizedLIF(vth=vth, du=du, dv=dv)
            check_neuron(neuron)
            return neuron

    def sigma_delta(self, group: NetxGroup) -> QuantizedSigmaDelta:
        """Read sigma-delta neurons; Lava ignores their activation and rectifies (netx/hdf5.py: get_neuron_params)."""
        if "activation" in group and (activation := group.text("activation")) != "relu":
            raise NetxError(group.where, f"its activation {activation!r} would run in Lava as 'relu'", remedy="Train with relu.")
        if "messageBits" in group:
            raise NetxError(group.where, "has messageBits, which Lava cannot read", source="netx/utils.py: NetDict")
        with as_netx_error(group.where):
            only_sums = "sigma_output" in group  # whatever its value
            vth = group.integer("vThMant") if "vThMant" in group or not only_sums else 0
            neuron = QuantizedSigmaDelta(vth=np.array(vth), only_sums=only_sums)
            check_neuron(neuron)
            return neuron


# ---------------------------------------------------------------------------------------------- writing


def check_netx_chain(network: QuantizedNetwork) -> None:
    """Raise `NetxError` for sigma-delta neurons in a network that netx does not build."""
    if is_sigma_delta(network) and plain_kinds(network) is None:
        raise NetxError(
            "network", "has sigma-delta neurons, and is no chain of convolutions and then dense layers, which netx builds",
            remedy="Give every layer one connection, from the layer before it, with at least one weight.",
        )  # fmt: skip


def check_file(network: QuantizedNetwork) -> None:
    """Raise `NetxError` where Lava would run a layer of a chain with other weights, or not at all."""
    try:
        LOIHI.check(network)
    except NetworkError as error:
        raise NetxError(error.where, error.what, source=error.source, remedy=error.remedy) from error
    check_netx_chain(network)
    for layer in network if plain_kinds(network) else ():
        synapse = layer.connections[0].synapse
        if is_dense(synapse) and len(layer.connections) == 1:
            check_lava_reads(f"layer {layer.name!r}", synapse.weight)


@check_arguments
def write_netx(network: QuantizedNetwork, path: PathLike) -> Path:
    """Write a network for Lava to `path`, whole or not at all; `read_netx` gives an equal network back.

    Raises
    ------
    NetxError
        Lava would run a layer of a chain with other weights, or not at all; or the file cannot be written.
    """
    check_file(network)
    kinds = plain_kinds(network)
    try:
        with in_memory(path) as written, h5py.File(written, "w") as file:
            # Numbered as they are written: netx runs layer/0, layer/1, ... as a chain.
            groups = (LayerWriter(file.create_group(f"layer/{index}")) for index in itertools.count())
            next(groups).input(network)
            is_image = len(network.input_shape) > 1
            for layer, kind in zip(network, kinds or ["population"] * len(network.layers), strict=True):
                if is_image and kind in ("dense", "dense_rec"):
                    next(groups).flatten(layer)  # an image is W, H, C in Lava; this turns it back to C, H, W in a row
                is_image = kind == "conv"
                next(groups).layer(layer, kind)
    except OSError as error:
        raise NetxError(str(path), f"cannot be written: {reason(error)}") from error
    return Path(path)


@dataclass(frozen=True)
class LayerWriter:
    """Writer of one group of a file: the input, a layer, or a connection of a ``population``."""

    group: h5py.Group

    def layer(self, layer: QuantizedLayer, kind: str) -> None:
        """Write a layer as a netx type: ``conv``, ``dense``, ``dense_rec`` or, for any connections, ``population``."""
        if kind == "population":
            self._population(layer)
        elif kind == "conv":
            self._conv(layer)
        elif kind in ("dense", "dense_rec"):
            self._dense(layer, kind)
        else:
            raise NetxError(f"layer {layer.name!r}", f"has no netx type {kind!r}")

    def input(self, network: QuantizedNetwork) -> None:
        shape, encoder = network.input_shape, network.encoder
        self.group["type"] = [b"input"]  # an array of one string, as slayer writes it
        self.group["shape"] = (
            shape if len(shape) == 1 else (int(np.prod(shape[:-2])), *shape[-2:])
        )  # Lava flattens C, H, W and no other
        self.group.attrs["input_shape"] = shape
        if encoder is None:
            return
        registers = (getattr(encoder.neuron, field.name) for field in fields(encoder.neuron))
        if any(np.shape(register) for register in registers):
            raise NetxError("layer 'input'", "has neurons of different parameters, and Lava's input population has one kind")
        self.group["weight"], self.group["bias"] = [encoder.weight], [encoder.bias]
        self._neuron(encoder.neuron)

    def flatten(self, layer: QuantizedLayer) -> None:
        self.group["type"] = [b"flatten"]
        self.group["shape"] = (layer.connections[0].synapse.n_in,)

    def _dense(self, layer: QuantizedLayer, kind: str) -> None:
        first, *back = layer.connections
        self.group["type"] = [kind.encode()]
        self.group["outFeatures"], self.group["inFeatures"] = first.synapse.n_out, first.synapse.n_in
        self._weight("weight", first.synapse.matrix())
        match first.synapse:
            case QuantizedDense():
                pass
            case QuantizedSparse():  # Lava reads the matrix; the lists say which of its zeros are synapses
                self._synapse_lists(first.synapse)
            case QuantizedConv():
                raise NetxError(f"layer {layer.name!r}", "is a convolution, which is not written as a matrix")
            case _:
                raise unsupported_kind(first.synapse)
        if first.delay_steps:
            self.group["delay"] = first.delay_steps
        for connection in back:
            self._weight("weight_rec", connection.synapse.matrix())
            # An attribute, which netx does not read: it derives the width from the integers.
            self.group.attrs["weight_rec_bits"] = connection.synapse.weight_bits
        self.group.attrs["weight_bits"] = first.synapse.weight_bits
        self._neurons(layer)

    def _conv(self, layer: QuantizedLayer) -> None:
        synapse = layer.connections[0].synapse
        assert isinstance(synapse, QuantizedConv)
        self.group["type"] = [b"conv"]
        self.group["inChannels"], self.group["outChannels"] = synapse.input_shape[0], synapse.output_shape[0]
        self.group["kernelSize"] = synapse.weight.shape[2:]
        self._window(synapse)
        self._weight("weight", synapse.weight)
        self.group.attrs["weight_bits"] = synapse.weight_bits
        self._neurons(layer, image=layer.shape)

    def _population(self, layer: QuantizedLayer) -> None:
        self.group["type"] = [b"population"]
        for index, connection in enumerate(layer.connections):
            LayerWriter(self.group.create_group(f"connection/{index}"))._connection(connection)
        self._neurons(layer)

    def _connection(self, connection: Connection[QuantizedSynapse]) -> None:
        synapse = connection.synapse
        self.group.attrs["source"], self.group.attrs["delay_steps"] = connection.source, connection.delay_steps
        self.group.attrs["weight_bits"] = synapse.weight_bits
        self._weight("weight", synapse.weight)
        match synapse:
            case QuantizedDense():
                self.group["type"] = [b"dense"]
            case QuantizedSparse():
                self.group["type"], self.group["inFeatures"] = [b"sparse"], synapse.n_in
                self._synapse_lists(synapse)
            case QuantizedConv():
                self.group["type"], self.group["shapeIn"] = [b"conv"], synapse.input_shape
                self._window(synapse)
            case _:
                raise unsupported_kind(synapse)

    def _weight(self, key: str, weight: NDArray[Any]) -> None:
        packed = {"compression": "gzip"} if weight.size else {}
        self.group.create_dataset(key, data=weight.astype(np.int16), **packed)

    def _synapse_lists(self, synapse: QuantizedSparse) -> None:
        self.group["starts"], self.group["sources"] = synapse.starts, synapse.sources

    def _window(self, synapse: QuantizedConv) -> None:
        for key in ("stride", "padding", "dilation", "groups"):
            self.group[key] = getattr(synapse, key)

    def _neurons(self, layer: QuantizedLayer, image: tuple[int, ...] | None = None) -> None:
        """Write neurons, biases, and what only `read_netx` reads; `image` is the shape (C, H, W) of a convolution's output."""
        self.group["shape"] = layer.shape
        if layer.bias.any() or layer.bias.shape:
            one_a_channel = image is not None and not layer.bias.shape
            self.group["bias"] = np.full(layer.shape[0], layer.bias) if one_a_channel else self._as_lava(layer.bias, image)
        self.group["scale"] = layer.scale
        self.group.attrs["name"] = layer.name
        self._neuron(layer.neuron, image)

    def _neuron(self, neuron: QuantizedNeuron, image: tuple[int, ...] | None = None) -> None:
        neurons = self.group.create_group("neuron")
        match neuron:
            case QuantizedLIF():
                neurons["vThMant"] = self._as_lava(neuron.vth, image)
            case QuantizedSubtractiveLIF():
                raise resets_by_subtraction("neurons")
            case QuantizedLI():
                neurons["vThMant"] = NEVER_FIRES
            case QuantizedSigmaDelta():
                neurons["type"], neurons["activation"] = [b"SDNN"], b"relu"
                neurons["vThMant"] = int(neuron.vth)
                if neuron.only_sums:
                    neurons["sigma_output"] = True
                return
            case _:
                raise unsupported_kind(neuron)
        # The decay that is meant, 0..4096: netx subtracts the 1 that Lava adds to a current's.
        neurons["iDecay"], neurons["vDecay"] = self._as_lava(neuron.du, image), self._as_lava(neuron.dv, image)
        neurons["type"] = [b"CUBA"]
        neurons["refDelay"], neurons["gradedSpike"] = 1, False  # slayer writes them, nothing reads them

    def _as_lava(self, numbers: Integers, image: tuple[int, ...] | None) -> Integers:
        # Lava has images as W, H, C.
        return numbers if image is None or not numbers.shape else numbers.reshape(image).transpose(2, 1, 0)
