"""`import neurodeploy` stays light: torch, Lava and their like load when they are used."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

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
LIGHT = ("hardware.profile", "ir.network", "resources.usage", "mapping.budget", "simulation.records",
         "targets.loihi.target", "errors")  # fmt: skip
"""Modules that need NumPy and YAML only."""
REFUSED = (
    "inspect none.net --target loihi2", "inspect none.nir --target loihi2", "inspect none.py:model --target loihi2",
    "inspect model.net --target none", "inspect model.net --target loihi2 --cores 1000", "inspect model.net --nosuch",
    "inspect m.models:model --target loihi2 --weights none.pt", "simulate model.net --input none.npy --out r.npz", "nosuch",
    "compress model.net --target loihi2 --out d --data none", "verify none.net", "evaluate model.net --data mnist:none.npz",
    "compress model.net --target loihi2 --out d --data digits --method none",
)  # fmt: skip
"""Commands with a mistake, which are refused with exit code 2."""
INSPECTED = ("model.net", "model.nir", "models.py:model")
STEPS = f"""
import contextlib, importlib, io, json, sys
loaded = {{}}

def note(step):
    loaded[step] = sorted({{*sys.modules}} - {{name for seen in loaded.values() for name in seen}})

def run(command, code):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert main(command.split()) == code, command
    note(command)

import neurodeploy as nd
note("face")
from neurodeploy.__main__ import main
for command in {REFUSED}:
    run(command, 2)
for command in ("--help", "compress --help", "profiles", "profiles loihi2"):
    run(command, 0)
nd.load_profile("loihi2")
note("profile")
for name in {LIGHT}:
    importlib.import_module(f"neurodeploy.{{name}}")
    note(name)
for model in {INSPECTED}:
    run(f"inspect {{model}} --target loihi2", 0)
print(json.dumps(loaded))
"""
Loaded: TypeAlias = "dict[str, list[str]]"
"""Step: the modules that it was the first to load."""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, make_network: Callable[..., nd.Network]) -> Loaded:
    """Run all steps in one fresh process, those that may load little first."""
    folder, network = tmp_path_factory.mktemp("models"), make_network([8, 6, 3])
    nd.write_netx(nd.quantize(network, nd.load_profile("loihi2")), folder / "model.net")
    nd.write_nir(network, folder / "model.nir")
    (folder / "models.py").write_text(
        "import torch\nfrom norse.torch import LIFCell, SequentialState\n"
        "def model():\n    return SequentialState(torch.nn.Linear(8, 3, bias=False), LIFCell())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(FACE.parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def heavy_steps(loaded: Loaded, heavy: Collection[str], *, until: str) -> dict[str, set[str]]:
    """Steps up to the one named that load heavy modules, and which."""
    steps = list(loaded)
    found = {step: {*heavy} & {*loaded[step]} for step in steps[: steps.index(until) + 1]}
    return {step: names for step, names in found.items() if names}


def test_the_face_chips_help_texts_and_refusals_load_nothing_heavy(loaded: Loaded) -> None:
    assert heavy_steps(loaded, {*HEAVY, "numpy", "yaml"}, until="face") == {}
    assert heavy_steps(loaded, {*HEAVY - {"click", "rich"}, "numpy"}, until="profile") == {}


def test_the_nouns_need_numpy_and_yaml_only(loaded: Loaded) -> None:
    assert heavy_steps(loaded, HEAVY - {"click", "rich"}, until=LIGHT[-1]) == {}


def test_files_are_inspected_without_torch_and_models_with_torch_and_norse_alone(loaded: Loaded) -> None:
    file, model = (f"inspect {name} --target loihi2" for name in INSPECTED[1:])
    slow = {"lava", "scipy.stats", "scipy.optimize"}  # not Numba, which compiles the loops of the layout, and brings scipy
    assert heavy_steps(loaded, {"networkx"}, until=f"inspect {INSPECTED[0]} --target loihi2") == {}
    assert heavy_steps(loaded, {*slow, "torch", "norse", "matplotlib"}, until=file) == {}
    assert heavy_steps(loaded, slow, until=model) == {}
    assert "torch" in loaded[model]  # the lists are not empty


def test_no_module_hides_a_name_of_the_face() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what other packages warn of when they are imported
        for module in pkgutil.walk_packages(nd.__path__, "neurodeploy."):
            importlib.import_module(module.name)
    assert [name for name in nd.__all__ if isinstance(getattr(nd, name), ModuleType)] == ["plot"]


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
    files = [str(tmp_path / "typed.py"), str(FACE), str(FACE.parent / "mapping" / "channel_counts.py")]
    files.append(str(FACE.parent / "errors.py"))  # whose decorators keep the types
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
