"""What a tensor of a running model stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.forms import Form, moved, spikes
from neurodeploy.frontends.functions import NotAMap
from neurodeploy.frontends.populations import Population
from neurodeploy.graph import INPUT


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
