"""Time of a training step: of the extracted network, plain and under a budget, relative to the module with Norse's own cells.

``python -m benchmarks.training --out ROWS.jsonl``: steps of the same batch in one process, turn by turn. Times are of the
processor, so other processes on the machine add little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from norse.torch import LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState

from benchmarks.emulator.timing import load
from benchmarks.mnist import network
from benchmarks.placement.rows import append
from neurodeploy.compression import method_named
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.pruning_method import Pruning, PruningSetup
from neurodeploy.hardware.loading import load_profile
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.training.distributed import Learner
from neurodeploy.training.encoders import spikes_of
from neurodeploy.training.forward import run_model
from neurodeploy.training.options import FitOptions

ROUNDS = 5
BRIGHT = 0.19
"""Share of an MNIST image's pixels that are not black."""
MEMORY, SHARE = "synapse_memory_bits_per_core", 4
"""The budget: the cores that a network takes on Loihi 1, each with an n-th of its synapse memory."""


def lif() -> LIFCell:
    """Neurons of 1 ms and 1.4 ms, for steps of 1 ms."""
    return LIFCell(LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.3)))


def convolutional(*, normalized: bool) -> SequentialState:
    """28 x 28 - 16C5 - 32C3 - 10 with strides of 2; batch normalisation before neurons where asked for."""
    first, second = torch.nn.Conv2d(1, 16, 5, stride=2, bias=False), torch.nn.Conv2d(16, 32, 3, stride=2, bias=False)
    if normalized:
        layers = [first, torch.nn.BatchNorm2d(16), lif(), second, torch.nn.BatchNorm2d(32), lif()]
    else:
        layers = [first, lif(), second, lif()]
    return SequentialState(*layers, torch.nn.Flatten(), torch.nn.Linear(32 * 5 * 5, 10, bias=False), LICell())


class Residual(torch.nn.Module):
    """An image - a convolution - a block of two 3 x 3 convolutions with a skip of spikes - 10; by default 28 x 28 - 16C5."""

    def __init__(self, first: torch.nn.Conv2d | None = None, n_pixels: int = 12 * 12) -> None:
        super().__init__()
        self.first = first or torch.nn.Conv2d(1, 16, 5, stride=2, bias=False)
        n = self.first.out_channels
        self.inner = torch.nn.ModuleList(torch.nn.Conv2d(n, n, 3, padding=1, bias=False) for _ in range(2))
        self.cells = torch.nn.ModuleList(lif() for _ in range(3))
        self.last, self.readout = torch.nn.Linear(n * n_pixels, 10, bias=False), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        a, b, c, d = state or (None,) * 4
        skip, a = self.cells[0](self.first(x), a)
        inside, b = self.cells[1](self.inner[0](skip), b)
        inside, c = self.cells[2](self.inner[1](inside), c)
        out, d = self.readout(self.last((inside + skip).flatten(1)), d)
        return out, (a, b, c, d)


def recurrent() -> SequentialState:
    """Two recurrent layers of 128 for 700 channels, as for spoken digits."""
    fast = lif().p
    return SequentialState(
        LIFRecurrentCell(700, 128, p=fast, autapses=True), LIFRecurrentCell(128, 128, p=fast, autapses=True),
        torch.nn.Linear(128, 20, bias=False), LICell(),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], int, int]] = {
    "784-800-10": (lambda: network(0), (784,), 256, 6),
    "28x28-16C5-32C3-10": (lambda: convolutional(normalized=False), (1, 28, 28), 256, 6),
    "the same, BatchNorm": (lambda: convolutional(normalized=True), (1, 28, 28), 256, 6),
    "residual, 16C5-(16C3-16C3)-10": (Residual, (1, 28, 28), 256, 6),
    "recurrent, 700-128-128-20": (recurrent, (700,), 64, 50),
}
"""Factory, shape of an input, samples in a batch, and steps."""


class StepByStep(torch.nn.Module):
    """A chain as its user would run it: Norse's own loop over layers, step by step."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor, state: Any) -> Any:
        return self.model(x, state)


def cycles(
    make: Callable[[], torch.nn.Module], shape: tuple[int, ...], batch: int, n_steps: int
) -> dict[str, Callable[[], None]]:
    """Functions that take as many training steps as lie between two selections, by what they train."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, *shape, generator=generator)
    images *= torch.rand(batch, *shape, generator=generator) < BRIGHT
    target = torch.randint(0, 10, (batch,), generator=generator)
    options = FitOptions(n_steps=n_steps)

    def cycle(model: torch.nn.Module, pruning: Pruning | None = None) -> Callable[[], None]:
        learner = Learner(model=model, options=options, pruning=pruning)
        optimizer = options.optimizer([p for p in model.parameters() if p.requires_grad], 1e-4)

        def run() -> None:
            if pruning is not None:
                pruning.choose(1.0)
            for _ in range(options.mask_interval):
                learner.learn(images, target, optimizer, "benchmark")
                if pruning is not None:
                    pruning.after_step("compress", 1e-4)

        return run

    torch.manual_seed(0)
    module, sample = make(), torch.zeros(1, *shape)
    plain, pruned = trainable(module, sample), trainable(module, sample)
    whole = load_profile("loihi1")
    cores = len(narrow_budget(plain.network, whole).by_core())
    memory = whole[MEMORY]
    tight = replace(whole, limits={**whole.limits, MEMORY: replace(memory, value=memory.number // SHARE)})
    pruning = method_named("minimax")(narrow_budget(plain.network, tight, cores=cores), pruned, PruningSetup())
    # what is timed computes the same
    spikes = spikes_of(images, plain, options)
    with torch.no_grad():
        norse, graph = run_model(StepByStep(module).eval(), spikes), run_model(trainable(module.eval(), sample), spikes)
    torch.testing.assert_close(graph, norse, rtol=1e-3, atol=1e-3)
    module.train()
    return {"norse": cycle(StepByStep(module)), "graph": cycle(plain), "budget": cycle(pruned, pruning)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Time of a training step")
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        ways = cycles(*NETWORKS[name])
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, run in ways.items():
                started = time.process_time()
                run()
                taken[way].append((time.process_time() - started) / FitOptions().mask_interval)
        row = {"table": "step", "net": name, "batch": NETWORKS[name][2], "steps": NETWORKS[name][3], "threads": arguments.threads}
        best, middle = ({way: 1e3 * of(seconds) for way, seconds in taken.items()} for of in (min, statistics.median))
        row |= {f"{way}_ms": round(milliseconds, 2) for way, milliseconds in best.items()}
        for suffix, figures in (("", best), ("_of_medians", middle)):
            row[f"graph_over_norse{suffix}"] = round(figures["graph"] / figures["norse"], 3)
            row[f"budget_over_graph{suffix}"] = round(figures["budget"] / figures["graph"], 3)
        append(row | {"load": load()}, arguments.out)


if __name__ == "__main__":
    main()
