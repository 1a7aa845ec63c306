"""Error of the estimate of `inspect --fast` against the cores of the layout, a row for each network and chip.

    python -m benchmarks.placement.estimate [--only NAME] [--out benchmarks/results/placement.jsonl]

The cores of the layout are those of the last row of the table "cores" in benchmarks/results/placement.jsonl; a network without
one is left out. Seconds are the processor's, without building the network and without balancing its paths.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.placement.cores import BUILDERS, RESULTS, RUNS
from benchmarks.placement.rows import append, rows
from neurodeploy.hardware.loading import load_profile
from neurodeploy.mapping.core_estimate import estimated_cores, least_cores
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.mapping.place import counts_of


def main() -> None:
    """Add a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="one network")
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    asked = parser.parse_args()
    laid_out = {(row["net"], row["profile"]): row["cores"] for row in rows(RESULTS) if row["table"] == "cores"}
    for net, chip in RUNS:
        if asked.only not in ("", net) or (net, chip) not in laid_out:
            continue
        profile = load_profile(chip)
        network, _ = balance(BUILDERS[net](), profile)
        began, widths = time.process_time(), {layer.name: layer.weight_bits for layer in network.layers}
        counts = counts_of(network.layers, widths, profile)
        found = estimated_cores(network.layers, counts, profile, profile.cores, least_cores(network.layers, counts, profile))
        seconds, cores = time.process_time() - began, laid_out[net, chip]
        append({"table": "estimate", "net": net, "profile": chip, "cores": cores, "estimate": found.cores,
                "error": round(found.cores / cores - 1, 4), "seconds": round(seconds, 2)}, asked.out)  # fmt: skip


if __name__ == "__main__":
    main()
