"""Drawn networks in Lava's simulator and in the emulator, by kind: every spike and every membrane, at every step.

``python -m benchmarks.exactness --networks 1000 --seed 0 --out benchmarks/results/trust.jsonl`` adds a row for each kind, and one
for networks that Lava would read otherwise than they are, which have to be refused before it is started. Silent networks agree
without showing anything, so thresholds are lowered until every layer fires in both halves of the run; `fired` counts, in what
Lava recorded, the networks in which that is so.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.placement.rows import append
from neurodeploy.errors import NeurodeployError
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import (
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedSparse,
)
from neurodeploy.simulation.records import SpikeRecord, compare
from neurodeploy.targets.loihi.emulator import run_emulator
from neurodeploy.targets.loihi.lava_client import WAIT_MAX, Job, check_waits, run_lava_jobs
from neurodeploy.targets.loihi.netx_format import DELAY_MAX, plain_kinds
from neurodeploy.targets.loihi.netx_io import write_netx
from neurodeploy.targets.loihi.target import BIAS_MIN, DECAY_UNITY, THRESHOLD_MAX, width_of

Shape = tuple[int, ...]

# ---------------------------------------------------------------------------------------------- numbers


@dataclass
class Drawer:
    """Draws layers one after another; what a kind of network needs differently are the fields.

    Attributes
    ----------
    bias, threshold : function of the number of neurons
    decay_max : int
        Largest decay of current and membrane.
    """

    rng: np.random.Generator
    bias: Callable[[int], NDArray[np.int64]] = lambda _n: np.array(0)
    threshold: Callable[[int], NDArray[np.int64]] | None = None
    decay_max: int = DECAY_UNITY
    positive: bool = False
    input_shape: Shape = ()
    layers: list[QuantizedLayer] = field(default_factory=list)

    def whole(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def pair(self, low: int, high: int) -> tuple[int, int]:
        return self.whole(low, high), self.whole(low, high)

    def weights(self, shape: Shape) -> NDArray[np.int64]:
        """Even ones of both signs, or none negative; small, of all sizes, or at the ends; some are zero."""
        rng, largest = self.rng, int(self.rng.choice([3, 20, 127]))
        drawn = 2 * rng.integers(-largest, largest + 1, shape)
        match self.whole(0, 3) if not self.positive else 3:
            case 0:
                drawn = rng.choice([-256, -2, 0, 2, 254], shape)
            case 3:
                drawn = rng.integers(1 if self.positive else 0, 256, shape)
        flat = drawn.reshape(-1)
        flat[0], flat[-1] = 200, max(flat[-1], 2)  # not all negative or zero: Lava misreads some of these (see `refused`)
        return drawn * (rng.random(shape) < 0.9) if not drawn.flat[0] % 2 and self.chance(0.3) and drawn.size > 8 else drawn

    def registers(self, n: int) -> dict[str, NDArray[np.int64]]:
        """Decays: one for all or one a neuron, of any size or at the ends."""
        top, found = self.decay_max, {}
        for key in ("du", "dv"):
            size = n if self.chance(0.4) else ()
            ends = self.rng.choice([0, 1, max(top - 1, 0), top], size)
            found[key] = np.asarray(ends if self.chance(0.3) else self.rng.integers(0, top + 1, size))
        return found

    # ------------------------------------------------------------------------------------------ synapses

    def dense(self, n_out: int, n_in: int) -> QuantizedDense:
        weight = self.weights((n_out, n_in))
        return QuantizedDense(weight=weight, weight_bits=max(2, width_of(weight)))

    def sparse(self, n_out: int, n_in: int) -> QuantizedSparse:
        exist = self.rng.random((n_out, n_in)) < self.rng.choice([0.2, 0.6])
        exist[:, self.whole(0, n_in - 1)] = True
        starts, sources = np.concatenate([[0], np.cumsum(exist.sum(axis=1))]), np.nonzero(exist)[1]
        weight = self.weights((len(sources),))
        return QuantizedSparse(
            n_in=n_in, starts=starts, sources=sources, weight=weight, weight_bits=max(2, width_of(weight))
        )  # fmt: skip

    def window(self, image: Shape) -> QuantizedConv:
        """A convolution with a stride, padding, dilation and groups of its own, in each direction."""
        groups = int(self.rng.choice([g for g in (1, 2, 3, 4) if image[0] % g == 0]))
        padding, dilation = self.pair(0, 3), self.pair(1, 3)
        kernel = [
            self.whole(1, min(4, (side + 2 * p - 1) // d + 1)) for side, p, d in zip(image[1:], padding, dilation, strict=True)
        ]
        weight = self.weights((groups * self.whole(1, 2), image[0] // groups, *kernel))
        return QuantizedConv(
            weight=weight, weight_bits=max(2, width_of(weight)), input_shape=(image[0], image[1], image[2]),
            stride=self.pair(1, 3), padding=padding, dilation=dilation, groups=groups,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ layers

    def image(self) -> None:
        self.input_shape = (self.whole(1, 4), self.whole(3, 9), self.whole(3, 9))

    def flat(self) -> None:
        self.input_shape = (self.whole(4, 32),)

    @property
    def last(self) -> tuple[str, Shape]:
        """Name and shape of the last layer, or of the input."""
        return (self.layers[-1].name, self.layers[-1].shape) if self.layers else (INPUT, self.input_shape)

    def shape_of(self, source: str) -> Shape:
        return self.input_shape if source == INPUT else next(layer.shape for layer in self.layers if layer.name == source)

    def add(self, connections: Sequence[Connection[Any]], shape: Shape, *, readout: bool = False) -> None:
        """Add a layer; its name is its number."""
        n, registers = int(np.prod(shape)), self.registers(int(np.prod(shape)))
        if self.threshold is not None:
            vth = self.threshold(n)
        else:
            vth = np.asarray(2 ** self.rng.uniform(3, 17, n if self.chance(0.4) else ())).astype(np.int64)
        self.layers.append(QuantizedLayer(
            name=f"layer{len(self.layers) + 1}", shape=shape, connections=tuple(connections), bias=self.bias(n),
            neuron=QuantizedLI(**registers) if readout else QuantizedLIF(vth=vth, **registers), scale=np.array(1.0),
        ))  # fmt: skip

    def add_dense(self, delay: int = 0, *, again: bool = False, readout: bool = False) -> None:
        """Add a layer of a matrix, recurrent with `again`, or of a list of synapses."""
        (source, before), n = self.last, self.whole(2, 24)
        n_in = int(np.prod(before))
        synapse = self.dense(n, n_in) if again or self.chance(0.7) else self.sparse(n, n_in)
        connections = [Connection(source=source, synapse=synapse, delay_steps=delay)]
        if again:
            connections.append(Connection(source=f"layer{len(self.layers) + 1}", synapse=self.dense(n, n)))
            # netx has one width for both matrices, in which one of both signs makes the other one even.
            connections = [replace(c, synapse=replace(c.synapse, weight=c.synapse.weight & ~1)) for c in connections]
        self.add(connections, (n,), readout=readout)

    def add_window(self, delay: int = 0) -> None:
        source, before = self.last
        synapse = self.window(before)
        self.add([Connection(source=source, synapse=synapse, delay_steps=delay)], synapse.output_shape)

    def network(self) -> QuantizedNetwork:
        return QuantizedNetwork(input_shape=self.input_shape, layers=tuple(self.layers))


# ---------------------------------------------------------------------------------------------- kinds of network


def dense(draw: Drawer) -> None:
    """A chain of 2 or 3 layers, matrices and lists of synapses; one in four ends in a readout that never fires."""
    draw.flat()
    for _ in range(draw.whole(1, 2)):
        draw.add_dense()
    draw.add_dense(readout=draw.chance(0.25))


def convolution(draw: Drawer) -> None:
    """One or two convolutions and a matrix; in one of three the input reaches the matrix, too, beside them."""
    draw.image()
    draw.add_window()
    if draw.chance(0.5):
        draw.add_window()
    if draw.chance(0.33):
        (source, before), n = draw.last, draw.whole(2, 10)
        sizes = {source: int(np.prod(before)), INPUT: int(np.prod(draw.input_shape))}
        draw.add([Connection(source=name, synapse=draw.dense(n, n_in)) for name, n_in in sizes.items()], (n,))
    else:
        draw.add_dense()


def recurrence(draw: Drawer) -> None:
    """Two layers that receive their own spikes: by matrices as netx has them, lists with delays, or a convolution."""
    if draw.chance(0.2):
        draw.image()
        name, (source, before) = "layer1", draw.last
        back = draw.weights((before[0], before[0], 3, 3))
        loop = QuantizedConv(weight=back, weight_bits=9, input_shape=(before[0], before[1], before[2]), padding=(1, 1))
        first = draw.sparse(int(np.prod(before)), int(np.prod(before)))
        draw.add([Connection(source=source, synapse=first), Connection(source=name, synapse=loop)], before)
    else:
        draw.flat()
    while len(draw.layers) < 2:
        if draw.chance(0.7):
            draw.add_dense(again=True)
            continue
        (source, before), n, name = draw.last, draw.whole(2, 24), f"layer{len(draw.layers) + 1}"
        loop_of_list = Connection(source=name, synapse=draw.sparse(n, n), delay_steps=draw.whole(0, 5))
        draw.add([Connection(source=source, synapse=draw.dense(n, int(np.prod(before)))), loop_of_list], (n,))


def delays(draw: Drawer) -> None:
    """Matrices, lists and convolutions with delays up to what netx (62) and Lava's synapses (63, skips included) hold."""

    def steps(most: int) -> int:
        return int(draw.rng.choice([1, most - 1, most, draw.whole(0, most)]))

    if draw.chance(0.4):
        draw.flat()
        for _ in range(2):
            draw.add_dense(steps(DELAY_MAX))
        return
    draw.image()
    draw.add_window(steps(WAIT_MAX))
    # Spikes from the input arrive a step before those of the first layer, and so wait one step more than their delay.
    (source, before), n = draw.last, draw.whole(2, 10)
    draw.add([
        Connection(source=source, synapse=draw.dense(n, int(np.prod(before))), delay_steps=steps(WAIT_MAX)),
        Connection(source=INPUT, synapse=draw.sparse(n, int(np.prod(draw.input_shape))), delay_steps=steps(WAIT_MAX - 1)),
        Connection(source="layer2", synapse=draw.sparse(n, n), delay_steps=steps(WAIT_MAX)),
    ], (n,))  # fmt: skip


def negative_bias(draw: Drawer) -> None:
    """Every neuron has a bias below zero, one for the layer or one each, down to the end of the register."""

    def bias(n: int) -> NDArray[np.int64]:
        size, least = n if draw.chance(0.6) else (), int(draw.rng.choice([-20, -300, BIAS_MIN]))
        return np.asarray(draw.rng.choice([least, -1, draw.whole(least, -1)], size))

    draw.bias, draw.positive = bias, draw.chance(0.5)
    draw.rng.choice([dense, convolution, recurrence])(draw)


def threshold_ends(draw: Drawer) -> None:
    """Thresholds of 0, 1 and the largest, which only saturated membranes pass; or sums of weights that often equal them."""
    if draw.chance(0.3):
        # Nothing is left from the step before: v is 64 times a sum of small weights, and so is the threshold.
        draw.input_shape = (draw.whole(3, 8),)
        for _ in range(2):
            (source, (n_in,)), n = draw.last, draw.whole(3, 8)
            weight = draw.rng.integers(1, 4, (n, n_in))
            synapse = QuantizedDense(weight=weight, weight_bits=2)
            draw.threshold = lambda n, least=n_in // 2: draw.rng.integers(0, 2 + least, n)
            draw.decay_max = 0
            draw.add([Connection(source=source, synapse=synapse)], (n,))
            at_once = QuantizedLIF(vth=draw.threshold(n), du=np.array(DECAY_UNITY), dv=np.array(DECAY_UNITY))
            draw.layers[-1] = replace(draw.layers[-1], neuron=at_once)
        return
    draw.positive, draw.decay_max = True, 40

    def ends(n: int) -> NDArray[np.int64]:
        values = [0, 1, THRESHOLD_MAX - 1, THRESHOLD_MAX]
        return np.asarray(draw.rng.choice(values, n) if draw.chance(0.4) else draw.rng.choice(values))

    draw.threshold = ends
    draw.rng.choice([dense, convolution])(draw)


def branches(draw: Drawer) -> None:
    """Skips of several lengths, two connections from one source, loops, biases of both signs, and one readout in four."""
    draw.bias = lambda n: draw.rng.integers(-30, 60, n) if draw.chance(0.5) else np.array(0)
    draw.flat()
    n_layers = draw.whole(3, 4)
    for index in range(n_layers):
        name, n, (before, _) = f"layer{index + 1}", draw.whole(2, 16), draw.last
        sources = [before, *draw.rng.choice([INPUT, *(layer.name for layer in draw.layers), name], draw.whole(0, 3)).tolist()]
        connections = []
        for source in sources:
            n_in = n if source == name else int(np.prod(draw.shape_of(source)))
            synapse = draw.dense(n, n_in) if draw.chance(0.5) else draw.sparse(n, n_in)
            connections.append(Connection(source=source, synapse=synapse, delay_steps=draw.whole(0, 3)))
        draw.add(connections, (n,), readout=index + 1 == n_layers and draw.chance(0.25))


def long_runs(draw: Drawer) -> None:
    """Any of the kinds above, for 500 steps."""
    draw.rng.choice([dense, convolution, recurrence, negative_bias, branches])(draw)


STEPS = {"delays": (160, 220), "long runs": (500, 500)}
SAMPLES = {"long runs": 1}
KINDS: dict[str, Callable[[Drawer], None]] = {
    "dense": dense, "convolution": convolution, "recurrence": recurrence, "delays": delays, "negative bias": negative_bias,
    "threshold ends": threshold_ends, "branches": branches, "long runs": long_runs,
}  # fmt: skip


def job_of(kind: str, number: int, seed: int) -> Job:
    """Draw a network and spikes for it; other spikes or another network where a layer stays silent, 30 times at most."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind), number])
    for _ in range(30):
        draw = Drawer(rng)
        KINDS[kind](draw)
        network = draw.network()
        shape = draw.whole(1, SAMPLES.get(kind, 3)), *network.input_shape, draw.whole(*STEPS.get(kind, (30, 60)))
        spikes = (rng.random(shape) < rng.choice([0.1, 0.3, 0.6, 0.95])).astype(np.uint8)
        while True:
            record = run_emulator(network, spikes, record="all")
            quiet = next((layer for layer in network if not fires(layer, record)), None)
            if quiet is None:
                return network, spikes
            if draw.threshold is not None or isinstance(quiet.neuron, QuantizedLI) or not quiet.neuron.vth.any():
                break
            lower = replace(quiet, neuron=replace(quiet.neuron, vth=quiet.neuron.vth // 2))
            network = replace(network, layers=tuple(lower if layer is quiet else layer for layer in network))
    return network, spikes


def fires(layer: QuantizedLayer, record: SpikeRecord) -> bool:
    """Whether a layer fires in both halves of the run, or is a readout whose membrane moves in both."""
    shown = record.v if isinstance(layer.neuron, QuantizedLI) else record.spikes
    first, second = np.array_split(shown[layer.name], 2, axis=-1)
    return bool(first.any() and second.any())


# ---------------------------------------------------------------------------------------------- what has to be refused


def beyond(number: int, seed: int) -> tuple[str, QuantizedNetwork]:
    """Draw a network of which one number is more than Lava holds, or is one that it would read as another; and say which."""
    draw = Drawer(np.random.default_rng([seed, len(KINDS), number]))
    dense(draw)
    network, at = draw.network(), draw.whole(0, len(draw.layers) - 1)
    layer = network.layers[at]
    n, n_in = layer.n_neurons, layer.connections[0].synapse.n_in

    def matrix(weight: NDArray[np.int64]) -> dict[str, Any]:
        synapse = QuantizedDense(weight=weight, weight_bits=9)
        return {"connections": (replace(layer.connections[0], synapse=synapse),)}

    odd = 2 * draw.rng.integers(-60, 60, (n, n_in))
    odd.flat[0], odd.flat[-1] = -61, 62
    inhibitory = -(2 ** draw.rng.integers(1, 7)) * np.ones((n, n_in), dtype=np.int64)
    inhibitory[draw.whole(0, n - 1), 0] = 0
    register = {"vth": THRESHOLD_MAX + 1, "du": DECAY_UNITY + 1, "dv": DECAY_UNITY + 1}
    name = str(draw.rng.choice(["vth", "du", "dv"] if isinstance(layer.neuron, QuantizedLIF) else ["du", "dv"]))
    what, changes = [
        ("a delay", {"connections": (replace(layer.connections[0], delay_steps=WAIT_MAX + draw.whole(1, 200)),)}),
        ("no synapse", matrix(np.zeros((n, n_in), dtype=np.int64))),
        ("an odd weight", matrix(odd)),
        ("a wide weight", matrix(np.where(odd == 62, 300, odd & ~1))),
        ("a misread weight", matrix(inhibitory)),
        ("a bias", {"bias": np.full(n, BIAS_MIN - draw.whole(1, 99))}),
        ("a register", {"neuron": replace(layer.neuron, **{name: np.array(register[name])})}),
    ][number % 7]
    return what, replace(network, layers=(*network.layers[:at], replace(layer, **changes), *network.layers[at + 1 :]))


def refusal(network: QuantizedNetwork) -> str:
    """What is said of a network before Lava is started; nothing if it would be."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_netx(network, Path(folder) / "model.net")
            check_waits(network)
        except NeurodeployError as error:
            return str(error)
    return ""


# ---------------------------------------------------------------------------------------------- runs


@dataclass
class Found:
    """Counts over the networks of a kind; `differing` holds those that Lava ran otherwise, with their first mismatch."""

    networks: int = 0
    plain_netx: int = 0
    steps: int = 0
    spikes: int = 0
    fired: int = 0
    refused: int = 0
    differing: list[tuple[str, Job]] = field(default_factory=list)

    def row(self) -> dict[str, int]:
        return {
            "networks": self.networks, "plain_netx": self.plain_netx, "steps": self.steps, "spikes": self.spikes,
            "fired": self.fired, "differ": len(self.differing), "refused": self.refused,
        }  # fmt: skip


def compared(named: Sequence[tuple[str, Job]], time_limit_s: float = 3600) -> dict[str, Found]:
    """Run jobs, each of a kind, with one start of Lava, and count by kind."""
    found: dict[str, Found] = {}
    runs: list[tuple[str, Job]] = []
    for kind, job in named:
        of_kind = found.setdefault(kind, Found())
        of_kind.networks += 1
        if refusal(job[0]):
            of_kind.refused += 1
        else:
            runs.append((kind, job))
    records = run_lava_jobs([job for _, job in runs], record="all", time_limit_s=time_limit_s)
    for (kind, (network, spikes)), record in zip(runs, records, strict=True):
        of_kind = found[kind]
        of_kind.plain_netx += plain_kinds(network) is not None
        of_kind.steps += spikes.shape[0] * spikes.shape[-1]
        of_kind.spikes += sum(int(fired.sum()) for fired in record.spikes.values())
        of_kind.fired += all(fires(layer, record) for layer in network)
        comparison = compare(run_emulator(network, spikes, record="all"), record)
        if not comparison.equal or list(record.v) != [layer.name for layer in network]:
            of_kind.differing.append((str(comparison.first), (network, spikes)))
    return found


def refused(n_networks: int, seed: int) -> Found:
    """Count the networks of `beyond` that are refused; those that are not differ."""
    found = Found(networks=n_networks)
    for number in range(n_networks):
        what, network = beyond(number, seed)
        if refusal(network):
            found.refused += 1
        else:
            found.differing.append((what, (network, np.zeros((1, *network.input_shape, 1), np.uint8))))
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Compare drawn networks in Lava and in the emulator")
    parser.add_argument("--networks", type=int, default=1000, help="in all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    parser.add_argument("--keep", type=Path, help="folder for the networks that differ")
    asked = parser.parse_args()
    each = asked.networks // len(asked.kinds)
    for kind in [*asked.kinds, "to refuse"]:
        started = time.perf_counter()
        if kind == "to refuse":
            found = refused(each, asked.seed)
        else:
            found = compared([(kind, job_of(kind, number, asked.seed)) for number in range(each)])[kind]
        for number, (first, (network, spikes)) in enumerate(found.differing):
            print(f"{kind}: {first}"[:300])
            if asked.keep is not None:
                asked.keep.mkdir(parents=True, exist_ok=True)
                write_netx(network, asked.keep / f"{kind}-{asked.seed}-{number}.net")
                np.save(asked.keep / f"{kind}-{asked.seed}-{number}.npy", spikes)
        seconds = round(time.perf_counter() - started)
        append({"table": "exactness", "kind": kind, "seed": asked.seed, **found.row(), "seconds": seconds}, asked.out)


if __name__ == "__main__":
    main()
