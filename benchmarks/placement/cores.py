"""How many cores networks take, against the lower bound and against Lava's way: one command, a row for each network and chip.

    python -m benchmarks.placement.cores [--only NAME] [--chip CHIP] [--again]

Rows are appended to benchmarks/results/placement.jsonl; what has a row of this commit is left out, so that a run that was broken
off goes on where it stopped. Every network is measured in a process of its own, whose peak memory is the row's.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.placement import lavas_way
from benchmarks.placement.lower_bound.bounds import least_cores
from benchmarks.placement.networks import NETWORKS, STDS_CONNECTIVITY, conv6_fc2
from benchmarks.placement.rows import append, commit, rows
from neurodeploy.errors import BudgetError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.quantized import QuantizedLayer, QuantizedNetwork
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.mapping.place import counts_of, lay_out
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region, grid_of, limited_resources, usage_vector

RESULTS = Path(__file__).parent.parent / "results" / "placement.jsonl"

BUILDERS: dict[str, Callable[[], QuantizedNetwork]] = {
    **{name: benchmark.build for name, benchmark in NETWORKS.items()},
    "6conv2fc-stds": partial(conv6_fc2, connectivity=STDS_CONNECTIVITY),
}
"""Networks by name. A neuron of 6Conv+2FC with 16,384 inputs is too much for a core of Loihi 2: it is run pruned too."""

RUNS = (
    ("mnist-2fc", "loihi2"), ("mnist-2fc", "loihi1"), ("6conv2fc", "kapoho_point"), ("6conv2fc-stds", "kapoho_point"),
    ("6conv2fc-stds", "nahuku32"), ("vgg16-cifar", "kapoho_point"), ("vgg16-cifar", "nahuku32"), ("resnet19-cifar", "hala_point"),
    ("resnet19-cifar", "pohoiki_springs"), ("sew-resnet18", "hala_point"), ("sew-resnet18", "pohoiki_springs"),
    ("million", "loihi2"), ("flywire", "hala_point"), ("hala-point", "hala_point"),
)  # fmt: skip
HALVED_AT_MOST = 20_000
"""Where the network takes more cores, Lava's way is not followed: it is a piece at a time."""


def lavas_cores(network: QuantizedNetwork, chip: str) -> int | None:
    """Cores that Lava's way takes, output axons left out, as if nothing sent them; None if a single neuron does not fit."""
    profile = load_profile(chip)
    widths = {layer.name: layer.weight_bits for layer in network.layers}
    counts = counts_of(network.layers, widths, profile)
    capacity = [profile.capacity(name) for name in limited_resources(profile)]

    def fits(layer: QuantizedLayer, box: lavas_way.Region) -> bool:
        return _fits(counts[layer.name], layer, box, capacity)

    try:
        return lavas_way.cores(network, fits)
    except ValueError:
        return None


def _fits(count: LayerCount, layer: QuantizedLayer, box: lavas_way.Region, capacity: list[int]) -> bool:
    """Whether a core holds the box, its output axons left out: as few as they can be, since the targets are not cut yet."""
    if len(grid_of(layer)) == len(box):
        region = Region(tuple(a for a, _ in box), tuple(b for _, b in box))
    else:
        region = Region.run(0, math.prod(stop - start for start, stop in box))
    try:
        return bool((usage_vector(count.usage(region), 0, count.profile) <= capacity).all())
    except BudgetError:
        return False


def measured(name: str, chip: str) -> dict[str, Any]:
    """The row of a network on a chip, without Lava's way."""
    profile = load_profile(chip)
    network, _ = balance(BUILDERS[name](), profile)
    begun = time.perf_counter()
    placement = lay_out(network, profile)
    seconds = time.perf_counter() - begun
    used, widths = placement.cores_used, {layer.name: layer.weight_bits for layer in network.layers}
    bound = least_cores(network.layers, counts_of(network.layers, widths, profile), profile)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    overruns = [overrun for overrun in placement.overruns() if overrun.resource != "cores"]
    lavas = lavas_cores(network, chip) if used <= HALVED_AT_MOST else None
    return {
        "table": "cores", "net": name, "profile": chip, "cores": used, "lower_bound": bound, "ratio": round(used / bound, 4),
        "lavas_way": lavas, "seconds": round(seconds, 2), "memory_mb": round(memory), "slices": len(placement.slices),
        "does_not_fit": str(overruns[0]) if overruns else None,
    }  # fmt: skip


def main() -> None:
    """Measures what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="one network")
    parser.add_argument("--chip", help="one chip")
    parser.add_argument("--again", action="store_true", help="also what this commit has a row of")
    asked = parser.parse_args()
    done = {(row["net"], row["profile"]) for row in rows(RESULTS) if row["table"] == "cores" and row["commit"] == commit()}
    fresh = multiprocessing.get_context("spawn")
    for name, chip in RUNS:
        if asked.only not in (None, name) or asked.chip not in (None, chip) or ((name, chip) in done and not asked.again):
            continue
        with fresh.Pool(1) as pool:
            append(pool.apply(measured, (name, chip)), RESULTS)


if __name__ == "__main__":
    main()
