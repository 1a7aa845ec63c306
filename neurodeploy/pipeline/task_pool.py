"""Tasks that run in an order, in processes of this machine or on Ray; a task whose worker dies is started again.

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
from importlib import import_module
from importlib.util import find_spec
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
Engines: TypeAlias = Literal["auto", "ray", "processes"]
WORKER_BYTES = 2e9
"""Memory that a worker is assumed to need, where the number of workers is not given."""
MAX_DEATHS = 3
"""Workers that a task may lose before it counts as failed."""
STORE_BYTES = 200_000_000
"""Memory that a Ray of this machine reserves for calls and results on their way."""
LOST = f"its worker died {MAX_DEATHS} times; the usual cause is memory: run fewer workers at a time"
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


class WorkerLostError(Exception):
    """A worker died while it had a task."""


class TaskError(Exception):
    """The error of a task, in one line: the original may not survive pickling."""


Ended: TypeAlias = "tuple[Task, str | TaskError | WorkerLostError]"
"""A task, and its value as JSON or why there is none."""


class Workers(Protocol):
    """Workers of an engine; a task is started where one is idle, and `wait` returns it when it has ended."""

    @property
    def has_idle(self) -> bool: ...

    def start(self, task: Task) -> None: ...

    def wait(self) -> list[Ended]:
        """Wait until something has ended; return it."""

    def close(self, *, finished: bool) -> None:
        """Stop all workers, at once where tasks are not finished."""


def run_tasks(
    tasks: Sequence[Task], *, workers: int | None = None, engine: Engines = "auto", address: str | None = None,
    gpus_per_task: float = 0.0, on_start: Callable[[str], None] = ignore, on_result: Callable[[TaskResult], None],
) -> None:  # fmt: skip
    """Run tasks on workers, each when the tasks before it have ended; of those that are ready, in the order given.

    Where a worker dies, its task starts again on another; with the third worker that it loses, it has failed. Ctrl-C, and a
    SIGTERM that raises as Ctrl-C does, stop all workers and go on; workers whose driver has been killed end themselves.

    Parameters
    ----------
    workers : int, optional
        Tasks at a time, at least 1. By default as many as processors that this process may use, and at most one for each 2 GB of
        free memory; on a cluster, as many as its processors. Where tasks use GPUs, at most as many as these hold.
    engine : str
        ``"processes"`` of this machine; ``"ray"``, at `address` or else on this machine; or ``"auto"``: Ray where there is an
        address, otherwise processes, which start in a tenth of the time.
    address : str, optional
        Of a Ray cluster, as ``ray start`` prints it, or ``"auto"`` for that of this machine; by default RAY_ADDRESS of the
        environment. On its machines neurodeploy is installed and the working folder is at the same path.
    gpus_per_task : float
        GPUs of a task: 0 for none, 0.5 for two tasks on a GPU, or a whole number. A task sees only its own.
    on_start : callable, optional
        Called with the name of a task when it starts.
    on_result : callable
        Called with each result, in the order in which tasks end.

    Raises
    ------
    RequestError
        Names that occur twice, tasks that wait for each other, a call that cannot be sent to a worker, too few GPUs; a Ray that
        is not installed or does not answer.
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
    if not tasks:
        return
    pool, deaths, ready = started_workers(engine, address, workers, gpus_per_task, len(tasks)), Counter[str](), list[int]()
    try:
        while graph.is_active():
            for name in graph.get_ready():
                heappush(ready, order[name])
            while ready and pool.has_idle:
                task = tasks[heappop(ready)]
                if not deaths[task.name]:
                    on_start(task.name)
                pool.start(task)
            for task, outcome in pool.wait():
                deaths[task.name] += isinstance(outcome, WorkerLostError)
                if isinstance(outcome, WorkerLostError) and deaths[task.name] < MAX_DEATHS:
                    heappush(ready, order[task.name])
                    continue
                if isinstance(outcome, str):
                    on_result(TaskResult(task=task.name, value=json.loads(outcome)))
                else:
                    on_result(TaskResult(task=task.name, error=str(outcome)))
                graph.done(task.name)
    finally:
        pool.close(finished=not graph.is_active())


def started_workers(engine: Engines, address: str | None, workers: int | None, gpus_per_task: float, n_tasks: int) -> Workers:
    """Return the workers of an engine; of this machine at most as many as tasks."""
    address = address or os.environ.get("RAY_ADDRESS")
    if engine == "processes" or (engine == "auto" and not address):
        return ProcessWorkers(min(workers or default_workers(), n_tasks), gpus_per_task)
    return RayWorkers(address, workers if address else min(workers or default_workers(), n_tasks), gpus_per_task)


def default_workers() -> int:
    """Return the number of workers of this machine: its processors, as far as free memory goes."""
    return min(usable_processors(), max(1, int(available_memory()[0] // WORKER_BYTES)))


def pickled(what: Any, name: str) -> bytes:
    """Return a call, or what it needs, in bytes that a worker can read."""
    try:
        sent: bytes = cloudpickle.dumps(what)
    except Exception as error:  # whatever the __reduce__ of the user's objects raises
        raise RequestError(
            name, f"cannot be sent to other processes: {said_by(error)}",
            remedy="Put the function that makes the model, or the data, into a file, and name it: 'file.py:factory'.",
        ) from error  # fmt: skip
    return sent


def call_in_worker(sent: bytes) -> str:
    """Call a task that was pickled; return its value as JSON."""
    try:
        return json.dumps(cloudpickle.loads(sent)())
    except BaseException as error:  # sys.exit() of the user's code, too
        raise TaskError(quoted(said_by(error), 2000)) from None


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

    def __init__(self, workers: int, gpus_per_task: float) -> None:
        self.context = get_context("forkserver")
        # torch takes seconds to import: once for all workers
        self.context.set_forkserver_preload(["torch", "neurodeploy.pipeline.task_pool", "neurodeploy.pipeline.compress"])
        gpus = shares_of_gpus(gpus_per_task) if gpus_per_task else [None] * workers
        self.lifeline, self.driver_end = self.context.Pipe(duplex=False)
        self.gpus = gpus[:workers]
        self.executors = [self.executor(one) for one in self.gpus]
        self.idle = list(range(len(self.executors)))
        self.running: dict[Future[str], tuple[Task, int]] = {}
        # Calls go through files: an executor of Python 3.10 hangs where a worker dies before it has read a long one.
        self.calls = TemporaryDirectory(prefix="neurodeploy-")

    def executor(self, gpus: str | None) -> ProcessPoolExecutor:
        """Return an executor of one process, which starts with its first task."""
        return ProcessPoolExecutor(1, self.context, begin_worker, (self.lifeline, gpus))

    @property
    def has_idle(self) -> bool:
        return bool(self.idle)

    def start(self, task: Task) -> None:
        (Path(self.calls.name) / str(self.idle[0])).write_bytes(pickled(task.call, f"task {task.name!r}"))
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

    def wait(self) -> list[Ended]:
        done, _ = wait(self.running, return_when=FIRST_COMPLETED)
        ended: list[Ended] = []
        for future in [one for one in self.running if one in done]:
            task, slot = self.running.pop(future)
            self.idle.append(slot)
            error = future.exception()
            if isinstance(error, BrokenProcessPool):
                self.replace(slot)
                ended.append((task, WorkerLostError(LOST)))
            elif isinstance(error, TaskError):
                ended.append((task, error))
            else:
                ended.append((task, future.result()))
        return ended

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


# ---------------------------------------------------------------------------------------------- Ray


def call_on_ray(sent: bytes, folder: str, paths: Sequence[str]) -> str:
    """Call a task in a worker of Ray: in the driver's working folder, with the modules that the driver finds."""
    os.chdir(folder)
    sys.path += [path for path in paths if path not in sys.path]
    compute_with_one_thread()
    return call_in_worker(sent)


class RayWorkers:
    """Tasks of a Ray cluster, or of a Ray that is started on this machine; at most as many at a time as it has processors."""

    def __init__(self, address: str | None, workers: int | None, gpus_per_task: float) -> None:
        if find_spec("ray") is None:
            raise RequestError("engine", "'ray' is not installed", remedy="Run: pip install ray.")
        self.ray: Any = import_module("ray")
        self.workers, self.gpus_per_task = workers, gpus_per_task
        self.is_ours = not self.ray.is_initialized()
        self.running: dict[Any, Task] = {}
        if self.is_ours:
            self.connect(address)
        if not self.capacity:
            n_gpus = self.ray.cluster_resources().get("GPU", 0.0)
            self.close(finished=True)
            raise RequestError(
                "gpus_per_task", "GPUs of a task", need=gpus_per_task, limit=n_gpus, source="of the Ray cluster",
                remedy="Give fewer, or none: tasks then compute on the CPU.",
            )  # fmt: skip
        # retried by the driver, whatever ended a worker: Ray itself retries without end where memory did
        options = {"max_retries": 0, "num_cpus": 1, "num_gpus": gpus_per_task}
        self.call = self.ray.remote(**options)(call_on_ray)

    def connect(self, address: str | None) -> None:
        """Connect to a cluster, or start a Ray of this machine."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        own: dict[str, Any] = (
            {} if address else {"num_cpus": self.workers, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        )
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self.ray.init(address or "local", log_to_driver=False, configure_logging=False, logging_level="error", **own)
        except (ConnectionError, RuntimeError, ValueError, self.ray.exceptions.RayError) as error:
            raise RequestError(
                "address", f"no Ray cluster answers at {address or 'this machine'}: {said_by(error)}",
                remedy="Start one with `ray start --head` and give the address that it prints; the token of both is the same.",
            ) from error  # fmt: skip
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)  # Ray has its own, which would end this process

    @property
    def capacity(self) -> int:
        """Tasks at a time: asked each time, because a cluster gains and loses machines."""
        has = self.ray.cluster_resources()
        most = has.get("CPU", 1.0)
        if self.gpus_per_task:
            most = min(most, has.get("GPU", 0.0) / self.gpus_per_task)
        return int(min(most, self.workers or most))

    @property
    def has_idle(self) -> bool:
        return len(self.running) < self.capacity

    def start(self, task: Task) -> None:
        self.running[self.call.remote(pickled(task.call, f"task {task.name!r}"), str(Path.cwd()), sys.path)] = task

    def wait(self) -> list[Ended]:
        done, _ = self.ray.wait(list(self.running), num_returns=1)
        ended: list[Ended] = []
        for reference in done:
            task = self.running.pop(reference)
            try:
                ended.append((task, self.ray.get(reference)))
            except self.ray.exceptions.RayTaskError as error:
                cause = error.cause
                ended.append((task, cause if isinstance(cause, TaskError) else TaskError(quoted(said_by(cause), 2000))))
            except self.ray.exceptions.RayError:
                ended.append((task, WorkerLostError(LOST)))
        return ended

    def close(self, *, finished: bool) -> None:
        if not finished and self.running:
            for reference in self.running:
                self.ray.cancel(reference, force=True)
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=10)
        self.running.clear()
        if self.is_ours:
            self.ray.shutdown()
