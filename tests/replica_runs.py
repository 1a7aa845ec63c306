"""A training run in one process, and in two that train together: python replica_runs.py FOLDER.

A module to start, not a test: each process leaves what it ended with in the folder.
"""

from __future__ import annotations

import os
import pickle
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conftest import with_values
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters
from spiking import budget_for, few

from neurodeploy.compression.minimax import MinimaxOptions, MinimaxPruning
from neurodeploy.errors import TrainingError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.training.batches import Batches, RandomShift
from neurodeploy.training.distributed import together
from neurodeploy.training.fit import fit
from neurodeploy.training.options import FitOptions


def noisy(images: torch.Tensor, n_steps: int) -> torch.Tensor:
    """Spikes by chance."""
    return (torch.rand(len(images), n_steps, *images.shape[1:]) < images.unsqueeze(1)).float()


OPTIONS = FitOptions(
    epochs_dense=2, epochs_compress=2, epochs_finetune=1, n_steps=4, mask_interval=3, encoder=noisy, distill=0.3, seed=4,
    learning_rate=2e-3,
)  # fmt: skip
# seeds 4, 5 and 6 agree to the test's tolerance; with 3 a difference of rounding grows to 1e-3 of a weight
BATCH_SIZE = 11  # of 100 samples: shares of 5 and 6, and in the last batch of none and of one
(IMAGES, TARGETS) = (torch.cat(parts) for parts in zip(*few(100), strict=True))
DATA = Batches(IMAGES.unflatten(1, (3, 4)), TARGETS, BATCH_SIZE, [RandomShift(1)])


def build(*, drops: float = 0.0) -> SequentialState:
    """Neurons that fire often: where gradients are nothing but what rounding leaves, Adam makes steps of them."""
    fast = {"tau_mem_inv": torch.tensor(500.0), "tau_syn_inv": torch.tensor(500.0)}
    cell, readout = LIFCell(LIFParameters(**fast, v_th=torch.tensor(0.1))), LICell(LIParameters(**fast))
    chain = [torch.nn.Linear(12, 70, bias=False), cell, torch.nn.Dropout(drops), torch.nn.Linear(70, 3, bias=False), readout]
    return SequentialState(*chain)


def compressed() -> dict[str, Any]:
    """A model compressed into two cores, by noise that is drawn for each sample."""
    torch.manual_seed(0)
    model = build()
    budget = budget_for(model, with_values(load_profile("tiny"), synapse_memory_bits_per_core=2048), 2)
    methods: list[MinimaxPruning] = []

    def method(*given: Any) -> MinimaxPruning:
        methods.append(MinimaxPruning(*given, options=MinimaxOptions(widths=True)))
        return methods[-1]

    _, history = fit(model, budget, DATA, OPTIONS, test=few(20, seed=1), method=method)
    told = [(r.phase, r.loss, r.train_accuracy, r.test_accuracy, r.connectivity, dict(r.multipliers)) for r in history]
    return {
        "weights": [parameter.detach().numpy() for parameter in model.parameters()], "history": told,
        "masks": {name: mask.numpy() for name, mask in methods[-1].masks.items()}, "widths": methods[-1].widths,
        "multipliers": methods[-1].multipliers, "draws": torch.rand(3).numpy(),
    }  # fmt: skip


def dropped() -> dict[str, Any]:
    """A model that draws for itself, and that every process begins with other weights."""
    torch.manual_seed(int(os.environ.get("RANK", "0")))
    model = build(drops=0.3)
    masks: list[torch.Tensor] = []

    def listen(_: Any, given: tuple[torch.Tensor], found: torch.Tensor) -> None:
        if given[0].any():
            masks.append((found == 0)[given[0] != 0])

    model[2].register_forward_hook(listen)
    data = Batches(IMAGES, TARGETS, 20)
    _, history = fit(model, None, data, replace(OPTIONS, encoder="latency", distill=0.0))
    return {
        "weights": [parameter.detach().numpy() for parameter in model.parameters()],
        "history": [(record.loss, record.train_accuracy) for record in history], "dropped": torch.cat(masks).numpy(),
    }  # fmt: skip


def trained(folder: Path) -> None:
    """One after the other; the processes meet once, and cannot again."""
    with together():
        found = {"compressed": compressed(), "dropped": dropped()}
    try:
        fit(build(), None, DATA, OPTIONS)
    except TrainingError as error:
        found["again"] = {"error": str(error)}
    (folder / f"{os.environ.get('RANK', 'alone')}.pickle").write_bytes(pickle.dumps(found))


def main(folder: Path) -> None:
    """Train alone, by which all is imported that the two children would import each; then in two, as torchrun starts them."""
    trained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = []
    for rank in range(2):
        if not (child := os.fork()):
            os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
            (folder / f"pid{rank}").write_text(str(os.getpid()))
            trained(folder)
            os._exit(0)
        children.append(child)
    sys.exit(any(os.waitpid(child, 0)[1] for child in children))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
