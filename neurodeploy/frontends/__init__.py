"""Frontends: from a framework's model or file to a Network.

Model factories: functions that the command line names as ``file.py:build`` or ``package.module:build``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from neurodeploy.errors import RequestError, counted, in_words, said_by

if TYPE_CHECKING:
    import torch

_LIBRARIES = re.compile(r"^<|[/\\\\](site-packages|dist-packages|lib[/\\\\]python[\d.]+|neurodeploy[/\\\\]frontends)[/\\\\]")
"""Paths of files that are not the user's."""


def call_factory(spec: str) -> Any:
    """Return what the function that `spec` names returns; a torch module that it names, as it is.

    The user's file or module is imported for it. Meanwhile its folder (for a module, the working directory) is on the import
    path, so that it can import its neighbours, also from within the function.

    Parameters
    ----------
    spec : str
        ``file.py:factory`` or ``package.module:factory``.

    Raises
    ------
    RequestError
        Another form; no such file, module or name; a name that is not callable; or an exception of the user's code, quoted in
        one line.
    """
    where, colon, name = spec.rpartition(":")  # the last colon: a path may hold others
    if not colon or not where or not name.isidentifier():
        remedy = {".py": f"Name the function that makes the model: {spec}:model.", ".pt": "Weights go to --weights."}
        kinds = "is no .net or .nir file, and not of the form file.py:factory or package.module:factory"
        raise RequestError(spec, kinds, remedy=remedy.get(Path(spec).suffix, ""))
    is_file = where.endswith(".py")
    if is_file and not Path(where).is_file():
        raise RequestError(spec, f"no file {where}")
    with _import_path(Path(where).parent if is_file else Path.cwd()):
        with _quoting(spec, f"importing {where} raised"):
            module = _import_file(Path(where)) if is_file else importlib.import_module(where)
        factory: Callable[[], Any] | None = getattr(module, name, None)
        if factory is None:
            own = sorted(key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__)
            known = f"It defines {', '.join(own)}." if own else "Name a function without arguments that is defined there."
            raise RequestError(spec, f"has no {name!r}", remedy=known)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(factory, torch.nn.Module):
            return factory  # a model that was made when the file was imported
        if not callable(factory):
            raise RequestError(spec, f"{name!r} is {in_words(factory)}, not a function")
        if needed := _arguments_of(factory):
            call = f"{name}({', '.join(f'{one}=...' for one in needed)})"
            raise RequestError(
                spec, f"{name!r} needs {counted(len(needed), 'argument')}: {', '.join(needed)}",
                remedy=f"Name a function without any, such as: def model(): return {call}.",
            )  # fmt: skip
        with _quoting(spec, "raised"):
            return factory()


def _arguments_of(factory: Callable[..., Any]) -> list[str]:
    """Names of the arguments without defaults that a factory takes; none where Python cannot tell."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in variable]


def load_model(spec: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return the model that a factory makes, and a sample of its input for one step.

    The factory takes no arguments and returns a torch module, or a pair of it and a sample (batch, \\*input_shape). Without
    a sample the input is as long as the first Linear expects, if no convolution comes before it.

    Parameters
    ----------
    spec : str
        ``file.py:factory`` or ``package.module:factory``.

    Raises
    ------
    RequestError
        No such factory; it raised; or it returned something else.
    """
    return with_sample(call_factory(spec), spec)


def with_sample(made: Any, spec: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return the model and the sample that a factory made; errors name it by `spec`."""
    # imported here: a factory that is not there is refused without it
    import torch

    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], torch.Tensor):
        model, sample = made
    else:
        model, sample = made, None
    if not isinstance(model, torch.nn.Module):
        found = "None" if model is None else f"a value {in_words(model)}"
        raise RequestError(
            spec, f"returned {found}, not a torch module or a pair (module, sample)", remedy="End it with: return model, sample"
        )
    if sample is None:
        first = next((m for m in model.modules() if isinstance(m, torch.nn.Linear) or hasattr(m, "in_channels")), model)
        if not isinstance(first, torch.nn.Linear):
            raise RequestError(
                spec, f"returned a model without a sample, and its first layer, of type {type(first).__name__}, does not tell "
                "the shape of its input",
                remedy="Return a pair (module, sample): one step of input, with a dimension for samples in front.",
            )  # fmt: skip
        sample = torch.zeros(1, first.in_features)
    return model, sample


def read_model(name: str) -> Any:
    """Return what a text names: a factory's model and sample, or the network of a file."""
    from neurodeploy.targets import target_of_file  # a factory that is not there is refused without these, too

    if (target := target_of_file(Path(name))) is not None:
        return target.read(Path(name))
    if name.endswith(".nir"):
        from neurodeploy.frontends.nir.reading import read_nir

        return read_nir(name)
    return load_model(name)


def _import_file(path: Path) -> ModuleType:
    """Import a file under a name that no other module has, so that a model in ``torch.py`` does not hide torch."""
    name = f"{path.stem}_{zlib.crc32(bytes(path.resolve())):08x}"  # the path tells files of one name apart
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    # Dataclasses, typing and pickle look a class's module up here, while the file is executed and later.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:  # also on Ctrl-C: a half-executed module must not stay importable
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _import_path(folder: Path) -> Iterator[None]:
    """Put a folder in front of the import path for a while; stay in the working directory, to which other paths are relative."""
    entry, working = str(folder.resolve()), Path.cwd()
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        os.chdir(working)
        with contextlib.suppress(ValueError):  # the user's code may have removed it
            sys.path.remove(entry)


@contextlib.contextmanager
def _quoting(spec: str, what: str) -> Iterator[None]:
    """Turn exceptions of the user's code, ``sys.exit()`` too, into a `RequestError` of one line."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit and others are no Exception, and would end the command
        said = said_by(error)
        # the innermost line of the user's own code; a syntax error names its line itself
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if not _LIBRARIES.search(frame.filename)]
        at = (
            f" ({Path(lines[-1].filename).name}, line {lines[-1].lineno})" if lines and not isinstance(error, SyntaxError) else ""
        )
        raise RequestError(spec, f"{what} {said}{at}") from error
