"""Which run it is: what a checkpoint tells of it, so that another run does not take it up."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from neurodeploy.budgets.budget import Budget
from neurodeploy.training.options import FitOptions
from neurodeploy.training.order import Order
from neurodeploy.training.pruning import Pruning

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def about(
    model: torch.nn.Module, order: Order, options: FitOptions, budget: Budget | None, pruning: Pruning | None
) -> dict[str, Any]:
    """What was given to a run, as a checkpoint holds it.

    Of the model its modules and the shapes of its weights; of data its batches, and, where it tells them, its samples
    (``fingerprint``, as `data.Batches` has); functions by their names.
    """
    return {
        **_told(options),
        "batches": order.n_batches,
        "samples": getattr(order.data, "fingerprint", None),
        "weights": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
        "model": _described(model).splitlines(),
        "method": None if pruning is None else {"name": type(pruning).__qualname__, **_told(getattr(pruning, "options", None))},
        "budget": None if budget is None else _shares(budget),
    }


def values(noun: Any) -> dict[str, Any]:
    """The fields of a dataclass, by name."""
    return {one.name: getattr(noun, one.name) for one in fields(noun)}


def _told(noun: Any) -> dict[str, Any]:
    if not is_dataclass(noun):
        return {}
    return {name: value if _is_plain(value) else _described(value) for name, value in values(noun).items()}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _described(value: Any) -> str:
    """A function by its name, anything else as it shows itself, but for where it stands in memory."""
    return str(getattr(value, "__qualname__", None) or _ADDRESS.sub("", repr(value)))


def _shares(budget: Budget) -> dict[str, Any]:
    shares = {
        part.name: [part.core, part.synapse_memory_bits, part.input_axons, [cap.axons for cap in part.sources or ()]]
        for part in budget.slices
    }
    return {"chip": budget.profile.name, "weight_bits": budget.weight_bits, **shares}
