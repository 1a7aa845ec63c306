"""Tracer: follows the tensors of a running model, each with its value as a function of spikes.

A traced tensor carries a value: linear expressions, a part of the input, a part of a neuron's state, or the reason why no synapse
computes it. Every function of torch that touches a traced tensor passes through `Tracer.answer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.expressions import LinearExpression, ModuleId, Shape, Term, rearrange, spikes
from neurodeploy.frontends.torch import custom_neurons, functions
from neurodeploy.frontends.torch.custom_neurons import Operation
from neurodeploy.frontends.torch.functions import CallContext, LinearFunction, NotLinearError
from neurodeploy.frontends.torch.populations import ExpressionValue, PopulationTrace, TracedPopulation
from neurodeploy.ir.graph import INPUT

REMEDY = "docs/operators.md lists what is supported; after the last neurons, on the host, everything is."

_MAX_TERMS = 1000
"""Number of weighted terms that are still rearranged one by one; membranes of many steps have more, and the host reads them."""
# ------------------------------------------------------------------------------------------------ values of traced tensors


@dataclass(frozen=True)
class InputValue:
    """Some of the model's input, before it is known which of its dimensions is time.

    Attributes
    ----------
    positions : tensor of int64
        Flat index into the whole input, for each element.
    whole : tuple of int
        Shape of the whole input.
    call : int
        Index of the model's call that received it.
    """

    positions: torch.Tensor
    whole: Shape
    call: int

    def selected_step(self) -> tuple[int, int] | None:
        """Return (dimension, index) if this is one step along a dimension of the input; None if it still holds all steps."""
        for axis, size in enumerate(self.whole):
            stride = int(np.prod(self.whole[axis + 1 :]))
            index = self.positions.div(stride, rounding_mode="floor") % size  # index along `axis`, from the flat position
            is_slice = self.positions.numel() * size == int(np.prod(self.whole))
            if size > 1 and is_slice and bool((index == index.flatten()[0]).all()):  # a slice of a dimension of 1 says nothing
                return axis, int(index.flatten()[0])
        return None

    def at_step(self, axis: int | None, step: int) -> ExpressionValue:
        """Return the input's spikes at one step, as the model has rearranged them.

        Parameters
        ----------
        axis : int or None
            The dimension that is time; None where the whole input is one step.
        step : int
        """
        whole = torch.arange(int(np.prod(self.whole))).reshape(self.whole)
        one_step = whole if axis is None else whole.select(axis, step)
        shape, rows = tuple(self.positions.shape), one_step.reshape(len(one_step), -1)
        if len(shape) < 2 or shape[0] != len(one_step):
            raise NotLinearError("mixes samples, or steps, of the input")
        first_sample = self.positions[0].reshape(-1).contiguous()
        # Positions ascend within a sample, so this inverts them. Those of other samples or steps find a wrong place, and differ
        # below.
        index = torch.searchsorted(rows[0].contiguous(), first_sample).clamp(max=rows.shape[1] - 1)
        if not torch.equal(rows[:, index], self.positions.reshape(len(one_step), -1)):  # the same rearrangement for every sample
            raise NotLinearError("mixes samples, or steps, of the input")
        elements = index.reshape(shape[1:]).numpy()
        fired = spikes(INPUT, tuple(one_step.shape[1:]), step)
        return ExpressionValue((rearrange(fired, lambda values: values.reshape(-1)[elements]),), (len(one_step),))


@dataclass(frozen=True)
class StateValue:
    """A part of a population's state, after one of its steps."""

    population: TracedPopulation
    step: int
    name: str


@dataclass(frozen=True, eq=False)
class Reading:
    """Weighted sums of spikes, and what they are in the run: a tensor (\\*lead, \\*shape)."""

    value: ExpressionValue
    actual: torch.Tensor


@dataclass(frozen=True)
class UnsupportedValue:
    """Something that no synapse computes; an error only if a neuron receives it.

    Attributes
    ----------
    where, what, remedy : str
        Of that error.
    is_weighted : bool
        Whether it depends on more than the spikes of the model's last neurons, which the host may process in any way.
    weights : str
        Label of a module whose weights it depends on, without neurons behind them; empty if there is none.
    readings : tuple of Reading
        Weighted sums of spikes that it is computed from; the host may read them.
    """

    where: str
    what: str
    remedy: str
    is_weighted: bool
    weights: str = ""
    readings: tuple[Reading, ...] = ()

    def error(self) -> ExtractError:
        """Return the error for a neuron that receives it."""
        return ExtractError(self.where, self.what, source="a chip's synapses add up weighted spikes", remedy=self.remedy)


TensorValue: TypeAlias = "ExpressionValue | InputValue | StateValue | UnsupportedValue"

# ----------------------------------------------------------------------------------------------------------------- tracer


class TracedTensor(torch.Tensor):
    """A tensor that carries a `TensorValue`, and how neurons of the model's own compute it, if they do."""

    traced_value: TensorValue
    tracer: Tracer
    operation: Operation | None = None
    drive: Operation | None = None
    readings: tuple[Reading, ...] | None = None

    @classmethod
    def __torch_function__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Let the tracer answer; torch calls this for every function on a traced tensor."""
        found = [leaf for leaf in tree_flatten((args, kwargs or {}))[0] if isinstance(leaf, TracedTensor)]
        return found[0].tracer.answer(func, tuple(args), dict(kwargs or {}), found)


def readings_of(leaf: TracedTensor) -> tuple[Reading, ...]:
    """Return the weighted sums of spikes that a tensor is, or is computed from."""
    value = leaf.traced_value
    if isinstance(value, UnsupportedValue):
        return value.readings
    if not isinstance(value, ExpressionValue) or not value.is_weighted:
        return ()
    if leaf.readings is None:
        leaf.readings = (Reading(value, untraced(leaf).clone()),)  # the model may write into it
    return leaf.readings


def untraced(value: Any) -> Any:
    """Return a nested value with all tensors in it as plain tensors."""
    # Else `as_subclass` would come back to the tracer.
    with torch._C.DisableTorchFunctionSubclass():  # type: ignore[no-untyped-call]  # torch has no type for it
        return tree_map(lambda leaf: leaf.as_subclass(torch.Tensor) if isinstance(leaf, TracedTensor) else leaf, value)


class Tracer:
    """Computes the values of traced tensors as the model runs.

    Parameters
    ----------
    may_step : bool
        Whether selecting from the input along a dimension may mean to take a step of time.

    Attributes
    ----------
    trace : PopulationTrace
    module : ModuleId
        The module that is running; its path is empty if it contains others.
    axis : int or None
        Dimension of the input that is time, once the model has taken a step along it.
    mixes_steps : bool
        Whether something was computed of other parts of the input than whole samples.
    """

    def __init__(self, may_step: bool) -> None:
        self.may_step = may_step
        self.trace = PopulationTrace()
        self.module: ModuleId = ("", "model")
        self.axis: int | None = None
        self.mixes_steps = False
        self.random = torch.Generator().manual_seed(0)  # its own: the user's random numbers stay as they were

    def mark(self, tensor: torch.Tensor, value: TensorValue, operation: Operation | None = None) -> TracedTensor:
        """Return the tensor with its value."""
        traced: TracedTensor = untraced(tensor).as_subclass(TracedTensor)
        traced.traced_value, traced.tracer, traced.operation, traced.drive = value, self, operation, None
        traced.readings = None
        return traced

    def answer(self, func: Any, args: Any, kwargs: Any, found: list[TracedTensor]) -> Any:
        """Call a function on plain tensors, and return what it gives with its values.

        Parameters
        ----------
        found : list of TracedTensor
            All traced tensors among the arguments.

        Raises
        ------
        ExtractError
            The function hands numbers to Python.
        """
        full, name = functions.names_of(func)
        if full in functions.DATA_DEPENDENT:
            raise ExtractError(
                self.module[1],
                f"reads numbers out of its tensors ({full}), so it may do something else for other data",
                source="a chip runs one network at every step",
                remedy="Take it out of forward.",
            )
        # before the call: it may write into its arguments
        operation = self._operation(name, func, args, kwargs, found)
        if operation is not None and (spikes_of_own := self._fired(name, operation)) is not None:
            return spikes_of_own
        result = func(*untraced(args), **untraced(kwargs))
        if name == "setitem":
            self._overwrite(args[0], self._unsupported(found, "writes into a part of a tensor"), operation)
        # Such results do not depend on spikes; nor does a constant that is cast to the type of a traced tensor.
        is_constant = name in functions.SHAPE_ONLY or (name in functions.IDENTITIES and not isinstance(args[0], TracedTensor))
        if is_constant or not any(isinstance(leaf, torch.Tensor) for leaf in tree_flatten(result)[0]):
            return result
        try:
            values = self._values(name, func, args, kwargs, found, result)
            shapes = [tuple(leaf.shape) for leaf in tree_flatten(result)[0]]
            if all(isinstance(v, ExpressionValue) for v in values) and [v.shape for v in values] != shapes[: len(values)]:
                raise NotLinearError("gives another shape than it would for one sample")
        except NotLinearError as reason:
            values = [self._unsupported(found, f"{name} {reason}")]  # an error only if a neuron receives it
        is_in_place = full.endswith("_") and not full.endswith("__")  # torch's `add_`, but not `__add__`
        if is_in_place and name != full and isinstance(args[0], torch.Tensor):
            self._overwrite(args[0], values[0], operation)
            return args[0]
        if isinstance(result, torch.Tensor):
            traced = self.mark(result, values[0], operation)
            if name in functions.REARRANGEMENTS and len(found) > 1:
                parts = tuple(dict.fromkeys(one for leaf in found for one in readings_of(leaf)))
                if len({one.value.latest_step for one in parts}) > 1:
                    traced.readings = parts  # steps side by side
            return traced
        leaves, spec = tree_flatten(result)
        each = values if len(values) == len(leaves) else values[:1] * len(leaves)  # e.g. a max pooling with indices
        pairs = zip(leaves, each, strict=True)
        return tree_unflatten([self.mark(leaf, v) if isinstance(leaf, torch.Tensor) else leaf for leaf, v in pairs], spec)

    def settled(self, leaf: Any) -> Any:
        """Return the value of a traced tensor, anything else as it is; an input of which no step was taken is one step."""
        if not isinstance(leaf, TracedTensor):
            return leaf
        if isinstance(leaf.traced_value, InputValue):
            if self.axis is not None:
                raise NotLinearError("takes many steps of the input as if they were one")
            try:
                return leaf.traced_value.at_step(None, leaf.traced_value.call)
            except NotLinearError:
                self.mixes_steps = True
                raise
        return leaf.traced_value

    def _overwrite(self, tensor: Any, value: TensorValue, operation: Operation | None) -> None:
        """Give a tensor that was written into its new value; it may have been a plain one."""
        tensor.__class__ = TracedTensor
        tensor.traced_value, tensor.tracer, tensor.operation, tensor.drive = value, self, operation, None
        tensor.readings = None

    def _unsupported(self, found: Sequence[TracedTensor], what: str) -> UnsupportedValue:
        """Return why a result is no expression: the first reason along the way, or `what`."""
        for leaf in found:
            if leaf.operation is not None and leaf.operation.is_membrane and leaf.operation.populations:
                names = " and ".join(map(repr, sorted(leaf.operation.populations)))
                return UnsupportedValue(self.module[1], f"{what} (it takes the membrane of {names})", REMEDY, True)
        readings = tuple(dict.fromkeys(one for leaf in found for one in readings_of(leaf)))
        for leaf in found:
            if isinstance(leaf.traced_value, UnsupportedValue):
                return replace(leaf.traced_value, readings=readings)
        values = [leaf.traced_value for leaf in found]
        known = [step for value in values if isinstance(value, ExpressionValue) for step in value.steps]
        weights = [term.where for step in known for term in step.terms if term.synapse is not None]
        is_weighted = bool(weights) or any(isinstance(value, InputValue) for value in values)
        remedy = functions.WAYS_ROUND.get(what.split()[0], REMEDY)
        return UnsupportedValue(self.module[1], what, remedy, is_weighted, next(iter(weights), ""), readings)

    # ------------------------------------------------------------------------------------- neurons of the model's own

    def _operation(self, name: str, func: Any, args: Any, kwargs: Any, found: Sequence[TracedTensor]) -> Operation | None:
        """Record an elementwise function; None for any other, or of values that no neuron has."""
        if name not in functions.ELEMENTWISE:
            return None
        operands = [leaf.operation or self._drive(leaf) for leaf in found]
        own = {name for operand in operands if operand is not None and operand.is_membrane for name in self._neurons_of(operand)}
        for k, (leaf, operand) in enumerate(zip(found, operands, strict=True)):
            # spikes of other neurons arrive at these
            if operand is not None and not operand.is_membrane and own and not operand.populations <= own:
                operands[k] = self._drive(leaf)
        mixed = frozenset().union(*(operand.populations for operand in operands if operand is not None))
        if None in operands or (len(mixed) > 1 and not own):
            return None
        by_leaf = {id(leaf): operand for leaf, operand in zip(found, operands, strict=True)}
        known = tree_map(lambda leaf: by_leaf[id(leaf)] if isinstance(leaf, TracedTensor) else leaf, (args, kwargs))
        return custom_neurons.record(self.module, name, func, known, len(found[0]))

    def _drive(self, leaf: TracedTensor) -> Operation | None:
        """Return a tensor as what arrives at neurons; None where that is not one step of spikes."""
        try:
            value = self.settled(leaf)
        except NotLinearError:
            return None
        if not isinstance(value, ExpressionValue) or len(value.lead) != 1 or len(value.steps) > 1:
            return None
        if leaf.drive is None:
            leaf.drive = custom_neurons.Drive(actual=untraced(leaf).clone(), expression=value)
            if leaf.operation is None:
                leaf.operation = leaf.drive  # the same tensor is one drive, however often it is used
        return leaf.drive

    def _neurons_of(self, operation: Operation) -> set[str]:
        """Return the populations to which an operation belongs: it has their spikes, or what arrives at them."""
        return custom_neurons.receivers(self.trace, operation) | operation.populations

    def _fired(self, name: str, comparison: Operation) -> TracedTensor | None:
        """Return the spikes that the comparison of a membrane makes; None for other operations."""
        fired = custom_neurons.fire(self.trace, self.random, name, comparison)
        if isinstance(fired, ExtractError):  # an error where neurons receive such spikes
            return self.mark(comparison.actual, UnsupportedValue(fired.where, fired.what, fired.remedy, True))
        if fired is None:
            return None
        shape, population = comparison.actual.shape, fired.population
        call = CallContext(self.module, tuple(shape[:1]))
        own = spikes(population.name, tuple(shape[1:]), len(population.steps) - 1)
        value = functions.rsub(call, own, 1.0) if fired.is_complement else own
        forwarded = torch.from_numpy(population.steps[-1].forwarded).reshape(shape)
        forwarded = (1 - forwarded if fired.is_complement else forwarded).to(comparison.actual.dtype)
        return self.mark(forwarded, ExpressionValue((value,), tuple(shape[:1])), fired.operation)

    # ------------------------------------------------------------------------------------------------ values of results

    def _values(self, name: str, func: Any, args: Any, kwargs: Any, found: list[TracedTensor], result: Any) -> list[Any]:
        """Return the value of each tensor that a function gives; raise `NotLinearError` where there is none."""
        first = found[0].traced_value
        kinds = {type(leaf.traced_value) for leaf in found}
        # first, so that the first reason along the way is the one reported
        if UnsupportedValue in kinds and name not in functions.IDENTITIES:
            refused = self._unsupported(found, f"{name} is not linear")
            # further weights, and neurons, are not for the host
            is_host = name not in functions.WITH_WEIGHTS and name not in functions.COMPARISONS
            return [refused if is_host else replace(refused, readings=())]
        if name in functions.IDENTITIES:
            # Torch's third argument, True by default.
            if "dropout" in name and kwargs.get("training", args[2] if len(args) > 2 else True):
                raise NotLinearError("drops spikes by chance, in eval mode too")
            return [first]
        if StateValue in kinds:
            state = next(leaf.traced_value for leaf in found if isinstance(leaf.traced_value, StateValue))
            raise NotLinearError(f"takes the state {state.name!r} of {state.population.name!r}, which the chip does not send")
        if isinstance(first, InputValue) and len(found) == 1 and name in functions.STEP_SELECTIONS:
            return self._of_input(func, args, kwargs, first)
        args, kwargs = tree_map(self.settled, args), tree_map(self.settled, kwargs)
        known = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, ExpressionValue)]
        lead = known[0].lead
        if any(value.lead != lead for value in known):
            raise NotLinearError("combines one step with many, or batches of different sizes")
        # Results of single steps become a tensor with time in front.
        if name == "stack" and len(lead) == 1 and kwargs.get("dim", args[1] if len(args) > 1 else 0) == 0:
            return [ExpressionValue(tuple(value.steps[0] for value in known), (len(known), *lead))]
        if (joined := _joined_steps(known[0], result)) is not None and name in functions.STEP_SELECTIONS:
            return [ExpressionValue(known[0].steps, joined)]
        if len(lead) == 2 and name in ("getitem", "select", "unbind") and functions.selects_steps(name, args, kwargs):
            # The index is the last argument of both others.
            steps = known[0].steps if name == "unbind" else (known[0].steps[args[-1]],)
            return [ExpressionValue((step,), lead[1:]) for step in steps]
        if name in functions.REARRANGEMENTS:
            if sum(len(step.terms) for value in known if value.is_weighted for step in value.steps) > _MAX_TERMS:
                raise NotLinearError("rearranges the sums of many steps")
            return self._rearranged(func, args, kwargs, lead)
        is_linear = name in functions.LINEAR_FUNCTIONS
        if len(lead) == 2 and name not in functions.WITH_TIME and (is_linear or name in functions.SPIKE_FUNCTIONS):
            raise NotLinearError("receives all steps at once; wrap it in norse.torch.Lift")
        # what a model multiplies by a constant, or by the spikes of neurons that it has just reached, is no function of spikes
        is_of_spikes = not is_linear or (len(known) == 2 and not self._is_reset(found))
        if name in functions.SPIKE_FUNCTIONS and is_of_spikes:
            return [self._of_spikes(name, args, kwargs, lead, result)]
        if not is_linear:
            raise NotLinearError("is not supported")
        return [self._mapped(functions.LINEAR_FUNCTIONS[name], args, kwargs, lead)]

    def _of_input(self, func: Any, args: Any, kwargs: Any, whole: InputValue) -> list[Any]:
        """Return what a rearrangement of the input gives; selecting along a dimension declares it to be time."""

        def positions(leaf: Any) -> Any:
            return whole.positions if isinstance(leaf, TracedTensor) else leaf

        values: list[TensorValue] = []
        for moved in tree_flatten(func(*tree_map(positions, args), **tree_map(positions, kwargs)))[0]:
            part = replace(whole, positions=moved)
            step = part.selected_step() if self.may_step and moved.numel() < int(np.prod(whole.whole)) else None
            if step is not None and self.axis in (None, step[0]):  # the first selection decides which dimension is time
                self.axis, self.trace.has_time = step[0], True
                values.append(part.at_step(*step))
            else:
                values.append(part)
        return values

    def _rearranged(self, func: Any, args: Any, kwargs: Any, lead: tuple[int, ...]) -> list[Any]:
        """Return what a rearrangement gives: it is run on the indices of every term, one at a time."""
        leaves, spec = tree_flatten((args, kwargs))
        n_steps = max(len(leaf.steps) for leaf in leaves if isinstance(leaf, ExpressionValue))

        def run(arrays: dict[int, NDArray[Any]], constants: bool) -> list[NDArray[np.float64]]:
            """Call the function with these arrays for some arguments, and zeros for other expressions (and constants)."""
            filled = []
            for index, leaf in enumerate(leaves):
                if isinstance(leaf, ExpressionValue):
                    values = arrays.get(index, np.zeros(leaf.shape[len(lead) :]))
                    # The same in every sample and step.
                    filled.append(torch.tensor(values, dtype=torch.float64).expand(leaf.shape))
                elif isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and not constants:
                    filled.append(torch.zeros_like(leaf))
                else:
                    filled.append(leaf)
            ordered, named = tree_unflatten(filled, spec)
            return [functions.of_one_sample(moved, lead) for moved in tree_flatten(func(*ordered, **named))[0]]

        def at_step(t: int) -> list[LinearExpression]:
            known = {index: leaf.steps[t] for index, leaf in enumerate(leaves) if isinstance(leaf, ExpressionValue)}
            # Constants count once, with the biases, and not for each term.
            biases = run({index: step.bias for index, step in known.items()}, constants=True)
            terms: list[list[Term]] = [[] for _ in biases]
            for index, step in known.items():
                for term in step.terms:
                    for k, indices in enumerate(run({index: term.indices}, constants=False)):
                        if indices.any():
                            terms[k].append(replace(term, indices=indices.astype(np.int64)))
            return [LinearExpression(terms=tuple(some), bias=bias) for some, bias in zip(terms, biases, strict=True)]

        steps = [at_step(t) for t in range(n_steps)]
        return [ExpressionValue(tuple(step[k] for step in steps), lead) for k in range(len(steps[0]))]

    def _mapped(self, function: LinearFunction, args: Any, kwargs: Any, lead: tuple[int, ...]) -> ExpressionValue:
        """Return what a linear function gives, step by step."""
        leaves, spec = tree_flatten((args, kwargs))
        n_steps = max(len(leaf.steps) for leaf in leaves if isinstance(leaf, ExpressionValue))
        results = []
        for t in range(n_steps):
            ordered, named = tree_unflatten(
                [leaf.steps[t] if isinstance(leaf, ExpressionValue) else leaf for leaf in leaves], spec
            )
            try:
                results.append(_apply(function, CallContext(self.module, lead), ordered, named))
            except TypeError:  # the reader's signature is torch's, as far as it is supported
                raise NotLinearError("is called with arguments that are not supported") from None
        return ExpressionValue(tuple(results), lead)

    def _is_reset(self, found: Sequence[TracedTensor]) -> bool:
        """Whether operands are spikes of neurons, and what arrives at them."""
        own = [leaf.operation for leaf in found if leaf.operation is not None]
        fired = frozenset().union(*(one.populations for one in own))
        return any(not fired.isdisjoint(custom_neurons.receivers(self.trace, one)) for one in own)

    def _of_spikes(self, name: str, args: Any, kwargs: Any, lead: tuple[int, ...], result: torch.Tensor) -> ExpressionValue:
        """Return a function of spikes as neurons: of a max pooling, whose maximum is whether any spike of a window is 1."""
        sums = self._mapped(functions.SPIKE_FUNCTIONS[name], args, kwargs, lead)
        bias = sums.steps[0].bias
        if (bias != bias.flat[0]).any() or bias.flat[0] > 0.5:
            raise NotLinearError("fires without any spikes")
        # the input is random spikes already
        outputs = untraced(result).reshape(len(sums.steps), -1, sums.steps[0].bias.size).double().numpy()
        steps = [self.trace.of_spikes(self.module, name, *each) for each in zip(sums.steps, outputs, strict=True)]
        if None in steps:
            raise NotLinearError("is left out at some steps")
        return ExpressionValue(tuple(step for step in steps if step is not None), lead)


def _joined_steps(value: ExpressionValue, result: Any) -> tuple[int, ...] | None:
    """Return the sizes in front of a result in which steps and samples have become one dimension, or are two again."""
    n_steps, shape = len(value.steps), value.steps[0].shape
    both = (n_steps, int(np.prod(value.lead)) // n_steps)
    lead = (both[0] * both[1],) if len(value.lead) == 2 else both
    is_same = n_steps > 1 and isinstance(result, torch.Tensor) and tuple(result.shape) == (*lead, *shape)
    return lead if is_same else None


def _apply(function: LinearFunction, call: CallContext, ordered: Any, named: Any) -> LinearExpression:
    """Call a function of the dispatch tables; torch's callers may pass its first argument by the name `input`."""
    first = [named["input"]] if "input" in named else []
    return function(call, *first, *ordered, **{name: value for name, value in named.items() if name != "input"})
