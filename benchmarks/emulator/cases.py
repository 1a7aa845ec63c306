"""What is run: the trained networks of the lava-dl wheel with input for them, and drawn ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import QuantizedDense, QuantizedLayer, QuantizedLIF, QuantizedNetwork, QuantizedSparse
from neurodeploy.targets.loihi.netx_io import read_netx

NTIDIGITS = "gts/ntidigits/ntidigits.net"
MNIST_RATE = 0.13
"""Mean intensity of an MNIST image: chance of a spike where none are given."""


@dataclass(frozen=True)
class Case:
    """A network, spikes for it, and those on which Lava has to agree before anything is timed."""

    name: str
    network: QuantizedNetwork
    spikes: NDArray[np.uint8]
    checked: NDArray[np.uint8]
    file: str | None = None
    """The wheel's own file, where netx has fewer and larger processes for it than our networks would get from Lava."""

    @property
    def batch(self) -> int:
        return len(self.spikes)


def of_lava_dl(name: str) -> Path:
    """A file in the lava-dl wheel."""
    files = [path for root in sys.path if (path := Path(root) / "tests/lava/lib/dl/netx" / name).is_file()]
    if not files:
        raise SystemExit(f"the lava-dl wheel has {name}, and is not installed here: leave out section lava")
    return files[0]


def drawn_spikes(shape: tuple[int, ...], rate: float, seed: int = 0) -> NDArray[np.uint8]:
    """Spikes of one rate."""
    return (np.random.default_rng(seed).random(shape, dtype=np.float32) < rate).astype(np.uint8)


def mnist_of_lava(batch: int, n_steps: int) -> Case:
    """784-512-512-10, trained; checked on two samples of 200 steps."""
    spikes, checked = (drawn_spikes((n, 784, steps), MNIST_RATE, seed=n) for n, steps in ((batch, n_steps), (2, 200)))
    return Case("mnist.net", read_netx(of_lava_dl("mnist.net")), spikes, checked)


def pilotnet(batch: int, n_steps: int) -> Case:
    """Five convolutions, four dense layers, trained; the frames of its ground truth, each sample's moved by a column.

    Checked on two samples of all frames.
    """
    network = read_netx(of_lava_dl("gts/pilotnet_lif/network.net"))
    frames = np.load(of_lava_dl("gts/pilotnet_lif/input-s.npy")).transpose(2, 1, 0, 3).astype(np.uint8)
    samples = np.stack([np.roll(frames, k, axis=2) for k in range(max(batch, 2))])
    return Case("PilotNet LIF", network, samples[:batch, ..., :n_steps], samples[:2])


def ntidigits(batch: int, n_steps: int) -> Case:
    """64-256-256-242 with a delay an axon, trained (less its last layer, which Lava has not); stretches of its ground truth.

    Checked on the first and on the second 250 steps of it.
    """
    with TemporaryDirectory() as folder:
        network = read_netx(without_last_layer(NTIDIGITS, 5, Path(folder)))
    whole = np.load(of_lava_dl("gts/ntidigits/input.npy")).astype(np.uint8).reshape(*network.input_shape, -1)
    last = whole.shape[-1] - n_steps
    spikes = np.stack([whole[..., (k * last) // batch :][..., :n_steps] for k in range(batch)])
    return Case("N-TIDIGITS", network, spikes, np.stack([whole[..., :250], whole[..., 250:500]]), file=NTIDIGITS)


def without_last_layer(name: str, last: int, folder: Path) -> Path:
    """A copy of a file of the wheel, less its last layer."""
    path = folder / "shortened.net"
    path.write_bytes(of_lava_dl(name).read_bytes())
    with h5py.File(path, "r+") as file:
        del file[f"layer/{last}"]
    return path


def chain(sizes: tuple[int, ...], *, connectivity: float = 1.0, seed: int = 0) -> QuantizedNetwork:
    """Dense layers that fire at about a tenth of their steps."""
    rng = np.random.default_rng(seed)
    layers: list[QuantizedLayer] = []
    for depth, (n_in, n_out) in enumerate(pairwise(sizes), start=1):
        exist = rng.random((n_out, n_in)) < connectivity
        weight = 2 * rng.integers(-120, 121, (n_out, n_in)) * exist
        source = layers[-1].name if layers else INPUT
        connection = Connection(source=source, synapse=QuantizedDense(weight=weight, weight_bits=9))
        layers.append(_layer(f"layer{depth}", n_out, connection, round(180 * np.sqrt(n_in * connectivity * MNIST_RATE))))
    return QuantizedNetwork(input_shape=(sizes[0],), layers=tuple(layers))


def listed(layers: int, width: int, fan_in: int, seed: int = 0) -> QuantizedNetwork:
    """Layers of `width` neurons, each of which hears `fan_in` of the layer before; biases keep them firing."""
    rng = np.random.default_rng(seed)
    made: list[QuantizedLayer] = []
    for depth in range(1, layers + 1):
        steps = rng.integers(1, width // fan_in, (width, fan_in), dtype=np.int32)
        sources = np.cumsum(steps, axis=1, dtype=np.int32) - 1
        weight = (2 * rng.integers(-120, 121, width * fan_in)).astype(np.int16)
        synapse = QuantizedSparse(
            n_in=width, starts=np.arange(width + 1) * fan_in, sources=sources.reshape(-1), weight=weight, weight_bits=9
        )  # fmt: skip
        connection = Connection(source=made[-1].name if made else INPUT, synapse=synapse)
        made.append(_layer(f"layer{depth}", width, connection, 2000, bias=rng.integers(0, 600, width)))
    return QuantizedNetwork(input_shape=(width,), layers=tuple(made))


def _layer(
    name: str, n: int, connection: Connection[QuantizedDense | QuantizedSparse], vth: int, bias: Any = 0
) -> QuantizedLayer:
    neuron = QuantizedLIF(vth=np.array(vth), du=np.array(2800), dv=np.array(1200))
    return QuantizedLayer(
        name=name, shape=(n,), neuron=neuron, connections=(connection,), bias=np.array(bias), scale=np.array(1.0)
    )  # fmt: skip
