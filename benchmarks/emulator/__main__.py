"""Runs the sections and tells their rows."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.emulator import cases, growth, rivals, timing
from benchmarks.placement.rows import append
from neurodeploy.targets.loihi.emulator import Prepared

LAVA = (  # a case, how many stretches of how many steps Lava is timed on, and the aim
    (lambda: cases.mnist_of_lava(1, 400), 5, 400, 20), (lambda: cases.mnist_of_lava(256, 20), 5, 400, 200),
    (lambda: cases.pilotnet(1, 20), 4, 8, 200), (lambda: cases.pilotnet(16, 20), 4, 8, 200),
    (lambda: cases.ntidigits(64, 100), 4, 30, 300),
)  # fmt: skip
Tell = Callable[[dict[str, Any]], None]


def lava(threads: int, tell: Tell) -> None:
    """Steps a second of all samples together, over Lava's of one sample; before and after it, in one run.

    The ratio is of the best of both: what else runs on a machine only adds to either. Medians are told beside it.
    """
    machine = timing.Machine(threads)
    for make, stretches, steps, aim in LAVA:
        case = make()
        spikes = rivals.equal_to_lava(case)
        prepared, n = Prepared(case.network), case.batch * case.spikes.shape[-1]
        before = timing.seconds(prepared, case.spikes, threads=threads, repeats=10)
        theirs = rivals.lava_ms(case, stretches, steps)
        after = timing.seconds(prepared, case.spikes, threads=threads, repeats=10)
        ours = 1e3 * min(before + after) / n
        tell({
            "table": "lava", "net": case.name, "batch": case.batch, "steps": case.spikes.shape[-1], "threads": threads,
            "equal_samples": len(case.checked), "equal_steps": case.checked.shape[-1], "equal_spikes": spikes,
            "emulator_ms": ours, "lava_ms": min(theirs), "ratio": min(theirs) / ours, "aim": aim,
            "ratio_of_medians": statistics.median(theirs) * n / 1e3 / statistics.median(before + after),
            **machine.shares(case.network, ours / 1e3),
            **timing.profile(prepared, case.spikes), "kernels": kernels_in_use(prepared), "load": timing.load(),
        })  # fmt: skip


def norse(threads: int, tell: Tell) -> None:
    """The emulator's time over that of a Norse module of the same shape in eval mode, turn by turn; the best of each."""
    torch.set_num_threads(threads)
    for case in (cases.mnist_of_lava(1, 200), cases.mnist_of_lava(256, 20), cases.pilotnet(1, 20), cases.pilotnet(16, 20)):
        prepared, ours, theirs = Prepared(case.network), [], []
        run = rivals.norse_run(case.network, case.spikes)
        run()
        for _ in range(5):
            ours += timing.seconds(prepared, case.spikes, threads=threads, repeats=1)
            theirs.append(run())
        tell({
            "table": "norse", "net": case.name, "batch": case.batch, "steps": case.spikes.shape[-1], "threads": threads,
            "emulator_s": min(ours), "norse_s": min(theirs),
            "ratio": min(ours) / min(theirs), "aim": 2, "load": timing.load(),
        })  # fmt: skip


def pruned(threads: int, tell: Tell) -> None:
    """Times as fast as the same network, pruned, by matrix products; the kernels in turn."""
    spikes, machine = cases.drawn_spikes((1024, 784, 20), cases.MNIST_RATE), timing.Machine(threads)
    for connectivity in (0.05, 0.01):
        network = cases.chain((784, 800, 10), connectivity=connectivity)
        runs = {kernel or "measured": Prepared(network, kernel=kernel) for kernel in ("gemm", "row_gather", "csc", "csr", None)}
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(5):
            for name, prepared in runs.items():
                taken[name] += timing.seconds(prepared, spikes, threads=threads, repeats=1)
        best = {name: min(values) for name, values in taken.items()}
        tell({
            "table": "pruned", "connectivity": connectivity, "batch": 1024, "steps": 20, "threads": threads,
            **{f"{name}_s": round(value, 4) for name, value in best.items()}, "kernels": kernels_in_use(runs["measured"]),
            "ratio": best["gemm"] / best["measured"], "aim": 3,
            **machine.shares(network, best["measured"] / 1024 / 20),
            **timing.profile(runs["measured"], spikes), "load": timing.load(),
        })  # fmt: skip


def grow(threads: int, tell: Tell) -> None:
    """Time and memory at each point."""
    for kind, size in growth.POINTS:
        tell({"table": "growth", "threads": threads, **growth.point(kind, size, threads), "load": timing.load()})


def mnist(threads: int, tell: Tell, path: Path) -> None:
    """All test images through 784-800-10, trained for a moment, in 20 steps."""
    from benchmarks.mnist import network as model_of
    from neurodeploy import FitOptions, evaluate, extract, fit, load_data, load_profile, quantize
    from neurodeploy.training.batches import Batches

    torch.set_num_threads(threads)
    data, model = load_data(f"mnist:{path}", batch_size=128), model_of(0)
    options = FitOptions(epochs_dense=1, n_steps=8, readout="mean", learning_rate=3e-3)
    model, _ = fit(model, None, data.train.part(range(20_000)), options)
    network = quantize(extract(model, torch.zeros(1, 784)), load_profile("loihi2"))
    images = Batches(data.test.inputs, data.test.targets, 1000)
    found = evaluate(network, images, FitOptions(n_steps=20, readout="mean"))
    tell({
        "table": "mnist", "threads": threads, "samples": found.n_samples, "steps": found.n_steps, "seconds": found.seconds,
        "accuracy": found.classification_accuracy, "latency_steps": found.latency_steps, "rates": found.rates,
        "effective_acs": found.synaptic_operations["Effective_ACs"], "load": timing.load(),
    })  # fmt: skip


def kernels_in_use(prepared: Prepared) -> str:
    """Kernels of the connections in order, equal ones in a row written once."""
    names = [str(name) for name in prepared.kernels.values()]
    return " ".join(name for k, name in enumerate(names) if k == 0 or name != names[k - 1])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="How fast the emulator is")
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    parser.add_argument("--mnist", type=Path, help="x_train, y_train, x_test and y_test of MNIST in an .npz file")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", choices=["lava", "norse", "pruned", "growth", "mnist"])
    arguments = parser.parse_args()
    sections = {"lava": lava, "norse": norse, "pruned": pruned, "growth": grow}

    def tell(row: dict[str, Any]) -> None:
        append({key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}, arguments.out)

    np.seterr(all="raise")
    for name, section in sections.items():
        if arguments.only in (None, name):
            section(arguments.threads, tell)
    if arguments.mnist is not None and arguments.only in (None, "mnist"):
        mnist(arguments.threads, tell, arguments.mnist)


main()
