"""Digits on Xylo: streamed into 16 inputs, trained, compressed under the chip's limits, in its integers, equal to XyloSim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from xylo_runs import needs_xylosim

import neurodeploy as nd
from neurodeploy.targets.xylo import specification
from neurodeploy.training.batches import Batches, DataSplit

XYLO_CHIP = nd.load_profile("xylo")
SAMPLE = torch.zeros(1, 16)
STEPS = 4
"""Of each pair of rows: a pixel of 4 levels fires up to so many times."""
OPTIONS = nd.FitOptions(
    epochs_dense=5, epochs_compress=3, epochs_finetune=2, learning_rate=8e-3, readout="last", mask_interval=5
)  # fmt: skip


class Streamed(torch.nn.Module):
    """16 inputs, recurrent neurons that reset by subtraction, 8 membranes; currents of four time constants."""

    def __init__(self, n: int = 72) -> None:
        super().__init__()
        shifts = torch.tensor([1.0, 2.0, 3.0, 4.0]).repeat_interleave(n // 4)
        self.keeps, self.threshold = 1 - 2**-shifts, 2 ** (shifts - 1)
        self.first, self.loop = torch.nn.Linear(16, n, bias=False), torch.nn.Linear(n, n, bias=False)
        self.last = torch.nn.Linear(n, 8, bias=False)
        with torch.no_grad():
            self.first.weight.mul_(2.0)
            self.loop.weight.mul_(0.1)

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        if state is None:
            rest = x.new_zeros(len(x), len(self.keeps))
            state = rest, rest, rest, x.new_zeros(len(x), 8)
        spikes, i, v, out = state
        i = self.keeps * i + self.first(x) + self.loop(spikes)
        v = 0.5 * v + i
        spikes = (v >= self.threshold).float()
        v = v - spikes * self.threshold
        out = 0.9375 * out + self.last(spikes)
        return out, (spikes, i, v, out)


def streamed() -> DataSplit:
    """Digits 0..7, for 8 readouts: two rows of pixels at a time, each for `STEPS` steps."""
    digits, halves = nd.load_data("digits"), []
    for batches in (digits.train, digits.test):
        assert isinstance(batches, Batches)
        few = torch.nonzero(batches.targets < 8)[:, 0]
        rows = nd.encode(batches.inputs[few].reshape(len(few), 4, 16), STEPS)
        halves.append(Batches(rows.movedim(1, 2).flatten(1, 2), batches.targets[few], 64))
    return DataSplit(train=halves[0], test=halves[1], input_shape=(4 * STEPS, 16), n_classes=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nd.Deployment:
    torch.manual_seed(0)
    return nd.compress(
        Streamed(), SAMPLE, XYLO_CHIP, streamed(), OPTIONS, out=tmp_path_factory.mktemp("made"), lava_samples=0
    )  # fmt: skip


def test_digits_keep_their_accuracy_in_the_integers_of_the_chip(trained: nd.Deployment) -> None:
    accuracy = trained.report.accuracy
    assert accuracy.dense is not None
    assert accuracy.emulated is not None
    assert accuracy.dense > 0.75
    assert accuracy.emulated > 0.85
    assert accuracy.emulated > accuracy.dense - 0.05


def test_they_are_within_the_limits_of_the_chip(trained: nd.Deployment) -> None:
    before = nd.inspect(nd.extract(Streamed(), SAMPLE), XYLO_CHIP).placement
    assert [(overrun.resource, overrun.need, overrun.limit) for overrun in before.overruns()] == [("fan_out", 80, 64)]
    assert trained.placement.fits
    assert 32 < max(trained.placement.layer_usage["fan_out_per_neuron"].values()) <= 64


@needs_xylosim
def test_they_are_equal_to_xylosim(trained: nd.Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specification, "run_worker", lambda *run: specification.work(run[2]))
    spikes = np.moveaxis(next(iter(streamed().test))[0][:8].numpy(), 1, -1)
    ours, theirs = (nd.simulate(trained.quantized, spikes, end=end, record="all") for end in ("emulator", "xylosim"))
    assert nd.compare(ours, theirs).equal
    assert ours.spikes["first"].sum() > 1000


def test_a_trained_model_is_compressed_from_its_own_weights(tmp_path: Path) -> None:
    """Not from weights drawn to find out where they are; what fits and is not trained any more is that model in integers."""
    torch.manual_seed(0)
    model = Streamed(n=48)
    with torch.no_grad():
        model.loop.weight[:, ::2] = 0.0
    options = nd.FitOptions(epochs_dense=0, epochs_compress=0, epochs_finetune=0, readout="last")
    made = nd.compress(model, SAMPLE, XYLO_CHIP, streamed(), options, out=tmp_path, lava_samples=0)
    floats, meant = (nd.dequantize(each) for each in (made.quantized, nd.quantize(nd.extract(model, SAMPLE), XYLO_CHIP)))
    for ours, theirs in zip(floats, meant, strict=True):
        for one, other in zip(ours.connections, theirs.connections, strict=True):
            # scales differ: compression chooses them for the squared error
            assert np.corrcoef(one.synapse.matrix().ravel(), other.synapse.matrix().ravel())[0, 1] > 0.99
