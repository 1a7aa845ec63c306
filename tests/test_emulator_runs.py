"""How the emulator is run: in streams and parts, with resets, overflows, graded input, and every way through synapses."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import TypeAlias

import grammar
import numpy as np
import pytest
import strategies
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from paper import in_integers, layer_of
from test_emulator import PAPER, PAPER_SPIKES

from neurodeploy.errors import DataError, RequestError, SimulationError
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.quantized import QuantizedConv, QuantizedNetwork
from neurodeploy.passes.quantize import dequantize
from neurodeploy.simulation.records import compare
from neurodeploy.targets.loihi.emulator import Emulator, Prepared, run_emulator
from neurodeploy.targets.simulate import random_spikes, simulate

Job: TypeAlias = "tuple[QuantizedNetwork, NDArray[np.uint8]]"


@examples(60)
@given(job=grammar.graph_jobs, data=st.data())
def test_a_stream_is_its_stretches_one_after_the_other(job: Job, data: st.DataObject) -> None:
    network, spikes = job
    interval = data.draw(st.integers(0, 4))
    resets = {"reset_interval": interval, "reset_offset": data.draw(st.integers(0, max(interval, 1) - 1))}
    whole = run_emulator(network, spikes, record="all", **resets)
    emulator = Emulator(network, n_samples=len(spikes), record="all", threads=data.draw(st.integers(1, 3)), **resets)
    cuts = data.draw(st.lists(st.integers(1, spikes.shape[-1]), max_size=3).map(sorted))
    stretches = [emulator.advance(some) for some in np.split(spikes, cuts, axis=-1) if some.shape[-1]]
    for name in whole.spikes:
        np.testing.assert_array_equal(np.concatenate([s.spikes[name] for s in stretches], axis=-1), whole.spikes[name])
        np.testing.assert_array_equal(np.concatenate([s.v[name] for s in stretches], axis=-1), whole.v[name])
        np.testing.assert_array_equal(stretches[-1].counts[name], whole.spikes[name].sum(axis=-1, dtype=np.int32))
    assert stretches[-1].overflows == whole.overflows


@examples(40)
@given(job=strategies.jobs, interval=st.integers(1, 4))
def test_from_a_reset_on_it_is_a_new_sample_where_nothing_is_under_way(job: Job, interval: int) -> None:
    network, spikes = job
    whole = run_emulator(network, spikes, record="all", reset_interval=interval)
    for start in range(0, spikes.shape[-1], interval):
        alone = run_emulator(network, spikes[..., start : start + interval], record="all")
        for name in alone.v:
            np.testing.assert_array_equal(whole.v[name][..., start : start + interval], alone.v[name])


def test_layers_are_recorded_by_name_and_spikes_counted_in_all() -> None:
    whole = simulate(PAPER, PAPER_SPIKES, record="all")
    hidden, nothing = simulate(PAPER, PAPER_SPIKES, record=["hidden"]), simulate(PAPER, PAPER_SPIKES, record=())
    assert (list(hidden.spikes), list(hidden.v), list(nothing.spikes)) == (["hidden"], ["hidden"], [])
    np.testing.assert_array_equal(hidden.v["hidden"], whole.v["hidden"])
    assert {name: counts.tolist() for name, counts in nothing.counts.items()} == {"hidden": [[1, 1]], "readout": [[0]]}
    assert (nothing.output, nothing.n_samples, nothing.n_steps) == ("readout", 1, 5)
    with pytest.raises(RequestError, match=r"^record: \['nowhere'\] is neither.* list some of hidden, readout\."):
        simulate(PAPER, PAPER_SPIKES, record=["nowhere"])


def test_memory_does_not_grow_with_steps() -> None:
    network = in_integers(layer_of(np.full((100, 50), 3), vth=1000, du=900, dv=100))
    emulator, peaks = Emulator(network, n_samples=4, record=()), []
    for n_steps in (100, 1000):
        tracemalloc.start()
        for _ in range(n_steps // 100):
            emulator.advance(random_spikes((50,), n_samples=4, n_steps=100))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
    assert emulator.advance(random_spikes((50,), n_samples=4, n_steps=1)).counts["only"].sum() > 1000


LOUD = in_integers(layer_of([[255] * 600], du=4096, dv=0))


def test_an_overflow_is_told_to_who_asks() -> None:
    spikes = np.ones((600, 3))
    with pytest.raises(SimulationError, match=r"^layer 'only': left 24 bits 5 times: currents wrapped or membranes saturated\."):
        simulate(LOUD, spikes, on_overflow="raise")
    with pytest.warns(RuntimeWarning, match=r"^layer 'only': left 24 bits 5 times.*Scale its weights down"):
        told = simulate(LOUD, spikes, on_overflow="warn")
    assert compare(told, simulate(LOUD, spikes)).equal
    assert simulate(LOUD, np.zeros((600, 3)), on_overflow="raise").overflows["only"] == 0


def test_parts_of_a_batch_add_up_in_the_same_memory() -> None:
    """16 parts of 128 samples on two threads: what arrives at one of them takes 8 MB, the batch's states and spikes 60 MB."""
    network = in_integers(layer_of(np.ones((1024, 8)), du=4096, dv=4096))
    spikes = np.ones((2048, 8, 16), dtype=np.uint8)
    prepared = Prepared(network)
    Emulator(prepared, n_samples=2048, record=(), threads=2).advance(spikes)
    tracemalloc.start()
    emulator = Emulator(prepared, n_samples=2048, record=(), threads=2)
    counts = emulator.advance(spikes).counts["only"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (counts == counts[0]).all()
    assert peak < 100 << 20


def test_graded_input_multiplies_weights() -> None:
    network = in_integers(layer_of([[4, -2]], du=4096, dv=4096))
    record = simulate(network, [[5, 0, -7], [1, 4, 0]], graded=True)
    assert record.v["only"].tolist() == [[[64 * 18, 64 * -8, 64 * -28]]]
    assert simulate(dequantize(network), [[5, 0, -7], [1, 4, 0]], graded=True).v["only"].tolist() == [[[18, -8, -28]]]
    record = simulate(network, [[-1, 0, 1], [0, -1, -1]], graded=True)  # few bits, and yet no spikes
    assert record.v["only"].tolist() == [[[64 * -4, 64 * 2, 64 * 6]]]
    with pytest.raises(DataError, match=r"^input spikes: hold no whole numbers of 32 bits\. Round them\.$"):
        simulate(network, [[0.5], [1]], graded=True)
    with pytest.raises(SimulationError, match=r"32-bit accumulator holds\. Scale its input down\.$"):
        simulate(network, [[1 << 24], [1]], graded=True)


def test_what_tells_no_steps_and_no_emulator_is_refused() -> None:
    for interval, offset in ((-1, 0), (3, 3), (0, 1), (3, -1)):
        with pytest.raises(RequestError, match=rf"^reset_interval: {interval} with an offset of {offset} is no valid reset"):
            simulate(PAPER, PAPER_SPIKES, reset_interval=interval, reset_offset=offset)
    with pytest.raises(
        RequestError, match=r"^reset_interval: applies to networks in integers, and this one is in floats\. Quantise it"
    ):
        simulate(dequantize(PAPER), PAPER_SPIKES, reset_interval=2)
    with pytest.raises(
        RequestError,
        match=r"^simulate, argument 'on_overflow': is of type str \('stop'\), and has to be 'wrap', 'raise' or ",
    ):
        simulate(PAPER, PAPER_SPIKES, on_overflow="stop")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(
        DataError, match=r"^input spikes: have 1 sample and values up to 1, which the emulator was not prepared for"
    ):
        Emulator(PAPER, n_samples=2).advance(PAPER_SPIKES[np.newaxis])


# ---------------------------------------------------------------------------------------------- ways through synapses


def rather_large(connectivity: float) -> QuantizedNetwork:
    """200 inputs, 300 neurons, a convolution of these as an image: enough for its ways to be measured."""
    rng = np.random.default_rng(1)
    weight = 2 * rng.integers(-128, 128, (300, 200)) * (rng.random((300, 200)) < connectivity)
    first = replace(layer_of(weight, name="first", vth=2000, du=900, dv=100), shape=(3, 10, 10))
    window = QuantizedConv(
        weight=2 * rng.integers(-50, 50, (16, 3, 3, 3)), weight_bits=8, input_shape=(3, 10, 10), padding=(1, 1)
    )
    second = replace(first, name="second", shape=(16, 10, 10), connections=(Connection(source="first", synapse=window),))
    return QuantizedNetwork(input_shape=(200,), layers=(first, second))


@pytest.mark.parametrize("connectivity", [1.0, 0.05])
def test_the_fastest_way_is_measured_and_told(connectivity: float) -> None:
    network = rather_large(connectivity)
    prepared = Prepared(network)
    assert set(prepared.kernels.values()) == {None}
    spikes = random_spikes((200,), n_samples=3, n_steps=30)
    record = Emulator(prepared, n_samples=3, record="all").advance(spikes)
    tried = {"row_gather", "gemm"} | ({"csc", "csr"} if connectivity < 0.2 else set())
    for (source, layer), ways in ((("input", "first"), tried), (("first", "second"), {"scatter", "lookup", "gemm"})):
        (synapses,) = prepared.synapses[layer]
        assert set(synapses.seconds) == ways
        assert prepared.kernels[source, layer] == min(synapses.seconds, key=synapses.seconds.__getitem__)
    assert record.spikes["second"].sum() > 1000
    for kernel in ("gemm", "row_gather", "csc", "csr", "scatter", "lookup"):
        alone = Emulator(Prepared(network, kernel=kernel), n_samples=3, record="all", threads=1).advance(spikes)
        assert compare(record, alone).equal


def test_columns_are_tried_where_rows_are_many() -> None:
    for n_steps, tried in ((31, False), (32, True)):
        prepared = Prepared(rather_large(0.05))
        Emulator(prepared, n_samples=1).advance(random_spikes((200,), n_samples=1, n_steps=n_steps))
        assert ("csr" in prepared.synapses["first"][0].seconds) == tried


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_that_share_a_sample_give_what_one_gives(threads: int) -> None:
    """Rows of spikes and ranges of neurons: 300 steps of one sample are enough for both to be shared."""
    network, spikes = rather_large(1.0), random_spikes((200,), n_samples=1, n_steps=300)
    alone, shared = (
        Emulator(network, n_samples=1, record="all", threads=n, reset_interval=70, reset_offset=9).advance(spikes)
        for n in (1, threads)
    )
    assert compare(alone, shared).equal
    assert alone.overflows == shared.overflows
    assert alone.spikes["second"].any()
    for name, counts in alone.counts.items():
        np.testing.assert_array_equal(counts, shared.counts[name])


@examples(60)
@given(job=grammar.graph_jobs)
def test_every_way_gives_the_same(job: Job) -> None:
    network, spikes = job
    names = ("gemm", "row_gather", "csc", "csr", "scatter", "lookup")
    records = [
        Emulator(Prepared(network, kernel=kernel), n_samples=len(spikes), record="all").advance(spikes) for kernel in names
    ]
    for record in records[1:]:
        assert compare(records[0], record).equal
        assert record.overflows == records[0].overflows
