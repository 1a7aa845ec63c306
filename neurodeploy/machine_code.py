"""How a loop becomes machine code: Numba compiles it when it is first called, and keeps that on disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
from numpy.typing import NDArray

Array = NDArray[Any]
F = TypeVar("F", bound="Callable[..., Any]")


def compiled(function: F) -> F:
    """Machine code for `function`, kept on disk where there is a place for it.

    Nothing looks out for divisions by zero: loops that could raise an error are not turned into vector instructions.
    """
    try:
        result: F = numba.njit(function, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:  # neither beside the source nor in the user's folder
        result = numba.njit(function, nogil=True, error_model="numpy")
    return result
