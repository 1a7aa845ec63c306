"""Extraction: a `torch.nn.Module` with Norse cells becomes a `Network`, exactly, or is refused by name.

The extracted network is checked numerically against the model: from what each population received, its layer has to compute what
the population answered, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten

from neurodeploy.errors import ExtractError, unsupported_kind
from neurodeploy.frontends.assembly import assemble, topological_order
from neurodeploy.frontends.torch.model_run import run_model
from neurodeploy.frontends.torch.populations import SUPPORTED_CELLS, PopulationTrace, TracedPopulation, layer_specs
from neurodeploy.frontends.torch.tracer import ExpressionValue, TracedTensor, UnsupportedValue
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import LI, LIF, Layer, Network
from neurodeploy.simulation.reference import Product, product_of

TOLERANCE = 1e-3
"""Share of the largest membrane potential or current that a model in single precision may lose by rounding, over its steps."""


def extract(model: torch.nn.Module, sample: torch.Tensor) -> Network:
    """Read a Norse network by running it.

    The model runs as its user would call it, in eval mode, on random spikes; every tensor carries its value in terms of spikes.
    Linear modules and functions fold into one synapse from each population to each. Max pooling of spikes becomes a layer of
    neurons that fire where any of their inputs does. A bias in front of neurons with a synaptic current comes from one more
    neuron that always fires (`"bias"`). What the model computes from the spikes of its last neurons (softmax, a mean over time)
    is left to the host. The network is then checked against the answers of the model's neurons. The model is left as it was.

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
    if not isinstance(sample, torch.Tensor) or sample.ndim < 2:
        raise ExtractError("sample", "is not a tensor (batch, *input_shape)", remedy="Give one step of input.")
    if not isinstance(model, torch.nn.Module):
        raise ExtractError("model", f"is a {type(model).__name__}, not a torch.nn.Module")
    run, output = run_model(model, sample)
    if not run.trace.by_name:
        raise ExtractError("model", f"holds no neurons{_hidden_by(output)}", remedy=f"Supported are {SUPPORTED_CELLS}.")
    populations = _in_order(list(run.trace.by_name.values()), _output_source(output))
    specs, timestep_s = layer_specs(populations)
    network = assemble(run.input_shape, specs, timestep_s)
    check_against_model(run.trace, populations, network)
    return network


def _output_source(output: Any) -> str | None:
    """Return the population whose spikes the model's output is computed from; refuse weights behind the last neurons."""
    first = output[0] if isinstance(output, (tuple, list)) and len(output) else output  # models return (output, states)
    values = [leaf.traced_value for leaf in tree_flatten(first)[0] if isinstance(leaf, TracedTensor)]
    for value in values:
        if isinstance(value, UnsupportedValue) and value.is_weighted:
            raise _no_neurons(value.weights) if value.weights else value.error()
        if isinstance(value, ExpressionValue):
            for term in (term for step in value.steps for term in step.terms):
                if term.synapse is not None:
                    raise _no_neurons(term.where)
                if term.source != INPUT:
                    return term.source
    return None


def _hidden_by(output: Any) -> str:
    """Say which function keeps a model's output from being read, as where neurons compare something that is no membrane."""
    values = [leaf.traced_value for leaf in tree_flatten(output)[0] if isinstance(leaf, TracedTensor)]
    return next((f": {value.where} {value.what}" for value in values if isinstance(value, UnsupportedValue)), "")


def _no_neurons(where: str) -> ExtractError:
    return ExtractError(
        where,
        "ends the model without neurons: it weights, pools or adds up spikes that no neuron receives",
        remedy="Put a readout such as LICell behind it, or take it out of the model and compute it on the host.",
    )


def _in_order(populations: list[TracedPopulation], last: str | None) -> list[TracedPopulation]:
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
            u = (1 - layer.neuron.current_decay) * u + _arriving(trace, layer, products, t, batch)
            v = (1 - layer.neuron.voltage_decay) * v + u + layer.bias
            # 1e-30: potentials of 0 alone must not give a tolerance of 0.
            near = TOLERANCE * max(1e-30, float(np.abs(v).max()), float(np.abs(u).max()))
            match layer.neuron:
                case LIF(threshold=threshold):
                    unsure[np.abs(v - threshold) <= near] = 1
                    fired = v > threshold
                    v[fired] = 0.0  # potentials count from the reset potential
                    _compare(population, t, fired, step.output, unsure, 0.5)
                case LI():
                    pass  # its membranes are compared below
                case _:
                    raise unsupported_kind(layer.neuron)
            if step.v is not None:  # a max pooling has no membrane
                _compare(population, t, v + layer.neuron.rest, step.v, unsure, near + 1e-5 * float(np.abs(step.v).max()))


def _arriving(trace: PopulationTrace, layer: Layer, products: Sequence[Product], t: int, batch: int) -> NDArray[np.float64]:
    """Return what arrives at a layer at a step, (batch, n)."""
    arriving = np.zeros((batch, layer.n_neurons))
    for connection, product in zip(layer.connections, products, strict=True):
        if connection.source in trace.by_name or connection.source == INPUT:
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
