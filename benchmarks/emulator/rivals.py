"""Who else runs these networks: Lava's simulator in a process of its own, and the float model in Norse."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import torch
from norse.torch import LIFCell, SequentialState
from numpy.typing import NDArray

from benchmarks.emulator import cases
from benchmarks.emulator.cases import Case
from neurodeploy.ir.quantized import QuantizedConv, QuantizedLayer, QuantizedNetwork
from neurodeploy.simulation.records import compare
from neurodeploy.targets.loihi.netx_io import write_netx
from neurodeploy.targets.simulate import simulate

ENDS: tuple[Literal["emulator"], Literal["lava"]] = ("emulator", "lava")


def equal_to_lava(case: Case) -> int:
    """Spikes of all layers in what was compared; ends the benchmark where anything differs."""
    ours, lava = (simulate(case.network, case.checked, record="all", end=end) for end in ENDS)
    comparison = compare(ours, lava)
    if not comparison.equal:
        raise SystemExit(f"{case.name}: {comparison.first}")
    return sum(int(fired.sum()) for fired in ours.spikes.values())


def lava_ms(case: Case, stretches: int, steps: int) -> list[float]:
    """Milliseconds a step of one sample, a stretch each, after Lava has started and warmed up."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        own = case.file is None  # what we write begins with a layer that only tells the shape of the input
        path = write_netx(case.network, folder / "model.net") if own else cases.without_last_layer(str(case.file), 5, folder)
        np.save(folder / "spikes.npy", case.spikes[0])
        numbers = [str(n) for n in (stretches, steps, int(own))]
        command = [sys.executable, "-m", "benchmarks.emulator.lava_steps", str(path), str(folder / "spikes.npy"), *numbers]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if line.startswith("ms ")]
    if len(lines) != stretches:
        raise SystemExit(f"Lava did not run {case.name}: {done.stderr[-500:]}")
    return [float(line.split()[1]) for line in lines]


def norse_run(network: QuantizedNetwork, spikes: NDArray[np.uint8]) -> Callable[[], float]:
    """How long a Norse module of the same shape takes in eval mode, step by step."""
    modules: list[torch.nn.Module] = []
    for layer in network:
        if isinstance(_linear(layer), torch.nn.Linear):
            modules.append(torch.nn.Flatten())
        modules += [_linear(layer), LIFCell()]
    model = SequentialState(*modules).eval()
    shape = network.input_shape if isinstance(network.layers[0].connections[0].synapse, QuantizedConv) else (network.n_inputs,)
    given = torch.from_numpy(np.ascontiguousarray(np.moveaxis(spikes, -1, 0))).float().reshape(spikes.shape[-1], -1, *shape)

    def run() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            state = None
            for step in given:
                _, state = model(step, state)
        return time.perf_counter() - started

    return run


def _linear(layer: QuantizedLayer) -> torch.nn.Module:
    synapse = layer.connections[0].synapse
    if not isinstance(synapse, QuantizedConv):
        return torch.nn.Linear(synapse.n_in, synapse.n_out, bias=False)
    f, _, *kernel = synapse.weight.shape
    return torch.nn.Conv2d(
        synapse.input_shape[0], f, kernel, synapse.stride, synapse.padding, synapse.dilation, synapse.groups, bias=False
    )
