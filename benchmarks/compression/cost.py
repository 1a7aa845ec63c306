"""Time and memory of a training step under compression, relative to plain training of the same network.

``python -m benchmarks.compression.cost --out ROWS.jsonl``: an epoch of compression a process and way, turn by turn, at the budget
where settings are chosen. Images are drawn, as bright as MNIST's.
"""

from __future__ import annotations

import argparse
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.compression.methods import METHODS
from benchmarks.compression.plans import TRIED_AT
from benchmarks.compression.runs import Run, begun, options_of
from benchmarks.compression.tasks import TASKS
from benchmarks.emulator.timing import load
from benchmarks.placement.rows import append, commit
from neurodeploy.compression.module_weights import trainable
from neurodeploy.training.batches import Batches
from neurodeploy.training.fit import fit

ROUNDS, BATCHES = 3, 120
WAYS = ("plain", "minimax", "gradual", "knapsack", "minimax, distilled")
"""The last one includes the forward pass of its teacher, which any method can have."""


def epoch(way: str, task: str, threads: int) -> dict[str, float]:
    """Milliseconds of the processor for a step of an epoch, and the process's peak of memory in MB."""
    torch.set_num_threads(threads)
    kind, data = TASKS[task], _images(task)
    model, marks = kind.make(0), list[float]()
    told: dict[str, Any] = {"progress": lambda _: marks.append(time.process_time())}
    if way == "plain":
        fit(model, None, data, replace(kind.dense, epochs_dense=1), **told)
    else:
        name = way.split(", distilled")[0]
        run = Run(
            table="cost", task=task, method=name, budget=TRIED_AT[task], seed=0,
            width=None if METHODS[name].chooses_widths else 4, distill=0.7 if "distilled" in way else 0.0, epochs=(1, 0),
        )  # fmt: skip
        network = trainable(model, torch.zeros(1, *kind.input_shape))
        _, budget, make = begun(run, network, network)
        pruning = make()
        fit(network, budget, data, options_of(run), method=lambda *_: pruning, **told)
    return {
        "step_ms": 1e3 * (marks[-1] - marks[0]) / (len(marks) - 1),
        "typical_ms": 1e3 * median(after - before for before, after in pairwise(marks)),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _images(task: str) -> Batches:
    """As bright as MNIST's: a fifth of the pixels is not black."""
    generator, n = torch.Generator().manual_seed(0), BATCHES * TASKS[task].batch
    images = torch.rand(n, 1, 28, 28, generator=generator)
    images *= torch.rand(n, 1, 28, 28, generator=generator) < 0.19
    return Batches(images, torch.randint(0, 10, (n,), generator=generator), TASKS[task].batch)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a step of compression takes over one of plain training")
    parser.add_argument("--out", type=Path, required=True, help="a file to which rows are added")
    parser.add_argument("--task", default="mnist-2fc", choices=[name for name in TASKS if name.startswith("mnist")])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way in WAYS:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                taken[way].append(alone.submit(epoch, way, asked.task, asked.threads).result())
    best = {way: {name: min(one[name] for one in some) for name in some[0]} for way, some in taken.items()}
    for way in WAYS:
        over = {f"{name}_over_plain": round(value / best["plain"][name], 3) for name, value in best[way].items()}
        row = {name: round(value, 2) for name, value in best[way].items()} | over
        append({"table": "cost", "task": asked.task, "method": way, **row, "load": load(), "commit": commit()}, asked.out)


if __name__ == "__main__":
    main()
