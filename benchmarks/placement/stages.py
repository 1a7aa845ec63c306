"""How long each stage takes from a network to its place on a board, and the memory it takes; every net in a process of its own.

uv run python -m benchmarks.placement.stages [--only NET] [--out benchmarks/results/placement.jsonl]

Stages: build the network, lay it out (with the lower bound), share the budget, link slices, arrange cores. Seconds are the
processor's, of one thread: what else the machine does makes `wall_s` longer, not these. The budget is shared as `inspect` does,
which lays no network out twice. `per_slice_ms` is the sum of all but the first, over the slices: it should not grow with the
network.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.placement.networks import NETWORKS
from benchmarks.placement.rows import append, commit, rows
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.allocation import Unpruned, share_budget
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.mapping.place import CountCache, arrange_placement, lay_out, with_traffic
from neurodeploy.targets import default_weight_bits

TABLE = (
    ("mnist-2fc", "loihi1"), ("million", "loihi2"), ("vgg16-cifar", "kapoho_point"), ("6conv2fc", "hala_point"),
    ("resnet19-cifar", "hala_point"), ("sew-resnet18", "hala_point"), ("flywire", "hala_point"), ("hala-point", "hala_point"),
)  # fmt: skip
T = TypeVar("T")


def measure_network(build: Callable[[], QuantizedNetwork], profile: HardwareProfile) -> dict[str, Any]:
    """Seconds of each stage, and the most memory that the process had."""
    seconds, begun = dict[str, float](), time.perf_counter()

    def timed(stage: str, run: Callable[[], T]) -> T:
        started = time.process_time()
        result = run()
        seconds[f"{stage}_s"] = round(time.process_time() - started, 2)
        return result

    built = timed("build", build)
    counted, bits = CountCache(), default_weight_bits(profile)
    network, _ = timed("balance", lambda: balance(built, profile, counted=counted))
    laid = timed("lay_out", lambda: lay_out(network, profile, counted=counted))
    budget = timed("budget", lambda: share_budget(network, profile, unpruned=Unpruned(network, profile, bits, laid, counted)))
    joined = timed("link", lambda: with_traffic(laid, network, counted=counted))
    placed = timed("arrange", lambda: arrange_placement(joined))
    total = sum(value for stage, value in seconds.items() if stage != "build_s")
    return {
        "neurons": network.n_neurons, "cores": placed.cores_used, "chips": placed.chips_used, "slices": len(placed.slices),
        "fits": placed.fits, "kept_least": min(layer.kept for layer in budget.layers), **seconds, "total_s": round(total, 2),
        "wall_s": round(time.perf_counter() - begun, 2),
        "per_slice_ms": 1e3 * total / len(placed.slices),
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }  # fmt: skip


def main() -> None:
    """Measure every net that is not on record yet, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="nets whose name has this in it")
    parser.add_argument("--out", type=Path, help="append a line of JSON for each net to this file")
    parser.add_argument("--here", nargs=2, metavar=("NET", "PROFILE"), help="measure one net in this process")
    arguments = parser.parse_args()
    if arguments.here:
        net, chip = arguments.here
        print(json.dumps(measure_network(NETWORKS[net].build, load_profile(chip))))
        return
    done = {(row["net"], row["profile"]) for row in rows(arguments.out) if row["table"] == "stages" and row["commit"] == commit()}
    for net, profile in TABLE:
        if arguments.only in net and (net, profile) not in done:
            command = [sys.executable, "-m", "benchmarks.placement.stages", "--here", net, profile]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            append({"table": "stages", "net": net, "profile": profile, **json.loads(told.splitlines()[-1])}, arguments.out)


if __name__ == "__main__":
    main()
