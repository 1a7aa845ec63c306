"""Spikes x hops of placed networks: arranged, and the other ways to stand the same cores on the same board.

uv run python -m benchmarks.placement.traffic [--only NET] [--out benchmarks/results/placement.jsonl]

Every way gets the same cores, with the same slices on them; only where they stand differs. Ratios are to standing in order.
Random is the mean of ten. `bound`: no arrangement is below it (`least_travel.py`).
`multicast`: the links of some of them where the copies of a spike share their routes, over spikes x hops in order, too.
Nets that are on record at this commit already are left out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.placement.arrangers import at_random, by_columns, force_directed
from benchmarks.placement.least_travel import least_spike_hops
from benchmarks.placement.networks import NETWORKS
from benchmarks.placement.rows import append, commit, rows
from neurodeploy.hardware.loading import load_profile
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.mapping.energy import mesh_of, multicast_hops
from neurodeploy.mapping.mesh_arrangement import arrange, greedy, in_order, space_filling
from neurodeploy.mapping.place import lay_out, with_traffic
from neurodeploy.mapping.traffic import spike_hops, traffic_graph

TABLE = (
    ("mnist-2fc", "loihi1"), ("million", "loihi2"), ("vgg16-cifar", "kapoho_point"), ("6conv2fc", "hala_point"),
    ("resnet19-cifar", "hala_point"), ("sew-resnet18", "hala_point"), ("flywire", "hala_point"),
)  # fmt: skip
FORCED_CORES = 2000
"""Cores up to which the force-directed rival is run: beyond, it takes longer than all else together."""


def compare(net: str, profile_name: str) -> dict[str, Any]:
    """A row: spikes x hops in order, and every other way over it."""
    profile = load_profile(profile_name)
    network, _ = balance(NETWORKS[net].build(), profile)
    traffic = with_traffic(lay_out(network, profile), network).traffic()
    assert traffic is not None
    flow, mesh, n = traffic.flow, mesh_of(profile), np.unique(traffic.homes).size
    ordered = spike_hops(flow, in_order(n), mesh)
    started = time.perf_counter()
    at = arrange(flow, n, mesh, seed=0)
    seconds = time.perf_counter() - started
    ours = spike_hops(flow, at, mesh)
    shared = {"in_order": in_order(n), "arranged": at, "space_filling": space_filling(n, mesh), "columns": by_columns(n, mesh)}
    links, home = traffic.links.copies, np.unique(traffic.homes, return_inverse=True)[1].ravel()
    random = np.mean([spike_hops(flow, at_random(n, mesh, seed), mesh) for seed in range(10)])
    return {
        "cores": n, "flows": int(flow.source.size), "in_order": ordered, "arranged": ours / ordered,
        "bound": least_spike_hops(flow, n, mesh) / ordered,
        "random": float(random) / ordered,
        "greedy": spike_hops(flow, greedy(traffic_graph(flow, n), mesh), mesh) / ordered,
        "space_filling": spike_hops(flow, space_filling(n, mesh), mesh) / ordered,
        "force_directed": spike_hops(flow, force_directed(flow, n, mesh, 0), mesh) / ordered if n <= FORCED_CORES else None,
        "seconds": seconds,
        "multicast": {way: multicast_hops(links, position[home], mesh) / ordered for way, position in shared.items()},
    }  # fmt: skip


def main() -> None:
    """Compare every net that is not on record yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="nets whose name has this in it")
    parser.add_argument("--out", type=Path, help="append a line of JSON for each net to this file")
    arguments = parser.parse_args()
    done = {
        (row["net"], row["profile"]) for row in rows(arguments.out) if row["table"] == "traffic" and row["commit"] == commit()
    }
    for net, profile in TABLE:
        if arguments.only in net and (net, profile) not in done:
            append({"table": "traffic", "net": net, "profile": profile, **compare(net, profile)}, arguments.out)


if __name__ == "__main__":
    main()
