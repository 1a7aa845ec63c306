"""Partition, packing, placement and arrangement of a network on the cores of a chip."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
P = ParamSpec("P")
R = TypeVar("R")


class CompiledLate(Generic[P, R]):
    """Decorator of a loop that Numba compiles when it is first called: budgets and placements are read without Numba."""

    def __init__(self, function: Callable[P, R]) -> None:
        self.function, self.__doc__ = function, function.__doc__
        self.machine_code: Callable[P, R] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return (self.machine_code or self.compiled())(*args, **kwargs)

    def compiled(self) -> Callable[P, R]:
        """Return the compiled loop, in which the other loops that it calls are compiled ones."""
        if self.machine_code is None:
            # imported here: it brings Numba
            from neurodeploy.simulation.kernels import compiled

            function: Any = self.function
            others = {
                name: one.compiled() for name in function.__code__.co_names
                if isinstance(one := function.__globals__.get(name), CompiledLate)
            }  # fmt: skip
            copied = FunctionType(function.__code__, function.__globals__ | others, function.__name__, function.__defaults__)
            copied.__qualname__, copied.__module__ = function.__qualname__, function.__module__
            self.machine_code = cast("Callable[P, R]", compiled(copied))
        return self.machine_code
