"""The report of a run: accuracy at each pipeline stage, the check in Lava, layers and board; and its JSON form.

Scripts read the keys of `Report.to_json` and `inspection`: docs/json.md lists them, and a value that was not measured is None.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from neurodeploy.errors import check_arguments, counted
from neurodeploy.hardware.loading import Chip, load_profile
from neurodeploy.ir.arrays import html_paragraphs, html_table
from neurodeploy.ir.files import DISTRIBUTION, installed_version
from neurodeploy.report.text import (
    FittedTable,
    accuracy_table,
    as_text,
    balance_lines,
    comparison_outcome,
    core_table,
    interval,
    layer_notes,
    layer_table,
    step_costs,
    traffic_lines,
    unbroken,
    verdict,
    with_interval,
)

# for types alone: `--version` needs none of them
if TYPE_CHECKING:
    from neurodeploy.hardware.profile import HardwareProfile
    from neurodeploy.mapping.allocation import Gain
    from neurodeploy.mapping.budget import Budget, LayerBudget
    from neurodeploy.mapping.delay_balancing import Balance
    from neurodeploy.mapping.energy import StepEstimate
    from neurodeploy.mapping.placement import LayerUse, Placement
    from neurodeploy.passes.quantize import LayerError
    from neurodeploy.simulation.records import EpochRecord, MemoryPrice, SpikeRecord


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
    lava, emulated_on_lava_samples : float or None
        The vendor's simulator, on the first `lava_samples` of the test data; the chip's integers on the same samples.
    test_samples, lava_samples : int or None
    simulator : str or None
        Name of that simulator.
    """

    dense: float | None = None
    compressed: float | None = None
    quantized: float | None = None
    emulated: float | None = None
    lava: float | None = None
    test_samples: int | None = None
    lava_samples: int | None = None
    simulator: str | None = None
    emulated_on_lava_samples: float | None = None

    def stages(self) -> tuple[tuple[str, str, float | None, int | None], ...]:
        """Name, what runs there, accuracy and number of samples of each stage, from the trained floats to Lava."""
        first = f", on the first {counted(self.lava_samples, 'sample')}" if self.lava_samples else ""
        same = ("emulated", f"the same{first}", self.emulated_on_lava_samples, self.lava_samples)
        return (
            ("dense", "trained floats, no limits", self.dense, self.test_samples),
            ("compressed", "floats within the budget", self.compressed, self.test_samples),
            ("quantised", "weights, thresholds, decays rounded", self.quantized, self.test_samples),
            ("emulated", "the chip's integers throughout", self.emulated, self.test_samples),
            *([same] if self.emulated_on_lava_samples is not None and self.lava_samples != self.test_samples else []),
            (self.simulator or "Lava", f"the vendor's simulator{first}", self.lava, self.lava_samples),
        )

    def doubts(self, n_classes: int) -> tuple[str, ...]:
        """A sentence where the dense network is undertrained, so that its accuracy says nothing about what compression costs."""
        if self.dense is None or self.compressed is None or not self.test_samples:
            return ()
        # the dense network's own interval: two accuracies within it are no news
        low, high = interval(self.dense, self.test_samples)
        chance = 1 / n_classes
        if self.compressed > high:
            found = f"less than the {self.compressed:.1%} after compression, which trained it further"
        elif n_classes > 1 and low <= chance:
            found = f"no better than chance, {chance:.1%}"
        else:
            return ()
        return (
            f"The dense network is undertrained: its accuracy is {self.dense:.1%}, {found}. What compression costs cannot be "
            "read from it. Train it for more epochs, or start from trained weights; first see to layers that never fire.",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LavaCheck:
    """Comparison of the vendor's simulator with the emulator.

    Attributes
    ----------
    steps, mismatches, spikes : int; simulator : str
        Steps run, over all samples; spikes and membranes, of any layer, that differed; spikes that were compared; its name.
    """

    steps: int
    mismatches: int
    spikes: int
    simulator: str = "Lava"
    outcome = property(lambda self: comparison_outcome(self.mismatches, self.spikes), doc="What was found, in words.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """Resources of a layer: used now, allowed by its budget, and needed before compression.

    Attributes
    ----------
    connectivity : float
        Share of the weights of the original network that are kept, 0..1; a convolution's count once.
    is_added, unlimited : bool; frozenset of str
        Whether it is not the model's, but brings biases or delays spikes; resources that the chip does not limit.
    """

    now: LayerUse
    connectivity: float
    budget: LayerBudget | None = None
    before: LayerUse | None = None
    is_added: bool = False
    unlimited: frozenset[str] = frozenset()

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
            "spike_hops": traffic.spike_hops(), "spike_hops_multicast": traffic.multicast_hops(),
            "routings": list(traffic.routings), "between_chips": traffic.between_chips(),
            "busiest_link": traffic.busiest_link,
        },
        "estimate": None if estimate is None else {
            "energy_j": estimate.energy_j, "time_s": estimate.time_s, "energy_range_j": estimate.energy_range_j,
            "time_range_s": estimate.time_range_s, "assumed": estimate.is_assumed,
            "energy_j_by_kind": estimate.energy_j_by_kind, "busiest_core": estimate.busiest_core,
            "busiest_s_by_kind": estimate.busiest_s_by_kind, "source": placement.profile["synop_sparse_energy"].source,
        },
    }  # fmt: skip


VERSIONED = ("neurodeploy", "torch", "norse", "lava-nc", "lava-dl", "numpy", "h5py")


def versions() -> dict[str, str | None]:
    """Versions of the packages that numbers depend on; None where one is not installed."""
    # the package is known to the index under another name
    return {name: installed_version(DISTRIBUTION if name == "neurodeploy" else name) for name in VERSIONED}


def version_line() -> str:
    """Versions of the installed packages that numbers depend on, and of Python, in one line."""
    installed = [f"{name} {version}" for name, version in versions().items() if version is not None]
    return ", ".join([*installed, f"Python {platform.python_version()}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Result of a run for people and scripts: `print` it, or write `to_json`.

    Attributes
    ----------
    profile : HardwareProfile
    placement : Placement
    layers : tuple of LayerReport
    before : Placement or None
        The network before compression.
    history : tuple of EpochRecord
    rates : mapping of layer to mean spikes per neuron and step
    rounding : tuple of LayerError
        The float-to-integer error of each layer.
    warnings : tuple of str
        Layers that rounding changed, and possible overflows.
    overflows : mapping of layer to int
        Times that a state left its register, where that was measured.
    balances : tuple of Balance
        Delays that balance paths of different depth.
    memory_prices : tuple of MemoryPrice
        Growth of the loss if a full core has less synapse memory.
    files : mapping of what to path
    checkpoint : str or None
        Checksum of the checkpoint that the network in the files comes from.
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
    overflows: Mapping[str, int] = field(default_factory=dict)
    balances: tuple[Balance, ...] = ()
    memory_prices: tuple[MemoryPrice, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    checkpoint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The keys of ``report.json``."""
        return {
            "profile": self.profile.name,
            "target": self.profile.target,
            "seed": self.seed,
            "versions": versions(),
            "fits": {"before": None if self.before is None else self.before.fits, "after": self.placement.fits},
            # the limits that compression had to meet: those broken before it
            "binding": binding(self.placement if self.before is None else self.before),
            **board_json(self.placement),
            "accuracy": asdict(self.accuracy),
            "lava": dict.fromkeys(LavaCheck.__slots__) if self.lava is None else asdict(self.lava),
            "overflows": {name: times for name, times in self.overflows.items() if times},
            "layers": [layer.to_json() for layer in self.layers],
            "balances": [asdict(balance) for balance in self.balances],
            # a documented key (docs/json.md), which scripts read: it keeps its old name
            "worth": [asdict(price) | {"per_kilobit": price.per_kilobit} for price in self.memory_prices],
            "files": dict(self.files),
            "checkpoint": self.checkpoint,
            "infeasible": None,
        }

    def tables(self, *, wide: bool = False) -> Iterator[RenderableType]:
        """Parts of the report, in order, for a rich console; a `wide` one has all rows."""
        yield "\n".join(verdict(self.placement, self.before, self.overflows))
        yield layer_table(self.layers, wide=wide)
        yield from layer_notes(self.layers)
        yield core_table(self.placement)
        yield from traffic_lines(self.placement)
        if self.accuracy.test_samples:
            yield accuracy_table(self.accuracy)
        if self.lava is not None:
            yield f"{self.lava.simulator} and the emulator: {counted(self.lava.steps, 'step')}, {self.lava.outcome}."
        if self.rates:
            fired = ", ".join(f"{name} {rate:.3f}" for name, rate in self.rates.items())
            yield f"Spikes per neuron and step (a readout never fires): {fired}."
        if self.rounding:
            errors = "; ".join(map(str, self.rounding))
            yield f"Rounding error, root mean square of weights and maximum of the others: {errors}."
        yield from balance_lines(self.balances)
        yield from (f"Price of memory: {price}." for price in self.memory_prices)
        yield from (f"Note: {warning}" for warning in self.warnings)
        if self.files:
            yield unbroken("Files: " + ", ".join(self.files.values()))

    def __str__(self) -> str:
        return as_text(*self.tables(wide=True))

    def _repr_html_(self) -> str:
        """Verdict, placement and accuracies for a notebook, with the path of the full report page."""
        rows = [
            # the interval alone: the share has a column of its own
            (name, share, with_interval(share, n).partition(" ")[2], n)
            for name, _, share, n in self.accuracy.stages() if share is not None and n
        ]  # fmt: skip
        shown = html_table("Accuracy", ["stage", "accuracy", "95 % interval", "samples"], rows) if rows else ""
        page = [f"Report page: {self.files['page']}"] if "page" in self.files else []
        said = html_paragraphs(verdict(self.placement, self.before, self.overflows))
        return f"{said}{self.placement._repr_html_()}{shown}{html_paragraphs(page)}"


def binding(placement: Placement) -> list[dict[str, Any]]:
    """The limits that a placement breaks, as JSON."""
    return [asdict(overrun) for overrun in placement.overruns()]


def inspection(
    placement: Placement, budget: Budget | None, gains: tuple[Gain, ...] = (), balances: tuple[Balance, ...] = ()
) -> dict[str, Any]:
    """The keys of ``neurodeploy inspect --json``."""
    layers = layer_reports(placement, budget, None, balances)
    return {
        "profile": placement.profile.name,
        "target": placement.profile.target,
        "fits": placement.fits,
        "binding": binding(placement),
        **board_json(placement),
        "gains": [asdict(gain) for gain in gains],
        "balances": [asdict(balance) for balance in balances],
        "layers": [layer.to_json() for layer in layers],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetResult:
    """A network on one of the chips that are compared; None for what was not measured, or could not be.

    Attributes
    ----------
    profile : HardwareProfile
    placement : Placement or None
        None where the network cannot be placed.
    is_compressible : bool
        Whether a compressed network fits.
    why_not : str
        Why it cannot be placed, or why `deploy` refuses its numbers.
    accuracy : float or None
        Share of test samples classified correctly in the chip's integers, 0..1.
    test_samples : int
    sentences : tuple of str
        What `inspect` says of it.
    """

    profile: HardwareProfile
    placement: Placement | None = None
    is_compressible: bool = False
    why_not: str = ""
    accuracy: float | None = None
    test_samples: int = 0
    sentences: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether `deploy` writes a network that fits; of a chip that is counted alone, whether it fits."""
        return self.placement is not None and self.placement.fits and not self.why_not

    @property
    def binds(self) -> str:
        """The limits that the network breaks, or the resource of a core of which it takes the largest share."""
        if self.placement is None:
            return self.why_not
        broken = {f"{overrun.resource} {overrun.need:,} > {overrun.limit:,}" for overrun in self.placement.overruns()}
        most = {text.split()[0]: text for text in sorted(broken, key=lambda text: int(text.split()[1].replace(",", "")))}
        if most:
            return "; ".join(most.values())
        fullest = self.placement.utilizations().max(axis=0).tolist()
        share, resource = max(zip(fullest, self.placement.resources, strict=True))
        return self.why_not or f"no limit; fullest: {resource} {share:.0%}"

    @property
    def cost(self) -> StepEstimate | None:
        """Estimated energy and time of a step; None without published figures."""
        traffic = None if self.placement is None else self.placement.traffic()
        return None if traffic is None else traffic.estimate()

    def cells(self) -> tuple[str, ...]:
        """Texts of its row, in the order of `TARGET_HEADINGS`."""
        placed, cost = self.placement, self.cost
        # a board with too few cores for the network has no traffic, but it may have figures
        unknown = "no figures" if "synop_sparse_energy" not in self.profile else "not placed"
        costs = (unknown, unknown) if cost is None else step_costs(cost)
        return (
            self.profile.name, "yes" if self.fits else "once compressed" if self.is_compressible and not self.why_not else "no",
            "" if placed is None else f"{placed.cores_used:,} of {placed.cores_available:,}", self.binds,
            *(f"~{text}" if cost is not None and cost.is_assumed else text for text in costs),
            "" if self.accuracy is None else with_interval(self.accuracy, self.test_samples),
            self.profile.target or "counting only",
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """An entry of ``targets`` in ``neurodeploy compare --json``."""
        placed = self.placement
        return {
            "profile": self.profile.name, "target": self.profile.target, "fits": self.fits, "compressible": self.is_compressible,
            "why_not": self.why_not or None, "binding": [] if placed is None else binding(placed), "binds": self.binds,
            **({"cores": None, "utilization": None, "traffic": None, "estimate": None} if placed is None else board_json(placed)),
            "accuracy": self.accuracy, "test_samples": self.test_samples or None,
        }  # fmt: skip


TARGET_HEADINGS = ("target", "fits<", "cores", "what binds<", "energy a step", "time a step", "accuracy", "runs as<")


def comparison_table(results: Sequence[TargetResult]) -> FittedTable:
    """One row for each chip."""
    table = FittedTable(
        "Targets: energy and time are estimates at assumed rates; ~: by assumed figures", TARGET_HEADINGS, ("runs as",)
    )
    for result in results:
        table.add(*result.cells())
    return table


@check_arguments
def summarize(
    profile: Chip,
    budget: Budget | None,
    placement: Placement,
    record: SpikeRecord | None = None,
    history: Sequence[EpochRecord] = (),
    *,
    before: Placement | None = None,
    seed: int | None = None,
    accuracy: Accuracy | None = None,
    lava: LavaCheck | None = None,
    rates: Mapping[str, float] | None = None,
    rounding: tuple[LayerError, ...] = (),
    warnings: tuple[str, ...] = (),
    overflows: Mapping[str, int] | None = None,
    balances: tuple[Balance, ...] = (),
    memory_prices: tuple[MemoryPrice, ...] = (),
    files: Mapping[str, str] | None = None,
) -> Report:
    """Collect the results for a network on a chip in a report.

    Parameters
    ----------
    budget : Budget, optional
        Budget of the layers.
    record : SpikeRecord, optional
        A run whose spike rates are reported, unless `rates` are passed.
    history : sequence of EpochRecord
        The training.
    before : Placement, optional
        The network before compression.
    seed, accuracy, lava, rates, rounding, warnings, overflows, balances, memory_prices, files
        Fields of `Report`.
    """
    profile = load_profile(profile)
    accuracy, outputs = accuracy or Accuracy(), placement.of(list(placement.weight_bits)[-1]).neurons
    rates = (record.rates() if record else {}) if rates is None else rates
    return Report(
        profile=profile, placement=placement, layers=layer_reports(placement, budget, before, balances), before=before,
        seed=seed, accuracy=accuracy, lava=lava, history=tuple(history), rates=rates, rounding=rounding,
        warnings=(*accuracy.doubts(outputs), *warnings), overflows={} if overflows is None else overflows, balances=balances,
        memory_prices=memory_prices, files={} if files is None else files,
    )  # fmt: skip


def layer_reports(
    placement: Placement, budget: Budget | None, before: Placement | None = None, balances: tuple[Balance, ...] = ()
) -> tuple[LayerReport, ...]:
    """Resources, budget and earlier needs of each layer, in the network's order."""
    budgets = {} if budget is None else {entry.layer: entry for entry in budget.placed(placement)}
    from neurodeploy.mapping.delay_balancing import relays_of  # imported here: `--version` needs none of it

    relays = relays_of(balances)
    # of the original: a network that lost neurons has smaller matrices
    whole = (before or placement).n_weights
    return tuple(
        LayerReport(
            now=placement.of(name),
            # a layer may have no weights, as the neuron that brings biases: it keeps all of them
            connectivity=placement.connectivity[name] * n_weights / whole[name] if whole[name] else 1.0,
            budget=budgets.get(name),
            before=None if before is None else before.of(name),
            is_added=not whole[name] or name in relays,
            unlimited=frozenset({"input_axons", "output_axons"}.difference(placement.resources)),
        )
        for name, n_weights in placement.n_weights.items()
    )
