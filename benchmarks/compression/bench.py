"""Runs of a table on the worker pool of sweeps; each row is written when it is finished."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.compression.runs import Place, Run, compress, train_dense
from benchmarks.placement.rows import append, rows
from neurodeploy.pipeline.task_pool import Task, TaskResult, run_tasks


def make(runs: Sequence[Run], place: Place, *, out: Path, commit: str, jobs: int, until: float) -> None:
    """Compute the rows that a file lacks, dense networks first, and append them; a failure does not stop the others.

    Parameters
    ----------
    jobs : int
        Runs in parallel, one thread each.
    until : float
        Time, as `time.time` has it, after which no further run starts.
    """
    have = rows(out)
    left = [run for run in runs if not any(all(row.get(key) == value for key, value in run.name.items()) for row in have)]
    names = {run: json.dumps(run.name) for run in left}
    dense = tuple(name for run, name in names.items() if run.method == "dense")
    tasks = [
        Task(name=name, call=partial(row_of, run, place, until), after=() if name in dense else dense)
        for run, name in names.items()
    ]

    def tell(result: TaskResult) -> None:
        if result.error is not None:
            print(f"{result.task}: {result.error}", flush=True)
        elif result.value is not None:
            append(result.value | {"commit": commit}, out)

    run_tasks(tasks, workers=jobs, engine="processes", on_result=tell)


def row_of(run: Run, place: Place, until: float) -> dict[str, Any] | None:
    """Return the row of a run; None where it is too late to start."""
    if time.time() > until:
        return None
    return (train_dense if run.method == "dense" else compress)(run, place)
