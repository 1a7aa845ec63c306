"""What the chip offers.

A profile is a YAML file of numbers, each with its unit and either the `source` that states it or the `assumption`
that stands in for one. A number never travels without where it came from: it is a `Limit`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from neurodeploy.errors import ProfileError, RequestError

MAX_PROFILE_BYTES = 1 << 16
MAX_VALUE = 1 << 40
"""No chip has more of anything; all that is calculated from values up to this stays within 64 bits."""
_HERE = Path(__file__).parent
_PROFILE_FOLDERS = (_HERE / "hardware_profiles", _HERE.parent / "hardware_profiles")  # a wheel's, a checkout's


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One number of a chip, or the list of values that a setting may take.

    Attributes
    ----------
    key : str
        The profile's key, e.g. ``"neurons_per_core"``.
    value : int | tuple[int, ...]
        Positive, in `unit`; for a list of choices, ascending and distinct.
    unit : str
        E.g. ``"bits"``.
    source : str
        The document or code that states the number, or the assumption made in place of one.
    assumed : bool
        Whether `source` is an assumption.
    profile : str
        Name of the profile that the number stands in.
    """

    key: str
    value: int | tuple[int, ...]
    unit: str
    source: str
    assumed: bool
    profile: str

    @property
    def number(self) -> int:
        """The value of a limit that is a single number."""
        if isinstance(self.value, tuple):
            raise ProfileError(self.where, "is a list of choices, not one number")
        return self.value

    @property
    def choices(self) -> tuple[int, ...]:
        """The values of a limit that is a list of choices."""
        return self.value if isinstance(self.value, tuple) else (self.value,)

    @property
    def where(self) -> str:
        """Where to look the number up, e.g. ``loihi1.yaml: neurons_per_core``."""
        return f"{self.profile}.yaml: {self.key}"


_UNITS = {
    "chips": "chips",
    "cores_per_chip": "cores",
    "neurons_per_core": "neurons",
    "input_axons_per_core": "axons",
    "output_axons_per_core": "axons",
    "synapse_memory_bits_per_core": "bits",
    "memory_unit_bits": "bits",
    "synapses_per_block": "synapses",
    "block_header_bits": "bits",
    "weight_bits": "bits",
    "index_bits": "bits",
    "max_delay_steps": "steps",
}
_CHOICES = {"weight_bits", "index_bits"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareProfile:
    """What a chip, or a board of chips, offers to a network.

    Attributes
    ----------
    name, description : str
        What it is called, and one sentence about it.
    chips, cores_per_chip : Limit
        How many chips, and neurocores on each.
    neurons_per_core, input_axons_per_core, output_axons_per_core : Limit
        An input axon is one source neuron whose spikes a core receives; an output axon one (neuron, target core) pair.
    synapse_memory_bits_per_core, memory_unit_bits : Limit
        Memory for synapses, and the unit that it is given out in.
    synapses_per_block, block_header_bits : Limit
        An axon's synapses are stored in blocks of at most so many, each with a header.
    weight_bits, index_bits : Limit
        Allowed widths of a weight and, in a sparse block, of a synapse's target index.
    max_delay_steps : Limit
        Longest synaptic delay.
    """

    name: str
    description: str
    chips: Limit
    cores_per_chip: Limit
    neurons_per_core: Limit
    input_axons_per_core: Limit
    output_axons_per_core: Limit
    synapse_memory_bits_per_core: Limit
    memory_unit_bits: Limit
    synapses_per_block: Limit
    block_header_bits: Limit
    weight_bits: Limit
    index_bits: Limit
    max_delay_steps: Limit

    @property
    def cores(self) -> int:
        """Cores of all chips together."""
        return self.chips.number * self.cores_per_chip.number

    def cores_given(self, cores: int | None) -> int:
        """How many cores a network gets that asked for `cores`; all of them for None.

        Raises
        ------
        RequestError
            `cores` is not within 1..what the profile has.
        """
        if cores is None:
            return self.cores
        if not 1 <= cores <= self.cores:
            raise RequestError(
                "cores", f"{cores} is outside 1..{self.cores}", source=self.cores_per_chip.where,
                remedy="Give fewer cores, or a profile with more.",
            )  # fmt: skip
        return cores

    def limits(self) -> Iterator[Limit]:
        """Every number of the profile, in the order of the fields."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Limit):
                yield value


def profile_paths() -> dict[str, Path]:
    """The profiles that come with neurodeploy, by name."""
    folder = next((folder for folder in _PROFILE_FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """Read a hardware profile.

    Parameters
    ----------
    name_or_path : str or Path
        The name of a profile that comes with neurodeploy (``"loihi2"``), or a path to a YAML file.

    Raises
    ------
    ProfileError
        No such profile; not YAML, not a mapping, too large; a key unknown, missing or twice; a value of the wrong
        type, not positive, or without unit or source.
    """
    known = profile_paths()
    path = known.get(str(name_or_path)) or Path(name_or_path)
    if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises where a name is too long)
        raise ProfileError(
            str(name_or_path), "no such hardware profile",
            remedy=f"Give one of {', '.join(known)}, or a path to a YAML file.",
        )  # fmt: skip
    return _profile(path.stem, _read_mapping(path))


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error, not the last one's silent victory.

    Aliases are refused too: a few lines of them unfold to more than any memory holds.
    """

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases (*name) have no place here", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _read_mapping(path: Path) -> Mapping[str, Any]:
    size = path.stat().st_size
    if size > MAX_PROFILE_BYTES:
        raise ProfileError(str(path), "bytes in a profile", need=size, limit=MAX_PROFILE_BYTES)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except OSError as error:
        raise ProfileError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProfileError(str(path), f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ProfileError(str(path), f"is not plain YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(data, dict):
        raise ProfileError(str(path), f"is {_kind(data)}, not a mapping of keys to numbers")
    return data


def _profile(name: str, data: Mapping[str, Any]) -> HardwareProfile:
    wanted = {"name", "description", *_UNITS}
    for key in data:
        if key not in wanted:
            raise ProfileError(f"{name}.yaml: {key}", "unknown key", remedy=f"Known are {', '.join(sorted(wanted))}.")
    for key in sorted(wanted):
        if key not in data:
            raise ProfileError(f"{name}.yaml: {key}", "missing")
    for key in ("name", "description"):
        if not isinstance(data[key], str):
            raise ProfileError(f"{name}.yaml: {key}", f"is {_kind(data[key])}, not text")
    limits = {key: _limit(name, key, data[key]) for key in _UNITS}
    return HardwareProfile(name=data["name"], description=data["description"], **limits)


def _limit(profile: str, key: str, entry: Any) -> Limit:
    where = f"{profile}.yaml: {key}"
    if not isinstance(entry, dict):
        raise ProfileError(where, f"is {_kind(entry)}, not {{value, unit, source}}")
    for part in entry:
        if part not in ("value", "unit", "source", "assumption"):
            raise ProfileError(where, f"unknown part {part!r}", remedy="Parts are value, unit, source, assumption.")
    if entry.get("unit") != _UNITS[key]:
        raise ProfileError(where, f"its unit is {entry.get('unit')!r}, not {_UNITS[key]!r}")
    stated = [part for part in ("source", "assumption") if isinstance(entry.get(part), str) and entry[part].strip()]
    if len(stated) != 1:
        raise ProfileError(where, "needs either a source or an assumption, as text")
    if "value" not in entry:
        raise ProfileError(where, "has no value")
    return Limit(
        key=key,
        value=_value(where, key, entry["value"]),
        unit=entry["unit"],
        source=" ".join(entry[stated[0]].split()),
        assumed=stated[0] == "assumption",
        profile=profile,
    )


def _value(where: str, key: str, value: Any) -> int | tuple[int, ...]:
    if key not in _CHOICES:
        return _positive(where, value)
    if not isinstance(value, list) or not value:
        raise ProfileError(where, f"is {_kind(value)}, not a list of widths")
    widths = tuple(_positive(where, item) for item in value)
    if list(widths) != sorted(set(widths)):
        raise ProfileError(where, f"widths {list(widths)} are not ascending and distinct")
    if widths[-1] > 32:
        raise ProfileError(where, "bits in a width", need=widths[-1], limit=32)
    return widths


def _positive(where: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        what = "is not a number (NaN)" if isinstance(value, float) and math.isnan(value) else f"is {_kind(value)}"
        raise ProfileError(where, what, remedy="Give a whole number above zero.")
    if value <= 0:
        raise ProfileError(where, f"is {value:,}", remedy="Give a whole number above zero.")
    if value > MAX_VALUE:
        raise ProfileError(where, f"is above {MAX_VALUE:,}, more than any chip has")
    return value


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", float: "a fraction", bool: "true or false", type(None): "empty"}
    return f"{names.get(type(value), type(value).__name__)} ({str(value)[:40]})"
