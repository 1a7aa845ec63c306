"""Processor time of commands that should answer at once, as ratios to importing torch and Norse.

``python -m benchmarks.startup [ROUNDS]``

Every round runs each command once, in turn, so that a busy machine slows all of them equally. The time is that of the process and
its children, in user and kernel mode; the least of all rounds counts. A first round, which does not count, writes the bytecode.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import neurodeploy as nd

MODEL = f"{Path(__file__).parent / 'mnist.py'}:seed0"
"""784-800-10 in torch and Norse."""
BASELINE = "import torch, norse.torch"
COMMANDS = {
    "profiles": "profiles",
    "--help": "--help",
    "no such file": "inspect none.net --target loihi2",
    "no such option": "inspect model.net --nosuch",
    "inspect model.net": "inspect model.net --target loihi2",
    "inspect model.nir": "inspect model.nir --target loihi2",
    "inspect file.py:factory": f"inspect {MODEL} --target loihi2",
}


def processor_seconds(arguments: list[str], folder: Path) -> float:
    """Run Python with these arguments in a folder; return the user and system time of it and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment(folder), capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a run: one thread, this checkout, and bytecode kept in `folder`."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    root = str(Path(__file__).parents[1])
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def write_models(folder: Path) -> None:
    """Write a network of 784-800-10 as model.net and model.nir."""
    rng = np.random.default_rng(0)
    decays = {"current_decay": np.array(0.5), "voltage_decay": np.array(0.5), "rest": np.array(0.0)}
    layers = tuple(
        nd.Layer(
            name=name, shape=(n_out,), neuron=nd.LIF(threshold=np.array(1.0), **decays), bias=np.array(0.0),
            connections=(nd.Connection(source=source, synapse=nd.Dense(weight=rng.normal(size=(n_out, n_in)))),),
        )
        for name, source, n_in, n_out in (("hidden", nd.INPUT, 784, 800), ("output", "hidden", 800, 10))
    )  # fmt: skip
    network = nd.Network(input_shape=(784,), layers=layers, timestep_s=0.001)
    nd.write_nir(network, folder / "model.nir")
    nd.write_netx(nd.quantize(network, nd.load_profile("loihi2")), folder / "model.net")


def main(rounds: int) -> None:
    """Print a row for each command: seconds, and the ratio to the baseline."""
    runs = {BASELINE: ["-c", BASELINE]} | {name: ["-m", "neurodeploy", *line.split()] for name, line in COMMANDS.items()}
    least = dict.fromkeys(runs, float("inf"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder)
        for counts in [False] + [True] * rounds:
            for run, arguments in runs.items():
                seconds = processor_seconds(arguments, folder)
                least[run] = min(least[run], seconds) if counts else least[run]
    print("| command | processor time | ratio |\n|---|---|---|")
    for run, seconds in least.items():
        print(f"| `{run}` | {seconds:.2f} s | {seconds / least[BASELINE]:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
