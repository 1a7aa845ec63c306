"""In which order a network's layers answer: on its own clock, layer by layer, many steps at a time.

Step t of a layer answers step t of the input. It hears what its sources fired at step t, or d steps before that through a
connection that is delayed by d; from itself it hears step t - 1 at the latest. Before step 0 nobody fired.

Who works on what: threads take parts of a batch or, where there are fewer samples than threads, share a sample.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurodeploy.ir.graph import INPUT, Graph, Population
from neurodeploy.simulation.records import samples_first

# -------------------- simulation.clock

NUMBERS_AT_ONCE = 1 << 21
"""What arrives at a layer is worked out for so many neurons, samples and steps at a time: memory does not grow with steps."""
WORD = 8
"""Rows of spikes are as many bytes as this divides; the last of them may be nobody's."""


class Memory(Protocol):
    """Where the arrays of a run lie: in this machine's memory, or on a device."""

    def zeros(self, shape: tuple[int, ...], kind: type[Any]) -> Any:
        """An array of zeros there; `kind` is a type of NumPy's."""

    def brought(self, array: NDArray[Any]) -> Any:
        """An array of NumPy's, as one there."""

    def told(self, array: Any) -> NDArray[Any]:
        """An array there, as one of NumPy's."""

    def copied(self, array: Any) -> Any:
        """Another array there, of the same numbers."""

    def turn(self, given: NDArray[Any], start: int, into: Any) -> None:
        """Fill `into` (n_steps, batch, n or more) there with the steps of `given` (batch, n, all steps) from `start` on."""


class Host:
    """The memory of this machine, in NumPy's arrays."""

    def zeros(self, shape: tuple[int, ...], kind: type[Any]) -> NDArray[Any]:
        return np.zeros(shape, dtype=kind)

    def brought(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def told(self, array: NDArray[Any]) -> NDArray[Any]:
        return array

    def copied(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy()

    def turn(self, given: NDArray[Any], start: int, into: NDArray[Any]) -> None:
        into[..., : given.shape[1]] = np.moveaxis(given[..., start : start + len(into)], -1, 0)


HOST = Host()


class Neurons(Protocol):
    """The state of a layer, for a batch of samples at once, and the steps that move it on."""

    def answer(self, arriving: Any, fired: Any, v: Any | None) -> None:
        """From what arrives (n_steps, batch, n) to who fires (n_steps, batch, n or more) and the membranes, where asked for.

        Zeros are left where it arrived, for what arrives next.
        """


class Synapses(Protocol):
    """The synapses of a connection."""

    def add(self, spikes: Any, arriving: Any) -> None:
        """Add what spikes (rows, n_in or more) weigh to what arrives (rows, n_out)."""


@dataclass(frozen=True)
class Stage:
    """A layer that is ready to run: its neurons at rest, its connections' synapses, the type of number in which they add up."""

    layer: Population[Any, Any]
    neurons: Neurons
    synapses: tuple[Synapses, ...]
    number: type[Any]


class Rooms:
    """Where what arrives adds up: zeros, lent to one layer after the other, and as many as work at the same time."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self._free: dict[type[Any], list[Any]] = defaultdict(list)

    @contextmanager
    def lent(self, size: int, kind: type[Any]) -> Iterator[Any]:
        """At least `size` numbers of a kind, all zero, and to be left so."""
        try:
            room = self._free[kind].pop()  # in one go: threads do not get the same
        except IndexError:
            room = self._new(size, kind)
        if len(room) < size:
            room = self._new(size, kind)
        yield room
        self._free[kind].append(room)  # after an error it is not: who knows what is in it

    def _new(self, size: int, kind: type[Any]) -> Any:
        room = self.memory.zeros((size,), kind)
        room[:] = 0  # written before it is read: then a system gives memory in large pages
        return room


Records = tuple[dict[str, NDArray[np.uint8]], dict[str, NDArray[Any]]]


class Run:
    """A batch of samples on its way through a network, from rest; its past is as long as its delays.

    Parameters
    ----------
    recorded : names of layers
    membrane : type
        Of the numbers in which membranes are recorded.
    given : type
        Of the numbers that the input is made of.
    memory : Memory
        Where all arrays lie until they are told.
    rooms : Rooms, optional
        Of that memory; those that run beside each other may have theirs in common.
    """

    def __init__(
        self,
        network: Graph[Any],
        stages: Sequence[Stage],
        batch: int,
        *,
        recorded: Collection[str],
        membrane: type[Any],
        given: type[Any] = np.uint8,
        memory: Memory = HOST,
        rooms: Rooms | None = None,
    ) -> None:
        self.memory = memory
        self.stages, self.batch, self.recorded, self.membrane = stages, batch, recorded, membrane
        largest = max(network.n_inputs, *(layer.n_neurons for layer in network))
        self.at_once, self.widest = max(1, NUMBERS_AT_ONCE // (batch * largest)), max(layer.n_neurons for layer in network)
        self.rooms = rooms or Rooms(memory)
        self.heard = _Heard(network, batch, self.at_once, given, memory)

    def advance(self, spikes: NDArray[Any]) -> Records:
        """Run the next steps (batch, \\*shape, n_steps); what the recorded layers fired, and their membranes."""
        n_steps = spikes.shape[-1]
        given = np.ascontiguousarray(spikes.reshape(self.batch, -1, n_steps))
        some = [stage.layer for stage in self.stages if stage.layer.name in self.recorded]
        fired, v = (
            {layer.name: self.memory.zeros((n_steps, self.batch, layer.n_neurons), kind) for layer in some}
            for kind in (np.uint8, self.membrane)
        )
        for start in range(0, n_steps, self.at_once):
            n = min(self.at_once, n_steps - start)
            self.memory.turn(given, start, self.heard.now(INPUT, n))
            for stage in self.stages:
                name = stage.layer.name
                with self.rooms.lent(n * self.batch * self.widest, stage.number) as room:
                    self._advance(stage, n, room, v[name][start : start + n] if name in v else None)
                if name in fired:
                    fired[name][start : start + n] = self.heard.now(name, n)[..., : stage.layer.n_neurons]
            self.heard.pass_on(n)
        shapes = {layer.name: layer.shape for layer in some}
        spikes_told, v_told = (
            {name: samples_first(self.memory.told(array), shapes[name]) for name, array in arrays.items()}
            for arrays in (fired, v)
        )
        return spikes_told, v_told

    def _advance(self, stage: Stage, n: int, room: Any, v: Any | None) -> None:
        """A layer answers `n` steps: what comes from others is added up at once, what comes back as soon as it can be known."""
        layer, fired = stage.layer, self.heard.now(stage.layer.name, n)
        arriving = room[: n * self.batch * layer.n_neurons].reshape(n, self.batch, -1)
        pairs = list(zip(layer.connections, stage.synapses, strict=True))
        for connection, synapses in pairs:
            if connection.source != layer.name:
                spikes = self.heard.now(connection.source, n, connection.delay_steps)
                synapses.add(_in_rows(spikes), _in_rows(arriving))
        back = [(c.delay_steps + 1, synapses) for c, synapses in pairs if c.source == layer.name]
        hop = min((delay for delay, _ in back), default=n)
        for start in range(0, n, hop):
            part = slice(start, min(start + hop, n))
            for delay, synapses in back:
                synapses.add(_in_rows(self.heard.now(layer.name, n, delay)[part]), _in_rows(arriving[part]))
            stage.neurons.answer(arriving[part], fired[part], v if v is None else v[part])


def _in_rows(array: Any) -> Any:
    return array.reshape(-1, array.shape[-1])


class _Heard:
    """What every source fires in the steps that are worked on, after as many earlier steps as anybody still waits for."""

    def __init__(self, network: Graph[Any], batch: int, at_once: int, given: type[Any], memory: Memory) -> None:
        self.memory = memory
        sizes = {INPUT: network.n_inputs} | {layer.name: layer.n_neurons for layer in network}
        self.reach = {
            name: max((c.delay_steps + (layer.name == name) for layer, c in network.targets(name)), default=0) for name in sizes
        }
        self.spikes: dict[str, Any] = {
            name: memory.zeros((self.reach[name] + at_once, batch, -(-n // WORD) * WORD), given if name == INPUT else np.uint8)
            for name, n in sizes.items()
        }

    def now(self, source: str, n: int, delay_steps: int = 0) -> Any:
        """(n, batch, n_source or more): the spikes of the steps that are worked on, or of as many `delay_steps` before."""
        first = self.reach[source] - delay_steps
        return self.spikes[source][first : first + n]

    def pass_on(self, n: int) -> None:
        """The last of `n` steps become the earlier ones."""
        for name, reach in self.reach.items():
            if reach:
                self.spikes[name][:reach] = self.memory.copied(self.spikes[name][n : n + reach])


# -------------------- simulation.threads

NEURONS_A_THREAD = 1 << 12
"""A thread is worth starting for so many neurons, those of all samples together."""
STATES_AT_ONCE = 1 << 17
"""Neurons of a layer that are worked on together, samples times neurons: what is held of them stays in a core's cache."""
SHARED_STATES = 1 << 16
"""Threads share the neurons of a layer, where these are so many, times samples and steps."""
SHARED_PAIRS = 1 << 23
"""They share rows of spikes, where these times the pairs of neurons are so many: below, waking a thread takes longer."""


def useful_threads(n_neurons: int) -> int:
    """As many as there are cores, where there is work for them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, max(1, n_neurons // NEURONS_A_THREAD))


def sizes_of_parts(n_samples: int, network: Graph[Any], threads: int) -> list[int]:
    """Samples in each part of the batch: parts small enough for a cache, and as many for one thread as for another."""
    largest = max(layer.n_neurons for layer in network)
    rounds = -(-n_samples * largest // (STATES_AT_ONCE * threads))
    parts = min(n_samples, rounds * threads)
    return [n_samples // parts + (k < n_samples % parts) for k in range(parts)]


class Team:
    """Threads that share a piece of work, range by range; a team of one works alone."""

    def __init__(self, size: int) -> None:
        self.size, self._others = size, ThreadPoolExecutor(size - 1) if size > 1 else None

    def share(self, work: Callable[[int, int], Any], n: int, *, worth_it: bool) -> list[Any]:
        """What `work(first, last)` gives for ranges that together are 0..n - 1; one, where waking others is not worth it."""
        size = min(self.size, n)
        if self._others is None or size < 2 or not worth_it:
            return [work(0, n)]
        ends = [n * k // size for k in range(size + 1)]
        tasks = [self._others.submit(work, ends[k], ends[k + 1]) for k in range(1, size)]
        return [work(0, ends[1]), *(task.result() for task in tasks)]


class SharedSynapses:
    """Synapses that a team passes spikes through, each of its threads some of the rows."""

    def __init__(self, synapses: Synapses, n_pairs: int, team: Team) -> None:
        self.synapses, self.n_pairs, self.team = synapses, n_pairs, team

    def add(self, spikes: NDArray[Any], arriving: NDArray[np.int32]) -> None:
        """Add what spikes (rows, n_in or more) weigh to what arrives (rows, n_out)."""

        def some(first: int, last: int) -> None:
            self.synapses.add(spikes[first:last], arriving[first:last])

        self.team.share(some, len(spikes), worth_it=len(spikes) * self.n_pairs >= SHARED_PAIRS)
