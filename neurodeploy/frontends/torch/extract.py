"""Extraction: a `torch.nn.Module` with Norse cells becomes a `Network`, exactly, or is refused by name.

Sums of spikes that the model returns become a readout. The extracted network is checked numerically against the model: from what
each population received, its layer has to compute what the population answered, step by step.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten

from neurodeploy.errors import ExtractError, NetworkError, check_arguments, in_words, unsupported_kind
from neurodeploy.frontends.assembly import NeuronSpec, assemble, topological_order, two_shares, uniform
from neurodeploy.frontends.expressions import LinearExpression, Term
from neurodeploy.frontends.torch.model_run import ModelRun
from neurodeploy.frontends.torch.populations import (
    SUPPORTED_CELLS,
    ExpressionValue,
    PopulationTrace,
    StepRecord,
    TracedPopulation,
    layer_specs,
)
from neurodeploy.frontends.torch.tracer import TracedTensor, UnsupportedValue
from neurodeploy.ir.arrays import Floats
from neurodeploy.ir.connectivity import Product, product_of
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import LI, LIF, Layer, Network, SubtractiveLIF

TOLERANCE = 1e-3
"""Share of the largest membrane potential or current that a model in single precision may lose by rounding, over its steps."""


@check_arguments
def extract(model: torch.nn.Module, sample: torch.Tensor) -> Network:
    """Read a Norse network by running it.

    The model runs as its user would call it, in eval mode, on random spikes; every tensor carries its value in terms of spikes.
    Linear modules and functions fold into one synapse from each population to each. Max pooling of spikes becomes a layer of
    neurons that fire where any of their inputs does. A bias in front of neurons with a synaptic current comes from one more
    neuron that always fires (`"bias"`). Sums of spikes that the model returns are the membranes of one more layer. What the
    model computes from those, or from the spikes of its last neurons (softmax, a mean over time), is left to the host. The
    network is then checked against the answers of the model's neurons. The model is left as it was.

    Parameters
    ----------
    model : torch.nn.Module
        Norse cells between torch's modules and functions (docs/operators.md lists them), with states passed by hand or by
        ``SequentialState``. A model of one step takes its states after its input and returns them after its output, or keeps
        them itself. A model of many steps loops over one dimension of its input, or over one input that stays; or it has
        ``Lift``, ``LIF`` and the like, for which time is the first dimension.
    sample : tensor (batch, \\*input_shape), or with a dimension for time if the model takes many steps
        Only its shape and dtype count.

    Returns
    -------
    Network
        One layer per population or max pooling, named after the path of its first weights in the model (`layer_name`).

    Raises
    ------
    ExtractError
        Anything that is not supported, by path and type: nothing is dropped or approximated.
    """
    return read_model(model, sample)[-1]


def read_model(
    model: torch.nn.Module, sample: torch.Tensor, kind: type[ModelRun] = ModelRun
) -> tuple[ModelRun, list[TracedPopulation], Network]:
    """Return a model's run, its populations in order, and its network, as `extract` does.

    Parameters
    ----------
    kind : type of ModelRun
        What follows the model as it runs.
    """
    if not isinstance(sample, torch.Tensor) or sample.ndim < 2:
        found = f"has shape {tuple(sample.shape)}, and" if isinstance(sample, torch.Tensor) else ""
        remedy = "Give one step of input, with a dimension for samples in front: sample.unsqueeze(0)."
        raise ExtractError("sample", f"{found} is not a tensor (batch, *input_shape)".strip(), remedy=remedy)
    if not isinstance(model, torch.nn.Module):
        raise ExtractError("model", f"is {in_words(model)}, not a torch.nn.Module")
    model = as_written(model)
    run = run_model(model, sample, kind)
    last = _output_source(run)
    populations = in_order(list(run.trace.by_name.values()), last)
    specs, timestep_s = layer_specs(populations)
    network = assemble(run.input_shape, specs, timestep_s)
    check_against_model(run.trace, populations, network)
    return run, populations, network


def run_model(model: torch.nn.Module, sample: torch.Tensor, kind: type[ModelRun] = ModelRun) -> ModelRun:
    """Trace the model on a sample.

    If the model selects from a dimension of its input, that is taken for time. If it then turns out not to loop over time, it is
    traced again without that assumption. A model that takes no step out of its input, and fails, may take whole sequences.
    """
    run, first = kind(model), None
    try:
        run.call_model(sample)
    except ExtractError as error:
        first = error
    if first is None and (run.axis is None or run.trace.has_steps):
        return run
    if run.axis is not None and not run.trace.has_steps:  # a dimension may have been taken for time by mistake
        again = kind(model, may_step=False)  # afresh: a run cannot be taken back
        try:
            again.call_model(sample)
        except ExtractError as error:
            # that steps are mixed is news of a model that loops, and not the reason why it is refused
            raise (first if first is not None and again.mixes_steps else error) from None
        if again.trace.by_name:
            return again
        if first is None:
            return run
    elif run.axis is None and sample.ndim > 2 and len(sample) > 1:
        with contextlib.suppress(ExtractError):
            run = kind(model, of_sequences=True)
            run.call_model(sample)
            if run.trace.has_steps:
                return run
    assert first is not None
    raise first


def time_dimension(model: torch.nn.Module, sample: torch.Tensor) -> tuple[int | None, bool]:
    """Return which dimension of a model's input is time, None for none, and whether a call makes one step alone."""
    run = run_model(as_written(model), sample)
    return run.axis, len(run.outputs) > 1


def as_written(model: torch.nn.Module) -> torch.nn.Module:
    """Return a model without the wrappers of torch around it; a copy in single precision, of the same numbers, of half.

    Answers in half precision are too coarse to check a network against.
    """
    while isinstance(model, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # torch.compile's
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if tensor.is_meta:
            raise ExtractError(
                name,
                "is on the meta device, so it has no numbers",
                remedy="Build the model on the CPU, and load its weights.",
            )
    is_half = any(tensor.dtype in (torch.bfloat16, torch.float16) for _, tensor in tensors)
    return copy.deepcopy(model).float() if is_half else model


# ---------------------------------------------------------------------------------------------------------- readouts


def _output_source(run: ModelRun) -> str | None:
    """Return the population that the model's output is computed from: the last neurons, or a readout for sums of their spikes."""
    check_output(run)
    if any(run.readings(call) for call in range(len(run.outputs))):
        return _Readout(run).population()
    values = [leaf.traced_value for leaf in tree_flatten(run.outputs[-1])[0] if isinstance(leaf, TracedTensor)]
    terms = (term for value in values if isinstance(value, ExpressionValue) for step in value.steps for term in step.terms)
    return next((term.source for term in terms if term.source != INPUT), None)


def check_output(run: ModelRun) -> None:
    """Refuse a model without neurons, one that ends in weights behind something that no synapse computes, and missing resets."""
    run.trace.check_resets()
    values = [leaf.traced_value for leaf in tree_flatten(run.outputs[-1])[0] if isinstance(leaf, TracedTensor)]
    refused = next((value for value in values if isinstance(value, UnsupportedValue)), None)
    if not run.trace.by_name:
        # neurons may be hidden, as where they compare something that is no membrane
        hidden = f": {refused.where} {refused.what}" if refused is not None else ""
        raise ExtractError("model", f"holds no neurons{hidden}", remedy=f"Supported are {SUPPORTED_CELLS}.")
    if refused is not None and refused.is_weighted and not refused.readings:
        if not refused.weights:
            raise refused.error()
        raise ExtractError(
            refused.weights,
            "ends the model without neurons: it weights spikes that no neuron receives",
            remedy="Put neurons or a readout such as LICell behind it, or take it out of the model and compute it on the host.",
        )


class _Readout:
    """Sums of spikes that the model returns, or computes its output from, as neurons that never fire.

    A sum of the spikes of one step is a membrane that forgets at once; one of all steps so far, of which each step keeps a share,
    is a leaky integrator. What the model does with them (softmax, a mean over time) is the host's.
    """

    def __init__(self, run: ModelRun) -> None:
        self.run = run
        self.sums: dict[int, LinearExpression] = {}
        self.actual: dict[int, torch.Tensor] = {}
        n_steps = max([len(p.steps) for p in run.trace.by_name.values()], default=0)
        for call in range(len(run.outputs)):
            for reading in run.readings(call):
                steps = reading.value.steps
                rows = reading.actual.reshape(len(steps), -1, steps[0].bias.size)
                for index, (one, actual) in enumerate(zip(steps, rows, strict=True)):
                    if one.terms:
                        latest = max(term.step for term in one.terms)
                        step = call if not run.trace.has_time else index if len(steps) == n_steps else latest
                        self._add(step, one, actual)

    def _add(self, step: int, one: LinearExpression, actual: torch.Tensor) -> None:
        known = self.sums.setdefault(step, one)
        self.actual.setdefault(step, actual)
        if known is not one and not (
            len(known.terms) == len(one.terms)
            and all(a.synapse is b.synapse and a.source == b.source for a, b in zip(known.terms, one.terms, strict=True))
        ):
            raise _no_readout(one, "is read beside another sum of spikes", "Concatenate them, or return one of them.")

    def population(self) -> str:
        """Add the readout to the run's populations, and return its name."""
        last = max(self.sums)
        final, trace = self.sums[last], self.run.trace
        for term in final.terms:
            if term.source != INPUT and not trace.by_name[term.source].is_spiking:
                raise _no_readout(final, "weights membranes that never fire", "Put these weights in front of the readout's cell.")
            if trace.has_time and trace.counts_calls(term.source):
                raise _no_readout(final, "adds up an input that stays", "Put neurons between the input and the readout.")
        shares, terms = self._shares(last, final)
        roots = two_shares(shares[0], shares[1], 1e-7) if len(shares) > 1 else (0.0 * shares[0],) * 2
        kept = [np.ones(()) + 0 * shares[0]]
        for _ in shares:
            kept.append(roots[0] * kept[-1] + roots[1] ** len(kept))
        if not all(np.allclose(one, other, rtol=1e-5, atol=1e-7) for one, other in zip(shares, kept[1:], strict=False)):
            raise _no_readout(
                final,
                "keeps sums of spikes otherwise than a leaky integrator",
                "Let v = share * v + input in every step, from v = 0.",
            )
        constant, rest = self._constants(kept)
        decays = [uniform(1 - np.broadcast_to(root, final.bias.size)) for root in roots]
        try:
            neuron = LI(current_decay=decays[1], voltage_decay=decays[0], rest=uniform(rest))
        except NetworkError as error:
            raise _no_readout(final, f"{error.where} {error.what}", error.remedy or "Keep shares between 0 and 1.") from error
        spec = NeuronSpec(neuron=neuron, gain=np.ones(()), has_current=bool((decays[1] != 1).any()))
        received = LinearExpression(terms=terms, bias=constant.reshape(final.shape))
        population = trace.new((terms[0].name or "readout", terms[0].where), spec, received)
        silent = np.zeros((len(self.actual[last]), final.bias.size))
        for step in range(last + 1):
            v = self.actual[step].double().numpy() if step in self.actual else None
            population.steps.append(StepRecord(silent, silent, v))
        return population.name

    def _shares(self, last: int, final: LinearExpression) -> tuple[list[Floats], tuple[Term, ...]]:
        """Return the share that is kept of each step's input after one step more, two, ..., and the terms of the newest input."""
        connections: dict[tuple[Any, ...], list[Term]] = {}
        for term in final.terms:
            key = (term.source, term.name, term.where, term.indices.tobytes(), term.is_pool)
            connections.setdefault(key, []).append(term)
        found: list[Floats] = []
        newest = []
        for terms in connections.values():
            terms = sorted(terms, key=lambda term: -term.step)
            first = terms[0]
            steps = [term.step for term in terms]
            is_whole = steps == list(range(steps[0], -1, -1)) or len(steps) == 1
            if not is_whole or any(one.synapse != first.synapse for one in terms):
                raise _no_readout(final, "adds up spikes of some earlier steps", "Give its sums to neurons of the next layer.")
            newest.append(replace(first, step=first.step - last))
            shares = [_ratio(one, first) for one in terms[1:]]
            if found and shares and not all(np.allclose(*pair, rtol=1e-6) for pair in zip(found, shares, strict=False)):
                raise _no_readout(final, "keeps other shares of each input", "Leak the sum of all inputs.")
            found = max(found, shares, key=len)
        if len(found) == 1 or (not found and last == 0):
            raise _no_readout(final, "makes too few steps to find its decays", "Give a sample of at least three steps.")
        return found or [np.zeros(())], tuple(newest)

    def _constants(self, kept: Sequence[Floats]) -> tuple[Floats, Floats]:
        """Return what arrives at every step, and the potential that membranes start at and leak to, (n,)."""
        sums = [kept[0]]
        for one in kept[1:]:
            sums.append(sums[-1] + one)
        steps = sorted(self.sums)
        first, n = steps[0], self.sums[steps[0]].bias.size
        biases = {step: self.sums[step].bias.reshape(-1) for step in steps}
        weight = [np.broadcast_to(sums[min(step, len(sums) - 1)], n) for step in steps]
        rest = np.zeros(n)
        constant = biases[first] / weight[0]
        grows = weight[-1] - weight[0]
        if (np.abs(grows) > 1e-9).all():
            constant = (biases[steps[-1]] - biases[first]) / grows
            rest = biases[first] - constant * weight[0]
        rest = np.where(np.abs(rest) < 1e-6 * np.abs(constant), 0.0, rest)
        expected = (rest + constant * one for one in weight)
        if not all(np.allclose(biases[step], one, rtol=1e-5, atol=1e-6) for step, one in zip(steps, expected, strict=True)):
            raise _no_readout(
                self.sums[first], "starts elsewhere than where it leaks to, or adds a constant at some steps", "Start at zero."
            )
        return constant, rest


def _ratio(one: Term, first: Term) -> Floats:
    """Return a term's factor over that of another with the same weights, () or one for each element."""
    ratio = np.asarray(one.factor / first.factor if one.has_weights else one.gain / first.gain)
    if not ratio.shape or (ratio == ratio.flat[0]).all():
        return np.asarray(ratio.flat[0])
    per_element: Floats = ratio[first.indices.reshape(-1) - 1] if one.has_weights else ratio
    return per_element


def _no_readout(sums: LinearExpression, what: str, remedy: str) -> ExtractError:
    where = next((term.where for term in sums.terms if term.where), "model")
    source = "the chip's readouts are membranes that leak by a fixed share in each step"
    return ExtractError(where, what, source=source, remedy=remedy)


def in_order(populations: list[TracedPopulation], last: str | None) -> list[TracedPopulation]:
    """Sort the populations behind their sources; the one that the output comes from is last, if it is no other's source."""
    if last not in {term.source for p in populations for term in p.expression.terms if term.source != p.name}:
        populations = sorted(populations, key=lambda p: p.name == last)  # False sorts before True, and the sort is stable
    by_name = {p.name: p for p in populations}
    labels = {p.name: p.module[1] for p in populations}
    return [by_name[name] for name in topological_order({p.name: p.sources for p in populations}, labels)]


# ------------------------------------------------------------------------------------------------ check against the model


def check_against_model(trace: PopulationTrace, populations: Sequence[TracedPopulation], network: Network) -> None:
    """Compare each layer with its population, step by step, from what the population received to what it answered.

    A neuron so near its threshold that rounding decides whether it fires is left out of the comparison from that step on.

    Raises
    ------
    ExtractError
        They differ.
    """
    for population in populations:
        layer = network[population.name]
        batch = len(population.steps[0].output)
        # Double precision: only the model's rounding is left.
        products = [product_of(connection.synapse, np.float64) for connection in layer.connections]
        u, v, unsure = (np.zeros((batch, layer.n_neurons)) for _ in range(3))
        # The chip's recurrence, fed with the random spikes that the model forwarded, so errors do not add up over layers.
        for t, step in enumerate(population.steps):
            u = (1 - layer.neuron.current_decay) * u + _arriving(trace, population, layer, products, t)
            v = (1 - layer.neuron.voltage_decay) * v + u + layer.bias
            # 1e-30: potentials of 0 alone must not give a tolerance of 0.
            near = TOLERANCE * max(1e-30, float(np.abs(v).max()), float(np.abs(u).max()))
            match layer.neuron:
                case LIF(threshold=threshold):
                    unsure[np.abs(v - threshold) <= near] = 1
                    fired = v > threshold
                    v[fired] = 0.0  # potentials count from the reset potential
                    _compare(population, t, fired, step.output, unsure, 0.5)
                case SubtractiveLIF(threshold=threshold, max_spikes=max_spikes):
                    multiples = v / threshold
                    below_most = np.rint(multiples) <= max_spikes
                    unsure[(np.abs(multiples - np.rint(multiples)) * threshold <= near) & (multiples > 0.5) & below_most] = 1
                    n_spikes = np.clip(np.floor(multiples), 0, max_spikes)
                    v = v - n_spikes * threshold
                    _compare(population, t, n_spikes, step.output, unsure, 0.5)
                case LI():
                    pass  # its membranes are compared below
                case _:
                    raise unsupported_kind(layer.neuron)
            if step.v is not None:  # a max pooling has no membrane
                _compare(population, t, v + layer.neuron.rest, step.v, unsure, near + 1e-5 * float(np.abs(step.v).max()))


def _arriving(
    trace: PopulationTrace, population: TracedPopulation, layer: Layer, products: Sequence[Product], t: int
) -> NDArray[np.float64]:
    """Return what arrives at a layer at a step, (batch, n)."""
    batch, n_model = len(population.steps[0].output), len(population.expression.terms)
    arriving = np.zeros((batch, layer.n_neurons))
    for index, (connection, product) in enumerate(zip(layer.connections, products, strict=True)):
        if connection.source == layer.name and index >= n_model:  # part of the reset, which took what the neurons fired
            last = t - 1 - connection.delay_steps
            received = population.steps[last].output if last >= 0 else None
        elif connection.source in trace.by_name or connection.source == INPUT:
            # A layer's own spikes arrive a step later, without any delay.
            lag = connection.delay_steps + (connection.source == layer.name)
            received = trace.forwarded(connection.source, t, -lag)
        else:  # the neuron that carries biases fires at every step
            received = np.ones((batch, 1))
        if received is not None:
            arriving += product(received.astype(np.uint8))
    return arriving


def _compare(
    population: TracedPopulation,
    t: int,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    unsure: NDArray[np.float64],
    atol: float,
) -> None:
    """Raise for the first neuron that differs, except those that are `unsure`."""
    differs = (np.abs(ours - theirs) > atol) & (unsure == 0)
    if differs.any():
        sample, neuron = np.argwhere(differs)[0]
        raise ExtractError(
            population.module[1],
            f"was not read correctly: at step {t} neuron {neuron} of layer {population.name!r} gives "
            f"{ours[sample, neuron]:g}, the model's {theirs[sample, neuron]:g}",
            remedy="Some of its computation is hidden from torch's functions (compiled code, NumPy): write it in torch, or build "
            "the Network yourself.",
        )
