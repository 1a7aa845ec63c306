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
        kinds = {connection["kind"] for job in jobs for layer in job["layers"] for connection in layer["connections"]}
        if "conv" not in kinds and not any(job["sigma_delta"] for job in jobs):  # of sigma-delta networks nothing is listed
            sys.modules["scipy.signal"] = ModuleType("scipy.signal")  # for Lava's convolutions alone: half of all imports
        _pass_arrays_in_files(folder)
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
        if hasattr(kind, "models"):  # our own
            return list(kind.models)
        if kind not in found:
            found[kind] = ([] if elsewhere else find_in_module(proc, sys.modules[kind.__module__])) or find(proc)
        return list(found[kind])

    ProcGroupDiGraphs._find_proc_models = staticmethod(find_once)


def _pass_arrays_in_files(folder: Path) -> None:
    """Have Lava pass the arrays of its variables in files.

    By itself it sends each number of an array as two messages (``core/model/py/model.py``: "FIXME: send a whole vector"), which
    is most of the time of reading what a run recorded and of putting neurons to rest. Its messages stay, with no numbers in them.
    """
    from lava.magma.core.model.py.model import AbstractPyProcessModel
    from lava.magma.runtime.mgmt_token_enums import MGMT_RESPONSE, enum_to_np
    from lava.magma.runtime.runtime import Runtime

    get, put = Runtime.get_var, Runtime.set_var

    def get_var(runtime: Any, number: int, _index: Any = None) -> NDArray[Any]:
        get(runtime, number)  # its model has written the file when this returns
        return np.asarray(np.load(folder / f"{number}.variable.npy"))

    def set_var(runtime: Any, number: int, value: NDArray[Any], _index: Any = None) -> None:
        np.save(folder / f"{number}.variable.npy", value)
        put(runtime, number, np.zeros(0))

    def variable(model: Any) -> tuple[Path, NDArray[Any]]:
        number = int(model.service_to_process.recv()[0].item())
        return folder / f"{number}.variable.npy", getattr(model, model.var_id_to_var_map[number])

    def write(model: Any) -> None:
        path, array = variable(model)
        np.save(path, array)
        model.process_to_service.send(enum_to_np(0))  # so many numbers follow

    def read(model: Any) -> None:
        path, array = variable(model)
        model.service_to_process.recv()  # as many numbers follow
        array[...] = np.load(path)
        model.process_to_service.send(MGMT_RESPONSE.SET_COMPLETE)
        model.on_var_update()

    Runtime.get_var, Runtime.set_var = get_var, set_var
    AbstractPyProcessModel._get_var, AbstractPyProcessModel._set_var = write, read


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
        recording = self.recording([populations[k] for k in job["recorded"]])
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
            recorded = [[_flat(data.get()) for data in of_population] for of_population in recording]
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

    def recording(self, populations: list[LavaPopulation]) -> list[tuple[Any, ...]]:
        """Record spikes and, in the simulator, membranes: for each population the variables that will hold them."""
        from lava.proc.io import sink

        n_steps = self.input.shape[-1]
        if not self.on_board:
            states = [one.neuron.sigma if self.job["sigma_delta"] else one.neuron.v for one in populations]
            return _recorder([one.out for one in populations], states, n_steps)
        sinks = [sink.RingBuffer(shape=one.out.shape, buffer=n_steps) for one in populations]
        for one, fired in zip(populations, sinks, strict=True):
            self.off_board(one.out).connect(fired.a_in)
        return [(fired.data,) for fired in sinks]

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


def _recorder(ports: list[Any], states: list[Any], n_steps: int) -> list[tuple[Any, Any]]:
    """Build one process that records what ports send and variables hold in each step, and return its variables.

    Lava's own record one port or variable each (proc/io/sink.py: RingBuffer, Read), and half of a network's processes were
    theirs: Lava starts a process of the system for each of its own, and passes messages to each in each step.
    """
    from lava.magma.core.decorator import implements, requires, tag
    from lava.magma.core.model.py.model import PyLoihiProcessModel
    from lava.magma.core.model.py.ports import PyInPort, PyRefPort
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.process.ports.ports import InPort, RefPort
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.process.variable import Var
    from lava.magma.core.resources import CPU
    from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

    indices = range(len(ports))

    class Recorder(AbstractProcess):  # type: ignore[misc]  # Lava ships no types
        def __init__(self) -> None:
            super().__init__()
            for k, port, state in zip(indices, ports, states, strict=True):
                members = {
                    "port": InPort(port.shape), "spikes": Var((*port.shape, n_steps), np.zeros((*port.shape, n_steps))),
                    "reference": RefPort(state.shape), "state": Var((*state.shape, n_steps), np.zeros((*state.shape, n_steps))),
                }  # fmt: skip
                for name, member in members.items():
                    setattr(self, f"{name}{k}", member)

    def run_spk(model: Any) -> None:
        for k in indices:
            getattr(model, f"spikes{k}")[..., model.time_step - 1] = getattr(model, f"port{k}").recv()

    def run_post_mgmt(model: Any) -> None:  # when all neurons have done their step
        for k in indices:
            getattr(model, f"state{k}")[..., model.time_step - 1] = getattr(model, f"reference{k}").read()

    kinds = {"port": PyInPort.VEC_DENSE, "spikes": np.ndarray, "reference": PyRefPort.VEC_DENSE, "state": np.ndarray}
    members = {f"{name}{k}": LavaPyType(kind, np.int32) for k in indices for name, kind in kinds.items()}
    methods = {"run_spk": run_spk, "run_post_mgmt": run_post_mgmt, "post_guard": lambda _: True}
    model = type("RecorderModel", (PyLoihiProcessModel,), members | methods)
    Recorder.models = [tag("fixed_pt")(requires(CPU)(implements(proc=Recorder, protocol=LoihiProtocol)(model)))]
    recorder = Recorder()
    for k, port, state in zip(indices, ports, states, strict=True):
        port.connect(getattr(recorder, f"port{k}"))
        getattr(recorder, f"reference{k}").connect_var(state)
    return [(getattr(recorder, f"spikes{k}"), getattr(recorder, f"state{k}")) for k in indices]


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
