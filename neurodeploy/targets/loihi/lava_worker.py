"""What Lava does with network files: the process that `neurodeploy.targets.loihi.lava` starts, and that alone imports Lava.

Called with a folder. Its ``jobs.json`` lists runs, each of a network file on spikes, or biases, (n_in, n_steps) in an ``.npy``
file; what the chip did is left beside them in one ``.npz`` a run, on the chip's own clock, and how far it has come in ``steps``.
A run goes in parts, each of so many steps, after which layers from some depth on are put to rest (-1: none).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from neurodeploy.targets.loihi.lava_processes import Population

GRADED_BITS = 16
"""Lava's synapses take whole numbers where messages have bits at all; how many makes no difference to them."""
PART_STEPS = 200
"""A run goes in parts of so many steps, to say how far it has come."""


def main(folder: Path) -> None:
    """Run every job in the folder, one after another."""
    threading.Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    _keep_bytecode(folder)
    done = 0
    for job in json.loads((folder / "jobs.json").read_text()):
        done = _run(folder, job, done)


def _end_with_parent(folder: Path) -> None:
    """Wait for the pipe from the parent to break, as it does when the parent is no more; then end all, and leave no files."""
    os.read(sys.stdin.fileno(), 1)
    for _ in range(3):  # a step may be noted down meanwhile
        shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGTERM)


def _keep_bytecode(folder: Path) -> None:
    """Compile Lava's sources once a folder where nothing is compiled for good.

    Lava executes every source file beside a process's class anew for each process that it maps to a model
    (``compiler_graphs.py: _find_proc_models``); without bytecode that is most of the time that a small network takes.
    """
    if sys.dont_write_bytecode:
        sys.dont_write_bytecode, sys.pycache_prefix = False, str(folder / "bytecode")


def _fixed_point() -> Any:
    """A RunConfig that takes the bit-accurate model of every process; Loihi2SimCfg fails on networks with an input block."""
    from lava.magma.core.run_configs import RunConfig

    class FixedPoint(RunConfig):  # type: ignore[misc]  # Lava ships no types
        def select(self, _process: Any, models: list[Any]) -> Any:
            return next((model for model in models if "fixed_pt" in model.tags), models[0])

    return FixedPoint(custom_sync_domains=None, loglevel=logging.WARNING)


def _run(folder: Path, job: dict[str, Any], done: int) -> int:
    """Run one job and return `done` plus its steps."""
    import lava.proc.conv.utils

    lava.proc.conv.utils.TORCH_IS_AVAILABLE = False  # torch hangs in the processes that Lava forks
    path, given = folder / f"{job['name']}.net", np.load(folder / f"{job['name']}.npy").astype(np.int64)
    whole, populations, inputs = (_chain if job["is_chain"] else _graph)(path, given, job)
    probes = [_probe(populations[k], given.shape[-1], job["end"]) for k in job["recorded"]]
    at, to_rest = 0, [*populations, *([] if inputs is None else [inputs.population])]
    try:
        for steps, depth in job["parts"]:
            for part in _stretches(at, steps, inputs):
                if inputs is not None and at:
                    inputs.population.neuron.bias_mant.set(inputs.biases[..., at])
                _advance(whole, part, job["end"])
                at, done = at + part, done + part
                (folder / "steps").write_text(str(done))
            for population in to_rest if depth >= 0 and job["end"] == "lava" else ():
                population.rest(depth)
        recorded = [[_in_a_row(each.data.get()) for each in probe] for probe in probes]
    finally:
        whole.stop()
    np.savez(
        folder / f"{job['name']}.npz",
        **{f"spikes{k}": fired.astype(np.uint8) for k, (fired, *_) in enumerate(recorded)},
        **{f"v{k}": membrane.astype(np.int32) for k, (_, *membranes) in enumerate(recorded) for membrane in membranes},
    )
    return done


@dataclass(frozen=True)
class _Inputs:
    """The input population of a network that is given raw input, and its biases (\\*shape, n_steps)."""

    population: Population
    biases: NDArray[np.int64]


def _stretches(at: int, steps: int, inputs: _Inputs | None) -> list[int]:
    """Steps to run at once, from step `at` on: not too many, to say how far it has come, and all with the same biases."""
    ends = {at + steps, *range(at, at + steps, PART_STEPS)}
    if inputs is not None:
        flat = inputs.biases.reshape(-1, inputs.biases.shape[-1])
        changes = 1 + np.flatnonzero((flat[:, 1:] != flat[:, :-1]).any(axis=0))
        ends |= {t for t in changes.tolist() if at < t < at + steps}
    return [int(n) for n in np.diff(sorted(ends))]


def _chain(path: Path, given: NDArray[np.int64], job: dict[str, Any]) -> tuple[Any, list[Population], _Inputs | None]:
    """The network as netx builds it, and what its input comes from.

    A sample's first input reaches the first layer's neurons at chip step 2, the next layer's at 3, ...: netx's `reset_offset` of
    1 resets each of them there, and every `reset_interval` from there on.
    """
    from lava.lib.dl.netx.hdf5 import Network

    from neurodeploy.targets.loihi.lava_processes import chain_of

    network = Network(
        str(path), skip_layers=1, reset_interval=job["reset_interval"], reset_offset=1 + job["reset_offset"],
        input_message_bits=GRADED_BITS * job["graded"],
    )  # fmt: skip
    shape = network.inp.shape
    if len(shape) == 3:  # an image, which Lava has as W, H, C
        given = given.reshape(*shape[::-1], -1).transpose(2, 1, 0, 3)
    port, inputs = _source(path, given, job)
    port.connect(network.inp)
    return network, chain_of(network), inputs


def _graph(path: Path, given: NDArray[np.int64], job: dict[str, Any]) -> tuple[Any, list[Population], _Inputs | None]:
    """The network from Lava's own processes, and what its input comes from."""
    from neurodeploy.targets.loihi.lava_processes import graph_of
    from neurodeploy.targets.loihi.netx_files import read_netx

    port, inputs = _source(path, given, job)
    resets = job["reset_interval"], job["reset_offset"]
    populations = graph_of(read_netx(path, trusted=True), port, *resets, bits=GRADED_BITS * job["graded"])
    return populations[-1].neuron, populations, inputs


def _source(path: Path, given: NDArray[np.int64], job: dict[str, Any]) -> tuple[Any, _Inputs | None]:
    """The port by which the input comes: from a list of spikes, or from the input population, where it is raw."""
    from lava.proc.io import source

    if not job["raw"]:
        return _onto_board(source.RingBuffer(data=given).s_out, given.shape[:-1], job["end"]), None
    from neurodeploy.targets.loihi.lava_processes import input_of
    from neurodeploy.targets.loihi.netx_files import read_netx

    encoder = read_netx(path, trusted=True).encoder
    assert encoder is not None
    every, offset = job["reset_interval"], 1 + job["reset_offset"]  # Lava counts its steps from 1
    population = input_of(encoder, given[..., 0], {"reset_interval": every, "reset_offset": offset} if every else {})
    return population.out, _Inputs(population, given)


def _probe(population: Population, n_steps: int, end: str) -> tuple[Any, ...]:
    """Where the population's spikes go, and in the simulator its membranes."""
    from lava.proc.io import sink

    fired = sink.RingBuffer(shape=population.out.shape, buffer=n_steps)
    _off_board(population.out, end).connect(fired.a_in)
    if end == "loihi2":
        return (fired,)
    membrane = sink.Read(buffer=n_steps)
    membrane.connect_var(population.neuron.v)
    return fired, membrane


def _onto_board(port: Any, shape: tuple[int, ...], end: str) -> Any:
    """The port by which spikes from this process reach a network: one of Intel's adapters, where it is on a board."""
    if end != "loihi2":
        return port
    from lava.proc.embedded_io import spike  # of Intel's extension

    adapter = spike.PyToN3ConvAdapter(shape=shape) if len(shape) == 3 else spike.PyToNxAdapter(shape=shape)
    port.connect(adapter.inp)
    return adapter.out


def _off_board(port: Any, end: str) -> Any:
    """The port by which a network's spikes reach this process."""
    if end != "loihi2":
        return port
    from lava.proc.embedded_io import spike

    adapter = spike.NxToPyAdapter(shape=port.shape)
    port.connect(adapter.inp)
    return adapter.out


def _advance(process: Any, n_steps: int, end: str) -> None:
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2HwCfg

    process.run(condition=RunSteps(num_steps=n_steps), run_cfg=Loihi2HwCfg() if end == "loihi2" else _fixed_point())


def _in_a_row(data: NDArray[Any]) -> NDArray[Any]:
    """What a population did, (n, n_steps); that of W, H, C in the order C, H, W."""
    if data.ndim == 4:
        data = data.transpose(2, 1, 0, 3)
    return data.reshape(-1, data.shape[-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
