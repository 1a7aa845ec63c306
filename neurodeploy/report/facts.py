"""The facts of a report: a layer's line, and how Lava compared."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from neurodeploy.budget import LayerBudget
from neurodeploy.placement import LayerUse


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
        "synapse_memory_bits": use.synapse_memory_bits,
        "input_axons": use.input_axons,
        "output_axons": use.output_axons,
        "cores": use.cores,
    }
