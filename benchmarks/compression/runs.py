"""One run: compress a trained network into a budget by one method, then count and measure it in the chip's integers."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.compression.methods import METHODS, Start
from benchmarks.compression.tasks import TASKS
from neurodeploy.compression.bit_width import thresholds_of
from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.pruning_method import Pruning
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.channel_counts import narrow_budget
from neurodeploy.pipeline.compress import CALIBRATION_SAMPLES, in_integers
from neurodeploy.pipeline.evaluation import evaluate, first_samples
from neurodeploy.resources.counting import LayerCount
from neurodeploy.simulation.records import EpochRecord
from neurodeploy.training.batches import DataSplit
from neurodeploy.training.checkpoint import load_weights, save_weights
from neurodeploy.training.fit import fit
from neurodeploy.training.options import FitOptions

CHIP, MEMORY = "loihi1", "synapse_memory_bits_per_core"
_LISTS = ("synapses_per_block", "block_header_bits", "memory_unit_bits")
_INDEX_BITS = 12
"""Of every synapse in a budget of synapses, whatever there may be of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Key of a row of results.

    Attributes
    ----------
    table : str
        Table that it belongs to.
    budget : str
        ``"1/8 core"``, of the chip's synapse memory, or ``"2 %"`` of all synapses; ``""`` for a dense network.
    width : int or None
        Bits of a weight; None where the method chooses them.
    choosing : bool
        Whether accuracy is measured on held-out training data, to choose settings, and not on the test data.
    """

    table: str
    task: str
    method: str
    budget: str
    seed: int
    width: int | None = None
    learning_rate: float = 2e-3
    distill: float = 0.7
    temperature: float = 4.0
    epochs: tuple[int, int] = (8, 4)
    choosing: bool = False

    @property
    def name(self) -> dict[str, Any]:
        """Return the key as a row has it."""
        return asdict(self) | {"epochs": list(self.epochs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Files and device of a run.

    Attributes
    ----------
    mnist : path or None
    folder : path
        Folder of the dense networks, from which all runs of a seed start.
    device : str
    amp : str or None
        As `FitOptions` has it.
    """

    mnist: Path | None
    folder: Path
    device: str = "cpu"
    amp: Literal["bf16"] | None = None


def chip_of(budget: str, width: int | None, n_synapses: int) -> tuple[HardwareProfile, int]:
    """Chip that has exactly this budget for a network of `n_synapses` synapses, and its number of cores."""
    profile = load_profile(CHIP)
    if of_synapses := re.fullmatch(r"([\d.]+) %", budget):
        return _counting(profile, round(float(of_synapses[1]) / 100 * n_synapses), width or 8), 1
    cores = Fraction(budget.split()[0])
    return (profile, int(cores)) if cores >= 1 else (_with(profile, {MEMORY: int(profile[MEMORY].number * cores)}), 1)


def _counting(profile: HardwareProfile, n_synapses: int, width: int) -> HardwareProfile:
    """Core on which every synapse costs the same, with memory for a given number of them."""
    plain = replace(profile, limits={key: limit for key, limit in profile.limits.items() if key not in _LISTS})
    room = n_synapses * (width + _INDEX_BITS)
    return _with(plain, {MEMORY: room, "encodings": ("sparse",), "index_bits": (_INDEX_BITS,), "weight_bits": (width,)})


def _with(profile: HardwareProfile, told: Mapping[str, Any]) -> HardwareProfile:
    changed = {key: replace(profile[key], value=value, source="the benchmark's budget") for key, value in told.items()}
    return replace(profile, limits={**profile.limits, **changed})


# ---------------------------------------------------------------------------------------------- dense networks


def train_dense(run: Run, place: Place) -> dict[str, Any]:
    """Train the dense network that all methods of a seed start from; keep it, and its state after the first epoch."""
    task, started = TASKS[run.task], time.perf_counter()
    split = task.load(place.mnist, choosing=run.choosing)
    options = replace(task.dense, seed=run.seed)
    model = task.make(run.seed).to(place.device)

    def keep(epoch: EpochRecord) -> None:
        if epoch.epoch == 0:
            save_weights(model, place.folder / _file(run, "early"))

    fit(model, None, split.train, options, on_epoch=keep)
    accuracy = _accuracy(model, split, options)
    seconds = time.perf_counter() - started
    save_weights(model, place.folder / _file(run, "dense"))
    return run.name | {"accuracy": accuracy, "connectivity": 1.0, "seconds": round(seconds, 1), "device": place.device}


def _file(run: Run, what: str) -> str:
    return f"{run.task}-{run.seed}{'-choosing' if run.choosing else ''}-{what}.safetensors"


def _accuracy(model: torch.nn.Module, split: DataSplit, options: FitOptions) -> float:
    return float(evaluate(model, split.test, options)[0])


# ---------------------------------------------------------------------------------------------- compressed ones


def compress(run: Run, place: Place) -> dict[str, Any]:
    """Compress the dense network of the seed into the budget, and return the row."""
    task = TASKS[run.task]
    split = task.load(place.mnist, choosing=run.choosing)
    model, early = (_trainable(run, place, what).to(place.device) for what in ("dense", "early"))
    network, budget, make = begun(run, model, early)
    started = time.perf_counter()
    pruning = make()
    options = replace(options_of(run), amp=place.amp)
    fit(model, budget, split.train, options, method=lambda *_: pruning)
    seconds = time.perf_counter() - started
    learnt = _accuracy(model, split, options)
    calibration = first_samples(model, split.train, options, CALIBRATION_SAMPLES).spikes
    trimmed, quantized, plan, _ = in_integers(model.to_network(), budget, pruning.widths, calibration)
    measured = evaluate(quantized, split.test, options, progress=False)
    return run.name | {
        "cores": None if "%" in run.budget else float(Fraction(run.budget.split()[0])),
        "accuracy": measured.classification_accuracy, "learnt": learnt,
        "connectivity": quantized.n_synapses / network.n_synapses, "synapse_memory_bits": memory_of(plan, quantized),
        "synops": measured.synaptic_operations["Effective_ACs"], "widths": list(pruning.widths.values()),
        "neurons": sum(layer.n_neurons for layer in trimmed), "seconds": round(seconds, 1), "device": place.device,
        "amp": place.amp,
    }  # fmt: skip


def _trainable(run: Run, place: Place, what: str) -> TrainableNetwork:
    """Return the trainable network of the seed, with weights that an earlier row has written."""
    task = TASKS[run.task]
    model = task.make(run.seed)
    load_weights(model, place.folder / _file(run, what))
    return trainable(model, torch.zeros(1, *task.input_shape))


def begun(run: Run, model: TrainableNetwork, early: TrainableNetwork) -> tuple[Network, Budget, Callable[[], Pruning]]:
    """Return the network of a model, its budget, and the factory of the method, to call once the model is on its device."""
    network = model.to_network()
    profile, cores = chip_of(run.budget, run.width, network.n_synapses)
    budget = narrow_budget(network, profile, cores=cores, bits=run.width)
    start = Start(weight_bits=run.width, thresholds=thresholds_of(model), early=early)
    return network, budget, lambda: METHODS[run.method].make(budget, model, start)


def options_of(run: Run) -> FitOptions:
    """Training options of a run."""
    (compress, finetune), task, method = run.epochs, TASKS[run.task], METHODS[run.method]
    told = replace(
        task.dense, epochs_dense=0, epochs_compress=compress, epochs_finetune=finetune, learning_rate=run.learning_rate,
        distill=run.distill, temperature=run.temperature, seed=run.seed,
    )  # fmt: skip
    patience = method.patience if "core" in run.budget else 1
    return replace(told, mask_interval=patience * task.dense.mask_interval, **method.options)


def memory_of(budget: Budget, network: QuantizedNetwork) -> int:
    """Synapse memory of the network in bits, in the slices of the budget."""
    counts = {layer.name: LayerCount(layer, layer.weight_bits, budget.profile) for layer in network}
    return sum(counts[part.layer].usage(part.region).synapse_memory_bits for part in budget.slices)
