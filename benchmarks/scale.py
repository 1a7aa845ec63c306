"""Networks of millions of neurons, each inspected by the command line under a limit on memory; and long-lived processes.

``python -m benchmarks.scale --neurons 1e6 1e7 1e8 --limit 4 --out benchmarks/results/trust.jsonl`` adds a row for each network
and chip: the exit code, the answer's first line, seconds, and the peak of memory. ``python -m benchmarks.scale --leaks 10000``
adds one for each function: what a process holds after some calls, and after the last.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import neurodeploy as nd
from benchmarks.placement.rows import append
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.network import Sparse

DYNAMICS = {"current_decay": np.array(0.5), "voltage_decay": np.array(0.5), "rest": np.array(0.0)}
CHIPS = ("loihi2", "loihi1", "hala_point", "tiny")
LIMIT_S = 900


def layer(name: str, shape: tuple[int, ...], source: str, synapse: Any) -> nd.Layer:
    """A layer of equal neurons with one connection."""
    neuron, connections = nd.LIF(threshold=np.array(1.0), **DYNAMICS), (nd.Connection(source=source, synapse=synapse),)
    return nd.Layer(name=name, shape=shape, neuron=neuron, bias=np.array(0.0), connections=connections)


def image(n: int) -> nd.Network:
    """A convolution of 16 channels on a square image, and one of stride 16 onto a single channel."""
    draw, side = np.random.default_rng(0), round(math.sqrt(n / 16))
    first = nd.Conv(weight=draw.normal(size=(16, 1, 3, 3)), input_shape=(1, side, side), padding=(1, 1))
    second = nd.Conv(weight=draw.normal(size=(1, 16, 16, 16)), input_shape=first.output_shape, stride=(16, 16))
    layers = layer("image", first.output_shape, nd.INPUT, first), layer("small", second.output_shape, "image", second)
    return nd.Network(input_shape=(1, side, side), layers=layers, timestep_s=0.001)


def matrix(n: int) -> nd.Network:
    """One input onto n neurons, each by a weight of its own."""
    weight = np.random.default_rng(0).normal(size=(n, 1))
    return nd.Network(input_shape=(1,), layers=(layer("wide", (n,), nd.INPUT, nd.Dense(weight=weight)),), timestep_s=0.001)


def fan_in(n: int) -> nd.Network:
    """N inputs onto one neuron."""
    weight = np.random.default_rng(0).normal(size=(1, n))
    return nd.Network(input_shape=(n,), layers=(layer("sum", (1,), nd.INPUT, nd.Dense(weight=weight)),), timestep_s=0.001)


def listed(n: int) -> nd.Network:
    """Every input onto a neuron of its own, as a list of synapses."""
    synapse = Sparse(n_in=n, starts=np.arange(n + 1), sources=np.arange(n, dtype=np.int32), weight=np.ones(n))
    return nd.Network(input_shape=(n,), layers=(layer("listed", (n,), nd.INPUT, synapse),), timestep_s=0.001)


NETWORKS: dict[str, Callable[[int], nd.Network]] = {"image": image, "matrix": matrix, "fan_in": fan_in, "listed": listed}
KINDS = ("torch", "net", "nir", *NETWORKS)
"""Of files, the network is `image`; the others are given to `inspect` as they are."""


def torch_image() -> Any:
    """The same as `image` in torch and Norse, of as many neurons as the environment says."""
    import torch
    from norse.torch import LICell, LIFCell, SequentialState

    side = round(math.sqrt(float(os.environ["SCALE_NEURONS"]) / 16))
    first, second = torch.nn.Conv2d(1, 16, 3, padding=1, bias=False), torch.nn.Conv2d(16, 1, 16, stride=16, bias=False)
    return SequentialState(first, LIFCell(), second, LICell()), torch.zeros(1, 1, side, side)


def inspect_once(kind: str, n: int, chip: str) -> int:
    """Inspect a network that has no file, as the command would; return its exit code."""
    from neurodeploy.errors import NeurodeployError

    try:
        seen = nd.inspect(NETWORKS[kind](n), load_profile(chip))
    except (NeurodeployError, MemoryError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print(f"{'Fits' if seen.placement.fits else 'Does not fit'}: {seen.placement.cores_used:,} cores")
    return 0 if seen.placement.fits else 1


def measured(kind: str, n: int, chip: str, limit_gb: float, folder: Path) -> dict[str, Any]:
    """Inspect a network in a child with a limit on its data, and return what it answered and took."""
    environment = os.environ | {"SCALE_NEURONS": str(n), "OMP_NUM_THREADS": "1"}
    command = ["neurodeploy", "inspect", *({"torch": f"{__file__}:torch_image"}.get(kind, f"m{n}.{kind}"),), "--target", chip]
    if kind in NETWORKS:
        command = ["benchmarks.scale", "--once", kind, str(n), chip]
    # A prefix of its own: rusage of children is the largest of all that have ended.
    limit = f"import resource as r; r.setrlimit(r.RLIMIT_DATA, ({int(limit_gb * 1e9)},) * 2); "
    run = f"import sys, runpy; sys.argv = {command!r}; runpy.run_module({command[0]!r}, run_name='__main__', alter_sys=True)"
    began, cut = time.monotonic(), False
    root = str(Path(__file__).parents[1])
    child = subprocess.Popen(
        [sys.executable, "-c", limit + run], cwd=folder, env=environment | {"PYTHONPATH": root}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        said, _ = child.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        (said, _), cut = child.communicate(), True
    lines, wall_s = [line for line in said.splitlines() if line.strip()], round(time.monotonic() - began, 1)
    code = None if cut else child.returncode
    return {"exit": code, "lines": len(lines), "said": (lines or [""])[0][:400], "wall_s": wall_s}


def children_seconds_and_peak() -> tuple[float, float]:
    """Processor seconds of all children that have ended, and the largest peak of memory of one, in GB."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6


def row_of(kind: str, n: int, chip: str, limit_gb: float, out: Path | None) -> None:
    """Measure a network in a process of its own, whose children are this one alone, and add its row."""
    with tempfile.TemporaryDirectory() as name:
        if kind == "net":
            nd.write_netx(nd.quantize(image(n), load_profile("loihi2")), Path(name) / f"m{n}.net")
        if kind == "nir":
            nd.write_nir(image(n), Path(name) / f"m{n}.nir")
        before, _ = children_seconds_and_peak()
        found = measured(kind, n, chip, limit_gb, Path(name))
        seconds, peak = children_seconds_and_peak()
    append({"table": "scale", "kind": kind, "neurons": n, "chip": chip, "limit_gb": limit_gb, **found,
            "processor_s": round(seconds - before, 1), "peak_gb": round(peak, 2)}, out)  # fmt: skip


def held() -> dict[str, int]:
    """Memory in kB, open files and children of this process."""
    gc.collect()
    kilobytes = int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize() // 1024
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split()
    return {"rss_kb": kilobytes, "files": len(os.listdir("/proc/self/fd")), "children": len(children)}  # noqa: PTH208  # their number alone


def leaks(calls: int, out: Path | None) -> None:
    """Call `simulate` many times, and slower functions fewer times; add a row of what is held after some and after all."""
    network, profile = startup_network(), load_profile("loihi2")
    quantized, spikes = nd.quantize(network, profile), (np.random.default_rng(0).random((20, 8)) < 0.3).astype(np.uint8)
    tried: dict[str, tuple[Callable[[], object], int]] = {
        "simulate": (lambda: nd.simulate(quantized, spikes), calls),
        "quantize and simulate": (lambda: nd.simulate(nd.quantize(network, profile), spikes), calls // 5),
        "inspect": (lambda: nd.inspect(network, profile), calls // 20),
        "verify in Lava": (lambda: nd.verify(quantized, n_steps=4, n_samples=1), calls // 500),
    }
    for name, (call, times) in tried.items():
        marks, after = sorted({max(times // 100, 1), times // 10, times // 2, times} - {0}), dict[str, dict[str, int]]()
        for n in range(1, times + 1):
            call()
            if n in marks:
                after[str(n)] = held()
        append({"table": "leaks", "call": name, "calls": times, "after": after}, out)


def startup_network() -> nd.Network:
    """20 inputs onto 10 neurons."""
    weight = np.random.default_rng(0).normal(size=(10, 20))
    return nd.Network(input_shape=(20,), layers=(layer("a", (10,), nd.INPUT, nd.Dense(weight=weight)),), timestep_s=0.001)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Inspect networks of millions of neurons; call functions thousands of times")
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--chips", nargs="*", default=CHIPS)
    parser.add_argument("--neurons", nargs="*", type=float, default=[1e6, 1e7, 1e8])
    parser.add_argument("--limit", type=float, default=4.0, help="GB of data that a process may have")
    parser.add_argument("--leaks", type=int, default=0, help="calls of simulate; others fewer")
    parser.add_argument("--once", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    asked = parser.parse_args()
    if asked.once:
        return inspect_once(asked.once[0], int(asked.once[1]), asked.once[2])
    if asked.leaks:
        leaks(asked.leaks, asked.out)
        return 0
    for kind in asked.kinds:
        for n in asked.neurons:
            for chip in asked.chips:
                if len(asked.kinds) * len(asked.neurons) * len(asked.chips) == 1:
                    row_of(kind, int(n), chip, asked.limit, asked.out)
                    continue
                one = ["--kinds", kind, "--neurons", str(n), "--chips", chip, "--limit", str(asked.limit)]
                options = [*one, *(["--out", str(asked.out)] if asked.out else [])]
                subprocess.run([sys.executable, "-m", "benchmarks.scale", *options], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
