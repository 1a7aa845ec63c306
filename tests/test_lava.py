"""Lava's simulator against our emulator, bit for bit; and that a run of Lava ends, whatever happens to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import strategies
from lava_runs import LONG_S, assert_equal_to_emulator, drawn_jobs, of_lava_dl
from numpy.typing import NDArray

from neurodeploy.errors import SimulationError
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import Encoder, QuantizedDense, QuantizedLayer, QuantizedLIF, QuantizedNetwork
from neurodeploy.simulation.records import SpikeRecord, compare
from neurodeploy.targets import COUNTER, simulator_process
from neurodeploy.targets.loihi import lava_client as lava
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.loihi.lava_client import Job, run_lava, run_lava_jobs
from neurodeploy.targets.loihi.netx_io import read_netx, write_netx
from neurodeploy.targets.simulate import simulate
from neurodeploy.targets.simulator_process import LAVA, python_of

pytestmark = pytest.mark.lava


def lif_layer(weight: list[list[int]] | NDArray[np.int64], *, vth: int, du: int, dv: int, bias: int = 0) -> QuantizedLayer:
    matrix = np.array(weight)
    return QuantizedLayer(
        name="only",
        shape=(len(matrix),),
        neuron=QuantizedLIF(vth=np.array(vth), du=np.array(du), dv=np.array(dv)),
        connections=(Connection(source=INPUT, synapse=QuantizedDense(weight=matrix, weight_bits=8)),),
        bias=np.array(bias),
        scale=np.array(1.0),
    )


def single(layer: QuantizedLayer) -> QuantizedNetwork:
    return QuantizedNetwork(input_shape=(layer.weight.shape[1],), layers=(layer,))


def two_layers() -> QuantizedNetwork:
    first = lif_layer([[10, 20], [30, 40]], vth=15, du=2048, dv=2048)
    second = replace(first, name="second", connections=(replace(first.connections[0], source="only"),))
    return QuantizedNetwork(input_shape=(2,), layers=(first, second))


def waiting() -> QuantizedNetwork:
    """Spikes wait in its synapses."""
    layer = lif_layer([[10, 20]], vth=15, du=2048, dv=2048)
    return single(replace(layer, connections=(replace(layer.connections[0], delay_steps=1),)))


NETWORK = single(lif_layer([[10]], vth=15, du=2048, dv=2048))
BY_HAND = (NETWORK, np.array([[[1, 1, 0, 0, 0]]], dtype=np.uint8))


# ---------------------------------------------------------------------------------------------- bit for bit


def mnist_of_lava_dl() -> Job:
    """784 - 512 - 512 - 10, with an input population (its spikes are ours) and a readout without neurons."""
    network = read_netx(of_lava_dl("mnist.net"))
    assert network.encoder is not None
    return network, (np.random.default_rng(0).random((2, 784, 10)) < [[[0.3]], [[0.05]]]).astype(np.uint8)


def extremes() -> list[Job]:
    """Currents that wrap, membranes that saturate at both ends: 300 inputs of the largest weight, and nothing decays."""
    ends = ((255, 131071, 0, 4095), (-255, 131071, 0, -4096), (255, 0, 1, 0), (255, 131071, 4096, 0))
    layers = [lif_layer(np.full((2, 300), weight), vth=vth, du=0, dv=dv, bias=bias) for weight, vth, dv, bias in ends]
    return [(single(layer), np.ones((2, 300, 12), dtype=np.uint8)) for layer in layers]


Ran = dict[str, tuple[list[Job], list[SpikeRecord]]]


@pytest.fixture(scope="module")
def ran() -> Ran:
    """What the tests below look at, run by a single worker: starting Lava takes longer than any of them."""
    jobs = {
        "drawn": drawn_jobs(strategies.jobs, 30),
        "extremes": extremes(),
        "by hand": [BY_HAND],
        "mnist": [mnist_of_lava_dl()],
    }
    records = iter(run_lava_jobs([job for some in jobs.values() for job in some], record="all", time_limit_s=LONG_S))
    return {name: (some, list(islice(records, len(some)))) for name, some in jobs.items()}


def test_drawn_networks_run_as_in_the_emulator(ran: Ran) -> None:
    assert assert_equal_to_emulator(*ran["drawn"]) > 100


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_hundreds_of_drawn_networks_run_as_in_the_emulator(part: int) -> None:
    jobs = drawn_jobs(strategies.jobs, 50, part)
    assert assert_equal_to_emulator(jobs, run_lava_jobs(jobs, record="all", time_limit_s=1800)) > 200


def test_states_past_24_bits(ran: Ran) -> None:
    assert_equal_to_emulator(*ran["extremes"])
    assert all(run_emulator(network, spikes).overflows["only"] for network, spikes in ran["extremes"][0])


def test_the_mnist_network_of_lava_dl(ran: Ran) -> None:
    assert assert_equal_to_emulator(*ran["mnist"]) > 1000


def test_a_neuron_worked_by_hand(ran: Ran) -> None:
    """U <- u/2 + 64 w x, v <- v/2 + u, fires above 64 * 15 = 960: 640; 320 + 960 = 1280 fires; 480; 480; 360."""
    record = ran["by hand"][1][0]
    assert record.end == "lava"
    assert record.spikes["only"].tolist() == [[[0, 1, 0, 0, 0]]]
    assert record.v["only"].tolist() == [[[640, 0, 480, 480, 360]]]


def test_only_the_output_is_recorded_unless_all_is_asked_for() -> None:
    network, spikes = two_layers(), np.ones((2, 2, 6), dtype=np.uint8)
    record = run_lava(network, spikes, time_limit_s=LONG_S)
    assert list(record.spikes) == list(record.v) == ["second"]
    assert compare(run_emulator(network, spikes), record).equal


PLAIN = """
import sys
from pathlib import Path
import numpy as np
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io import sink, source
folder = Path(sys.argv[1])
for name in ("cube", "square"):
    assert len(Network(str(folder / f"{name}.net")).layers) == 2  # an input population of C, H, W, flattened, and a layer
network = Network(str(folder / "plain.net"))
spikes = np.load(folder / "spikes.npy")
feed = source.RingBuffer(data=spikes)
probe = sink.RingBuffer(shape=network.out.shape, buffer=spikes.shape[1])
feed.s_out.connect(network.inp)
network.out.connect(probe.a_in)
network.run(condition=RunSteps(num_steps=spikes.shape[1]), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
np.save(folder / "out.npy", probe.data.get())
network.stop()
"""


@pytest.mark.lava_here  # netx imports torch, unless it is kept out
def test_lava_as_anybody_would_call_it(tmp_path: Path) -> None:
    """`hdf5.Network(path)`, no skip_layers and no reset, with a threshold, decays and a bias for each neuron."""
    rng = np.random.default_rng(0)
    each = QuantizedLIF(vth=np.array([9, 80, 30, 50, 0]), du=np.array([0, 99, 4096, 500, 1]), dv=np.array([4096, 0, 7, 70, 700]))
    layer = replace(
        lif_layer(2 * rng.integers(-40, 90, (5, 6)), vth=0, du=0, dv=0), neuron=each, bias=np.array([1, -2, 3, 0, -7])
    )
    network = single(layer)
    encoder = Encoder(neuron=QuantizedLIF(vth=np.array(9), du=np.array(4096), dv=np.array(7)), weight=3, bias=4)
    for name, shape in (("cube", (1, 2, 3)), ("square", (2, 3))):
        write_netx(replace(network, input_shape=shape, encoder=encoder), tmp_path / f"{name}.net")
    write_netx(network, tmp_path / "plain.net")
    spikes = rng.integers(0, 2, (1, 6, 40))
    np.save(tmp_path / "spikes.npy", spikes[0])
    done = subprocess.run([python_of(LAVA), "-c", PLAIN, str(tmp_path)], capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stderr
    expected = run_emulator(network, spikes.astype(np.uint8)).spikes["only"][0]
    assert expected.any()
    assert np.array_equal(np.load(tmp_path / "out.npy")[:, 1:], expected[:, :-1])


# ---------------------------------------------------------------------------------------------- runs that end badly


def processes(key: str, number: int) -> list[int]:
    """Living processes by the ``ppid``, ``pgrp`` or ``session`` that /proc shows."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, *numbers = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # gone meanwhile
            continue
        if state != "Z" and int(numbers[("ppid", "pgrp", "session").index(key)]) == number:
            found.append(int(path.parent.name))
    return found


def shared_memory(group: int) -> set[str]:
    """The files in /dev/shm that a process group has open."""
    found: set[str] = set()
    for pid in processes("pgrp", group):
        try:
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            continue
        found |= {line.split()[-1] for line in lines if "/dev/shm/" in line and not line.endswith("(deleted)")}
    return found


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Process groups of the workers that were started."""
    started: list[int] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **kwargs: object) -> None:
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]
            started.append(self.pid)

    monkeypatch.setattr(simulator_process.subprocess, "Popen", Popen)
    return started


SPIKES = np.ones((1, 1, 4), dtype=np.uint8)


def test_a_run_that_takes_too_long(workers: list[int]) -> None:
    with pytest.raises(SimulationError, match=r"was not done after 0\.5 s: 0 of 5 steps\. Raise the time limit"):
        run_lava(NETWORK, SPIKES, time_limit_s=0.5)
    assert len(workers) == 1
    assert processes("session", workers[0]) == []


def script(folder: Path, source: str) -> Path:
    """A file to be run in place of the worker."""
    path = folder / "worker.py"
    path.write_text(source)
    return path


def test_a_run_tells_how_far_it_is(workers: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker that takes two seconds for its steps, and then fails: counted on the way, and no longer than it lives."""
    steps = "import time; [(open('steps', 'w').write(str(n)), time.sleep(0.5)) for n in range(1, 5)]; raise OSError('full')"
    monkeypatch.setattr(lava, "WORKER", script(tmp_path, steps))
    told: list[tuple[int, int]] = []
    token = COUNTER.set(lambda done, total: told.append((done, total)))
    try:
        with pytest.raises(SimulationError, match="lava: died: OSError: full"):
            run_lava(NETWORK, SPIKES, time_limit_s=LONG_S)
    finally:
        COUNTER.reset(token)
    assert {total for _, total in told} == {5}
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len({done for done, _ in told}) >= 3
    assert processes("session", workers[0]) == []


def test_a_run_that_dies(workers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lava.np, "save", lambda path, _array: path.write_text("no array"))
    with pytest.raises(SimulationError, match=r"lava: died: .*The emulator"):
        run_lava(NETWORK, SPIKES, time_limit_s=LONG_S)
    assert processes("session", workers[0]) == []


def test_a_run_that_is_killed(workers: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lava, "WORKER", script(tmp_path, "import os; os.kill(os.getpid(), 9)"))
    with pytest.raises(SimulationError, match="lava: died: SIGKILL"):
        run_lava(NETWORK, SPIKES, time_limit_s=LONG_S)
    assert processes("session", workers[0]) == []


CALLER = """
import signal, sys
import numpy as np
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it, and so would this
from neurodeploy.targets.loihi.netx_io import read_netx
from neurodeploy.targets.loihi.lava_client import run_lava
run_lava(read_netx(sys.argv[1], trusted=True), np.ones((1, 1, 30_000), dtype=np.uint8), time_limit_s=1000)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_caller_that_ends_takes_lava_along(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle of a run; and a caller that has no chance to clean up at all."""
    command = [sys.executable, "-c", CALLER, str(write_netx(NETWORK, tmp_path / "model.net"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    caller = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + LONG_S
    group, memory = 0, set()
    while time.monotonic() < deadline and not (memory and len(processes("pgrp", group)) > 5):
        time.sleep(0.2)
        group = next(iter(processes("ppid", caller.pid)), 0)
        memory = shared_memory(group) if group else set()
    assert memory, "Lava did not start"
    caller.send_signal(number)
    caller.wait(timeout=90)  # on a machine that has other things to do
    deadline = time.monotonic() + 10
    while processes("session", group) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes("session", group) == []
    assert [name for name in memory if Path(name).exists()] == []
    assert list(tmp_path.glob("neurodeploy-lava-*")) == []


def test_lava_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NEURODEPLOY_LAVA_PYTHON", raising=False)
    monkeypatch.setattr(simulator_process, "is_importable", lambda name: "dl" not in name)
    with pytest.raises(SimulationError, match=r"lava\.lib\.dl\.netx cannot be imported by Python 3.* simulators install lava"):
        run_lava(NETWORK, SPIKES, time_limit_s=1)


def test_a_board_needs_intels_extension() -> None:
    """It is on no registry, so it is not here."""
    message = r"^loihi2: Lava cannot reach a board: lava\.utils\.loihi2_profiler and .*Neuromorphic Research"
    with pytest.raises(SimulationError, match=message):
        simulate(NETWORK, SPIKES, end="loihi2")


def test_what_a_board_cannot_do_is_refused_before_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lava, "require_extension", lambda: None)
    with pytest.raises(SimulationError, match=r"loihi2: sends the spikes of the output alone, no membranes"):
        simulate(two_layers(), np.ones((1, 2, 3), dtype=np.uint8), end="loihi2", record="all")
    with pytest.raises(SimulationError, match=r"loihi2: cannot put this network to rest between samples: .* Run one sample at"):
        simulate(waiting(), np.ones((2, 2, 3), dtype=np.uint8), end="loihi2")
