"""Networks that every tool is given: their files, an input, and the spikes that neurodeploy has for them.

A folder for each network and file: the file, ``given.npy`` with input spikes (batch, *shape, n_steps), ``expected.npy`` with
those of the last layer, and ``case.json``. Digits are the input; thresholds are such that every layer fires in every case.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import neurodeploy as nd
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LIF, Conv, Dense, Layer, Network, SubtractiveLIF, Synapse
from neurodeploy.targets import target_of

N_STEPS, N_SAMPLES = 40, 8
Shape = tuple[int, ...]


def neurons(threshold: float = 1.0, *, current: float = 1.0, leak: float = 0.25) -> LIF:
    """LIF neurons that rest at 0."""
    numbers = {"threshold": threshold, "current_decay": current, "voltage_decay": leak, "rest": 0.0}
    return LIF(**{name: np.array(number) for name, number in numbers.items()})


def subtractive(like: LIF, max_spikes: int) -> SubtractiveLIF:
    """Neurons with the same numbers that reset by subtraction."""
    return SubtractiveLIF(
        threshold=like.threshold, current_decay=like.current_decay, voltage_decay=like.voltage_decay, rest=like.rest,
        max_spikes=np.array(max_spikes),
    )  # fmt: skip


class Drawer:
    """Draws weights with more excitation than inhibition."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def weights(self, *shape: int, gain: float = 1.0) -> NDArray[np.float64]:
        drawn = self.rng.normal(0.15, 1.0, shape) * gain / np.sqrt(np.prod(shape[1:]))
        return np.float64(np.float32(drawn))  # as the tools, most of which have single precision, will have them

    def dense(self, n_out: int, n_in: int, gain: float = 1.0) -> Dense:
        return Dense(weight=self.weights(n_out, n_in, gain=gain))

    def conv(self, channels: int, image: tuple[int, int, int], gain: float = 1.0) -> Conv:
        return Conv(weight=self.weights(channels, image[0], 3, 3, gain=gain), input_shape=image, stride=(1, 1), padding=(1, 1))


def chain(synapses: list[Synapse], shapes: list[Shape], kind: LIF | SubtractiveLIF, input_shape: Shape) -> Network:
    """Layers in a row."""
    layers, source = [], INPUT
    for index, (synapse, shape) in enumerate(zip(synapses, shapes, strict=True)):
        name = f"layer{index}"
        connections = (Connection(source=source, synapse=synapse),)
        layers.append(Layer(name=name, shape=shape, neuron=kind, connections=connections, bias=np.array(0.0)))
        source = name
    return Network(input_shape=input_shape, layers=tuple(layers), timestep_s=1e-3)


def dense(kind: LIF | SubtractiveLIF, gain: float = 1.0) -> Network:
    """64-32-10."""
    draw = Drawer(1)
    return chain([draw.dense(32, 64, gain), draw.dense(10, 32, gain)], [(32,), (10,)], kind, (64,))


def biased() -> Network:
    """64-32-10 with a bias for all neurons."""
    network = dense(neurons(), 1.5)
    return replace(network, layers=tuple(replace(layer, bias=np.array(0.0625)) for layer in network.layers))


def convolution() -> Network:
    """Two convolutions of 8 x 8 images, and a dense layer."""
    draw, image = Drawer(2), (1, 8, 8)
    synapses = [draw.conv(4, image, 3), draw.conv(6, (4, 8, 8), 2), draw.dense(10, 384, 3)]
    return chain(synapses, [(4, 8, 8), (6, 8, 8), (10,)], neurons(), image)


def recurrent() -> Network:
    """64-32-10, whose hidden layer receives its own spikes."""
    network, draw = dense(neurons(), 1.5), Drawer(3)
    first = network.layers[0]
    back = Connection(source=first.name, synapse=draw.dense(32, 32, 0.5))
    return replace(network, layers=(replace(first, connections=(*first.connections, back)), network.layers[1]))


def xylo() -> Network:
    """16-32-8 as Xylo has it: several spikes a step in the hidden layer, one in the readout."""
    draw = Drawer(4)
    kind = subtractive(neurons(current=0.5, leak=0.125), 31)
    readout = replace(kind, max_spikes=np.array(1))
    network = chain([draw.dense(32, 16, 2), draw.dense(8, 32)], [(32,), (8,)], kind, (16,))
    return replace(network, layers=(network.layers[0], replace(network.layers[1], neuron=readout)))


FLOATS: dict[str, Callable[[], Network]] = {
    "LIF": lambda: dense(neurons(), 1.5),
    "LIF, bias": biased,
    "LIF, synaptic current": lambda: dense(neurons(current=0.5)),
    "IF": lambda: dense(neurons(leak=0.0)),
    "convolution": convolution,
    "recurrent": recurrent,
    "subtractive": lambda: dense(subtractive(neurons(), 1), 1.5),
    "subtractive, synaptic current": lambda: dense(subtractive(neurons(current=0.5, leak=0.125), 31)),
}
INTEGERS = ("LIF", "LIF, bias", "LIF, synaptic current", "IF", "convolution", "recurrent")


def digits(shape: Shape) -> NDArray[np.uint8]:
    """Spikes of the first digits of the test set, as many of their pixels as fit."""
    images, _ = next(iter(nd.load_data("digits").test))
    pixels = images.flatten(1)[:N_SAMPLES, -int(np.prod(shape)) :].reshape(N_SAMPLES, *shape)
    return np.asarray(nd.simulator_spikes(pixels, N_STEPS), dtype=np.uint8)


def write_case(folder: Path, name: str, file: str, options: Mapping[str, Any]) -> None:
    """Write a network as `file`, model.nir (with options of `write_nir`), model.net or model.npz, with its input and answer."""
    folder.mkdir(parents=True)
    network = xylo() if file == "model.npz" else FLOATS[name]()
    given = digits(network.input_shape)
    to_run: Network | nd.QuantizedNetwork = network
    if file == "model.nir":
        nd.write_nir(network, folder / file, **options)
    else:
        profile = nd.load_profile("loihi2" if file == "model.net" else "xylo")
        to_run, target = nd.quantize(network, profile), target_of(profile)
        assert target is not None
        target.write(to_run, folder / file)
        for suffix, written in target.other_forms.items():
            (folder / file).with_suffix(f".{suffix}").write_text(written(to_run))
    record = nd.simulate(to_run, given, record="all")
    assert all(record.rates()[layer] > 0 for layer in record.spikes), name
    np.save(folder / "given.npy", given)
    np.save(folder / "expected.npy", record.spikes[record.output])
    (folder / "case.json").write_text(json.dumps({"net": name, "file": file, **options}))
