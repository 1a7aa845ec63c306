"""Parallel runs; each row is written when it is finished."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from benchmarks.compression.runs import Place, Run, compress, train_dense
from benchmarks.placement.rows import append, rows


class Bench:
    """Pool of processes that compute the rows that a file lacks and append them.

    Parameters
    ----------
    jobs : int
        Runs in parallel, one thread each.
    minutes : float
        Time after which no further run starts.
    """

    def __init__(self, jobs: int, place: Place, out: Path, commit: str, minutes: float) -> None:
        self.place, self.out, self.commit, self.until = place, out, commit, time.time() + minutes * 60
        self.pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.pool.shutdown(cancel_futures=True)

    def make(self, runs: Sequence[Run]) -> None:
        """Compute the runs; a failure is reported and does not stop the others."""
        have = rows(self.out)
        left = [run for run in runs if not any(all(row.get(key) == value for key, value in run.name.items()) for row in have)]
        waiting = {self.pool.submit(_row, run, self.place, self.until): run for run in left}
        for done in as_completed(waiting):
            error = done.exception()
            if error is not None:
                print(f"{waiting[done]}: {type(error).__name__}: {error}", flush=True)
            elif (row := done.result()) is not None:
                append(row | {"commit": self.commit}, self.out)


def _row(run: Run, place: Place, until: float) -> dict[str, Any] | None:
    if time.time() > until:
        return None
    return (train_dense if run.method == "dense" else compress)(run, place)


def _one_thread() -> None:
    torch.set_num_threads(1)
