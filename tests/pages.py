"""Pages to look at: a small network, trained or not, on one chip or several, with names that would break out of careless HTML."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from paper import in_integers, layer_of

from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.mapping.place import place
from neurodeploy.mapping.placement import Placement
from neurodeploy.report.html import RunArtifacts, page_of
from neurodeploy.report.summary import Accuracy, LavaCheck, Report, summarize
from neurodeploy.simulation.records import EpochRecord
from neurodeploy.targets.simulate import random_spikes, simulate

NASTY = "<img src=x onerror=alert(1)>'&"
"""As a layer may be called; a warning or a command may have slashes too."""
NASTIER = "</script><script>alert('hidden')</script>"


def two_layers(hidden: str = "hidden", n: int = 50) -> QuantizedNetwork:
    rng = np.random.default_rng(0)
    first, last = (2 * rng.integers(-60, 60, size) * (rng.random(size) < 0.5) for size in ((n, 40), (5, n)))
    return in_integers(
        layer_of(first, name=hidden, vth=9, du=2048, dv=1024),
        layer_of(last, name="out $x", source=hidden, du=2048, dv=1024),
    )


def trained_report(profile: HardwareProfile, hidden: str = "hidden") -> tuple[Report, RunArtifacts]:
    """All that a page can show: two layers on the chip, their training, a run at both ends."""
    network = two_layers(hidden)
    placement, budget = place(network, profile), share_budget(network, profile)
    spikes = random_spikes(network.input_shape, n_samples=2, n_steps=8)
    emulated = simulate(network, spikes, record="all")
    history = [
        EpochRecord(
            phase=phase, epoch=0, loss=loss, train_accuracy=0.9, test_accuracy=None, connectivity=0.5, seconds=1.0,
            overruns={f"{hidden}[0:50] synapse_memory_bits": over}, multipliers={f"{hidden}[0:50] synapse_memory_bits": price},
        )
        for phase, loss, over, price in (("dense", 1.5, 0.4, 0.0), ("compress", 0.7, 0.1, 0.00321), ("finetune", 0.5, -0.2, 0.0))
    ]  # fmt: skip
    report = summarize(
        profile, budget, placement, emulated, history, before=replace(placement, cores_available=1), seed=7,
        accuracy=Accuracy(dense=0.9, compressed=0.8, quantized=0.8, emulated=0.75, lava=0.5, test_samples=400, lava_samples=2),
        lava=LavaCheck(steps=16, mismatches=0, spikes=9), files={"network": "model.net"}, warnings=(NASTIER,),
    )  # fmt: skip
    evidence = RunArtifacts(
        quantized=network,
        budget=budget,
        emulated=emulated,
        lava=replace(emulated, end="lava"),
        command=f"neurodeploy compress {NASTIER}",
    )
    return report, evidence


def trained_page(hidden: str = "hidden") -> str:
    return page_of(*trained_report(load_profile("tiny"), hidden))


def spread(profile: HardwareProfile, cores: list[int]) -> Placement:
    """The two layers, a copy of the first slice on each core of the list: a board as large as one likes."""
    placement = place(two_layers(n=5), profile)
    slices = tuple(replace(placement.slices[0], core=core) for core in cores)
    return replace(
        placement, slices=slices, links=None, weight_bits={"hidden": 8}, n_weights={"hidden": 200}, connectivity={"hidden": 0.5}
    )
