"""That the network which was read does what the model did: the same steps, given the same spikes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.populations import Population, Populations
from neurodeploy.graph import INPUT
from neurodeploy.network import LIF, Layer, Network
from neurodeploy.simulation.products import Product, product_of

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
            if isinstance(layer.neuron, LIF):
                unsure[np.abs(v - layer.neuron.threshold) <= near] = 1
                fired = v > layer.neuron.threshold
                v[fired] = 0.0
                _compare(population, t, fired, step.said, unsure, 0.5)
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
