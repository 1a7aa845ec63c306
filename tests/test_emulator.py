"""The emulator and the reference: worked on paper, at the ends of their numbers, and what they refuse to run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import strategies
from conftest import examples
from hypothesis import given
from numpy.typing import NDArray
from paper import in_floats, in_integers, layer_of

from neurodeploy.errors import DataError, RequestError, SimulationError
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.passes.quantize import dequantize
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.simulate import as_batch, simulate

# ---------------------------------------------------------------------------------------------- three neurons, five steps

PAPER = in_integers(
    layer_of([[40, 0], [20, -12]], name="hidden", vth=[50, 30], du=2048, dv=1024, bias=[0, 2]),
    layer_of([[-1, -2]], name="readout", source="hidden", dv=3584),
)
PAPER_SPIKES = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]], dtype=np.uint8)


def test_three_neurons_for_five_steps() -> None:
    """Worked by hand; a weight, a threshold and a bias count 64 times.

    Neuron a: u keeps a half, v three quarters, fires above 3200; its weight is 40, so 2560.

        u  2560   1280 + 2560 = 3840   1920               960                  480
        v  2560   1920 + 3840 = 5760   1920               1440 + 960 = 2400    1800 + 480 = 2280
                  fires, 0

    Neuron b: weights 20 and -12, so 1280 and -768; bias 128; fires above 1920.

        u  1280   640 + 1280 - 768     576 - 768 = -192   -96                  -48
                  = 1152
        v  1280   1056 + 1152 + 128    0 - 192 + 128      -48 - 96 + 128       -12 - 48 + 128
           + 128  = 2336: fires, 0     = -64              = -16                = 68
           = 1408

    The readout keeps an eighth of v, towards zero: 0; -64 - 128 = -192; -24; -3; -3/8, so 0.
    """
    record = simulate(PAPER, PAPER_SPIKES, record="all")
    assert record.spikes["hidden"].tolist() == [[[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]]
    assert record.v["hidden"].tolist() == [[[2560, 0, 1920, 2400, 2280], [1408, 0, -64, -16, 68]]]
    assert record.spikes["readout"].tolist() == [[[0, 0, 0, 0, 0]]]
    assert record.v["readout"].tolist() == [[[0, -192, -24, -3, 0]]]
    assert (record.end, record.output, dict(record.overflows)) == ("emulator", "readout", {"hidden": 0, "readout": 0})


def test_the_same_in_floats() -> None:
    """A unit of v is 64 of the chip's, and nothing is cut off: the readout goes on to -3/64 and -3/512."""
    record = simulate(dequantize(PAPER), PAPER_SPIKES, record="all")
    assert record.spikes["hidden"].tolist() == [[[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]]]
    assert record.v["hidden"].tolist() == [[[40, 0, 30, 37.5, 35.625], [22, 0, -1, -0.25, 1.0625]]]
    assert record.v["readout"].tolist() == [[[0, -3, -3 / 8, -3 / 64, -3 / 512]]]
    assert (record.end, dict(record.overflows)) == ("reference", {})


def test_the_reference_gives_membranes_as_the_model_has_them() -> None:
    network = in_floats([[1.0]], threshold=1.5, voltage_decay=0.0, current_decay=1.0, rest=-65.0)
    assert simulate(network, np.ones((1, 3))).v["only"].tolist() == [[[-64, -65, -64]]]


def test_a_neuron_fires_above_its_threshold_and_not_at_it() -> None:
    network = in_integers(layer_of([[10], [11]], vth=10))
    assert simulate(network, np.ones((1, 1))).spikes["only"].tolist() == [[[0], [1]]]
    assert simulate(dequantize(network), np.ones((1, 1))).spikes["only"].tolist() == [[[0], [1]]]


# ---------------------------------------------------------------------------------------------- at the ends of 24 bits


def test_a_current_past_24_bits_comes_round_and_a_membrane_stays_at_the_end() -> None:
    """600 inputs of 255 are 9,792,000; less 2**24 that is -6,985,216. Two such currents press v against its lower end."""
    network = in_integers(layer_of([[255] * 600], du=4096, dv=0))
    record = simulate(network, np.ones((600, 3)))
    assert record.v["only"].tolist() == [[[-6_985_216, -8_388_607, -8_388_607]]]
    assert record.overflows["only"] == 3 + 2  # currents that wrapped, membranes that were stopped


def test_overflows_are_counted_over_all_samples_neurons_and_steps() -> None:
    network = in_integers(layer_of([[255] * 600, [1] * 600], name="loud"), layer_of([[1, 1]], name="quiet", source="loud"))
    record = simulate(network, np.ones((2, 600, 3)))
    assert dict(record.overflows) == {"loud": 2 * 3, "quiet": 0}


def test_a_sum_past_2_to_the_24_is_exact_to_the_last_unit() -> None:
    """65,793 weights of 255 and a 2 are 2**24 + 1, one more than single precision can tell from 2**24.

    u is 64 times that, less 2**24 for the one wrap: 1,056,964,672. Of it a 64th stays to the next step, 16,515,073, which
    wraps to -262,143; the membrane forgets everything and shows it.
    """
    weight = np.full((1, 65_794), 255)
    weight[0, -1] = 2
    spikes = np.zeros((65_794, 2), dtype=np.uint8)
    spikes[:, 0] = 1
    record = simulate(in_integers(layer_of(weight, du=4032)), spikes)
    assert record.v["only"].tolist() == [[[8_388_607, -262_143]]]


def test_weights_that_overflow_lavas_accumulator_are_refused() -> None:
    network = in_integers(layer_of(np.full((1, 131_587), 255)))
    with pytest.raises(
        SimulationError, match=r"^layer 'only': its weights can add up to more than Lava's 32-bit acc.* fewer syn"
    ):
        simulate(network, np.ones((131_587, 1)))


# ---------------------------------------------------------------------------------------------- batches and records


@given(job=strategies.jobs)
def test_a_batch_is_its_samples_one_at_a_time(job: tuple[QuantizedNetwork, NDArray[np.uint8]]) -> None:
    network, spikes = job
    together, alone = (
        run_emulator(network, spikes, record="all"),
        [run_emulator(network, s[np.newaxis], record="all") for s in spikes],
    )
    for layer in network:
        for kind in ("spikes", "v"):
            of_all = getattr(together, kind)[layer.name]
            np.testing.assert_array_equal(of_all, np.concatenate([getattr(one, kind)[layer.name] for one in alone]))
        assert together.overflows[layer.name] == sum(one.overflows[layer.name] for one in alone)


@examples(50)
@given(job=strategies.jobs)
def test_what_is_recorded_changes_nothing(job: tuple[QuantizedNetwork, NDArray[np.uint8]]) -> None:
    network, spikes = job
    output, everything = run_emulator(network, spikes), run_emulator(network, spikes, record="all")
    assert list(output.spikes) == list(output.v) == [network.output.name]
    assert list(everything.spikes) == list(everything.v) == [layer.name for layer in network]
    np.testing.assert_array_equal(output.v[output.output], everything.v[everything.output])
    np.testing.assert_array_equal(output.spikes[output.output], everything.spikes[everything.output])
    assert output.overflows == everything.overflows


@examples(50)
@given(job=strategies.jobs)
def test_a_neuron_that_fires_is_at_zero_and_one_that_does_not_is_within_its_threshold(
    job: tuple[QuantizedNetwork, NDArray[np.uint8]],
) -> None:
    network, spikes = job
    record = run_emulator(network, spikes, record="all")
    for layer in network:
        fired, v = record.spikes[layer.name] > 0, record.v[layer.name]
        assert v.shape == (len(spikes), *layer.shape, spikes.shape[-1])
        assert not v[fired].any()
        if (vth := getattr(layer.neuron, "vth", None)) is None:
            assert not fired.any()
        else:
            assert (v.reshape(len(spikes), layer.n_neurons, -1) <= np.reshape(vth << 6, (-1, 1))).all()


def test_the_reference_records_the_output_or_all_of_it() -> None:
    network = dequantize(PAPER)
    assert list(simulate(network, PAPER_SPIKES).spikes) == ["readout"]
    assert list(simulate(network, PAPER_SPIKES, record="all").v) == ["hidden", "readout"]


def test_shapes_are_kept_with_time_last() -> None:
    layer = replace(layer_of(2 * np.eye(6, dtype=int), vth=1), shape=(2, 3))
    network = QuantizedNetwork(input_shape=(3, 2), layers=(layer,))
    spikes = np.random.default_rng(0).integers(0, 2, (4, 3, 2, 5))
    record = simulate(network, spikes)
    np.testing.assert_array_equal(record.spikes["only"], spikes.reshape(4, 2, 3, 5))
    assert (record.n_samples, record.n_steps) == (4, 5)
    assert record.rates() == {"only": pytest.approx(spikes.mean())}


# ---------------------------------------------------------------------------------------------- what simulators are given


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_one_sample_is_a_batch_of_one(dtype: type) -> None:
    batch = as_batch(PAPER_SPIKES.astype(dtype), (2,))
    assert (batch.shape, batch.dtype) == ((1, 2, 5), np.uint8)
    np.testing.assert_array_equal(batch[0], PAPER_SPIKES)
    np.testing.assert_array_equal(as_batch(batch, (2,)), batch)


@pytest.mark.parametrize("network", [PAPER, dequantize(PAPER)], ids=["integers", "floats"])
@pytest.mark.parametrize(
    ("spikes", "message"),
    [
        (np.ones((3, 5, 2)), r"Steps come last here: np\.moveaxis\(spikes, 1, -1\)\.$"),
        (np.ones((5, 2)), r"Steps come last here: np\.moveaxis\(spikes, 0, -1\)\.$"),
        (np.ones(2), r"^input spikes: have shape \(2,\), not \(2, n_steps\) or .* one step is spikes\[\.\.\., np\.newaxis\]\.$"),
        (np.ones((3, 7)), r"not \(2, n_steps\) or \(batch, 2, n_steps\)\. Give 2 inputs a step, and steps as the last axis\.$"),
        (np.ones((1, 2, 1, 4)), r"\. Its values are as many: spikes\.reshape\(2, 4\)\.$"),
        (np.ones((5, 2)), r"have shape \(5, 2\), not \(2, n_steps\)"),
        (np.ones((1, 5, 2)), r"have shape \(1, 5, 2\), not \(2, n_steps\)"),
        (np.ones((1, 1, 2, 5)), r"have shape \(1, 1, 2, 5\), not"),
        (np.ones((0, 2, 5)), r"^input spikes: have shape \(0, 2, 5\): nothing to run\.$"),
        (np.ones((2, 0)), r"have shape \(1, 2, 0\): nothing to run"),
        (np.full((2, 5), 2), r"^input spikes: hold other values than 0 and 1\. Encode analogue input as spikes first\.$"),
        (np.full((2, 5), 0.5), r"hold other values than 0 and 1"),
        (np.full((2, 5), -1), r"hold other values than 0 and 1"),
        (np.full((2, 5), np.nan), r"hold other values than 0 and 1"),
        (np.full((2, 5), "1"), r"hold other values than 0 and 1"),
        (np.full((2, 5), None), r"hold other values than 0 and 1"),
    ],
)  # fmt: skip
def test_what_are_no_spikes_for_the_network_is_refused(
    network: Network | QuantizedNetwork, spikes: NDArray[Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        simulate(network, spikes)


def test_an_end_or_a_record_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^end: 'loihi' is no simulator\. Give one of 'emulator', 'lava', 'loihi2'\.$"):
        simulate(PAPER, PAPER_SPIKES, end="loihi")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"^record: 'some' is neither 'output' nor 'all'\. Or list some of hidden, readout\.$"):
        simulate(PAPER, PAPER_SPIKES, record="some")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"^end: .lava. runs integers, and this network is in floats\. Quantise it first\.$"):
        simulate(dequantize(PAPER), PAPER_SPIKES, end="lava")
