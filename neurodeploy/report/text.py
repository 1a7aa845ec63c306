"""Report and chip profiles as text and tables for a terminal, a file or a pipe."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from neurodeploy.hardware.profile import KEYS, HardwareProfile, Limit

# for types alone: a table of chips needs neither NumPy nor the mapping
if TYPE_CHECKING:
    from neurodeploy.mapping.budget.allocation import Gain
    from neurodeploy.mapping.delay_balancing import Balance
    from neurodeploy.mapping.placement import Placement
    from neurodeploy.report.summary import Accuracy, LayerReport

WIDTH = 130
_MOST_LIMITS = 3
"""Broken limits that a verdict names."""
_COLUMNS = {
    "synapses": "synapses", "synapse_memory_bits": "memory bits", "input_axons": "axons in", "output_axons": "axons out",
    "cores": "cores",
}  # fmt: skip


def as_text(*parts: RenderableType) -> str:
    """Render parts of a report as plain text, at most `WIDTH` columns wide."""
    buffer = io.StringIO()
    # Plain, so that a file or a pipe gets no escape codes, and names in brackets are not read as markup.
    console = Console(file=buffer, width=WIDTH, no_color=True, highlight=False, markup=False, emoji=False)
    console.print(*parts, sep="\n")
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def verdict(
    placement: Placement,
    before: Placement | None = None,
    overflows: Mapping[str, int] = MappingProxyType({}),
    *,
    is_compressible: bool = True,
) -> list[str]:
    """Sentences that say whether a network fits, which limits it breaks, and which layers' states left their registers.

    Where it cannot be compressed, they do not say how many cores it would have to be compressed to.
    """
    profile = placement.profile
    runs = "counting only" if profile.target is None else f"target {profile.target}"
    lines = [f"{profile.name} ({runs}): {profile.description}"]
    for when, shown in (("Before", before), ("Now", placement)):
        if shown is None:
            continue
        used = f"{shown.cores_used:,} of {shown.cores_available:,} cores used"
        chips = f" on {shown.chips_used:,} of {shown.profile['chips'].number:,} chips" if shown.chips_used > 1 else ""
        overruns = (
            overrun if is_compressible or overrun.resource != "cores" else replace(overrun, remedy="")
            for overrun in shown.overruns()
        )
        broken = [f"{when}: does not fit. {overrun}" for overrun in overruns]
        if len(broken) > _MOST_LIMITS:
            # the slice assignment replaces all further ones by a count
            broken[_MOST_LIMITS:] = [f"... and {len(broken) - _MOST_LIMITS} more limits."]
        lines += broken or [f"{when}: fits. {used}{chips}; {lower_bound(shown)}."]
    return lines + overflow_lines(overflows)


def overflow_lines(overflows: Mapping[str, int]) -> list[str]:
    """A sentence for each layer whose state left its register, and how often."""
    return [f"Layer {name!r}: its state left its register {times:,} times." for name, times in overflows.items() if times]


def lower_bound(placement: Placement) -> str:
    """The lower bound on the cores, and where it comes from."""
    cores = f"{placement.cores_lower_bound:,} core{'s' * (placement.cores_lower_bound > 1)}"
    return f"lower bound: {cores} (each resource's total over what a core has)"


def size_table(sizes: Iterable[tuple[Placement, Accuracy]]) -> Table:
    """One row per core count that a network was compressed to: its cores, resources and accuracies."""
    table = _table("Core counts, each deployed on its own")
    for heading in ("cores", "used", "neurons", "synapses", "memory bits", "dense", "compressed", "in integers"):
        table.add_column(heading, justify="right", overflow="fold")
    for placement, accuracy in sizes:
        layers = [placement.of(name) for name in placement.n_pairs]
        shares = (accuracy.dense, accuracy.compressed, accuracy.emulated)
        table.add_row(
            f"{placement.cores_available:,}", f"{placement.cores_used:,}{'' if placement.fits else ', does not fit'}",
            f"{sum(layer.neurons for layer in layers):,}", f"{sum(layer.synapses for layer in layers):,}",
            f"{sum(layer.synapse_memory_bits for layer in layers):,}",
            *("" if share is None else f"{share:.2%}" for share in shares),
        )  # fmt: skip
    return table


def layer_table(layers: tuple[LayerReport, ...]) -> Table:
    """One row per layer: resources used, its budget, and in brackets the resources used before compression."""

    def used(layer: LayerReport, name: str) -> str:
        now, was = getattr(layer.now, name), None if layer.before is None else getattr(layer.before, name)
        # synapses are not limited themselves; their memory is
        limit = None if layer.budget is None or name == "synapses" else getattr(layer.budget, name)
        return f"{now:,}{'' if limit is None else f' / {limit:,}'}{'' if was is None or was == now else f' ({was:,})'}"

    table = _table("Layers: used / budget (before)")
    for heading in ("layer", "neurons", "kept", "stored", *_COLUMNS.values()):
        table.add_column(heading, justify="left" if heading in ("layer", "stored") else "right", overflow="fold")
    for layer in layers:
        table.add_row(
            layer.now.layer, f"{layer.now.neurons:,}", f"{layer.connectivity:.1%}",
            f"{layer.now.weight_bits}-bit {layer.now.encoding}", *(used(layer, name) for name in _COLUMNS),
        )  # fmt: skip
    return table


def core_table(placement: Placement) -> Table:
    """One row per resource: mean and maximum utilisation of the used cores, and the limit with its source."""
    table = _table("Cores: utilisation of each resource")
    for heading in ("resource", "mean", "fullest", "core", "limit per core", "source"):
        table.add_column(heading, justify="left" if heading in ("resource", "source") else "right", overflow="fold")
    shares = placement.utilizations()
    for column, (name, mean) in enumerate(placement.mean_utilization().items()):
        row = int(shares[:, column].argmax())
        core, fullest = placement.cores[row], float(shares[row, column])
        limit = placement.profile[f"{name}_per_core"]
        table.add_row(name, f"{mean:.1%}", f"{fullest:.1%}", f"{core:,}", f"{limit.number:,} {limit.unit}", limit.where)
    return table


def traffic_lines(placement: Placement) -> Iterator[str]:
    """Sentences about spike traffic, energy and time of a step: estimates, with their assumptions and source."""
    # imported here: it brings NumPy, which a table of chips does not need
    from neurodeploy.mapping.traffic import ASSUMED_RATE

    traffic = placement.traffic()
    if traffic is None:
        if not placement.is_on_board:
            yield "Traffic per step: unknown, because the board has too few cores."
        return
    rates = "measured" if traffic.links.measured else f"assumed, {ASSUMED_RATE:g} spikes per neuron and step"
    crossing = f", {traffic.between_chips():,.1f} of them to another chip" if placement.chips_used > 1 else ""
    yield (
        f"Traffic per step: {traffic.links.spikes.sum():,.1f} spikes sent{crossing}, {traffic.spike_hops():,.1f} spikes x hops, "
        f"{traffic.on_links().max(initial=0.0):,.1f} over the busiest link (rates {rates})."
    )
    cost = traffic.estimate()
    if cost is None:
        yield f"Energy and time: unknown, because {placement.profile.name}.yaml has no figures."
        return
    # the three largest are enough for one line
    most = sorted(cost.energy_j_by_kind.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{kind} {energy / cost.energy_j:.0%}" for kind, energy in most if energy)
    source = placement.profile["synop_sparse_energy"].source
    yield f"Estimate per step: {cost.energy_j * 1e6:,.3g} uJ ({shares}) and {cost.time_s * 1e6:,.3g} us, by {source}."


def balance_lines(balances: tuple[Balance, ...]) -> Iterator[str]:
    """Sentences about sources whose spikes are delayed until those on longer paths arrive."""
    for balance in balances:
        yield f"Balanced: {balance}."


def gain_table(gains: tuple[Gain, ...]) -> Table:
    """One row per layer: the share of synapse memory it may keep now, with one more core, and with narrower weights."""
    narrower = gains[0].narrower_bits
    table = _table("Budgets: share of its unpruned synapse memory that a layer may keep")
    for heading in ("layer", "now", "with one more core", f"at {narrower} bits" if narrower else "narrower"):
        table.add_column(heading, justify="left" if heading == "layer" else "right", overflow="fold")
    for gain in gains:
        others = (gain.with_a_core_more, gain.a_width_narrower)
        table.add_row(gain.layer, f"{gain.kept:.1%}", *("-" if share is None else f"{share:.1%}" for share in others))
    return table


def _table(title: str) -> Table:
    """An empty table in the style that still fits 80 columns."""
    return Table(title=title, title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))


def accuracy_table(accuracy: Accuracy) -> Table:
    """Accuracy of each pipeline stage, from the trained floats to Lava, with its 95 % interval."""
    table, stages = _table(f"Accuracy on {accuracy.test_samples or 0:,} test samples"), accuracy.stages()
    for name, *_ in stages:
        table.add_column(f"in Lava ({accuracy.lava_samples or 0} samples)" if name == "Lava" else name, justify="right")
    table.add_row(*(with_interval(share, n) for _, _, share, n in stages))
    return table


def with_interval(value: float | None, n: int | None) -> str:
    """A share of `n` samples with its 95 % Wilson interval."""
    if value is None or not n:
        return "not run"
    from scipy.stats import binomtest  # takes half a second to import

    # round: a share is a count over n. Wilson's interval stays within 0..1, which the normal one leaves near 100 %.
    interval = binomtest(round(value * n), n).proportion_ci(0.95, method="wilson")
    return f"{value:.2%} [{interval.low:.1%}, {interval.high:.1%}]"


_BEGINS = {
    "chips": "board", "neurons_per_core": "core", "memory_bits_per_core": "memory", "encodings": "synapses",
    "state_bits": "dynamics", "synop_dense_energy": "energy and time",
}  # fmt: skip
"""Groups of a profile's table, each by its first key in `KEYS`."""
# in bits: 8 x 1024
_KIB = 1 << 13


def chip_list(profiles: Iterable[HardwareProfile]) -> Table:
    """One row per chip: its main numbers, and how many numbers of its profile are assumptions."""
    table = Table(pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("name", "chips", "cores", "neurons", "memory per core", "assumed", "description"):
        table.add_column(heading, justify="left" if heading in ("name", "description") else "right", overflow="fold")
    for profile in profiles:
        pools = [key for key in ("memory_bits", "synapse_memory_bits") if f"{key}_per_core" in profile]
        memory = f"{profile.capacity(pools[0]) / _KIB:,.4g} KiB" if pools else ""
        on_chip = sum(profile["neurons_per_core"].on(core) for core in range(profile["cores_per_chip"].number))
        table.add_row(
            profile.name, f"{profile['chips'].number:,}", f"{profile.cores:,}", f"{profile['chips'].number * on_chip:,}", memory,
            _assumed(profile), profile.description,
        )  # fmt: skip
    return table


def chip_table(profile: HardwareProfile) -> Table:
    """One row per number of a profile, in groups, with its source; assumptions and inherited numbers are marked.

    An energy and a time from one source share a row. A quotation mark stands for the source of the row above.
    """
    table = Table(
        title=f"{profile.name}: {profile.description}\n{_assumed(profile)} numbers are assumptions, marked ~",
        title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0),
    )  # fmt: skip
    for heading in ("number", "value", "", "in", "source"):
        table.add_column(heading, justify="right" if heading == "value" else "left", overflow="fold")
    previous = ""
    for group, rows in groupby(_rows(profile), key=lambda row: row[0]):
        table.add_row(Text(group, style="bold"))
        for _, label, value, limit in rows:
            inherited = "" if limit.profile == profile.name else limit.profile
            source = '"' if limit.source == previous else limit.source
            table.add_row(f"  {label}", value, "~" if limit.assumed else "", inherited, source)
            previous = limit.source
        table.add_section()
    return table


def chip_json(profile: HardwareProfile) -> dict[str, Any]:
    """Every number of a profile with its unit and source, as JSON."""
    limits = {
        limit.key: {
            "value": limit.value, "unit": limit.unit, "source": limit.source, "assumed": limit.assumed, "profile": limit.profile
        }
        for limit in profile
    }  # fmt: skip
    return {"name": profile.name, "description": profile.description, "limits": limits}


def _rows(profile: HardwareProfile) -> Iterator[tuple[str, str, str, Limit]]:
    """Group, label, value and limit of each row of a profile's table."""
    group = ""
    for key in KEYS:
        group = _BEGINS.get(key, group)
        event, _, what = key.rpartition("_")
        energy, time = (profile.limits.get(f"{event}_{quantity}") for quantity in ("energy", "time"))
        # one row for both only if one source covers both, and both are assumed or neither is
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
        # consecutive widths as a range: 1-6, 8 for 1, 2, 3, 4, 5, 6 and 8
        ranges = [[width for _, width in run] for _, run in groupby(enumerate(limit.choices), key=lambda item: item[1] - item[0])]
        joined = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in ranges)
        return f"{joined} {limit.unit}"
    # one value for each core: equal neighbours are counted, 3 x 16 for 16, 16, 16
    runs = [(value, len(list(cores))) for value, cores in groupby(limit.choices)]
    number = ", ".join(f"{count} x {value:,}" if count > 1 else f"{value:,}" for value, count in runs)
    if limit.unit == "bits" and len(runs) == 1 and limit.number >= _KIB:
        return f"{number} bits = {limit.number / _KIB:,.4g} KiB"
    return f"{number} {limit.unit.removesuffix('s') if number == '1' else limit.unit}"


def _assumed(profile: HardwareProfile) -> str:
    return f"{sum(limit.assumed for limit in profile)} of {len(profile.limits)}"
