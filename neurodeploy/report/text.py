"""The report as a person reads it in a terminal or a file.

Chips as a person reads them: all in one list, or one with the source of each number.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from neurodeploy.hardware.profile import KEYS, HardwareProfile, Limit
from neurodeploy.mapping.budget.allocation import Gain
from neurodeploy.mapping.delay_balancing import Balance
from neurodeploy.mapping.placement import Placement
from neurodeploy.mapping.traffic import ASSUMED_RATE
from neurodeploy.report.stages import Accuracy, LayerReport

# -------------------- report.text

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


def lower_bound(placement: Placement) -> str:
    """The lower bound on the cores, and where it comes from."""
    cores = f"{placement.cores_lower_bound:,} core{'s' * (placement.cores_lower_bound > 1)}"
    return f"lower bound: {cores} (each resource's total over what a core has)"


def _verdict(when: str, placement: Placement) -> list[str]:
    broken = [f"{when}: does not fit. {overrun}" for overrun in placement.overruns()]
    used = f"{placement.cores_used:,} of {placement.cores_available:,} cores used"
    chips = f" on {placement.chips_used:,} of {placement.profile['chips'].number:,} chips" if placement.chips_used > 1 else ""
    if len(broken) > 3:
        broken[3:] = [f"... and {len(broken) - 3} more limits."]
    return broken or [f"{when}: fits. {used}{chips}; {lower_bound(placement)}."]


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


# -------------------- report.chips

_BEGINS = {
    "chips": "board", "neurons_per_core": "core", "memory_bits_per_core": "memory", "encodings": "synapses",
    "state_bits": "dynamics", "synop_dense_energy": "energy and time",
}  # fmt: skip
"""The groups of a profile's table, by the first of their keys in `KEYS`."""
_MEMORIES = ("memory_bits", "synapse_memory_bits")
_KIB = 1 << 13


def chip_list(profiles: Iterable[HardwareProfile]) -> Table:
    """A row a chip: what it has, and how much of that is assumed."""
    table = Table(pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("name", "chips", "cores", "neurons", "memory a core", "assumed", "description"):
        table.add_column(heading, justify="left" if heading in ("name", "description") else "right", overflow="fold")
    for profile in profiles:
        memory = next((f"{_memory(profile, key):,.4g} KiB" for key in _MEMORIES if f"{key}_per_core" in profile), "")
        table.add_row(
            profile.name, f"{profile['chips'].number:,}", f"{profile.cores:,}", f"{_neurons(profile):,}", memory,
            _assumed(profile), profile.description,
        )  # fmt: skip
    return table


def chip_table(profile: HardwareProfile) -> Table:
    """A row a number, in groups, with its source; an assumption is marked, and a number from another file.

    An energy and a time from one source share a row, and a source that says no more than the row above is a quotation mark.
    """
    table = Table(
        title=f"{profile.name}: {profile.description}\n{_assumed(profile)} numbers are assumptions, marked ~",
        title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for heading in ("number", "value", "", "in", "source"):
        table.add_column(heading, justify="right" if heading == "value" else "left", overflow="fold")
    said = ""
    for group, rows in groupby(_rows(profile), key=lambda row: row[0]):
        table.add_row(Text(group, style="bold"))
        for _, label, value, limit in rows:
            inherited = "" if limit.profile == profile.name else limit.profile
            source = '"' if limit.source == said else limit.source
            table.add_row(f"  {label}", value, "~" if limit.assumed else "", inherited, source)
            said = limit.source
        table.add_section()
    return table


def chip_json(profile: HardwareProfile) -> dict[str, Any]:
    """Every number of a profile, with the keys that docs/json.md documents."""
    limits = {
        limit.key: {
            "value": limit.value, "unit": limit.unit, "source": limit.source, "assumed": limit.assumed, "profile": limit.profile
        }
        for limit in profile
    }  # fmt: skip
    return {"name": profile.name, "description": profile.description, "limits": limits}


def _rows(profile: HardwareProfile) -> Iterator[tuple[str, str, str, Limit]]:
    """Group, label, value and where it is from, for each row of a profile's table."""
    group = ""
    for key in KEYS:
        group = _BEGINS.get(key, group)
        event, _, what = key.rpartition("_")
        energy, time = (profile.limits.get(f"{event}_{quantity}") for quantity in ("energy", "time"))
        together = energy is not None and time is not None and energy.source == time.source and energy.assumed == time.assumed
        if key not in profile or (together and what == "time"):
            continue
        limit = profile[key]
        if together and time is not None:
            yield group, event, f"{_value(limit)}, {_value(time)}", limit
        else:
            yield group, key, _value(limit), limit


def _value(limit: Limit) -> str:
    """A value with its unit: ``1,572,864 bits = 192 KiB``, ``3 x 16, 2 x 32 neurons``, ``8 x 16 tiles``, ``1-6, 8 bits``."""
    kind = KEYS[limit.key].kind
    if kind == "encodings":
        return ", ".join(limit.names)
    if kind == "figure":
        return f"{limit.figure:,g} {limit.unit}"
    if kind == "sides":
        return f"{' x '.join(map(str, limit.choices))} {limit.unit}"
    if kind == "choices":
        return f"{_ranges(limit.choices)} {limit.unit}"
    runs = [(value, len(list(cores))) for value, cores in groupby(limit.choices)]
    number = ", ".join(f"{count} x {value:,}" if count > 1 else f"{value:,}" for value, count in runs)
    if limit.unit == "bits" and len(runs) == 1 and limit.number >= _KIB:
        return f"{number} bits = {limit.number / _KIB:,.4g} KiB"
    return f"{number} {limit.unit.removesuffix('s') if number == '1' else limit.unit}"


def _ranges(widths: tuple[int, ...]) -> str:
    """``1-6, 8`` for 1, 2, 3, 4, 5, 6 and 8."""
    runs = [[width for _, width in run] for _, run in groupby(enumerate(widths), key=lambda item: item[1] - item[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _neurons(profile: HardwareProfile) -> int:
    per_core = profile["neurons_per_core"]
    return profile["chips"].number * sum(per_core.on(core) for core in range(profile["cores_per_chip"].number))


def _memory(profile: HardwareProfile, resource: str) -> float:
    return profile.capacity(resource) / _KIB


def _assumed(profile: HardwareProfile) -> str:
    return f"{sum(limit.assumed for limit in profile)} of {len(profile.limits)}"
