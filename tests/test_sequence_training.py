"""Modules that take whole sequences train densely as their authors call them, batch norm included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from norse.torch import LICell, LIFCell

import neurodeploy as nd
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.fit import SequenceModel, dense_model

N_STEPS = 5
IMAGES = torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))
DATA = [(IMAGES, torch.arange(16) % 4)]
OPTIONS = nd.FitOptions(n_steps=N_STEPS, epochs_dense=2, epochs_compress=1, epochs_finetune=0, learning_rate=0.01)


class Sequences(torch.nn.Module):
    """Convolutions and batch norms over all steps at once, or step by step; neurons step by step; `how` the output goes out."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4)
        self.last, self.how, self.lif, self.out = torch.nn.Linear(64, 4, bias=False), how, LIFCell(), LICell()
        with torch.no_grad():
            self.norm.weight.mul_(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "batch first" in self.how:
            images = [self.norm(self.conv(x[:, t])) for t in range(x.shape[1])]
        else:
            images = self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2]).unbind()
        state: Any = None
        readout: Any = None
        outputs = []
        for one in images:
            spikes, state = self.lif(one, state)
            out, readout = self.out(self.last(spikes.flatten(1)), readout)
            outputs.append(out)
        steps = torch.stack(outputs)
        if "batch first" in self.how:
            return steps.transpose(0, 1)
        return {"every step": steps, "largest": steps.amax(0), "mean": steps.mean(0)}[self.how]


def sample(how: str) -> torch.Tensor:
    return torch.zeros(1, N_STEPS, 1, 6, 6) if "batch first" in how else torch.zeros(N_STEPS, 1, 1, 6, 6)


@pytest.mark.parametrize("how", ["every step", "batch first", "largest", "mean"])
def test_compress_trains_it_as_it_is(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, split, said = Sequences(how), DataSplit(DATA, DATA, (1, 6, 6), 4), []
    mean = model.norm.running_mean.clone()
    profile = nd.load_profile("loihi2")
    made = nd.compress(model, sample(how), profile, split, OPTIONS, cores=1, out=tmp_path, lava_samples=0, say=said.append)
    assert made.placement.fits
    assert (model.norm.running_mean != mean).any()  # the norm has learnt
    assert (tmp_path / "weights.safetensors").is_file()
    assert any("takes the mean over time: readout 'mean'" in line for line in said) is (how == "mean")


def test_a_step_of_a_sequence_model_is_that_of_its_network() -> None:
    for how in ("every step", "batch first", "largest"):
        torch.manual_seed(0)
        model = Sequences(how)
        network = nd.trainable(model, sample(how))
        trained, hint = dense_model(model, network, sample(how), DATA, OPTIONS)
        assert isinstance(trained, SequenceModel)
        assert not hint


def test_what_the_network_does_not_compute_trains_as_the_network_or_is_refused() -> None:
    class Softmax(Sequences):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).softmax(-1)

    model = Softmax("largest")
    network = nd.trainable(model, sample("largest"))
    with pytest.raises(nd.TrainingError, match=r"at 'norm': trains otherwise than it runs.*epochs_dense=0"):
        dense_model(model, network, sample("largest"), DATA, OPTIONS)
    model.norm = torch.nn.Identity()  # type: ignore[assignment]
    network = nd.trainable(model, sample("largest"))
    assert dense_model(model, network, sample("largest"), DATA, OPTIONS) == (network, "")
