"""What of Lava is here: its simulator, its network files, and Intel's extension that reaches a board."""

from __future__ import annotations

import importlib.util
import sys

from neurodeploy.errors import SimulationError

EXTENSION = ("lava.utils.loihi2_profiler", "lava.magma.compiler.subcompilers.nc", "lava.proc.embedded_io")
"""What Intel's extension of Lava adds to it, as far as a run needs it."""


def is_installed() -> bool:
    """Whether Lava and its network files can be imported here."""
    return not _missing()


def _missing() -> list[str]:
    return [name for name in ("lava.magma", "lava.lib.dl.netx") if not _is_there(name)]


def require_lava() -> None:
    """Raise `SimulationError` where Lava's simulator cannot be imported."""
    packages = _missing()
    if packages:
        raise SimulationError(
            "lava", f"{' and '.join(packages)} cannot be imported by Python {sys.version_info.major}.{sys.version_info.minor}",
            remedy="Use Python 3.10, for which alone lava-nc 0.10 and lava-dl 0.6 exist; the emulator gives the same spikes.",
        )  # fmt: skip


def require_extension() -> None:
    """Raise where Lava cannot reach a Loihi 2 board from here.

    Raises
    ------
    SimulationError
        It names the parts of Intel's extension that are missing.
    """
    missing = [name for name in EXTENSION if not _is_there(name)]
    if missing:
        raise SimulationError(
            "loihi2", f"Lava cannot reach a board: {' and '.join(missing)} cannot be imported",
            source="lava-nc 0.10 utils/loihi.py: is_installed",
            remedy="They are Intel's extension of Lava for Loihi (lava-loihi), which Intel gives to members of its Neuromorphic "
            "Research Community, to be run where a board is. The emulator and Lava's simulator give the same spikes.",
        )  # fmt: skip


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False
