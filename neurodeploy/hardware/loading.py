"""Reading of hardware profiles from YAML files, and their format as a JSON Schema.

A profile file has a name, a description, and numbers under the keys of `neurodeploy.hardware.profile.KEYS`. Each number has its
unit and either the `source` that states it or the `assumption` made in place of one. A profile may extend another by name: it
takes over all of its numbers and states only those that differ.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, get_args

import yaml

from neurodeploy.errors import ProfileError, check_arguments
from neurodeploy.hardware.profile import (
    KEYS,
    MAX_CHIPS,
    MAX_CORES_PER_CHIP,
    NO_LIMITS,
    REGISTER_KEYS,
    ROUTINGS,
    Encoding,
    HardwareProfile,
    Kind,
    Limit,
    Value,
)

MAX_PROFILE_BYTES = 1 << 16  # about ten times the largest profile that is shipped
MAX_VALUE = 1 << 40
"""Largest number in a profile: more than any chip has, and few enough bits for sums over many cores to fit into 64."""
MAX_DIGITS = 64
"""Digits of an integer in a YAML file; Python refuses to print integers of several thousand digits."""
MAX_WIDTH = 32
"""Widest weight or index, in bits."""
MAX_REGISTER = 64
"""Widest register, in bits: networks in integers hold numbers of 64 bits."""
MOST = {
    **dict.fromkeys(("chips", "chip_mesh"), MAX_CHIPS),
    **dict.fromkeys(("cores_per_chip", "tile_mesh"), MAX_CORES_PER_CHIP),
    **dict.fromkeys(("state_bits", "threshold_bits", "decay_bits", "payload_bits"), MAX_REGISTER),
}
"""Largest numbers of keys for which `MAX_VALUE` is too large: every chip and core is arranged, and numbers fill registers."""
MAX_EXTENDED = 16
"""Profiles that extend one another, in one chain."""
ENCODING_NAMES: tuple[str, ...] = get_args(Encoding)
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
"""Names of extended profiles, of targets and of encodings: no path, no file ending."""
TEXT_KEYS = ("name", "description", "extends", "target")
ENTRY_PARTS = ("value", "unit", "source", "assumption")

_PACKAGE = Path(__file__).parent.parent
_PROFILE_FOLDERS = (
    _PACKAGE / "hardware_profiles",  # in an installed wheel
    _PACKAGE.parent / "hardware_profiles",  # in a checkout
)


Chip: TypeAlias = "HardwareProfile | str | Path"
"""What a function takes for a chip: a profile, the name of one that is shipped, or a path to a YAML file; see `load_profile`."""


def profile_paths() -> dict[str, Path]:
    """Files of the profiles that are shipped with neurodeploy, by name."""
    folder = next((folder for folder in _PROFILE_FOLDERS if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path for path in sorted(folder.glob("*.yaml"))}


@check_arguments
def load_profile(name_or_path: Chip) -> HardwareProfile:
    """Read a hardware profile; one that is loaded already is returned as it is.

    Parameters
    ----------
    name_or_path : str or Path
        The name of a profile that is shipped with neurodeploy (``"loihi2"``), or a path to a YAML file. A profile that the
        file extends is in the same folder or shipped with neurodeploy.

    Raises
    ------
    ProfileError
        No such profile or file; not YAML, not a mapping, too large; a key unknown, missing or twice; a value of the wrong
        type, out of range, or without unit or source; an extended profile that is missing, wrong, or extends this one.
    """
    if isinstance(name_or_path, HardwareProfile):
        return name_or_path
    shipped = profile_paths()
    path = shipped.get(str(name_or_path)) or Path(name_or_path)
    if not os.path.isfile(path):  # noqa: PTH113  (Path.is_file raises where a name is too long)
        name, known = str(name_or_path), [*shipped]
        what = "is a folder" if os.path.isdir(name) else "no such hardware profile"  # noqa: PTH112  (as above)
        if path.suffix or len(path.parts) > 1:  # a file, and no name
            what, known = what.replace("hardware profile", "file"), [*shipped, *map(str, path.parent.glob("*.y*ml"))]
        raise ProfileError(
            name, what, remedy=f"{did_you_mean(name, known)}Give one of {', '.join(shipped)}, or a path to a YAML file."
        )
    return _read_profile(path, ())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question for the known name that is nearest to an unknown one, with a space behind it; empty if none is near."""
    near = get_close_matches(name.lower().replace(" ", ""), known, n=1)
    return f"Did you mean {near[0]!r}? " if near else ""


class _StrictLoader(yaml.SafeLoader):
    """Safe YAML loader that also refuses repeated and merged keys, aliases and gigantic integers."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of nested aliases unfold to more than any memory holds
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not allowed", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.tag == "tag:yaml.org,2002:merge":  # a key of the other mapping and one of this may be the same
                raise yaml.constructor.ConstructorError(None, None, "merged mappings (<<) are not allowed", key.start_mark)
            # With the tag, because 1 and '1' are different keys.
            if (key.tag, key.value) in seen:  # YAML itself would silently keep the last value
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} occurs twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, f"a number of more than {MAX_DIGITS} digits", node.start_mark)
        return int(super().construct_yaml_int(node))


# SafeLoader's table of constructors holds its own function, not the method's name.
_StrictLoader.add_constructor("tag:yaml.org,2002:int", _StrictLoader.construct_yaml_int)


# By content, so that a file that changes is read anew. Boards extend the same chip, and PyYAML takes most of a profile's time.
@lru_cache(maxsize=16)
def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_StrictLoader)  # noqa: S506  (a SafeLoader)


def _read_mapping(path: Path) -> Mapping[str, Any]:
    """Contents of a YAML file that must be a mapping."""
    size = path.stat().st_size
    if size > MAX_PROFILE_BYTES:
        raise ProfileError(str(path), "bytes in a profile", need=size, limit=MAX_PROFILE_BYTES)
    try:
        data = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ProfileError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ProfileError(str(path), f"is not UTF-8 text ({error.reason} at byte {error.start})") from error
    # PyYAML lets errors of Python's pass: RecursionError on deep nesting, IndexError on !!int '', KeyError on !!bool 'x'.
    except Exception as error:
        what = "a value does not fit its tag" if isinstance(error, LookupError | AttributeError) else str(error)
        raise ProfileError(str(path), f"is not plain YAML: {' '.join(what.split())[:200]}") from error
    if not isinstance(data, dict):
        raise ProfileError(str(path), f"is {_describe(data)}, not a mapping of keys to numbers")
    return data


def _read_profile(path: Path, extending: tuple[Path, ...]) -> HardwareProfile:
    """Profile in a file; `extending` is the chain of files that led to it, each of which extends the next."""
    data, file = _read_mapping(path), f"{path.stem}.yaml"
    for key in data:
        if key not in KEYS and key not in TEXT_KEYS:
            known = (*TEXT_KEYS, *KEYS)
            remedy = did_you_mean(str(key), known).strip() or f"Known keys are {', '.join(known)}."
            raise ProfileError(f"{file}: {_shorten(key)}", "unknown key", remedy=remedy)
    for key in ("name", "description"):
        if key not in data:
            raise ProfileError(f"{file}: {key}", "missing")
    for key in TEXT_KEYS:
        if key in data and not isinstance(data[key], str):
            raise ProfileError(f"{file}: {key}", f"is {_describe(data[key])}, not text")
    parent = _extended_profile(path, data["extends"], extending) if "extends" in data else None
    # A parent's limits keep the name of its file, so an error about one of them points there.
    limits = {} if parent is None else dict(parent.limits)
    target = data.get("target", None if parent is None else parent.target)
    if target is not None and not re.fullmatch(NAME_PATTERN, target):
        raise ProfileError(f"{file}: target", f"'{_shorten(target)}' is not a plain name", remedy="Give the name of a target.")
    limits |= {key: _Entry(path.stem, key).limit(data[key]) for key in KEYS if key in data}
    for key, spec in KEYS.items():
        # After the merge: a parent may state what the file leaves out.
        if spec.required and key not in limits:
            raise ProfileError(f"{file}: {key}", "missing", remedy=f"It is {spec.meaning}, in {spec.unit}.")
    return HardwareProfile(name=data["name"], description=data["description"], limits=limits, target=target)


def _extended_profile(path: Path, name: str, extending: tuple[Path, ...]) -> HardwareProfile:
    """The profile `name` that the file `path` extends: from the same folder first, then from those shipped."""
    # Resolved, so that a link cannot hide a circle.
    where, chain = f"{path.stem}.yaml: extends", (*extending, path.resolve())
    if not re.fullmatch(NAME_PATTERN, name):
        raise ProfileError(
            where, f"'{_shorten(name)}' is not a plain name", remedy="Give a profile's name, no path and no ending."
        )
    if len(chain) > MAX_EXTENDED:
        raise ProfileError(where, "profiles that extend one another", need=len(chain), limit=MAX_EXTENDED)
    sibling, shipped = path.with_name(f"{name}.yaml"), profile_paths()
    # A file may extend the shipped profile of its own name.
    parent = sibling if sibling.is_file() and sibling.resolve() != path.resolve() else shipped.get(name, sibling)
    if not parent.is_file():
        raise ProfileError(
            where, f"no profile {name!r}",
            remedy=f"Put {name}.yaml into the same folder, or extend one of {', '.join(shipped)}.",
        )  # fmt: skip
    if parent.resolve() in chain:
        names = [each.stem for each in (*chain[chain.index(parent.resolve()) :], parent)]
        raise ProfileError(where, f"is circular: {' -> '.join(names)}")
    try:
        return _read_profile(parent, chain)
    except ProfileError as error:
        # The file nearest to the error sets it; those further out leave it.
        error.source = error.source or f"extended by {path.stem}.yaml"
        raise


class _Entry:
    """Reader and checker of what a profile file has under one key.

    Parameters
    ----------
    profile, key : str
        Name of the profile, for error texts, and one of `KEYS`.
    """

    def __init__(self, profile: str, key: str) -> None:
        self.profile, self.key, self.spec = profile, key, KEYS[key]
        self.where = f"{profile}.yaml: {key}"

    def limit(self, entry: Any) -> Limit:
        """The limit that a mapping {value, unit, source or assumption} states."""
        if not isinstance(entry, dict):
            raise ProfileError(self.where, f"is {_describe(entry)}, not {{value, unit, source}}")
        for part in entry:
            if part not in ENTRY_PARTS:
                raise ProfileError(
                    self.where, f"unknown part '{_shorten(part)}'", remedy=f"Known parts are {', '.join(ENTRY_PARTS)}."
                )
        if entry.get("unit") != self.spec.unit:
            raise ProfileError(self.where, f"its unit is '{_shorten(entry.get('unit'))}', not '{self.spec.unit}'")
        # A number with both would leave open which of them holds.
        stated = [part for part in ("source", "assumption") if part in entry]
        if len(stated) != 1 or not isinstance(entry[stated[0]], str) or not entry[stated[0]].strip():
            raise ProfileError(self.where, "needs either a source or an assumption, as text")
        if "value" not in entry:
            raise ProfileError(self.where, "has no value")
        return Limit(
            key=self.key,
            value=self._value(entry["value"]),
            unit=self.spec.unit,
            source=" ".join(entry[stated[0]].split()),  # a YAML text may run over lines
            assumed=stated[0] == "assumption",
            profile=self.profile,
        )

    def _value(self, value: Any) -> Value:
        match self.spec.kind:
            case "whole":
                return self._positive(value, MOST.get(self.key, MAX_VALUE))
            case "per core":
                a_core_each = "numbers, one for each core of a chip"
                return self._whole_numbers(value, a_core_each) if isinstance(value, list) else self._positive(value)
            case "choices":
                widths = self._ascending(value, "widths")
                if widths[-1] > MAX_WIDTH:
                    raise ProfileError(self.where, "bits in a width", need=widths[-1], limit=MAX_WIDTH)
                return widths
            case "steps":
                return self._ascending(value, "numbers")
            case "sides":
                sides = self._whole_numbers(value, "sides")
                if not 2 <= len(sides) <= 3:
                    raise ProfileError(
                        self.where, f"has {len(sides)} sides", remedy="Give columns and rows, and layers if there are any."
                    )
                return sides
            case "factors":
                pair = value if isinstance(value, list) and len(value) == 2 else [math.nan]
                if (
                    any(isinstance(one, bool) or not isinstance(one, int | float) for one in pair)
                    or not 0 <= pair[0] <= 1 <= pair[-1]
                ):
                    remedy = "Give two factors: one from 0 to 1, and one of 1 or more."
                    raise ProfileError(self.where, f"is {_describe(value)}", remedy=remedy)
                return tuple(float(one) for one in pair)
            case "figure":
                # The comparison is false for NaN, which is refused with the rest.
                if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_VALUE:
                    raise ProfileError(self.where, f"is {_describe(value)}", remedy=f"Give a number from 0 to {MAX_VALUE:,}.")
                return float(value)
            case "encodings":
                return self._names(value, "encoding", ENCODING_NAMES)
            case "routings":
                return self._names(value, "routing", tuple(ROUTINGS))

    def _whole_numbers(self, value: Any, what: str) -> tuple[int, ...]:
        if not isinstance(value, list) or not value:
            raise ProfileError(self.where, f"is {_describe(value)}, not a list of {what}")
        return tuple(self._positive(item, MOST.get(self.key, MAX_VALUE)) for item in value)

    def _ascending(self, value: Any, what: str) -> tuple[int, ...]:
        numbers = self._whole_numbers(value, what)
        if list(numbers) != sorted(set(numbers)):
            raise ProfileError(self.where, f"{what} {list(numbers)} are not ascending and distinct")
        return numbers

    def _names(self, value: Any, what: str, known: tuple[str, ...]) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise ProfileError(self.where, f"is {_describe(value)}, not a list of names")
        for item in value:
            if not isinstance(item, str) or not re.fullmatch(NAME_PATTERN, item):
                raise ProfileError(self.where, f"{_describe(item)} is not a name")
            if item not in known:
                raise ProfileError(self.where, f"unknown {what} {item!r}", remedy=f"Known are {', '.join(known)}.")
        if len(set(value)) < len(value):
            raise ProfileError(self.where, f"names {', '.join(value)} are not distinct")
        return tuple(value)

    def _positive(self, value: Any, most: int = MAX_VALUE) -> int:
        remedy = "Give a whole number above zero."
        # bool is a subclass of int: YAML's `yes` would pass as 1.
        if isinstance(value, bool) or not isinstance(value, int):
            what = "is not a number (NaN)" if isinstance(value, float) and math.isnan(value) else f"is {_describe(value)}"
            raise ProfileError(self.where, what, remedy=remedy)
        if value <= 0:
            raise ProfileError(self.where, f"is {value:,}", remedy=remedy)
        if value > most:
            what = "board" if self.key in ("chips", "chip_mesh") else "chip"
            raise ProfileError(self.where, f"is above {most:,}, more than any {what} has")
        return value


def _describe(value: Any) -> str:
    """Type and beginning of a YAML value, for error texts: ``a list ([1, 2])``."""
    names = {dict: "a mapping", list: "a list", str: "text", float: "a fraction", bool: "true or false", type(None): "empty"}
    return f"{names.get(type(value), type(value).__name__)} ({_shorten(value)})"


def _shorten(value: Any) -> str:
    """At most 40 characters of a value, on one line."""
    return " ".join(str(value).split())[:40]


# The JSON Schema, made from the same table of keys that the reader uses.

_WHOLE_NUMBER = {"type": "integer", "minimum": 1, "maximum": MAX_VALUE}
_WIDTH = {"type": "integer", "minimum": 1, "maximum": MAX_WIDTH}
_TEXT = {"type": "string", "pattern": r"\S"}
_VALUE_SCHEMAS: dict[Kind, dict[str, Any]] = {
    "whole": _WHOLE_NUMBER,
    "per core": {"anyOf": [_WHOLE_NUMBER, {"type": "array", "items": _WHOLE_NUMBER, "minItems": 1}]},
    "choices": {"type": "array", "items": _WIDTH, "minItems": 1, "uniqueItems": True},
    "steps": {"type": "array", "items": _WHOLE_NUMBER, "minItems": 1, "uniqueItems": True},
    "sides": {"type": "array", "items": _WHOLE_NUMBER, "minItems": 2, "maxItems": 3},
    "figure": {"type": "number", "minimum": 0, "maximum": MAX_VALUE},
    "factors": {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 2, "maxItems": 2},
    "encodings": {"type": "array", "items": {"enum": list(ENCODING_NAMES)}, "minItems": 1, "uniqueItems": True},
    "routings": {"type": "array", "items": {"enum": list(ROUTINGS)}, "minItems": 1, "uniqueItems": True},
}


def bounded_schema(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """The schema of a value with the largest number of its key."""
    if key not in MOST:
        return schema
    return schema | ({"items": schema["items"] | {"maximum": MOST[key]}} if "items" in schema else {"maximum": MOST[key]})


def profile_schema() -> dict[str, Any]:
    """Format of a profile file as a JSON Schema (draft 2020-12), for editors.

    It covers what one file can break by itself. `load_profile` checks more: ascending widths, a number for each core,
    meshes that hold all chips and tiles, and the profiles that a file extends.
    """
    uses = {**NO_LIMITS, **dict.fromkeys(REGISTER_KEYS, "refused where it names a target; without one, for the reader")}
    entries = {
        key: {
            "description": f"{spec.meaning}, in {spec.unit} ({uses.get(key, 'a network that takes more is refused')})",
            "type": "object",
            "properties": {
                "value": bounded_schema(_VALUE_SCHEMAS[spec.kind], key),
                "unit": {"const": spec.unit},
                "source": {**_TEXT, "description": "the document or code that states the number"},
                "assumption": {**_TEXT, "description": "what is assumed, and why, where nothing states it"},
            },
            "required": ["value", "unit"],
            "oneOf": [{"required": ["source"]}, {"required": ["assumption"]}],
            "additionalProperties": False,
        }
        for key, spec in KEYS.items()
    }
    extends = "a profile in the same folder, or one shipped with neurodeploy; this one states what differs"
    target = "target that runs its networks, e.g. loihi; a profile without one is for counting only"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "neurodeploy hardware profile",
        "description": "A neuromorphic chip or board: numbers, each with its unit and its source.",
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "name of the chip or board"},
            "description": {"type": "string", "description": "one sentence about it"},
            "extends": {"type": "string", "pattern": NAME_PATTERN, "description": extends},
            "target": {"type": "string", "pattern": NAME_PATTERN, "description": target},
            **entries,
        },
        "required": ["name", "description"],
        # A file that extends another may leave the required keys to it.
        "anyOf": [{"required": ["extends"]}, {"required": [key for key, spec in KEYS.items() if spec.required]}],
        "additionalProperties": False,
    }
