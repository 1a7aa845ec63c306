"""Tasks that run in an order, in processes of this machine; a task whose worker dies is started again.

A task is a call that returns JSON. Every worker computes with one thread, so its results do not depend on the number of workers.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from heapq import heappop, heappush
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias

import cloudpickle
import torch
from threadpoolctl import threadpool_limits

from neurodeploy.errors import RequestError, quoted, said_by
from neurodeploy.ir.arrays import available_memory
from neurodeploy.pipeline.deploy import ignore
from neurodeploy.simulation.layer_schedule import usable_processors

JSONValue: TypeAlias = Any
"""Values that `json` writes: dict, list, str, int, float, bool or None."""
EngineName: TypeAlias = Literal["auto", "ray", "processes"]
WORKER_BYTES = 2e9
"""Memory that a worker is assumed to need, where the number of workers is not given."""
MAX_DEATHS = 3
"""Workers that a task may lose before it counts as failed."""
LOST_WORKERS = f"its worker died {MAX_DEATHS} times; the usual cause is memory: run fewer workers at a time"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A call with its name.

    Attributes
    ----------
    name : str
        Unique among the tasks.
    call : callable
        Without arguments; returns JSON. Sent by cloudpickle: best a ``partial`` of a module's function. It may be called again
        where its worker died, so it resumes what it finds.
    after : tuple of str
        Tasks that end, well or not, before this one starts. Names of no task are no condition.
    """

    name: str
    call: Callable[[], JSONValue]
    after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """End of a task: what its call returned, or in one line why it returned nothing."""

    task: str
    value: JSONValue = None
    error: str | None = None


class Workers(Protocol):
    """Workers of an engine; a task is started when one is idle, and `wait` returns it when it has ended."""

    @property
    def has_idle(self) -> bool: ...

    def start(self, task: Task) -> None: ...

    def wait(self) -> list[TaskResult]:
        """Wait until something has ended; return it."""

    def close(self, *, finished: bool) -> None:
        """Stop all workers, at once where tasks are not finished."""


def run_tasks(
    tasks: Sequence[Task], *, workers: int | None = None, gpus_per_task: float = 0.0, on_start: Callable[[str], None] = ignore,
    on_result: Callable[[TaskResult], None],
) -> None:  # fmt: skip
    """Run tasks on workers, each when the tasks before it have ended; of those that are ready, in the order given.

    Where a worker dies, its task starts again on another; with the third worker that it loses, it has failed. Ctrl-C, and a
    SIGTERM that raises as Ctrl-C does, stop all workers and go on; workers whose driver has been killed end themselves.

    Parameters
    ----------
    workers : int, optional
        Tasks at a time, at least 1. By default as many as processor cores that the process may use, at most one for each 2 GB
        of free memory, and where tasks use GPUs, at most as many as these hold.
    gpus_per_task : float
        GPUs of a task: 0 for none, 0.5 for two tasks on a GPU, or a whole number. A task sees only its own.
    on_start : callable, optional
        Called with the name of a task when it starts.
    on_result : callable
        Called with each result, in the order in which tasks end.

    Raises
    ------
    RequestError
        Names that occur twice, tasks that wait for each other, a call that cannot be sent to a worker, too few GPUs.
    """
    order = {task.name: place for place, task in enumerate(tasks)}
    if len(order) < len(tasks):
        twice = next(task.name for place, task in enumerate(tasks) if order[task.name] != place)
        raise RequestError("tasks", f"have the name {twice!r} twice")
    graph = TopologicalSorter({task.name: [name for name in task.after if name in order] for task in tasks})
    try:
        graph.prepare()
    except CycleError as error:
        raise RequestError("tasks", f"wait for each other: {', '.join(error.args[1])}") from None
    pool: Workers = ProcessWorkers(workers, gpus_per_task, len(tasks))
    ready: list[int] = []
    try:
        while graph.is_active():
            for name in graph.get_ready():
                heappush(ready, order[name])
            while ready and pool.has_idle:
                task = tasks[heappop(ready)]
                on_start(task.name)
                pool.start(task)
            for result in pool.wait():
                on_result(result)
                graph.done(result.task)
    finally:
        pool.close(finished=not graph.is_active())


def pickled(task: Task) -> bytes:
    """Return the call of a task in bytes that a worker can read."""
    try:
        sent: bytes = cloudpickle.dumps(task.call)
    except Exception as error:  # whatever the __reduce__ of the user's objects raises
        raise RequestError(
            f"task {task.name!r}", f"cannot be sent to another process: {said_by(error)}",
            remedy="Give what it needs by name, as a factory in a file ('file.py:factory').",
        ) from error  # fmt: skip
    return sent


class TaskError(Exception):
    """The error of a task, in one line: the original may not survive pickling."""


def call_in_worker(sent: bytes) -> str:
    """Call a task that was pickled; return its value as JSON."""
    try:
        return json.dumps(cloudpickle.loads(sent)())
    except BaseException as error:  # sys.exit() of the user's code, too
        raise TaskError(quoted(said_by(error), 2000)) from None


def result_of(task: Task, returned: str | None, error: BaseException | None) -> TaskResult:
    """Return the result of a task from what its worker sent."""
    if isinstance(error, TaskError):
        return TaskResult(task=task.name, error=str(error))
    if error is not None:
        raise error
    return TaskResult(task=task.name, value=json.loads(returned or "null"))


def compute_with_one_thread() -> None:
    """Limit torch, BLAS and Numba to one thread, in libraries that are loaded and those that will be."""
    os.environ |= ONE_THREAD
    torch.set_num_threads(1)
    threadpool_limits(1)


# ---------------------------------------------------------------------------------------------- processes


def begin_worker(lifeline: Connection, gpus: str | None) -> None:
    """Prepare a process: one thread, its GPUs, no Ctrl-C, and an end when the driver closes the other end of `lifeline`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the driver decides

    def end_with_driver() -> None:
        try:
            lifeline.recv_bytes()
        except (EOFError, OSError):
            os._exit(128 + signal.SIGTERM)

    threading.Thread(target=end_with_driver, daemon=True).start()
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    compute_with_one_thread()


def call_from_file(path: str) -> str:
    """Call a task that was pickled into a file."""
    return call_in_worker(Path(path).read_bytes())


@contextmanager
def hidden_main() -> Iterator[None]:
    """Hide the driver's script from processes that start: they need not run it, and it need not be protected against it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


class ProcessWorkers:
    """Processes of this machine: each an executor of its own, so that a death is that of one task."""

    def __init__(self, workers: int | None, gpus_per_task: float, n_tasks: int) -> None:
        self.context = get_context("forkserver")
        # torch takes seconds to import: once for all workers
        self.context.set_forkserver_preload(["torch", "neurodeploy.pipeline.task_pool", "neurodeploy.pipeline.compress"])
        size = workers or min(usable_processors(), max(1, int(available_memory()[0] // WORKER_BYTES)))
        self.gpus = shares_of_gpus(gpus_per_task) if gpus_per_task else [None] * min(size, n_tasks)
        self.lifeline, self.driver_end = self.context.Pipe(duplex=False)
        self.executors = [self.executor(gpus) for gpus in self.gpus[: min(size, n_tasks)]]
        self.idle = list(range(len(self.executors)))
        self.running: dict[Future[str], tuple[Task, int]] = {}
        self.deaths = Counter[str]()
        # Calls go through files: an executor of Python 3.10 hangs where a worker dies before it has read a long one.
        self.calls = TemporaryDirectory(prefix="neurodeploy-")

    def executor(self, gpus: str | None) -> ProcessPoolExecutor:
        """Return an executor of one process, which starts with its first task."""
        return ProcessPoolExecutor(1, self.context, begin_worker, (self.lifeline, gpus))

    @property
    def has_idle(self) -> bool:
        return bool(self.idle)

    def start(self, task: Task) -> None:
        (Path(self.calls.name) / str(self.idle[0])).write_bytes(pickled(task))
        self.submit(task, self.idle.pop(0))

    def submit(self, task: Task, slot: int) -> None:
        """Send the call in the file of a slot to its process."""
        path = str(Path(self.calls.name) / str(slot))
        with hidden_main():  # a process may start
            try:
                future = self.executors[slot].submit(call_from_file, path)
            except BrokenProcessPool:  # it died while it had nothing to do
                self.replace(slot)
                future = self.executors[slot].submit(call_from_file, path)
        self.running[future] = task, slot

    def replace(self, slot: int) -> None:
        """Put a new process in place of one that died."""
        self.executors[slot].shutdown()
        self.executors[slot] = self.executor(self.gpus[slot])

    def wait(self) -> list[TaskResult]:
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        results = []
        for future in [one for one in self.running if one in done]:
            task, slot = self.running.pop(future)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                self.replace(slot)
                self.deaths[task.name] += 1
                if self.deaths[task.name] < MAX_DEATHS:
                    self.submit(task, slot)
                    continue
                results.append(TaskResult(task=task.name, error=LOST_WORKERS))
            else:
                results.append(result_of(task, None if error else future.result(), error))
            self.idle.append(slot)
        return results

    def close(self, *, finished: bool) -> None:
        if not finished:
            self.driver_end.close()  # all processes end at once
        for executor in self.executors:
            executor.shutdown(cancel_futures=True)
        self.driver_end.close()
        self.lifeline.close()
        self.calls.cleanup()


def shares_of_gpus(gpus_per_task: float) -> list[str | None]:
    """Return for each task that the GPUs hold at a time those that it sees, as CUDA_VISIBLE_DEVICES has them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [str(k) for k in range(torch.cuda.device_count())] if named is None else [one for one in named.split(",") if one]
    if gpus_per_task >= 1:
        n = math.ceil(gpus_per_task)
        shares: list[str | None] = [",".join(gpus[k : k + n]) for k in range(0, len(gpus) - n + 1, n)]
    else:
        shares = [*gpus] * int(1 / gpus_per_task)
    if not shares:
        raise RequestError(
            "gpus_per_task", "GPUs of a task", need=gpus_per_task, limit=len(gpus), source="CUDA devices of this machine",
            remedy="Give fewer, or none: tasks then compute on the CPU.",
        )  # fmt: skip
    return shares
