"""The keys of `Report.to_json` and `inspection` are a promise to scripts; docs/json.md lists them. What was not run is None."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from rich.console import RenderableType

from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import html_paragraphs, html_table
from neurodeploy.mapping.budget.allocation import Gain
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.mapping.delay_balancing import Balance
from neurodeploy.mapping.placement import Placement
from neurodeploy.passes.quantize import LayerError
from neurodeploy.report.stages import Accuracy, LavaCheck, LayerReport, board_json
from neurodeploy.report.text import (
    accuracy_table,
    as_text,
    balance_lines,
    core_table,
    layer_table,
    traffic_lines,
    verdict,
    with_interval,
)
from neurodeploy.simulation.records import EpochRecord, SpikeRecord, Worth

DISTRIBUTION = "neurodeploy-snn"
"""Name of this package on the package index; the module and the command are ``neurodeploy``."""
VERSIONED = ("neurodeploy", "torch", "norse", "lava-nc", "lava-dl", "numpy", "h5py")


def versions() -> dict[str, str | None]:
    """Versions of what the numbers depend on; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(DISTRIBUTION if name == "neurodeploy" else name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def told() -> str:
    """The versions in one line, those of what is not installed left out, and Python's."""
    installed = [f"{name} {version}" for name, version in versions().items() if version is not None]
    return ", ".join([*installed, f"Python {platform.python_version()}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that a run has to say; `print` it, or write `to_json`.

    Attributes
    ----------
    profile : HardwareProfile
    placement : Placement
    layers : tuple of LayerReport
    before : Placement or None
        The network laid out as it came, before compression.
    history : tuple of EpochRecord
    rates : mapping of layer to mean spikes a neuron and step
    rounding : tuple of LayerError
        The float-to-integer error of each layer.
    warnings : tuple of str
        What rounding did to layers, and what may overflow.
    balances : tuple of Balance
        How spikes that skip layers are kept back.
    worth : tuple of Worth
        What the memory of full cores is worth in loss.
    files : mapping of what to path
    """

    profile: HardwareProfile
    placement: Placement
    layers: tuple[LayerReport, ...]
    before: Placement | None = None
    seed: int | None = None
    accuracy: Accuracy = field(default_factory=Accuracy)
    lava: LavaCheck | None = None
    history: tuple[EpochRecord, ...] = ()
    rates: Mapping[str, float] = field(default_factory=dict)
    rounding: tuple[LayerError, ...] = ()
    warnings: tuple[str, ...] = ()
    balances: tuple[Balance, ...] = ()
    worth: tuple[Worth, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The keys of ``report.json``."""
        return {
            "target": self.profile.name,
            "seed": self.seed,
            "versions": versions(),
            "fits": {"before": None if self.before is None else self.before.fits, "after": self.placement.fits},
            "binding": binding(self.placement if self.before is None else self.before),
            "cores": _cores_json(self.placement),
            **board_json(self.placement),
            "accuracy": asdict(self.accuracy),
            "lava": {"steps": None, "mismatches": None} if self.lava is None else asdict(self.lava),
            "layers": [layer.to_json() for layer in self.layers],
            "balances": [asdict(choice) for choice in self.balances],
            "worth": [asdict(some) | {"per_kilobit": some.per_kilobit} for some in self.worth],
            "files": dict(self.files),
        }

    def tables(self) -> Iterator[RenderableType]:
        """The report for a rich console, part by part."""
        yield "\n".join(verdict(self.placement, self.before))
        yield layer_table(self.layers)
        yield core_table(self.placement)
        yield from traffic_lines(self.placement)
        if self.accuracy.test_samples:
            yield accuracy_table(self.accuracy)
        if self.lava is not None:
            same = "spikes and membranes alike" if self.lava.mismatches == 0 else f"{self.lava.mismatches:,} values differ"
            yield f"Lava against the emulator: {self.lava.steps:,} steps, {same}."
        if self.rates:
            yield "Spikes a neuron and step: " + ", ".join(f"{name} {rate:.3f}" for name, rate in self.rates.items()) + "."
        if self.rounding:
            yield "Rounding, root mean square of weights and worst of the others: " + "; ".join(map(str, self.rounding)) + "."
        yield from balance_lines(self.balances)
        yield from (f"Worth: {some}." for some in self.worth)
        yield from (f"Note: {warning}" for warning in self.warnings)
        if self.files:
            yield "Files: " + ", ".join(self.files.values())

    def __str__(self) -> str:
        return as_text(*self.tables())

    def _repr_html_(self) -> str:
        """The verdict, the placement and the accuracies, for a notebook; all of it is on the page that `files` names."""
        rungs = (
            (name, share, n) for name, share, n in (
                ("dense", self.accuracy.dense, self.accuracy.test_samples),
                ("compressed", self.accuracy.compressed, self.accuracy.test_samples),
                ("quantised", self.accuracy.quantized, self.accuracy.test_samples),
                ("emulated", self.accuracy.emulated, self.accuracy.test_samples),
                ("Lava", self.accuracy.lava, self.accuracy.lava_samples),
            ) if share is not None and n
        )  # fmt: skip
        ladder = html_table("Accuracy", ["rung", "right", "95 % interval", "samples"], (
            (name, float(share), with_interval(share, n).partition(" ")[2], n) for name, share, n in rungs
        )) if self.accuracy.test_samples else ""  # fmt: skip
        page = [f"The page: {self.files['page']}"] if "page" in self.files else []
        said = html_paragraphs(verdict(self.placement, self.before))
        return f"{said}{self.placement._repr_html_()}{ladder}{html_paragraphs(page)}"


def binding(placement: Placement) -> list[dict[str, Any]]:
    """The limits that a placement breaks, with the fields of `Overrun`."""
    return [asdict(overrun) for overrun in placement.overruns()]


def inspection(
    placement: Placement, budget: Budget | None, gains: tuple[Gain, ...] = (), balances: tuple[Balance, ...] = ()
) -> dict[str, Any]:
    """The keys of ``neurodeploy inspect --json``."""
    layers = layer_reports(placement, budget)
    return {
        "target": placement.profile.name,
        "fits": placement.fits,
        "binding": binding(placement),
        "cores": _cores_json(placement),
        **board_json(placement),
        "gains": [asdict(gain) for gain in gains],
        "balances": [asdict(choice) for choice in balances],
        "layers": [layer.to_json() for layer in layers],
    }


def _cores_json(placement: Placement) -> dict[str, int]:
    return {
        "used": placement.cores_used,
        "available": placement.cores_available,
        "lower_bound": placement.cores_lower_bound,
        "chips": placement.chips_used,
    }


def summarize(
    profile: HardwareProfile,
    budget: Budget | None,
    placement: Placement,
    record: SpikeRecord | None = None,
    history: Sequence[EpochRecord] = (),
    *,
    before: Placement | None = None,
    **more: Any,
) -> Report:
    """Put together what is known of a network on a chip.

    Parameters
    ----------
    budget : Budget, optional
        What the layers were allowed.
    record : SpikeRecord, optional
        A run, for spike rates.
    history : sequence of EpochRecord
        The training.
    before : Placement, optional
        The network laid out as it came.
    **more
        Further fields of `Report`: seed, accuracy, lava, rates, rounding, warnings, balances, worth, files.
    """
    if record is not None:
        more.setdefault("rates", record.rates())
    return Report(
        profile=profile,
        placement=placement,
        layers=layer_reports(placement, budget, before),
        before=before,
        history=tuple(history),
        **more,
    )


def layer_reports(placement: Placement, budget: Budget | None, before: Placement | None = None) -> tuple[LayerReport, ...]:
    """A line a layer, first layer first."""
    budgets = {} if budget is None else {entry.layer: entry for entry in budget.layers}
    return tuple(
        LayerReport(
            now=placement.of(name),
            connectivity=placement.of(name).synapses / max(n_pairs, 1),
            budget=budgets.get(name),
            before=None if before is None else before.of(name),
        )
        for name, n_pairs in placement.n_pairs.items()
    )
