"""The report as a person reads it in a terminal or a file."""

from __future__ import annotations

import io

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from neurodeploy.placement import Placement
from neurodeploy.report.facts import LayerReport
from neurodeploy.report.ladder import Accuracy

WIDTH = 130
_COLUMNS = {
    "synapses": "synapses", "synapse_memory_bits": "memory bits", "input_axons": "axons in", "output_axons": "axons out",
    "cores": "cores",
}  # fmt: skip


def as_text(*parts: RenderableType) -> str:
    """Parts of a report as plain text, at most `WIDTH` columns wide."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=WIDTH, no_color=True, highlight=False, markup=False, emoji=False)
    console.print(*parts, sep="\n")
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def verdict(placement: Placement, before: Placement | None = None) -> list[str]:
    """Whether it fits, and what binds if not: a sentence a line."""
    lines = [f"{placement.profile.name}: {placement.profile.description}"]
    if before is not None:
        lines += _verdict("Before", before)
    return lines + _verdict("Now", placement)


def _verdict(when: str, placement: Placement) -> list[str]:
    broken = [f"{when}: does not fit. {overrun}" for overrun in placement.overruns()]
    used = f"{placement.cores_used} of {placement.cores_available} cores used"
    return broken[:3] or [f"{when}: fits. {used} (the limits alone imply at least {placement.cores_lower_bound})."]


def layer_table(layers: tuple[LayerReport, ...]) -> Table:
    """A row a layer: what it uses, of what it may, and in brackets what it used before."""
    table = _table("Layers: used / budget (before)")
    for heading in ("layer", "neurons", "kept", "stored", *_COLUMNS.values()):
        table.add_column(heading, justify="left" if heading in ("layer", "stored") else "right", overflow="fold")
    for layer in layers:
        table.add_row(
            layer.now.layer, f"{layer.now.neurons:,}", f"{layer.connectivity:.1%}",
            f"{layer.now.weight_bits}-bit {layer.now.encoding}", *(_cell(layer, name) for name in _COLUMNS),
        )  # fmt: skip
    return table


def _table(title: str) -> Table:
    """A table that still stands upright at 80 columns."""
    return Table(title=title, title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))


def _cell(layer: LayerReport, name: str) -> str:
    now = getattr(layer.now, name)
    may = None if layer.budget is None or name == "synapses" else getattr(layer.budget, name)
    was = None if layer.before is None else getattr(layer.before, name)
    budget = "" if may is None else f" / {may:,}"
    before = "" if was is None or was == now else f" ({was:,})"
    return f"{now:,}{budget}{before}"


def accuracy_table(rungs: Accuracy) -> Table:
    """The ladder from the trained floats to Lava, each rung with its 95 % interval."""
    table = _table(f"Accuracy on {rungs.test_samples or 0:,} held-out samples")
    columns = (
        ("dense", rungs.dense, rungs.test_samples), ("compressed", rungs.compressed, rungs.test_samples),
        ("quantized", rungs.quantized, rungs.test_samples), ("emulated", rungs.emulated, rungs.test_samples),
        (f"in Lava ({rungs.lava_samples or 0} samples)", rungs.lava, rungs.lava_samples),
    )  # fmt: skip
    for heading, _, _ in columns:
        table.add_column(heading, justify="right")
    table.add_row(*(_with_interval(value, n) for _, value, n in columns))
    return table


def _with_interval(value: float | None, n: int | None) -> str:
    """A share with its 95 % Wilson interval."""
    if value is None or not n:
        return "not run"
    z = 1.96
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float((value * (1 - value) / n + z * z / (4 * n * n)) ** 0.5)
    return f"{value:.2%} [{max(0.0, centre - half):.1%}, {min(1.0, centre + half):.1%}]"
