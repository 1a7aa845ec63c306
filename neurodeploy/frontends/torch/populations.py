"""The populations that a model runs, step by step: what each heard and said, and that it hears alike at every step.

What a tensor of a running model stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.assembly import AT_ONCE, Heard
from neurodeploy.frontends.expressions import Form, Term, Where, moved, spikes
from neurodeploy.frontends.torch.cells import read_cell
from neurodeploy.frontends.torch.functions import NotAMap
from neurodeploy.ir.graph import INPUT, layer_name
from neurodeploy.ir.network import LIF

# -------------------- frontends.populations


@dataclass(frozen=True)
class Step:
    """What a population answered at a step, (batch, n): in truth, and as it was passed on (see `tracing`)."""

    said: NDArray[Any]
    passed: NDArray[Any]
    v: NDArray[np.float64] | None


@dataclass
class Population:
    """Neurons with a state of their own: one chain of calls of a cell, or a max pooling.

    Attributes
    ----------
    name : str
        Of its layer.
    module : Where
    cell : Norse cell, or None for a max pooling
    form : Form
        What it hears at its last step, terms `at` steps from that.
    steps : list of Step
    follows_calls : bool
        Whether its step is that of the model's call (what pools an input that stays for many steps), not one of its own.
    """

    name: str
    module: Where
    cell: Any
    form: Form
    steps: list[Step] = field(default_factory=list)
    follows_calls: bool = False

    @property
    def is_spiking(self) -> bool:
        return self.cell is None or hasattr(self.cell.p, "v_th")

    @property
    def hears(self) -> dict[str, int]:
        """The populations that it hears, and how many steps ago at least."""
        ago = {term.source: -term.at for term in sorted(self.form.terms, key=lambda term: term.at)}
        return {source: steps for source, steps in ago.items() if source != INPUT}


@dataclass
class Populations:
    """All that a model runs, in the order in which they first answer.

    Attributes
    ----------
    has_time : bool
        Whether the input of a call holds many steps.
    call : int
        Which call of the model is running.
    given : list of array (batch, n)
        The input's spikes, step by step, or call by call; set when the run is over.
    """

    has_time: bool = False
    call: int = 0
    given: list[NDArray[np.float64]] = field(default_factory=list)
    of_name: dict[str, Population] = field(default_factory=dict)

    def new(self, module: Where, cell: Any, form: Form) -> Population:
        """A population that makes its first step; named as the module of its first weights, or itself."""
        named = next((term.name for term in form.terms if term.name), module[0]) or "layer"
        plain = layer_name(named)
        if plain == INPUT:
            where = next((term.where for term in form.terms if term.where), module[1])
            raise ExtractError(
                where,
                f"gives its name {plain!r} to a layer, which is what connections call the network's input",
                remedy="Rename it.",
            )
        name = next(n for n in (plain, *(f"{plain}_{k}" for k in range(2, len(self.of_name) + 3))) if n not in self.of_name)
        population = Population(name, module, cell, form)
        self.of_name[name] = population
        return population

    def hear(self, population: Population, form: Form) -> None:
        """What a population hears at its next step.

        Raises
        ------
        ExtractError
            Something else than at the step before; a readout; a step that is yet to come.
        """
        where, t = population.module[1], len(population.steps)
        terms = tuple(replace(term, at=self._ago(population, term, t)) for term in form.terms)
        for term in terms:
            self._check(term, population)
        heard = replace(form, terms=terms)
        early = tuple(term for term in terms if term.at >= 1 - t)  # of what the step before can have heard
        if t and not _alike(replace(heard, terms=early), population.form):
            raise ExtractError(
                where, f"hears something else at its step {t} than at step {t - 1}, counted from 0",
                source="a chip runs one network at every step",
                remedy="Let nothing in forward depend on the data or the step; start states as None or zeros.",
            )  # fmt: skip
        population.form = heard

    def _ago(self, population: Population, term: Term, t: int) -> int:
        return term.at - (self.call if self.follows_calls(term.source) or population.follows_calls else t)

    @property
    def has_steps(self) -> bool:
        """Whether some population made more than one."""
        return any(len(population.steps) > 1 for population in self.of_name.values())

    def follows_calls(self, source: str) -> bool:
        """Whether the steps of a source are the calls of the model."""
        return not self.has_time if source == INPUT else self.of_name[source].follows_calls

    def _check(self, term: Term, population: Population) -> None:
        where = population.module[1]
        if term.source != INPUT and not self.of_name[term.source].is_spiking:
            raise ExtractError(
                term.where or where, f"takes the membrane of {term.source!r}, which never fires", source="the chip sends spikes",
                remedy="A readout (LICell, LIBoxCell) has to be last; use a neuron that fires before another layer.",
            )  # fmt: skip
        if term.at > 0:
            raise ExtractError(where, f"hears what {term.source!r} fires {term.at} steps later", remedy="Keep to one clock.")

    def passed(self, source: str, t: int, ago: int) -> NDArray[Any] | None:
        """(batch, n): what a source had passed on `ago` (0 or less) steps from a population's step; None before its first."""
        step = (min(t, self.call) if self.follows_calls(source) else t) + ago  # the run is over: self.call is its last
        if step < 0:
            return None
        return self.given[step] if source == INPUT else self.of_name[source].steps[step].passed


def _alike(one: Form, other: Form) -> bool:
    """Whether two forms are the same."""
    pairs = zip(one.terms, other.terms, strict=False)
    return (
        len(one.terms) == len(other.terms)
        and all(_same(a, b) for a, b in pairs)
        and one.shape == other.shape
        and np.allclose(one.bias, other.bias, rtol=1e-9, atol=1e-12)
    )


def _same(a: Term, b: Term) -> bool:
    return (
        (a.source, a.at, a.is_pool) == (b.source, b.at, b.is_pool)
        and np.array_equal(a.places, b.places)
        and np.array_equal(a.gain, b.gain)
        and a.synapse == b.synapse
    )


def heard_by(populations: Sequence[Population]) -> tuple[list[Heard], set[float]]:
    """What `assemble` needs, and the time steps of the cells."""
    heard, timesteps = [], set()
    for p in populations:
        where = p.module[1]
        if p.cell is None:
            any_spike = LIF(threshold=np.array(0.5), **AT_ONCE)
            heard.append(Heard(name=p.name, where=where, form=p.form, neuron=any_spike, gain=np.ones(()), has_current=False))
        else:
            cell = read_cell(where, p.cell, p.form.shape)
            timesteps |= set() if cell.timestep_s is None else {cell.timestep_s}
            heard.append(Heard(
                name=p.name, where=where, form=p.form, neuron=cell.neuron, gain=cell.gain, has_current=cell.has_current
            ))  # fmt: skip
    return heard, timesteps


# -------------------- frontends.meanings


@dataclass(frozen=True)
class Known:
    """Forms: one, of a tensor (batch, \\*shape), or one a step, of a tensor (time, batch, \\*shape)."""

    forms: tuple[Form, ...]
    lead: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.lead, *self.forms[0].shape)


@dataclass(frozen=True)
class Raw:
    """Some of the model's input, as long as nobody has said which of its sides is time.

    Attributes
    ----------
    places : tensor of int64
        Which number of the whole input, counted from 0 in order, each number is.
    whole : tuple of int
        Shape of the whole input.
    call : int
        Of the model, that it was given to.
    """

    places: torch.Tensor
    whole: tuple[int, ...]
    call: int

    def step(self) -> tuple[int, int] | None:
        """The side that a step was taken of, and which; None for a tensor that still holds all."""
        for axis, size in enumerate(self.whole):
            stride = int(np.prod(self.whole[axis + 1 :]))
            at = self.places.div(stride, rounding_mode="floor") % size
            if size > 1 and self.places.numel() * size == int(np.prod(self.whole)) and bool((at == at.flatten()[0]).all()):
                return axis, int(at.flatten()[0])
        return None

    def known(self, axis: int | None, at: int) -> Known:
        """The form of one step, as the whole input has it or with its numbers moved.

        Parameters
        ----------
        axis : int or None
            The side that is time; None where the whole input is one step.
        at : int
        """
        whole = torch.arange(int(np.prod(self.whole))).reshape(self.whole)
        step = whole if axis is None else whole.select(axis, at)
        shape, rows = tuple(self.places.shape), step.reshape(len(step), -1)
        if len(shape) < 2 or shape[0] != len(step):
            raise NotAMap("mixes samples, or steps, of the input")
        index = torch.searchsorted(rows[0].contiguous(), self.places[0].reshape(-1).contiguous()).clamp(max=rows.shape[1] - 1)
        if not torch.equal(rows[:, index], self.places.reshape(len(step), -1)):
            raise NotAMap("mixes samples, or steps, of the input")
        places = (index + 1).reshape(shape[1:]).numpy()
        said = spikes(INPUT, tuple(step.shape[1:]), at)
        return Known((moved(said, lambda values: np.where(places > 0, values.reshape(-1)[places - 1], 0.0)),), (len(step),))


@dataclass(frozen=True)
class State:
    """A part of what a population keeps from a step to the next."""

    population: Population
    step: int
    name: str


@dataclass(frozen=True)
class Beyond:
    """What no synapse computes; no error as long as no neuron hears it.

    Attributes
    ----------
    where, what, remedy : str
        For the error, if one does.
    is_weighted : bool
        Whether it is made of more than what the neurons at the end of the model say.
    """

    where: str
    what: str
    remedy: str
    is_weighted: bool

    def error(self) -> ExtractError:
        """What to say where a neuron hears it."""
        return ExtractError(self.where, self.what, source="a chip's synapses add up weighted spikes", remedy=self.remedy)


Meaning: TypeAlias = "Known | Raw | State | Beyond"
