"""What a step costs, in energy and time: an estimate from counted events and the chip's figures.

Energy is a sum: every event costs what its kind costs. Time is a race. Within a step each core works through two queues side by
side, and the step ends, with a synchronisation of all tiles, when the last queue of the slowest core is empty::

    sending   = accesses + updates + spikes of its neurons, one after the other, + messages out
    receiving = messages in + synaptic operations
    time      = max over cores (sending, receiving) + the longest way through the mesh + synchronisation

That is how SANA-FE (Boyle et al., IEEE TCAD 2025, doi 10.1109/TCAD.2025.3537971) prices events, with its figures for Loihi after
Davies et al. 2018. Nobody waits for a busy mesh here, so the time is short where one core's messages hold up another's, or where
a core's work all comes late in the step; benchmarks/sanafe_check.py says by how much.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import NetworkError, ProfileError
from neurodeploy.nouns import ByValue, check_range, freeze

OUTSIDE = -1
"""Source of a flow that no core sends: input from off the chip, which costs its target, and its hops if it has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCost:
    """What one event takes; neither is below zero."""

    energy_j: float
    time_s: float

    def __post_init__(self) -> None:
        if not (0 <= self.energy_j < np.inf and 0 <= self.time_s < np.inf):
            raise ProfileError("EventCost", f"{self.energy_j} J and {self.time_s} s are not what an event can cost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one event of each kind costs on a chip, and what it takes to end a step.

    Attributes
    ----------
    synop_dense, synop_sparse, synop_convolution : EventCost
        One synapse of an arriving message, by how its axon is stored.
    neuron_access, neuron_update, neuron_spike : EventCost
        A neuron is accessed in every step, updated where its state or input is not zero, and some fire: costs add up.
    message_in, message_out : EventCost
        One (neuron that fires, target core) pair, at the target and at the source.
    hop_east_west, hop_north_south, hop_between_chips : EventCost
        One message over one link of the mesh, or from chip to chip.
    sync_tiles, sync_time_s : tuple
        From so many used tiles on, synchronisation takes so long; ascending, the first from 1 tile.
    """

    synop_dense: EventCost
    synop_sparse: EventCost
    synop_convolution: EventCost
    neuron_access: EventCost
    neuron_update: EventCost
    neuron_spike: EventCost
    message_in: EventCost
    message_out: EventCost
    hop_east_west: EventCost
    hop_north_south: EventCost
    hop_between_chips: EventCost
    sync_tiles: tuple[int, ...]
    sync_time_s: tuple[float, ...]

    def __post_init__(self) -> None:
        steps = list(self.sync_tiles)
        if len(steps) != len(self.sync_time_s) or steps[:1] != [1] or steps != sorted(set(steps)):
            raise ProfileError("sync_tiles", f"{self.sync_tiles} does not ascend from 1 tile, one for each sync_time_s")

    def sync_s(self, tiles_used: int) -> float:
        """Time to synchronise so many tiles: the table's last entry that they reach; none where nothing is used."""
        reached = [time for tiles, time in zip(self.sync_tiles, self.sync_time_s, strict=True) if tiles <= tiles_used]
        return reached[-1] if reached else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepEvents(ByValue):
    """What happens in a step, or in an average one: events by core, and messages by flow from core to core.

    Attributes
    ----------
    synops_dense, synops_sparse, synops_convolution : array (n_cores,), float64
        Synapses that arriving messages meet, zeros of a dense axon included.
    neuron_accesses, neuron_updates, spikes : array (n_cores,), float64
        Neurons that stand there, that have anything to compute, that fire.
    flow_source, flow_target : array (n_flows,), int64
        Indices into the arrays above; `OUTSIDE` for a source off the chip.
    flow_messages : array (n_flows,), float64
        One for each neuron that fires and has a synapse on the target core.
    flow_hops_east_west, flow_hops_north_south, flow_hops_between_chips : array (n_flows,), int64
        Links that one message of the flow crosses.
    tiles_used : int
        Tiles with a neuron on them.
    """

    synops_dense: NDArray[np.float64]
    synops_sparse: NDArray[np.float64]
    synops_convolution: NDArray[np.float64]
    neuron_accesses: NDArray[np.float64]
    neuron_updates: NDArray[np.float64]
    spikes: NDArray[np.float64]
    flow_source: NDArray[np.int64]
    flow_target: NDArray[np.int64]
    flow_messages: NDArray[np.float64]
    flow_hops_east_west: NDArray[np.int64]
    flow_hops_north_south: NDArray[np.int64]
    flow_hops_between_chips: NDArray[np.int64]
    tiles_used: int

    def __post_init__(self) -> None:
        names = [field.name for field in fields(self) if field.name != "tiles_used"]
        for name in names:
            freeze(self, name, np.int64 if name in _WHOLE else np.float64)
        for name in names:
            array, like = getattr(self, name), self.flow_messages if name.startswith("flow_") else self.spikes
            if array.ndim != 1 or array.shape != like.shape:
                raise NetworkError(f"StepEvents.{name}", f"has shape {array.shape}, not {like.shape}")
            low = OUTSIDE if name == "flow_source" else 0
            check_range(self, name, low, self.n_cores - 1 if name in ("flow_source", "flow_target") else np.inf)

    @property
    def n_cores(self) -> int:
        return int(self.spikes.size)

    @property
    def messages_in(self) -> NDArray[np.float64]:
        """(n_cores,): messages that arrive, from outside too."""
        return self._at(self.flow_target)

    @property
    def messages_out(self) -> NDArray[np.float64]:
        """(n_cores,): messages that leave, one for each target core."""
        return self._at(self.flow_source)

    def _at(self, core: NDArray[np.int64]) -> NDArray[np.float64]:
        on_chip = core != OUTSIDE
        totals: NDArray[np.float64] = np.bincount(core[on_chip], self.flow_messages[on_chip], self.n_cores).astype(np.float64)
        return totals

    def flow_way_s(self, figures: Figures) -> NDArray[np.float64]:
        """(n_flows,): how long one message of each flow is under way."""
        way: NDArray[np.float64] = (
            self.flow_hops_east_west * figures.hop_east_west.time_s
            + self.flow_hops_north_south * figures.hop_north_south.time_s
            + self.flow_hops_between_chips * figures.hop_between_chips.time_s
        )
        return way

    def by_kind(self) -> dict[str, NDArray[np.float64]]:
        """Events of each kind that `Figures` prices: by core, hops by flow."""
        return {
            "synop_dense": self.synops_dense,
            "synop_sparse": self.synops_sparse,
            "synop_convolution": self.synops_convolution,
            "neuron_access": self.neuron_accesses,
            "neuron_update": self.neuron_updates,
            "neuron_spike": self.spikes,
            "message_in": self.messages_in,
            "message_out": self.messages_out,
            "hop_east_west": self.flow_messages * self.flow_hops_east_west,
            "hop_north_south": self.flow_messages * self.flow_hops_north_south,
            "hop_between_chips": self.flow_messages * self.flow_hops_between_chips,
        }


_WHOLE = {"flow_source", "flow_target", "flow_hops_east_west", "flow_hops_north_south", "flow_hops_between_chips"}
_SENDING = ("neuron_access", "neuron_update", "neuron_spike", "message_out")
_RECEIVING = ("message_in", "synop_dense", "synop_sparse", "synop_convolution")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepEstimate:
    """What a step costs; an estimate, as good as the figures and the counts.

    Attributes
    ----------
    energy_j, time_s : float
    energy_j_by_kind : dict of str to float
        By the names of `Figures`; they add up to `energy_j`.
    sending_s, receiving_s : float
        What the busiest core takes for its two queues.
    flight_s : float
        The longest way that a message takes through the mesh.
    sync_s : float
        What ends the step. Time is the longer of the two queues, and flight and synchronisation.
    busiest_core : int
        Index into the events' arrays; -1 where there is no core.
    """

    energy_j: float
    time_s: float
    energy_j_by_kind: dict[str, float]
    sending_s: float
    receiving_s: float
    flight_s: float
    sync_s: float
    busiest_core: int


def estimate_step(events: StepEvents, figures: Figures) -> StepEstimate:
    """What a step with these events costs on a chip with these figures.

    An average step is faster than the steps' average, as not every step is busiest on the same core: by up to a fifth where few
    neurons fire. Where steps are known one by one, estimate each and take the mean; energies agree either way.
    """
    energy = {kind: float(n.sum()) * _cost(figures, kind).energy_j for kind, n in events.by_kind().items()}
    sending, receiving = queues_s(events, figures)
    busy = np.maximum(sending, receiving)
    core = int(busy.argmax()) if busy.size else -1
    # A flow that is seen in one step of ten has a tenth of a message, and lengthens the average by a tenth of its way.
    flight = np.minimum(events.flow_messages, 1) * events.flow_way_s(figures)
    flight_s = float(flight.max(initial=0.0))
    sync_s = figures.sync_s(events.tiles_used)
    return StepEstimate(
        energy_j=sum(energy.values()),
        time_s=float(busy.max(initial=0.0)) + flight_s + sync_s,
        energy_j_by_kind=energy,
        sending_s=float(sending[core]) if busy.size else 0.0,
        receiving_s=float(receiving[core]) if busy.size else 0.0,
        flight_s=flight_s,
        sync_s=sync_s,
        busiest_core=core,
    )


def queues_s(events: StepEvents, figures: Figures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How long each core takes to send, and how long to receive; two arrays (n_cores,)."""
    counts, none = events.by_kind(), np.zeros(events.n_cores)
    sending = sum((counts[kind] * _cost(figures, kind).time_s for kind in _SENDING), none)
    receiving = sum((counts[kind] * _cost(figures, kind).time_s for kind in _RECEIVING), none)
    return sending, receiving


def _cost(figures: Figures, kind: str) -> EventCost:
    cost: EventCost = getattr(figures, kind)
    return cost
