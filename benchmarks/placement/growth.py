"""How seconds and memory grow with neurons, slices and synapses, from a thousand synapses to a billion; with a figure.

uv run python -m benchmarks.placement.growth [--out benchmarks/results/placement.jsonl] [--figure FILE.svg]

Two kinds of network on hala_point: four convolutions of 3 x 3, whose weights are shared, and four layers with up to 100
random sources a neuron, whose synapses are listed one by one. Each point is a process of its own that goes through the stages of
`benchmarks.placement.stages`; seconds are the processor's, of one thread, without building the network. Points on record at this
commit are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from benchmarks.emulator.cases import listed
from benchmarks.placement.drawing import Drawing
from benchmarks.placement.rows import append, commit, rows
from benchmarks.placement.stages import measure_network
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedNetwork

CHIP = "hala_point"
CONVOLUTIONS = {3: (4, 2), 4: (4, 5), 5: (8, 7), 6: (16, 11), 7: (32, 17), 8: (64, 27), 9: (64, 84)}
"""Channels and sides of the image by the power of ten that the synapses come to."""
LISTED = {3: (25, 10), 4: (100, 25), 5: (250, 100), 6: (2500, 100), 7: (25_000, 100)}
"""Neurons of a layer and sources of each; 10^8 listed synapses would take most of the time of all."""
POINTS = [*(("convolutions", n) for n in CONVOLUTIONS), *(("lists", n) for n in LISTED)]


def network_of(kind: str, power: int) -> QuantizedNetwork:
    """A network of about 10 ** power synapses."""
    if kind == "lists":
        width, fan_in = LISTED[power]
        network = listed(4, width, fan_in)
        layers = [
            replace(layer, connections=tuple(replace(c, synapse=replace(c.synapse, weight_bits=8)) for c in layer.connections))
            for layer in network
        ]
        return replace(network, layers=tuple(layers))
    channels, side = CONVOLUTIONS[power]
    draw = Drawing((channels, side, side), seed=0)
    heard: tuple[str, ...] = (INPUT,)
    for k in range(1, 5):
        heard = draw.conv(f"conv{k}", heard, channels)
    return draw.network()


def point(kind: str, power: int) -> dict[str, Any]:
    """The row of a point, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.placement.growth", "--here", kind, str(power)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    measured: dict[str, Any] = json.loads(told.splitlines()[-1])
    return {"table": "growth", "kind": kind, "profile": CHIP, **measured, "load": round(os.getloadavg()[0], 1)}


def seconds(row: dict[str, Any]) -> float:
    """Processor seconds of all stages but the building of the network."""
    return float(row["total_s"])


def table(found: list[dict[str, Any]]) -> Iterator[str]:
    """Lines of Markdown, a row for each point."""
    stages = ("balance", "lay_out", "budget", "link", "arrange")
    yield f"| network | synapses | neurons | slices | cores | {' | '.join(stages)} | in all | memory |"
    yield f"|{'---|' * (7 + len(stages))}"
    for row in found:
        parts = " | ".join(f"{row[f'{stage}_s']:.2f} s" for stage in stages)
        counts = " | ".join(f"{row[key]:,}" for key in ("synapses", "neurons", "slices", "cores"))
        yield f"| {row['kind']} | {counts} | {parts} | {seconds(row):.2f} s | {row['memory_mb'] / 1024:.2f} GB |"


def figure(found: list[dict[str, Any]], path: Path) -> None:
    """Seconds above memory, against synapses, neurons and slices, a line for each kind of network."""
    drawn = Figure(figsize=(8.4, 4.6), layout="constrained")
    panels = drawn.subplots(2, 3, sharex="col", sharey="row")
    for column, size in enumerate(("synapses", "neurons", "slices")):
        for kind, look in (("convolutions", "o-"), ("lists", "s--")):
            mine = sorted((row for row in found if row["kind"] == kind), key=lambda row: int(row[size]))
            sizes = [row[size] for row in mine]
            panels[0, column].loglog(sizes, [seconds(row) for row in mine], look, label=kind, markersize=4)
            panels[1, column].loglog(sizes, [row["memory_mb"] for row in mine], look, label=kind, markersize=4)
        panels[1, column].set_xlabel(size)
    for panel, name, ends in ((panels[0, 0], "processor seconds", (0.8, 120)), (panels[1, 0], "memory (MB)", (80, 1200))):
        panel.set_ylabel(name)
        panel.set_ylim(ends)
        panel.yaxis.set_major_formatter(ScalarFormatter())
    panels[0, 0].legend(fontsize="small", frameon=False)
    drawn.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure every point that is not on record yet; print the table, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append a line of JSON for each point to this file")
    parser.add_argument("--figure", type=Path, help="an SVG file")
    parser.add_argument("--table", action="store_true", help="take the last rows of the file, and measure nothing")
    parser.add_argument("--here", nargs=2, metavar=("KIND", "POWER"), help="measure one point in this process")
    asked = parser.parse_args()
    if asked.here:
        network = network_of(asked.here[0], int(asked.here[1]))
        print(json.dumps({"synapses": network.n_synapses, **measure_network(lambda: network, load_profile(CHIP))}))
        return
    on_record = [row for row in rows(asked.out) if row["table"] == "growth" and (asked.table or row["commit"] == commit())]
    found = {(row["kind"], row["power"]): row for row in on_record}
    for kind, power in POINTS:
        if (kind, power) not in found:
            found[kind, power] = {**point(kind, power), "power": power}
            append(found[kind, power], asked.out)
    print("\n".join(table([found[key] for key in POINTS])))
    if asked.figure:
        figure([found[key] for key in POINTS], asked.figure)


if __name__ == "__main__":
    main()
