"""Profiles as they are written: the tiny chip with other numbers, and a board of it."""

from __future__ import annotations

from typing import Any

import yaml

from neurodeploy.hardware.loading import profile_paths

TINY = yaml.safe_load(profile_paths()["tiny"].read_text(encoding="utf-8"))


def tiny_with(key: str, **parts: Any) -> str:
    """The tiny profile as YAML text, with parts of one number replaced, or dropped where they are None."""
    entry = {**TINY[key], **parts}
    return yaml.safe_dump({**TINY, key: {part: value for part, value in entry.items() if value is not None}})


def board(**changes: Any) -> str:
    """A board of 8 chips, as YAML text, with `changes` to it."""
    chips = {"value": 8, "unit": "chips", "source": "its maker"}
    return yaml.safe_dump({"name": "board", "description": "Eight.", "extends": "tiny", "chips": chips, **changes})
