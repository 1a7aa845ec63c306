"""Worker process that runs network files in Lava; `neurodeploy.targets.loihi.lava_client` starts it, and only it imports Lava.

netx builds chains from a file. Other networks are built here from the same synapses and neurons: a flat population for every
layer, and a synapse process with the integers as they are for every connection. Lava's convolution has images as W, H, C.

It is called with a folder. ``jobs.json`` there lists the runs, each of a network file on spikes or biases (n_in, n_steps) in an
``.npy`` file. A run writes what the chip did, on the chip's own clock, to an ``.npz`` file, and the steps done to ``steps``. It
goes in parts: after each, the layers from some depth on return to rest (-1: none).
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

from neurodeploy.errors import unsupported_kind
from neurodeploy.ir.graph import INPUT, pipeline_depths, wait_steps
from neurodeploy.ir.quantized import (
    Encoder,
    QuantizedConv,
    QuantizedDense,
    QuantizedLayer,
    QuantizedLI,
    QuantizedLIF,
    QuantizedNetwork,
    QuantizedNeuron,
    QuantizedSparse,
    QuantizedSubtractiveLIF,
    QuantizedSynapse,
)
from neurodeploy.targets.loihi.target import MANTISSA_SHIFT, NEVER_FIRES, is_mixed, resets_by_subtraction

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
    for name in ("lava.lib.dl.netx.hdf5", "neurodeploy.targets.loihi.netx_io"):
        import_module(name)
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
    """The input population of a network with raw input, and its biases (\\*shape, n_steps)."""

    population: LavaPopulation
    biases: NDArray[np.int64]


class LavaRun:
    """A run of one job: a network file on the spikes, or biases, of its input."""

    def __init__(self, folder: Path, job: dict[str, Any]) -> None:
        self.folder, self.job, self.on_board = folder, job, job["end"] == "loihi2"
        self.path = folder / f"{job['name']}.net"
        self.input = np.load(folder / f"{job['name']}.npy").astype(np.int64)

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
                    if inputs is not None and at:
                        inputs.population.neuron.bias_mant.set(inputs.biases[..., at])
                    self.advance(whole, part)
                    at, done = at + part, done + part
                    (self.folder / "steps").write_text(str(done))
                for population in to_rest if depth >= 0 and not self.on_board else ():
                    population.rest(depth)
            recorded = [[_flat(each.data.get()) for each in probe] for probe in probes]
        finally:
            whole.stop()  # Lava's processes do not end by themselves after an error
        np.savez(
            self.folder / f"{job['name']}.npz",
            **{f"spikes{k}": fired.astype(np.uint8) for k, (fired, *_) in enumerate(recorded)},
            **{f"v{k}": membrane.astype(np.int32) for k, (_, *membranes) in enumerate(recorded) for membrane in membranes},
        )
        return done

    def stretches(self, at: int, steps: int, inputs: RawInput | None) -> list[int]:
        """Return how many steps to run at once from step `at` on: few enough to report progress, and all with equal biases."""
        ends = {at + steps, *range(at, at + steps, PART_STEPS)}
        if inputs is not None:
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
            str(self.path), skip_layers=1, reset_interval=self.job["reset_interval"], reset_offset=1 + self.job["reset_offset"],
            input_message_bits=GRADED_BITS * self.job["graded"],
        )  # fmt: skip
        shape = network.inp.shape
        if len(shape) == 3:  # Lava has images as W, H, C
            self.input = self.input.reshape(*shape[::-1], -1).transpose(2, 1, 0, 3)
        port, inputs = self.source()
        port.connect(network.inp)
        return network, chain_of(network), inputs

    def graph(self) -> tuple[Any, list[LavaPopulation], RawInput | None]:
        """Build the network from Lava's own processes, and connect its input."""
        from neurodeploy.targets.loihi.netx_io import read_netx

        port, inputs = self.source()
        resets = self.job["reset_interval"], self.job["reset_offset"]
        populations = graph_of(read_netx(self.path, trusted=True), port, *resets, bits=GRADED_BITS * self.job["graded"])
        return populations[-1].neuron, populations, inputs

    def source(self) -> tuple[Any, RawInput | None]:
        """Return the port that the input comes from: a buffer of spikes or, for raw input, the input population."""
        from lava.proc.io import source

        if not self.job["raw"]:
            return self.onto_board(source.RingBuffer(data=self.input).s_out, self.input.shape[:-1]), None
        from neurodeploy.targets.loihi.netx_io import read_netx

        encoder = read_netx(self.path, trusted=True).encoder
        assert encoder is not None
        every, offset = self.job["reset_interval"], 1 + self.job["reset_offset"]  # Lava counts its steps from 1
        population = input_of(encoder, self.input[..., 0], {"reset_interval": every, "reset_offset": offset} if every else {})
        return population.out, RawInput(population, self.input)

    def probe(self, population: LavaPopulation) -> tuple[Any, ...]:
        """Record a population's spikes and, in the simulator, its membranes."""
        from lava.proc.io import sink

        n_steps = self.input.shape[-1]
        fired = sink.RingBuffer(shape=population.out.shape, buffer=n_steps)
        self.off_board(population.out).connect(fired.a_in)
        if self.on_board:
            return (fired,)
        membrane = sink.Read(buffer=n_steps)
        membrane.connect_var(population.neuron.v)
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
            _clear(self.neuron.u, self.neuron.v)
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


def input_of(encoder: Encoder, biases: NDArray[np.int64], resets: dict[str, int]) -> LavaPopulation:
    """Build the input population, with the biases of the first step."""
    neuron = _lif(encoder.neuron, biases.shape, biases, resets)
    return LavaPopulation(neuron, neuron.s_out, 0, [])


def graph_of(
    network: QuantizedNetwork, port: Any, reset_interval: int | None = None, reset_offset: int = 0, *, bits: int = 0
) -> list[LavaPopulation]:
    """Build the processes of every layer; the input comes from `port` as (n_in,), in messages of `bits`."""
    depth, waiting = pipeline_depths(network), wait_steps(network)
    ports: dict[str, Any] = {INPUT: port}
    populations = []
    for layer in network:
        first = 1 + depth[layer.name] + reset_offset  # Lava counts its steps from 1
        neuron = _neurons(layer, {"reset_interval": reset_interval, "reset_offset": first} if reset_interval else {})
        # Before its connections, which may come from the layer itself.
        ports[layer.name] = neuron.s_out
        synapses = []
        for connection, steps in zip(layer.connections, waiting[layer.name], strict=True):
            of_source = bits if connection.source == INPUT else 0
            synapse = _connected(connection.synapse, steps, of_source, ports[connection.source], neuron.a_in)
            synapses.append((depth[connection.source], synapse))
        populations.append(LavaPopulation(neuron, neuron.s_out, depth[layer.name], synapses))
    return populations


def _neurons(layer: QuantizedLayer, resets: dict[str, int]) -> Any:
    return _lif(layer.neuron, (layer.n_neurons,), layer.bias, resets)


def _lif(neuron: QuantizedNeuron, shape: tuple[int, ...], bias: NDArray[np.int64], resets: dict[str, int]) -> Any:
    from lava.proc.lif.process import LIF, LIFReset

    match neuron:
        case QuantizedLIF():
            vth = neuron.vth
        case QuantizedSubtractiveLIF():
            raise resets_by_subtraction("neurons")
        case QuantizedLI():
            vth = np.array(NEVER_FIRES)
        case _:
            raise unsupported_kind(neuron)
    # Lava adds 1 to du (ds_offset, a register of Loihi 1) and nothing to dv.
    return (LIFReset if resets else LIF)(
        shape=shape, vth=_lava_value(vth), du=_lava_value(neuron.du - 1), dv=_lava_value(neuron.dv), bias_mant=_lava_value(bias),
        bias_exp=MANTISSA_SHIFT, **resets,
    )  # fmt: skip


def _lava_value(numbers: NDArray[np.int64]) -> Any:
    return numbers if numbers.shape else int(numbers)


def _connected(synapse: QuantizedSynapse, steps: int, bits: int, source: Any, target: Any) -> Any:
    match synapse:
        case QuantizedConv() if steps == 0:
            return _convolution(synapse, bits, source, target)
        case QuantizedDense():
            process = _dense(synapse, steps, bits)
        case QuantizedSparse() | QuantizedConv():
            process = _sparse(synapse, steps, bits)
        case _:
            raise unsupported_kind(synapse)
    source.connect(process.s_in)
    process.a_out.connect(target)
    return process


def _dense(synapse: QuantizedDense, steps: int, bits: int) -> Any:
    from lava.proc.dense.process import DelayDense, Dense

    weights = synapse.weight.astype(np.int32)
    if steps == 0:
        return Dense(weights=weights, num_message_bits=bits)
    return DelayDense(weights=weights, delays=np.full(weights.shape, steps), num_message_bits=bits)


def _sparse(synapse: QuantizedSparse | QuantizedConv, steps: int, bits: int) -> Any:
    """List the synapses of a connection; those of a convolution, too, where it has a delay: Lava's convolution has none.

    The padding can leave weights of one sign only. The sign mode is that of the whole kernel, whose integers these are.
    """
    from lava.proc.sparse.process import DelaySparse, Sparse
    from lava.utils.weightutils import SignMode

    weights = synapse.csr().astype(np.int32)
    weights.eliminate_zeros()
    options: dict[str, Any] = {"num_message_bits": bits}
    if is_mixed(synapse.weight):
        options["sign_mode"] = SignMode.MIXED
    if steps == 0:
        return Sparse(weights=weights, **options)
    # DelaySparse takes a matrix of delays, entry by entry with the weights.
    delays = weights.astype(bool).astype(int) * steps
    return DelaySparse(weights=weights, delays=delays, max_delay=steps, **options)


def _convolution(synapse: QuantizedConv, bits: int, source: Any, target: Any) -> Any:
    """Connect a convolution; Lava's flips the window, and has images as W, H, C (netx/hdf5.py: create_conv)."""
    from lava.proc.conv.process import Conv

    process = Conv(
        weight=synapse.weight[:, :, ::-1, ::-1].transpose(0, 3, 2, 1).astype(np.int32),
        input_shape=synapse.input_shape[::-1],
        **{key: getattr(synapse, key)[::-1] for key in ("stride", "padding", "dilation")},
        groups=synapse.groups,
        num_message_bits=bits,
    )
    source.reshape(synapse.input_shape).transpose([2, 1, 0]).connect(process.s_in)
    process.a_out.transpose([2, 1, 0]).flatten().connect(target)
    return process


if __name__ == "__main__":
    main(Path(sys.argv[1]))
