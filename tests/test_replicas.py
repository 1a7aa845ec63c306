"""Processes that train one model together: two of them, as torchrun starts them, beside one with the same batches."""

from __future__ import annotations

import contextlib
import copyreg
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import neurodeploy
from neurodeploy.__main__ import main
from neurodeploy.training.checkpoint import load_state
from neurodeploy.training.distributed import Replicas, _Pickler

TESTS = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PATIENCE_S = 300

MINE = """
import os
from pathlib import Path
from replica_runs import build
from spiking import few
import torch

def model():
    Path(f"pid{os.environ.get('RANK', '')}").write_text(str(os.getpid()))
    torch.manual_seed(0)
    return build()

def data():
    return few(80), few(40, seed=1)
"""
COMMAND = ["-m", "neurodeploy"]
COMPRESS = ["compress", "mine.py:model", "--target", "tiny", "--cores", "2", "--data", "mine.py:data",
            "--steps", "4", "--epochs", "10", "20", "10", "--lava-samples", "0", "--checkpoint-every", "0"]  # fmt: skip


def started(command: list[str], folder: Path) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(TESTS), str(Path(neurodeploy.__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def ended(process: subprocess.Popen[str], folder: Path) -> tuple[int, str, str]:
    """How it ended, and what it said; one that hangs is killed, with the processes that it started."""
    try:
        said, news = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        for pid in folder.glob("pid?"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
        raise
    return process.returncode, said, news


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each process of `replica_runs` ended with: "0" and "1" together, "alone" by itself."""
    folder = tmp_path_factory.mktemp("runs")
    code, _, news = ended(started([sys.executable, str(TESTS / "replica_runs.py"), str(folder)], folder), folder)
    assert code == 0, news
    return {path.stem: pickle.loads(path.read_bytes()) for path in folder.glob("*.pickle")}


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and same(list(one.values()), list(other.values()))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_replicas_end_with_the_same_bits(runs: dict[str, Any]) -> None:
    first, second = runs["0"], runs["1"]
    assert same(first["compressed"], second["compressed"])
    assert all(same(first["dropped"][what], second["dropped"][what]) for what in ("weights", "history"))


def test_two_learn_what_one_learns_from_the_same_batches(runs: dict[str, Any]) -> None:
    two, one = runs["0"]["compressed"], runs["alone"]["compressed"]
    assert all(np.array_equal(two["masks"][name], mask) for name, mask in one["masks"].items())
    assert 0 < sum(mask.sum() for mask in one["masks"].values()) < 12 * 70 + 70 * 3
    assert two["widths"] == one["widths"]
    assert two["multipliers"] == pytest.approx(one["multipliers"], rel=1e-4)
    for found, wanted in zip(two["weights"], one["weights"], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    for found, wanted in zip(two["history"], one["history"], strict=True):
        assert found[0] == wanted[0]
        assert found[1:5] == pytest.approx(wanted[1:5], rel=1e-5)
        assert found[5] == pytest.approx(wanted[5], rel=1e-4)


def test_each_draws_for_its_own_samples_what_the_model_draws(runs: dict[str, Any]) -> None:
    first, second = (runs[rank]["dropped"]["dropped"] for rank in "01")
    n = min(len(first), len(second))
    assert 0.2 < first.mean() < 0.4
    assert 0.2 < second.mean() < 0.4
    assert 0.5 < (first[:n] == second[:n]).mean() < 0.66  # 0.58 where they are independent


def test_processes_that_have_parted_say_so(runs: dict[str, Any]) -> None:
    wanted = "replicas: were disconnected after an earlier run. Wrap all runs in one `with neurodeploy.together():`."
    assert runs["0"]["again"] == runs["1"]["again"] == {"error": wanted}
    assert "again" not in runs["alone"]


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """`compress` by two processes, into "two", and by one, into "one"; what the two said."""
    folder = tmp_path_factory.mktemp("command")
    (folder / "mine.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*COMPRESS, "--out", "one"]) == 0
    code, said, news = ended(started([*TORCHRUN, *COMMAND, *COMPRESS, "--out", "two"], folder), folder)
    assert code == 0, news
    return folder, said, news


def test_the_command_of_two_makes_what_that_of_one_makes_and_speaks_once(command: tuple[Path, str, str]) -> None:
    folder, said, news = command
    assert said.count("Now: fits.") == said.count("Accuracy on 40 test samples") == 1
    assert news.count("Dense: ") == news.count("Compressed into the budget: ") == news.count("Checkpoints go to two") == 1
    for stage in ("dense", "compressed"):
        one, two = (load_state(folder / out / f"checkpoint-{stage}.safetensors")["state"] for out in ("one", "two"))
        for name, weight in one["model"].items():
            tensor = np.asarray(weight)
            apart = np.abs(np.asarray(two["model"][name]) - tensor)
            if stage == "dense":
                assert apart.max() < 1e-5 + 1e-4 * np.abs(tensor).max()
            else:  # in the chip's integers: a weight between two of them falls to either, by the rounding of sums
                width = one["pruning"]["formats"][name.split(".")[1]]["grid"]["width"]
                assert apart.max() < 1.1 * np.abs(tensor).max() / (2 ** (width - 1) - 1)
                assert np.mean(apart > 1e-5 + 1e-4 * np.abs(tensor).max()) < 0.03
        assert [each["train_accuracy"] for each in two["history"]] == [each["train_accuracy"] for each in one["history"]]
    assert all(np.array_equal(mask, one["pruning"]["masks"][name]) for name, mask in two["pruning"]["masks"].items())
    assert (folder / "two/report.html").is_file()


@pytest.mark.slow
def test_two_go_on_where_the_first_was_killed(command: tuple[Path, str, str]) -> None:
    folder, out = command[0], "killed"
    for pid in folder.glob("pid?"):
        pid.unlink()
    process = started([*TORCHRUN, *COMMAND, *COMPRESS, "--out", out], folder)
    until, awaited = time.monotonic() + PATIENCE_S, folder / out / "checkpoint-compressed.safetensors"
    while not awaited.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(int((folder / "pid0").read_text()), signal.SIGKILL)
    code, _, news = ended(process, folder)
    assert code != 0
    assert not (folder / out / "report.html").exists()
    code, _, news = ended(started([*TORCHRUN, *COMMAND, *COMPRESS, "--out", out, "--resume"], folder), folder)
    assert code == 0, news
    assert f"Resuming from {out}/checkpoint-compressed.safetensors." in news
    for name in ("model.net", "weights.safetensors"):
        assert (folder / out / name).read_bytes() == (folder / "two" / name).read_bytes()


def test_an_error_of_the_first_ends_all_and_is_told_once(command: tuple[Path, str, str]) -> None:
    folder = command[0]
    code, said, news = ended(started([*TORCHRUN, *COMMAND, *COMPRESS, "--out", "two", "--resume", "--seed", "9"], folder), folder)
    assert code == 1  # torchrun's own
    assert said == ""
    assert news.count("belongs to a run with seed 0, this one has 9") == 1
    assert "A bug in neurodeploy" not in news


@pytest.mark.parametrize(("n", "n_samples"), [(1, 7), (2, 7), (3, 2), (4, 1000)])
def test_shares_are_all_of_a_batch(n: int, n_samples: int) -> None:
    shares = [Replicas(number=k, n=n).share(n_samples) for k in range(n)]
    assert [sample for share in shares for sample in range(n_samples)[share]] == list(range(n_samples))
    assert max(share.stop - share.start for share in shares) == -(-n_samples // n)


def test_pickling_elsewhere_in_the_process_stays_as_it_was() -> None:
    """Read-only mappings go between processes by a pickler of their own."""
    assert MappingProxyType not in copyreg.dispatch_table
    assert pickle.loads(_Pickler.dumps({"one": MappingProxyType({"two": 2})})) == {"one": MappingProxyType({"two": 2})}
