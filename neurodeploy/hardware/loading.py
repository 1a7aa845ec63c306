"""How a chip is written down.

A profile is a YAML file: a name, a description, and numbers under the keys of `neurodeploy.hardware.profile.KEYS`, each with its
unit and either the `source` that states it or the `assumption` made in place of one. A board `extends` its chip by
name and says only what differs.

What editors are told about profiles: the format as a JSON Schema, made from the same table that the reader reads by.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from neurodeploy.errors import ProfileError
from neurodeploy.hardware.profile import KEYS, HardwareProfile, Key, Kind, Limit, Value
from neurodeploy.resources.encodings import Encoding

# -------------------- profiles

MAX_PROFILE_BYTES = 1 << 16
MAX_VALUE = 1 << 40
"""No chip has more of anything; all that is calculated from values up to this stays within 64 bits."""
MAX_DIGITS = 64
MAX_WIDTH = 32
"""No weight and no index is wider, in bits."""
FORMULAS: tuple[str, ...] = get_args(Encoding)
"""How synapses may be stored: `neurodeploy.resources.encodings` has them all."""
PLAIN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""What a profile that is extended, and an encoding, may be called."""
TEXTS = ("name", "description", "extends", "target")
PARTS = ("value", "unit", "source", "assumption")
_PACKAGE = Path(__file__).parent.parent
_PROFILE_FOLDERS = (_PACKAGE / "hardware_profiles", _PACKAGE.parent / "hardware_profiles")  # a wheel's, a checkout's


def profile_paths() -> dict[str, Path]:
    """The profiles that come with neurodeploy, by name."""
    folder = next((folder for folder in _PROFILE_FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """Read a hardware profile.

    Parameters
    ----------
    name_or_path : str or Path
        The name of a profile that comes with neurodeploy (``"loihi2"``), or a path to a YAML file. What that file
        extends lies beside it, or comes with neurodeploy.

    Raises
    ------
    ProfileError
        No such profile; not YAML, not a mapping, too large; a key unknown, missing or twice; a value of the wrong
        type, out of range, or without unit or source; an extended profile that is missing, wrong, or extends this one.
    """
    known = profile_paths()
    path = known.get(str(name_or_path)) or Path(name_or_path)
    if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises where a name is too long)
        raise ProfileError(
            str(name_or_path), "no such hardware profile",
            remedy=f"Give one of {', '.join(known)}, or a path to a YAML file.",
        )  # fmt: skip
    return _profile(path, ())


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


def _whole_number(loader: _Loader, node: yaml.ScalarNode) -> int:
    """An integer that can be shown: Python turns no more than some thousand digits into text."""
    if len(node.value) > MAX_DIGITS:
        raise yaml.constructor.ConstructorError(None, None, f"a number of more than {MAX_DIGITS} digits", node.start_mark)
    return int(loader.construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)


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


def _profile(path: Path, extending: tuple[Path, ...]) -> HardwareProfile:
    """The profile in a file, which those in `extending` asked for, the first of them first."""
    data, file = _read_mapping(path), f"{path.stem}.yaml"
    for key in data:
        if key not in KEYS and key not in TEXTS:
            raise ProfileError(f"{file}: {_shown(key)}", "unknown key", remedy=f"Known are {', '.join((*TEXTS, *KEYS))}.")
    for key in ("name", "description"):
        if key not in data:
            raise ProfileError(f"{file}: {key}", "missing")
    for key in TEXTS:
        if key in data and not isinstance(data[key], str):
            raise ProfileError(f"{file}: {key}", f"is {_kind(data[key])}, not text")
    parent = _inherited(path, data["extends"], extending) if "extends" in data else None
    limits = {} if parent is None else dict(parent.limits)
    target = data.get("target", None if parent is None else parent.target)
    if target is not None and not re.fullmatch(PLAIN_NAME, target):
        raise ProfileError(f"{file}: target", f"'{_shown(target)}' is not a plain name", remedy="Give the name of a target.")
    limits |= {key: _limit(path.stem, key, data[key]) for key in KEYS if key in data}
    for key, what in KEYS.items():
        if what.required and key not in limits:
            raise ProfileError(f"{file}: {key}", "missing", remedy=f"It is {what.meaning}, in {what.unit}.")
    return HardwareProfile(name=data["name"], description=data["description"], limits=limits, target=target)


def _inherited(path: Path, name: str, extending: tuple[Path, ...]) -> HardwareProfile:
    """The profile that `path` extends: the file beside it, or one that comes with neurodeploy."""
    where, chain = f"{path.stem}.yaml: extends", (*extending, path.resolve())
    if not re.fullmatch(PLAIN_NAME, name):
        raise ProfileError(where, f"'{_shown(name)}' is not a plain name", remedy="Give a profile's name, no path and no ending.")
    beside, known = path.with_name(f"{name}.yaml"), profile_paths()
    parent = beside if beside.is_file() and beside.resolve() != path.resolve() else known.get(name, beside)
    if not parent.is_file():
        raise ProfileError(
            where, f"no profile {name!r}", remedy=f"Put {name}.yaml beside it, or extend one of {', '.join(known)}.",
        )  # fmt: skip
    if parent.resolve() in chain:
        names = [one.stem for one in (*chain[chain.index(parent.resolve()) :], parent)]
        raise ProfileError(where, f"goes round in a circle: {' -> '.join(names)}")
    try:
        return _profile(parent, chain)
    except ProfileError as error:
        error.source = error.source or f"extended by {path.stem}.yaml"
        raise


def _limit(profile: str, key: str, entry: Any) -> Limit:
    where, unit = f"{profile}.yaml: {key}", KEYS[key].unit
    if not isinstance(entry, dict):
        raise ProfileError(where, f"is {_kind(entry)}, not {{value, unit, source}}")
    for part in entry:
        if part not in PARTS:
            raise ProfileError(where, f"unknown part '{_shown(part)}'", remedy=f"Parts are {', '.join(PARTS)}.")
    if entry.get("unit") != unit:
        raise ProfileError(where, f"its unit is '{_shown(entry.get('unit'))}', not '{unit}'")
    stated = [part for part in ("source", "assumption") if part in entry]
    if len(stated) != 1 or not isinstance(entry[stated[0]], str) or not entry[stated[0]].strip():
        raise ProfileError(where, "needs either a source or an assumption, as text")
    if "value" not in entry:
        raise ProfileError(where, "has no value")
    return Limit(
        key=key,
        value=_value(where, key, entry["value"]),
        unit=unit,
        source=" ".join(entry[stated[0]].split()),
        assumed=stated[0] == "assumption",
        profile=profile,
    )


def _value(where: str, key: str, value: Any) -> Value:
    kind = KEYS[key].kind
    if kind == "figure":
        return _figure(where, value)
    if kind == "formulas":
        return _names(where, value)
    if kind == "choices":
        return _widths(where, value)
    if kind == "steps":
        return _ascending(where, value, "numbers")
    if kind == "sides":
        sides = _whole_numbers(where, value, "sides")
        if not 2 <= len(sides) <= 3:
            raise ProfileError(where, f"has {len(sides)} sides", remedy="Give columns and rows, and layers if there are any.")
        return sides
    if kind == "per core" and isinstance(value, list):
        return _whole_numbers(where, value, "numbers, one for each core of a chip")
    return _positive(where, value)


def _whole_numbers(where: str, value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise ProfileError(where, f"is {_kind(value)}, not a list of {what}")
    return tuple(_positive(where, item) for item in value)


def _ascending(where: str, value: Any, what: str) -> tuple[int, ...]:
    numbers = _whole_numbers(where, value, what)
    if list(numbers) != sorted(set(numbers)):
        raise ProfileError(where, f"{what} {list(numbers)} are not ascending and distinct")
    return numbers


def _widths(where: str, value: Any) -> tuple[int, ...]:
    widths = _ascending(where, value, "widths")
    if widths[-1] > MAX_WIDTH:
        raise ProfileError(where, "bits in a width", need=widths[-1], limit=MAX_WIDTH)
    return widths


def _names(where: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ProfileError(where, f"is {_kind(value)}, not a list of names")
    for item in value:
        if not isinstance(item, str) or not re.fullmatch(PLAIN_NAME, item):
            raise ProfileError(where, f"{_kind(item)} is not a name")
        if item not in FORMULAS:
            raise ProfileError(where, f"no formula is called {item!r}", remedy=f"There are {', '.join(FORMULAS)}.")
    if len(set(value)) < len(value):
        raise ProfileError(where, f"names {', '.join(value)} are not distinct")
    return tuple(value)


def _figure(where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_VALUE:  # nan is not within
        raise ProfileError(where, f"is {_kind(value)}", remedy=f"Give a number from 0 to {MAX_VALUE:,}.")
    return float(value)


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
    return f"{names.get(type(value), type(value).__name__)} ({_shown(value)})"


def _shown(value: Any) -> str:
    """As much of a value as one line has room for."""
    return " ".join(str(value).split())[:40]


# -------------------- profile_schema

_WHOLE = {"type": "integer", "minimum": 1, "maximum": MAX_VALUE}
_NAME = {"type": "string", "pattern": PLAIN_NAME}
_TEXT = {"type": "string", "pattern": r"\S"}
_WIDTHS = {"type": "integer", "minimum": 1, "maximum": MAX_WIDTH}
_VALUES: dict[Kind, dict[str, Any]] = {
    "whole": _WHOLE,
    "per core": {"anyOf": [_WHOLE, {"type": "array", "items": _WHOLE, "minItems": 1}]},
    "choices": {"type": "array", "items": _WIDTHS, "minItems": 1, "uniqueItems": True},
    "steps": {"type": "array", "items": _WHOLE, "minItems": 1, "uniqueItems": True},
    "sides": {"type": "array", "items": _WHOLE, "minItems": 2, "maxItems": 3},
    "figure": {"type": "number", "minimum": 0, "maximum": MAX_VALUE},
    "formulas": {"type": "array", "items": {"enum": list(FORMULAS)}, "minItems": 1, "uniqueItems": True},
}


def profile_schema() -> dict[str, Any]:
    """The format of a profile as a JSON Schema (draft 2020-12).

    It says what a file may hold by itself. What the reader sees beyond that (ascending widths, a number for each core,
    room on a mesh, what an extended profile says) it cannot tell.
    """
    needed = [key for key, what in KEYS.items() if what.required]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "neurodeploy hardware profile",
        "description": "A neuromorphic chip or board: numbers, each with its unit and where it is from.",
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "what it is called"},
            "description": {"type": "string", "description": "one sentence about it"},
            "extends": {**_NAME, "description": "a profile beside this one, or one of neurodeploy's: this one says what differs"},
            "target": {
                **_NAME,
                "description": "target that runs its networks, e.g. loihi; without one a profile is for counting only",
            },
            **{key: _entry(what) for key, what in KEYS.items()},
        },
        "required": ["name", "description"],
        "anyOf": [{"required": ["extends"]}, {"required": needed}],
        "additionalProperties": False,
    }


def _entry(what: Key) -> dict[str, Any]:
    return {
        "description": f"{what.meaning}, in {what.unit}",
        "type": "object",
        "properties": {
            "value": _VALUES[what.kind],
            "unit": {"const": what.unit},
            "source": {**_TEXT, "description": "the document or code that states the number"},
            "assumption": {**_TEXT, "description": "what is assumed, and why, where nothing states it"},
        },
        "required": ["value", "unit"],
        "oneOf": [{"required": ["source"]}, {"required": ["assumption"]}],
        "additionalProperties": False,
    }
