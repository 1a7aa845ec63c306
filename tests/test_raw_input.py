"""Raw input, which sets the biases of an input population: worked on paper, as lava-dl recorded it, and as Lava runs it."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import grammar
import numpy as np
import pytest
import strategies
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from lava_runs import LONG_S, assert_equal_to_emulator, drawn_jobs, of_lava_dl
from numpy.typing import NDArray
from paper import in_integers, layer_of

from neurodeploy.errors import DataError, RequestError, SimulationError
from neurodeploy.ir.quantized import Encoder, QuantizedLIF, QuantizedNetwork
from neurodeploy.passes.quantize import dequantize
from neurodeploy.targets.loihi import lava_client as lava
from neurodeploy.targets.loihi.lava_client import run_lava_jobs
from neurodeploy.targets.loihi.netx_format import plain_kinds
from neurodeploy.targets.loihi.netx_io import read_netx
from neurodeploy.targets.loihi.neuron_step import InputPopulation, bias_mantissas
from neurodeploy.targets.loihi.target import BIAS_MAX, BIAS_MIN
from neurodeploy.targets.simulate import simulate

Job: TypeAlias = "tuple[QuantizedNetwork, NDArray[np.int32]]"
"""A network and biases of its input population, (batch, *input_shape, n_steps)."""


def population(*, vth: int, dv: int, weight: int, bias: int) -> Encoder:
    return Encoder(neuron=QuantizedLIF(vth=np.array(vth), du=np.array(4096), dv=np.array(dv)), weight=weight, bias=bias)


PAPER = replace(in_integers(layer_of([[3, 0], [0, 5]], du=4096, dv=4096)), encoder=population(vth=10, dv=2048, weight=8, bias=2))


@st.composite
def driven(draw: st.DrawFn, network: QuantizedNetwork) -> Job:
    """The network with an input population, and biases that stay in every sample or change at every step."""
    shape = (draw(st.integers(1, 3)), *network.input_shape, draw(st.integers(1, 8)))
    values = st.integers(-20, 700) | st.sampled_from([BIAS_MIN, 0, BIAS_MAX])
    biases = draw(npst.arrays(np.int32, shape, elements=values, fill=st.nothing()))
    if draw(st.booleans()):
        biases = np.broadcast_to(biases[..., :1], shape)
    return replace(network, encoder=draw(strategies.encoders)), biases


GRAPHS = grammar.quantized_graphs().filter(lambda network: plain_kinds(network) is None)  # chains below are what Lava can read
JOBS = (grammar.quantized_chains() | GRAPHS | strategies.quantized_networks()).flatmap(driven)


def test_on_paper() -> None:
    """Raw 1 is a bias of 10, or 640; raw 0.5 one of 6, or 384; v keeps a half and the neuron fires above 640.

        first   640   320 + 640 = 960: fires    640   960: fires
        second  384   192 + 384 = 576   288 + 384 = 672: fires   384

    The network's neurons forget at once: their membranes show who fired a step before, on the network's clock in the same.
    """
    record = simulate(PAPER, [[1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5]], raw=True)
    assert record.v["only"].tolist() == [[[0, 192, 0, 192], [0, 0, 320, 0]]]
    assert simulate(PAPER, [[1, 1, 1, 1], [0, 0, 0, 0]], raw=True, reset_interval=1).v["only"].any() == np.False_


@pytest.mark.lava
def test_spikes_that_lava_dl_recorded() -> None:
    """Of an image that stays, on a clock that is a step later; and what its two convolutions make of them."""
    network = read_netx(of_lava_dl("tiny.net"))
    assert network.encoder is not None
    biases = np.load(of_lava_dl("gts/tinynet/input_bias.npy")).transpose(2, 1, 0)
    image = (biases - network.encoder.bias) / network.encoder.weight
    raw = np.repeat(image[..., np.newaxis], 15, axis=-1)
    np.testing.assert_array_equal(bias_mantissas(network.encoder, raw)[..., 0], biases)
    expected = np.load(of_lava_dl("gts/tinynet/input.npy"))[0, ..., 1:]
    assert expected.sum() > 5000
    np.testing.assert_array_equal(
        InputPopulation(network.encoder).advance(bias_mantissas(network.encoder, raw[np.newaxis]))[0], expected
    )
    output = np.load(of_lava_dl("gts/tinynet/output.npy")).reshape(36, -1)[:, 1:]
    assert output.sum() > 50
    for device in (None, "cpu"):
        record = simulate(network, raw, raw=True, device=device)
        np.testing.assert_array_equal(record.spikes["layer2"][0].reshape(36, -1), output)


@examples(25)
@given(job=JOBS, data=st.data())
def test_a_stream_is_its_stretches_one_after_the_other(job: Job, data: st.DataObject) -> None:
    network, biases = job
    assert network.encoder is not None
    interval = data.draw(st.integers(0, 4))
    resets = {"reset_interval": interval, "reset_offset": data.draw(st.integers(0, max(interval, 1) - 1))}
    stream, cut = InputPopulation(network.encoder, **resets), data.draw(st.integers(0, biases.shape[-1] - 1))
    stretches = [stream.advance(some) for some in np.split(biases, [cut], axis=-1)]
    whole = InputPopulation(network.encoder, **resets).advance(biases)
    np.testing.assert_array_equal(np.concatenate(stretches, axis=-1), whole)


def check_in_lava(jobs: list[Job]) -> int:
    """Run all, each with resets of its own or none; how many spikes there were."""
    resets = [(k % 4, k % max(k % 4, 1)) for k in range(len(jobs))]
    records = run_lava_jobs(jobs, record="all", time_limit_s=4 * LONG_S, resets=resets, raw=True)
    fired = []
    for (network, biases), (interval, offset) in zip(jobs, resets, strict=True):
        assert network.encoder is not None
        inputs = InputPopulation(network.encoder, reset_interval=interval, reset_offset=offset)
        fired.append((network, inputs.advance(biases)))
    assert sum(int(spikes.sum()) for _, spikes in fired) > 5 * len(jobs)
    return assert_equal_to_emulator(fired, records, resets)


def tiny() -> Job:
    """Two convolutions of lava-dl's, an image that stays and one that changes at every step."""
    network = read_netx(of_lava_dl("tiny.net"))
    assert network.encoder is not None
    rng = np.random.default_rng(0)
    stays = np.repeat(rng.uniform(-1, 1, (1, *network.input_shape, 1)), 4, axis=-1)
    raw = np.concatenate([stays, rng.uniform(-1, 1, (1, *network.input_shape, 4))])
    return network, bias_mantissas(network.encoder, raw)


@pytest.mark.lava
def test_networks_run_as_in_lava() -> None:
    """One run of Lava for all: starting it takes longer than any of them."""
    assert check_in_lava([tiny(), *drawn_jobs(JOBS, 8)]) > 500


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_hundreds_of_drawn_networks_run_as_in_lava(part: int) -> None:
    assert check_in_lava(drawn_jobs(JOBS, 50, part)) > 100


def test_what_is_no_raw_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for network in (replace(PAPER, encoder=None), dequantize(PAPER)):
        with pytest.raises(RequestError, match=r"^raw: input needs an input population to drive.* Give it an Encoder, or"):
            simulate(network, np.ones((2, 3)), raw=True)
    with pytest.raises(RequestError, match=r"^raw: input sets biases, and graded input is multiplied by weights\. Give one"):
        simulate(PAPER, np.ones((2, 3)), raw=True, graded=True)
    with pytest.raises(
        DataError, match=r"^raw input: sets biases 10\.\.8002 beyond -4096\.\.4095 \(13 bits\) \(of x \* 8 \+ 2\)"
    ):
        simulate(PAPER, [[1, 1000], [1, 1]], raw=True)
    for value in (np.nan, np.inf, "1"):
        with pytest.raises(DataError, match=r"^raw input: holds values that are not finite numbers"):
            simulate(PAPER, np.full((2, 3), value), raw=True)
    with pytest.raises(DataError, match=r"^input spikes: have shape \(3, 2\)"):
        simulate(PAPER, np.ones((3, 2)), raw=True)
    monkeypatch.setattr(lava, "require_lava", lambda: None)
    monkeypatch.setattr(lava, "require_extension", lambda: None)
    with pytest.raises(SimulationError, match=r"^loihi2: takes spikes, not raw input\. The emulator and Lava's simulator"):
        simulate(PAPER, np.ones((2, 3)), raw=True, end="loihi2")
