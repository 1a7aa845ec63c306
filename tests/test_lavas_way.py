"""Halving layers until each piece fits, as Lava's compiler does."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.placement.lavas_way import Fits, Region, cores, halves, pieces
from benchmarks.placement.networks import mnist_2fc, vgg16_cifar
from neurodeploy.ir.quantized import QuantizedLayer


def size(region: Region) -> int:
    return int(np.prod([stop - start for start, stop in region]))


def at_most(neurons: int) -> Fits:
    return lambda _layer, region: size(region) <= neurons


def test_dense_layers_are_halved_along_their_neurons() -> None:
    layer = mnist_2fc().layers[0]
    assert pieces(layer, at_most(800)) == [((0, 800),)]
    assert pieces(layer, at_most(200)) == [((0, 200),), ((200, 400),), ((400, 600),), ((600, 800),)]
    assert pieces(layer, at_most(199)) == [((k, k + 100),) for k in range(0, 800, 100)]


def test_images_are_halved_across_their_longest_axis() -> None:
    assert halves(((0, 4), (0, 8), (2, 10))) == (((0, 4), (0, 4), (2, 10)), ((0, 4), (4, 8), (2, 10)))
    assert halves(((0, 5),)) == (((0, 3),), ((3, 5),))


def test_pieces_part_the_layer() -> None:
    layer = vgg16_cifar(connectivity=0.01).layers[4]
    regions = pieces(layer, at_most(1000))
    times = np.zeros(layer.shape, dtype=int)
    for region in regions:
        times[tuple(slice(*side) for side in region)] += 1
    assert (times == 1).all()
    assert all(500 < size(region) <= 1000 for region in regions)


def test_only_what_does_not_fit_is_halved_unless_evenly() -> None:
    layer = mnist_2fc().layers[0]

    def heavy_first(_layer: QuantizedLayer, region: Region) -> bool:
        return region[0][0] > 0 or size(region) <= 100

    assert pieces(layer, heavy_first) == [((400, 800),), ((200, 400),), ((0, 100),), ((100, 200),)]
    assert len(pieces(layer, heavy_first, evenly=True)) == 8


def test_layers_share_no_core() -> None:
    assert cores(mnist_2fc(), at_most(10_000)) == 2
    assert cores(mnist_2fc(), at_most(400)) == 3


def test_a_neuron_that_fits_nowhere_is_named() -> None:
    with pytest.raises(ValueError, match=r"layer 'fc1': the neuron at \[\d+\] cannot be halved, and does not fit a core"):
        cores(mnist_2fc(), at_most(0))
