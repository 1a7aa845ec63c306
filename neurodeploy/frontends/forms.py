"""What a number in a model is, in spikes: a sum of spikes, each through one synapse at most, and a constant.

Frontends walk through their model with such forms in place of tensors. Linear modules make forms of forms, exactly, or refuse;
what a population hears is a form, and each of its terms becomes a connection (`linear_maps`, `assembly`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.folding import Floats
from neurodeploy.network import Conv, Dense

Places = NDArray[np.int64]
Shape = tuple[int, ...]
Where = tuple[str, str]
"""Path of a module, which names layers, and the path with its type, by which it is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """Spikes of one population on their way: scaled, through a synapse or none, put in places.

    Attributes
    ----------
    source : str
        The population, or the input.
    n : int
        Its neurons.
    at : int
        Step at which the spikes were fired, on the clock of whoever reads the model.
    places : array of the form's shape
        Which number each place holds: the k-th (from 1) that comes out of the synapse, or of the source; 0 for none.
    gain : array () or (n,)
        What scales the spikes in front of the synapse.
    synapse : Conv, Dense or None
        None as long as there is none.
    is_pool : bool
        Whether the synapse is nothing but average pooling.
    name, where : str
        The module that has the weights, or of a pooling that has none beside it.
    """

    source: str
    n: int
    at: int
    places: Places
    gain: Floats = field(default_factory=lambda: np.ones(()))
    synapse: Conv | Dense | None = None
    is_pool: bool = False
    name: str = ""
    where: str = ""

    @property
    def has_weights(self) -> bool:
        return self.synapse is not None and not self.is_pool

    @property
    def n_out(self) -> int:
        """Numbers that `places` picks from."""
        return self.n if self.synapse is None else self.synapse.n_out

    @property
    def is_in_order(self) -> bool:
        """Whether every number stands in its own place."""
        return self.places.size == self.n_out and bool((self.places.reshape(-1) == np.arange(1, self.n_out + 1)).all())

    def channels(self, where: str) -> NDArray[np.int64]:
        """(channels of the form,): which channel each of them is, or -1 for none; whole images, in order.

        Raises
        ------
        ExtractError
            The form's images are not images of the source.
        """
        pixels = self.places[0].size
        rows = self.places.reshape(len(self.places), pixels)
        first = np.where(rows[:, 0] > 0, rows[:, 0] - 1, -pixels)
        expected = np.where(first[:, None] >= 0, first[:, None] + np.arange(1, pixels + 1), 0)
        if self.n_out % pixels or (first % pixels).any() or (rows != expected).any():
            raise ExtractError(
                where, f"looks at an image of which {self.source!r} is no whole channel, pixel by pixel",
                remedy="Reshape, pad or cut only along channels, and pad in the convolution itself.",
            )  # fmt: skip
        which: NDArray[np.int64] = first // pixels
        return which


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A tensor without its batch: the sum of its terms and of a constant.

    Attributes
    ----------
    terms : tuple of Term
    bias : array of the form's shape
    """

    terms: tuple[Term, ...]
    bias: Floats

    @property
    def shape(self) -> Shape:
        return self.bias.shape

    @property
    def is_spikes(self) -> bool:
        """Whether it holds spikes and nothing else: each place one of them, as it was fired."""
        plain = all(term.synapse is None and bool((term.gain == 1).all()) for term in self.terms)
        taken = np.sum([term.places > 0 for term in self.terms], axis=0)
        return plain and not self.bias.any() and bool((taken == 1).all())


def spikes(source: str, shape: Shape, at: int = 0) -> Form:
    """What a population says."""
    n = int(np.prod(shape))
    return Form(terms=(Term(source=source, n=n, at=at, places=np.arange(1, n + 1).reshape(shape)),), bias=np.zeros(shape))


def constant(values: Floats) -> Form:
    """What does not depend on spikes."""
    return Form(terms=(), bias=values)


def added(one: Form, other: Form) -> Form:
    """The sum of two forms of one shape."""
    assert one.shape == other.shape
    return Form(terms=one.terms + other.terms, bias=one.bias + other.bias)


def moved(form: Form, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Form:
    """The form with its numbers put elsewhere: left out, repeated, in another order, beside zeros.

    Parameters
    ----------
    move : function
        From an array of the form's shape to one of the new; it adds up nothing.
    """
    places = [move(term.places.astype(np.float64)).astype(np.int64) for term in form.terms]
    kept = [replace(term, places=p) for term, p in zip(form.terms, places, strict=True) if p.any()]
    return Form(terms=tuple(kept), bias=move(form.bias))


def scaled(module: Where, form: Form, factor: Floats) -> Form:
    """The form times a factor, one or one a place."""
    factors = np.broadcast_to(factor, form.shape)
    return Form(terms=tuple(_scaled(module[1], term, factors) for term in form.terms), bias=form.bias * factors)


def _scaled(where: str, term: Term, factors: Floats) -> Term:
    taken = term.places > 0
    per_number = np.ones(term.n_out)
    per_number[term.places[taken] - 1] = factors[taken]
    if (per_number[term.places[taken] - 1] != factors[taken]).any():
        raise ExtractError(where, f"scales what {term.source!r} says differently in different places", remedy="Scale weights.")
    if (per_number == per_number.flat[0]).all():
        per_number = per_number.flat[0].reshape(())
    if term.synapse is None:
        return replace(term, gain=term.gain * per_number)
    if not term.is_pool:
        return replace(term, synapse=replace(term.synapse, weight=term.synapse.weight * term.synapse.beside(per_number)))
    assert isinstance(term.synapse, Conv)
    channels = term.synapse.beside(per_number).reshape(-1)  # averages of a channel scale as its pixels do
    return replace(term, gain=term.gain * (np.repeat(channels, term.n // channels.size) if per_number.shape else per_number))
