"""What a name such as ``file.py:build`` or ``package.module:build`` stands for.

Models that the command line names.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from neurodeploy.errors import RequestError

# -------------------- factories


def load_factory(spec: str) -> Callable[[], Any]:
    """The function that `spec` names; the user's file or module is imported for it.

    Raises
    ------
    RequestError
        Not of the form ``where:name``, no such file, module or name, an import that fails, or a name that is not callable.
    """
    where, colon, name = spec.rpartition(":")
    if not colon or not where or not name.isidentifier():
        raise RequestError(spec, "is not of the form file.py:factory or package.module:factory")
    module = _from_file(spec, Path(where)) if where.endswith(".py") else _from_path(spec, where)
    factory = getattr(module, name, None)
    if factory is None:
        raise RequestError(spec, f"has no {name!r}", remedy="Name a function without arguments that is defined there.")
    if not callable(factory):
        raise RequestError(spec, f"{name!r} is a {type(factory).__name__}, not a function")
    return factory  # type: ignore[no-any-return]  # what it takes shows when it is called


def call_factory(spec: str) -> Any:
    """What the function that `spec` names returns; its own exceptions come out as a `RequestError` that quotes them."""
    factory = load_factory(spec)
    try:
        return factory()
    except Exception as error:
        raise RequestError(spec, f"raised {type(error).__name__}: {error}") from error


def _from_file(spec: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise RequestError(spec, f"no file {path}")
    found = importlib.util.spec_from_file_location(path.stem, path)
    if found is None or found.loader is None:
        raise RequestError(spec, f"{path} is not Python")
    module = importlib.util.module_from_spec(found)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        found.loader.exec_module(module)
    except Exception as error:
        raise RequestError(spec, f"importing {path} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    return module


def _from_path(spec: str, dotted: str) -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(dotted)
    except Exception as error:
        raise RequestError(spec, f"importing {dotted} raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)


# -------------------- frontends.models


def load_model(spec: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """The model that ``file.py:factory`` or ``package.module:factory`` makes, and a sample of its input for one step.

    The factory takes no arguments and returns a torch module, or a pair of it and a sample (batch, \\*input_shape). Without
    a sample the input is as long as the first Linear expects.

    Raises
    ------
    RequestError
        No such factory; it raised; or it returned something else.
    """
    made = call_factory(spec)
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], torch.Tensor):
        model, sample = made
    else:
        model, sample = made, None
    if not isinstance(model, torch.nn.Module):
        raise RequestError(spec, f"returned a {type(model).__name__}, not a torch module or a pair (module, sample)")
    if sample is None:
        linear = next((m for m in model.modules() if isinstance(m, torch.nn.Linear)), None)
        if linear is None:
            raise RequestError(spec, "returned a model without a Linear", remedy="Return a pair (module, sample) of tensors.")
        sample = torch.zeros(1, linear.in_features)
    return model, sample
