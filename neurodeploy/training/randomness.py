"""Whatever is random while a model learns: torch's draws, NumPy's and Python's own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """All of it begins with `seed` while this lasts; the caller's own draws go on afterwards as if nothing had been."""
    before = random_state()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # what a user's data may draw from is the old generator
    random.seed(seed)
    try:
        yield
    finally:
        set_random_state(before)


def random_state() -> dict[str, Any]:
    """Where the draws stand, of every device that is this process's."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002  # as above
    version, numbers, normal = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device) for device in _devices()],
        "numpy": (str(name), np.asarray(keys, dtype=np.int64), position, has_gauss, gauss),
        "python": (version, np.asarray(numbers, dtype=np.int64), normal),
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Draws go on from where `random_state` found them."""
    torch.set_rng_state(state["torch"])
    for device, drawn in zip(_devices(), state["cuda"], strict=False):
        torch.cuda.set_rng_state(drawn, device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.astype(np.uint32), *rest))  # noqa: NPY002  # as above
    version, numbers, normal = state["python"]
    random.setstate((version, tuple(numbers.tolist()), normal))


def _devices() -> Sequence[int]:
    """All GPUs; of replicas, which have one each, the current one alone."""
    if not torch.cuda.is_available():
        return []
    shared = torch.distributed.is_available() and torch.distributed.is_initialized()
    return [torch.cuda.current_device()] if shared else range(torch.cuda.device_count())
