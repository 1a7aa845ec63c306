"""Tasks on a Ray of this machine; tests/test_task_pool.py has the same of processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_task_pool import assert_flat_memory, is_running, killing, once_killed, processes_in, results_of, wait_until, waiting

from neurodeploy.errors import RequestError
from neurodeploy.pipeline.task_pool import RayWorkers, Task


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray with two workers, which starts once for all tests."""
    workers = RayWorkers(None, 2, 0.0)
    yield workers.ray
    workers.close(finished=True)


def test_tasks_end_as_in_processes(ray: Any) -> None:
    def threads() -> list[Any]:
        import torch

        return [torch.get_num_threads(), str(Path.cwd()), os.environ["OMP_NUM_THREADS"]]

    tasks = [
        Task(name="late", call=partial(divmod, 7, 4), after=("failing",)),
        Task(name="failing", call=partial(divmod, 1, 0)),
        Task(name="returns a set", call=partial(set, "ab")),
        Task(name="threads", call=threads),
    ]
    started: list[str] = []
    results = results_of(tasks, engine="ray", workers=1, on_start=started.append)
    assert started == list(results) == ["failing", "late", "returns a set", "threads"]
    assert results["late"].value == [1, 3]
    assert results["failing"].error == "ZeroDivisionError: integer division or modulo by zero"
    assert results["returns a set"].error == "TypeError: Object of type set is not JSON serializable"
    assert results["threads"].value == [1, str(Path.cwd()), "1"]


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_task_whose_worker_is_killed_is_called_again(ray: Any, tmp_path: Path, workers: int) -> None:
    tasks = [Task(name=str(k), call=once_killed(tmp_path / str(k), k) if k == 1 else partial(int, k)) for k in range(4)]
    results = results_of(tasks, engine="ray", workers=workers)
    assert {name: result.value for name, result in results.items()} == {str(k): k for k in range(4)}


@pytest.mark.slow
def test_a_task_that_kills_all_its_workers_fails_alone(ray: Any) -> None:
    results = results_of([Task(name="killing", call=killing), Task(name="pid", call=os.getpid)], engine="ray")
    assert "worker died 3 times" in str(results["killing"].error)
    assert results["pid"].error is None


@pytest.mark.slow
def test_memory_stays_flat_over_a_thousand_tasks(ray: Any) -> None:
    assert_flat_memory(engine="ray")


def test_an_interrupt_stops_the_workers(ray: Any, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell's background ignore it

    def send() -> list[int]:
        workers = processes_in(tmp_path, "ab")
        os.kill(os.getpid(), signal.SIGINT)
        return workers

    with ThreadPoolExecutor(1) as thread:
        sending = thread.submit(send)
        with pytest.raises(KeyboardInterrupt):
            results_of([waiting(tmp_path, name) for name in "abc"], engine="ray")
    signal.signal(signal.SIGINT, before)
    wait_until(lambda: not any(map(is_running, sending.result())))
    assert not (tmp_path / "c").exists()


def test_gpus_that_no_machine_has_are_refused(ray: Any) -> None:
    with pytest.raises(RequestError, match=r"gpus_per_task: 0.5 GPUs of a task > 0.0 \(of the Ray cluster\)"):
        results_of([Task(name="a", call=os.getpid)], engine="ray", gpus_per_task=0.5)
    assert ray.is_initialized()


def test_a_ray_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurodeploy.pipeline.task_pool.find_spec", {}.get)
    with pytest.raises(RequestError, match=r"engine: 'ray' is not installed. Run: pip install ray"):
        results_of([Task(name="a", call=os.getpid)], address="127.0.0.1:1")
