"""What the emulator takes, where it goes, and what this machine could do."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.simulation.kernel_dispatch import KernelDispatch
from neurodeploy.targets.loihi.emulator import Emulator, Prepared
from neurodeploy.targets.loihi.neuron_step import IntegerNeurons

BYTES_A_NEURON = 4 * 4 + 3 * 4 + 2
"""Read or written for a neuron and step at least: u and v both ways, what arrives (cleared, added, read), its spike both ways."""


def seconds(prepared: Prepared, spikes: NDArray[np.uint8], *, threads: int, repeats: int = 5) -> list[float]:
    """Of runs from rest with the output recorded, after one that is not counted."""
    taken = []
    for _ in range(repeats + 1):
        emulator = Emulator(prepared, n_samples=len(spikes), threads=threads)
        started = time.perf_counter()
        emulator.advance(spikes)
        taken.append(time.perf_counter() - started)
    return taken[1:]


@contextmanager
def watched(spent: dict[str, float]) -> Iterator[None]:
    """Seconds in synapses and in neurons, while this lasts; for runs on one thread."""

    def timed(name: str, method: Any) -> Any:
        def call(*arguments: Any) -> None:
            started = time.perf_counter()
            method(*arguments)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - started

        return call

    neurons: Any = IntegerNeurons
    before = KernelDispatch.add, neurons.step
    KernelDispatch.add, neurons.step = timed("synapses", KernelDispatch.add), timed("neurons", neurons.step)  # type: ignore[method-assign]  # replaced while it is timed
    try:
        yield
    finally:
        KernelDispatch.add, neurons.step = before  # type: ignore[method-assign]  # the original methods again


def profile(prepared: Prepared, spikes: NDArray[np.uint8]) -> dict[str, float]:
    """Shares of a run on one thread: synapses, neurons, and the rest (input turned, output recorded, Python)."""
    spent: dict[str, float] = {}
    with watched(spent):
        started = time.perf_counter()
        seconds(prepared, spikes, threads=1, repeats=3)
        whole = time.perf_counter() - started
    shares = {name: value / whole for name, value in spent.items()}
    return {f"share_{name}": round(share, 2) for name, share in (shares | {"rest": 1 - sum(shares.values())}).items()}


class Machine:
    """Speeds of this machine on so many threads, measured when asked for."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        torch.set_num_threads(threads)

    def matmul_flops(self) -> float:
        """Operations a second of torch's product of 2048 x 2048 floats of 32 bits; the best of five."""
        a = torch.rand(2048, 2048)
        return 2 * 2048**3 / _best(lambda: a @ a)

    def bytes_per_s(self) -> float:
        """Read and written a second in adding up two vectors of 256 MB (torch)."""
        a, b = torch.rand(1 << 26), torch.rand(1 << 26)
        out = torch.empty_like(a)
        return 3 * a.numel() * 4 / _best(lambda: torch.add(a, b, out=out))

    def shares(self, network: QuantizedNetwork, per_step_s: float) -> dict[str, float]:
        """Of the matrix product's speed, were no zero left out; and of memory's, were each number touched once."""
        flops = 2 * sum(layer.n_pairs for layer in network)
        return {
            "of_matmul": round(flops / per_step_s / self.matmul_flops(), 3),
            "of_memory": round(network.n_neurons * BYTES_A_NEURON / per_step_s / self.bytes_per_s(), 3),
        }


def _best(run: Any) -> float:
    taken = []
    for _ in range(9):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def load() -> float:
    """What else the machine is doing: processes that were ready to run, over the last minute."""
    return round(os.getloadavg()[0], 1)
