"""What a torch model may do between its neurons, and what becomes of it: the tables that it is read by, and README's."""

from __future__ import annotations

from neurodeploy.frontends import functions
from neurodeploy.frontends.functions import Map
from neurodeploy.frontends.norse_cells import READERS
from neurodeploy.frontends.told import Row, listed, rows_of

MAPS: dict[str, Map] = {
    "linear": functions.linear, "matmul": functions.matmul, "mm": functions.matmul,
    "conv2d": functions.conv2d, "conv1d": functions.conv1d,
    "batch_norm": functions.batch_norm,
    "avg_pool2d": functions.avg_pool2d, "avg_pool1d": functions.avg_pool1d, "lp_pool2d": functions.lp_pool2d,
    "adaptive_avg_pool2d": functions.adaptive_avg_pool2d, "adaptive_avg_pool1d": functions.adaptive_avg_pool1d,
    "mean": functions.mean, "sum": functions.total,
    "add": functions.add, "radd": functions.add, "iadd": functions.add,
    "sub": functions.sub, "isub": functions.sub, "subtract": functions.sub, "rsub": functions.rsub,
    "mul": functions.mul, "rmul": functions.mul, "imul": functions.mul, "multiply": functions.mul,
    "div": functions.div, "truediv": functions.div, "itruediv": functions.div, "divide": functions.div,
    "true_divide": functions.div,
    "neg": functions.neg, "negative": functions.neg,
}  # fmt: skip
"""Functions, by the bare name that torch calls them by, that make a form of forms."""

OPERATORS = frozenset({"radd", "iadd", "isub", "rsub", "rmul", "imul", "truediv", "itruediv"})
"""How Python calls some of them."""

WITH_TIME = frozenset({"linear", "matmul", "add", "radd", "iadd", "sub", "isub", "rsub", "mul", "rmul", "imul", "div", "truediv"})
"""Those that do the same to a tensor (time, batch, ...) as step by step."""

MAXIMA: dict[str, Map] = {
    "max_pool2d": functions.max_pool2d, "max_pool2d_with_indices": functions.max_pool2d, "max_pool1d": functions.max_pool1d,
    "max_pool1d_with_indices": functions.max_pool1d, "adaptive_max_pool2d": functions.adaptive_max_pool2d,
    "adaptive_max_pool2d_with_indices": functions.adaptive_max_pool2d, "adaptive_max_pool1d": functions.adaptive_max_pool1d,
    "adaptive_max_pool1d_with_indices": functions.adaptive_max_pool1d,
}  # fmt: skip
"""Functions that become neurons; what these hear."""

MOVES = frozenset({
    "view", "reshape", "flatten", "unflatten", "ravel", "permute", "transpose", "t", "T", "mT", "swapaxes", "swapdims", "movedim",
    "moveaxis", "squeeze", "unsqueeze", "getitem", "select", "narrow", "chunk", "split", "tensor_split", "unbind", "cat",
    "concat", "concatenate", "stack", "hstack", "vstack", "expand", "expand_as", "broadcast_to", "view_as", "reshape_as",
    "repeat", "tile", "repeat_interleave", "flip", "roll", "pad", "index_select", "channel_shuffle",
    "pixel_shuffle", "pixel_unshuffle", "adjoint",
})  # fmt: skip
"""Functions that put numbers elsewhere and leave them as they are."""

PICKS = frozenset({
    "view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze",
    "unsqueeze", "getitem", "select", "narrow", "chunk", "split", "tensor_split", "unbind",
})  # fmt: skip
"""Those by which a model may take steps out of its input, before it is known which side of it is time."""

ALIASES = frozenset({
    "clone", "detach", "contiguous", "float", "double", "to", "type", "type_as", "cpu", "cuda", "requires_grad", "data", "alias",
    "positive", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout",
})  # fmt: skip
"""Functions that give back what they are given, dropout in eval mode among them."""

DECIDES = frozenset({
    "__bool__", "__float__", "__int__", "__index__", "__contains__", "__array__", "item", "tolist", "numpy", "equal", "allclose",
    "is_nonzero",
})  # fmt: skip
"""Methods by which Python reads numbers out of a tensor, and may then do one thing or another."""

LIKE = frozenset({
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros", "new_ones", "new_empty",
    "new_full", "new_tensor",
})  # fmt: skip
"""Functions that look at a tensor's shape and type only."""


def rows() -> list[Row]:
    """What goes in, by name, and what becomes of it: a line for each reader, which says so itself, and for what passes."""
    cells = {kind.__name__: reader for kind, reader in READERS.items()}
    unnamed = OPERATORS | {name for name in MAXIMA if name.endswith("_with_indices")}
    return [
        *(row for table in (cells, MAPS, MAXIMA) for row in rows_of(table, unnamed)),
        (listed(MOVES), "Moves numbers: puts them elsewhere, leaves some out, or sets them side by side."),
        (listed(ALIASES), "Passes through; dropout in eval mode."),
    ]
