"""Chips as a person reads them: all in one list, or one with the source of each number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from neurodeploy.hardware import KEYS, HardwareProfile, Limit

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
    """Every number of a profile, with the keys that the README documents."""
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
    if kind == "formulas":
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
