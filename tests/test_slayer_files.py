"""Files that lava-dl's slayer writes: read, laid out as our own, and run in Lava as in the emulator."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from lava_runs import LONG_S, assert_equal_to_emulator

from neurodeploy.targets.loihi.lava_client import run_lava
from neurodeploy.targets.loihi.netx_format import plain_kinds
from neurodeploy.targets.loihi.netx_io import read_netx, write_netx

pytestmark = pytest.mark.lava_here

EXPORT = """
import sys, warnings
warnings.simplefilter("ignore")
import h5py, numpy as np, torch
import lava.lib.dl.slayer as slayer
torch.manual_seed(0)
neuron = {"threshold": 1.0, "current_decay": 0.25, "voltage_decay": 0.03, "requires_grad": False}
cuba = slayer.block.cuba
blocks = [
    cuba.Conv(neuron, 2, 4, (3, 2), stride=(1, 2), padding=(1, 0), dilation=1, groups=2, weight_scale=4),
    cuba.Flatten(),
    cuba.Dense(neuron, 72, 5, weight_scale=2, delay=True),
    cuba.Recurrent(neuron, 5, 4, weight_scale=4),
]
passing = torch.zeros(1, 2, 6, 6, 4)
for block in blocks:
    passing = block(passing)  # shapes are known from then on
delay = blocks[2].delay.delay
delay.data[:] = torch.arange(delay.numel()).reshape(delay.shape).float()
with h5py.File(sys.argv[1], "w") as file:
    layers = file.create_group("layer")
    layers.create_group("0").create_dataset("type", (1,), "S10", [b"input"])
    layers["0"]["shape"] = np.array([2, 6, 6])
    for index, block in enumerate(blocks, start=1):
        block.export_hdf5(layers.create_group(str(index)))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grouped convolution with stride and padding, a dense layer with a delay an axon, a recurrent layer."""
    path = tmp_path_factory.mktemp("slayer") / "slayer.net"
    done = subprocess.run([sys.executable, "-c", EXPORT, str(path)], capture_output=True, text=True, timeout=LONG_S)
    assert done.returncode == 0, done.stderr
    return path


def test_what_slayer_writes_is_read_and_runs_in_lava_as_in_the_emulator(exported: Path) -> None:
    network = read_netx(exported)
    assert [(layer.shape, type(layer.connections[0].synapse).__name__) for layer in network] == [
        ((4, 6, 3), "QuantizedConv"), ((5,), "QuantizedSparse"), ((4,), "QuantizedDense")
    ]  # fmt: skip
    assert len({c.delay_steps for c in network.layers[1].connections}) > 2
    spikes = (np.random.default_rng(0).random((2, 2, 6, 6, 20)) < 0.4).astype(np.uint8)
    record = run_lava(network, spikes, record="all", time_limit_s=LONG_S)
    assert assert_equal_to_emulator([(network, spikes)], [record]) > 100


def test_our_files_have_what_slayers_have(exported: Path, tmp_path: Path) -> None:
    """Without delays of axons it is a chain; then ours differs by the scale alone, which Lava never asks for."""
    with h5py.File(exported, "r+") as file:
        del file["layer/3/delay"]
    network = read_netx(exported)
    assert plain_kinds(network) == ("conv", "dense", "dense_rec")
    ours = write_netx(network, tmp_path / "ours.net")
    with h5py.File(exported) as theirs, h5py.File(ours) as written:
        assert list(theirs["layer"]) == list(written["layer"])
        for key, layer in theirs["layer"].items():
            mine = written[f"layer/{key}"]
            assert set(mine) ^ set(layer) <= {"scale"}
            if "neuron" in layer:
                assert set(mine["neuron"]) == set(layer["neuron"])
                same = set(layer) - {"type", "neuron"}
                assert all(np.array_equal(mine[name][()], layer[name][()]) for name in same)
