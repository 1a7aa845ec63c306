"""`import neurodeploy` stays light: torch, Lava and their like load when they are used."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "lava", "h5py", "matplotlib", "norse", "scipy", "sklearn", "rich", "click", "numba"}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    program = f"{statement}; import json, sys; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout))


def test_importing_the_face_loads_nothing_heavy() -> None:
    assert modules_after("import neurodeploy") & HEAVY == set()


def test_reading_a_profile_loads_nothing_heavy() -> None:
    assert modules_after("import neurodeploy as nd; nd.load_profile('loihi2')") & HEAVY == set()


@pytest.mark.parametrize("noun", ["hardware", "network", "resources.usage", "budgets.budget", "records", "fixedpoint", "errors"])
def test_the_nouns_need_numpy_and_yaml_only(noun: str) -> None:
    assert modules_after(f"import neurodeploy.{noun}") & HEAVY == set()


def test_no_module_hides_a_name_of_the_face() -> None:
    program = """
import importlib, pkgutil, types
import neurodeploy as nd

for module in pkgutil.walk_packages(nd.__path__, "neurodeploy."):
    importlib.import_module(module.name)
print(sorted(name for name in nd.__all__ if isinstance(getattr(nd, name), types.ModuleType)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip().splitlines()[-1] == "[]"  # Lava says what it lacks when it is imported
