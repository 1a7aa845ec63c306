"""What a command answers, and where: results on stdout, the rest on stderr; exit codes; signals."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

import neurodeploy
from neurodeploy.__main__ import main
from neurodeploy.cli import cli
from neurodeploy.cli.console import progress_output
from neurodeploy.hardware.loading import profile_paths
from neurodeploy.simulation.records import Comparison, Mismatch

NOISY = """
import logging, os, sys, warnings
print("printed")
print("to stderr", file=sys.stderr)
os.system("echo from a child")
os.system(f"{sys.executable} -c 'import warnings; warnings.warn(chr(97), FutureWarning)'")
warnings.simplefilter("always")
warnings.warn("a warning", FutureWarning)
logging.warning("a record")
logging.getLogger("library").warning("another record")
import torch
from norse.torch import LICell, LIFCell, SequentialState

def small():
    print("in the factory")
    warnings.warn("a warning")
    return SequentialState(torch.nn.Linear(64, 10, bias=False), LICell())

def fails():
    raise ValueError("no such luck")

def late():
    import atexit, threading, time

    def print_for_long(seconds=0.0):
        ends = time.monotonic() + seconds
        while True:
            print("late", flush=True)
            os.system("echo late")
            if time.monotonic() >= ends:
                return

    atexit.register(print_for_long)
    threading.Thread(target=print_for_long, args=(2.0,)).start()
    return small()
"""

MODELS = """
import torch
from norse.torch import LICell, LIFCell, SequentialState

def chain(*sizes):
    layers = [m for a, b in zip(sizes, sizes[1:]) for m in (torch.nn.Linear(a, b, bias=False), LIFCell())]
    return SequentialState(*layers[:-1], LICell())

def small():
    return chain(64, 32, 10)

def wide():
    torch.manual_seed(0)
    return chain(64, 100, 10)

def hopeless():
    print("printed")
    return chain(8, 10, 300)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "models.py").write_text(MODELS)
    few = profile_paths()["tiny"].read_text().replace("neurons_per_core: {value: 64", "neurons_per_core: {value: 8")
    (tmp_path / "few.yaml").write_text(few)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(neurodeploy.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [sys.executable, "-m", "neurodeploy", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_stdout_has_the_result_alone_and_stderr_what_the_model_prints(here: Path) -> None:
    answer = started("inspect", "noisy.py:small", "--target", "loihi2", "--json", folder=here)
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["fits"] is True
    lines = [line for line in answer.stderr.splitlines() if not line.endswith(" ...")]  # of a slow machine, what is being done
    assert sorted(lines) == ["from a child", "in the factory", "printed", "to stderr"]  # no warnings


@pytest.mark.parametrize("quiet", [(), pytest.param(("--quiet",), marks=pytest.mark.slow)])
def test_what_a_model_prints_in_threads_and_at_exit_is_no_result(quiet: tuple[str, ...], here: Path) -> None:
    answer = started("inspect", "noisy.py:late", "--target", "loihi2", "--json", *quiet, folder=here)
    assert answer.returncode == 0
    assert json.loads(answer.stdout)["fits"] is True
    assert quiet or answer.stderr.count("late") > 2


def test_quiet_leaves_one_line_of_an_error_on_stderr(here: Path) -> None:
    answer = started("--quiet", "compress", "noisy.py:fails", "--target", "tiny", "--data", "digits", "--out", "o", folder=here)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr == "RequestError: noisy.py:fails: raised ValueError: no such luck (noisy.py, line 20).\n"


def test_a_reader_that_leaves_and_a_full_disk_are_no_bugs(here: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(neurodeploy.__file__).parent.parent)}
    command = f"{sys.executable} -m neurodeploy profiles"
    ends = subprocess.run(
        ["bash", "-c", f"{command} > /dev/full; echo $?; (sleep 3; {command}; echo $? >&2) | true"],
        cwd=here, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ends.stdout == "2\n"
    assert ends.stderr.replace("Importing libraries ...\n", "") == "a file: No space left on device.\n141\n"


def test_where_stderr_takes_nothing_the_exit_code_and_the_run_stay(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("wb") as full:
        environment = {**os.environ, "PYTHONPATH": str(Path(neurodeploy.__file__).parent.parent)}
        environment.pop("PYTHONUNBUFFERED", None)
        command = [sys.executable, "-m", "neurodeploy", "inspect", "none.net", "--target", "loihi2"]
        assert subprocess.run(command, cwd=here, env=environment, stderr=full, check=False).returncode == 2

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    with click.Context(cli), progress_output() as (_, say):
        say("Dense: 90 %")


def test_messages_of_ours_and_of_the_model_are_apart_in_one_process(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, told in (([], "printed\n"), (["--quiet"], "")):
        assert main(["inspect", "models.py:hopeless", "--target", "tiny", "--json", *quiet]) == 1
        said = capsys.readouterr()
        assert json.loads(said.out)["compressible"] is False
        assert said.err == told


DATA = ["--data", "digits", "--epochs", "0", "0", "0"]
DOES_NOT_FIT: dict[str, list[str]] = {
    "inspect": ["models.py:wide", "--target", "tiny", "--cores", "1"],
    "inspect of weights that are too wide": ["made/model.net", "--target", "odin"],
    "deploy": ["models.py:wide", "--target", "tiny", "--cores", "1", "--out", "other"],
    "deploy of weights that are too wide": ["made/model.net", "--target", "odin", "--out", "other"],
    "compress": ["models.py:hopeless", "--target", "tiny", *DATA, "--out", "other"],
    "compress to several": ["models.py:hopeless", "--target", "tiny", "--cores", "4,2", *DATA, "--out", "other"],
    "demo": ["--target", "few.yaml", "--cores", "1", "--out", "other"],
}


@pytest.mark.parametrize("case", DOES_NOT_FIT)
def test_what_does_not_fit_ends_with_1_and_the_json_that_was_asked_for(
    case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "made/model.net" in DOES_NOT_FIT[case]:
        assert main(["deploy", "models.py:small", "--target", "loihi2", "--out", "made"]) == 0
        capsys.readouterr()
    command = case.split()[0]
    assert main([command, *DOES_NOT_FIT[case], "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["fits"] if command == "inspect" else answer["fits"]["after"]) is False
    assert "binding" in answer or "bits" in answer["infeasible"]
    assert Path("other").exists() == (case == "deploy")


def test_what_differs_ends_with_1_and_the_json_that_was_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = Mismatch(layer="a", neuron=1, step=2, sample=0, emulator=3, lava=4, quantity="spikes")
    result = Comparison(n_steps=32, mismatches=5, first=first, n_spikes=7)
    monkeypatch.setattr("neurodeploy.targets.simulate.verify", lambda *_, **__: result)  # as it is by then
    assert main(["export", "models.py:small", "--to", "model.net"]) == 0
    capsys.readouterr()
    assert main(["verify", "model.net", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["first"] == {"layer": "a", "neuron": 1, "step": 2, "emulator": 3, "lava": 4}
    result = replace(result, end="xylosim")
    assert main(["verify", "model.net", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["first"] == {"layer": "a", "neuron": 1, "step": 2, "emulator": 3, "xylosim": 4}
    assert main(["verify", "model.net"]) == 1
    assert "3 in the emulator, 4 in XyloSim." in capsys.readouterr().out


@pytest.mark.parametrize(("spikes", "said"), [(7, "Equal: spikes and membranes of every layer in 32 steps."), (
    0, "Equal: membranes of every layer in 32 steps. No neuron fired on this input: no spikes were compared."
)])  # fmt: skip
def test_verify_says_that_nothing_fired(
    spikes: int, said: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = Comparison(n_steps=32, mismatches=0, first=None, n_spikes=spikes)
    monkeypatch.setattr("neurodeploy.targets.simulate.verify", lambda *_, **__: result)
    assert main(["export", "models.py:small", "--to", "model.net"]) == 0
    capsys.readouterr()
    assert main(["verify", "model.net"]) == 0
    assert capsys.readouterr().out == f"{said}\n"
    assert main(["verify", "model.net", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spikes"] == spikes


CHIP = ["--target", "loihi2"]
SWEEP = ["--targets", "loihi2", "--seeds", "1"]
BAD_INPUT: dict[str, list[list[str]]] = {
    "profiles": [["none"], ["models.py"], ["fifo"], ["--colour"]],
    "check": [["none.net", *CHIP], ["fifo", *CHIP], ["models.py:small", "--target", "fifo"], ["models.py:small"]],
    "compare": [["none.net", "--targets", "loihi2"], ["models.py:small", "--targets", "loihi2,none"], ["models.py:small"],
                ["models.py:small", "--targets", "loihi2", "--out", "fifo"]],
    "inspect": [["none.net", *CHIP], ["fifo", *CHIP], ["models.py:small", "--target", "fifo"], ["models.py:small"]],
    "deploy": [["none.nir", *CHIP, "--out", "other"], ["models.py:small", *CHIP, "--out", "fifo"],
               ["models.py:small", *CHIP, "--out", "other/a", "--weights", "fifo"]],
    "compress": [["models.py:small", *CHIP, "--data", "mnist:fifo.npz", "--out", "other"],
                 ["models.py:small", *CHIP, "--data", "fifo.py:f", "--out", "other"],
                 ["models.py:small", *CHIP, "--data", "mnist", "--data-dir", "fifo", "--out", "other"],
                 ["models.py:small", *CHIP, "--data", "digits", "--out", "fifo"],
                 ["models.py:small", *CHIP, "--data", "digits", "--out", "other", "--method", "magic"]],
    "sweep": [["models.py:small", *SWEEP, "--data", "digits", "--out", "fifo"],
              ["models.py:small", *SWEEP, "--data", "mnist", "--data-dir", "fifo", "--out", "other"],
              ["models.py:none", *SWEEP, "--data", "digits", "--out", "other"],
              ["fifo", *SWEEP, "--data", "digits", "--out", "other"]],
    "simulate": [["none.net", "--input", "fifo", "--out", "r.npz"], ["fifo", "--input", "x.npy", "--out", "r.npz"]],
    "verify": [["none.net"], ["fifo"], ["models.py:small", "--bits", "99"]],
    "evaluate": [["models.py:small", "--data", "letters"], ["fifo", "--data", "digits"]],
    "export": [["models.py:small", "--to", "a.onnx"], ["models.py:small", "--to", "none/a.net"], ["fifo", "--to", "a.net"]],
    "demo": [["--target", "none"], ["--cores", "0"], ["--out", "fifo"]],
    "simulators": [["install"], ["install", "brian"], ["list", "extra"], ["remove"]],
}  # fmt: skip


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_bad_input_ends_with_2_and_one_line_and_leaves_nothing(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fifo", "fifo.npz", "fifo.py"):
        os.mkfifo(here / name)
    before = sorted(path for path in here.rglob("*") if "__pycache__" not in path.parts)
    has_json = any(parameter.name == "as_json" for parameter in cli.commands[command].params)
    for arguments in BAD_INPUT[command]:
        assert main([command, *arguments, *(["--json"] if has_json else [])]) == 2, arguments
        said = capsys.readouterr()
        assert said.out == "", arguments
        assert said.err.count("\n") == 1, said.err
    assert sorted(path for path in here.rglob("*") if "__pycache__" not in path.parts) == before


def test_the_end_of_a_file_is_no_interrupt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def cut_short(_: str) -> None:
        raise EOFError("marshal data too short")

    monkeypatch.setattr("neurodeploy.cli.commands.load_profile", cut_short)
    assert main(["profiles", "tiny"]) == 70
    assert "EOFError: marshal data too short" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(
    number: signal.Signals, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def killed(*_: object) -> None:
        seen.extend(path.name for path in Path("made").rglob("*"))
        os.kill(os.getpid(), number)
        signal.sigtimedwait([], 5)  # until the handler runs

    monkeypatch.setattr("neurodeploy.report.html.write_page", killed)
    # nohup ignores SIGHUP, a shell's background job SIGINT, and so would the command
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_DFL)
    assert main(["deploy", "models.py:small", "--target", "loihi2", "--out", "made", "--quiet"]) == 128 + number
    assert "model.net" in seen
    assert not Path("made").exists()
    assert capsys.readouterr().err.split() == ["Interrupted."]
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
