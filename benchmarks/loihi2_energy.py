"""Energy and time of a step on Loihi 2: Intel's measurements of one network against the figures of the profile `loihi2`.

``python -m benchmarks.loihi2_energy``

No energy or time of a single event is published for Loihi 2. Intel published a notebook that ran a PilotNet of LIF neurons on one
chip of an Oheo Gulch board, with power, time and activity of its cores: lava-dl,
tutorials/lava/lib/dl/netx/pilotnet_snn/benchmark.ipynb, three times in its history. The counts below are read off the
last version's plot of activity (a line is 2e6 events wide). Neurons are counted as updated about twice in each of the 10,000
steps that the notebook asks for, so its counters may cover 10,000 or 20,000 steps; both are taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from neurodeploy.hardware.loading import load_profile
from neurodeploy.mapping.energy import figures_of

STEPS_OF_AN_INFERENCE = 16
STEPS_COUNTED = (10_000, 20_000)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Printed by one version of the notebook: inferences in a second, and dynamic and static power of the chip."""

    commit: str
    inferences_per_s: float
    dynamic_w: float
    static_w: float

    @property
    def step_s(self) -> float:
        """Mean time of a step."""
        return 1 / (self.inferences_per_s * STEPS_OF_AN_INFERENCE)

    @property
    def step_j(self) -> float:
        """Mean dynamic energy of a step."""
        return self.dynamic_w * self.step_s


RUNS = (
    Run(commit="76c8fbb", inferences_per_s=415.51, dynamic_w=0.233617, static_w=0.178059),
    Run(commit="baa23ad", inferences_per_s=413.76, dynamic_w=0.443005, static_w=0.309377),
    Run(commit="b9e3691", inferences_per_s=408.91, dynamic_w=0.447156, static_w=0.232078),
)


@dataclass(frozen=True, kw_only=True)
class Cores:
    """Cores of one layer: their number, their neurons together, and events of each core in the whole run."""

    n: int
    neurons: int
    synops: float
    messages_out: float
    messages_in: float


CORES = (
    Cores(n=15, neurons=161, synops=0, messages_out=0, messages_in=2e6),
    Cores(n=2, neurons=20 * 2 * 64, synops=0.335e9, messages_out=6e6, messages_in=4e6),
    Cores(n=3, neurons=22 * 4 * 64, synops=0.503e9, messages_out=2e6, messages_in=4e6),
    Cores(n=3, neurons=24 * 7 * 48, synops=1.507e9, messages_out=4e6, messages_in=22e6),
    Cores(n=12, neurons=24_900, synops=1.31e9, messages_out=6e6, messages_in=25e6),
    Cores(n=1, neurons=1_560, synops=0.44e9, messages_out=2e6, messages_in=8e6),
    Cores(n=25, neurons=99 * 32 * 24, synops=0, messages_out=12e6, messages_in=0),
    Cores(n=13, neurons=200 * 66 * 3, synops=0, messages_out=0, messages_in=0),
)
"""Of the printed table of cores and the plot of activity, from the last layers to the input."""


def estimated(profile: str, steps: int) -> tuple[float, float]:
    """Energy (J) and time (s) of a step of the notebook's network by a profile's figures, if its counters cover so many steps."""
    figures = figures_of(load_profile(profile))
    assert figures is not None
    energy, longest = 0.0, 0.0
    for cores in CORES:
        neurons, synops = cores.neurons / cores.n, cores.synops / steps
        out, arriving = cores.messages_out / steps, cores.messages_in / steps
        sending = {"neuron_access": neurons, "neuron_update": neurons, "neuron_spike": out, "message_out": out}
        receiving = {"message_in": arriving, "synop_convolution": synops}
        energy += cores.n * sum(n * figures.cost(kind).energy_j for kind, n in (sending | receiving).items())
        for queue in (sending, receiving):
            longest = max(longest, sum(n * figures.cost(kind).time_s for kind, n in queue.items()))
    return energy, longest + figures.sync_s(len(CORES))


def ratios(profile: str) -> tuple[list[float], list[float]]:
    """Measured over estimated energy, and time, of each run and each number of steps that the counters may cover."""
    pairs = [(run, *estimated(profile, steps)) for run in RUNS for steps in STEPS_COUNTED]
    return [run.step_j / energy for run, energy, _ in pairs], [run.step_s / time for run, _, time in pairs]


def main() -> None:
    """Print what was measured, and how often what is estimated."""
    print("| commit | dynamic energy a step | time a step | counters cover | estimated | measured / estimated |")
    print("|---|---|---|---|---|---|")
    for run in RUNS:
        for steps in STEPS_COUNTED:
            energy, time = estimated("loihi2", steps)
            print(
                f"| {run.commit} | {run.step_j * 1e6:.1f} uJ | {run.step_s * 1e6:.0f} us | {steps:,} steps "
                f"| {energy * 1e6:.1f} uJ, {time * 1e6:.0f} us | {run.step_j / energy:.2f}, {run.step_s / time:.2f} |"
            )


if __name__ == "__main__":
    main()
