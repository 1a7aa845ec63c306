"""`import neurodeploy` stays light: torch, Lava and their like load when they are used."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import neurodeploy as nd

HEAVY = {"torch", "lava", "h5py", "matplotlib", "networkx", "norse", "scipy", "sklearn", "rich", "click", "numba"}


FACE = Path(nd.__file__)
TYPED_BEFORE = (
    ("budgets.budget", "Budget"), ("commands", "cli"), ("compression", "compress"), ("demo", "digits_model"),
    ("deployment", "deploy"), ("evaluation", "evaluate"), ("frontends.norse", "extract"), ("graph", "Connection"),
    ("graph", "INPUT"), ("hardware", "HardwareProfile"), ("network", "Dense"), ("network", "LIF"), ("network", "Layer"),
    ("network", "Network"), ("netx", "read_netx"), ("placement", "Placement"), ("plot", "chip"), ("profiles", "load_profile"),
    ("profiles", "profile_paths"), ("quantized", "QuantizedNetwork"), ("records", "SpikeRecord"), ("report", "Report"),
    ("rounding", "quantization_errors"), ("simulation", "simulate"), ("simulation.verify", "verify"), ("training", "Direct"),
    ("training", "FitOptions"), ("training", "in_levels"), ("training.data", "RandomShift"), ("trimming", "trim"),
)  # fmt: skip
"""Module paths and names that the documents and notebooks of earlier versions used."""


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    program = f"{statement}; import json, sys; print(json.dumps(sorted({{m.split('.')[0] for m in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    return set(json.loads(done.stdout))


def test_importing_the_face_loads_nothing_heavy() -> None:
    assert modules_after("import neurodeploy") & (HEAVY | {"numpy", "yaml"}) == set()


def test_reading_a_profile_loads_nothing_heavy() -> None:
    assert modules_after("import neurodeploy as nd; nd.load_profile('loihi2')") & HEAVY == set()


@pytest.mark.parametrize(
    "noun",
    [
        "hardware.profile", "ir.network", "resources.usage", "mapping.budget.budget", "simulation.records",
        "targets.loihi.arithmetic", "errors",
    ],
)  # fmt: skip
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
    assert done.stdout.strip().splitlines()[-1] == "['plot']"  # Lava says what it lacks when it is imported


def test_type_checkers_and_the_interpreter_know_the_same_names() -> None:
    declared = {
        (node.module, alias.asname or alias.name)
        for node in ast.walk(ast.parse(FACE.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("neurodeploy.")
        for alias in node.names
    }
    assert declared - {("neurodeploy.report", "plot")} == {
        (f"neurodeploy.{module}", name) for module, names in nd._MODULES.items() for name in names
    }
    assert sorted(nd.__all__) == sorted(name for _, name in declared)
    assert all(hasattr(nd, name) for name in nd.__all__)


def test_a_type_checker_reports_a_name_that_is_not_there_and_types_the_others(tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text("import neurodeploy as nd\nreveal_type(nd.narrow_budget)\nnd.nosuch\n", encoding="utf-8")
    files = [str(tmp_path / "typed.py"), str(FACE), str(FACE.parent / "mapping" / "budget" / "channel_counts.py")]
    # whatever these files import is skipped: checking torch would take minutes
    command = ["mypy", "--strict", "--follow-imports=skip", "--config-file=", "--cache-dir", str(tmp_path / "cache"), *files]
    done = subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=300)
    said = [line for line in done.stdout.splitlines() if "typed.py" in line]
    assert any('Revealed type is "def (network:' in line for line in said), done.stdout
    assert [line for line in said if "error" in line] == [line for line in said if 'has no attribute "nosuch"' in line] != []


@pytest.mark.parametrize(("module", "name"), TYPED_BEFORE)
def test_a_name_at_its_old_place_still_works_and_says_where_it_is_now(module: str, name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"neurodeploy.{module}.{name} moved: import {name} from neurodeploy") as caught:
        found = getattr(importlib.import_module(f"neurodeploy.{module}"), name)
    place = str(caught[0].message).rpartition(" ")[2].removesuffix(".")
    assert getattr(importlib.import_module(place), name) is found
    assert caught[0].filename == __file__


def test_old_places_lead_to_modules_that_are_there_and_to_no_other_names() -> None:
    for old, targets in nd._OLD_MODULES.items():
        for target in targets:
            importlib.import_module(f"neurodeploy.{target}")
        with pytest.raises(AttributeError, match="has no attribute 'nosuch'"):
            importlib.import_module(f"neurodeploy.{old}").nosuch  # noqa: B018
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.import_module("neurodeploy.hardware.profile")  # a folder that is still there keeps its modules


def test_a_class_with_a_new_name_answers_to_the_old_one_at_its_old_place() -> None:
    with pytest.warns(
        DeprecationWarning, match=r"neurodeploy.training.Compression moved: import MinimaxPruning from neurodeploy"
    ):
        from neurodeploy.training import Compression  # type: ignore[attr-defined]
    assert Compression.__name__ == "MinimaxPruning"
