"""What a training step takes, and how much memory, over plain training of the same network.

``python -m benchmarks.compression.cost --out ROWS.jsonl``: an epoch of compression a process and way, turn by turn, at the budget
where settings are chosen. Images are drawn, as bright as MNIST's.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.compression.methods import METHODS, Start
from benchmarks.compression.plans import TRIED_AT
from benchmarks.compression.runs import chip_of
from benchmarks.compression.tasks import TASKS
from benchmarks.emulator.timing import load
from benchmarks.placement.rows import append, commit
from neurodeploy.budgets.channels import narrow_budget
from neurodeploy.compression import thresholds_of
from neurodeploy.frontends.norse import extract
from neurodeploy.training import Batches, fit

ROUNDS, BATCHES = 3, 120
WAYS = ("plain", "minimax", "gradual", "knapsack", "minimax, distilled")
"""The last beside the forward pass of its teacher, which any method can have."""


def epoch(way: str, task: str, threads: int) -> dict[str, float]:
    """Milliseconds of the processor for a step of an epoch, and the process's peak of memory in MB."""
    torch.set_num_threads(threads)
    kind, name = TASKS[task], way.split(", distilled")[0]
    model, data = kind.make(0), _images(task)
    told = replace(kind.dense, epochs_dense=int(way == "plain"), epochs_compress=1, epochs_finetune=0)
    told = replace(told, distill=0.7 if "distilled" in way else 0.0)
    run = partial(fit, model, None, data) if way == "plain" else _pressed(model, task, name, data)
    if way != "plain":
        told = replace(told, mask_interval=METHODS[name].patience * told.mask_interval, **METHODS[name].options)
    marks: list[float] = []
    started = time.process_time()
    run(told, progress=lambda _: marks.append(time.process_time()))
    steps = [after - before for before, after in zip([started, *marks], marks, strict=False)]
    return {
        "step_ms": 1e3 * (marks[-1] - marks[0]) / (len(marks) - 1), "typical_ms": 1e3 * median(steps),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }  # fmt: skip


def _pressed(model: torch.nn.Module, task: str, name: str, data: Batches) -> Callable[..., Any]:
    network = extract(model, torch.zeros(1, *TASKS[task].input_shape))
    method = METHODS[name]
    width = None if method.chooses_widths else 4
    profile, cores = chip_of(TRIED_AT[task], width, network.n_synapses)
    budget = narrow_budget(network, profile, cores=cores, bits=width or 8)
    pruning = method.make(budget, model, Start(width=width, thresholds=thresholds_of(network, model), early=model))
    return partial(fit, model, budget, data, method=lambda *_: pruning)


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
