"""The numbers of a page, in rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from neurodeploy import versions
from neurodeploy.board.energy import StepEstimate
from neurodeploy.board.journeys import unpriced
from neurodeploy.hardware import HardwareProfile
from neurodeploy.placement import Placement
from neurodeploy.records import EpochRecord
from neurodeploy.report import Accuracy, LayerReport, Report
from neurodeploy.report.chips import chip_json
from neurodeploy.report.text import with_interval

USES = {
    "synapse_memory_bits": "synapse memory, bits", "input_axons": "axons in", "output_axons": "axons out", "cores": "cores",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a layer takes of something: now, of how much, and before."""

    now: int
    may: int | None
    was: int | None

    @property
    def share(self) -> float | None:
        """Of the budget, 0 and up."""
        return None if self.may is None else self.now / self.may if self.may else 0.0


def uses(layer: LayerReport) -> list[Use]:
    """A cell for each of `USES`."""
    return [
        Use(
            now=getattr(layer.now, name),
            may=None if layer.budget is None else getattr(layer.budget, name),
            was=None if layer.before is None else getattr(layer.before, name),
        )
        for name in USES
    ]


def prices(history: Iterable[EpochRecord], layer: str) -> list[tuple[str, float]]:
    """Resource and the highest price that a slice of the layer paid for a unit of it in any epoch, dearest first."""
    highest: dict[str, float] = {}
    for epoch in history:
        for constraint, price in epoch.multipliers.items():
            place, _, resource = constraint.rpartition(" ")
            if place.startswith(f"{layer}["):
                highest[resource] = max(price, highest.get(resource, 0.0))
    return sorted(((name, price) for name, price in highest.items() if price > 0), key=lambda pair: -pair[1])


def ladder(accuracy: Accuracy) -> list[tuple[str, str, str]]:
    """Rung, what runs there, and accuracy with its interval."""
    return [(name, what, with_interval(share, n)) for name, what, share, n in accuracy.rungs()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a step costs by the chip's published figures, and where each figure is from."""

    estimate: StepEstimate
    kinds: list[tuple[str, float, float, str, bool]]
    free: tuple[str, ...]


def cost_of(placement: Placement) -> Cost | None:
    """None where nobody asked who talks to whom, or the profile has no figures."""
    traffic = placement.traffic()
    estimate = None if traffic is None else traffic.estimate()
    if estimate is None:
        return None
    limits = placement.profile.limits
    kinds = [
        (kind.replace("_", " "), energy, energy / estimate.energy_j if estimate.energy_j else 0.0, limit.source, limit.assumed)
        for kind, energy in sorted(estimate.energy_j_by_kind.items(), key=lambda item: -item[1])
        for limit in (limits.get(f"{kind}_energy"),)
        if limit is not None
    ]
    return Cost(estimate=estimate, kinds=kinds, free=tuple(name.replace("_", " ") for name in unpriced(placement.profile)))


def fingerprint(profile: HardwareProfile) -> str:
    """SHA-256 of all that a profile says, as ``neurodeploy profiles NAME --json`` prints it without spaces, keys sorted."""
    told = json.dumps(chip_json(profile), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()


def provenance(report: Report, command: str) -> list[tuple[str, Any]]:
    """How to get the same page again."""
    return [
        ("command", command or "called from Python"),
        ("seed", "none was drawn" if report.seed is None else report.seed),
        ("versions", versions.told()),
        ("profile", f"{report.profile.name}, SHA-256 {fingerprint(report.profile)}"),
        *((f"file: {what}", path) for what, path in report.files.items()),
    ]
