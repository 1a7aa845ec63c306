"""How far `estimate_step` is from SANA-FE, which simulates a placed network event by event.

uv run --group sanafe python benchmarks/sanafe_check.py [--only NAME] [--out benchmarks/results/energy.jsonl]

Each net is run with the three ways in which SANA-FE tells time: "simple" (no mesh), "detailed" (its default: queues weighed by a
rule of thumb) and "cycle" (BookSim, its most exact). A ratio is the estimate's mean over SANA-FE's mean, over the same steps.
Where they part, two more columns say why: the estimate with `saturated_mesh_s` beside "detailed", with `tail_in_turn_s` beside
"cycle". "detailed" itself differs by a few percent with where its memory happens to lie: it takes target cores in that order.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sanafe_loihi import (
    PlacedLayer,
    count_events,
    sanafe_figures,
    saturated_mesh_s,
    simulate_in_sanafe,
    tail_in_turn_s,
    used_cores,
)

from neurodeploy.mapping.energy import estimate_step

Net = tuple[list[PlacedLayer], NDArray[np.int64], NDArray[np.bool_]]
N_STEPS = 12
TIMINGS = ("simple", "detailed", "cycle")
PARTS = {"synapse": ("synop",), "soma": ("neuron",), "network": ("message", "hop")}
QUIETER = {0.02: 2.6, 0.1: 1.5, 0.3: 0.6}
"""Thresholds, in standard deviations of a step's input, at which about so many neurons fire."""


def dense_net(
    sizes: Sequence[int],
    n_cores: Sequence[int],
    rate: float,
    *,
    encoding: str = "dense",
    density: float = 1.0,
    last_shares: bool = False,
) -> Net:
    """Fully connected layers in a row; the input on the first cores, each layer on the next, the last beside it if it shares."""
    rng = np.random.default_rng(0)
    starts = np.cumsum([0, *n_cores])
    starts[len(sizes) - 1] -= last_shares
    core = [starts[k] + np.arange(size) * n_cores[k] // size for k, size in enumerate(sizes)]
    layers = []
    for k in range(1, len(sizes)):
        shape = (sizes[k], sizes[k - 1])
        weight = np.round(rng.normal(0, 30, shape)) * (rng.random(shape) < density)
        layers.append(_layer(weight, core[k], encoding, rate, sizes[k - 1] * density))
    return layers, core[0], rng.random((sizes[0], N_STEPS)) < rate


def conv_net(side: int, channels: Sequence[int], n_cores: Sequence[int], rate: float, *, encoding: str) -> Net:
    """Convolutions of 3 x 3 with stride 2, unrolled, and a dense layer of 10; each core has a patch of pixels, all channels."""
    rng = np.random.default_rng(0)
    starts = np.cumsum([1, *n_cores])
    layers = []
    n_in = side * side * channels[0]
    spikes = rng.random((n_in, N_STEPS)) < rate
    for k in range(1, len(channels)):
        kernel = np.round(rng.normal(0, 30, (channels[k], channels[k - 1], 3, 3)))
        weight = unrolled(kernel, side)
        core = starts[k - 1] + np.arange(len(weight)) * n_cores[k - 1] // len(weight)
        layers.append(_layer(weight, core, encoding, rate, 9 * channels[k - 1]))
        side //= 2
    last = side * side * channels[-1]
    layers.append(_layer(np.round(rng.normal(0, 30, (10, last))), np.full(10, starts[-1]), "dense", rate, last))
    return layers, np.zeros(n_in, dtype=np.int64), spikes


def unrolled(kernel: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The matrix of a convolution (out, in, 3, 3) with stride 2 and padding 1; neurons row by row, channels last."""
    n_out, n_in = kernel.shape[:2]
    half = side // 2
    weight = np.zeros((half, half, n_out, side, side, n_in))
    for y, x, dy, dx in np.ndindex(half, half, 3, 3):
        from_y, from_x = 2 * y + dy - 1, 2 * x + dx - 1
        if 0 <= from_y < side and 0 <= from_x < side:
            weight[y, x, :, from_y, from_x] = kernel[:, :, dy, dx]
    return weight.reshape(half * half * n_out, -1)


def _layer(weight: NDArray[np.float64], core: NDArray[np.int64], encoding: str, rate: float, fan_in: float) -> PlacedLayer:
    threshold = QUIETER[rate] * 30.0 * float(np.sqrt(fan_in * rate))
    return PlacedLayer(weight=weight, core=core, encoding=np.full(len(core), encoding), threshold=threshold, leak=0.5)


NETS: dict[str, Callable[[float], Net]] = {
    "196-200-10, 1 core": lambda rate: dense_net([196, 200, 10], [1, 1, 1], rate, last_shares=True),
    "196-200-10, 2+1 cores": lambda rate: dense_net([196, 200, 10], [1, 2, 1], rate),
    "196-200-10, 8+1 cores": lambda rate: dense_net([196, 200, 10], [1, 8, 1], rate),
    "196-200-200-10, 4+4+1 cores": lambda rate: dense_net([196, 200, 200, 10], [4, 4, 4, 1], rate),
    "196-200-200-10, 14+14+1 cores": lambda rate: dense_net([196, 200, 200, 10], [1, 14, 14, 1], rate),
    "sparse 784-800-10, 2 cores": lambda rate: dense_net(
        [784, 800, 10], [1, 2, 1], rate, encoding="sparse", density=0.35, last_shares=True
    ),
    "dense 784-800-10, 6 cores": lambda rate: dense_net([784, 800, 10], [1, 6, 1], rate, last_shares=True),
    "conv 16x16x2-16-32-10, 4+4+1 cores": lambda rate: conv_net(16, (2, 16, 32), (4, 4), rate, encoding="convolution"),
    "conv 16x16x2-16-32-10, 16+12+1 cores": lambda rate: conv_net(16, (2, 16, 32), (16, 12), rate, encoding="sparse"),
}


def compare(net: Net) -> dict[str, Any]:
    """A row of results: estimate over SANA-FE, for energy, its parts and time, and what SANA-FE says."""
    layers, input_core, _ = net
    figures, cores = sanafe_figures(), used_cores(layers, input_core)
    runs = {timing: simulate_in_sanafe(*net, timing=timing) for timing in TIMINGS}
    run, steps = runs["simple"], range(len(layers), N_STEPS)
    events = [count_events(layers, input_core, run, slice(step, step + 1)) for step in steps]
    estimates = [estimate_step(of_step, figures) for of_step in events]
    average = estimate_step(count_events(layers, input_core, run, slice(steps.start, N_STEPS)), figures)
    time_s = np.array([estimate.time_s for estimate in estimates])
    ends_s = np.array([estimate.flight_s + estimate.sync_s for estimate in estimates])
    meshed_s = np.maximum(time_s, ends_s + [saturated_mesh_s(of_step, cores, figures) for of_step in events])
    tailed_s = ends_s + [tail_in_turn_s(of_step, figures) for of_step in events]
    told_s = {timing: float(runs[timing].time_s[steps.start :].mean()) for timing in TIMINGS}
    row = {
        "cores": cores.size,
        "rates": [round(float(fired[:, steps.start :].mean()), 3) for fired in run.fired],
        "energy_j": float(run.energy_j[steps.start :].mean()),
        "energy_ratio": average.energy_j / float(run.energy_j[steps.start :].mean()),
    }
    for part, kinds in PARTS.items():
        ours = sum(joules for kind, joules in average.energy_j_by_kind.items() if kind.startswith(kinds))
        row[f"energy_ratio_{part}"] = ours / float(run.energy_j_by_part[part][steps.start :].mean())
    for timing in TIMINGS:
        row |= {f"time_s_{timing}": told_s[timing], f"time_ratio_{timing}": float(time_s.mean()) / told_s[timing]}
    row["time_ratio_detailed_with_saturated_mesh"] = float(meshed_s.mean()) / told_s["detailed"]
    row["time_ratio_cycle_with_tail_in_turn"] = float(tailed_s.mean()) / told_s["cycle"]
    row["time_ratio_average_step_over_steps"] = average.time_s / float(time_s.mean())
    return row


def main() -> None:
    """Compare every net at every rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="nets whose name has this in it")
    parser.add_argument("--out", type=Path, help="append a line of JSON for each net to this file")
    arguments = parser.parse_args()
    for name, make in NETS.items():
        for rate in QUIETER if arguments.only in name else ():
            row = {"net": name, "input_rate": rate, **compare(make(rate))}
            print(", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
            if arguments.out:
                with arguments.out.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
