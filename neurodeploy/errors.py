"""Errors that neurodeploy raises, and the sentence that each of them makes.

NeurodeployError
 |- ProfileError      an invalid hardware profile
 |- NetworkError      an inconsistent network
 |- ExtractError      a model, or a part of it, that cannot be read exactly
 |- BudgetError       a network that no compression can make fit
 |- QuantizeError     numbers that the chip's integers cannot hold
 |- PlacementError    a network that does not fit its cores
 |- NetxError         an invalid network file, or one that Lava would read differently
 |- TrainingError     a training run that cannot start or continue
 |- DataError         spikes, images or labels that do not fit the network
 |- SimulationError   a simulator that is missing, died or hung
 `- RequestError      an invalid argument of a call or a command
     `- ArgumentTypeError   an argument of a type that the call does not take

`check_arguments` raises the last of these for all public functions and classes.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import math
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache, wraps
from importlib import import_module
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")


MAX_QUOTED, MAX_REASON = 300, 900
"""Characters of a name, and of a reason or a remedy, in an error text; longer ones lose their middle."""


def quoted(text: str, most: int = MAX_QUOTED) -> str:
    """Return a text from outside, a file name or another error, on one line of at most `most` printable characters."""
    plain = "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
    half = most // 2
    return plain if len(plain) <= most else f"{plain[:half]}…{plain[1 - half :]}"


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one: ``1 step``, ``2,000 steps``."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def text_of(error: BaseException) -> str:
    """Return the text of another's exception in one line, without a full stop; empty where it has none or cannot make it."""
    with suppress(Exception):
        return " ".join(str(error).split()).rstrip(".: ")
    return ""


def said_by(error: BaseException) -> str:
    """Return the type and text of another's exception in one line."""
    return f"{type(error).__name__}: {text_of(error)}".removesuffix(": ")


class NeurodeployError(Exception):
    """Root of all errors that neurodeploy raises on purpose.

    ``str(error)`` is one sentence, made here from fields that tests and tools can read::

        where: what (source). remedy.
        where: need what > limit (source). remedy.

    Parameters
    ----------
    where : str
        The layer, file, key or argument at fault.
    what : str
        What is wrong with it; for a broken limit the thing that was counted, e.g. ``"synapse bits on core 4"``.
    need, limit : float, optional
        What was asked for and what there is, in the unit that `what` names.
    source : str, optional
        Where the limit comes from, e.g. ``"loihi1.yaml: synapse_memory_bits_per_core"``.
    remedy : str, optional
        What the reader can do about it, as a sentence.

    Attributes
    ----------
    is_reported_elsewhere : bool
        Whether another process (rank 0) reports it already.
    verdict : mapping or None
        For a network that does not fit: its report as JSON, where there is one.
    """

    # a class attribute, so that only the other processes of torchrun set it
    is_reported_elsewhere = False
    verdict: Mapping[str, Any] | None = None

    def __init__(
        self,
        where: str,
        what: str,
        *,
        need: float | None = None,
        limit: float | None = None,
        source: str = "",
        remedy: str = "",
    ) -> None:
        self.where, self.what = where, what
        self.need, self.limit = need, limit
        self.source, self.remedy = source, remedy
        # `args` has to suit __init__: pickle calls it with them, and restores the other fields from __dict__
        super().__init__(where, what)

    def __str__(self) -> str:
        what = quoted(self.what, MAX_REASON)
        if self.need is not None and self.limit is not None:
            what = f"{self.need:,} {what} > {self.limit:,}"
        source = f" ({self.source})" if self.source else ""
        return " ".join(part for part in (f"{quoted(self.where)}: {what}{source}.", quoted(self.remedy, MAX_REASON)) if part)


class ProfileError(NeurodeployError):
    """An invalid hardware profile."""


class NetworkError(NeurodeployError):
    """An inconsistent network."""


class ExtractError(NeurodeployError):
    """A model, or a part of it, that cannot be read exactly."""


class BudgetError(NeurodeployError):
    """A network that no compression can make fit."""


class QuantizeError(NeurodeployError):
    """Numbers that the chip's integers cannot hold."""


class PlacementError(NeurodeployError):
    """A network that does not fit its cores."""


class NetxError(NeurodeployError):
    """An invalid network file, or one that Lava would read differently."""


class TrainingError(NeurodeployError):
    """A training run that cannot start or continue."""


class DataError(NeurodeployError):
    """Spikes, images or labels that do not fit the network."""


class SimulationError(NeurodeployError):
    """A simulator that is missing, died or hung."""


class RequestError(NeurodeployError):
    """An invalid argument of a call or a command."""


class ArgumentTypeError(RequestError, TypeError):
    """An argument of a type that the call does not take; `where` names the call and the argument."""


def check_numbers(options: object, *, whole: Mapping[str, int], real: Mapping[str, float]) -> None:
    """Raise `RequestError` for an option that is no whole number, or no finite number, of at least the one given for it."""
    for name, least in whole.items():
        value = getattr(options, name)
        # bool is a kind of int in Python
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise RequestError(name, f"is {value!r}, not a whole number of at least {least}")
    for name, lowest in real.items():
        value = getattr(options, name)
        if not (math.isfinite(value) and value >= lowest):
            raise RequestError(name, f"is {value}, not a number of at least {lowest}")


def unsupported_kind(kind: NoReturn) -> NetworkError:
    """Return the error for a neuron or synapse kind that a `match` has no case for: ``case _: raise unsupported_kind(neuron)``.

    As with `typing.assert_never`, mypy reports the call unless the cases before it handle every kind of the union. Should an
    unknown kind come at run time, the error names it, and nothing treats it as one of the others.
    """
    return NetworkError(f"kind {type(kind).__name__}", "is not handled here", remedy="Add a case for it; see CONTRIBUTING.")


def accept_renamed(renamed: Mapping[str, str]) -> Callable[[type[T]], type[T]]:
    """Class decorator: accept keyword arguments under their old names for one release, with a DeprecationWarning.

    Parameters
    ----------
    renamed : mapping of str to str
        New name by old name.
    """

    def decorate(cls: type[T]) -> type[T]:
        init = cls.__init__

        @wraps(init)
        def accepting(self: T, *args: Any, **keywords: Any) -> None:
            for old in renamed.keys() & keywords.keys():
                new = renamed[old]
                if new in keywords:
                    raise TypeError(f"{cls.__name__}() got both {old!r} and {new!r}, its new name")
                # 2: the warning names the caller's line
                warnings.warn(f"{cls.__name__}({old}=...) is now {new}=...", DeprecationWarning, stacklevel=2)
                keywords[new] = keywords.pop(old)
            init(self, *args, **keywords)

        # a dataclass has made its __init__ already: wrapping it keeps its checks
        cls.__init__ = accepting  # type: ignore[assignment]  # mypy forbids replacing __init__; this one takes its arguments and the old names
        return cls

    return decorate


def check_arguments(called: F) -> F:
    """Decorator for a public function or class: refuse an argument of another type than its annotation, by name, at once.

    A number may be NumPy's, an array anything that NumPy makes one of, a path any ``os.PathLike``, and a tuple a list. What an
    iterator or a function would yield is not looked at. An annotation is read when an argument first differs from its default,
    so that a decorated module imports nothing for it.

    Raises
    ------
    ArgumentTypeError
        From the decorated call, before it has done anything.
    """
    if inspect.isclass(called):
        homes = [base.__module__ for base in called.__mro__]
        # in place: subclasses and pickles need the class itself
        called.__init__ = checking(called.__init__, called.__name__, homes)  # type: ignore[method-assign]  # see above
        return called
    return checking(called, called.__name__, [called.__module__])


def checking(function: F, name: str, homes: Sequence[str]) -> F:
    """Wrap the function that users call by `name`; `homes` are the modules in which its annotations may be written."""
    signature, kinds = inspect.signature(function), dict[str, Any]()

    @wraps(function)
    def checked(*args: Any, **keywords: Any) -> Any:
        arguments: Mapping[str, Any] = {}
        with suppress(TypeError):  # too many or too few: Python says so when it calls the function
            arguments = signature.bind(*args, **keywords).arguments
        for argument, value in arguments.items():
            parameter = signature.parameters[argument]
            if value is parameter.default or not isinstance(parameter.annotation, str):
                continue
            if argument not in kinds:
                kinds[argument] = _Names(homes).meaning(parameter.annotation)
            if not is_of_kind(value, kinds[argument]):
                *others, last = dict.fromkeys(kind_names(kinds[argument]))
                expected = f"{', '.join(others)} or {last}" if others else last
                raise ArgumentTypeError(f"{name}, argument {argument!r}", f"is {in_words(value)}, and has to be {expected}")
        return function(*args, **keywords)

    return checked  # type: ignore[return-value]  # it takes the same arguments


class _Names(dict[str, Any]):
    """Names as a type checker sees them in some modules: also those that are imported for it alone, and aliases in quotes."""

    def __init__(self, homes: Sequence[str]) -> None:
        super().__init__()
        self.homes = [home for home in homes if home in sys.modules]

    def meaning(self, annotation: Any) -> Any:
        """What an annotation, or one that is quoted in another, evaluates to."""
        text = getattr(annotation, "__forward_arg__", annotation)
        return eval(text, {}, self) if isinstance(text, str) else text  # noqa: S307  (an annotation of this package)

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        for home in self.homes:
            known = vars(sys.modules[home])
            if name in known and not isinstance(known[name], str):
                return known[name]
            if name in (imports := imports_of(home)):
                module, original = imports[name]
                return _Names([import_module(module).__name__])[original] if original else import_module(module)
            if name in known:
                return self.meaning(known[name])
        raise KeyError(name)


@cache
def bounds_of(variable: TypeVar) -> list[Any]:
    """What a type variable may stand for."""
    names = _Names([variable.__module__])
    return [names.meaning(bound) for bound in variable.__constraints__ or (variable.__bound__ or Any,)]


@cache
def imports_of(home: str) -> dict[str, tuple[str, str]]:
    """Module of each name that a module imports anywhere, and its name there; the latter is empty for modules."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(ast.parse(inspect.getsource(sys.modules[home]))):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: (str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: (alias.name, "") for alias in node.names}
    return found


def is_of_kind(value: Any, kind: Any) -> bool:
    """Whether a value is what an annotation asks for, as `check_arguments` takes it."""
    if kind is Any or kind is type(value) is str:  # at once: rows of a sweep have thousands
        return True
    origin, inner, is_text = get_origin(kind) or kind, get_args(kind), isinstance(value, str | bytes)
    if hasattr(origin, "__value__"):  # of a `type` statement, as NumPy's NDArray from 2.5
        return is_of_kind(value, origin.__value__)
    if origin in (Union, UnionType):
        return any(is_of_kind(value, each) for each in inner)
    if isinstance(kind, TypeVar):
        return any(is_of_kind(value, bound) for bound in bounds_of(kind))
    if kind in (int, float, bool):
        # bool is a kind of int in Python, and NumPy's is not; its arrays without an axis are numbers
        is_bool = type(value).__name__ in ("bool", "bool_")  # NumPy 1 writes an underscore
        is_scalar = kind is float and getattr(value, "shape", None) == () and hasattr(value, "__float__")
        is_number = not is_bool and (isinstance(value, Integral if kind is int else Real) or is_scalar)
        # no library takes whole numbers of more bits
        return is_bool if kind is bool else is_number and (kind is float or -(1 << 63) <= value < 1 << 63)
    if getattr(origin, "__name__", "") == "ndarray":
        return hasattr(value, "__array__") or (isinstance(value, Real | list | tuple) and is_numeric(value, origin))
    if origin is Literal:
        return value in inner
    if origin in (tuple, Sequence, Collection) and inner:
        if is_text or not isinstance(value, tuple | list if origin is tuple else origin):
            return False
        kinds = inner if origin is tuple and inner[-1] is not ... else inner[:1] * len(value)
        return len(kinds) == len(value) and all(map(is_of_kind, value, kinds))
    if origin is Iterable:  # a loop takes what has an index, too
        return not is_text and (hasattr(value, "__iter__") or hasattr(value, "__getitem__"))
    if inspect.isclass(origin) and issubclass(origin, Mapping) and inner:
        keys, values = inner
        return isinstance(value, origin) and all(is_of_kind(k, keys) and is_of_kind(v, values) for k, v in value.items())
    if getattr(origin, "_is_protocol", False):
        return all(hasattr(value, name) for name in origin.__annotations__)
    return isinstance(value, PathLike if origin is Path else origin)


def is_numeric(value: Any, array: type) -> bool:
    """Whether NumPy makes an array of numbers from lists or a number; `array` is its class of arrays."""
    try:
        kind = sys.modules[array.__module__].asarray(value).dtype.kind
    except (ValueError, TypeError):  # of unequal lengths
        return False
    return bool(kind in "biufc")


def kind_names(kind: Any) -> list[str]:
    """The kinds of value that an annotation asks for, in words."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return [name for each in inner for name in kind_names(each)]
    if isinstance(kind, TypeVar):
        return [name for bound in bounds_of(kind) for name in kind_names(bound)]
    if origin is Literal:
        return [repr(each) for each in inner]
    name = getattr(origin, "__name__", str(origin))
    named = {
        "Path": "a path",
        "PathLike": "a path",
        "ndarray": "an array",
        "NDArray": "an array",
        "Callable": "a function",
        "NoneType": "None",
    }
    if origin not in (tuple, Sequence, Collection, Mapping, dict) or not inner:
        return [named.get(name, name)]
    each_kind = [" or ".join(kind_names(each)) for each in inner if each is not ...]
    is_of_one = origin is tuple and inner[-1] is not ... and len(set(each_kind)) == 1
    of = f"{len(inner)} {each_kind[0]}" if is_of_one else " and ".join(each_kind)
    return [f"a {'mapping' if name == 'dict' else name.lower()} of {of}"]


def in_words(value: Any) -> str:
    """A value in words, short: its type, and what it holds if that is a number, a text, or a list of something."""
    if value is None:
        return "None"
    if isinstance(value, int) and value.bit_length() > 63:
        return f"a number of {value.bit_length()} bits"
    kinds = sorted({type(each).__name__ for each in value}) if isinstance(value, list | tuple) else []
    of = f" of {len(value)} {', '.join(kinds)}" if kinds else ""
    shown = f" ({quoted(repr(value), 40)})" if isinstance(value, int | float | str | bytes) else ""
    return f"of type {type(value).__name__}{of}{shown}"
