"""Runs of the real Lava beside the emulator: jobs for it as hypothesis draws them, and what it must give."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from neurodeploy.simulation.records import SpikeRecord, compare
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.loihi.lava_client import Job
from neurodeploy.targets.simulator_process import LAVA, python_of

LONG_S = 300.0
"""More seconds than a run of a test takes."""


def drawn_jobs(jobs: st.SearchStrategy[Job], count: int, part: int | None = None) -> list[Job]:
    """Jobs as hypothesis draws them, for one run of Lava: starting it for each would take minutes. Each part has others."""
    drawn: list[Job] = []

    @(lambda test: test if part is None else seed(part)(test))
    @settings(max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck))
    @given(job=jobs)
    def draw(job: Job) -> None:
        drawn.append(job)

    draw()
    return drawn


def assert_equal_to_emulator(jobs: list[Job], records: list[SpikeRecord], resets: Sequence[tuple[int, int]] = ()) -> int:
    """Compare every layer, neuron and step; return how many spikes there were."""
    spikes = 0
    for (network, given_spikes), record, (interval, offset) in zip(jobs, records, resets or [(0, 0)] * len(jobs), strict=True):
        expected = run_emulator(network, given_spikes, record="all", reset_interval=interval, reset_offset=offset)
        assert list(record.spikes) == list(record.v) == [layer.name for layer in network]
        comparison = compare(expected, record)
        assert comparison.equal, f"{comparison.first}\n{network}\n{given_spikes.tolist()}"
        spikes += sum(int(fired.sum()) for fired in record.spikes.values())
    return spikes


def of_lava_dl(name: str) -> Path:
    """A file of the trained networks and ground truths in the lava-dl wheel."""
    command = [python_of(LAVA), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    root = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    path = Path(root) / "tests/lava/lib/dl/netx" / name
    assert path.is_file(), f"the lava-dl wheel has {name} under tests/lava/lib/dl/netx: where is it?"
    return path
