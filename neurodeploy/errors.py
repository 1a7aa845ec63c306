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
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


MAX_QUOTED, MAX_REASON = 300, 900
"""Characters of a name, and of a reason or a remedy, in an error text; longer ones lose their middle."""


def quoted(text: str, most: int = MAX_QUOTED) -> str:
    """Return a text from outside, a file name or another error, on one line of at most `most` printable characters."""
    plain = "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)
    half = most // 2
    return plain if len(plain) <= most else f"{plain[:half]}…{plain[1 - half :]}"


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
