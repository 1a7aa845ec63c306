"""Sweeps whose workers and drivers are killed: the rows and networks are those of a sweep that nobody disturbs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_sweep import MODEL, OPTIONS, rows_of

import neurodeploy

pytestmark = pytest.mark.slow
PATIENCE_S = 600


def started(folder: Path, out: str, workers: int, *more: str) -> subprocess.Popen[str]:
    """Start a sweep of two sizes and two seeds whose runs write a checkpoint after every step."""
    environment = {**os.environ, "PYTHONPATH": str(Path(neurodeploy.__file__).parent.parent)}
    asked = ("--targets", "tiny", "--cores", "2,1", "--seeds", "2", "--out", out, "--workers", str(workers), *OPTIONS)
    command = [sys.executable, "-m", "neurodeploy", "sweep", "mine.py:model", *asked, "--checkpoint-every", "0", *more]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(what: Callable[[], bool], running: subprocess.Popen[str]) -> None:
    """Wait until something is true of a sweep that runs."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def worker_of(folder: Path) -> int | None:
    """Process that computes a run and has written a checkpoint of its compression; None where there is none now."""
    for lock in folder.glob("runs/*/*/.unfinished/lock"):
        if (lock.parent.parent / "checkpoint-compressed.safetensors").exists() and (text := lock.read_text()):
            return int(text)
    return None


def networks(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("runs/*/*/model.net")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep by one worker."""
    folder = tmp_path_factory.mktemp("kills")
    (folder / "mine.py").write_text(MODEL)
    said = started(folder, "whole", 1)
    assert (said.communicate(timeout=PATIENCE_S)[1], said.returncode) == ("", 0)
    return folder / "whole"


def test_three_workers_of_which_some_die_make_the_same_rows(undisturbed: Path) -> None:
    folder = undisturbed.parent
    running, killed = started(folder, "dying", 3), set[int]()
    for _ in range(2):
        wait_for(lambda: worker_of(folder / "dying") not in {None, *killed}, running)
        if (victim := worker_of(folder / "dying")) is not None:
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
    assert (running.communicate(timeout=PATIENCE_S)[1], running.returncode) == ("", 0)
    assert rows_of(folder / "dying") == rows_of(undisturbed)
    assert networks(folder / "dying") == networks(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_sweep_whose_driver_dies_twice_goes_on_to_the_same_rows(number: signal.Signals, undisturbed: Path) -> None:
    folder, out = undisturbed.parent, f"by-{number.name}"
    for rows in (0, 2):
        running = started(folder, out, 2, "--resume")
        wait_for(lambda: (folder / out / "rows.jsonl").exists() and len(rows_of(folder / out)) >= rows, running)  # noqa: B023
        wait_for(lambda: worker_of(folder / out) is not None, running)
        running.send_signal(number)
        said = running.communicate(timeout=PATIENCE_S)[1]
        assert running.returncode == (-9 if number == signal.SIGKILL else 128 + number), said
        assert number == signal.SIGKILL or said.count("\n") <= 2
    running = started(folder, out, 2, "--resume")
    assert (running.communicate(timeout=PATIENCE_S)[1], running.returncode) == ("", 0)
    assert rows_of(folder / out) == rows_of(undisturbed)
    assert networks(folder / out) == networks(undisturbed)
