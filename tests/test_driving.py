"""A first layer as an input population: the same spikes from raw input as from graded, at both ends; what cannot be one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFBoxCell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.lif_box import LIFBoxParameters
from numpy.typing import NDArray
from paper import in_integers, layer_of
from spiking import few

import neurodeploy as nd
from neurodeploy.errors import DataError, NetworkError
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import QuantizedConv, QuantizedLayer, QuantizedNetwork, QuantizedSparse
from neurodeploy.simulation.records import SpikeRecord, compare
from neurodeploy.targets.simulate import with_input_population
from neurodeploy.training.encoders import decide, in_levels

OPTIONS = nd.FitOptions(epochs_dense=40, n_steps=8, encoder="direct", learning_rate=0.02)


def trained() -> tuple[QuantizedNetwork, NDArray[np.int32], NDArray[np.int64]]:
    """A model that begins with neurons, trained on intensities themselves, in integers; and what it was not trained on."""
    torch.manual_seed(0)
    box = LIFBoxParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.4))
    lif = LIFParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.3))
    model = SequentialState(
        LIFBoxCell(box), torch.nn.Linear(12, 20, bias=False), LIFCell(lif), torch.nn.Linear(20, 3, bias=False), LICell()
    )
    nd.fit(model, None, few(), OPTIONS)
    network = in_levels(nd.extract(model, torch.zeros(1, 12)), 15)
    images, labels = (torch.cat(parts) for parts in zip(*few(seed=1), strict=True))
    return nd.quantize(network, nd.load_profile("loihi2")), nd.simulator_spikes(images, 8, "direct"), labels.numpy()


def without_first(record: SpikeRecord) -> SpikeRecord:
    kept = list(record.spikes)[1:]
    return replace(record, spikes={k: record.spikes[k] for k in kept}, v={k: record.v[k] for k in kept}, overflows={}, counts={})


@pytest.mark.lava
def test_a_model_trained_on_intensities_runs_by_biases_as_by_graded_spikes(tmp_path: Path) -> None:
    network, given, labels = trained()
    driven = with_input_population(network)
    assert nd.read_netx(nd.write_netx(driven, tmp_path / "model.net")) == driven
    graded = nd.simulate(network, given, graded=True, record="all")
    raw = nd.simulate(driven, given, raw=True, record="all")
    assert (decide(raw.v[driven.output.name], "max") == labels).mean() > 0.9
    assert min(int(spikes.sum()) for spikes in list(graded.spikes.values())[:2]) > 100
    assert compare(without_first(graded), raw).equal
    in_lava = nd.simulate(driven, given[:3], raw=True, record="all", end="lava")
    assert compare(nd.simulate(driven, given[:3], raw=True, record="all"), in_lava).equal


FIRST = layer_of([[3, 0], [0, 3]], name="first", vth=10, du=4096, dv=500, bias=1)
SECOND = layer_of([[2, 4]], name="second", source="first", vth=1)


def first_by(synapse: QuantizedSparse | QuantizedConv, shape: tuple[int, ...]) -> QuantizedLayer:
    return replace(FIRST, shape=shape, connections=(Connection(source=INPUT, synapse=synapse),))


def test_whatever_the_wiring_one_to_one_is_one_to_one() -> None:
    listed = QuantizedSparse(n_in=2, starts=np.arange(3), sources=np.arange(2), weight=np.array([3, 3]), weight_bits=8)
    window = QuantizedConv(weight=np.full((2, 1, 1, 1), 3), weight_bits=8, input_shape=(2, 1, 1), groups=2)
    networks = [
        QuantizedNetwork(input_shape=first.shape, layers=(first, SECOND))
        for first in (FIRST, first_by(listed, (2,)), first_by(window, (2, 1, 1)))
    ]
    for network in networks:
        driven = with_input_population(network)
        assert driven.encoder is not None
        assert (driven.encoder.weight, driven.encoder.bias, [layer.name for layer in driven]) == (3, 1, ["second"])
        given = np.random.default_rng(0).integers(0, 16, (2, *network.input_shape, 9))
        graded, raw = nd.simulate(network, given, graded=True), nd.simulate(driven, given, raw=True)
        assert graded.spikes["second"].any()
        assert compare(graded, raw).equal
    with pytest.raises(DataError, match=r"^raw input: sets biases 4501\.\.4501 beyond"):
        nd.simulate(with_input_population(networks[0]), np.full((2, 3), 1500), raw=True)


@pytest.mark.parametrize(
    "layers",
    [
        (FIRST,),
        (layer_of([[3, 1], [0, 3]], name="first", vth=10, du=4096), SECOND),
        (layer_of([[3, 0], [0, 4]], name="first", vth=10, du=4096), SECOND),
        (layer_of([[3, 0], [0, 3]], name="first", vth=10, du=4095), SECOND),
        (layer_of([[3, 0], [0, 3]], name="first", du=4096), SECOND),
        (layer_of([[3, 0], [0, 3]], name="first", vth=[10, 11], du=4096), SECOND),
        (replace(FIRST, connections=(replace(FIRST.connections[0], delay_steps=1),)), SECOND),
        (FIRST, replace(SECOND, connections=(*SECOND.connections, replace(SECOND.connections[0], source=INPUT)))),
    ],
    ids=["alone", "across", "weights", "current", "silent", "thresholds", "delayed", "overheard"],
)
def test_what_is_more_than_an_input_population_is_refused(layers: tuple[QuantizedLayer, ...]) -> None:
    with pytest.raises(NetworkError, match=r"^layer 'first': is more than an input population can be\. It has to receive"):
        with_input_population(in_integers(*layers))
