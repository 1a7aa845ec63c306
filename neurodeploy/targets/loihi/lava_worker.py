"""Worker process that runs networks in Lava; `neurodeploy.targets.loihi.lava_client` starts it, and only it imports Lava.

It imports nothing of neurodeploy, since it may run in another Python. netx builds chains from a file. Other networks are built
here, from the layers in ``jobs.json`` and their arrays in ``NAME.graph.npz``: a flat population for every layer, and a synapse
process with the integers as they are for every connection. Lava's convolution has images as W, H, C.

It is called with a folder. ``jobs.json`` there lists the runs, each on spikes or biases (n_in, n_steps) in ``NAME.npy``. A run
writes what the chip did, on the chip's own clock, to ``NAME.npz``, and the steps done to ``steps``. It goes in parts: after each,
the layers from some depth on return to rest (-1: none).
"""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil
import signal
import sys
import threading
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

GRADED_BITS = 16
"""Message width of graded input. Lava's synapses take whole numbers at any width above 0."""
PART_STEPS = 200
"""Most steps between two reports of progress."""


def main(folder: Path) -> None:
    """Run every job in the folder, one after another."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    jobs, done = json.loads((folder / "jobs.json").read_text()), 0
    on_board = any(job["end"] == "loihi2" for job in jobs)  # where Intel's extension has models and needs of its own
    if not on_board:
        _without_trainer()
    _find_models_once(elsewhere=on_board)
    _import_once()
    for job in jobs:
        done = LavaRun(folder, job).run(done)
        _forget_run()


def _end_with_parent(folder: Path) -> None:
    """Wait until the pipe from the parent breaks, because the parent has ended; then end the session and delete its files."""
    os.read(sys.stdin.fileno(), 1)
    for _ in range(3):  # a step may be noted down meanwhile
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGTERM)


def _without_trainer() -> None:
    """Keep slayer out, and PyTorch with it: netx takes one function from there, for resonators, which no file here has.

    They are most of the time that starting takes, and of the memory with which each of Lava's processes is forked.
    """
    names = ("slayer", "slayer.neuron", "slayer.neuron.rf", "netx.sequential_modules")
    modules = {f"lava.lib.dl.{name}": ModuleType(f"lava.lib.dl.{name}") for name in names}
    modules["lava.lib.dl.slayer.neuron.rf"].__dict__["neuron_params"] = None
    sys.modules |= modules


def _find_models_once(*, elsewhere: bool) -> None:
    """Have Lava look for the models of a process once for each class, and, unless `elsewhere`, first in its module.

    For each process, Lava executes all source files in the folder of the class again (``compiler_graphs.py:
    _find_proc_models``), which is most of the time that a small network takes, and would import what we keep out.
    """
    from lava.magma.compiler.compiler_graphs import ProcGroupDiGraphs

    find, find_in_module = ProcGroupDiGraphs._find_proc_models, ProcGroupDiGraphs._find_proc_models_in_module
    found: dict[type, list[Any]] = {}

    def find_once(proc: Any) -> list[Any]:
        kind = type(proc)
        if kind not in found:
            found[kind] = ([] if elsewhere else find_in_module(proc, sys.modules[kind.__module__])) or find(proc)
        return list(found[kind])

    ProcGroupDiGraphs._find_proc_models = staticmethod(find_once)


def _forget_run() -> None:
    """Free the processes of a run, which Lava registers for good: it forks its next processes with all memory of this one."""
    from lava.magma.core.process.process import ProcessServer
    from lava.magma.core.process.variable import VarServer

    ProcessServer().processes.clear()
    VarServer().vars.clear()
    gc.collect()


def _import_once() -> None:
    """Import what runs use, and exempt it from garbage collection, which would copy its memory into every process of Lava."""
    import_module("lava.lib.dl.netx.hdf5")
    gc.freeze()


def _fixed_point() -> Any:
    """Return a RunConfig of the bit-accurate models; Loihi2SimCfg fails on networks with an input block."""
    from lava.magma.core.run_configs import RunConfig

    class FixedPoint(RunConfig):  # type: ignore[misc]  # Lava ships no types
        def select(self, _process: Any, models: list[Any]) -> Any:
            return next((model for model in models if "fixed_pt" in model.tags), models[0])

    return FixedPoint(custom_sync_domains=None, loglevel=logging.WARNING)


@dataclass(frozen=True)
class RawInput:
    """The input population of a network with raw input, and its biases (\\*shape, n_steps); None where a buffer sends them."""

    population: LavaPopulation
    biases: NDArray[np.int64] | None


class LavaRun:
    """A run of one job: a network file on the spikes, or biases, of its input."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder, self.job, self.on_board = folder, job, job["end"] == "loihi2"
        self.input = np.load(folder / f"{job['name']}.npy").astype(np.int64)
        with np.load(folder / f"{job['name']}.graph.npz") as arrays:
            self.arrays: dict[str, NDArray[Any]] = dict(arrays)

    def run(self, done: int) -> int:
        """Run the job, write what the chip did, and return `done` plus its steps."""
        job = self.job
        whole, populations, inputs = self.chain() if job["is_chain"] else self.graph()
        probes = [self.probe(populations[k]) for k in job["recorded"]]
        at, to_rest = 0, [*populations, *([] if inputs is None else [inputs.population])]
        try:
            for steps, depth in job["parts"]:
                for part in self.stretches(at, steps, inputs):
                    # The population was built with the biases of step 0.
                    if inputs is not None and inputs.biases is not None and at:
                        inputs.population.neuron.bias_mant.set(inputs.biases[..., at])
                    self.advance(whole, part)
                    at, done = at + part, done + part
                    (self.folder / "steps").write_text(str(done))
                for population in to_rest if depth >= 0 and not self.on_board else ():
                    population.rest(depth)
            recorded = [[_flat(each.data.get()) for each in probe] for probe in probes]
        finally:
            whole.stop()  # Lava's processes do not end by themselves after an error
        number = np.int32 if job["sigma_delta"] else np.uint8
        np.savez(
            self.folder / f"{job['name']}.npz",
            **{f"spikes{k}": fired.astype(number) for k, (fired, *_) in enumerate(recorded)},
            **{f"v{k}": membrane.astype(np.int32) for k, (_, *membranes) in enumerate(recorded) for membrane in membranes},
        )
        return done

    def stretches(self, at: int, steps: int, inputs: RawInput | None) -> list[int]:
        """Return how many steps to run at once from step `at` on: few enough to report progress, and all with equal biases."""
        ends = {at + steps, *range(at, at + steps, PART_STEPS)}
        if inputs is not None and inputs.biases is not None:
            flat = inputs.biases.reshape(-1, inputs.biases.shape[-1])
            changes = 1 + np.flatnonzero((flat[:, 1:] != flat[:, :-1]).any(axis=0))
            ends |= {t for t in changes.tolist() if at < t < at + steps}
        return [int(n) for n in np.diff(sorted(ends))]

    def chain(self) -> tuple[Any, list[LavaPopulation], RawInput | None]:
        """Build the network with netx, and connect its input.

        A sample's first input reaches the first layer's neurons at chip step 2, the next layer's at 3, ...: netx's
        `reset_offset` of 1 resets each of them there, and every `reset_interval` steps from there on.
        """
        from lava.lib.dl.netx.hdf5 import Network

        # skip_layers=1 leaves out netx's own input block, whose port is not connected.
        network = Network(
            str(self.folder / f"{self.job['name']}.net"), skip_layers=1, reset_interval=self.job["reset_interval"],
            reset_offset=1 + self.job["reset_offset"], input_message_bits=GRADED_BITS * self.job["graded"],
        )  # fmt: skip
        shape = network.inp.shape
        if len(shape) == 3:  # Lava has images as W, H, C
            self.input = self.input.reshape(*shape[::-1], -1).transpose(2, 1, 0, 3)
        port, inputs = self.source()
        port.connect(network.inp)
        return network, chain_of(network), inputs

    def graph(self) -> tuple[Any, list[LavaPopulation], RawInput | None]:
        """Build the network from Lava's own processes, and connect its input."""
        port, inputs = self.source()
        every, offset = self.job["reset_interval"], self.job["reset_offset"]
        populations: list[LavaPopulation] = []
        for index, layer in enumerate(self.job["layers"]):
            # Lava counts its steps from 1.
            resets = {"reset_interval": every, "reset_offset": 1 + layer["depth"] + offset} if every else {}
            neuron = self.neurons(f"{index}.", self.arrays[f"{index}.bias"], (layer["n_neurons"],), resets)
            # It is there before its connections, which may come from the layer itself.
            population = LavaPopulation(neuron, neuron.s_out, layer["depth"], [])
            populations.append(population)
            for number, connection in enumerate(layer["connections"]):
                of_input = connection["source"] < 0
                bits, source = (
                    (GRADED_BITS * self.job["graded"], port) if of_input else (0, populations[connection["source"]].out)
                )
                weights = _weights(self.arrays, f"{index}.{number}.")
                synapse = connected(weights, connection, bits, source, neuron.a_in)
                population.synapses.append((0 if of_input else populations[connection["source"]].depth, synapse))
        return populations[-1].neuron, populations, inputs

    def source(self) -> tuple[Any, RawInput | None]:
        """Return the port that the input comes from: a buffer of spikes or, for raw input, the input population."""
        from lava.proc.io import source

        if not self.job["raw"]:
            return self.onto_board(source.RingBuffer(data=self.input).s_out, self.input.shape[:-1]), None
        if self.job["sigma_delta"]:
            return self.delta_source()
        every, offset = self.job["reset_interval"], 1 + self.job["reset_offset"]  # Lava counts its steps from 1
        resets = {"reset_interval": every, "reset_offset": offset} if every else {}
        first = self.input[..., 0]  # the biases of the first step
        neuron = self.neurons("encoder.", first, first.shape, resets)
        population = LavaPopulation(neuron, neuron.s_out, 0, [])
        return population.out, RawInput(population, self.input)

    def delta_source(self) -> tuple[Any, RawInput]:
        """Build an input population that sends the changes of its input, which a buffer sends it."""
        from lava.proc.io import source
        from lava.proc.sdn.process import Delta

        neuron = Delta(
            shape=self.input.shape[:-1], vth=int(self.arrays["encoder.vth"]), spike_exp=self.job["spike_exponent"],
            state_exp=self.job["state_exponent"],
        )  # fmt: skip
        source.RingBuffer(data=self.input).s_out.connect(neuron.a_in)
        population = LavaPopulation(neuron, neuron.s_out, 0, [])
        return population.out, RawInput(population, None)

    def neurons(self, key: str, bias: NDArray[Any], shape: tuple[int, ...], resets: dict[str, int]) -> Any:
        """Build a population of neurons, with threshold and decays from the arrays below a key."""
        from lava.proc.lif.process import LIF, LIFReset

        vth, du, dv = (self.arrays[key + name] for name in ("vth", "du", "dv"))
        # Lava adds 1 to du (ds_offset, a register of Loihi 1) and nothing to dv.
        return (LIFReset if resets else LIF)(
            shape=shape, vth=_lava_value(vth), du=_lava_value(du - 1), dv=_lava_value(dv), bias_mant=_lava_value(bias),
            bias_exp=self.job["bias_exponent"], **resets,
        )  # fmt: skip

    def probe(self, population: LavaPopulation) -> tuple[Any, ...]:
        """Record a population's spikes and, in the simulator, its membranes."""
        from lava.proc.io import sink

        n_steps = self.input.shape[-1]
        fired = sink.RingBuffer(shape=population.out.shape, buffer=n_steps)
        self.off_board(population.out).connect(fired.a_in)
        if self.on_board:
            return (fired,)
        membrane = sink.Read(buffer=n_steps)
        membrane.connect_var(population.neuron.sigma if self.job["sigma_delta"] else population.neuron.v)
        return fired, membrane

    def onto_board(self, port: Any, shape: tuple[int, ...]) -> Any:
        """Return the port by which spikes of this process reach the network; on a board through one of Intel's adapters."""
        if not self.on_board:
            return port
        from lava.proc.embedded_io import spike  # of Intel's extension

        adapter = spike.PyToN3ConvAdapter(shape=shape) if len(shape) == 3 else spike.PyToNxAdapter(shape=shape)
        port.connect(adapter.inp)
        return adapter.out

    def off_board(self, port: Any) -> Any:
        """Return the port by which spikes of the network reach this process."""
        if not self.on_board:
            return port
        from lava.proc.embedded_io import spike

        adapter = spike.NxToPyAdapter(shape=port.shape)
        port.connect(adapter.inp)
        return adapter.out

    def advance(self, process: Any, n_steps: int) -> None:
        """Run the network for some steps."""
        from lava.magma.core.run_conditions import RunSteps
        from lava.magma.core.run_configs import Loihi2HwCfg

        process.run(condition=RunSteps(num_steps=n_steps), run_cfg=Loihi2HwCfg() if self.on_board else _fixed_point())


def _flat(data: NDArray[Any]) -> NDArray[Any]:
    """Return what a population did as (n, n_steps); an image W, H, C in the order C, H, W."""
    if data.ndim == 4:
        data = data.transpose(2, 1, 0, 3)
    return data.reshape(-1, data.shape[-1])


# ------------------------------------------------------------------------------------------- networks of Lava's processes


@dataclass(frozen=True)
class LavaPopulation:
    """Processes of a layer: neurons, the port of their spikes, and the synapses with the pipeline depth of their sources."""

    neuron: Any
    out: Any
    depth: int
    synapses: list[tuple[int, Any]]

    def rest(self, depth: int) -> None:
        """Reset neurons from this pipeline depth on, and drop the spikes that synapses hold from such neurons."""
        if self.depth >= depth:
            states = ("u", "v", "sigma", "act", "residue")
            _clear(*(getattr(self.neuron, name) for name in states if hasattr(self.neuron, name)))
        for source_depth, synapse in self.synapses:
            if source_depth >= depth:
                _clear(synapse.a_buf if hasattr(synapse, "a_buf") else synapse.a_buff)  # a convolution's, or another's


def _clear(*variables: Any) -> None:
    for variable in variables:
        variable.set(np.zeros(variable.shape))


def chain_of(network: Any) -> list[LavaPopulation]:
    """Return the layers that netx built."""
    populations = []
    # The input has depth 0.
    for depth, layer in enumerate(network.layers, start=1):
        synapses = [(depth - 1, layer.synapse)]
        if hasattr(layer, "synapse_rec"):
            synapses.append((depth, layer.synapse_rec))
        populations.append(LavaPopulation(layer.neuron, layer.out, depth, synapses))
    return populations


def _lava_value(numbers: NDArray[np.int64]) -> Any:
    return numbers if numbers.shape else int(numbers)


def _weights(arrays: dict[str, NDArray[Any]], key: str) -> Any:
    """Weights of a connection: an array, or a SciPy matrix of listed synapses."""
    from scipy.sparse import csr_matrix

    if f"{key}weight" in arrays:
        return arrays[f"{key}weight"]
    data, indices, starts, shape = (arrays[key + name] for name in ("data", "indices", "starts", "shape"))
    return csr_matrix((data, indices, starts), shape=tuple(shape.tolist()))


def connected(weights: Any, connection: dict[str, Any], bits: int, source: Any, target: Any) -> Any:
    """Build the synapses of a connection between two ports, for messages of some bits; they wait some steps for longer paths."""
    if connection["kind"] == "conv":
        return _convolution(weights, connection, bits, source, target)
    process = (_dense if connection["kind"] == "dense" else _sparse)(weights, connection, bits)
    source.connect(process.s_in)
    process.a_out.connect(target)
    return process


def _dense(weights: NDArray[Any], connection: dict[str, Any], bits: int) -> Any:
    from lava.proc.dense.process import DelayDense, Dense

    if connection["wait_steps"] == 0:
        return Dense(weights=weights, num_message_bits=bits)
    return DelayDense(weights=weights, delays=np.full(weights.shape, connection["wait_steps"]), num_message_bits=bits)


def _sparse(weights: Any, connection: dict[str, Any], bits: int) -> Any:
    """List the synapses; the sign mode is that of all weights, for the padding of a convolution can leave those of one sign."""
    from lava.proc.sparse.process import DelaySparse, Sparse
    from lava.utils.weightutils import SignMode

    weights.eliminate_zeros()
    options: dict[str, Any] = {"num_message_bits": bits}
    if connection["is_mixed"]:
        options["sign_mode"] = SignMode.MIXED
    if (steps := connection["wait_steps"]) == 0:
        return Sparse(weights=weights, **options)
    # DelaySparse takes a matrix of delays, entry by entry with the weights.
    return DelaySparse(weights=weights, delays=weights.astype(bool).astype(int) * steps, max_delay=steps, **options)


def _convolution(weights: NDArray[Any], connection: dict[str, Any], bits: int, source: Any, target: Any) -> Any:
    """Connect a convolution; Lava's flips the window, and has images as W, H, C (netx/hdf5.py: create_conv)."""
    from lava.proc.conv.process import Conv

    process = Conv(
        weight=weights[:, :, ::-1, ::-1].transpose(0, 3, 2, 1),
        input_shape=tuple(connection["input_shape"][::-1]),
        **{key: tuple(connection[key][::-1]) for key in ("stride", "padding", "dilation")},
        groups=connection["groups"],
        num_message_bits=bits,
    )
    source.reshape(tuple(connection["input_shape"])).transpose([2, 1, 0]).connect(process.s_in)
    process.a_out.transpose([2, 1, 0]).flatten().connect(target)
    return process


if __name__ == "__main__":
    main(Path(sys.argv[1]))
