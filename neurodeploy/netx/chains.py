"""Which networks plain netx can say, and layer by layer as what."""

from __future__ import annotations

import numpy as np

from neurodeploy.errors import NetxError
from neurodeploy.fixedpoint import Integers, as_lava_reads, as_lava_reads_together
from neurodeploy.graph import INPUT, Connection
from neurodeploy.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedNetwork,
    QuantizedSparse,
    QuantizedSynapse,
)

DELAY_MAX = 62
"""netx clamps longer delays (hdf5.py: create_dense)."""

MATRIX_MAX = 1 << 26
"""A sparse layer of more pairs of neurons is not written out as the matrix that netx reads."""


def plain_kinds(network: QuantizedNetwork) -> tuple[str, ...] | None:
    """The netx type of each layer, ``conv``, ``dense`` or ``dense_rec``; None for a network that is no chain of those."""
    kinds: list[str] = []
    heard = INPUT
    for layer in network:
        is_image = not kinds or kinds[-1] == "conv"  # what a convolution looks at; netx flattens what comes out of the others
        kind = _kind(layer, heard, is_image)
        if kind is None:
            return None
        kinds.append(kind)
        heard = layer.name
    return tuple(kinds)


def _kind(layer: QuantizedLayer, heard: str, is_image: bool) -> str | None:
    first, *others = layer.connections
    if first.source != heard:
        return None
    if others:
        return "dense_rec" if _is_recurrent_dense(layer.name, first, others) else None
    if isinstance(first.synapse, QuantizedConv):
        return "conv" if is_image and first.delay_steps == 0 else None
    if first.delay_steps > DELAY_MAX or (isinstance(first.synapse, QuantizedSparse) and not _is_matrix(first.synapse)):
        return None
    return "dense"


def _is_recurrent_dense(name: str, first: Connection[QuantizedSynapse], others: list[Connection[QuantizedSynapse]]) -> bool:
    back = others[0]
    if len(others) > 1 or back.source != name or first.delay_steps or back.delay_steps:
        return False
    matrices = [c.synapse.weight for c in (first, back) if isinstance(c.synapse, QuantizedDense)]
    if len(matrices) < 2 or not any(matrix.any() for matrix in matrices):
        return False
    return all(np.array_equal(read, meant) for read, meant in zip(as_lava_reads_together(*matrices), matrices, strict=True))


def _is_matrix(synapse: QuantizedSparse) -> bool:
    if synapse.n_out * synapse.n_in > MATRIX_MAX or not synapse.weight.any():
        return False
    matrix = synapse.matrix().astype(np.int64)
    return np.array_equal(as_lava_reads(matrix), matrix)


def check_lava_reads(where: str, weight: Integers) -> None:
    """Refuse a dense layer of which Lava would make other weights, or nothing."""
    if not weight.any():
        raise NetxError(
            where, "has no synapse left: all its weights are zero, and Lava cannot read such a layer",
            remedy="Prune less, so that one weight at least survives.",
        )  # fmt: skip
    read = as_lava_reads(weight)
    if not np.array_equal(read, weight):
        row, column = (int(i) for i in np.argwhere(read != weight)[0])
        raise NetxError(
            where, f"would run in Lava with {read[row, column]} for its weight[{row}, {column}] = {weight[row, column]}",
            source="netx/utils.py: optimize_weight_bits",
            remedy="Change a weight of the layer by a step, or scale the layer anew.",
        )  # fmt: skip
