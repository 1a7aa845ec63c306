"""The synthetic connectome has the size, the degrees, the mutual pairs and the modules that are published for the fly's."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.placement.flywire import CONTACTS, NEURONS, PAIRS, flywire, module_starts
from neurodeploy.ir.quantized import QuantizedNetwork, QuantizedSparse


def recurrent(network: QuantizedNetwork) -> QuantizedSparse:
    synapse = network["brain"].connections[1].synapse
    assert isinstance(synapse, QuantizedSparse)
    return synapse


def ends(synapse: QuantizedSparse) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of each pair."""
    return synapse.sources.astype(np.int64), np.repeat(np.arange(synapse.n_in), np.diff(synapse.starts))


def test_a_small_one_has_the_size_it_is_asked_for() -> None:
    network = flywire(neurons=2000)
    synapse = recurrent(network)
    source, target = ends(synapse)
    assert synapse.n_synapses == PAIRS * 2000 // NEURONS
    assert (source != target).all()
    assert [c.source for c in network["brain"].connections] == ["input", "brain"]
    assert network["brain"].connections[0].synapse.n_synapses == 1000


def test_a_tiny_one_is_half_full() -> None:
    assert recurrent(flywire(neurons=100)).n_synapses == 100 * 99 // 2


def test_a_seed_gives_one_brain() -> None:
    assert flywire(neurons=500) == flywire(neurons=500)
    assert flywire(neurons=500) != flywire(neurons=500, seed=1)


def test_a_neuron_excites_all_its_targets_or_none() -> None:
    synapse = recurrent(flywire(neurons=2000))
    source, _target = ends(synapse)
    excites = np.bincount(source, weights=synapse.weight > 0, minlength=2000)
    assert np.isin(excites / np.maximum(np.bincount(source, minlength=2000), 1), (0, 1)).all()
    assert synapse.weight.min() == -254
    assert synapse.weight.max() == 254


def test_modules_part_the_neurons() -> None:
    modules, regions = module_starts(NEURONS)
    assert len(modules) - 1 == 78
    assert (np.diff(modules) > 100).all()
    assert regions[0] == modules[0] == 0
    assert regions[-1] == modules[-1] == NEURONS
    assert regions[2] / NEURONS == pytest.approx(0.618, abs=1e-3)


@pytest.mark.slow
def test_the_whole_one_is_as_irregular_as_the_flys() -> None:
    synapse = recurrent(flywire())
    source, target = ends(synapse)
    assert synapse.n_synapses == PAIRS
    sources, targets = np.diff(synapse.starts), np.bincount(source, minlength=NEURONS)
    assert np.median(sources) == pytest.approx(69, rel=0.05)
    assert np.percentile(sources, 99) == pytest.approx(661, rel=0.07)
    assert sources.max() == pytest.approx(10_356, rel=0.15)
    assert np.median(targets) / targets.mean() == pytest.approx(12 / 20.88, rel=0.05)
    assert np.percentile(targets, [90, 99, 99.9]) / targets.mean() == pytest.approx(np.array([43, 138, 466]) / 20.88, rel=0.1)
    assert targets.max() == pytest.approx(2 * 6399, rel=0.15)
    there, back = target * NEURONS + source, np.sort(source * NEURONS + target)
    mutual = back[np.minimum(np.searchsorted(back, there), back.size - 1)] == there
    assert mutual.mean() == pytest.approx(0.266, abs=0.01)
    central = module_starts(NEURONS)[1][2]
    assert ((source < central) != (target < central)).mean() == pytest.approx(0.066, abs=0.01)
    counts = np.abs(synapse.weight) // 2
    assert [(counts >= n).mean() for n in (2, 5, 10)] == pytest.approx([0.503, 0.179, 0.0707], abs=0.001)
    assert counts.mean() == pytest.approx(54_492_922 / PAIRS, rel=0.03)
    assert (synapse.weight > 0).mean() == pytest.approx(0.60, abs=0.02)


@pytest.mark.slow
def test_fifty_million_can_be_had() -> None:
    assert recurrent(flywire(synapses="contacts")).n_synapses == CONTACTS
