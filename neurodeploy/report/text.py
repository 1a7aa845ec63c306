"""The report as a person reads it in a terminal or a file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from neurodeploy.balancing import Balance
from neurodeploy.board.links import ASSUMED_RATE
from neurodeploy.budgets.gains import Gain
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
    used = f"{placement.cores_used:,} of {placement.cores_available:,} cores used"
    chips = f" on {placement.chips_used:,} of {placement.profile['chips'].number:,} chips" if placement.chips_used > 1 else ""
    if len(broken) > 3:
        broken[3:] = [f"... and {len(broken) - 3} more limits."]
    return broken or [f"{when}: fits. {used}{chips} (the limits alone imply at least {placement.cores_lower_bound:,})."]


def size_table(sizes: Iterable[tuple[Placement, Accuracy]]) -> Table:
    """A row a size that a network was pressed into: its cores, and what is right there."""
    table = _table("Sizes, each a deployment of its own")
    for heading in ("cores", "used", "neurons", "synapses", "memory bits", "dense", "compressed", "in integers"):
        table.add_column(heading, justify="right", overflow="fold")
    for placement, accuracy in sizes:
        layers = [placement.of(name) for name in placement.n_pairs]
        rungs = (accuracy.dense, accuracy.compressed, accuracy.emulated)
        table.add_row(
            f"{placement.cores_available:,}", f"{placement.cores_used:,}{'' if placement.fits else ', does not fit'}",
            f"{sum(layer.neurons for layer in layers):,}", f"{sum(layer.synapses for layer in layers):,}",
            f"{sum(layer.synapse_memory_bits for layer in layers):,}",
            *("" if share is None else f"{share:.2%}" for share in rungs),
        )  # fmt: skip
    return table


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


def core_table(placement: Placement) -> Table:
    """A row a resource: how much of it the used cores take on average, and the fullest, and where the limit is from."""
    table = _table("Cores: share of each resource that is used")
    for heading in ("resource", "mean", "fullest", "core", "limit a core", "source"):
        table.add_column(heading, justify="left" if heading in ("resource", "source") else "right", overflow="fold")
    shares = placement.utilizations()
    for column, (name, mean) in enumerate(placement.mean_utilization().items()):
        row = int(shares[:, column].argmax())
        core, fullest = placement.cores[row], float(shares[row, column])
        limit = placement.profile[f"{name}_per_core"]
        table.add_row(name, f"{mean:.1%}", f"{fullest:.1%}", f"{core:,}", f"{limit.number:,} {limit.unit}", limit.where)
    return table


def traffic_lines(placement: Placement) -> Iterator[str]:
    """Where spikes go and what a step costs, a sentence each: estimates, with what they rest on."""
    traffic = placement.traffic()
    if traffic is None:
        if not placement.is_on_board:
            yield "Traffic a step: not known, since the board does not have the cores."
        return
    rates = "measured" if traffic.links.measured else f"assumed, {ASSUMED_RATE:g} spikes a neuron and step"
    crossing = f", {traffic.between_chips():,.1f} of them to another chip" if placement.chips_used > 1 else ""
    yield (
        f"Traffic a step: {traffic.links.spikes.sum():,.1f} spikes sent{crossing}, {traffic.spike_hops():,.1f} spikes x hops, "
        f"{traffic.on_links().max(initial=0.0):,.1f} over the busiest link (rates {rates})."
    )
    cost = traffic.estimate()
    if cost is None:
        yield f"Energy and time: {placement.profile.name}.yaml has no figures for them."
        return
    most = sorted(cost.energy_j_by_kind.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{kind} {energy / cost.energy_j:.0%}" for kind, energy in most if energy)
    source = placement.profile["synop_sparse_energy"].source
    yield f"Estimate a step: {cost.energy_j * 1e6:,.3g} uJ ({shares}) and {cost.time_s * 1e6:,.3g} us, by {source}."


def balance_lines(balances: tuple[Balance, ...]) -> Iterator[str]:
    """How spikes that skip layers are kept back until those on longer paths have come, a sentence a source."""
    for choice in balances:
        yield f"Balanced: {choice}."


def gain_table(gains: tuple[Gain, ...]) -> Table:
    """A row a layer: what it may keep of its synapse memory, and what one core more or a narrower weight would change."""
    narrower = gains[0].narrower_bits
    table = _table("Budgets: share of its unpruned synapse memory that a layer may keep")
    for heading in ("layer", "now", "with a core more", f"at {narrower} bits" if narrower else "narrower"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", overflow="fold")
    for gain in gains:
        others = (gain.with_a_core_more, gain.a_width_narrower)
        table.add_row(gain.layer, f"{gain.kept:.1%}", *("-" if share is None else f"{share:.1%}" for share in others))
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


def accuracy_table(accuracy: Accuracy) -> Table:
    """The ladder from the trained floats to Lava, each rung with its 95 % interval."""
    table, rungs = _table(f"Accuracy on {accuracy.test_samples or 0:,} held-out samples"), accuracy.rungs()
    for name, *_ in rungs:
        table.add_column(f"in Lava ({accuracy.lava_samples or 0} samples)" if name == "Lava" else name, justify="right")
    table.add_row(*(with_interval(share, n) for _, _, share, n in rungs))
    return table


def with_interval(value: float | None, n: int | None) -> str:
    """A share with its 95 % Wilson interval."""
    if value is None or not n:
        return "not run"
    z = 1.96
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float((value * (1 - value) / n + z * z / (4 * n * n)) ** 0.5)
    return f"{value:.2%} [{max(0.0, centre - half):.1%}, {min(1.0, centre + half):.1%}]"
