"""What torch's functions do to tensors that stand for spikes: forms become forms, or it is noted why they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.expressions import Form, Term, Where, spikes
from neurodeploy.frontends.torch import functions as supported
from neurodeploy.frontends.torch.functions import Call, Map, NotAMap
from neurodeploy.frontends.torch.populations import Beyond, Known, Meaning, Population, Populations, Raw, State, Step

REMEDY = "docs/operators.md lists what is; after the last neurons, where the host reads them, everything is."


class Traced(torch.Tensor):
    """A tensor that remembers what it stands for."""

    meaning: Meaning
    follower: Trace

    @classmethod
    def __torch_function__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every function that torch is called with lands here."""
        found = [leaf for leaf in tree_flatten((args, kwargs or {}))[0] if isinstance(leaf, Traced)]
        return found[0].follower.answer(func, tuple(args), dict(kwargs or {}), found)


def plain(value: Any) -> Any:
    """All tensors within as torch's own."""
    with torch._C.DisableTorchFunctionSubclass():  # type: ignore[no-untyped-call]  # torch's own
        return tree_map(lambda leaf: leaf.as_subclass(torch.Tensor) if isinstance(leaf, Traced) else leaf, value)


class Trace:
    """Follows a model's tensors as it runs.

    Attributes
    ----------
    populations : Populations
    module : Where
        Which module is running; the path is empty where others stand inside it.
    axis : int or None
        Side of the input that is time, once the model has taken a step of it.
    """

    def __init__(self, may_step: bool) -> None:
        self.may_step = may_step
        self.populations = Populations()
        self.module: Where = ("", "model")
        self.axis: int | None = None
        self.maxima: dict[Any, Population] = {}

    def mark(self, tensor: torch.Tensor, meaning: Meaning) -> Traced:
        """The tensor, with what it stands for."""
        traced: Traced = plain(tensor).as_subclass(Traced)
        traced.meaning, traced.follower = meaning, self
        return traced

    def answer(self, func: Any, args: Any, kwargs: Any, found: list[Traced]) -> Any:
        """What a function gives, with what that stands for."""
        full = _name(func)
        name = full.strip("_")
        if full in supported.DECIDES:
            raise ExtractError(
                self.module[1], f"reads numbers out of its tensors ({full}), by which it may do one thing or another",
                source="a chip runs one network at every step", remedy="Take it out of forward.",
            )  # fmt: skip
        result = func(*plain(args), **plain(kwargs))
        if name == "setitem":
            self._rename(args[0], self._beyond(found, "writes into a part of a tensor"))
        if name in supported.LIKE or not any(isinstance(leaf, torch.Tensor) for leaf in tree_flatten(result)[0]):
            return result
        try:
            meaning = self._meaning(name, func, args, kwargs, found, result)
            sizes = [tuple(leaf.shape) for leaf in tree_flatten(result)[0]]
            if all(isinstance(m, Known) for m in meaning) and [m.shape for m in meaning] != sizes[: len(meaning)]:
                raise NotAMap("gives another shape than it would for one sample")
        except NotAMap as reason:
            meaning = [self._beyond(found, f"{name} {reason}")]
        if name != full and full.endswith("_") and not full.endswith("__") and isinstance(args[0], torch.Tensor):
            self._rename(args[0], meaning[0])
            return args[0]
        return self._marked(result, meaning)

    def _marked(self, result: Any, meaning: list[Meaning]) -> Any:
        if isinstance(result, torch.Tensor):
            return self.mark(result, meaning[0])
        leaves, spec = tree_flatten(result)
        each = meaning if len(meaning) == len(leaves) else meaning[:1] * len(leaves)
        pairs = zip(leaves, each, strict=True)
        return tree_unflatten([self.mark(r, m) if isinstance(r, torch.Tensor) else r for r, m in pairs], spec)

    def _rename(self, tensor: torch.Tensor, meaning: Meaning) -> None:
        """Mark a tensor that was written into."""
        tensor.__class__ = Traced
        tensor.meaning, tensor.follower = meaning, self  # type: ignore[attr-defined]  # it is Traced now

    def _beyond(self, found: Sequence[Traced], what: str, remedy: str = REMEDY) -> Beyond:
        for leaf in found:
            if isinstance(leaf.meaning, Beyond):
                return leaf.meaning
        forms = [form for leaf in found if isinstance(leaf.meaning, Known) for form in leaf.meaning.forms]
        weighted = any(term.synapse is not None for form in forms for term in form.terms)
        return Beyond(self.module[1], what, remedy, weighted or any(isinstance(leaf.meaning, Raw) for leaf in found))

    # ------------------------------------------------------------------------------------------ what results stand for

    def _meaning(self, name: str, func: Any, args: Any, kwargs: Any, found: list[Traced], result: Any) -> list[Any]:
        """Of each tensor that a function gives."""
        first = found[0].meaning
        kinds = {type(leaf.meaning) for leaf in found}
        if Beyond in kinds:
            return [self._beyond(found, "")]
        if name in supported.ALIASES:
            if "dropout" in name and kwargs.get("training", args[2] if len(args) > 2 else True):
                raise NotAMap("drops spikes by chance, in eval mode too")
            return [first]
        if State in kinds:
            state = next(leaf.meaning for leaf in found if isinstance(leaf.meaning, State))
            raise NotAMap(f"takes the state {state.name!r} of {state.population.name!r}, which the chip does not send")
        if isinstance(first, Raw) and len(found) == 1 and name in supported.PICKS:
            return self._unrolled(func, args, kwargs, first)
        args, kwargs = tree_map(self.settled, args), tree_map(self.settled, kwargs)
        known = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Known)]
        lead = known[0].lead
        if any(leaf.lead != lead for leaf in known):
            raise NotAMap("meets one step and many, or batches of different sizes")
        if name == "stack" and len(lead) == 1 and kwargs.get("dim", args[1] if len(args) > 1 else 0) == 0:
            return [Known(tuple(leaf.forms[0] for leaf in known), (len(known), *lead))]
        if len(lead) == 2 and name in ("getitem", "select", "unbind") and self._picks_steps(name, args, kwargs):
            steps = known[0].forms if name == "unbind" else (known[0].forms[args[-1]],)
            return [Known((form,), lead[1:]) for form in steps]
        if name in supported.MOVES:
            return self._moved(func, args, kwargs, lead)
        if len(lead) == 2 and name not in supported.WITH_TIME:
            raise NotAMap("is given all steps at once; wrap it in norse.torch.Lift")
        if name in supported.MAXIMA:
            return [self._maximum(name, args, kwargs, lead, result)]
        if name not in supported.MAPS:
            raise NotAMap("is not supported")
        return [self._mapped(name, args, kwargs, lead)]

    def settled(self, leaf: Any) -> Any:
        """What a tensor stands for; an input of which nobody took a step is one step."""
        if not isinstance(leaf, Traced):
            return leaf
        if isinstance(leaf.meaning, Raw):
            if self.axis is not None:
                raise NotAMap("takes many steps of the input as if they were one")
            return leaf.meaning.known(None, leaf.meaning.call)
        return leaf.meaning

    def _unrolled(self, func: Any, args: Any, kwargs: Any, raw: Raw) -> list[Any]:
        """Of the input, moved or cut, before it is known which of its sides is time."""

        def swap(leaf: Any) -> Any:
            return raw.places if isinstance(leaf, Traced) else leaf

        meanings: list[Any] = []
        for places in tree_flatten(func(*tree_map(swap, args), **tree_map(swap, kwargs)))[0]:
            part: Any = replace(raw, places=places)
            taken = part.step() if self.may_step and places.numel() < int(np.prod(raw.whole)) else None
            if taken is not None and self.axis in (None, taken[0]):
                self.axis, self.populations.has_time = taken[0], True
                part = part.known(*taken)
            meanings.append(part)
        return meanings

    def _picks_steps(self, name: str, args: Any, kwargs: Any) -> bool:
        """Whether a tensor (time, batch, ...) is taken apart into steps."""
        if name == "getitem":
            return isinstance(args[1], int)
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        return dim == 0 and (name == "unbind" or (len(args) == 3 and isinstance(args[2], int)))

    def _moved(self, func: Any, args: Any, kwargs: Any, lead: tuple[int, ...]) -> list[Any]:
        leaves, spec = tree_flatten((args, kwargs))
        n_steps = max(len(leaf.forms) for leaf in leaves if isinstance(leaf, Known))

        def run(of_leaf: dict[int, NDArray[Any]], constants: bool) -> list[NDArray[np.float64]]:
            filled = []
            for index, leaf in enumerate(leaves):
                if isinstance(leaf, Known):
                    values = of_leaf.get(index, np.zeros(leaf.shape[len(lead) :]))
                    filled.append(torch.tensor(values, dtype=torch.float64).expand(leaf.shape))
                elif isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not constants:
                    filled.append(torch.zeros_like(leaf))
                else:
                    filled.append(leaf)
            ordered, named = tree_unflatten(filled, spec)
            return [_of_one_sample(moved, lead) for moved in tree_flatten(func(*ordered, **named))[0]]

        steps = [self._moved_step(run, leaves, t) for t in range(n_steps)]
        return [Known(tuple(step[k] for step in steps), lead) for k in range(len(steps[0]))]

    def _moved_step(self, run: Any, leaves: list[Any], t: int) -> list[Form]:
        known = {index: leaf.forms[t] for index, leaf in enumerate(leaves) if isinstance(leaf, Known)}
        biases = run({index: form.bias for index, form in known.items()}, constants=True)
        terms: list[list[Term]] = [[] for _ in biases]
        for index, form in known.items():
            for term in form.terms:
                for k, places in enumerate(run({index: term.places}, constants=False)):
                    if places.any():
                        terms[k].append(replace(term, places=places.astype(np.int64)))
        return [Form(terms=tuple(some), bias=bias) for some, bias in zip(terms, biases, strict=True)]

    def _mapped(self, name: str, args: Any, kwargs: Any, lead: tuple[int, ...]) -> Known:
        leaves, spec = tree_flatten((args, kwargs))
        n_steps = max(len(leaf.forms) for leaf in leaves if isinstance(leaf, Known))
        forms = []
        for t in range(n_steps):
            ordered, named = tree_unflatten([leaf.forms[t] if isinstance(leaf, Known) else leaf for leaf in leaves], spec)
            try:
                forms.append(_made(supported.MAPS[name], Call(self.module, lead), ordered, named))
            except TypeError:
                raise NotAMap("is called with arguments that are not supported") from None
        return Known(tuple(forms), lead)

    def _maximum(self, name: str, args: Any, kwargs: Any, lead: tuple[int, ...], result: torch.Tensor) -> Known:
        """Spikes are 0 or 1: the largest of a window is whether any of its neurons fired."""
        args, kwargs = tree_map(_form, args), tree_map(_form, kwargs)
        heard = _made(supported.MAXIMA[name], Call(self.module, lead), args, kwargs)
        sources = tuple((term.source, term.places.tobytes()) for term in heard.terms)
        key = (self.module, name, sources)
        if key not in self.maxima:
            self.maxima[key] = self.populations.new(self.module, None, heard)
            follows = all(self.populations.follows_calls(term.source) for term in heard.terms)
            self.maxima[key].follows_calls = follows
        population, step = self.maxima[key], max(term.at for term in heard.terms)
        if step == len(population.steps):
            self.populations.hear(population, heard)
            said = plain(result).reshape(len(result), -1).numpy()
            population.steps.append(Step(said, said, None))
        elif step > len(population.steps):
            raise NotAMap("is left out at some steps")
        return Known((spikes(population.name, heard.shape, step),), lead)


def _made(function: Map, call: Call, ordered: Any, named: Any) -> Form:
    """What a function makes of its arguments, of which the first may come by torch's name for it."""
    first = [named["input"]] if "input" in named else []
    return function(call, *first, *ordered, **{name: value for name, value in named.items() if name != "input"})


def _name(func: Any) -> str:
    name = getattr(func, "__name__", "")
    return str(func.__self__.__name__ if name == "__get__" else name)


def _form(leaf: Any) -> Any:
    return leaf.forms[0] if isinstance(leaf, Known) else leaf


def _of_one_sample(moved: torch.Tensor, lead: tuple[int, ...]) -> NDArray[np.float64]:
    """What each sample, and step, has of a tensor, where all have the same."""
    if tuple(moved.shape[: len(lead)]) != lead or moved.ndim == len(lead):
        raise NotAMap("mixes samples or steps")
    rows = moved.reshape(-1, *moved.shape[len(lead) :])
    if not torch.equal(rows, rows[:1].expand_as(rows)):
        raise NotAMap("mixes samples or steps")
    return np.array(rows[0].numpy())
