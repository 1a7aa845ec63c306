"""Vendors' simulators in Pythons of their own: which is taken, what is said where none is, how one is installed."""

from __future__ import annotations

import ast
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_lava import NETWORK

from neurodeploy.__main__ import main
from neurodeploy.errors import RequestError, SimulationError
from neurodeploy.simulation.records import compare
from neurodeploy.targets import simulator_process
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.loihi.lava_client import WORKER
from neurodeploy.targets.simulate import simulate
from neurodeploy.targets.simulator_process import LAVA, SIMULATORS, Simulator, install, python_of

ANYWHERE = Simulator("anywhere", ("json",), ("a-package==1",), without_dependencies=("another==2",))
"""Needs what every Python has."""
NOWHERE = Simulator("nowhere", ("no_such_module",), ("a-package==1",))


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def another_python(tmp_path: Path) -> Path:
    return program(tmp_path / "another", f'exec {sys.executable} "$@"')


CACHE = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A stand-in for uv: it notes what it was asked, and makes environments of this Python. Called, it returns the notes."""
    notes = tmp_path / "notes"
    make = f'[ "$1" = --version ] && exit 0; echo "$@" >> {notes}; [ "$1" = venv ] || exit 0; '
    make += 'for last; do :; done; mkdir -p "$last/bin"'
    monkeypatch.setenv("UV", str(program(tmp_path / "uv", f'{make}; ln -s {sys.executable} "$last/bin/python"')))
    found = simulator_process.is_importable
    monkeypatch.setattr(simulator_process, "is_importable", lambda name: name != "uv" and found(name))
    return lambda: notes.read_text().splitlines()


def test_this_python_is_taken_where_it_has_the_simulator() -> None:
    assert python_of(ANYWHERE) == sys.executable


def test_a_variable_names_another(monkeypatch: pytest.MonkeyPatch, another_python: Path) -> None:
    monkeypatch.setenv("NEURODEPLOY_ANYWHERE_PYTHON", str(another_python))
    assert python_of(ANYWHERE) == str(another_python)


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        ("/no/such/python", "No such file or directory"),
        ("/", "Permission denied"),
        ("nul\0", "null byte"),
        (sys.executable, "no_such_"),
    ],
)
def test_a_variable_that_names_none(monkeypatch: pytest.MonkeyPatch, named: str, reason: str) -> None:
    monkeypatch.setattr(simulator_process.os, "environ", {"NEURODEPLOY_NOWHERE_PYTHON": named})
    with pytest.raises(SimulationError, match=reason) as error:
        python_of(NOWHERE)
    assert "(NEURODEPLOY_NOWHERE_PYTHON)" in str(error.value)


def test_one_that_is_nowhere_says_how_to_install_it() -> None:
    with pytest.raises(SimulationError, match=r"no_such_module cannot be imported by Python 3.*simulators install nowhere"):
        python_of(NOWHERE)


def test_installing_makes_an_environment_in_the_cache_folder(uv: Callable[[], list[str]]) -> None:
    for _ in range(2):  # the second takes the place of the first
        assert install(ANYWHERE) == ANYWHERE.folder / "bin" / "python"
    new = f"{ANYWHERE.folder}.unfinished"
    venv, packages, alone = uv()[:3]
    assert venv.startswith("venv --relocatable --python ")
    assert venv.endswith(new)
    assert packages == f"pip install --python {new}/bin/python a-package==1"
    assert alone == f"pip install --python {new}/bin/python --no-deps another==2"
    assert [path.name for path in ANYWHERE.folder.parent.iterdir()] == ["anywhere"]


def test_a_failed_installation_keeps_the_old_one(
    uv: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(ANYWHERE)
    monkeypatch.setenv(
        "UV", str(program(tmp_path / "broken", "[ $1 = --version ] && exit 0; echo 'error: no space left.' >&2; exit 2"))
    )
    with pytest.raises(
        SimulationError, match=r"broken venv --relocatable: error: no space left\. Make an environment of .* with a-package==1"
    ):
        install(ANYWHERE)
    assert ANYWHERE.python.exists()
    assert len(uv()) == 3


def test_without_uv_the_named_python_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shim that finds no uv behind it counts as none."""
    monkeypatch.setenv("UV", str(program(tmp_path / "shim", "echo 'command not found' >&2; exit 127")))
    monkeypatch.setenv("PATH", "/no/such/folder")
    found, ran = simulator_process.is_importable, []
    monkeypatch.setattr(simulator_process, "is_importable", lambda name: name != "uv" and found(name))

    def run(_: Simulator, command: list[str]) -> None:
        ran.append(command)
        python = ANYWHERE.folder.with_name("anywhere.unfinished") / "bin" / "python"
        if not python.exists():
            python.parent.mkdir(parents=True)
            python.symlink_to(sys.executable)

    monkeypatch.setattr(simulator_process, "_run", run)
    install(ANYWHERE, python="a-python")
    assert ran[0] == ["a-python", "-m", "venv", f"{ANYWHERE.folder}.unfinished"]
    assert [command[1:4] + command[5:] for command in ran[1:]] == [
        ["-m", "pip", "install", "a-package==1"],
        ["-m", "pip", "install", "--no-deps", "another==2"],
    ]
    monkeypatch.setattr(simulator_process, "local_python", lambda: None)
    with pytest.raises(RequestError, match=r"uv: is not installed, and would get Python 3\.10\. Install it by: pip install uv"):
        install(ANYWHERE)


def test_one_that_does_not_run_is_said(uv: Callable[[], list[str]]) -> None:
    with pytest.raises(SimulationError, match=r"was installed in .*, and does not run: no_such_module cannot be imported"):
        install(NOWHERE)
    assert uv()


def test_the_command_lists_them(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SIMULATORS, "anywhere", ANYWHERE)
    monkeypatch.setitem(SIMULATORS, "nowhere", NOWHERE)
    assert main(["simulators", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["anywhere"] == {"python": sys.executable, "missing": None}
    assert listed["nowhere"]["python"] is None
    assert "no_such_module" in listed["nowhere"]["missing"]
    assert main(["simulators", "list"]) == 0
    assert f"anywhere: {sys.executable}\n" in capsys.readouterr().out


def test_the_command_installs(
    uv: Callable[[], list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SIMULATORS, "xylo", ANYWHERE)
    assert main(["simulators", "install", "xylo"]) == 0
    assert capsys.readouterr().out == f"xylo: {ANYWHERE.python}\n"
    assert uv()
    assert main(["simulators", "install", "brian"]) == 2


def test_workers_import_nothing_of_neurodeploy() -> None:
    """They run in Pythons that do not have it."""
    for worker in (WORKER,):
        for node in ast.walk(ast.parse(worker.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "neurodeploy"]


WORKERS = {
    "steps are no number": "echo abc > $2/steps; sleep 0.5; exit 3",
    "steps of 6,000 digits": "printf %06000d 9 > $2/steps; sleep 0.5; exit 3",
    "steps are a pipe": "mkfifo $2/steps; sleep 0.5; exit 3",
    "a signal without a name": "kill -35 $$",
    "no folder any more": "rm -rf $2; exit 3",
    "nothing": "exit 0",
    "no file of NumPy": "echo hello > $2/0.npz",
    "an empty file": ": > $2/0.npz",
    "a pipe": "mkfifo $2/0.npz",
    "other names": "savez 'x=np.zeros((1, 5))'",
    "objects": "savez 'spikes0=np.array([{}], object), v0=np.array([{}], object)'",
    "another shape": "savez 'spikes0=np.zeros((1, 4), int), v0=np.zeros((1, 4), int)'",
    "NaN": "savez 'spikes0=np.full((1, 5), np.nan), v0=np.full((1, 5), np.nan)'",
}  # fmt: skip
"""Programs in the place of a Python with Lava, called with the worker and its folder."""


@pytest.mark.parametrize("kind", WORKERS)
def test_a_worker_that_leaves_something_else_is_one_error(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    savez = f"savez() {{ {sys.executable} -c \"import numpy as np; np.savez('$folder/0.npz', $*)\"; }}"
    python = program(tmp_path / "python", f'[ "$1" = -c ] && exit 0; folder=$2; {savez}; {WORKERS[kind]}')
    monkeypatch.setenv("NEURODEPLOY_LAVA_PYTHON", str(python))
    told = "died: (exit status 3|signal 35)" if WORKERS[kind].endswith(("exit 3", "$$")) else "ended without the results"
    with pytest.raises(SimulationError, match=f"^lava: {told}.*The emulator gives the same spikes"):
        simulate(NETWORK, np.ones((1, 1, 4), dtype=np.uint8), end="lava", time_limit_s=20)


def test_of_what_a_worker_printed_the_end_is_read(tmp_path: Path) -> None:
    (tmp_path / "stderr").write_bytes(b"x" * 9000 + b"\xff" * 9000 + b"\nthe reason\n\n")
    assert simulator_process._error_line(tmp_path, 3) == "the reason"
    assert len(simulator_process.tail_of(tmp_path / "stderr", 100)) == 100


@pytest.mark.lava
def test_lava_runs_in_another_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", CACHE)
    another = program(tmp_path / "lavas", f'exec {python_of(LAVA)} "$@"')
    monkeypatch.setenv("NEURODEPLOY_LAVA_PYTHON", str(another))
    monkeypatch.setenv("PYTHONPATH", "/no/such/folder")
    spikes = np.ones((1, 1, 4), dtype=np.uint8)
    assert compare(run_emulator(NETWORK, spikes), simulate(NETWORK, spikes, end="lava")).equal


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lava", "xylo"])
def test_the_real_packages_install(name: str) -> None:
    """It needs a package index, and a Python 3.10 or the means to get one."""
    assert Path(install(SIMULATORS[name])).exists()
