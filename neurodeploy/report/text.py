"""Report and chip profiles as text and tables for a terminal, a file or a pipe."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from neurodeploy.errors import counted
from neurodeploy.hardware.profile import KEYS, HardwareProfile, Limit

# for types alone: a table of chips needs neither NumPy nor the mapping
if TYPE_CHECKING:
    from neurodeploy.errors import NeurodeployError
    from neurodeploy.frontends.assembly import NodeSupport
    from neurodeploy.mapping.allocation import Gain
    from neurodeploy.mapping.delay_balancing import Balance
    from neurodeploy.mapping.energy import StepEstimate
    from neurodeploy.mapping.placement import Placement
    from neurodeploy.report.summary import Accuracy, LayerReport

WIDTH, WIDEST = 130, 250
"""Columns of a report in a file or a pipe, and of one with all columns."""
_WORD, _BREAK = re.compile(r"(?:/ )?\S+"), re.compile(r" (?=/ |\()")
"""What is never broken, a limit with its stroke; where a cell breaks first: before a limit and a bracket."""
_NARROWEST_TEXT = 24
"""Width below which a column of text is as hard to read as one of numbers in two lines."""
_MOST_LIMITS = 3
"""Broken limits that a verdict names."""
_MOST_NODES = 24
"""Nodes of a model that are listed one by one, so that the table stays on one screen."""
_COLUMNS = {
    "synapses": "synapses", "synapse_memory_bits": "synapse bits", "input_axons": "axons in", "output_axons": "axons out",
    "cores": "cores",
}  # fmt: skip


def as_text(*parts: RenderableType, width: int = WIDTH) -> str:
    """Render parts of a report as plain text, at most `width` columns wide."""
    buffer = io.StringIO()
    # Plain, so that a file or a pipe gets no escape codes, and names in brackets are not read as markup.
    console = Console(file=buffer, width=width, no_color=True, highlight=False, markup=False, emoji=False, force_jupyter=False)
    # not cropped: a table that no columns can be left out of may be wider
    console.print(*parts, sep="\n", crop=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def unbroken(line: str) -> Group:
    """A line that no terminal's width breaks, such as one with paths."""
    return Group(Text(line, no_wrap=True, overflow="ignore"))  # a group: a console joins texts, and wraps what it joined


class FittedTable:
    """A table whose cells break between words alone; where it is too wide for that, it leaves out columns and says so.

    Parameters
    ----------
    headings : str
        In order, the first on the left. Those that end with ``<`` are aligned left.
    spare : sequence of str
        Headings of columns that may be left out, the first of them first.
    """

    def __init__(self, title: str, headings: Sequence[str], spare: Sequence[str] = ()) -> None:
        self.title, self.headings = title, tuple(heading.removesuffix("<") for heading in headings)
        self.is_left = [number == 0 or heading.endswith("<") for number, heading in enumerate(headings)]
        self.spare, self.rows = tuple(spare), list[tuple[str | Text, ...]]()
        self.sections = set[int]()

    def add(self, *cells: str | Text) -> None:
        """Add a row; cells that are missing at its end are empty."""
        self.rows.append((*cells, *[""] * (len(self.headings) - len(cells))))

    def add_section(self) -> None:
        """End a group of rows with a line."""
        self.sections.add(len(self.rows) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        texts = [[heading, *(str(row[i]) for row in self.rows)] for i, heading in enumerate(self.headings)]
        least = [max(len(word) for text in column for word in _WORD.findall(text) or [""]) for column in texts]
        natural = {i: max(map(len, column)) for i, column in enumerate(texts)}
        least[0] = natural[0]  # names, some of them indented
        # columns that are empty throughout say nothing
        shown = [i for i, column in enumerate(texts) if any(column[1:])] or [0]
        most, left_out = options.max_width, list[str]()
        for heading in self.spare:
            if sum(least[i] + 2 for i in shown) > most and self.headings.index(heading) in shown:
                shown.remove(self.headings.index(heading))
                left_out.append(heading)
        widths = {i: natural[i] for i in shown}
        # texts become narrower before numbers do
        for floors in ({i: max(least[i], _NARROWEST_TEXT) if self.is_left[i] and i else natural[i] for i in shown}, least):
            while sum(width + 2 for width in widths.values()) > most:
                widest = max(shown, key=lambda i: widths[i] - floors[i])
                if widths[widest] <= floors[widest]:
                    break
                widths[widest] -= 1
        table = Table(pad_edge=False, box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for i in shown:
            table.add_column(self.headings[i], justify="left" if self.is_left[i] else "right", width=widths[i], no_wrap=False)
        for number, row in enumerate(self.rows):
            cells = (_BREAK.sub("\n", str(row[i])) if widths[i] < natural[i] else row[i] for i in shown)
            table.add_row(*cells, end_section=number in self.sections)
        yield Text(self.title)
        # as wide as its longest words, even where the terminal is not: it then wraps lines, and no number is cut off
        yield from console.render(table, options.update(width=max(options.max_width, sum(widths.values()) + 2 * len(shown))))
        if left_out:
            yield Text(f"Left out in {options.max_width} columns: {', '.join(left_out)}. --wide shows them.")


def comparison_outcome(mismatches: int, n_spikes: int) -> str:
    """What the comparison of two records found, in words: also that there was no spike to compare."""
    if mismatches:
        return f"{counted(mismatches, 'value')} {'differs' if mismatches == 1 else 'differ'}"
    return "spikes and membranes equal" if n_spikes else "membranes equal, but no neuron fired: no spikes were compared"


def short_verdict(placement: Placement) -> str:
    """Whether a placement fits, with the cores that it takes or the first limit that it breaks."""
    broken = next(placement.overruns(), None)
    fits = f"Fits: {placement.cores_used:,} of {counted(placement.cores_available, 'core')}."
    return fits if broken is None else f"Does not fit: {broken}"


def verdict(
    placement: Placement,
    before: Placement | None = None,
    overflows: Mapping[str, int] = MappingProxyType({}),
    refused: NeurodeployError | None = None,
) -> list[str]:
    """Sentences that say whether a network fits, which limits it breaks, and which layers' states left their registers.

    `refused` is why `deploy` refuses its numbers, if it does.
    """
    profile = placement.profile
    runs = "counting only" if profile.target is None else f"target {profile.target}"
    lines = [f"{profile.name} ({runs}): {profile.description}"]
    for when, shown in (("Before", before), ("Now", placement)):
        if shown is None:
            continue
        used = f"{shown.cores_used:,} of {counted(shown.cores_available, 'core')} used"
        chips = f" on {shown.chips_used:,} of {shown.profile['chips'].number:,} chips" if shown.chips_used > 1 else ""
        broken = [f"{when}: does not fit. {overrun}" for overrun in once_a_limit(shown)]
        if len(broken) > _MOST_LIMITS:
            # the slice assignment replaces all further ones by a count
            broken[_MOST_LIMITS:] = [f"... and {len(broken) - _MOST_LIMITS} more limits."]
        takes = f"{used}{chips}; {lower_bound(shown)}."
        if shown is placement and refused is not None:
            lines += [*broken, f"Deployable: no. {refused}"] if broken else [
                f"{when}: fits, but cannot be deployed: {refused}", takes,
            ]  # fmt: skip
        else:
            lines += broken or [f"{when}: fits. {takes}"]
    return lines + overflow_lines(overflows)


def once_a_limit(placement: Placement) -> Iterator[str]:
    """Sentences on the limits that are broken: one for each layer and resource, with the number of further cores."""
    found: dict[tuple[str, str], list[str]] = {}
    for overrun in placement.overruns():
        found.setdefault((overrun.layer, overrun.resource), []).append(str(overrun))
    for first, *others in found.values():
        yield first + f" The same on {counted(len(others), 'more core')}." * bool(others)


def overflow_lines(overflows: Mapping[str, int]) -> list[str]:
    """A sentence for each layer whose state left its register, and how often."""
    return [
        f"Layer {name!r}: its state left its register {counted(times, 'time')}." for name, times in overflows.items() if times
    ]


def lower_bound(placement: Placement) -> str:
    """The lower bound on the cores, and where it comes from."""
    cores = counted(placement.cores_lower_bound, "core")
    return f"lower bound: {cores} (each resource's total over what a core has)"


def size_table(sizes: Iterable[tuple[Placement, Accuracy]]) -> FittedTable:
    """One row per core count that a network was compressed to: its cores, resources and accuracies."""
    headings = ("cores", "used", "neurons", "synapses", "synapse bits", "dense", "compressed", "in integers")
    table = FittedTable("Core counts, each deployed on its own", headings, ("neurons", "synapse bits"))
    for placement, accuracy in sizes:
        layers = [placement.of(name) for name in placement.weight_bits]
        shares = (accuracy.dense, accuracy.compressed, accuracy.emulated)
        table.add(
            f"{placement.cores_available:,}", f"{placement.cores_used:,}{'' if placement.fits else ', does not fit'}",
            f"{sum(layer.neurons for layer in layers):,}", f"{sum(layer.synapses for layer in layers):,}",
            f"{sum(layer.synapse_memory_bits for layer in layers):,}",
            *("" if share is None else f"{share:.2%}" for share in shares),
        )  # fmt: skip
    return table


def layer_table(layers: Sequence[LayerReport], *, wide: bool = False) -> FittedTable:
    """One row per layer: resources used, its budget, and in brackets the resources used before compression.

    Several layers that bring biases or delay spikes share a row, unless `wide`.
    """

    def used(layer: LayerReport, name: str) -> str:
        now, was = getattr(layer.now, name), None if layer.before is None else getattr(layer.before, name)
        # synapses are not limited themselves, their memory is; and neurons only where some have to go
        limit = None if layer.budget is None or name in {"synapses", *layer.unlimited} else getattr(layer.budget, name)
        limit = None if name == "neurons" and limit is not None and limit >= now else limit
        return f"{now:,}{'' if limit is None else f' / {limit:,}'}{'' if was is None or was == now else f' ({was:,})'}"

    headings = ("layer", "neurons", "kept", "stored<", *_COLUMNS.values())
    title = "Layers: used / budget (before)" if any(layer.before for layer in layers) else "Layers: used / budget"
    table = FittedTable(title, headings, ("stored", "axons out", "axons in", "cores"))
    added = [layer.now for layer in layers if layer.is_added]
    folded = added if len(added) > 1 and not wide else []
    for layer in layers:
        if layer.now not in folded:
            stored = f"{layer.now.weight_bits}-bit {layer.now.encoding.replace('+', ' + ')}"
            cells = (used(layer, name) for name in _COLUMNS)
            table.add(layer.now.layer, used(layer, "neurons"), f"{layer.connectivity:.1%}", stored, *cells)
        elif layer.now is folded[0]:
            total = {name: f"{sum(getattr(use, name) for use in folded):,}" for name in ("neurons", *list(_COLUMNS)[:-1])}
            table.add(f"{len(folded)} added", total.pop("neurons"), "", "", *total.values())
    return table


def layer_notes(layers: Sequence[LayerReport]) -> Iterator[str]:
    """Sentences about the columns of `layer_table`, as far as they apply."""
    if any(layer.before is not None for layer in layers):
        yield "Kept: share of the original network's weights."
    if any(layer.budget is not None for layer in layers):
        yield "Budget: what a layer may use. Once a network fits: its use and what is left on its cores, which they share."
    if len(layers) > 1:
        yield "Cores: those with a part of the layer. Layers share cores, so the column may add up to more than are used."
    if added := [layer.now.layer for layer in layers if layer.is_added]:
        yield f"Added by neurodeploy, to bring biases or to delay spikes: {', '.join(added)}."


def node_table(nodes: Sequence[NodeSupport], *, wide: bool = False) -> FittedTable:
    """One row for each node of a model: exact, what it becomes, or why it is not supported and the way round.

    Of more than `_MOST_NODES` nodes, those that are exact share one row for each kind, unless it may be `wide`.
    """
    counts = Counter(node.verdict for node in nodes)
    headings = ("node", "type<", "<", "what becomes of it; why not, and the way round<")
    table = FittedTable(f"Nodes: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}", headings)
    exact: dict[str, list[str]] = {}
    for node in nodes:
        if len(nodes) > _MOST_NODES and not wide and node.verdict == "exact":
            exact.setdefault(node.kind, []).append(node.name)
            continue
        texts = list(node.rewrites)
        if node.reasons:
            reasons = node.explained()
            texts = [f"{one['what']}{': ' * bool(one['source'])}{one['source']}. {one['remedy']}" for one in reasons]
        elif node.is_host:
            texts = ["behind the last neurons; the host computes it"]
        table.add(node.name, node.kind, node.verdict, "\n".join(texts))
    for kind, names in exact.items():
        table.add(f"{len(names)} nodes" if len(names) > 1 else "1 node", kind, "exact", ", ".join(names))
    return table


def core_table(placement: Placement) -> FittedTable:
    """One row per resource: mean and maximum utilisation of the used cores, and the limit with its source."""
    numbers = f"{placement.cores_used:,} in use, numbered as on the board, 0 to {placement.profile.cores - 1:,}"
    if not placement.is_on_board:
        numbers = f"{placement.cores_used:,} needed; the board has {placement.profile.cores:,}"
    headings = ("resource", "mean", "fullest", "core", "limit per core", "source<")
    table = FittedTable(f"Cores: utilisation of each resource ({numbers})", headings, ("source",))
    shares = placement.utilizations()
    for column, (name, mean) in enumerate(placement.mean_utilization().items()):
        row = int(shares[:, column].argmax())
        core, fullest = placement.cores[row], float(shares[row, column])
        limit = placement.profile[f"{name}_per_core"]
        table.add(name, f"{mean:.1%}", f"{fullest:.1%}", f"{core:,}", f"{limit.number:,} {limit.unit}", limit.where)
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
    busiest = traffic.busiest_link
    at_most = " through a crossbar" if busiest is None else f", {busiest:,.1f} over the busiest link within a chip"
    yield (
        f"Traffic per step: {traffic.links.spikes.sum():,.1f} spikes sent{crossing}, {traffic.spike_hops():,.1f} spikes x hops "
        f"(as multicast: {traffic.multicast_hops():,.1f}; {traffic.routing}){at_most} (rates {rates})."
    )
    cost = traffic.estimate()
    if cost is None:
        file = placement.profile["cores_per_chip"].where.partition(":")[0]
        yield f"Energy and time: unknown, because {file} has no figures."
        return
    # the three largest are enough for one line
    most = sorted(cost.energy_j_by_kind.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{kind} {energy / cost.energy_j:.0%}" for kind, energy in most if energy)
    source = placement.profile["synop_sparse_energy"].source
    energy, time = step_costs(cost)
    figures = "Assumed" if cost.is_assumed else "Figures"
    yield f"Estimate per step: {energy} and {time}; of the energy {shares}. {figures}: {source}."
    if slowest := busiest_core_line(placement, cost):
        yield slowest


def busiest_core_line(placement: Placement, cost: StepEstimate, micro: str = "u") -> str:
    """The core that sets the time of a step, its layers, and what takes its time; empty where the profile has no times."""
    if not any(cost.busiest_s_by_kind.values()):
        return ""
    layers = dict.fromkeys(repr(part.layer) for part in placement.slices if part.core == cost.busiest_core)
    busy_s = max(cost.sending_s, cost.receiving_s)
    kinds = sorted(cost.busiest_s_by_kind.items(), key=lambda item: -item[1])[:3]
    shares = ", ".join(f"{kind} {time_s / busy_s:.0%}" for kind, time_s in kinds if time_s >= 0.005 * busy_s)
    what = "sending" if cost.sending_s > cost.receiving_s else "receiving"
    return (
        f"Busiest core: {cost.busiest_core:,} ({', '.join(layers)}), {what} for {busy_s * 1e6:,.3g} of "
        f"{cost.time_s * 1e6:,.3g} {micro}s: {shares}. It sets the time of a step."
    )


def step_costs(cost: StepEstimate, micro: str = "u") -> tuple[str, str]:
    """Energy and time of a step, each with its range where the profile has one: ``1.2 uJ (0.6 to 1.9)``."""

    def text(value: float, between: tuple[float, float] | None, unit: str) -> str:
        around = "" if between is None else f" ({between[0] * 1e6:,.3g} to {between[1] * 1e6:,.3g})"
        return f"{value * 1e6:,.3g} {micro}{unit}{around}"

    return text(cost.energy_j, cost.energy_range_j, "J"), text(cost.time_s, cost.time_range_s, "s")


def balance_lines(balances: tuple[Balance, ...]) -> Iterator[str]:
    """Sentences about sources whose spikes are delayed until those on longer paths arrive."""
    for balance in balances:
        yield f"Delayed: {balance}."


def gain_table(gains: tuple[Gain, ...]) -> FittedTable:
    """One row per layer: the share of synapse memory it may keep now, with one more core, and with narrower weights."""
    narrower = gains[0].narrower_bits
    headings = ("layer", "now", "with one more core", f"at {narrower} bits" if narrower else "narrower")
    table = FittedTable("Budgets: share of its unpruned synapse memory that a layer may keep", headings)
    for gain in gains:
        others = (gain.with_a_core_more, gain.a_width_narrower)
        table.add(gain.layer, f"{gain.kept:.1%}", *("-" if share is None else f"{share:.1%}" for share in others))
    return table


def accuracy_table(accuracy: Accuracy) -> FittedTable:
    """Accuracy of each pipeline stage, from the trained floats to Lava, with its 95 % interval."""
    table = FittedTable(
        f"Accuracy on {counted(accuracy.test_samples or 0, 'test sample')}", ("stage", "accuracy", "what runs<"), ("what runs",)
    )
    for name, what, share, n in accuracy.stages():
        n_here = f" ({counted(n, 'sample')})" if n and n != accuracy.test_samples else ""
        prefix = "in " if name == (accuracy.simulator or "Lava") else ""
        table.add(f"{prefix}{name}{n_here}", with_interval(share, n), what)
    return table


def with_interval(value: float | None, n: int | None) -> str:
    """A share of `n` samples with its 95 % Wilson interval."""
    if value is None or not n:
        return "not run"
    low, high = interval(value, n)
    return f"{value:.2%} [{low:.1%}, {high:.1%}]"


def interval(value: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share of `n` samples; it stays within 0..1, which the normal one leaves near 100 %."""
    from scipy.stats import binomtest  # takes half a second to import

    # round: a share is a count over n
    found = binomtest(round(value * n), n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


_BEGINS = {
    "chips": "board", "neurons_per_core": "core", "memory_bits_per_core": "memory", "encodings": "synapses",
    "state_bits": "dynamics", "synop_dense_energy": "energy and time",
}  # fmt: skip
"""Groups of a profile's table, each by its first key in `KEYS`."""
# in bits: 8 x 1024
_KIB = 1 << 13


def chip_list(profiles: Iterable[HardwareProfile]) -> FittedTable:
    """One row per chip: its main numbers, and how many numbers of its profile are assumptions."""
    headings = ("name", "chips", "cores", "neurons", "memory per core", "assumed", "description<")
    table = FittedTable("Chips", headings, ("assumed",))
    for profile in profiles:
        pools = [key for key in ("memory_bits", "synapse_memory_bits") if f"{key}_per_core" in profile]
        memory = f"{profile.capacity(pools[0]) / _KIB:,.4g} KiB" if pools else ""
        on_chip = sum(profile["neurons_per_core"].on(core) for core in range(profile["cores_per_chip"].number))
        table.add(
            profile.name, f"{profile['chips'].number:,}", f"{profile.cores:,}", f"{profile['chips'].number * on_chip:,}", memory,
            _assumed(profile), profile.description,
        )  # fmt: skip
    return table


def chip_table(profile: HardwareProfile) -> FittedTable:
    """One row per number of a profile, in groups, with its source; assumptions and inherited numbers are marked.

    An energy and a time from one source share a row. A quotation mark stands for the source of the row above.
    """
    title = f"{profile.name}: {profile.description}\n{_assumed(profile)} numbers are assumptions, marked ~"
    table = FittedTable(title, ("number", "value", "<", "in<", "source<"), ("in",))
    previous = ""
    for group, rows in groupby(_rows(profile), key=lambda row: row[0]):
        table.add(Text(group, style="bold"))
        for _, label, value, limit in rows:
            inherited = "" if limit.profile == profile.name else limit.profile
            source = '"' if limit.source == previous else limit.source
            table.add(f"  {label}", value, "~" if limit.assumed else "", inherited, source)
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
    if kind == "factors":
        return f"{limit.text} times"
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
