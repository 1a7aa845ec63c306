"""Report page: one HTML file with tables, figures and a map of the chip, without anything from the network."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from neurodeploy.errors import counted
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Floats, Integers
from neurodeploy.ir.files import write_text
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.energy import StepEstimate, unpriced
from neurodeploy.mapping.placement import Placement, Slice
from neurodeploy.report import plots as plot
from neurodeploy.report.front import (
    Row,
    answer,
    cost_text,
    dense_of,
    doubts,
    failures,
    front,
    is_done,
    link_of,
    name_of,
    smallest,
    target_fronts,
)
from neurodeploy.report.plot_style import CoreGrid, colours_of, core_grid, shades, svg
from neurodeploy.report.summary import TARGET_HEADINGS, LayerReport, Report, TargetResult, version_line, versions
from neurodeploy.report.text import busiest_core_line, chip_json, once_a_limit, overflow_lines, step_costs, with_interval
from neurodeploy.simulation.records import EpochRecord, SpikeRecord

MOST_CORES = 4_096
"""Cores that the map draws one by one (32 chips of Loihi); of more it draws chips."""
_MOST_LAYERS_DRAWN = 40
# In the drawing's units: the side of a core's cell, and the space above a chip for its name.
_CELL, _MARGIN = 18, 16
_MOST_NUMBERED = 256
"""Cells that have their number written on them; the numbers of more could not be read."""
_LARGEST_CELL, _WIDEST_MAP = 5.0, 1_000.0
"""Pixels per unit of the drawing where there are few cells, and of the whole map."""
_NARROWEST_STRIPE = 0.08
"""Smallest width of a stripe, as a share of its cell, so that it stays visible."""
_MOST_SLICES_NAMED = 6
"""Slices that a cell's description names one by one."""
_TEMPLATES = Path(__file__).parent / "templates"
_MAX_BROKEN_LIMITS = 12
"""Broken limits that the page names one by one."""


def figures(
    report: Report,
    quantized: QuantizedNetwork | None,
    budget: Budget | None,
    emulated: SpikeRecord | None,
    lava: SpikeRecord | None,
) -> dict[str, str]:
    """SVG text of each figure for which there is something to show, by name."""
    drawn: dict[str, str] = {}
    if quantized is not None and len(quantized.layers) <= _MOST_LAYERS_DRAWN:
        size = plot.network_size(quantized)
        drawn["network"] = svg(lambda axes: plot.network(quantized, ax=axes[0]), size, name="network")
    if budget is not None and len(budget.layers) <= _MOST_LAYERS_DRAWN:
        placement, high = report.placement, 1.1 + 0.5 * len(budget.layers)
        drawn["budget"] = svg(lambda axes: plot.budget(budget, placement, ax=axes[0]), (6.6, high), name="budget")
    if report.history:
        history = report.history
        drawn["training"] = svg(lambda axes: plot.training(history, ax=list(axes)), (9.6, 6.0), name="training", panels=(2, 2))
    if quantized is not None:
        drawn["weights"] = svg(lambda axes: plot.weights(quantized, ax=axes[0]), (6.0, 3.6), name="weights")
    if emulated is not None:
        drawn["rates"] = svg(lambda axes: plot.rates(emulated, ax=axes[0]), (6.0, 3.6), name="rates")
    records = [record for record in (emulated, lava) if record is not None]
    if records:
        drawn["raster"] = svg(
            lambda axes: [plot.raster(record, ax=ax) for record, ax in zip(records, axes, strict=True)],
            (4.9 * len(records), plot.raster_height(len(records[0].spikes))), name="raster", panels=(1, len(records)),
        )  # fmt: skip
    return drawn


@dataclass(frozen=True, slots=True, kw_only=True)
class MapCell:
    """A core, or a chip, on the map: its position and the coloured stripes (colour, start, width) of its layers.

    Attributes
    ----------
    number : str
        Written on the cell; empty where there are too many to be read.
    """

    x: int
    y: int
    name: str
    number: str
    stripes: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipMap:
    """Map of a placement as the page draws it.

    Attributes
    ----------
    width, height : int
        Of the drawing, in its own units.
    of_chips : bool
        Whether a cell is a chip, and not a core.
    cells : tuple of MapCell
    frames : tuple of (x, y, width, height, name)
        A rectangle around each chip.
    legend : tuple of (layer, colour)
    folded : int
        Unused cores that are left out, with the rows and columns of the mesh in which no core is used.
    facts : dict
        Utilisation and description of each cell, for the page's script.
    """

    width: int
    height: int
    of_chips: bool
    cells: tuple[MapCell, ...]
    frames: tuple[tuple[int, int, int, int, str], ...]
    legend: tuple[tuple[str, str], ...]
    folded: int
    facts: dict[str, Any]

    @property
    def shown_width(self) -> int:
        """Width on the page in pixels: few cells are large."""
        return round(min(_LARGEST_CELL * self.width, max(_WIDEST_MAP, 2.0 * self.width)))


def chip_map(placement: Placement) -> ChipMap:
    """Map of the chips that a placement uses, without rows and columns of the mesh in which no core is used."""
    # weight_bits has all layers in the network's order, the order of their colours
    grid, names = core_grid(placement), list(placement.weight_bits)
    colours = dict(zip(names, colours_of(len(names)), strict=True))
    of_chips = len(grid.cores) > MOST_CORES
    positions = _chip_positions(grid) if of_chips else _core_positions(placement, grid)
    is_numbered = len(positions) <= _MOST_NUMBERED
    cell_of = {core: placement.chip_of(core) if of_chips else core for core in placement.cores}
    slices: dict[int, list[Slice]] = {}
    for part in placement.slices:
        slices.setdefault(cell_of[part.core], []).append(part)
    cells = tuple(
        MapCell(
            x=x, y=y, name=name, number=f"{number:,}" if is_numbered else "", stripes=_stripes(slices.get(number, []), colours)
        )
        for number, (x, y, name) in positions.items()
    )
    frames = () if of_chips else _frames(placement, positions)
    shares, rows = placement.utilizations(), dict[int, list[int]]()
    for row, core in enumerate(placement.cores):
        rows.setdefault(cell_of[core], []).append(row)
    facts = []
    for number in positions:
        utilization = shares[rows.get(number, [])]
        facts.append({
            "share": [round(float(value), 4) for value in utilization.mean(axis=0)] if len(utilization) else None,
            "lines": _cell_lines(placement, utilization, slices.get(number, [])),
        })  # fmt: skip
    return ChipMap(
        width=max([cell.x + _CELL for cell in cells] + [x + wide for x, _, wide, _, _ in frames]),
        height=max([cell.y + _CELL for cell in cells] + [y + high for _, y, _, high, _ in frames]), of_chips=of_chips,
        cells=cells, frames=frames, legend=tuple(colours.items()),
        folded=0 if of_chips else len(grid.cores) - len(cells),
        facts={"resources": list(placement.resources), "scale": list(shades(9)), "cells": facts},
    )  # fmt: skip


def _core_positions(placement: Placement, grid: CoreGrid) -> dict[int, tuple[int, int, str]]:
    """Position and name of each core, row by row, on the rows and columns with a used core; a gap is left between chips."""
    several = placement.profile["chips"].number > 1
    used = np.isin(grid.cores, placement.cores)

    def folded(at: Integers, sides: list[int]) -> dict[int, int]:
        kept = sorted(set(at[used].tolist()))
        # of rows (columns) of one chip the same number of sides lies before them
        chips = sorted({sum(side <= line for side in sides) for line in kept})
        return {line: n + chips.index(sum(side <= line for side in sides)) for n, line in enumerate(kept)}

    columns = folded(grid.x, sorted({box.x for box in grid.chips}))
    rows = folded(grid.y, sorted({box.y for box in grid.chips}))
    cells = sorted(zip(grid.y.tolist(), grid.x.tolist(), grid.cores.tolist(), strict=True))
    return {
        core: (
            columns[x] * _CELL, rows[y] * _CELL + _MARGIN,
            f"core {core:,}" + (f" on chip {placement.chip_of(core):,}" if several else ""),
        )
        for y, x, core in cells if x in columns and y in rows
    }  # fmt: skip


def _frames(placement: Placement, positions: dict[int, tuple[int, int, str]]) -> tuple[tuple[int, int, int, int, str], ...]:
    """A rectangle around the cores of each chip, with its name."""
    corners: dict[int, list[tuple[int, int]]] = {}
    for core, (x, y, _) in positions.items():
        corners.setdefault(placement.chip_of(core), []).append((x, y))
    frames = []
    for chip, at in sorted(corners.items()):
        (left, right), (top, bottom) = ((min(side), max(side) + _CELL) for side in zip(*at, strict=True))
        frames.append((left, top, right - left, bottom - top, f"chip {chip}"))
    return tuple(frames)


def _chip_positions(grid: CoreGrid) -> dict[int, tuple[int, int, str]]:
    """Position and name of each chip, row by row."""
    columns, rows = sorted({box.x for box in grid.chips}), sorted({box.y for box in grid.chips})
    return {
        box.chip: (columns.index(box.x) * _CELL, rows.index(box.y) * _CELL + _MARGIN, f"chip {box.chip:,}")
        for box in sorted(grid.chips, key=lambda box: (box.y, box.x))
    }


def _stripes(slices: list[Slice], colours: dict[str, str]) -> tuple[tuple[str, float, float], ...]:
    """Colour, start and width of a stripe for each layer in a cell, in proportion to its neurons there."""
    if not slices:
        return (("", 0.0, float(_CELL)),)
    neurons = Counter[str]()
    for part in slices:
        neurons[part.layer] += part.usage.neurons
    # Stripes that were widened add up to more than 1: hence the division below.
    shares = {name: max(n / sum(neurons.values()), _NARROWEST_STRIPE) for name, n in neurons.most_common()}
    start, stripes = 0.0, []
    for name, share in shares.items():
        wide = _CELL * share / sum(shares.values())
        stripes.append((colours[name], round(start, 2), round(wide, 2)))
        start += wide
    return tuple(stripes)


def _cell_lines(placement: Placement, utilization: Floats, slices: list[Slice]) -> list[str]:
    """Description of a cell: its slices, and its utilisation (n_cores, n_resources) with counts where it is one core."""
    if not slices:
        return ["not used"]
    lines = [f"{part.name}, {counted(part.usage.neurons, 'neuron')}" for part in slices[:_MOST_SLICES_NAMED]]
    if len(slices) > _MOST_SLICES_NAMED:
        lines.append(f"and {len(slices) - _MOST_SLICES_NAMED:,} more slices")
    # a cell that is a chip: shares are averaged, and counts are left out
    if len(utilization) > 1:
        lines.append(f"{counted(len(utilization), 'core')} used; on average")
    counts = placement.on_core(slices[0].core) if len(utilization) == 1 else {}
    for resource, share in zip(placement.resources, utilization.mean(axis=0).tolist(), strict=True):
        limit = placement.profile.capacity(resource, slices[0].core)
        count = f" ({counts[resource]:,} of {limit:,})" if counts else ""
        lines.append(f"{resource.replace('_', ' ')}: {share:.1%}{count}")
    return lines


RESOURCE_HEADINGS = {
    "synapse_memory_bits": "synapse memory, bits", "input_axons": "axons in", "output_axons": "axons out", "cores": "cores",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUse:
    """Use of one resource by a layer: now, its budget, and before compression; None where unknown."""

    now: int
    budget: int | None
    before: int | None

    @property
    def share(self) -> float | None:
        """Share of the budget, 0 and up."""
        if self.budget is None:
            return None
        # a budget of 0 cannot be divided by
        return self.now / self.budget if self.budget else 0.0


def resource_uses(layer: LayerReport) -> list[ResourceUse]:
    """The cells of a layer's row, in the order of `RESOURCE_HEADINGS`."""
    return [
        ResourceUse(
            now=getattr(layer.now, name),
            budget=None if layer.budget is None or name in layer.unlimited else getattr(layer.budget, name),
            before=None if layer.before is None else getattr(layer.before, name),
        )
        for name in RESOURCE_HEADINGS
    ]


def shadow_prices(history: Iterable[EpochRecord], layer: str) -> list[tuple[str, float]]:
    """Resource and highest Lagrange multiplier of any slice of the layer in any epoch, highest first."""
    highest: dict[str, float] = {}
    for epoch in history:
        for constraint, price in epoch.multipliers.items():
            place, _, resource = constraint.rpartition(" ")
            # constraints are named after slices, ``fc1[0:64]``: with the bracket, fc1 does not match fc10
            if place.startswith(f"{layer}["):
                highest[resource] = max(price, highest.get(resource, 0.0))
    return sorted(((name, price) for name, price in highest.items() if price > 0), key=lambda pair: -pair[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Estimated cost of a step, also as texts, and each kind of event: energy, share, source, whether assumed."""

    estimate: StepEstimate
    energy: str
    time: str
    busiest: str
    kinds: list[tuple[str, float, float, str, bool]]
    free: tuple[str, ...]


def cost_of(placement: Placement) -> Cost | None:
    """Estimated cost of a step; None if the placement has no traffic, or the profile no figures."""
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
    energy, time = step_costs(estimate, micro="µ")
    free = tuple(name.replace("_", " ") for name in unpriced(placement.profile))
    slowest = busiest_core_line(placement, estimate, micro="µ")
    return Cost(estimate=estimate, energy=energy, time=time, busiest=slowest, kinds=kinds, free=free)


def fingerprint(profile: HardwareProfile) -> str:
    """SHA-256 of a profile's JSON, as ``neurodeploy profiles NAME --json`` prints it, without spaces and with sorted keys."""
    # sorted and without spaces: the order of keys in a YAML file must not change the hash
    text = json.dumps(chip_json(profile), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def provenance(report: Report, command: str) -> list[tuple[str, Any]]:
    """Names and values that are needed to reproduce the page."""
    return [
        ("command", command or "called from Python"),
        ("seed", "not used" if report.seed is None else report.seed),
        ("versions", version_line()),
        ("profile", f"{report.profile.name}, SHA-256 {fingerprint(report.profile)}"),
        *((f"file: {what}", path) for what, path in report.files.items()),
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunArtifacts:
    """Objects of a run that the page shows in addition to its report; None or empty where there are none.

    Attributes
    ----------
    quantized : QuantizedNetwork or None
        Shown as a graph, and by its weights.
    budget : Budget or None
    emulated, lava : SpikeRecord or None
        Records of the same samples, for spikes and rates.
    command : str
        The command line.
    """

    quantized: QuantizedNetwork | None = None
    budget: Budget | None = None
    emulated: SpikeRecord | None = None
    lava: SpikeRecord | None = None
    command: str = ""


@cache  # compiled once in a process: a page's takes as long as a figure
def page_template(name: str) -> Template:
    """A template with the filters of the pages."""
    # Autoescape covers all text of users (names, paths, sources); only `Markup`, our own files and figures, is left as it is.
    environment = Environment(
        # StrictUndefined: a misspelt name in the template is an error, not an empty text
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["n"] = "{:,}".format
    environment.filters["counted"] = counted
    environment.filters["percent"] = "{:.1%}".format
    # small energies keep three digits, counts keep all of theirs
    environment.filters["figure"] = lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return environment.get_template(name)


def page_of(report: Report, artifacts: RunArtifacts | None = None) -> str:
    """Return the page as HTML text."""
    artifacts = RunArtifacts() if artifacts is None else artifacts
    placement = report.placement
    drawn = figures(report, artifacts.quantized, artifacts.budget, artifacts.emulated, artifacts.lava)
    return page_template("page.html.j2").render(
        report=report, placement=placement, profile=report.profile, before=report.before,
        style=_own_file("page.css"), script=_own_file("page.js"),
        overflows=overflow_lines(report.overflows), broken=_broken(placement),
        broken_before=[] if report.before is None else _broken(report.before),
        headings=list(RESOURCE_HEADINGS.values()),
        rows=[(layer, resource_uses(layer), shadow_prices(report.history, layer.now.layer)) for layer in report.layers],
        map=chip_map(placement), cost=cost_of(placement), traffic=placement.traffic(),
        steps=None if artifacts.emulated is None else artifacts.emulated.n_steps,
        stages=[
            (name, what, with_interval(share, n)) for name, what, share, n in report.accuracy.stages()
        ] if report.accuracy.test_samples else [],
        figures={name: Markup(text) for name, text in drawn.items()},  # noqa: S704  # matplotlib escapes what it writes
        doubts=report.accuracy.doubts(report.layers[-1].now.neurons), kept=_kept(report), network=artifacts.quantized,
        command=artifacts.command, version=versions()["neurodeploy"],
        provenance=provenance(report, artifacts.command), written=datetime.now(timezone.utc),
    )  # fmt: skip


def write_comparison(results: Sequence[TargetResult], path: str | Path, *, model: str, command: str) -> None:
    """Write a page of a network on several chips: a table, and what `inspect` says of each."""
    headings = [heading.removesuffix("<") for heading in TARGET_HEADINGS]
    facts = {"model": model, "command": command, "versions": version_line(), "written": datetime.now(timezone.utc)}
    rows = [(result, dict(zip(headings, result.cells(), strict=True))) for result in results]
    page = page_template("compare.html.j2").render(style=_own_file("page.css"), headings=headings, rows=rows, **facts)
    write_text(path, page)


def write_sweep_page(rows: Sequence[Row], path: str | Path, *, title: str, command: str, within: float = 1.0) -> None:
    """Write the page of a sweep: the smallest chip that keeps the accuracy, the front of each target, the runs that failed.

    Parameters
    ----------
    rows : sequence of mappings
        As `neurodeploy.sweep` returns them; their reports are relative to the page's folder.
    within : float
        Points (hundredths) of accuracy that may be lost.
    """
    dense, found, targets = dense_of(rows), smallest(rows, within), target_fronts(rows, within)
    samples = next((row["test_samples"] for row in rows if row.get("test_samples")), None)
    done, figure = [row for row in rows if is_done(row, "cores_used", "accuracy")], ""
    said = answer(rows, within)
    if sum(bool(target.points) for target in targets) > 1:
        figure = svg(lambda axes: front(done, runs=False, ax=axes[0]), (4.9, 3.5), name="fronts", label=said)
    page = page_template("sweep.html.j2").render(
        style=_own_file("page.css"), title=title, command=command, within=within, answer=said, found=found,
        name_of=lambda one: name_of(one, rows), dense=dense, targets=targets, n_runs=len(rows), samples=samples,
        n_done=len(done), failures=failures(rows), doubts=doubts(rows),
        cost_text=cost_text,
        interval=with_interval(dense.y, samples) if dense and samples else "", link=link_of, fronts=figure,
        versions=version_line(), written=datetime.now(timezone.utc),
    )  # fmt: skip
    write_text(path, page)


def write_page(report: Report, path: str | Path, artifacts: RunArtifacts | None = None) -> None:
    """Write the page to a file."""
    write_text(path, page_of(report, artifacts))


def _kept(report: Report) -> float | None:
    """Share of the original network's weights that are kept; None where there is no other network than the original."""
    now, before = report.placement, report.before
    if before is None:
        return None
    kept = sum(now.connectivity[name] * n_weights for name, n_weights in now.n_weights.items())
    return kept / max(sum(before.n_weights.values()), 1)


def _own_file(name: str) -> Markup:
    """Text of one of the template's files, not to be escaped."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))  # noqa: S704  # shipped with the package


def _broken(placement: Placement) -> list[str]:
    """Sentences about the limits that a placement breaks, at most `_MAX_BROKEN_LIMITS`, and how many more there are."""
    sentences = list(once_a_limit(placement))
    more = len(sentences) - _MAX_BROKEN_LIMITS
    return sentences if more <= 0 else [*sentences[:_MAX_BROKEN_LIMITS], f"and {more:,} more limits."]
