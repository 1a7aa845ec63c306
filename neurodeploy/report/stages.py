"""What a report states: the accuracy at each pipeline stage, the check in Lava, and what each layer and the board use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

# for types alone: importing the mapping takes longer than the report of a chip
if TYPE_CHECKING:
    from neurodeploy.mapping.budget.budget import LayerBudget
    from neurodeploy.mapping.placement import LayerUse, Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Share of test samples classified correctly, 0..1, at each pipeline stage; None where a stage was not run.

    Attributes
    ----------
    dense, compressed : float or None
        The torch model before and after compression.
    quantized : float or None
        Weights, thresholds, biases and decays rounded to the chip's, with arithmetic in floats.
    emulated : float or None
        The chip's integers throughout.
    lava : float or None
        Lava's simulator, on the first `lava_samples` of the test data.
    test_samples, lava_samples : int or None
    """

    dense: float | None = None
    compressed: float | None = None
    quantized: float | None = None
    emulated: float | None = None
    lava: float | None = None
    test_samples: int | None = None
    lava_samples: int | None = None

    def stages(self) -> tuple[tuple[str, str, float | None, int | None], ...]:
        """Name, what runs there, accuracy and number of samples of each stage, from the trained floats to Lava."""
        lava = f"Lava's simulator, {self.lava_samples or 0} samples"
        return (
            ("dense", "trained floats, no limits", self.dense, self.test_samples),
            ("compressed", "floats within the budget", self.compressed, self.test_samples),
            ("quantised", "weights, thresholds, decays rounded", self.quantized, self.test_samples),
            ("emulated", "the chip's integers throughout", self.emulated, self.test_samples),
            ("Lava", lava, self.lava, self.lava_samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LavaCheck:
    """Comparison of Lava's simulator with the emulator.

    Attributes
    ----------
    steps : int
        Steps run, over all samples.
    mismatches : int
        Number of spikes and membranes, of any layer, that differed.
    """

    steps: int
    mismatches: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """Resources of a layer: used now, allowed by its budget, and needed before compression."""

    now: LayerUse
    connectivity: float
    budget: LayerBudget | None = None
    before: LayerUse | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of an entry of ``layers``."""
        names = (
            "neurons", "synapses", "weight_bits", "encoding", "fan_in", "delay_steps", "synapse_memory_bits", "input_axons",
            "output_axons", "cores", "slices",
        )  # fmt: skip
        use, before = ({name: getattr(of, name) for name in names} if of is not None else None for of in (self.now, self.before))
        assert use is not None
        return {
            "name": self.now.layer,
            "neurons": use.pop("neurons"),
            "synapses": use.pop("synapses"),
            "connectivity": self.connectivity,
            **use,
            "before": before,
            "budget": None if self.budget is None else {k: v for k, v in asdict(self.budget).items() if k != "layer"},
        }


def board_json(placement: Placement) -> dict[str, Any]:
    """Cores, utilisation, traffic and cost of a placement as JSON keys; None where unknown."""
    mean = placement.mean_utilization()
    fullest = dict(zip(placement.resources, placement.utilizations().max(axis=0).tolist(), strict=True))
    traffic, estimate = placement.traffic(), None
    if traffic is not None:
        estimate = traffic.estimate()
    return {
        "cores": {
            "used": placement.cores_used,
            "available": placement.cores_available,
            "lower_bound": placement.cores_lower_bound,
            "chips": placement.chips_used,
        },
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
