"""That the network which was read does what the model did: the same steps, given the same spikes.

Networks from Norse: a `torch.nn.Module` becomes a `Network` of the chip's recurrence, exactly, or is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from norse.torch.module.lift import Lift
from numpy.typing import NDArray
from torch.utils._pytree import tree_flatten

from neurodeploy.errors import ExtractError, unsupported_kind
from neurodeploy.frontends.assembly import assemble, in_order
from neurodeploy.frontends.torch.cells import CELLS, SEQUENCES
from neurodeploy.frontends.torch.populations import Beyond, Known, Population, Populations, heard_by
from neurodeploy.frontends.torch.run import Run
from neurodeploy.frontends.torch.tracer import Traced
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import LI, LIF, Layer, Network
from neurodeploy.simulation.reference import Product, product_of

# -------------------- frontends.checking

TOLERANCE = 1e-3
"""Of the largest number that met at a neuron: what a model in single precision may have rounded, over its steps."""


def check_alike(run: Populations, populations: Sequence[Population], network: Network) -> None:
    """Hold each layer against its population, step by step, from what that heard to what it answered.

    Neurons so near their threshold that rounding decides are left out from there on.

    Raises
    ------
    ExtractError
        They differ.
    """
    for population in populations:
        layer = network[population.name]
        batch = len(population.steps[0].said)
        products = [product_of(connection.synapse, np.float64) for connection in layer.connections]
        u, v, unsure = (np.zeros((batch, layer.n_neurons)) for _ in range(3))
        for t, step in enumerate(population.steps):
            arriving = _arriving(run, layer, products, t, batch)
            u = (1 - layer.neuron.current_decay) * u + arriving
            v = (1 - layer.neuron.voltage_decay) * v + u + layer.bias
            near = TOLERANCE * max(1e-30, float(np.abs(v).max()), float(np.abs(u).max()))
            match layer.neuron:
                case LIF(threshold=threshold):
                    unsure[np.abs(v - threshold) <= near] = 1
                    fired = v > threshold
                    v[fired] = 0.0
                    _compare(population, t, fired, step.said, unsure, 0.5)
                case LI():
                    pass  # its membranes are compared below
                case _:
                    raise unsupported_kind(layer.neuron)
            if step.v is not None:
                _compare(population, t, v + layer.neuron.rest, step.v, unsure, near + 1e-5 * float(np.abs(step.v).max()))


def _arriving(run: Populations, layer: Layer, products: Sequence[Product], t: int, batch: int) -> NDArray[np.float64]:
    """(batch, n): what reaches a layer at a step."""
    arriving = np.zeros((batch, layer.n_neurons))
    for connection, product in zip(layer.connections, products, strict=True):
        ago = connection.delay_steps + (connection.source == layer.name)
        if connection.source in run.of_name or connection.source == INPUT:
            heard = run.passed(connection.source, t, -ago)
        else:  # the neuron that always fires
            heard = np.ones((batch, 1))
        if heard is not None:
            arriving += product(heard.astype(np.uint8))
    return arriving


def _compare(
    population: Population,
    t: int,
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
    unsure: NDArray[np.float64],
    atol: float,
) -> None:
    off = (np.abs(ours - theirs) > atol) & (unsure == 0)
    if off.any():
        sample, neuron = np.argwhere(off)[0]
        raise ExtractError(
            population.module[1],
            f"what was read is not what the model does: at step {t} neuron {neuron} of layer {population.name!r} gives "
            f"{ours[sample, neuron]:g}, the model's {theirs[sample, neuron]:g}",
            remedy="Something in it escapes torch's functions (compiled code, NumPy): write it in torch, or build the Network.",
        )  # fmt: skip


# -------------------- frontends.norse

CALLS = 3
"""How often a model of one step is called."""


def extract(model: torch.nn.Module, sample: torch.Tensor) -> Network:
    """Read a Norse network by running it.

    The model runs as its user would call it, in eval mode, on random spikes; every tensor remembers what it is, in spikes.
    Linear modules and functions fold into one synapse from each population to each, max pooling of spikes becomes a layer of
    neurons that fire where any of their inputs does, and a bias in front of neurons with a current comes from one neuron more
    that always fires (`"bias"`). What the model makes of what its last neurons say (softmax, a mean over time) is left to the
    host. The network is then held against what the model's neurons answered. The model is as it was before.

    Parameters
    ----------
    model : torch.nn.Module
        Norse cells between torch's modules and functions (docs/operators.md lists them), states passed by hand or by
        ``SequentialState``. A model of one step takes its states after its input and returns them after its output, or keeps
        them itself. A model of many steps loops over one side of its input, or over one input that stays; or has ``Lift``,
        ``LIF`` and the like, for which time is the first side.
    sample : tensor (batch, \\*input_shape), or with a side for time where the model takes many steps
        Only its shape and type count.

    Returns
    -------
    Network
        One layer a population or max pooling, named as `layer_name` names the path of its first weights in the model.

    Raises
    ------
    ExtractError
        Anything that is not supported, by path and type: nothing is dropped or approximated.
    """
    if not isinstance(sample, torch.Tensor) or sample.ndim < 2:
        raise ExtractError("sample", "is not a tensor (batch, *input_shape)", remedy="Give one step of input.")
    if not isinstance(model, torch.nn.Module):
        raise ExtractError("model", f"is a {type(model).__name__}, not a torch.nn.Module")
    run, output = _ran(model, sample)
    if not run.populations.of_name:
        raise ExtractError("model", "holds no neurons", remedy=f"Supported are {CELLS}.")
    populations = _in_order(list(run.populations.of_name.values()), _last(output))
    heard, timesteps = heard_by(populations)
    if len(timesteps) > 1:
        raise ExtractError(
            "model", f"its cells have different time steps: {sorted(timesteps)} s", remedy="Give all cells one dt."
        )
    run.populations.given = run.given()
    network = assemble(run.input_shape, heard, next(iter(timesteps), 1e-3))
    check_alike(run.populations, populations, network)
    return network


def _ran(model: torch.nn.Module, sample: torch.Tensor) -> tuple[Run, Any]:
    """The model's run, and what it returned; where a step that it took of its input turns out to be none, another."""
    run = Run(model)
    try:
        with run.followed():
            output = _call(run, sample)
    except ExtractError:
        if run.axis is None or run.populations.has_steps:
            raise
    if run.axis is None or run.populations.has_steps:
        return run, output
    run = Run(model, may_step=False)
    with run.followed():
        return run, _call(run, sample)


def _call(run: Run, sample: torch.Tensor) -> Any:
    """Call the model, as often as it takes to see that it does the same at every step; what it returns at last."""
    model, of_sequences = run.model, any(isinstance(m, (*SEQUENCES, Lift)) for m in run.model.modules())
    if of_sequences and (sample.ndim < 3 or len(sample) < 2):
        raise ExtractError(
            "sample", f"has shape {tuple(sample.shape)}, and the model takes (time, batch, *input_shape) with some steps of time",
            remedy="Give at least two steps.",
        )  # fmt: skip
    rest: Sequence[Any] = ()
    for call in range(CALLS):
        run.populations.call = call
        answer = model(run.drawn(sample, of_sequences), *rest)
        if call == 0 and (run.populations.has_time or run.populations.has_steps):
            return answer
        if call and any(len(p.steps) != call + 1 for p in run.populations.of_name.values()):
            _refuse_forgetting(run, call)
        rest = _states(model, answer)
    return answer


def _states(model: torch.nn.Module, answer: Any) -> Sequence[Any]:
    """What the model returned behind its output, if it takes as much behind its input."""
    parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    takes = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    is_open = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if type(model).forward is torch.nn.Sequential.forward:
        takes = 1
    rest = answer[1:] if isinstance(answer, (tuple, list)) else ()
    return rest if len(rest) <= takes or is_open else ()


def _refuse_forgetting(run: Run, call: int) -> None:
    population = next(p for p in run.populations.of_name.values() if len(p.steps) != call + 1)
    raise ExtractError(
        population.module[1], f"makes {len(population.steps)} steps in {call + 1} calls: its state is not kept between them",
        remedy="Return the states and take them as further arguments of forward, or loop over time in forward.",
    )  # fmt: skip


def _last(output: Any) -> str | None:
    """The population that the model's output comes from; refuses what stands between."""
    first = output[0] if isinstance(output, (tuple, list)) and len(output) else output
    for leaf in tree_flatten(first)[0]:
        if not isinstance(leaf, Traced):
            continue
        if isinstance(leaf.meaning, Beyond) and leaf.meaning.is_weighted:
            raise leaf.meaning.error()
        if isinstance(leaf.meaning, Known):
            for term in (term for form in leaf.meaning.forms for term in form.terms):
                if term.synapse is not None:
                    raise ExtractError(
                        term.where, "ends the model without neurons", remedy="Put a readout such as LICell behind it."
                    )
                if term.source != INPUT:
                    return term.source
    return None


def _in_order(populations: list[Population], last: str | None) -> list[Population]:
    """Each behind those that it hears; the one that the output comes from last, where nobody hears it."""
    heard = {term.source for p in populations for term in p.form.terms if term.source != p.name}
    if last not in heard:
        populations = sorted(populations, key=lambda p: p.name == last)
    of_name = {p.name: p for p in populations}
    where = {p.name: p.module[1] for p in populations}
    return [of_name[name] for name in in_order({p.name: p.hears for p in populations}, where)]
