"""The versions of what numbers depend on."""

from __future__ import annotations

import platform
from importlib import metadata

VERSIONED = ("neurodeploy", "torch", "norse", "lava-nc", "lava-dl", "numpy", "h5py")


def versions() -> dict[str, str | None]:
    """Versions of what the numbers depend on; None for what is not installed."""
    found: dict[str, str | None] = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def told() -> str:
    """The versions in one line, those of what is not installed left out, and Python's."""
    installed = [f"{name} {version}" for name, version in versions().items() if version is not None]
    return ", ".join([*installed, f"Python {platform.python_version()}"])
