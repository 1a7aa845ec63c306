"""Tasks in worker processes: their order, their errors, workers that die, and a driver that is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neurodeploy.__main__ import interrupted_by_signals
from neurodeploy.errors import RequestError
from neurodeploy.pipeline.task_pool import Task, TaskResult, run_tasks, shares_of_gpus


def results_of(tasks: Sequence[Task], **options: Any) -> dict[str, TaskResult]:
    """Run tasks and return their results by name, in the order in which they came."""
    results: list[TaskResult] = []
    run_tasks(tasks, on_result=results.append, **options)
    assert len({result.task for result in results}) == len(results) == len(tasks)
    return {result.task: result for result in results}


def once_killed(marker: Path, value: int) -> Callable[[], int]:
    """A call that kills its worker, and returns a value when it is called again."""

    def call() -> int:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    return call


def killing() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_tasks_start_in_their_order_after_those_that_they_wait_for() -> None:
    started: list[str] = []
    tasks = [
        Task(name="late", call=partial(divmod, 7, 4), after=("failing", "of another sweep")),
        Task(name="failing", call=partial(divmod, 1, 0)),
        Task(name="last", call=partial(max, 1, 2)),
    ]
    results = results_of(tasks, workers=1, on_start=started.append)
    assert started == list(results) == ["failing", "late", "last"]
    assert results["late"].value == [1, 3]
    assert results["failing"] == TaskResult(task="failing", error="ZeroDivisionError: integer division or modulo by zero")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_task_whose_worker_is_killed_is_called_again(tmp_path: Path, workers: int) -> None:
    tasks = [Task(name=str(k), call=once_killed(tmp_path / str(k), k) if k in (1, 4) else partial(int, k)) for k in range(6)]
    assert {name: result.value for name, result in results_of(tasks, workers=workers).items()} == {str(k): k for k in range(6)}


@pytest.mark.parametrize("workers", [1, 3])
def test_a_task_that_kills_all_its_workers_fails_alone(workers: int) -> None:
    tasks = [Task(name="killing", call=killing), *(Task(name=str(k), call=partial(time.sleep, 0.3)) for k in range(4))]
    results = results_of(tasks, workers=workers)
    assert "worker died 3 times" in str(results.pop("killing").error)
    assert all(result.error is None for result in results.values())


def test_errors_are_one_line_whatever_is_raised_or_returned() -> None:
    class UnpicklableError(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one}\nand {two}")

    def raising() -> None:
        raise UnpicklableError(1, 2)

    tasks = [
        Task(name="raises", call=raising),
        Task(name="leaves", call=partial(sys.exit, "nothing to do")),
        Task(name="returns a set", call=partial(set, "ab")),
        Task(name="returns a function", call=partial(partial, max)),
        Task(name="goes on", call=os.getpid),
        Task(name="in the same worker", call=os.getpid),
    ]
    results = results_of(tasks, workers=1)
    assert [result.error for result in results.values()][:4] == [
        "UnpicklableError: 1 and 2", "SystemExit: nothing to do", "TypeError: Object of type set is not JSON serializable",
        "TypeError: Object of type partial is not JSON serializable",
    ]  # fmt: skip
    assert results["goes on"].value == results["in the same worker"].value != os.getpid()


def test_workers_compute_with_one_thread() -> None:
    def threads() -> list[int]:
        import torch
        from threadpoolctl import threadpool_info

        return [torch.get_num_threads(), *(one["num_threads"] for one in threadpool_info())]

    assert set(results_of([Task(name="threads", call=threads)])["threads"].value) == {1}


def test_long_calls_and_results_pass_and_survive_deaths(tmp_path: Path) -> None:
    ballast, marker = "x" * 3_000_000, tmp_path / "killed"

    def call() -> str:
        once_killed(marker, 0)()
        return ballast

    assert results_of([Task(name="long", call=call)])["long"].value == ballast


def test_what_cannot_run_is_refused() -> None:
    task = Task(name="a", call=os.getpid)
    with pytest.raises(RequestError, match="name 'a' twice"):
        results_of([task, task])
    with pytest.raises(RequestError, match=r"wait for each other: (a, b, a|b, a, b)"):
        results_of([Task(name="a", call=os.getpid, after=("b",)), Task(name="b", call=os.getpid, after=("a",))])
    with pytest.raises(RequestError, match=r"task 'lock': cannot be sent to other processes: TypeError.*into a file"):
        results_of([Task(name="lock", call=partial(print, sys.stdout.buffer))])
    assert results_of([]) == {}


def test_tasks_see_their_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    assert shares_of_gpus(0.5) == ["2", "5", "7", "2", "5", "7"]
    assert shares_of_gpus(2) == ["2,5"]
    tasks = [Task(name=str(k), call=partial(os.getenv, "CUDA_VISIBLE_DEVICES")) for k in range(3)]
    assert {result.value for result in results_of(tasks, gpus_per_task=1).values()} <= {"2", "5", "7"}
    with pytest.raises(RequestError, match=r"4 GPUs of a task > 3 \(CUDA devices of this machine\)"):
        results_of(tasks, gpus_per_task=4)


def waiting(folder: Path, name: str) -> Task:
    """A task that writes its process into a file and waits."""

    def call() -> None:
        (folder / f"{name}.new").write_text(str(os.getpid()))
        (folder / f"{name}.new").rename(folder / name)
        time.sleep(600)

    return Task(name=name, call=call)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT interrupt, as in a terminal: jobs of a shell's background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_workers_and_goes_on(tmp_path: Path, number: int) -> None:
    workers: list[int] = []

    def send() -> None:
        workers.extend(processes_in(tmp_path, "ab"))
        for worker in workers:
            os.kill(worker, signal.SIGINT)  # as a terminal does; the driver alone decides
        time.sleep(0.2)
        assert all(map(is_running, workers))
        os.kill(os.getpid(), number)

    with ThreadPoolExecutor(1) as thread, interrupted_by_signals([]):
        sending = thread.submit(send)
        with pytest.raises(KeyboardInterrupt):
            results_of([waiting(tmp_path, name) for name in "abc"], workers=2)
    sending.result()
    wait_until(lambda: not any(map(is_running, workers)))
    assert not (tmp_path / "c").exists()


DRIVER = """
import os, sys, time
from functools import partial
from pathlib import Path
from neurodeploy.pipeline.task_pool import Task, run_tasks

def call(name):
    (Path(sys.argv[1]) / name).write_text(str(os.getpid()))
    time.sleep(600)

run_tasks([Task(name=name, call=partial(call, name)) for name in "ab"], workers=2, on_result=print)
"""  # without "if __name__ == '__main__'": the workers do not run it


WARNED = """
import warnings
from functools import partial
import click
from neurodeploy.cli.console import answering
from neurodeploy.pipeline.task_pool import Task, run_tasks

warned = Task(name="warned", call=partial(warnings.warn, "of a library", FutureWarning))
command = click.Command("run", callback=answering(partial(run_tasks, [warned], workers=1, on_result=str)))
command(args=[])
"""


@pytest.mark.slow  # imports torch four times
@pytest.mark.parametrize(("asked", "shown"), [({}, False), ({"PYTHONWARNINGS": "default"}, True)])
def test_workers_of_a_command_show_warnings_of_libraries_where_python_was_asked_for_them(
    asked: dict[str, str], shown: bool
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"} | asked
    driver = subprocess.run([sys.executable, "-c", WARNED], env=environment, capture_output=True, text=True, check=True)
    assert ("FutureWarning: of a library" in driver.stderr) == shown


def test_workers_whose_driver_is_killed_end(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    with subprocess.Popen([sys.executable, script, tmp_path]) as driver:
        workers = processes_in(tmp_path, "ab")
        driver.kill()
    wait_until(lambda: not any(map(is_running, workers)))


def processes_in(folder: Path, names: str) -> list[int]:
    wait_until(lambda: all((folder / name).exists() and (folder / name).read_text() for name in names))
    return [int((folder / name).read_text()) for name in names]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def assert_flat_memory(**options: Any) -> None:
    """Run 1,000 tasks; neither the workers nor this process may grow by more than 5 MB after the first hundred."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    workers: list[int] = []
    driver: list[int] = []

    def note(result: TaskResult) -> None:
        workers.append(result.value)
        driver.append(resident())

    run_tasks([Task(name=str(k), call=resident) for k in range(1000)], workers=2, on_result=note, **options)
    for sizes in (workers, driver):
        assert max(sizes[900:]) < max(sizes[50:150]) + 5e6


@pytest.mark.slow
def test_memory_stays_flat_over_a_thousand_tasks() -> None:
    assert_flat_memory()
