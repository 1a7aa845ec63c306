"""`compress` plans with the relays that `inspect` places: as many cores, and relays that follow the neurons of their source."""

from __future__ import annotations

from pathlib import Path

import architectures
import numpy as np
import pytest
import torch
from conftest import with_values
from safetensors.torch import load_file
from spiking import few
from torch import nn

import neurodeploy as nd
from neurodeploy.compression.module_weights import trainable
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.mapping.place import lay_out
from neurodeploy.pipeline.compress import compress
from neurodeploy.pipeline.inspection import inspect
from neurodeploy.targets.simulate import random_spikes, simulate
from neurodeploy.training.batches import DataSplit

SAMPLE = torch.zeros(1, 1, 4, 4)
OPTIONS = nd.FitOptions(epochs_dense=0, epochs_compress=1, epochs_finetune=1, n_steps=4, learning_rate=0.01)
AXONS = {"input_axons_per_core": 4096, "output_axons_per_core": 4096}


def chip() -> nd.HardwareProfile:
    """Many cores whose memory is small next to the kernels."""
    return with_values(
        nd.load_profile("tiny"), cores_per_chip=32, neurons_per_core=512, synapse_memory_bits_per_core=20_000,
        index_bits=(6, 7, 8, 9), **AXONS,
    )  # fmt: skip


def residual() -> nn.Module:
    """Two blocks of SEW-ResNet: the spikes of the stem are read by three layers, at three depths."""
    torch.manual_seed(0)
    head = architectures.SequentialState(nn.Linear(8, 3), architectures.LIBoxCell())
    model = architectures.ResNet(architectures.SewBlock, architectures.conv_bn(1, 8), 8, [(8, 2, 1)], head)
    model.pool = nn.Identity()
    return architectures.lively(model)


def data() -> DataSplit:
    batches = [(images.reshape(-1, 1, 4, 4), labels) for images, labels in few(50, n_in=16)]
    return DataSplit(train=batches, test=batches, input_shape=(1, 4, 4), n_classes=3)


def compressed(cores: int, out: Path, **options: object) -> nd.Deployment:
    return compress(residual(), SAMPLE, chip(), data(), OPTIONS, cores=cores, out=out, lava_samples=0, **options)


def relays_of(made: nd.Deployment) -> list[str]:
    return [layer.name for layer in made.quantized if ".relay" in layer.name]


def test_compress_needs_the_cores_that_inspect_says(tmp_path: Path) -> None:
    network = extract(residual(), SAMPLE)
    seen = inspect(network, chip())
    cores = seen.placement.cores_used
    assert cores < lay_out(network, chip()).cores_used  # with delays alone
    said: list[str] = []
    made = compressed(cores, tmp_path, say=said.append)
    assert f"Fits: {cores} of {cores} cores." in said
    assert made.placement.fits
    assert made.placement.cores_used <= cores
    assert made.report.balances == seen.balances
    assert [f"stem.0.relay{k}" for k in range(1, 5)] == relays_of(made)[:4]
    # nothing had to be pruned, and each relay repeats what its source says
    assert [layer.shape for layer in made.quantized if ".relay" not in layer.name] == [layer.shape for layer in network]
    record = simulate(made.quantized, random_spikes((1, 4, 4), n_samples=2, n_steps=8), record="all")
    assert record.spikes["stem.0"].any()
    for relay in relays_of(made)[:4]:
        assert (record.spikes[relay] == record.spikes["stem.0"]).all()


@pytest.fixture(scope="module")
def narrowed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nd.Deployment, Path]:
    folder = tmp_path_factory.mktemp("narrowed")
    return compressed(3, folder), folder


def test_relays_lose_the_channels_of_their_source(narrowed: tuple[nd.Deployment, Path]) -> None:
    made, folder = narrowed
    assert made.placement.fits
    assert made.placement.cores_used <= 3
    assert made.quantized["stem.0"].shape[0] < 8
    assert relays_of(made)
    for relay in relays_of(made):
        assert made.quantized[relay].shape == made.quantized[relay.partition(".relay")[0]].shape
    # the report has every layer of the plan, and the model takes the trained weights back
    assert {layer.now.layer for layer in made.report.layers} >= set(relays_of(made))
    model = residual()
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    trained, integers = extract(model, SAMPLE)["blocks.1.conv2.0"], made.quantized["blocks.1.conv2.0"]
    assert np.count_nonzero(trained.connections[0].synapse.weight) >= np.count_nonzero(integers.connections[0].synapse.weight) > 0


@pytest.mark.slow
def test_a_resumed_run_with_relays_ends_in_the_same_network(narrowed: tuple[nd.Deployment, Path], tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 2:
            raise KeyboardInterrupt

    steps = 0
    with pytest.raises(KeyboardInterrupt):
        compressed(3, tmp_path, progress=stop, checkpoint_every_s=0)
    compressed(3, tmp_path, resume=True)
    assert (tmp_path / "model.net").read_bytes() == (narrowed[1] / "model.net").read_bytes()


class Early(nn.Module):
    """Spikes of one row of neurons, or of the input, lead into another row directly and through a third."""

    def __init__(self, n_first: int, n_deep: int, n_last: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.deep = nn.Linear(12, n_first, bias=False), nn.Linear(n_first, n_deep, bias=False)
        self.skip, self.last = nn.Linear(n_first, n_last, bias=False), nn.Linear(n_deep, n_last, bias=False)
        self.head, self.out = nn.Linear(n_last, 3, bias=False), architectures.LIBoxCell()
        self.lif1, self.lif2, self.lif3 = (architectures.lif() for _ in range(3))

    def forward(self, x: torch.Tensor, state: architectures.State = (None,) * 4) -> architectures.State:
        z, s1 = self.lif1(3 * self.first(x), state[0])
        deep, s2 = self.lif2(self.deep(z), state[1])
        y, s3 = self.lif3(self.last(deep) + self.skip(z), state[2])
        v, out = self.out(self.head(y), state[3])
        return v, (s1, s2, s3, out)


def test_spikes_wait_in_synapses_where_there_are_no_neurons_for_relays() -> None:
    network = trainable(Early(8, 3, 200), torch.zeros(1, 12)).network
    _, balances = nd.balance(network, chip())
    assert [(choice.source, choice.by) for choice in balances] == [("first", "relays")]
    assert list(nd.narrow_budget(network, chip(), cores=1, balances=balances).relays) == ["first.relay1"]
    # one core closes when less than 3 % of its neurons are left
    tight = with_values(chip(), neurons_per_core=network.n_neurons + 7)
    without = nd.narrow_budget(network, tight, cores=1, balances=balances)
    assert not without.relays
    assert not without.removals({layer.name: layer.n_neurons for layer in network})


def test_relays_lose_the_neurons_of_their_source(tmp_path: Path) -> None:
    """Where no synapse can delay a spike and the cores have too few neurons."""
    batches = few(50)
    never = with_values(chip(), max_delay_steps=0, neurons_per_core=30)
    model, split = Early(40, 20, 20), DataSplit(train=batches, test=batches, input_shape=(12,), n_classes=3)
    made = compress(model, torch.zeros(1, 12), never, split, OPTIONS, cores=3, out=tmp_path, lava_samples=0)
    assert made.placement.fits
    assert relays_of(made) == ["first.relay1"]
    assert made.quantized["first.relay1"].n_neurons == made.quantized["first"].n_neurons < 40
