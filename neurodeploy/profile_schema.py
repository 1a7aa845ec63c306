"""What editors are told about profiles: the format as a JSON Schema, made from the same table that the reader reads by."""

from __future__ import annotations

from typing import Any

from neurodeploy.hardware import KEYS, Key, Kind
from neurodeploy.profiles import FORMULAS, MAX_VALUE, MAX_WIDTH, PLAIN_NAME

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
