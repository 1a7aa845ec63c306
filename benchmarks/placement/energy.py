"""Energy and time a step of placed networks on Loihi 1, beside SANA-FE's event-by-event simulation of the same placement.

uv run --group sanafe python -m benchmarks.placement.energy [--out benchmarks/results/placement.jsonl]

Each network is placed by neurodeploy and run in SANA-FE with every neuron on the core that it was given. The rates that its
neurons then show go into `neurodeploy.mapping.traffic`, as those of a record would, and the placement's own estimate stands
beside
SANA-FE's mean over the steps: with its "cycle" timing (BookSim, its most exact) and with "detailed" (its default, a rule of
thumb for queues).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))
from sanafe_loihi import PlacedLayer, simulate_in_sanafe

from benchmarks.placement.drawing import Drawing
from benchmarks.placement.networks import NETWORKS
from benchmarks.placement.rows import append
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.place import place, with_traffic
from neurodeploy.mapping.placement import Placement
from neurodeploy.resources.usage import grid_of

N_STEPS = 12
RATES = (0.05, 0.2)
QUIET = {0.05: 2.0, 0.2: 1.0}
"""Thresholds in standard deviations of a step's input, at which about so many neurons fire."""


def small_convolutions() -> QuantizedNetwork:
    """2 x 16 x 16 events, two convolutions, ten outputs."""
    drawing = Drawing((2, 16, 16), seed=0)
    first = drawing.conv("conv1", (INPUT,), 16)
    second = drawing.conv("conv2", first, 32, stride=2)
    drawing.dense("out", second, 10)
    return drawing.network()


NETS: dict[str, Callable[[], QuantizedNetwork]] = {
    "mnist-2fc": NETWORKS["mnist-2fc"].build,
    "mnist-2fc at 5 %": lambda: NETWORKS["mnist-2fc"].build(connectivity=0.05),
    "conv 2x16x16": small_convolutions,
}


def as_arrays(network: QuantizedNetwork, placement: Placement, rate: float) -> list[PlacedLayer]:
    """Every layer as a matrix with a core for each neuron, in SANA-FE's numbering (tiles column by column)."""
    layers = []
    for layer in network:
        weight = layer.connections[0].synapse.matrix().astype(np.float64)
        core, encoding = np.zeros(layer.n_neurons, dtype=np.int64), np.full(layer.n_neurons, "dense", dtype="<U11")
        grid = grid_of(layer)
        for part in placement.slices:
            if part.layer == layer.name:
                here = part.region.neurons(grid)
                core[here], encoding[here] = renumbered(np.array([part.core])), part.usage.encoding
        fan_in = np.count_nonzero(weight, axis=1).mean()
        spread = float(np.abs(weight).sum() / max(np.count_nonzero(weight), 1)) * np.sqrt(fan_in * rate)
        layers.append(PlacedLayer(weight=weight, core=core, encoding=encoding, threshold=QUIET[rate] * spread, leak=0.5))
    return layers


def renumbered(core: NDArray[np.int64]) -> NDArray[np.int64]:
    """Our core (tiles row by row, 8 x 4) as SANA-FE counts it (column by column)."""
    tile, place_on_tile = np.divmod(core, 4)
    row, column = np.divmod(tile, 8)
    return (column * 4 + row) * 4 + place_on_tile


def compare(network: QuantizedNetwork, rate: float) -> dict[str, Any]:
    """Estimate over SANA-FE, for energy and for time by each of its two meshes."""
    placement = place(network, load_profile("loihi1"))
    layers = as_arrays(network, placement, rate)
    free = next(core for core in range(128) if core not in placement.cores)
    spikes = np.random.default_rng(0).random((int(np.prod(network.input_shape)), N_STEPS)) < rate
    homes = np.full(len(spikes), int(renumbered(np.array([free]))[0]))
    first = len(layers)
    runs = {timing: simulate_in_sanafe(layers, homes, spikes, timing=timing) for timing in ("cycle", "detailed")}
    fired = runs["cycle"].fired
    rates = {layer.name: fired[k + 1][:, first:].mean(axis=1) for k, layer in enumerate(network)}
    known = with_traffic(placement, network, rates | {INPUT: np.array(spikes[:, first:].mean())})
    traffic = known.traffic()
    estimate = None if traffic is None else traffic.estimate()
    assert estimate is not None
    energy = float(runs["cycle"].energy_j[first:].mean())
    row: dict[str, Any] = {
        "cores": placement.cores_used, "rates": [round(float(rate.mean()), 3) for rate in rates.values()],
        "energy_j": estimate.energy_j, "time_s": estimate.time_s, "energy_ratio": estimate.energy_j / energy,
    }  # fmt: skip
    for timing, run in runs.items():
        row[f"time_ratio_{timing}"] = estimate.time_s / float(run.time_s[first:].mean())
    return row


def main() -> None:
    """Compare every network at every input rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append a line of JSON for each net to this file")
    arguments = parser.parse_args()
    for name, build in NETS.items():
        for rate in RATES:
            row = {"table": "energy", "net": name, "profile": "loihi1", "input_rate": rate, **compare(build(), rate)}
            append(row, arguments.out)


if __name__ == "__main__":
    main()
