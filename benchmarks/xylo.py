"""The whole way to Xylo: digits and spoken digits, trained, compressed under the chip's limits, in its integers, in XyloSim.

``python -m benchmarks.xylo --data spoken_digits.npz --out ROWS.jsonl`` measures both tasks with three seeds; without ``--data``
digits alone. Settings were chosen with ``--held-out``, which keeps the test recordings out of everything.

The file has the recordings of the Free Spoken Digit Dataset (Jackson 2018; six speakers, 50 of each digit): `samples`, int16 at
`rate_hz`, one recording after the other; `end` of each; `label`, `speaker` and `recording` (0..49 of a speaker and digit).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import butter, sosfilt

import neurodeploy as nd
from benchmarks.placement.rows import append
from neurodeploy.training.batches import Batches, DataSplit

N_READOUTS, N_INPUTS = 8, 16
SHIFTS = (1.0, 2.0, 3.0, 4.0)
"""Decays of the currents, a quarter of the neurons each."""
STEP_S, N_STEPS = 0.010, 64
"""Of a recording; what is longer is cut: one in fifteen is."""
LOWEST_HZ, HIGHEST_HZ = 100.0, 3900.0
QUIETEST, LOUDEST = 0.003, 0.3
"""Mean amplitude of a band, of a recording whose largest sample is 1, at which its input never fires, and always."""


def codewords(n: int) -> torch.Tensor:
    """Codewords (n, 8) of 1 and -1 for up to 16 classes; two differ in four places at least: the extended Hamming code."""
    bits = (torch.arange(n)[:, None] >> torch.arange(4)) & 1
    # three parities, and the parity of all of these
    parity = torch.stack([bits[:, [0, 1, 3]].sum(1), bits[:, [0, 2, 3]].sum(1), bits[:, [1, 2, 3]].sum(1)], dim=1) & 1
    seven = torch.cat([bits, parity], dim=1)
    return 1.0 - 2.0 * torch.cat([seven, seven.sum(1, keepdim=True) & 1], dim=1)


def decoded(outputs: torch.Tensor) -> torch.Tensor:
    """Scores of ten classes from eight mean membranes: how well they agree with each codeword."""
    return outputs.mean(dim=0) @ codewords(10).T.to(outputs)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A data set, the model for it, and how it trains.

    Attributes
    ----------
    neurons : int
    memory : float
        Share of a readout's membrane that stays in each step.
    options : FitOptions
    classes : int
        The first digits; of eight each has a readout of its own, ten are coded by all readouts together.
    """

    neurons: int
    memory: float
    options: nd.FitOptions
    classes: int = N_READOUTS


SPOKEN = nd.FitOptions(epochs_dense=20, epochs_compress=12, epochs_finetune=8, learning_rate=1e-3, readout="mean")
TASKS = {
    "digits": Task(
        neurons=160, memory=1 - 1 / 16,
        options=nd.FitOptions(
            epochs_dense=20, epochs_compress=12, epochs_finetune=8, learning_rate=4e-3, readout="last", mask_interval=5
        ),
    ),
    # short memories: the host takes the mean over time, and what a membrane adds up has to fit 16 bits beside its weights
    "spoken digits": Task(neurons=200, memory=1 - 1 / 4, options=SPOKEN),
    "ten spoken digits": Task(neurons=200, memory=1 - 1 / 4, options=replace(SPOKEN, readout=decoded), classes=10),
}  # fmt: skip


class Recurrent(torch.nn.Module):
    """Recurrent neurons that reset by subtraction, with currents of several time constants, and membranes as readouts."""

    def __init__(self, task: Task, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        n = task.neurons
        shifts = torch.tensor(SHIFTS).repeat_interleave(n // len(SHIFTS))
        # slow currents add up to more: with a higher threshold their weights are as large as the others'
        self.keeps, self.threshold, self.memory = 1 - 2**-shifts, 2 ** (shifts - 1), task.memory
        self.first, self.loop = torch.nn.Linear(N_INPUTS, n, bias=False), torch.nn.Linear(n, n, bias=False)
        self.last = torch.nn.Linear(n, N_READOUTS, bias=False)
        with torch.no_grad():
            self.first.weight.mul_(2.0)
            self.loop.weight.mul_(0.2)

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        """Take one step."""
        if state is None:
            rest = x.new_zeros(len(x), len(self.keeps))
            state = rest, rest, rest, x.new_zeros(len(x), N_READOUTS)
        spikes, i, v, out = state
        i = self.keeps * i + self.first(x) + self.loop(spikes)
        v = 0.5 * v + i
        spikes = (v >= self.threshold).float()
        v = v - spikes * self.threshold
        out = self.memory * out + self.last(spikes)
        return out, (spikes, i, v, out)


# ---------------------------------------------------------------------------------------------- data


def digits(*, held_out: bool) -> DataSplit:
    """Digits 0..7 of 8 x 8 pixels, two rows at a time into 16 inputs, each pair for six steps."""
    data, halves = nd.load_data("digits"), []
    for batches in data.for_choices(seed=0)[:2] if held_out else data[:2]:
        targets = batches.targets
        few = torch.nonzero(targets < N_READOUTS)[:, 0]
        images = batches.inputs[few]
        spikes = nd.encode(images.reshape(len(few), 4, N_INPUTS), 6).movedim(1, 2).flatten(1, 2)
        halves.append(Batches(spikes, targets[few], 64))
    return DataSplit(train=halves[0], test=halves[1], input_shape=(24, N_INPUTS), n_classes=N_READOUTS)


def band_amplitudes(samples: NDArray[Any], rate_hz: int) -> NDArray[np.float32]:
    """Mean amplitude of each band in each step, (N_STEPS, 16), of a recording scaled to a largest sample of 1."""
    sound = samples.astype(np.float64) / max(float(np.abs(samples.astype(np.float64)).max()), 1.0)
    edges, hop = np.geomspace(LOWEST_HZ, HIGHEST_HZ, N_INPUTS + 1), round(STEP_S * rate_hz)
    bands = (butter(2, pair, "bandpass", fs=rate_hz, output="sos") for pair in pairwise(edges))
    rectified = np.stack([np.abs(sosfilt(band, sound)) for band in bands])
    n, found = min(rectified.shape[1] // hop, N_STEPS), np.zeros((N_STEPS, N_INPUTS), np.float32)
    found[:n] = rectified[:, : n * hop].reshape(N_INPUTS, n, hop).mean(axis=2).T
    return found


def as_spikes(amplitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Spikes (n, N_STEPS, 16) of neurons that integrate the logarithm of an amplitude, at most one a step."""
    level = np.log(np.maximum(amplitudes, 1e-9) / QUIETEST) / np.log(LOUDEST / QUIETEST)
    total = np.floor(np.cumsum(np.clip(level, 0, 1), axis=1) + 0.5)
    return np.diff(total, axis=1, prepend=0.0).astype(np.float32)


def spoken_digits(path: Path, classes: int = N_READOUTS, *, held_out: bool) -> DataSplit:
    """Recordings of the first digits. Test: recordings 0-4 of each speaker and digit, or 5-9 of the rest where held out."""
    with np.load(path) as file:
        arrays = dict(file)
    sounds, rate_hz = np.split(arrays["samples"], arrays["end"][:-1]), int(arrays["rate_hz"])
    few = np.flatnonzero(arrays["label"] < classes)
    spikes = torch.from_numpy(as_spikes(np.stack([band_amplitudes(sounds[k], rate_hz) for k in few])))
    labels, number = torch.from_numpy(arrays["label"][few].astype(np.int64)), arrays["recording"][few]
    is_test = (number >= 5) & (number < 10) if held_out else number < 5
    is_train = number >= (10 if held_out else 5)
    train, test = (Batches(spikes[which], labels[which], 64) for which in map(np.flatnonzero, (is_train, is_test)))
    return DataSplit(train=train, test=test, input_shape=(N_STEPS, N_INPUTS), n_classes=classes)


# ---------------------------------------------------------------------------------------------- the whole way


def measure(name: str, data: DataSplit, seed: int, samples: int) -> dict[str, Any]:
    """Train, compress and deploy with one seed; compare the test set's first samples with XyloSim where it is installed."""
    task, started = TASKS[name], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        made = nd.compress(
            Recurrent(task, seed), torch.zeros(1, N_INPUTS), nd.load_profile("xylo"), data, replace(task.options, seed=seed),
            out=folder, lava_samples=samples,
        )  # fmt: skip
    accuracy, found = made.report.accuracy, made.report.lava
    row: dict[str, Any] = {
        "table": "xylo", "data": name, "classes": task.classes, "seed": seed, "neurons": task.neurons,
        "steps": data.input_shape[0], "n_test": accuracy.test_samples,
    }  # fmt: skip
    row |= {stage: getattr(accuracy, stage) for stage in ("dense", "compressed", "quantized", "emulated")}
    row |= {"kept": made.quantized.connectivity, "fan_out": max(made.placement.layer_usage["fan_out_per_neuron"].values())}
    if found is not None:
        row |= {"samples": accuracy.lava_samples, "compared_steps": found.steps, "mismatches": found.mismatches}
    return row | {"seconds": round(time.process_time() - started, 1)}


def spread(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and standard deviation over the seeds, stage by stage."""
    for stage in ("dense", "compressed", "quantized", "emulated"):
        values = np.array([row[stage] for row in rows]) * 100
        yield f"{stage} {values.mean():.2f} +- {values.std(ddof=1) if len(rows) > 1 else 0:.2f} %"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="The whole way to Xylo")
    parser.add_argument("--data", type=Path, help="the .npz file of spoken digits; without it, digits of pixels alone")
    parser.add_argument("--tasks", nargs="*", choices=list(TASKS), help="all whose data are there by default")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--samples", type=int, default=20, help="first test samples that run in XyloSim, too")
    parser.add_argument("--held-out", action="store_true", help="test on a part of the training data, to choose settings")
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in arguments.tasks or [name for name in TASKS if name == "digits" or arguments.data]:
        if name == "digits":
            data = digits(held_out=arguments.held_out)
        elif arguments.data is None:
            parser.error("spoken digits are in a file: give --data FILE.npz")
        else:
            data = spoken_digits(arguments.data, TASKS[name].classes, held_out=arguments.held_out)
        rows = []
        for seed in arguments.seeds:
            rows.append(measure(name, data, seed, arguments.samples) | {"held_out": arguments.held_out})
            append(rows[-1], arguments.out)
        print(f"{name}: {', '.join(spread(rows))}", flush=True)


if __name__ == "__main__":
    main()
