"""In which order a network's layers answer: on its own clock, layer by layer, many steps at a time.

Step t of a layer answers step t of the input. It hears what its sources fired at step t, or d steps before that through a
connection that is delayed by d; from itself it hears step t - 1 at the latest. Before step 0 nobody fired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from neurodeploy.graph import INPUT, Connection, Graph, Population
from neurodeploy.records import samples_first
from neurodeploy.simulation.products import Number, Product, product_of

NUMBERS_AT_ONCE = 1 << 22
"""What arrives at a layer is worked out for so many neurons, samples and steps at a time: memory does not grow with steps."""


class Neurons(Protocol):
    """The state of a layer, for a batch of samples at once, and the step that moves it on."""

    v: NDArray[Any]

    def step(self, arriving: NDArray[Any]) -> NDArray[np.bool_]:
        """From what arrives at the neurons (batch, n) to whether they fire."""


@dataclass(frozen=True)
class Stage:
    """A layer that is ready to run: its neurons at rest, and the type of number in which its synapses add up."""

    layer: Population[Any, Any]
    neurons: Neurons
    number: Number

    def products(self, recurrent: bool) -> list[tuple[Connection[Any], Product]]:
        """Its connections from itself, or the others, with how spikes pass them."""
        some = [c for c in self.layer.connections if (c.source == self.layer.name) is recurrent]
        return [(connection, product_of(connection.synapse, self.number)) for connection in some]


Records = tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[Any]]]


def run_stages(
    network: Graph[Any],
    stages: Sequence[Stage],
    spikes: NDArray[np.uint8],
    *,
    record: Literal["output", "all"],
    membrane: type[np.int32] | type[np.float64],
) -> Records:
    """Run every sample from rest; what the recorded layers fired, and their membranes, in the axes of a record."""
    batch, n_steps = spikes.shape[0], spikes.shape[-1]
    given = np.moveaxis(spikes.reshape(batch, -1, n_steps), -1, 0)
    at_once = min(n_steps, max(1, NUMBERS_AT_ONCE // (batch * max(layer.n_neurons for layer in network))))
    heard = _Heard(network, batch, at_once)
    running = [_Running(stage, n_steps, batch, membrane, record == "all" or stage.layer is network.output) for stage in stages]
    for start in range(0, n_steps, at_once):
        n = min(at_once, n_steps - start)
        heard.now(INPUT, n)[...] = given[start : start + n]
        for layer in running:
            layer.advance(heard, start, n)
        heard.pass_on(n)
    recorded = [layer for layer in running if layer.is_recorded]
    return {r.stage.layer.name: samples_first(r.fired, r.stage.layer.shape) for r in recorded}, {
        r.stage.layer.name: samples_first(r.v, r.stage.layer.shape) for r in recorded
    }


class _Heard:
    """What every source fires in the steps that are worked on, after as many earlier steps as anybody still waits for."""

    def __init__(self, network: Graph[Any], batch: int, at_once: int) -> None:
        sizes = {INPUT: network.n_inputs} | {layer.name: layer.n_neurons for layer in network}
        self.reach = {
            name: max((c.delay_steps + (layer.name == name) for layer, c in network.targets(name)), default=0) for name in sizes
        }
        self.spikes = {name: np.zeros((self.reach[name] + at_once, batch, n), dtype=np.uint8) for name, n in sizes.items()}

    def now(self, source: str, n: int, delay_steps: int = 0) -> NDArray[np.uint8]:
        """(n, batch, n_source): the spikes of the steps that are worked on, or of as many steps `delay_steps` before."""
        first = self.reach[source] - delay_steps
        return self.spikes[source][first : first + n]

    def pass_on(self, n: int) -> None:
        """The last of `n` steps become the earlier ones."""
        for name, reach in self.reach.items():
            if reach:
                self.spikes[name][:reach] = self.spikes[name][n : n + reach].copy()


class _Running:
    """A stage in the course of a run, and what is recorded of it."""

    def __init__(self, stage: Stage, n_steps: int, batch: int, membrane: type, is_recorded: bool) -> None:
        self.stage, self.is_recorded = stage, is_recorded
        self.forward, self.back = stage.products(recurrent=False), stage.products(recurrent=True)
        kept = (n_steps if is_recorded else 0, batch, stage.layer.n_neurons)
        self.fired: NDArray[np.uint8] = np.zeros(kept, dtype=np.uint8)
        self.v: NDArray[Any] = np.zeros(kept, dtype=membrane)

    def advance(self, heard: _Heard, start: int, n: int) -> None:
        """Answer the steps start..start + n - 1: what comes from others is added up at once, what comes back step by step."""
        name, neurons = self.stage.layer.name, self.stage.neurons
        arriving = self._from_others(heard, n)
        fired = heard.now(name, n)
        for t in range(n):
            sums = arriving[t]
            for connection, product in self.back:
                sums = sums + product(heard.now(name, t + 1, connection.delay_steps + 1)[t])
            fired[t] = neurons.step(sums)
            if self.is_recorded:
                self.v[start + t] = neurons.v
        if self.is_recorded:
            self.fired[start : start + n] = fired

    def _from_others(self, heard: _Heard, n: int) -> NDArray[Any]:
        """(n, batch, n_neurons): what arrives at each step from the input and from layers before."""
        batch, n_neurons = self.fired.shape[1:]
        total: NDArray[Any] | None = None
        for connection, product in self.forward:
            spikes = heard.now(connection.source, n, connection.delay_steps)
            part = product(spikes.reshape(n * batch, -1))
            total = part if total is None else total + part
        if total is None:
            return np.zeros((n, batch, n_neurons), dtype=self.stage.number)
        return total.reshape(n, batch, n_neurons)
