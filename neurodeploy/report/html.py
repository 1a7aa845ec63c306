"""Which figures a page has: those for which there is something to show.

The chip from above, for a page: a cell a core, or a cell a chip where cores would be too many to tell apart.

The numbers of a page, in rows.

How the page is put together: from a report, and what was run for it, to one HTML text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.files import write_text
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.mapping.energy import StepEstimate, unpriced
from neurodeploy.mapping.placement import Placement, Slice
from neurodeploy.report import plots as plot
from neurodeploy.report import summary as versions
from neurodeploy.report.plot_style import Ground, colours_of, ground_of, shades, svg
from neurodeploy.report.stages import Accuracy, LayerReport
from neurodeploy.report.summary import Report
from neurodeploy.report.text import chip_json, with_interval
from neurodeploy.simulation.records import EpochRecord, SpikeRecord

# -------------------- page.figures


def figures(
    report: Report,
    quantized: QuantizedNetwork | None,
    budget: Budget | None,
    emulated: SpikeRecord | None,
    lava: SpikeRecord | None,
) -> dict[str, str]:
    """Name and SVG text of each."""
    drawn: dict[str, str] = {}
    if budget is not None and len(budget.layers) <= 40:
        placement, high = report.placement, 1.1 + 0.5 * len(budget.layers)
        drawn["budget"] = svg(lambda axes: plot.budget(budget, placement, ax=axes[0]), (6.6, high), name="budget")
    if report.history:
        history = report.history
        drawn["training"] = svg(lambda axes: plot.training(history, ax=list(axes)), (9.6, 6.0), name="training", panels=(2, 2))
    if quantized is not None:
        drawn["weights"] = svg(lambda axes: plot.weights(quantized, ax=axes[0]), (6.0, 3.6), name="weights")
    if emulated is not None:
        drawn["rates"] = svg(lambda axes: plot.rates(emulated, ax=axes[0]), (6.0, 3.6), name="rates")
    ends = [record for record in (emulated, lava) if record is not None]
    if ends:
        drawn["raster"] = svg(
            lambda axes: [plot.raster(record, ax=ax) for record, ax in zip(ends, axes, strict=True)],
            (4.9 * len(ends), 4.2), name="raster", panels=(1, len(ends)),
        )  # fmt: skip
    return drawn


# -------------------- page.chipmap

MOST_CORES = 4_096
"""Cores that are drawn one by one: 32 chips of Loihi."""
_CELL, _MARGIN = 18, 16
_THINNEST = 0.08
"""Share of a cell that a stripe has at least, so that it is seen."""
_NAMED = 6
"""So many slices of a cell are told by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A core, or a chip, on the map: where it is drawn, in stripes of which colours, and what is told of it."""

    x: int
    y: int
    name: str
    stripes: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipMap:
    """What the page draws, and what it tells about each cell (`facts`, as JSON)."""

    width: int
    height: int
    of_chips: bool
    cells: tuple[Cell, ...]
    frames: tuple[tuple[int, int, int, int, str], ...]
    legend: tuple[tuple[str, str], ...]
    facts: dict[str, Any]


def chip_map(placement: Placement) -> ChipMap:
    """The cells of a placement, used ones and those beside them on the same chips."""
    ground, names = ground_of(placement), list(placement.n_pairs)
    colours = dict(zip(names, colours_of(len(names)), strict=True))
    of_chips = len(ground.cores) > MOST_CORES
    here, stands = (_by_chip if of_chips else _by_core)(placement, ground)
    parts: dict[int, list[Slice]] = {}
    for part in placement.slices:
        parts.setdefault(stands[part.core], []).append(part)
    cells = tuple(
        Cell(x=x, y=y, name=name, stripes=_stripes(parts.get(number, []), colours)) for number, (x, y, name) in here.items()
    )
    frames = () if of_chips else tuple(
        (box.x * _CELL, box.y * _CELL + _MARGIN, ground.columns * _CELL, ground.rows * _CELL, f"chip {box.chip}")
        for box in ground.chips
    )  # fmt: skip
    return ChipMap(
        width=max([cell.x + _CELL for cell in cells] + [x + wide for x, _, wide, _, _ in frames]),
        height=max([cell.y + _CELL for cell in cells] + [y + high for _, y, _, high, _ in frames]), of_chips=of_chips,
        cells=cells, frames=frames, legend=tuple(colours.items()), facts=_facts(placement, list(here), parts, stands),
    )  # fmt: skip


def _by_core(placement: Placement, ground: Ground) -> tuple[dict[int, tuple[int, int, str]], dict[int, int]]:
    places = zip(ground.cores.tolist(), ground.x.tolist(), ground.y.tolist(), strict=True)
    many = placement.profile["chips"].number > 1
    here = {
        core: (x * _CELL, y * _CELL + _MARGIN, f"core {core:,}" + (f" on chip {placement.chip_of(core):,}" if many else ""))
        for core, x, y in sorted(places, key=lambda place: (place[2], place[1]))
    }
    return here, {core: core for core in placement.cores}


def _by_chip(placement: Placement, ground: Ground) -> tuple[dict[int, tuple[int, int, str]], dict[int, int]]:
    columns, rows = sorted({box.x for box in ground.chips}), sorted({box.y for box in ground.chips})
    here = {
        box.chip: (columns.index(box.x) * _CELL, rows.index(box.y) * _CELL + _MARGIN, f"chip {box.chip:,}")
        for box in sorted(ground.chips, key=lambda box: (box.y, box.x))
    }
    return here, {core: placement.chip_of(core) for core in placement.cores}


def _stripes(parts: list[Slice], colours: dict[str, str]) -> tuple[tuple[str, float, float], ...]:
    """A colour with where it begins and how wide it is, for each layer in a cell, by its share of the neurons there."""
    if not parts:
        return (("", 0.0, float(_CELL)),)
    neurons = Counter[str]()
    for part in parts:
        neurons[part.layer] += part.usage.neurons
    shares = {name: max(n / sum(neurons.values()), _THINNEST) for name, n in neurons.most_common()}
    start, stripes = 0.0, []
    for name, share in shares.items():
        wide = _CELL * share / sum(shares.values())
        stripes.append((colours[name], round(start, 2), round(wide, 2)))
        start += wide
    return tuple(stripes)


def _facts(placement: Placement, here: list[int], parts: dict[int, list[Slice]], stands: dict[int, int]) -> dict[str, Any]:
    """What the page's script knows: for each cell its shares of every resource, and lines to be told on hover."""
    shares, rows = placement.utilizations(), dict[int, list[int]]()
    for row, core in enumerate(placement.cores):
        rows.setdefault(stands[core], []).append(row)
    cells = []
    for number in here:
        mine = shares[rows[number]] if number in rows else np.zeros((0, len(placement.resources)))
        cells.append({
            "share": [round(float(value), 4) for value in mine.mean(axis=0)] if len(mine) else None,
            "told": _told(placement, mine, parts.get(number, [])),
        })  # fmt: skip
    return {"resources": list(placement.resources), "scale": list(shades(9)), "cells": cells}


def _told(placement: Placement, mine: np.ndarray[Any, np.dtype[np.float64]], parts: list[Slice]) -> list[str]:
    if not parts:
        return ["not used"]
    said = [f"{part.name}, {part.usage.neurons:,} neurons" for part in parts[:_NAMED]]
    if len(parts) > _NAMED:
        said.append(f"and {len(parts) - _NAMED:,} slices more")
    if len(mine) > 1:
        said.append(f"{len(mine):,} cores used; on average")
    exact = placement.on_core(parts[0].core) if len(mine) == 1 else {}
    for resource, share in zip(placement.resources, mine.mean(axis=0).tolist(), strict=True):
        limit = placement.profile.capacity(resource, parts[0].core)
        count = f" ({exact[resource]:,} of {limit:,})" if exact else ""
        said.append(f"{resource.replace('_', ' ')}: {share:.1%}{count}")
    return said


# -------------------- page.tables

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


# -------------------- page.document

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_LIMITS = 12
"""Broken limits that are told one by one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What a page shows beside its report; None, or an empty text, for what there is not.

    Attributes
    ----------
    quantized : QuantizedNetwork or None
        For the weights.
    budget : Budget or None
    emulated, lava : SpikeRecord or None
        The same samples at both ends, for spikes and rates.
    command : str
        What was typed.
    """

    quantized: QuantizedNetwork | None = None
    budget: Budget | None = None
    emulated: SpikeRecord | None = None
    lava: SpikeRecord | None = None
    command: str = ""


def page_of(report: Report, evidence: Evidence | None = None) -> str:
    """The page as HTML text."""
    evidence = Evidence() if evidence is None else evidence
    placement, shown = report.placement, figures(report, evidence.quantized, evidence.budget, evidence.emulated, evidence.lava)
    steps = evidence.emulated.n_steps if evidence.emulated is not None else None
    return _environment().get_template("page.html.j2").render(
        report=report, placement=placement, profile=report.profile, before=report.before,
        style=_own("page.css"), script=_own("page.js"),
        broken=_broken(placement), broken_before=[] if report.before is None else _broken(report.before),
        headings=list(USES.values()),
        rows=[(layer, uses(layer), prices(report.history, layer.now.layer)) for layer in report.layers],
        map=chip_map(placement), cost=cost_of(placement), traffic=placement.traffic(), steps=steps,
        ladder=ladder(report.accuracy) if report.accuracy.test_samples else [],
        figures={name: Markup(text) for name, text in shown.items()},  # noqa: S704  # matplotlib escapes what it writes
        provenance=provenance(report, evidence.command), written=datetime.now(timezone.utc),
    )  # fmt: skip


def write_page(report: Report, path: str | Path, evidence: Evidence | None = None) -> None:
    """Write ``report.html``."""
    write_text(path, page_of(report, evidence))


def _environment() -> Environment:
    """Where templates are read; all that is put into one is escaped, but what is `Markup` already."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["n"] = "{:,}".format
    environment.filters["percent"] = "{:.1%}".format
    environment.filters["figure"] = lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return environment


def _own(name: str) -> Markup:
    """A file that stands beside this one, as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  # nobody else's


def _broken(placement: Placement) -> list[str]:
    """Broken limits, a sentence each; where they are many, the first and how many more."""
    told = [str(overrun) for overrun in placement.overruns()]
    more = len(told) - _MOST_LIMITS
    return told if more <= 0 else [*told[:_MOST_LIMITS], f"and {more:,} limits more."]
