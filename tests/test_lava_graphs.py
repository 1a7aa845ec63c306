"""Lava's simulator against our emulator beyond dense chains, bit for bit: windows, lists, skips, recurrence, delays."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import grammar
import h5py
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from lava_runs import LONG_S, assert_equal_to_emulator, drawn_jobs, of_lava_dl
from norse.torch import LICell, LIFBoxCell, LIFCell, LIFRecurrentCell, SequentialState
from norse.torch.functional.lif_box import LIFBoxParameters
from numpy.typing import NDArray
from strategies import spikes_into
from torch.nn import AvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d

from neurodeploy.__main__ import main
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSparse,
)
from neurodeploy.passes.quantize import quantize
from neurodeploy.simulation.records import SpikeRecord, compare
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.loihi.lava_client import Job, run_lava_jobs
from neurodeploy.targets.loihi.netx_format import plain_kinds
from neurodeploy.targets.loihi.netx_io import read_netx, write_netx
from neurodeploy.targets.simulate import simulate, verify

CHAINS = grammar.quantized_chains().flatmap(lambda network: st.tuples(st.just(network), spikes_into(network)))
GRAPHS = grammar.graph_jobs.filter(lambda job: plain_kinds(job[0]) is None)


GRADED = (CHAINS | GRAPHS).flatmap(lambda job: st.tuples(st.just(job[0]), grammar.graded_into(job[0])))
RESETS = [(1 + k % 4, (3 * k) % (1 + k % 4)) for k in range(12)]


def lif(vth: int, bias: int = 0) -> dict[str, object]:
    neuron = QuantizedLIF(vth=np.array(vth), du=np.array(1000), dv=np.array(300))
    return {"neuron": neuron, "bias": np.array(bias), "scale": np.array(1.0)}


def residual() -> QuantizedNetwork:
    """Two convolutions with a skip over them, recurrence through a list, biases that fire before any input comes, a readout."""
    rng = np.random.default_rng(3)

    def window(channels: int, out: int) -> QuantizedConv:
        weight = 2 * rng.integers(-60, 90, (out, channels, 3, 3))
        return QuantizedConv(weight=weight, weight_bits=9, input_shape=(channels, 6, 5), padding=(1, 1))

    there = np.sort(rng.integers(0, 60, 60))
    back = QuantizedSparse(
        n_in=60, starts=np.arange(61), sources=there, weight=rng.integers(1, 9, 60), weight_bits=8
    )  # fmt: skip
    read = QuantizedDense(weight=2 * rng.integers(-100, 100, (3, 60)), weight_bits=9)
    first = QuantizedLayer(
        name="first", shape=(2, 6, 5), connections=(Connection(source=INPUT, synapse=window(1, 2)),), **lif(200)
    )
    second = QuantizedLayer(
        name="second", shape=(2, 6, 5), **lif(100, bias=20),
        connections=(
            Connection(source="first", synapse=window(2, 2)),
            Connection(source=INPUT, synapse=window(1, 2), delay_steps=1),
            Connection(source="second", synapse=back),
        ),
    )  # fmt: skip
    third = QuantizedLayer(
        name="third", shape=(3,), **lif(500, bias=-3),
        connections=(Connection(source="second", synapse=read), Connection(source="first", synapse=read)),
    )  # fmt: skip
    return QuantizedNetwork(input_shape=(1, 6, 5), layers=(first, second, third))


def narrow() -> QuantizedNetwork:
    """A delayed convolution over a column: of its windows only the middle is ever met, and that is the lowest weight there is."""
    window = QuantizedConv(weight=np.array([[[[252, -256, 254]]]]), weight_bits=8, input_shape=(1, 4, 1), padding=(0, 1))
    delayed = Connection(source=INPUT, synapse=window, delay_steps=2)
    return QuantizedNetwork(
        input_shape=(1, 4, 1), layers=(QuantizedLayer(name="only", shape=(1, 4, 1), connections=(delayed,), **lif(100)),)
    )  # fmt: skip


def random_job(network: QuantizedNetwork, shape: tuple[int, ...]) -> Job:
    return network, (np.random.default_rng(0).random(shape) < 0.3).astype(np.uint8)


Ran = dict[str, tuple[list[Job], list[SpikeRecord]]]


@pytest.fixture(scope="module")
def ran() -> Ran:
    """What the tests below look at, run by a single worker: starting Lava takes longer than any of them."""
    jobs = {
        "chains": drawn_jobs(CHAINS, 10),
        "graphs": drawn_jobs(GRAPHS, 10),
        "graded": drawn_jobs(GRADED, 8),
        "resets": drawn_jobs(CHAINS, 6) + drawn_jobs(GRAPHS, 6),
        "residual": [random_job(residual(), (2, 1, 6, 5, 12))],
        "narrow": [random_job(narrow(), (2, 1, 4, 1, 12))],
        "tiny": [random_job(read_netx(of_lava_dl("tiny.net")), (2, 3, 16, 16, 10))],
    }
    resets = [reset for name, some in jobs.items() for reset in (RESETS if name == "resets" else [(0, 0)] * len(some))]
    together = [job for some in jobs.values() for job in some]
    records = iter(run_lava_jobs(together, record="all", time_limit_s=2 * LONG_S, resets=resets))
    return {name: (some, list(islice(records, len(some)))) for name, some in jobs.items()}


@pytest.mark.lava
@pytest.mark.parametrize("drawn", ["chains", "graphs"])
def test_drawn_networks_run_as_in_the_emulator(ran: Ran, drawn: str) -> None:
    assert assert_equal_to_emulator(*ran[drawn]) > 20


@pytest.mark.lava
def test_graded_input_is_multiplied_as_in_lava(ran: Ran) -> None:
    assert sum(int(abs(spikes).max()) > 1 for _, spikes in ran["graded"][0]) > 3
    assert assert_equal_to_emulator(*ran["graded"]) > 20


@pytest.mark.lava
def test_neurons_that_reset_themselves_do_it_as_in_lava(ran: Ran) -> None:
    assert assert_equal_to_emulator(*ran["resets"], RESETS) > 50
    unlike = 0
    for (network, spikes), record in zip(*ran["resets"], strict=True):
        unlike += not compare(run_emulator(network, spikes, record="all"), record).equal
    assert unlike > 2


@pytest.mark.lava
def test_a_residual_block_that_hears_itself(ran: Ran) -> None:
    assert assert_equal_to_emulator(*ran["residual"]) > 100


@pytest.mark.lava
def test_a_delayed_convolution_of_which_one_sign_meets_only_the_border(ran: Ran) -> None:
    assert_equal_to_emulator(*ran["narrow"])
    [record] = ran["narrow"][1]
    assert (record.v["only"] == -256 * 64).any()


@pytest.mark.lava
def test_the_tiny_network_of_lava_dl(ran: Ran) -> None:
    assert assert_equal_to_emulator(*ran["tiny"]) > 100


@pytest.mark.lava
def test_verify_and_simulate_run_graphs() -> None:
    network = residual()
    assert verify(network, n_steps=6, n_samples=2, device="cpu").equal
    _, spikes = random_job(network, (1, 6, 5, 8))
    record = simulate(network, spikes, end="lava")
    assert list(record.v) == ["third"]
    np.testing.assert_array_equal(record.v["third"], simulate(network, spikes).v["third"])


@pytest.mark.lava
@pytest.mark.slow
def test_the_command_line_runs_a_file_with_branches(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, file = residual(), str(tmp_path / "branches.net")
    write_netx(network, file)
    _, spikes = random_job(network, (1, 6, 5, 8))
    np.save(tmp_path / "spikes.npy", spikes)
    said = str(tmp_path / "record.npz")
    assert main(["simulate", file, "--input", str(tmp_path / "spikes.npy"), "--end", "lava", "--out", said]) == 0
    np.testing.assert_array_equal(np.load(said)["v"], simulate(network, spikes).v["third"])
    assert main(["simulate", file, "--input", str(tmp_path / "spikes.npy"), "--end", "loihi2", "--out", said]) == 2
    assert "loihi2: Lava cannot reach a board" in capsys.readouterr().err
    assert main(["verify", file, "--steps", "6"]) == 0
    assert capsys.readouterr().out.startswith("Equal: ")


@pytest.mark.lava
@pytest.mark.slow
@pytest.mark.parametrize("part", range(9))
@pytest.mark.parametrize("drawn", [CHAINS, GRAPHS, GRADED], ids=["chains", "graphs", "graded"])
def test_hundreds_of_drawn_networks_run_as_in_the_emulator(drawn: st.SearchStrategy[Job], part: int) -> None:
    """50 networks a part, each with resets of its own or none."""
    jobs = drawn_jobs(drawn, 50, part)
    resets = [(k % 5, k % max(k % 5, 1)) for k in range(len(jobs))]
    records = run_lava_jobs(jobs, record="all", time_limit_s=1800, resets=resets)
    assert assert_equal_to_emulator(jobs, records, resets) > 50


# ---------------------------------------------------------------------------------------------- trained networks of lava-dl


def ntidigits(tmp_path: Path) -> tuple[QuantizedNetwork, NDArray[np.uint8]]:
    """64 - 256 - 256 - 242 with a delay for each axon, less the last layer, which Lava has not."""
    path = tmp_path / "ntidigits.net"
    path.write_bytes(of_lava_dl("gts/ntidigits/ntidigits.net").read_bytes())
    with h5py.File(path, "r+") as file:
        del file["layer/5"]
    return read_netx(path), np.load(of_lava_dl("gts/ntidigits/input.npy")).astype(np.uint8)


@pytest.mark.lava
def test_delays_of_axons_give_the_ground_truth_of_lava_dl(tmp_path: Path) -> None:
    """Recorded on a clock four steps later: three layers, and one that counts from 1."""
    network, spikes = ntidigits(tmp_path)
    assert max(c.delay_steps for layer in network for c in layer.connections) == 62
    fired = run_emulator(network, spikes[np.newaxis]).spikes[network.output.name][0].reshape(242, -1)
    expected = np.load(of_lava_dl("gts/ntidigits/output.npy"))
    assert expected.sum() > 20_000
    np.testing.assert_array_equal(fired[:, :-4], expected[:, 4:])
    assert read_netx(write_netx(network, tmp_path / "again.net")) == network


@pytest.mark.lava
@pytest.mark.slow
def test_trained_networks_of_lava_dl_run_as_in_the_emulator(tmp_path: Path) -> None:
    """PilotNet, five convolutions and four dense layers, on the spikes of its ground truth; N-TIDIGITS with its delays."""
    pilot = read_netx(of_lava_dl("gts/pilotnet_lif/network.net"))
    frames = np.load(of_lava_dl("gts/pilotnet_lif/input-s.npy")).transpose(2, 1, 0, 3)[np.newaxis, ..., :14].astype(np.uint8)
    network, spikes = ntidigits(tmp_path)
    jobs = [(pilot, frames), (network, spikes[np.newaxis, :, :120])]
    assert assert_equal_to_emulator(jobs, run_lava_jobs(jobs, record="all", time_limit_s=3600)) > 150_000


@pytest.mark.lava
def test_a_model_of_convolutions_goes_all_the_way_to_lava() -> None:
    """Norse modules, their network, its integers, the file that plain netx loads, Lava; pooling of both kinds on the way."""
    torch.manual_seed(0)
    box = LIFBoxParameters(tau_mem_inv=torch.tensor(400.0))
    model = SequentialState(
        Conv2d(2, 4, 3, padding=1), BatchNorm2d(4), LIFBoxCell(box), MaxPool2d(2),
        AvgPool2d(2), Conv2d(4, 6, 2, bias=False), LIFCell(),
        Flatten(), Linear(6, 5, bias=False), LIFCell(), LIFRecurrentCell(5, 4), Dropout(), Linear(4, 3, bias=False), LICell(),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4).add_(0.5)
    network = quantize(extract(model, torch.zeros(1, 2, 8, 8)), load_profile("tiny"))
    assert plain_kinds(network) == ("conv", "conv", "conv", "dense", "dense_rec", "dense")
    _, spikes = random_job(network, (2, 2, 8, 8, 12))
    record = simulate(network, spikes, end="lava", record="all")
    assert assert_equal_to_emulator([(network, spikes)], [record]) > 500
