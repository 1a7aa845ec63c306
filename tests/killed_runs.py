"""A training run in a process of its own, killed again and again, and taken up each time: python killed_runs.py FOLDER SEED.

A module to start, not a test: it prints how often it killed, and leaves the weights and history of the run that was killed, and
of one that was not, in the folder.
"""

from __future__ import annotations

import copy
import os
import pickle
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import with_values
from spiking import budget_for, build, few

from neurodeploy.hardware.loading import load_profile
from neurodeploy.training.batches import Batches
from neurodeploy.training.checkpoint import Checkpoint
from neurodeploy.training.fit import fit
from neurodeploy.training.options import FitOptions, Step


def noisy(images: torch.Tensor, n_steps: int) -> torch.Tensor:
    """Spikes by chance, of torch, of NumPy and of Python."""
    chance = images * random.uniform(0.8, 1.0) * np.random.uniform(0.8, 1.0)  # noqa: NPY002  # all that a user may draw from
    return (torch.rand(len(images), n_steps, *images.shape[1:]) < chance.unsqueeze(1)).float()


OPTIONS = FitOptions(
    epochs_dense=1, epochs_compress=2, epochs_finetune=1, n_steps=4, mask_interval=2, encoder=noisy, distill=0.3, seed=3
)


MODEL = build(12, 70, 3)
BUDGET = budget_for(MODEL, with_values(load_profile("tiny"), synapse_memory_bits_per_core=2048), 2)
DATA = Batches(torch.cat([x for x, _ in few(90)]), torch.cat([y for _, y in few(90)]), 9)


def train(checkpoint: Checkpoint | None, progress: Callable[[Step], None] | None) -> tuple[list[Any], list[Any]]:
    """Final weights, and the history without its times."""
    model = copy.deepcopy(MODEL)
    _, history = fit(model, BUDGET, DATA, OPTIONS, test=few(20, seed=1), progress=progress, checkpoint=checkpoint, resume=True)
    told = [(r.phase, r.epoch, r.loss, r.train_accuracy, r.test_accuracy, r.connectivity, dict(r.multipliers)) for r in history]
    return [parameter.detach().numpy() for parameter in model.parameters()], told


def once(folder: Path, draws: random.Random) -> bool:
    """Go on in a child, which is killed after some steps, at some moment; whether it came to its end before that."""
    steps, wrote = os.pipe()
    child = os.fork()
    if child == 0:
        done = train(Checkpoint(path=folder / "run.safetensors", every_s=0), lambda _: os.write(wrote, b".") and None)
        (folder / "killed.pickle").write_bytes(pickle.dumps(done))
        os._exit(0)
    os.close(wrote)
    for _ in range(draws.randint(1, 12)):
        if not os.read(steps, 1):
            break
    time.sleep(draws.uniform(0, 0.02))
    os.kill(child, signal.SIGKILL)
    os.close(steps)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main(folder: Path, seed: int) -> None:
    """Train without an end before its time, by which all is imported that a child would import each time; then kill children."""
    (folder / "whole.pickle").write_bytes(pickle.dumps(train(None, None)))
    draws, kills = random.Random(seed), 0  # no secret
    while not once(folder, draws):
        kills += 1
    print(kills)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
