"""Direct coding: levels by hand, a network that takes them, the whole way with it, and chips whose spikes carry no numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from spiking import few

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.encoders import Direct, check_payload, encode, in_levels, levels_of, simulator_spikes
from neurodeploy.training.forward import run_model

IMAGES = torch.rand(6, 12, generator=torch.Generator().manual_seed(0))


def model() -> SequentialState:
    torch.manual_seed(0)
    neurons = LIFParameters(tau_mem_inv=torch.tensor(300.0), v_th=torch.tensor(0.3))
    return SequentialState(torch.nn.Linear(12, 20, bias=False), LIFCell(neurons), torch.nn.Linear(20, 3, bias=False), LICell())


def test_levels_by_hand() -> None:
    coded = encode(torch.tensor([[0.0, 0.2, 0.5, 1.0]]), 2, Direct(3))
    assert torch.allclose(coded, torch.tensor([[[0.0, 1 / 3, 2 / 3, 1.0]] * 2]))
    assert simulator_spikes(torch.tensor([[0.0, 0.2, 0.5, 1.0]]), 2, Direct(3)).tolist() == [[[0, 0], [1, 1], [2, 2], [3, 3]]]
    assert (levels_of("direct"), levels_of(Direct(3)), levels_of("rate")) == (15, 3, 1)


def test_one_level_is_a_spike() -> None:
    spikes = simulator_spikes(IMAGES, 3, Direct(1))
    assert spikes.dtype == np.uint8
    assert np.array_equal(spikes[..., 0], (IMAGES > 0.5).numpy())


def test_a_network_in_levels_answers_whole_numbers_as_the_model_does_their_parts() -> None:
    made = model()
    network = in_levels(nd.extract(made, torch.zeros(1, 12)), 15)
    with torch.no_grad():
        wanted = run_model(made, encode(IMAGES, 9, "direct")).permute(1, 2, 0).numpy()
    record = nd.simulate(network, simulator_spikes(IMAGES, 9, "direct"), graded=True)
    assert np.abs(record.v[network.output.name]).max() > 0.1
    assert np.allclose(record.v[network.output.name], wanted, atol=1e-4)
    assert in_levels(network, 1) is network


def test_the_integers_answer_in_levels_too() -> None:
    network = in_levels(nd.extract(model(), torch.zeros(1, 12)), 15)
    quantized = nd.quantize(network, nd.load_profile("loihi2"))
    floats, integers = (
        nd.simulate(made, simulator_spikes(IMAGES, 9, "direct"), graded=True, record="all").rates()
        for made in (network, quantized)
    )
    first = network.layers[0].name
    assert floats[first] > 0.05
    assert abs(floats[first] - integers[first]) < 0.02
    assert np.abs(quantized.layers[0].connections[0].synapse.weight).max() == 254  # no bit is lost to levels


def split() -> DataSplit:
    return DataSplit(train=few(), test=few(seed=1), input_shape=(12,), n_classes=3)


OPTIONS = nd.FitOptions(epochs_dense=40, epochs_compress=1, epochs_finetune=0, n_steps=6, encoder="direct", learning_rate=0.02)


def test_the_whole_way_in_levels(tmp_path: Path) -> None:
    made = nd.compress(
        model(), torch.zeros(1, 12), nd.load_profile("loihi2"), split(), OPTIONS, out=tmp_path, cores=1, lava_samples=0
    )
    rungs = made.report.accuracy
    assert rungs.dense is not None
    assert rungs.emulated is not None
    assert min(rungs.dense, rungs.emulated) > 0.9
    assert "Note: Input comes as whole numbers 0..15." in str(made.report)
    found = nd.evaluate(made.quantized, split().test, OPTIONS)
    assert found.classification_accuracy == rungs.emulated
    sent = sum(int((torch.round(images * 15) > 0).sum()) for images, _ in few(seed=1))
    connected = made.quantized.layers[0].connections[0].synapse
    assert found.synaptic_operations["Effective_MACs"] <= 6 * sent * connected.n_out / 40
    assert found.synaptic_operations["Effective_MACs"] > 3 * sent * connected.n_out / 40
    assert found.synaptic_operations["Effective_ACs"] > 0
    np.save(tmp_path / "sent.npy", simulator_spikes(few(seed=1)[0][0], 6, "direct"))
    command = ["simulate", str(tmp_path / "model.net"), "--input", str(tmp_path / "sent.npy"), "--out", str(tmp_path / "r.npz")]
    assert (main([*command, "--graded"]), main(command)) == (0, 2)


def test_a_chip_whose_spikes_carry_no_numbers_is_refused_before_training(tmp_path: Path) -> None:
    message = r"encoder: sends numbers of up to 15, and spikes of loihi1 carry none \(no payload_bits\)\. Use 'rate' or 'latency'"
    with pytest.raises(RequestError, match=message):
        nd.compress(model(), torch.zeros(1, 12), nd.load_profile("loihi1"), split(), OPTIONS, out=tmp_path)
    check_payload(nd.load_profile("loihi1"), 1)


def test_levels_beyond_the_payload_are_refused() -> None:
    loihi2 = nd.load_profile("loihi2")
    check_payload(loihi2, (1 << 32) - 1)
    with pytest.raises(RequestError, match=r"encoder: 33 bits a spike > 32 \(loihi2\.yaml: payload_bits\)\. Use 'rate'"):
        check_payload(loihi2, 1 << 32)


def test_what_are_no_levels_is_refused() -> None:
    with pytest.raises(RequestError, match="levels: are 0, not at least 1"):
        Direct(0)

    class Coarse(Direct):
        def __call__(self, images: torch.Tensor, n_steps: int) -> torch.Tensor:
            return super().__call__(images, n_steps) * 0.9

    with pytest.raises(DataError, match=r"encoder: holds values other than 0, 1/3 \.\. 1\. Round them to its levels"):
        encode(IMAGES, 4, Coarse(3))
