"""Samples in batches: in which order, changed how, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.data.augmentation import Augmentation
from neurodeploy.training.inference import Data


class Samples(Protocol):
    """Inputs that are made when they are asked for; a tensor (n, \\*shape) is one such."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: torch.Tensor, /) -> torch.Tensor:
        """The inputs (len(which), \\*shape) of these numbers, int64 (len(which),)."""


class Intensities:
    """Images kept as bytes, a quarter of the memory; in 0..1, float32, when asked for."""

    def __init__(self, images: torch.Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, which: torch.Tensor) -> torch.Tensor:
        return self._images[which].to(torch.float32) / 255


class _Part:
    """Some of the samples, in the order of `which`."""

    def __init__(self, whole: Samples, which: torch.Tensor) -> None:
        self._whole, self._which = whole, which

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, which: torch.Tensor) -> torch.Tensor:
        return self._whole[self._which[which]]


class Batches:
    """Samples in batches, in their own order or, for an epoch of training, in one that a generator draws.

    Parameters
    ----------
    inputs : array or tensor (n, \\*shape), or Samples
    targets : array or tensor (n,)
    batch_size : int
        The last batch may be smaller.
    augmentations : sequence of Augmentation
        What an epoch of training changes in its inputs, one after the other; samples in their own order stay as they are.
    """

    def __init__(
        self,
        inputs: Samples | NDArray[Any],
        targets: torch.Tensor | NDArray[Any],
        batch_size: int,
        augmentations: Sequence[Augmentation] = (),
    ) -> None:
        self.inputs: Samples = torch.as_tensor(inputs) if isinstance(inputs, np.ndarray) else inputs
        self.targets = torch.as_tensor(targets)
        self.batch_size, self.augmentations = batch_size, tuple(augmentations)
        if len(self.inputs) != len(self.targets):
            raise DataError("batches", f"{len(self.inputs)} inputs have {len(self.targets)} targets")
        if len(self.inputs) == 0:
            raise DataError("batches", "hold no samples")
        if batch_size < 1:
            raise RequestError("batch_size", f"is {batch_size}, not at least 1")

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self._in_order(torch.arange(len(self.inputs)), [])

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All samples once, in an order drawn from the generator, and changed as it draws.

        Everything is drawn here and now, for every sample: what a sample becomes does not depend on the size of batches, nor
        on how many of them are taken.
        """
        n = len(self.inputs)
        order = torch.randperm(n, generator=generator)
        return self._in_order(order, [(change, change.draw(n, generator)) for change in self.augmentations])

    def _in_order(
        self, order: torch.Tensor, changes: list[tuple[Augmentation, torch.Tensor]]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            inputs = self.inputs[part]
            for change, drawn in changes:
                inputs = change(inputs, drawn[part])
            yield inputs, self.targets[part]

    @property
    def fingerprint(self) -> str:
        """Which samples these are, and in which batches, in a few letters: of every target, and of the first input."""
        told = sha256(repr((tuple(self.inputs[torch.arange(1)].shape), self.batch_size, self.augmentations)).encode())
        for tensor in (self.targets, self.inputs[torch.arange(1)]):
            told.update(tensor.contiguous().cpu().numpy().tobytes())
        return told.hexdigest()[:16]

    def part(self, which: torch.Tensor | Sequence[int]) -> Batches:
        """Batches of the samples of these numbers alone."""
        which = torch.as_tensor(which, dtype=torch.int64)
        return Batches(_Part(self.inputs, which), self.targets[which], self.batch_size, self.augmentations)


class DataSplit(NamedTuple):
    """Samples to train on and to test on.

    Attributes
    ----------
    train, test : iterable of (input, target)
    input_shape : tuple of int
        Of an input as the batches hold it, without the batch: an image's, or (n_steps, \\*shape) of spikes in time.
    n_classes : int
    """

    train: Data
    test: Data
    input_shape: tuple[int, ...]
    n_classes: int

    def for_choices(self, share: float = 1 / 6, *, seed: int = 0) -> DataSplit:
        """The training data, split once more: what is chosen by `test` of this split is not chosen by held-out data.

        Parameters
        ----------
        share : float
            Of each class, above 0 and below 1, what goes into `test`; a sixth of MNIST's 60,000 are as many as its own test.
        seed : int
            Decides which samples these are.

        Raises
        ------
        DataError
            Training data that are no `Batches`, or too few for both halves.
        """
        if not isinstance(self.train, Batches):
            raise DataError("data", f"is {type(self.train).__name__}, which cannot be split", remedy="Let it be Batches.")
        if not 0 < share < 1:
            raise RequestError("share", f"is {share}, not above 0 and below 1")
        kept, held_out = _split(self.train.targets, share, torch.Generator().manual_seed(seed))
        if not (len(kept) and len(held_out)):
            raise DataError("data", f"has too few samples ({len(self.train.targets)}) to hold {share:.3g} of each class out")
        return self._replace(train=self.train.part(kept), test=self.train.part(held_out))

    def augmented(self, *augmentations: Augmentation) -> DataSplit:
        """The same data, its training inputs changed anew in every epoch, in the order of the augmentations."""
        if not isinstance(self.train, Batches):
            raise DataError("data", f"is {type(self.train).__name__}, which cannot be augmented", remedy="Let it be Batches.")
        was = self.train
        return self._replace(train=Batches(was.inputs, was.targets, was.batch_size, (*was.augmentations, *augmentations)))


def _split(targets: torch.Tensor, share: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the samples that are kept, and of those held out: round(share * n) of the n samples of each class."""
    held_out = torch.zeros(len(targets), dtype=torch.bool)
    for label in sorted(set(targets.tolist())):
        of_class = torch.nonzero(targets == label)[:, 0]
        drawn = torch.randperm(len(of_class), generator=generator)[: round(share * len(of_class))]
        held_out[of_class[drawn]] = True
    return torch.nonzero(~held_out)[:, 0], torch.nonzero(held_out)[:, 0]
