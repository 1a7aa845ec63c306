"""`compress` broken off and taken up again: killed in either stage, interrupted, begun anew, taken for another run."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import neurodeploy
from neurodeploy.__main__ import main
from neurodeploy.training.checkpoint import load_state

MODEL = """
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState

def model():
    cell = LIFCell(LIFParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.3)))
    return SequentialState(
        torch.nn.Linear(64, 100, bias=False), cell, torch.nn.Dropout(0.1), torch.nn.Linear(100, 10, bias=False), LICell()
    )
"""
OPTIONS = ["--target", "tiny", "--cores", "2", "--data", "digits", "--batch-size", "128", "--steps", "4", "--lava-samples", "0",
           "--epochs", "1", "2", "1"]  # fmt: skip
RESULTS = ("model.net", "weights.safetensors", "checkpoint-compressed.safetensors")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(MODEL.replace("def model():\n", "def model():\n    torch.manual_seed(0)\n"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(out: str, *more: str) -> list[str]:
    return ["compress", "mine.py:model", *OPTIONS, "--out", out, "--checkpoint-every", "0", *more]


def started(out: str, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(neurodeploy.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it, and
    try:  # so would what is started from there
        return subprocess.Popen(
            [sys.executable, "-m", "neurodeploy", *command(out, *more)], env=environment, stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, ignored)


def wait_for(process: subprocess.Popen[str], path: Path) -> None:
    for _ in range(6000):
        if path.exists() or process.poll() is not None:
            return
        time.sleep(0.01)


def killed(out: str, awaited: str, draws: random.Random) -> None:
    """Go on until there is a checkpoint of this name, and a bit; then the process is killed."""
    process = started(out, "--resume")
    wait_for(process, Path(out, awaited))
    time.sleep(draws.uniform(0, 0.4))
    process.kill()
    process.communicate(timeout=60)


@pytest.mark.parametrize("seed", [0, pytest.param(int.from_bytes(os.urandom(2), "big"), id="random", marks=pytest.mark.slow)])
def test_a_command_killed_in_each_stage_ends_in_the_same_network(
    seed: int, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = random.Random(seed)
    assert main(command("whole")) == 0
    for awaited in ("checkpoint-dense.safetensors", *("checkpoint-compressed.safetensors",) * (1 + bool(seed))):
        killed("broken", awaited, draws)
    dense = Path("broken/checkpoint-dense.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command("broken", "--resume")) == 0
    assert f"Resuming from {Path('broken/checkpoint-compressed.safetensors')}." in capsys.readouterr().err
    assert Path("broken/checkpoint-dense.safetensors").stat().st_mtime_ns == dense  # that stage was over
    for name in RESULTS[:2]:
        assert Path("broken", name).read_bytes() == Path("whole", name).read_bytes(), f"{name}, seed {seed}"
    reports = [json.loads(Path(out, "report.json").read_text()) for out in ("broken", "whole")]
    assert reports[0]["accuracy"] == reports[1]["accuracy"]
    assert not list(Path("broken").glob(".*.part"))


def test_an_interrupt_says_how_to_go_on(here: Path) -> None:
    process = started("made")
    wait_for(process, here / "made/checkpoint-dense.safetensors")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    *_, how, last = filter(None, said.splitlines())
    assert how == f"To resume: neurodeploy {' '.join(command('made'))} --resume"
    assert last == "Interrupted."


def test_resume_says_from_where_and_a_start_what_it_takes_away(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("made", "--resume")) == 0
    said = capsys.readouterr().err
    assert "No checkpoint in made: starting from the beginning.\nCheckpoints go to made every 0 s" in said
    first = {name: Path("made", name).read_bytes() for name in RESULTS}
    assert main(command("made", "--resume")) == 0  # all is trained: it is deployed once more
    assert "Resuming from made/checkpoint-compressed.safetensors." in capsys.readouterr().err
    assert {name: Path("made", name).read_bytes() for name in RESULTS} == first
    assert main([*command("made"), "--seed", "1"]) == 0
    assert "Starting from the beginning: the checkpoints of a finished run in made are deleted." in capsys.readouterr().err
    assert load_state("made/checkpoint-compressed.safetensors")["fingerprint"]["seed"] == 1


def test_checkpoints_of_a_run_that_did_not_finish_are_kept(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command("made")) == 0
    seen = []

    def broken(*_: object) -> None:
        seen.append({path.name for path in Path("made").iterdir()})
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as late:
        late.setattr("neurodeploy.pipeline.compress.measure", broken)
        assert main([*command("made"), "--seed", "1"]) == 2
    # the trained network is on disk, and no report of the one before it; a report would say that the run has finished
    assert (
        {path.name for path in Path("made").iterdir()}
        == seen[0] - {".unfinished"}
        == set(RESULTS) | {"checkpoint-dense.safetensors"}
    )
    trained = {path.name: path.read_bytes() for path in Path("made").iterdir()}
    capsys.readouterr()
    several = [*command("all"), "--cores", "3,2"]
    Path("all").mkdir()
    Path("made").rename("all/2-cores")
    for asked, folder in ((several, "all/2-cores"), ([*command("all/2-cores"), "--seed", "1"], "all/2-cores")):
        assert main(asked) == 2
        told = capsys.readouterr().err
        assert told.startswith(f"RequestError: {folder}: holds checkpoints of a run that did not finish. Resume it (--resume")
        assert told.count("\n") == 1
        assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == trained
    assert main([*command("all/2-cores", "--resume"), "--seed", "1"]) == 0
    assert Path("all/2-cores/report.json").is_file()


def test_a_checkpoint_of_another_command_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command("made")) == 0
    (here / "other.py").write_text(Path("mine.py").read_text().replace("300.0", "200.0"))
    asked = command("made", "--resume")
    for other, said in (
        (
            [*asked, "--learning-rate", "0.1"],
            r"checkpoint-dense\.safetensors: belongs to a run with learning_rate 0\.004, this one",
        ),
        ([*asked, "--seed", "7"], r"seed 0, this one has 7"),
        ([*asked, "--batch-size", "64"], r"batches 11, this one has 21"),
        ([asked[0], "other.py:model", *asked[2:]], r"model .*300.*, this one has .*200"),
        ([*asked, "--cores", "3"], r"checkpoint-compressed\.safetensors: belongs to a run with budget"),
        (
            [*asked, "--bits", "4"],
            r"checkpoint-compressed\.safetensors: belongs to a run with method widths True, this one has False",
        ),
    ):
        capsys.readouterr()
        assert main(other) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert re.search(said, error)
        assert error.endswith("Use the same model, data and options, or start over without resuming.")
