"""In which order a run goes through its batches, and where it goes on in an epoch that was broken off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from itertools import islice
from typing import Any

import torch

from neurodeploy.errors import DataError
from neurodeploy.training.inference import Data
from neurodeploy.training.randomness import random_state, set_random_state


class Order:
    """The batches of one epoch after the other; with a method ``shuffled(generator)``, data come in an order that a seed decides.

    Attributes
    ----------
    n_batches : int
        Of an epoch.

    Raises
    ------
    DataError
        No data, or data that can be read only once.
    """

    def __init__(self, data: Data, seed: int) -> None:
        self.data, self.n_batches = data, _n_batches(data)
        self._generator = torch.Generator().manual_seed(seed)
        self._begun: Mapping[str, Any] = {}
        self._kept: Mapping[str, Any] | None = None

    def epoch(self, done: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches of an epoch, after the first `done`: one that was broken off is drawn again, and its first part left."""
        kept, self._kept = self._kept, None
        if kept is not None:
            set_random_state(kept["begun"]["random"])
            self._generator.set_state(kept["begun"]["order"])
        self._begun = {"random": random_state(), "order": self._generator.get_state()}
        shuffled = getattr(self.data, "shuffled", None)
        batches = iter(self.data if shuffled is None else shuffled(self._generator))
        if kept is not None:
            sum(1 for _ in islice(batches, done))
            set_random_state(kept["random"])
        for batch in batches:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise DataError("data", f"gave {type(batch).__name__}, not a pair (input, target)")
            if len(batch[0]) == 0:
                raise DataError("data", "gave a batch without samples")
            yield batch[0], torch.as_tensor(batch[1])

    def state_dict(self) -> Mapping[str, Any]:
        """Where the draws stood as the epoch began, and where they stand."""
        return {"begun": self._begun, "random": random_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next epoch be the one in which `state_dict` was taken."""
        self._kept = state


def _n_batches(data: Data) -> int:
    try:
        batches = iter(data)
    except TypeError as error:
        raise DataError("data", f"is {type(data).__name__}, not an iterable of (input, target) batches") from error
    if batches is data:
        raise DataError("data", "can be read only once", remedy="Give a list of batches, or a DataLoader.")
    n = len(data) if isinstance(data, Sized) else sum(1 for _ in batches)
    if n == 0:
        raise DataError("data", "holds no batches")
    return n
