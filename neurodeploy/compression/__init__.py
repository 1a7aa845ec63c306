"""Pruning methods: training under a chip's budget. Those that have a name are listed here, and imported when they are used.

Importing this package imports no torch, so that the command line can check a name before anything slow.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from neurodeploy.errors import RequestError

if TYPE_CHECKING:
    from neurodeploy.compression.pruning_method import PruningMethod

__all__ = ["METHODS", "check_method", "method_named"]

METHODS: dict[str, str | PruningMethod] = {
    "minimax": "neurodeploy.compression.minimax:make_minimax",
    "minimax-saddle": "neurodeploy.compression.minimax_saddle:make_minimax_saddle",
}
"""Methods, or where they are (``"module:function"``), by the name that ``compress(method=...)`` and ``--method`` take."""


def check_method(name: str) -> None:
    """Raise `RequestError` for an unknown name; imports nothing."""
    if name not in METHODS:
        raise RequestError("method", f"no pruning method {name!r}", remedy=f"Choose from {', '.join(METHODS)}.")


def method_named(method: str | PruningMethod) -> PruningMethod:
    """Look a method up by name; a function is its own.

    Raises
    ------
    RequestError
        An unknown name.
    """
    if not isinstance(method, str):
        return method
    check_method(method)
    if not isinstance(found := METHODS[method], str):
        return found
    module, _, function = found.partition(":")
    return cast("PruningMethod", getattr(import_module(module), function))
