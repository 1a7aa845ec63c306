"""The networks that placement is measured on have the sizes that are published for them, and folding averages is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.placement.drawing import Drawing, even_weights
from benchmarks.placement.networks import (
    HALA_POINT_LAYERS,
    NETWORKS,
    STDS_CONNECTIVITY,
    conv6_fc2,
    hala_point,
    million,
    mnist_2fc,
    resnet19_cifar,
    sew_resnet18_imagenet,
    vgg16_cifar,
)
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.quantized import QuantizedConv, QuantizedNetwork
from neurodeploy.targets.loihi.target import is_mixed, width_of


def published_weights(network: QuantizedNetwork, *, fold: dict[str, int]) -> int:
    """Weights as papers count them: shared ones once, folded averages taken out again, maxima and identities left out."""
    distinct = {
        id(c.synapse): c.synapse.weight.size // fold.get(layer.name, 1) ** 2
        for layer in network.layers
        for c in layer.connections
        if is_mixed(c.synapse.weight)
    }
    return sum(distinct.values())


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_are_legal_and_need_their_width(bits: int) -> None:
    weight = even_weights(np.random.default_rng(bits), (50, 50), bits)
    assert weight.all()
    assert is_mixed(weight)
    assert width_of(weight.astype(np.int64)) == bits
    assert weight.min() >= -256
    assert weight.max() <= 254


def test_connectivity_is_exact() -> None:
    assert np.count_nonzero(even_weights(np.random.default_rng(0), (13, 7), connectivity=0.3)) == round(0.3 * 91)
    network = mnist_2fc(connectivity={"fc1": 0.01, "fc2": 0.5})
    assert [layer.n_synapses for layer in network.layers] == [6272, 4000]


def test_a_seed_gives_one_network() -> None:
    assert mnist_2fc(seed=3, connectivity=0.2) == mnist_2fc(seed=3, connectivity=0.2)
    assert mnist_2fc(seed=3) != mnist_2fc(seed=4)


@pytest.mark.parametrize(("kernel", "padding", "stride", "pool"), [(3, 1, 1, 2), (1, 0, 1, 4), (3, 1, 2, 2), (5, 0, 1, 2)])
def test_folding_an_average_is_exact(kernel: int, padding: int, stride: int, pool: int) -> None:
    draw = Drawing((3, 24, 24), seed=1)
    draw.conv("conv", (INPUT,), 5, kernel=kernel, padding=padding, stride=stride, pool=pool)
    synapse = draw.layers[0].connections[0].synapse
    assert isinstance(synapse, QuantizedConv)
    weight = torch.tensor(synapse.weight, dtype=torch.float64)
    spikes = torch.tensor(np.random.default_rng(2).random((1, 3, 24, 24)) < 0.3, dtype=torch.float64)
    averages = torch.nn.functional.avg_pool2d(spikes, pool)
    expected = torch.conv2d(averages, weight[:, :, ::pool, ::pool], stride=stride, padding=padding)
    assert torch.equal(torch.conv2d(spikes, weight, stride=synapse.stride, padding=synapse.padding), expected * pool**2)


def test_a_maximum_is_a_layer_that_fires_where_torch_says() -> None:
    draw = Drawing((2, 8, 8), seed=0)
    draw.max_pool("pool", (INPUT,), 3, stride=2, padding=1)
    spikes = np.random.default_rng(0).random((2, 8, 8)) < 0.15
    layer = draw.layers[0]
    v = 64 * (layer.connections[0].synapse.matrix() @ spikes.reshape(-1).astype(np.int64))
    expected = torch.nn.functional.max_pool2d(torch.tensor(spikes[None], dtype=torch.float32), 3, stride=2, padding=1)
    assert np.array_equal(v > 64 * layer.neuron.vth, expected.numpy().reshape(-1) > 0)
    assert layer.neuron.du == layer.neuron.dv == 4096


def test_mnist_2fc() -> None:
    network = mnist_2fc()
    assert (network.n_synapses, network.n_neurons) == (635_200, 810)


def test_vgg16_has_its_published_weights() -> None:
    network = vgg16_cifar()
    averaged = dict.fromkeys(("conv2_1", "conv3_1", "conv4_1", "conv5_1", "fc"), 2)
    assert published_weights(network, fold=averaged) == 14_710_464 + 5_120
    assert len(network.layers) == 14
    maxima = vgg16_cifar(pooling="max", connectivity=0.05)
    assert published_weights(maxima, fold={}) == 14_710_464 + 5_120
    assert [layer.shape for layer in maxima.layers if layer.name.startswith("pool")] == [
        (64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2), (512, 1, 1),
    ]  # fmt: skip


def test_resnet19_has_its_published_weights() -> None:
    network = resnet19_cifar()
    normalisations_and_biases = 2 * (64 + 7 * 128 + 7 * 256 + 5 * 512) + 256 + 10
    assert published_weights(network, fold={"fc1": 8}) + normalisations_and_biases == 12_630_858  # "12.63 M"
    assert network["block1_2_conv2"].connections[1].synapse.n_synapses == 128 * 32 * 32
    assert network["fc1"].shape == (256, 1, 1)


def test_sew_resnet18_has_its_published_weights() -> None:
    network = sew_resnet18_imagenet(connectivity=0.1)
    normalisations_and_biases = 2 * (64 + 4 * 64 + 5 * (128 + 256 + 512)) + 1000
    assert published_weights(network, fold={"fc": 7}) + normalisations_and_biases == 11_689_512  # torchvision's resnet18
    assert (len(network.layers), sum(len(layer.connections) for layer in network.layers)) == (22, 40)
    assert [c.source for c in network["block2_1_down"].connections] == ["block1_2_conv2", "block1_1_conv2", "pool1"]
    assert len({id(c.synapse) for c in network["block2_1_down"].connections}) == 1
    assert network["block4_2_conv2"].shape == (512, 7, 7)


def test_a_million_neurons_are_within_one_loihi_2() -> None:
    network = million()
    assert 1_000_000 <= network.n_neurons <= 128 * 8192
    assert network.output.shape == (11,)


def test_hala_points_layers_share_their_weights() -> None:
    network = hala_point(layers=3)
    assert network.n_neurons == 3 << 20
    assert network.layers[1].connections[0].synapse is network.layers[2].connections[0].synapse


def test_hala_point_is_full() -> None:
    network = hala_point()
    assert len(network.layers) == HALA_POINT_LAYERS
    assert network.n_neurons == 1_150_287_872
    assert 0.999 < network.n_neurons / (140_544 * 8192) <= 1


@pytest.mark.slow
def test_conv6_fc2_has_its_published_weights() -> None:
    network = conv6_fc2(connectivity=STDS_CONNECTIVITY)
    assert published_weights(network, fold={"conv4": 2}) == 36_715_264
    kept = sum(layer.n_weights * layer.connectivity / (4 if layer.name == "conv4" else 1) for layer in network.layers)
    assert (kept - 256 * 4) / 36_715_264 == pytest.approx(0.0075, abs=5e-5)  # less the maxima's ones


def test_every_network_has_a_source() -> None:
    for name, benchmark in NETWORKS.items():
        assert benchmark.name == name
        assert len(benchmark.source.split()) > 5
        assert benchmark.build.__doc__
