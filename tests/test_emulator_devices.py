"""The emulator on a torch device: what compiled loops give, whatever torch is told of precision; devices that are not here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import grammar
import numpy as np
import pytest
import strategies
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from paper import in_integers, layer_of
from test_emulator import PAPER, PAPER_SPIKES
from test_emulator_runs import LOUD, rather_large

from neurodeploy.__main__ import main
from neurodeploy.errors import RequestError, SimulationError
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.passes.quantize import dequantize
from neurodeploy.simulation import torch_engine as tensors
from neurodeploy.simulation.records import SpikeRecord, compare
from neurodeploy.targets.loihi.emulator import Emulator, Prepared, run_emulator
from neurodeploy.targets.loihi.netx_io import write_netx
from neurodeploy.targets.simulate import random_spikes, simulate

Job: TypeAlias = "tuple[QuantizedNetwork, NDArray[np.uint8]]"

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def assert_same(ours: SpikeRecord, expected: SpikeRecord) -> None:
    assert compare(ours, expected).equal
    assert ours.overflows == expected.overflows
    for name, counts in expected.counts.items():
        np.testing.assert_array_equal(ours.counts[name], counts)


# ---------------------------------------------------------------------------------------------- the same integers


@examples(25)
@given(job=grammar.graph_jobs, data=st.data())
def test_drawn_networks_run_as_in_compiled_loops(job: Job, data: st.DataObject) -> None:
    """Every kind of synapse, skips, recurrence, delays, biases, readouts; with resets, in one go and in stretches."""
    check_drawn(job, data)


@pytest.mark.slow
@examples(500)
@given(job=grammar.graph_jobs | strategies.jobs, data=st.data())
def test_hundreds_of_drawn_networks_run_as_in_compiled_loops(job: Job, data: st.DataObject) -> None:
    check_drawn(job, data)


def check_drawn(job: Job, data: st.DataObject) -> None:
    network, spikes = job
    interval, name = data.draw(st.integers(0, 4)), data.draw(st.sampled_from(DEVICES))
    resets = {"reset_interval": interval, "reset_offset": data.draw(st.integers(0, max(interval, 1) - 1))}
    expected = run_emulator(network, spikes, record="all", **resets)
    assert_same(run_emulator(network, spikes, record="all", device=name, **resets), expected)
    emulator = Emulator(Prepared(network, device=name), n_samples=len(spikes), record="all", **resets)
    cut = data.draw(st.integers(0, spikes.shape[-1] - 1))
    stretches = [emulator.advance(some) for some in np.split(spikes, [cut], axis=-1) if some.shape[-1]]
    for kind, layers in (("spikes", expected.spikes), ("v", expected.v)):
        for layer, array in layers.items():
            np.testing.assert_array_equal(np.concatenate([getattr(s, kind)[layer] for s in stretches], axis=-1), array)
    assert stretches[-1].overflows == expected.overflows


@examples(15)
@given(job=grammar.quantized_graphs().flatmap(lambda n: st.tuples(st.just(n), grammar.graded_into(n))))
def test_graded_input_passes_alike(job: tuple[QuantizedNetwork, NDArray[np.int32]]) -> None:
    for name in DEVICES:
        assert_same(run_emulator(*job, record="all", device=name), run_emulator(*job, record="all"))


@examples(15)
@given(job=strategies.jobs)
def test_chains_with_numbers_out_to_the_ends(job: Job) -> None:
    for name in DEVICES:
        assert_same(run_emulator(*job, record="all", device=name), run_emulator(*job, record="all"))


@pytest.mark.parametrize("connectivity", [1.0, 0.05])
def test_layers_of_some_size(device: str, connectivity: float) -> None:
    network, spikes = rather_large(connectivity), random_spikes((200,), n_samples=3, n_steps=30)
    ours = simulate(network, spikes, record="all", device=device)
    assert ours.spikes["second"].sum() > 1000
    assert_same(ours, simulate(network, spikes, record="all"))


def test_a_convolution_is_worked_off_in_parts(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, spikes = rather_large(1.0), random_spikes((200,), n_samples=3, n_steps=7)
    expected = simulate(network, spikes, record="all")
    monkeypatch.setattr(tensors, "DEVICE_PATCH_VALUES", 1 << 14)
    assert_same(Emulator(Prepared(network, device=device), n_samples=3, record="all").advance(spikes), expected)


def test_states_past_24_bits_and_who_asks_of_them(device: str) -> None:
    spikes = np.ones((600, 3))
    assert_same(simulate(LOUD, spikes, device=device), simulate(LOUD, spikes))
    with pytest.raises(SimulationError, match=r"^layer 'only': left 24 bits 5 times"):
        simulate(LOUD, spikes, on_overflow="raise", device=device)
    with pytest.warns(RuntimeWarning, match=r"^layer 'only': left 24 bits 5 times"):
        simulate(LOUD, spikes, on_overflow="warn", device=device)


def test_a_sum_past_2_to_the_24_is_exact_to_the_last_unit(device: str) -> None:
    """As in test_emulator.py: one more than single precision can tell from 2**24, so the layer adds up in double."""
    weight = np.full((1, 65_794), 255)
    weight[0, -1] = 2
    spikes = np.zeros((65_794, 2), dtype=np.uint8)
    spikes[:, 0] = 1
    record = simulate(in_integers(layer_of(weight, du=4032)), spikes, device=device)
    assert record.v["only"].tolist() == [[[8_388_607, -262_143]]]


@pytest.fixture
def coarse() -> Iterator[None]:
    """A caller who lets torch round factors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("coarse")
def test_nothing_is_rounded_whatever_the_caller_allows(device: str) -> None:
    """In bfloat16 the sums of 200 weights would keep 8 bits; what the caller has set stands again afterwards."""
    network, spikes = rather_large(1.0), random_spikes((200,), n_samples=2, n_steps=5)
    with torch.autocast(device, dtype=torch.bfloat16):
        ours = simulate(network, spikes, record="all", device=device)
        assert (torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).dtype == torch.bfloat16
    assert torch.get_float32_matmul_precision() == "medium"
    assert_same(ours, simulate(network, spikes, record="all"))


def test_layers_are_recorded_by_name_and_ways_told(device: str) -> None:
    hidden = simulate(PAPER, PAPER_SPIKES, record=["hidden"], device=device)
    assert (list(hidden.spikes), hidden.counts["readout"].tolist()) == (["hidden"], [[0]])
    assert set(Prepared(PAPER, device=device).kernels.values()) == {"gemm"}


def test_the_command_line_takes_a_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "spikes.npy", np.ones((600, 3)))
    command = ["simulate", str(write_netx(LOUD, tmp_path / "loud.net")), "--input", str(tmp_path / "spikes.npy")]
    command += ["--out", str(tmp_path / "record.npz"), "--device"]
    assert main([*command, "cpu"]) == 0
    with np.load(tmp_path / "record.npz") as record:
        np.testing.assert_array_equal(record["v"], simulate(LOUD, np.ones((600, 3))).v["only"])
    assert main([*command, "gpu"]) == 2
    assert "device: 'gpu' cannot be used here" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- what is refused


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"^device: 'gpu' cannot be used here: Expected one of cpu, cuda.* Give 'cpu' or 'cuda'"
    ):
        simulate(PAPER, PAPER_SPIKES, device="gpu")
    with pytest.raises(RequestError, match=r"^device: 'meta' cannot be used here: "):
        simulate(PAPER, PAPER_SPIKES, device="meta")
    with pytest.raises(RequestError, match=r"^device: 'cuda:77' cannot be used here: "):
        simulate(PAPER, PAPER_SPIKES, device="cuda:77")


def test_a_device_that_rounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that multiplies in TensorFloat-32: 4097 has 13 bits, and it keeps 11."""
    honest = tensors.probe
    monkeypatch.setattr(tensors, "probe", lambda *device: honest(*device) // 4 * 4)
    with pytest.raises(
        SimulationError, match=r"^device 'cpu': rounds products of whole numbers below 2\*\*24\. Leave the device"
    ):
        Prepared(PAPER, device="cpu")


def test_what_runs_on_no_device_is_refused(device: str) -> None:
    for network, end in ((dequantize(PAPER), "emulator"), (PAPER, "lava")):
        with pytest.raises(RequestError, match=r"^device: applies to the emulator alone\. Leave it out\.$"):
            simulate(network, PAPER_SPIKES, end=end, device=device)  # type: ignore[arg-type]  # a str in the loop
    with pytest.raises(
        RequestError, match=r"^threads: 2 cannot be set for a device, which has threads of its own\. Leave them out\.$"
    ):
        simulate(PAPER, PAPER_SPIKES, device=device, threads=2)
