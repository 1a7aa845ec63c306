"""Which networks placement is measured on: published architectures with random weights, and what fills a chip or a machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.placement.drawing import Connectivity, Drawing, Sources, even_weights
from benchmarks.placement.flywire import flywire
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import QuantizedConv, QuantizedLayer, QuantizedLIF, QuantizedNetwork


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A network by name: where its architecture is from, and what builds it."""

    name: str
    source: str
    build: Callable[..., QuantizedNetwork]


def mnist_2fc(*, seed: int = 0, connectivity: Connectivity = 1.0) -> QuantizedNetwork:
    """784-800-10: 635,200 weights."""
    draw = Drawing((784,), seed=seed, connectivity=connectivity)
    draw.dense("fc2", draw.dense("fc1", (INPUT,), 800), 10, fires=False)
    return draw.network()


STDS_CONNECTIVITY = {
    "conv1": 0.0216, "conv2": 0.0041, "conv3": 0.0141, "conv4": 0.0204, "conv5": 0.0215, "conv6": 0.0415,
    "fc1": 0.0051, "fc2": 0.2096,
}  # fmt: skip
"""What STDS (Chen et al., ICML 2022; the released logs) left of each layer of 6Conv+2FC on CIFAR-10, 0.75 % in all."""


def conv6_fc2(*, seed: int = 0, connectivity: Connectivity = 1.0, pooling: str = "average") -> QuantizedNetwork:
    """Six convolutions of 256 channels, pooled after the third and the sixth, 2048 and 100 neurons: 36,715,264 weights.

    `pooling` before conv4 is ``"average"``, folded into conv4 (`drawing.folded`), or ``"max"`` as published, a layer of its own.
    Before fc1 it is the maximum either way: folded, an average would quadruple fc1's 33.5 million weights.
    """
    draw = Drawing((3, 32, 32), seed=seed, connectivity=connectivity)
    heard: Sources = (INPUT,)
    for k in range(1, 7):
        heard, pool = _pooled(draw, "pool1", heard, pooling) if k == 4 else (heard, 1)
        heard = draw.conv(f"conv{k}", heard, 256, pool=pool)
    draw.dense("fc2", draw.dense("fc1", draw.max_pool("pool2", heard, 2, stride=2), 2048), 100)
    return draw.network()


VGG16_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_cifar(*, seed: int = 0, connectivity: Connectivity = 1.0, pooling: str = "average") -> QuantizedNetwork:
    """Thirteen convolutions in five stages, each pooled at its end, and one layer of 10: 14,710,464 + 5,120 weights.

    `pooling` is ``"average"``, folded into what follows (`drawing.folded`), or ``"max"`` as published, layers of their own.
    """
    draw = Drawing((3, 32, 32), seed=seed, connectivity=connectivity)
    heard: Sources = (INPUT,)
    for stage, widths in enumerate(VGG16_CHANNELS, start=1):
        for k, channels in enumerate(widths, start=1):
            first = k == 1 and stage > 1
            heard, pool = _pooled(draw, f"pool{stage - 1}", heard, pooling) if first else (heard, 1)
            heard = draw.conv(f"conv{stage}_{k}", heard, channels, pool=pool)
    heard, pool = _pooled(draw, "pool5", heard, pooling)
    draw.conv("fc", heard, 10, kernel=1, padding=0, pool=pool, fires=False)
    return draw.network()


def _pooled(draw: Drawing, name: str, heard: Sources, pooling: str) -> tuple[Sources, int]:
    """Spikes to hear after 2 x 2 pooling, and by how much whoever hears them has to average them."""
    if pooling == "max":
        return draw.max_pool(name, heard, 2, stride=2), 1
    return heard, 2


def resnet19_cifar(*, seed: int = 0, connectivity: Connectivity = 1.0) -> QuantizedNetwork:
    """ResNet-19 of spiking networks: 64 channels, blocks of 128 x 3, 256 x 3 and 512 x 2, then 256 and 10: 12.62 million weights.

    A block's second layer hears, beside its first, the block's input: pixel onto pixel (one synapse a neuron), or through a 1 x 1
    convolution where channels or sides change. The global average at the end is folded into the 256 (`drawing.folded`).
    """
    draw = Drawing((3, 32, 32), seed=seed, connectivity=connectivity)
    heard = draw.conv("conv1", (INPUT,), 64)
    for stage, (channels, blocks) in enumerate(((128, 3), (256, 3), (512, 2)), start=1):
        for block in range(1, blocks + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            name = f"block{stage}_{block}"
            inner = draw.conv(f"{name}_conv1", heard, channels, stride=stride)
            heard = draw.conv(f"{name}_conv2", inner, channels, shortcut=heard)
    heard = draw.conv("fc1", heard, 256, kernel=1, padding=0, pool=8)
    draw.conv("fc2", heard, 10, kernel=1, padding=0, fires=False)
    return draw.network()


def sew_resnet18_imagenet(*, seed: int = 0, connectivity: Connectivity = 1.0, side: int = 224) -> QuantizedNetwork:
    """SEW-ResNet-18 with ADD on 3 x 224 x 224: 11.68 million weights, 22 layers, 40 connections.

    A block gives the SUM of its own spikes and its input's. No layer holds that sum: whoever hears it has a connection from each
    summand, all with the same weights (one array). There are up to three: the spikes with which a stage begins (those of the
    maximum pooling, a layer of its own, or of the 1 x 1 convolution that changes channels and sides) and those of its two blocks.
    The global average is folded into the last layer (`drawing.folded`), so each of its weights stands 7 x 7 times.
    """
    draw = Drawing((3, side, side), seed=seed, connectivity=connectivity)
    heard = draw.conv("conv1", (INPUT,), 64, kernel=7, stride=2, padding=3)
    heard = draw.max_pool("pool1", heard, 3, stride=2, padding=1)
    for stage, channels in enumerate((64, 128, 256, 512), start=1):
        for block in (1, 2):
            name, begins = f"block{stage}_{block}", stage > 1 and block == 1
            inner = draw.conv(f"{name}_conv1", heard, channels, stride=2 if begins else 1)
            own = draw.conv(f"{name}_conv2", inner, channels)
            if begins:
                heard = draw.conv(f"{name}_down", heard, channels, kernel=1, stride=2, padding=0)
            heard = own + heard
    draw.conv("fc", heard, 1000, kernel=1, padding=0, pool=side // 32, fires=False)
    return draw.network()


def million(*, seed: int = 0, connectivity: Connectivity = 1.0) -> QuantizedNetwork:
    """A million neurons, 1,003,531, behind an event camera of 2 x 128 x 128: 96 % of the 128 x 8192 of one Loihi 2.

    Convolutions of 3 x 3 share their weights, so synapses are few beside neurons: with 64 bits of state a neuron (an assumption),
    a core full of neurons has 8192 x 64 bits of its 192 KB taken and 1 Mbit left for synapses and axons. Channels grow as sides
    halve.
    """
    draw = Drawing((2, 128, 128), seed=seed, connectivity=connectivity)
    heard: Sources = (INPUT,)
    for k, (channels, stride) in enumerate(((16, 1), (16, 1), (16, 1), (32, 2), (64, 2), (64, 2), (64, 2)), start=1):
        heard = draw.conv(f"conv{k}", heard, channels, stride=stride)
    draw.dense("fc", heard, 11, fires=False)
    return draw.network()


HALA_POINT_LAYERS = 1097
"""Layers of 2**20 neurons, 1,150,287,872 in all: Hala Point's 1.15 billion, 140,416 of its 140,544 cores with 8192 on each."""


def hala_point(*, seed: int = 0, layers: int = HALA_POINT_LAYERS) -> QuantizedNetwork:
    """A chain of convolutions, 3 x 3 on 16 x 256 x 256, that fills Hala Point; all layers but the first hold the same weights.

    16 channels and not more, so that a core can hold all of them for 512 pixels: with the lists clipped at its borders that is
    9 x 9 places of 16 x 16 weights, well within the megabit that 8192 neurons leave (see `million`). One array serves all layers,
    so it is drawn in a moment; whoever maps it must not count on that.
    """
    rng, shape = np.random.default_rng(seed), (16, 256, 256)
    neuron = QuantizedLIF(vth=np.array(148 * 4), du=np.array(4096), dv=np.array(2048))
    bias, scale = np.array(0), np.array(0.0)

    def synapse(image: tuple[int, int, int]) -> QuantizedConv:
        weight = even_weights(rng, (shape[0], image[0], 3, 3))
        return QuantizedConv(weight=weight, input_shape=image, padding=(1, 1), weight_bits=8)

    def layer(k: int, source: str, hears: QuantizedConv) -> QuantizedLayer:
        into: tuple[Connection[Any], ...] = (Connection(source=source, synapse=hears),)
        return QuantizedLayer(name=f"conv{k}", shape=shape, neuron=neuron, connections=into, bias=bias, scale=scale)

    first, other = synapse((2, 256, 256)), synapse(shape)
    chain = [layer(1, INPUT, first), *(layer(k, f"conv{k - 1}", other) for k in range(2, layers + 1))]
    return QuantizedNetwork(input_shape=(2, 256, 256), layers=tuple(chain))


NETWORKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="mnist-2fc", build=mnist_2fc,
            source="784-800-10 as in Chen et al. 2021 (Grad R, arXiv 2105.04916) and in arXiv 2308.04672",
        ),
        Benchmark(
            name="6conv2fc", build=conv6_fc2,
            source="arXiv 2308.04672, released code, networks/spiking_cifar10net.py: 6 x 256C3, FC2048, FC100; after Grad R",
        ),
        Benchmark(
            name="vgg16-cifar", build=vgg16_cifar,
            source="Simonyan and Zisserman 2015, configuration D; one last layer as in Kim et al. 2022, arXiv 2207.01382",
        ),
        Benchmark(
            name="resnet19-cifar", build=resnet19_cifar,
            source="Zheng et al. 2021 (arXiv 2011.05280), its first layer of 64 channels as in the code of Kim et al. 2022",
        ),
        Benchmark(
            name="sew-resnet18", build=sew_resnet18_imagenet,
            source="Fang et al. 2021 (arXiv 2102.04159), released code, imagenet/sew_resnet.py, connect_f ADD",
        ),
        Benchmark(name="million", build=million, source="made here: as many neurons as one Loihi 2 holds"),
        Benchmark(name="hala-point", build=hala_point, source="made here: Hala Point's 1.15 billion neurons (Intel, April 2024)"),
        Benchmark(name="flywire", build=flywire, source="made here after Dorkenwald et al. 2024 and Lin et al. 2024: flywire.py"),
    )
}  # fmt: skip
