"""What a core's memory is worth, in the loss that training made small: measured, by taking a little of it away.

The multipliers of the compression are prices in squared weight of mean curvature. What a user wants to know is a price in loss;
it is measured when all is trained, by choosing the survivors of a core once more for a little less memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch

from neurodeploy.budgets.budget import SliceBudget
from neurodeploy.records import Worth
from neurodeploy.training.inference import Data, in_mode, spikes_of
from neurodeploy.training.masks import choose_on_core
from neurodeploy.training.minimax import Compression
from neurodeploy.training.options import FitOptions
from neurodeploy.training.randomness import seeded
from neurodeploy.training.readouts import read_out
from neurodeploy.training.running import run_model
from neurodeploy.training.schedule import constraint

_LESS = 0.05
"""Share of what a core's synapses take that is taken away."""
_BATCHES = 16
_MOST_CORES = 8
"""Of more cores those are measured that come first."""


def worth_of_memory(model: torch.nn.Module, pruning: Compression, data: Data, options: FitOptions) -> tuple[Worth, ...]:
    """What the memory of each core is worth where it binds, up to eight of them.

    Parameters
    ----------
    model : torch.nn.Module
        Trained under `pruning`, which is over.
    data : iterable of (input, target)
        Its first 16 batches are looked at.
    """
    found, whole = [], None
    for parts in islice((parts for parts in pruning.plan.by_core() if _binds(pruning, parts)), _MOST_CORES):
        whole = _loss(model, pruning, data, options) if whole is None else whole
        used = pruning.memory_bits(parts)
        with _thinned(pruning, parts, round(used * (1 - _LESS))):
            less, with_less = used - pruning.memory_bits(parts), _loss(model, pruning, data, options)
        if less > 0:
            found.append(Worth(
                core=parts[0].core, layers=tuple(dict.fromkeys(part.layer for part in parts)), bits_less=less, loss=whole[0],
                loss_with_less=with_less[0], samples=whole[1],
            ))  # fmt: skip
    return tuple(found)


def _binds(pruning: Compression, parts: Sequence[SliceBudget]) -> bool:
    return any(pruning.multipliers[constraint(part, "synapse_memory_bits")] > 0 for part in parts)


@contextmanager
def _thinned(pruning: Compression, parts: Sequence[SliceBudget], memory_bits: int) -> Iterator[None]:
    """The slices of a core with less memory, for as long as this lasts."""
    kept = {part.layer: pruning.survivors[part.layer].clone() for part in parts}
    standing = pruning.standing()
    wishes = [standing[part.layer].wish(pruning.forms[part.layer], part) for part in parts]
    try:
        for part, choice in zip(parts, choose_on_core(wishes, memory_bits, pruning.budget.profile), strict=True):
            mask = pruning.survivors[part.layer]
            mask[part.start : part.stop] &= torch.from_numpy(choice.mask).to(mask.device)
        yield
    finally:
        for name, mask in kept.items():
            pruning.survivors[name].copy_(mask)


@torch.no_grad()
def _loss(model: torch.nn.Module, pruning: Compression, data: Data, options: FitOptions) -> tuple[float, int]:
    """The mean loss, as the survivors in force make it, and of how many samples."""
    total, samples = 0.0, 0
    with seeded(options.seed), pruning.in_force(), in_mode(model, training=False):
        for inputs, target in islice(data, _BATCHES):
            output = read_out(run_model(model, spikes_of(inputs, model, options)), options.readout)
            labels = torch.as_tensor(target).to(output.device)
            total += float(options.loss(output, labels if labels.is_floating_point() else labels.long())) * len(inputs)
            samples += len(inputs)
    return total / max(samples, 1), samples
