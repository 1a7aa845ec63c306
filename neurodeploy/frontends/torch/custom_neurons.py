"""Neurons that a model computes itself, from torch's elementwise functions: hand-written ones, snnTorch's, SpikingJelly's.

Every comparison of a membrane with a threshold makes spikes. The operations that lead to it are recorded and run again, in double
precision, on inputs of choice: they give the decays, the threshold and the gain. On drawn inputs the neurons found then have to
do exactly what the operations do; so it does not matter how the neuron is written (a comparison, an autograd function, masks,
state in attributes or arguments), and nothing else than `LIF` and `SubtractiveLIF` passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten, tree_unflatten

from neurodeploy.errors import ExtractError, NetworkError
from neurodeploy.frontends.assembly import NeuronSpec, two_shares, uniform
from neurodeploy.frontends.expressions import LinearExpression, ModuleId, add, scale
from neurodeploy.frontends.torch import functions
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.network import LIF, SubtractiveLIF

if TYPE_CHECKING:
    from neurodeploy.frontends.torch.populations import PopulationTrace, TracedPopulation

SPIKE_PROBABILITY = 0.5
"""Probability of a spike in the random input, and in the random spikes that neurons forward."""

RESET_REMEDY = (
    "Reset to zero in the step of the spike, v = v * (1 - spike), or subtract the same after every spike, v = v - spike * "
    "threshold, and train again (snnTorch: reset_mechanism='zero', reset_delay=False, or 'subtract', reset_delay=True)."
)

# A power of two, so far from every threshold that slopes are exact to the last bit.
_FAR = 2.0**40
_N_PROBED_STEPS = 5
_N_KEPT_DRIVES = 8 * _N_PROBED_STEPS
_PROBE_VALUES = 1 << 18
# What a membrane may go through before it is compared with 0.
_SHIFTS = frozenset({"sub", "rsub", "subtract", "div", "truediv", "divide", "true_divide", "neg", "negative"})


@dataclass(frozen=True, eq=False)
class Operation:
    """A value of the model, and how it is computed from the drives of neurons.

    Attributes
    ----------
    actual : tensor (batch, \\*shape)
        What it is in the run.
    drives : tuple of Drive
        All that it depends on, in the order of their use.
    populations : frozenset of str
        Whose spikes it depends on.
    is_membrane : bool
        Whether it depends on drives otherwise than through spikes.
    module : ModuleId
        The module that computes it.
    name, function, leaves, spec
        Of the call; empty for a drive.
    """

    actual: torch.Tensor
    drives: tuple[Any, ...] = ()
    populations: frozenset[str] = frozenset()
    is_membrane: bool = True
    module: ModuleId = ("", "model")
    name: str = ""
    function: Callable[..., Any] | None = None
    leaves: tuple[Any, ...] = ()
    spec: Any = None

    def evaluated(self, feed: Mapping[Operation, torch.Tensor], known: dict[Operation, torch.Tensor]) -> torch.Tensor:
        """Compute it in double precision from values of the drives, (n_probes, \\*shape)."""
        if self in feed:
            return feed[self]
        if self not in known:
            assert self.function is not None
            values = [leaf.evaluated(feed, known) if isinstance(leaf, Operation) else leaf for leaf in self.leaves]
            args, kwargs = tree_unflatten(values, self.spec)
            known[self] = _as_double(self.function(*args, **kwargs))
        return known[self]


@dataclass(frozen=True, eq=False)
class Drive(Operation):
    """What arrives at neurons at one step: an `ExpressionValue`, which depends on itself alone."""

    expression: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "drives", (self,))


def record(module: ModuleId, name: str, function: Callable[..., Any], arguments: Any, batch: int) -> Operation | None:
    """Record an elementwise call; None where its result has another shape than the operations in it.

    Parameters
    ----------
    module : ModuleId
        The module that calls it.
    name : str
        Torch's, without underscores.
    function : callable
    arguments : (args, kwargs)
        With an `Operation` for each traced tensor.
    batch : int
        Number of samples; constants have to be the same in all of them.
    """
    leaves, spec = tree_flatten(arguments)
    if name in functions.CASTS:
        if not isinstance(leaves[0], Operation):
            return None
        leaves, spec, function = leaves[:1], tree_flatten(((0,), {}))[1], _cast(function(*_actual(leaves, spec)[0]).dtype)
    operations = [leaf for leaf in leaves if isinstance(leaf, Operation)]
    shape = max((op.actual.shape for op in operations), key=len)
    call = _in_place(function) if _writes(function) else function
    args, kwargs = _actual(leaves, spec)
    actual = call(*args, **kwargs)
    if not isinstance(actual, torch.Tensor) or any(value.shape != shape for value in (actual, *(op.actual for op in operations))):
        return None
    if name == "setitem" and not (isinstance(leaves[1], Operation) and len(leaves) == 3):
        return None  # writes at positions, and not where a mask says so
    constants = [leaf if isinstance(leaf, Operation) else _constant(leaf, len(shape), batch) for leaf in leaves]
    if any(leaf is None and value is not None for leaf, value in zip(constants, leaves, strict=True)):
        return None
    drives = tuple(dict.fromkeys(one for op in operations for one in op.drives))
    return Operation(
        actual=actual,
        drives=drives,
        populations=frozenset().union(*(op.populations for op in operations)),
        is_membrane=any(op.is_membrane for op in operations),
        module=module,
        name=name,
        function=call,
        # later steps are never run again, and would keep all before them in memory
        leaves=tuple(constants) if len(drives) <= _N_KEPT_DRIVES or name in functions.COMPARISONS or name in _SHIFTS else (),
        spec=spec,
    )


def _compared(name: str, comparison: Operation) -> tuple[Operation, bool, bool]:
    """Return the first side of a comparison minus the second; whether 0 counts as above; whether it gives 1 below."""
    is_above, at_equal = functions.COMPARISONS[name]
    args, kwargs = tree_unflatten(comparison.leaves, comparison.spec)
    sides = [*args, *kwargs.values()]
    if name == "heaviside":
        return sides[0], bool((torch.as_tensor(sides[1]) > 0).all()), False
    # torch compares a number in the precision of the tensor; in double precision only equal numbers differ by 0
    tensor = next(one.actual for one in sides if isinstance(one, Operation))
    tensors = (Operation, torch.Tensor)
    sides = [s if isinstance(s, tensors) else torch.tensor(s, dtype=torch.result_type(tensor, s)).double() for s in sides]
    actual = torch.sub(*(one.actual if isinstance(one, Operation) else one for one in sides))
    leaves, spec = tree_flatten((sides, {}))
    difference = replace(comparison, actual=actual, name="sub", function=torch.sub, leaves=tuple(leaves), spec=spec)
    return difference, at_equal == is_above, not is_above


def _negative(one: Operation) -> Operation:
    """Return minus an operation."""
    return replace(one, actual=-one.actual, name="neg", function=torch.neg, leaves=(one,), spec=tree_flatten(((0,), {}))[1])


def _is_same(one: Any, other: Any) -> bool:
    """Whether two operations are one membrane, shifted and scaled by the same constants."""
    if not isinstance(one, Operation) or not isinstance(other, Operation):
        return type(one) is type(other) and bool(torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other)
    if one is other or one.name != other.name or one.name not in _SHIFTS or len(one.leaves) != len(other.leaves):
        return one is other
    return all(_is_same(*leaves) for leaves in zip(one.leaves, other.leaves, strict=True))


_WRITING = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"})


def _writes(function: Callable[..., Any]) -> bool:
    name = str(getattr(function, "__name__", ""))
    return name in _WRITING or (name.endswith("_") and not name.endswith("__"))


def _actual(leaves: Sequence[Any], spec: Any) -> tuple[Any, Any]:
    args, kwargs = tree_unflatten([leaf.actual if isinstance(leaf, Operation) else leaf for leaf in leaves], spec)
    return args, kwargs


def _in_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives the result of one that writes into its first argument, and leaves that as it was."""

    def call(first: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        first = first.clone()
        function(first, *args, **kwargs)
        return first

    return call


def _cast(dtype: torch.dtype) -> Callable[..., Any]:
    """Return a cast of the model, that keeps double precision."""

    def call(value: torch.Tensor) -> torch.Tensor:
        return value.to(torch.float64 if dtype.is_floating_point and value.dtype == torch.float64 else dtype)

    return call


def _as_double(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.is_floating_point() else value


def _constant(value: Any, n_dims: int, batch: int) -> Any:
    """Return an argument in double precision and without samples; None where samples have different ones."""
    if not isinstance(value, torch.Tensor):
        return value
    value = _as_double(value.detach())
    if value.ndim < n_dims or len(value) != batch:
        return value.clone()
    return value[:1].clone() if torch.equal(value, value[:1].expand_as(value)) else None


# ---------------------------------------------------------------------------------------------------- what they are


@dataclass(eq=False)
class CustomNeurons:
    """Neurons that a model computes itself: the comparison of each step, and what the neurons receive there.

    Attributes
    ----------
    where : str
        Label of the module that compares.
    at_threshold : bool
        Whether a membrane that equals the threshold fires.
    is_negative : bool
        Whether the membrane is on the second side of the comparison, ``threshold < v``.
    potentials : list of Operation
        Membrane minus threshold, one a step.
    received : list of list of (Drive, gain)
        What is new at each step, and its factor, () or (n,).
    """

    where: str
    at_threshold: bool
    is_negative: bool = False
    potentials: list[Operation] = field(default_factory=list)
    received: list[list[tuple[Drive, Floats]]] = field(default_factory=list)
    found: tuple[NeuronSpec, Floats] | None = None

    def is_last(self, potential: Operation, at_threshold: bool) -> bool:
        """Whether this is the comparison of the last step once more; refuse one that differs where both sides are equal."""
        if not _is_same(self.potentials[-1], potential):
            return False
        if at_threshold != self.at_threshold:
            raise refusal(self.where, "fires above its threshold and resets at it, or the other way round", "Compare once.")
        return True

    def arriving(self, potential: Operation) -> list[tuple[Drive, Floats]]:
        """Return what arrives at a step for the first time, and the factor on each.

        Raises
        ------
        ExtractError
            The membrane does not add it up.
        """
        earlier = {one for step in self.received for one, _ in step}
        new = [one for one in potential.drives if one not in earlier]
        if len(self.potentials) >= _N_PROBED_STEPS:
            # far back the operations are many, and no longer kept; the check against the model's answers covers these steps
            if len(new) != len(self.received[-1]):
                raise refusal(self.where, "receives something else at later steps", "Do the same at every step.")
            return [(one, gain) for one, (_, gain) in zip(new, self.received[-1], strict=True)]
        quiet = {one: torch.zeros(2, *one.actual.shape[1:], dtype=torch.float64) for one in (*earlier, *new)}
        for step in self.received:
            first, gain = step[0]
            quiet[first] -= _FAR / torch.tensor(gain.reshape(quiet[first].shape[1:] if gain.shape else ()))
        return [(one, self._known(self._slope(potential, quiet, one))) for one in new]

    def _slope(self, potential: Operation, quiet: Mapping[Operation, torch.Tensor], one: Drive) -> Floats:
        far = torch.zeros_like(quiet[one])
        far[0], far[1] = _FAR, -_FAR
        above, below = potential.evaluated({**quiet, one: far}, {})
        return np.asarray(((above - below) / (2 * _FAR)).reshape(-1).numpy())

    def _known(self, gain: Floats) -> Floats:
        """Return a gain that is equal up to rounding, so that weights are the same at every step; one number if all are equal."""
        if not gain.all() or not np.isfinite(gain).all():
            raise refusal(self.where, "has neurons that do not add up what they receive", "Let v depend on the input linearly.")
        known = next((g for step in self.received for _, g in step if np.allclose(g, gain, rtol=1e-9, atol=0)), None)
        uniform = np.median(gain) if np.allclose(gain, gain[0], rtol=1e-14, atol=0) else None
        return known if known is not None else gain if uniform is None else np.asarray(uniform)

    def neurons(self) -> tuple[NeuronSpec, Floats]:
        """Return the neurons, and the constant that they receive at every step.

        Raises
        ------
        ExtractError
            They are no leaky integrate-and-fire neurons that reset to where they leak to, or by a fixed amount.
        """
        if self.found is None:
            self.found = _Probes(self).neurons()
        return self.found


def refusal(where: str, what: str, remedy: str) -> ExtractError:
    """Return the error for neurons that the chip does not have."""
    source = "neurons of chips leak, add up their input, fire above a threshold, and reset to where they leak to or subtract"
    return ExtractError(where, what, source=source, remedy=remedy)


class Fired(NamedTuple):
    """Spikes of the last step of a population, or their complement, and the comparison that makes them."""

    population: TracedPopulation
    operation: Operation
    is_complement: bool


def fire(trace: PopulationTrace, random: torch.Generator, name: str, comparison: Operation) -> Fired | ExtractError | None:
    """Make a comparison the next step of a population, or its last step once more; None where it compares no membrane.

    A membrane that does not reset may be a readout, whose spikes nobody receives: the error is returned.
    """
    if name not in functions.COMPARISONS or not comparison.is_membrane:
        return None
    drawn = [term for one in comparison.drives for term in one.expression.steps[0].terms]
    if not comparison.populations and all(term.synapse is None and trace.is_known(term.source) for term in drawn):
        return None  # of spikes alone, on the host
    potential, at_threshold, is_below = _compared(name, comparison)
    # a surrogate function may be a module of its own, which compares what the neurons' module has computed
    computed = (one.module for one in potential.leaves if isinstance(one, Operation) and not isinstance(one, Drive))
    module = next(computed, comparison.module)
    tagged = [p for p in _own(trace) if p.name in potential.populations]
    if len(tagged) > 1:
        names = " and ".join(repr(p.name) for p in tagged)
        raise refusal(module[1], f"computes a membrane from the spikes of {names} without weights", "Put weights between them.")
    both = ((potential, at_threshold, is_below), (_negative(potential), not at_threshold, not is_below))
    for one, at, is_complement in both:
        for population in tagged or [p for p in _own(trace) if p.module == module]:
            if population.cell.is_last(one, at):
                return Fired(population, _as_spikes(comparison, population), is_complement)
    if tagged and {*potential.drives} <= {one for step in tagged[0].cell.received for one, _ in step}:
        return None  # compares what the spikes of this step have already reset
    cell = tagged[0].cell if tagged else CustomNeurons(module[1], at_threshold)
    drives = {*potential.drives}
    # a membrane that holds what arrived at the last step, and more, has not been reset
    held = [(p, drives & {one for one, _ in p.cell.received[-1]}) for p in _own(trace) if p.module == module and not tagged]
    without_reset = [p for p, common in held if common and common != drives]
    if without_reset or any(one in trace.without_reset for one in potential.drives):
        error = refusal(module[1], "does not reset", RESET_REMEDY)
        for population in without_reset:
            trace.without_reset[trace.by_name.pop(population.name).name] = error
        trace.without_reset.update(dict.fromkeys(potential.drives, error))
        return error
    if not tagged:
        cell.is_negative = bool((cell.arriving(potential)[0][1] < 0).all())
        cell.at_threshold = both[cell.is_negative][1]
    potential, _, is_complement = both[cell.is_negative]
    arriving = cell.arriving(potential)
    received = _sum(module, arriving)
    population = tagged[0] if tagged else trace.new(module, cell, received)
    trace.receive(population, received)
    cell.potentials.append(potential)
    cell.received.append(arriving)
    fired = comparison.actual.float()
    forwarded = (torch.rand(fired.shape, generator=random) < SPIKE_PROBABILITY).float()
    trace.answer(population, 1 - fired if is_complement else fired, forwarded)
    return Fired(population, _as_spikes(comparison, population), is_complement)


def _own(trace: PopulationTrace) -> list[TracedPopulation]:
    return [p for p in trace.by_name.values() if isinstance(p.cell, CustomNeurons)]


def receivers(trace: PopulationTrace, operation: Operation) -> set[str]:
    """Return the populations at which something arrives that an operation depends on."""
    drives = {*operation.drives}
    return {p.name for p in _own(trace) if any(one in drives for step in p.cell.received for one, _ in step)}


def _as_spikes(comparison: Operation, population: TracedPopulation) -> Operation:
    return replace(comparison, populations=frozenset({population.name}), is_membrane=False)


def _sum(module: ModuleId, arriving: Sequence[tuple[Drive, Floats]]) -> LinearExpression:
    parts = []
    for one, gain in arriving:
        part: LinearExpression = one.expression.steps[0]
        factor = gain.reshape(part.shape) if gain.shape else gain
        parts.append(part if (factor == 1).all() else scale(module, part, factor))
    return reduce(add, parts)


class _Probes:
    """The potentials of neurons as a function of what arrives at each step, in units of the membrane."""

    def __init__(self, own: CustomNeurons) -> None:
        self.own = own
        self.n_steps = min(len(own.potentials), _N_PROBED_STEPS)
        self.shape, self.n = tuple(own.potentials[0].actual.shape[1:]), own.potentials[0].actual[0].numel()

    def potential(self, *inputs: Floats | float) -> Floats:
        """Return membrane minus threshold, (n_probes, n), at the step of the last input, from (n_probes, n) a step."""
        n_probes = max(len(np.atleast_2d(x)) for x in inputs)
        feed: dict[Operation, torch.Tensor] = {}
        for x, received in zip(inputs, self.own.received, strict=False):
            values = torch.from_numpy(np.array(np.broadcast_to(np.asarray(x, dtype=np.float64), (n_probes, self.n))))
            for one, gain in received:
                feed[one] = (values / torch.from_numpy(np.asarray(gain))).reshape(n_probes, *self.shape)
                values = torch.zeros_like(values)  # the first drive alone carries the input
        found = self.own.potentials[len(inputs) - 1].evaluated(feed, {})
        return np.asarray(found.reshape(len(found), -1).numpy())

    def neurons(self) -> tuple[NeuronSpec, Floats]:
        own = self.own
        if self.n_steps < 3:
            raise refusal(own.where, "makes fewer than three steps, too few to find its decays", "Give a sample of more steps.")
        start = self.potential(0.0)[0]
        below = -2 * (1 + float(np.abs(start).max()))
        # which share of an input is left in the membrane after one step and two without spikes
        two_far = np.array([[-_FAR], [-2 * _FAR]])
        one, two = (-np.diff(self.potential(two_far, *[0.0] * n), axis=0)[0] / _FAR for n in (1, 2))
        high, low = two_shares(one, two, 1e-9)
        later = self.potential(below, 0.0)[0] - one * below
        constant = np.where(np.abs(one) > 1e-9, (later - start) / np.where(one == 0, 1.0, one), 0.0)
        constant = np.where(np.abs(constant) < 1e-9 * np.abs(start), 0.0, constant)
        threshold = constant - start
        if not (threshold > 0).all():
            raise refusal(own.where, "fires without any input, at rest", "Set the threshold above where it starts.")
        keeps_v, subtracted = self._fitted(high, low, constant, threshold)
        keeps_u = np.where(np.abs(one - keeps_v) < 1e-9, 0.0, one - keeps_v)
        after_spike = np.zeros(())
        if subtracted is not None:
            # in the step of the spike the threshold is subtracted, of which the leak then takes its share
            late, near = keeps_v * threshold, 1e-6 * threshold  # a threshold may be compared in single precision
            late -= np.where(np.abs(subtracted - threshold) < near, threshold, subtracted)
            after_spike = uniform(np.where(np.abs(late) < near, 0.0, late))
        # `LIF` fires strictly above its threshold, `SubtractiveLIF` at it too
        if own.at_threshold is (subtracted is None):
            threshold = np.nextafter(threshold, -np.inf if own.at_threshold else np.inf)
        p = {"threshold": threshold, "current_decay": 1 - keeps_u, "voltage_decay": 1 - keeps_v, "rest": 0 * keeps_v}
        p = {name: uniform(value) for name, value in p.items()}
        try:
            neuron = LIF(**p) if subtracted is None else SubtractiveLIF(**p, max_spikes=np.array(1))
        except NetworkError as error:
            raise refusal(own.where, f"{error.where} {error.what}", error.remedy or "Keep decays between 0 and 1.") from error
        has_current = bool(keeps_u.any())
        return NeuronSpec(neuron=neuron, gain=np.ones(()), has_current=has_current, after_spike=after_spike), constant

    def _fitted(self, high: Floats, low: Floats, constant: Floats, threshold: Floats) -> tuple[Floats, Floats | None]:
        """Return which of two shares the membrane keeps, (n,), and what is subtracted a step after a spike; None: reset to zero.

        With them all drawn inputs give the potentials.
        """
        n_probes = int(np.clip(_PROBE_VALUES // self.n, 8, 512))
        draw = np.random.default_rng(0)
        inputs = [draw.uniform(-1.0, 2.5, (n_probes, self.n)) * threshold for _ in range(self.n_steps)]
        potentials = [self.potential(*inputs[: t + 1]) for t in range(self.n_steps)]

        def differs(keeps_v: Floats, keeps_u: Floats, subtracted: Floats | None) -> NDArray[np.bool_]:
            u, v, most, fired = np.zeros(self.n), np.zeros(self.n), np.zeros(self.n), np.zeros(self.n, dtype=bool)
            for x, potential in zip(inputs, potentials, strict=True):
                u = keeps_u * u + x + constant
                v = keeps_v * np.where(fired, 0.0, v) + u if subtracted is None else keeps_v * v - fired * subtracted + u
                most, fired = np.maximum(most, np.abs(v - threshold - potential).max(axis=0)), potential > 0
            return most > 1e-6 * threshold

        wrong = [differs(*shares, None) for shares in ((high, low), (low, high))]
        if not (both := wrong[0] & wrong[1]).any():
            return np.where(wrong[0], low, high), None
        subtracted = (high + low) * (8 * threshold + constant) + constant - threshold - self.potential(8 * threshold, 0.0)[0]
        wrong = [differs(*shares, subtracted) for shares in ((high, low), (low, high))]
        if (wrong[0] & wrong[1]).any() or (subtracted < 1e-9 * threshold).any():
            first = int(np.argmax(both))
            raise self._reason(first, threshold - constant, float((high + low)[first]))
        return np.where(wrong[0], low, high), subtracted

    def _reason(self, neuron: int, level: Floats, share: float) -> ExtractError:
        """Return why a neuron is no such neuron, by the step after a spike; `level` is the first input that fires."""
        own = self.own
        silent, low, high, driven = (
            float(((self.potential(*(k * level for k in inputs))[0] + level) / level)[neuron])
            for inputs in ((-8, 0), (4, 0), (8, 0), (8, 1))
        )
        kept, added = (high - low) / 4, driven - high
        to = f"{high / share:.3g} of its threshold" if share else "another potential"
        found = [
            (abs(silent + 8 * share) > 1e-6, "does not leak by a fixed share in each step"),
            (abs(added - 1) > 1e-6, "ignores what arrives in the step after a spike: its reset comes late"),
            (abs(kept) < 1e-6, f"resets to {to}, counted from where it starts or leaks to"),
            (abs(kept - share) > 1e-6, "changes in the step after a spike as no reset does"),
            (abs(high - 8 * share) < 1e-6, "does not reset"),
            (True, f"subtracts {8 * share - high:.3g} of its threshold, but not after every spike, or not in all neurons"),
        ]
        what = next(what for holds, what in found if holds)
        return refusal(own.where, what, "Let v = share * v + input, without limits." if what == found[0][1] else RESET_REMEDY)
