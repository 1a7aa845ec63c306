"""One run, several sizes: a model pressed into fewer and fewer cores, at each of which it is deployed whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from neurodeploy.budgets.channels import narrow_budget
from neurodeploy.compression import compress
from neurodeploy.deployment import Deployment, Say, keep_quiet
from neurodeploy.errors import RequestError
from neurodeploy.frontends.norse import extract
from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS
from neurodeploy.training import DataSplit, FitOptions
from neurodeploy.training.replicas import together


def compress_to(
    model: torch.nn.Module, sample: torch.Tensor, profile: HardwareProfile, data: DataSplit, options: FitOptions,
    *, cores: Sequence[int], out: str | Path, bits: int | None = None, say: Say = keep_quiet, **more: Any,
) -> tuple[Deployment, ...]:  # fmt: skip
    """Train a model once, and press it into each number of cores, from the most to the fewest, each from the one before.

    Each size has phases of its own, `epochs_compress` and `epochs_finetune`, and begins with the weights of the one before: what
    that pruned begins at zero, and may come back.

    Parameters
    ----------
    cores : sequence of int
        The sizes, in any order.
    out : path
        A folder for each is made in it, ``4-cores`` and so on, with what `neurodeploy.compress` writes.
    **more
        What else `neurodeploy.compress` takes.

    Returns
    -------
    tuple of Deployment
        The largest first.

    Raises
    ------
    RequestError
        No sizes, or one that the chip does not have.
    BudgetError
        No compression can make the network fit one of them; it is found before anything is trained.
    """
    sizes = sorted(set(cores), reverse=True)
    if not sizes:
        raise RequestError("cores", "are none", remedy="Give the numbers of cores to press the model into.")
    with together():
        network = extract(model, sample)
        for size in sizes:
            narrow_budget(network, profile, cores=size, bits=bits or DEFAULT_WEIGHT_BITS)
        made: list[Deployment] = []
        for size in sizes:
            say(f"To {size} core{'s' if size > 1 else ''}:")
            made.append(compress(
                model, sample, profile, data, options if not made else replace(options, epochs_dense=0), cores=size, bits=bits,
                out=Path(out) / f"{size}-cores", dense=made[0].report.accuracy.dense if made else None, say=say, **more,
            ))  # fmt: skip
    return tuple(made)
