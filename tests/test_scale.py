"""Networks of millions of neurons: an answer, or a line that says what is too large."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.ir import arrays
from neurodeploy.ir.network import LIF, Conv, Layer, Sparse
from neurodeploy.mapping.partition import even_cuts, middle_run
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region

NEURON = LIF(threshold=np.ones(()), current_decay=np.ones(()), voltage_decay=np.ones(()), rest=np.zeros(()))


def image(side: int) -> nd.Network:
    """A convolution of 16 channels on an image, 100 million neurons for a side of 2,500."""
    kernel = Conv(weight=np.arange(1.0, 145.0).reshape(16, 1, 3, 3), input_shape=(1, side, side), padding=(1, 1))
    connection = nd.Connection(source=nd.INPUT, synapse=kernel)
    layer = Layer(name="image", shape=kernel.output_shape, neuron=NEURON, connections=(connection,), bias=np.zeros(()))
    return nd.Network(input_shape=(1, side, side), layers=(layer,), timestep_s=0.001)


def test_what_a_board_cannot_hold_by_far_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """100 million neurons on 128 cores of 1,024: 97,657 cores, which nobody has to count one by one."""
    nd.write_netx(nd.quantize(image(2500), nd.load_profile("loihi1")), tmp_path / "m.net")
    assert main(["inspect", str(tmp_path / "m.net"), "--target", "loihi1", "--json"]) == 2
    said = capsys.readouterr()
    assert not said.out
    (line,) = said.err.strip().splitlines()
    assert "layer 'image': 100,000,000 neurons of the network on 128 cores > 131,072 (loihi1.yaml: neurons_per_core)" in line
    assert "Use a chip with at least 97,657 cores, or remove neurons." in line


def test_what_does_not_fit_but_can_be_laid_out_is_an_answer() -> None:
    """230,400 neurons on a chip of 131,072: it does not fit, and says how many cores would do."""
    seen = nd.inspect(image(120), nd.load_profile("loihi1"))
    assert not seen.placement.fits
    assert seen.placement.cores_lower_bound == 225
    assert 225 <= seen.placement.cores_used <= 260


def test_more_memory_than_there_is_is_refused_with_what_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "available_memory", lambda: (1e5, "what ulimit -v leaves"))
    with pytest.raises(nd.NetworkError) as refused:
        nd.inspect(image(2500), nd.load_profile("hala_point"))
    assert str(refused.value) == (
        "layer 'image': 1.4 GB of memory to count 100,000,000 neurons, 144 weights and 6,250,000 inputs > 0.0 (what ulimit -v "
        "leaves). Use a machine, or a limit, with more memory, or make the layer smaller."
    )


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_limits_of_the_process_are_seen() -> None:
    program = (
        "import resource, numpy\nfrom neurodeploy.ir.arrays import available_memory\n"
        "before, _ = available_memory()\nresource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))\n"
        "left, source = available_memory()\nassert left < 1 << 30 and source == 'what ulimit -d leaves', (left, source)\n"
        "kept = numpy.ones(1 << 26)\nassert abs(left - available_memory()[0] - (1 << 29)) < 1 << 26"
    )
    ran = subprocess.run([sys.executable, "-c", program], env=os.environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@given(st.integers(1, 300), st.integers(1, 300))
def test_the_middle_run_is_a_longest_of_the_cut_at_or_behind_its_middle(side: int, block: int) -> None:
    cuts = even_cuts(side, min(block, side))
    run = middle_run(side, min(block, side))
    longest = max(stop - start for start, stop in cuts)
    assert run == next(cut for cut in cuts[len(cuts) // 2 :] if cut[1] - cut[0] == longest)


def test_a_slice_of_a_list_reads_its_own_sources_only() -> None:
    """A million neurons, each with one source: the box of a slice of ten is ten neurons, not the million."""
    n = 1_000_000
    synapse = Sparse(n_in=n, starts=np.arange(n + 1), sources=np.arange(n), weight=np.ones(n))
    layer = Layer(
        name="a", shape=(n,), neuron=NEURON, bias=np.zeros(()), connections=(nd.Connection(source=nd.INPUT, synapse=synapse),)
    )
    count = LayerCount(layer, 8, nd.load_profile("loihi2"))
    (received,) = count.sources(Region.run(500, 510))
    assert (received.box, received.mask.tolist()) == (Region.run(500, 510), [True] * 10)
    assert [fan_out.tolist() for fan_out in count.fan_outs(Region.run(500, 510))] == [[1] * 10]


def test_a_model_that_takes_more_memory_than_there_is_is_not_told_that_its_sample_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch
    from norse.torch import LIFCell, SequentialState

    def fail(_: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 400000000 bytes.")

    monkeypatch.setattr(arrays, "available_memory", lambda: (2e8, "what ulimit -v leaves"))
    model = SequentialState(torch.nn.Linear(4, 3), LIFCell())
    monkeypatch.setattr(model[0], "forward", fail)
    with pytest.raises(nd.ExtractError, match=r"allocate 400000000 bytes \(0\.2 GB: what ulimit -v leaves\)\. Use a machine"):
        nd.extract(model, torch.zeros(1, 4))


def held() -> int:
    """Memory that Python and NumPy hold, in bytes, once the garbage is collected."""
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def open_files() -> int:
    """Files that this process has open, where the system tells."""
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


def test_hundreds_of_calls_hold_no_memory_and_no_files() -> None:
    """A leak of 1 KB a call is twice the bound."""
    network = nd.Network(input_shape=(1, 4, 4), layers=image(4).layers, timestep_s=0.001)
    chip = nd.load_profile("loihi2")
    quantized, spikes = nd.quantize(network, chip), np.ones((1, 4, 4, 3), dtype=np.uint8)
    calls: dict[str, tuple[Callable[[], object], int]] = {
        "simulate": (lambda: nd.simulate(quantized, spikes), 300),
        "quantize and simulate": (lambda: nd.simulate(nd.quantize(network, chip), spikes), 100),
    }
    for name, (call, times) in calls.items():
        tracemalloc.start()
        try:
            for _ in range(times // 2):  # fills what is kept once, NumPy's freed blocks too
                call()
            files, before = open_files(), held()
            for _ in range(times):
                call()
            assert held() - before < 512 * times, f"{name}: {held() - before} bytes after {times} calls"
            assert open_files() == files
        finally:
            tracemalloc.stop()
