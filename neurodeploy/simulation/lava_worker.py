"""What Lava does with network files: the process that `neurodeploy.simulation.lava` starts, and that alone imports Lava.

Called with a folder. Its ``jobs.json`` lists runs, each of a netx file on input spikes (n_in, n_steps) in an ``.npy`` file;
what the chip did is left beside them in one ``.npz`` a run, on the chip's own clock, and how far it has come in ``steps``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    """Run one job and return `done` plus its steps.

    A sample's first input reaches the first layer's neurons at chip step 2, the next layer's at 3, ...: `reset_offset` of 1
    resets each of them there, and every `n_steps` from there on.
    """
    import lava.proc.conv.utils
    from lava.lib.dl.netx.hdf5 import Network
    from lava.magma.core.run_conditions import RunSteps
    from lava.proc.io import sink, source

    lava.proc.conv.utils.TORCH_IS_AVAILABLE = False  # torch hangs in the processes that Lava forks
    spikes: NDArray[np.int64] = np.load(folder / f"{job['name']}.npy").astype(np.int64)
    network = Network(str(folder / f"{job['name']}.net"), skip_layers=1, reset_interval=job["n_steps"], reset_offset=1)
    steps = spikes.shape[1] + len(network.layers)
    feed = source.RingBuffer(data=np.pad(spikes, ((0, 0), (0, len(network.layers)))))
    feed.s_out.connect(network.inp)
    probes = []
    for layer in network.layers[job["first"] :]:
        fired, membrane = sink.RingBuffer(shape=layer.out.shape, buffer=steps), sink.Read(buffer=steps)
        layer.out.connect(fired.a_in)
        membrane.connect_var(layer.neuron.v)
        probes.append((fired, membrane))
    try:
        for start in range(0, steps, PART_STEPS):
            part = min(PART_STEPS, steps - start)
            network.run(condition=RunSteps(num_steps=part), run_cfg=_fixed_point())
            (folder / "steps").write_text(str(done + start + part))
        recorded = [(fired.data.get(), membrane.data.get()) for fired, membrane in probes]
    finally:
        network.stop()
    np.savez(
        folder / f"{job['name']}.npz",
        **{f"spikes{k}": fired.astype(np.uint8) for k, (fired, _) in enumerate(recorded)},
        **{f"v{k}": membrane.astype(np.int32) for k, (_, membrane) in enumerate(recorded)},
    )
    return done + steps


if __name__ == "__main__":
    main(Path(sys.argv[1]))
