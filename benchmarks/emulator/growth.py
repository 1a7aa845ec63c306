"""How time and memory grow with steps, batch, neurons and synapses: each point a process of its own, which tells a line of JSON.

python -m benchmarks.emulator.growth KIND SIZE THREADS
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.emulator.cases import MNIST_RATE, chain, drawn_spikes, listed
from neurodeploy.targets.loihi.emulator import Emulator, Prepared

POINTS = (
    *(("steps", n) for n in (100, 1000, 10_000, 100_000)),
    *(("batch", n) for n in (1, 16, 256, 1024)),
    *(("neurons", n) for n in (1000, 10_000, 100_000, 1_000_000)),
)
"""Steps and batch: 784-800-10. Neurons: ten layers in a row, 100 synapses onto each; 1 in 100 inputs fires."""
STRETCH = 100
"""Steps that the emulator is given at a time: records do not pile up."""


def point(kind: str, size: int, threads: int) -> dict[str, Any]:
    """The row of a point, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.emulator.growth", kind, str(size), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def memory_mb() -> int:
    """The most that this process had; `resource` tells what its parent had, where that is more."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def main(kind: str, size: int, threads: int) -> None:
    """Measure a point and tell it."""
    started = time.perf_counter()
    if kind == "neurons":
        network, batch, n_steps = listed(10, size // 10, min(100, size // 20)), 1, 20
        spikes = drawn_spikes((batch, size // 10, n_steps), 0.01)
    else:
        network, batch = chain((784, 800, 10)), size if kind == "batch" else 1
        n_steps = size if kind == "steps" else 20
        spikes = drawn_spikes((batch, 784, min(n_steps, STRETCH)), MNIST_RATE)
    built_s, started = time.perf_counter() - started, time.perf_counter()
    prepared = Prepared(network)
    Emulator(prepared, n_samples=batch, threads=threads).advance(spikes)
    first_s = time.perf_counter() - started
    taken = []
    for _ in range(3):
        emulator = Emulator(prepared, n_samples=batch, threads=threads)
        started = time.perf_counter()
        for _ in range(max(1, n_steps // STRETCH)):
            record = emulator.advance(spikes)
        taken.append(time.perf_counter() - started)
    n = batch * n_steps
    fired = sum(int(counts.sum()) for counts in record.counts.values())
    print(json.dumps({
        "kind": kind, "size": size, "neurons": network.n_neurons, "synapses": network.n_synapses,
        "batch": batch, "steps": n_steps,
        "build_s": round(built_s, 2), "prepare_and_first_run_s": round(first_s, 2), "seconds": round(statistics.median(taken), 4),
        "us_per_sample_step": round(1e6 * statistics.median(taken) / n, 2), "rate": round(fired / network.n_neurons / n, 4),
        "memory_mb": memory_mb(),
    }))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
