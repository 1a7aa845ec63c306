"""Compression keeps a chip's limit on the synapses from one neuron: those of most saliency stay, what is fixed counts first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, LIFRecurrentCell, SequentialState

import neurodeploy as nd
from neurodeploy.compression.pruning_method import within_fan_out
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.compression.weight_matrices import find_layers
from neurodeploy.errors import PlacementError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Dense, Layer, Network
from neurodeploy.mapping.place import lay_out
from neurodeploy.training.batches import DataSplit

MakeChip = Callable[..., HardwareProfile]
OPTIONS = nd.FitOptions(epochs_dense=1, epochs_compress=2, epochs_finetune=1, n_steps=5, mask_interval=1)
WHOLE = {"synapse_memory_bits_per_core": 100_000, "neurons_per_core": 200, "input_axons_per_core": 500}
DECAYS = {"current_decay": np.array(0.5), "voltage_decay": np.array(0.2), "rest": np.zeros(())}


def layer(name: str, n: int, *connections: Connection[Any]) -> Layer:
    is_last = name == "out"
    neuron = LI(**DECAYS) if is_last else LIF(threshold=np.array(1.0), **DECAYS)
    return Layer(name=name, shape=(n,), neuron=neuron, connections=connections, bias=np.zeros(()))


def tangled() -> Network:
    """Five neurons onto themselves (recurrent, and each onto itself by a weight that is fixed), six others and the output."""
    rng = np.random.default_rng(0)

    def dense(source: str, n_out: int, n_in: int) -> Connection[Any]:
        return Connection(source=source, synapse=Dense(weight=rng.normal(size=(n_out, n_in))))

    own = Connection(source="a", synapse=Dense(weight=-np.eye(5)), is_fixed=True, delay_steps=1)
    return Network(
        input_shape=(9,), timestep_s=1e-3,
        layers=(
            layer("a", 5, dense(INPUT, 5, 9), dense("a", 5, 5), own), layer("b", 6, dense("a", 6, 5)),
            layer("out", 3, dense("b", 3, 6), dense("a", 3, 5)),
        ),
    )  # fmt: skip


def test_of_each_neuron_the_synapses_of_highest_score_stay(make_chip: MakeChip) -> None:
    model = TrainableNetwork(tangled())
    layers = find_layers(model, nd.share_budget(tangled(), make_chip(**WHOLE)))
    rng = np.random.default_rng(1)
    scores = {name: rng.random(tuple(matrix.weight.shape)) for name, matrix in layers.items()}
    allowed = within_fan_out(model, layers, scores, 6)
    # neurons of a: columns 9..13 of a's own matrix (behind its 9 inputs), all of b's, the last five of the output's
    places = {"a": slice(9, 14), "b": slice(0, 5), "out": slice(6, 11)}
    for neuron in range(5):
        of_neuron = np.concatenate([scores[name][:, columns][:, neuron] for name, columns in places.items()])
        kept = np.concatenate([allowed[name][:, columns][:, neuron] for name, columns in places.items()])
        assert kept.sum() == 5  # and the fixed one
        assert of_neuron[kept].min() > of_neuron[~kept].max()
    assert allowed["a"][:, :9].all()  # input is no neuron of the chip
    assert allowed["out"][:, :6].all()  # three synapses are within six


def test_the_best_synapse_of_each_layer_stays_and_the_limit_comes_into_force_step_by_step(make_chip: MakeChip) -> None:
    model = TrainableNetwork(tangled())
    layers = find_layers(model, nd.share_budget(tangled(), make_chip(**WHOLE)))
    scores = {name: np.full(tuple(matrix.weight.shape), 1.0) for name, matrix in layers.items()}
    scores["out"] *= 1e-9
    scores["out"][2, 7] = 2e-9
    assert not within_fan_out(model, layers, scores | {"out": scores["out"] * 0}, 3)["out"][:, 7].any()
    assert within_fan_out(model, layers, scores, 3)["out"][2, 7]
    counts = [sum(int(mask.sum()) for mask in within_fan_out(model, layers, scores, 3, at).values()) for at in (0, 0.3, 0.7, 1)]
    assert counts[0] == sum(score.size for score in scores.values())
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 4


class Branches(torch.nn.Module):
    """A recurrent layer whose spikes, and their sum with the input of another, go two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = LIFRecurrentCell(8, 12), torch.nn.Linear(12, 12, bias=False)
        self.cell, self.last, self.out = LIFCell(), torch.nn.Linear(12, 4, bias=False), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        a, b, c = state or (None,) * 3
        spikes, a = self.first(x, a)
        inner, b = self.cell(self.second(spikes), b)
        out, c = self.out(self.last(inner + spikes), c)
        return out, (a, b, c)


@pytest.mark.parametrize("method", ["minimax", "minimax-saddle"])
def test_a_network_over_the_limit_is_compressed_into_it(method: str, make_chip: MakeChip, tmp_path: Any) -> None:
    chip = make_chip(**WHOLE, fan_out_per_neuron=9)
    torch.manual_seed(0)
    model, sample = Branches(), torch.zeros(1, 8)
    network = nd.extract(model, sample)
    assert [(o.resource, o.need) for o in lay_out(network, chip).overruns()] == [("fan_out", 12 + 11 + 4)]
    batches = [(torch.rand(8, 8, generator=torch.Generator().manual_seed(k)), torch.arange(8) % 4) for k in range(3)]
    data = DataSplit(train=batches, test=batches, input_shape=(8,), n_classes=4)
    made = nd.compress(model, sample, chip, data, OPTIONS, out=tmp_path, method=method, lava_samples=0)
    assert made.placement.fits
    assert max(made.placement.layer_usage["fan_out_per_neuron"].values()) <= 9
    assert made.quantized.connectivity > 0.2
    assert all(c.synapse.fan_in().any() for layer in made.quantized for c in layer.connections)


def test_what_a_window_sends_is_not_pruned_and_refused_before_training(make_chip: MakeChip, tmp_path: Any) -> None:
    chip = make_chip(**WHOLE, fan_out_per_neuron=9)
    model = SequentialState(
        torch.nn.Conv2d(1, 2, 3, bias=False), LIFCell(), torch.nn.Conv2d(2, 3, 3, padding=1, bias=False), LIFCell(),
        torch.nn.Flatten(), torch.nn.Linear(48, 2, bias=False), LICell(),
    )  # fmt: skip
    batch = torch.rand(4, 1, 6, 6), torch.arange(4) % 2
    data, steps = DataSplit(train=[batch], test=[batch], input_shape=(1, 6, 6), n_classes=2), list[Any]()
    with pytest.raises(PlacementError, match=r"27 synapses from one neuron > 9 .*`compress` prunes dense layers"):
        nd.compress(model, torch.zeros(1, 1, 6, 6), chip, data, OPTIONS, out=tmp_path, progress=steps.append)
    assert not steps
    seen = nd.inspect(nd.extract(model, torch.zeros(1, 1, 6, 6)), chip)
    assert seen.compressible.startswith("Compressible: no. layer 'layer0': 27 synapses from one neuron > 9")
    dense = nd.inspect(nd.extract(torch.nn.Sequential(torch.nn.Linear(4, 3), LIFCell(), torch.nn.Linear(3, 12), LICell()),
                                  torch.zeros(1, 4)), chip)  # fmt: skip
    assert not dense.fits
    assert dense.compressible == "Compressible: yes."
