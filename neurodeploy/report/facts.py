"""The facts of a report: a layer's line, and how Lava compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from neurodeploy.budgets.budget import LayerBudget
from neurodeploy.placement import LayerUse, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class LavaCheck:
    """How a stretch in Lava's simulator compared with the emulator.

    Attributes
    ----------
    steps : int
        Steps run, over all samples.
    mismatches : int
        Spikes and membranes of any layer that differed.
    """

    steps: int
    mismatches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """A layer: what it uses now, what it may use, and what it needed before compression."""

    now: LayerUse
    connectivity: float
    budget: LayerBudget | None = None
    before: LayerUse | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of an entry of ``layers``."""
        use = _use_json(self.now)
        return {
            "name": self.now.layer,
            "neurons": use.pop("neurons"),
            "synapses": use.pop("synapses"),
            "connectivity": self.connectivity,
            **use,
            "before": None if self.before is None else _use_json(self.before),
            "budget": None if self.budget is None else {k: v for k, v in asdict(self.budget).items() if k != "layer"},
        }


def _use_json(use: LayerUse) -> dict[str, Any]:
    return {
        "neurons": use.neurons,
        "synapses": use.synapses,
        "weight_bits": use.weight_bits,
        "encoding": use.encoding,
        "fan_in": use.fan_in,
        "delay_steps": use.delay_steps,
        "synapse_memory_bits": use.synapse_memory_bits,
        "input_axons": use.input_axons,
        "output_axons": use.output_axons,
        "cores": use.cores,
        "slices": use.slices,
    }


def board_json(placement: Placement) -> dict[str, Any]:
    """What a report says of a placement's cores, their resources, traffic and cost; None for what is not known."""
    mean = placement.mean_utilization()
    fullest = dict(zip(placement.resources, placement.utilizations().max(axis=0).tolist(), strict=True))
    traffic, estimate = placement.traffic(), None
    if traffic is not None:
        estimate = traffic.estimate()
    return {
        "utilization": {
            name: {"mean": mean[name], "fullest": fullest[name], "limit": limit.number, "source": limit.where}
            for name in mean
            for limit in (placement.profile[f"{name}_per_core"],)
        },
        "traffic": None if traffic is None else {
            "rates": "measured" if traffic.links.measured else "assumed",
            "spikes": float(traffic.links.spikes.sum()),
            "spike_hops": traffic.spike_hops(),
            "between_chips": traffic.between_chips(),
            "busiest_link": float(traffic.on_links().max(initial=0.0)),
        },
        "estimate": None if estimate is None else {
            "energy_j": estimate.energy_j,
            "time_s": estimate.time_s,
            "energy_j_by_kind": estimate.energy_j_by_kind,
            "source": placement.profile["synop_sparse_energy"].source,
        },
    }  # fmt: skip
