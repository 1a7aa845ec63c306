"""What an epoch of training changes in its samples, at random.

Samples in batches: in which order, changed how, and which of them are held out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.forward import Data

# -------------------- training.data.augmentation


class Augmentation(Protocol):
    """A change of inputs, in two halves: what is random about it, and the change."""

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """What `n` samples are changed by, (n, \\*any)."""

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, \\*shape) changed by what was drawn for them, (batch, \\*any)."""


@dataclass(frozen=True, slots=True)
class RandomShift:
    """Images, or spikes in time, moved by up to so many pixels along both sides; what comes in from outside is 0.

    The last two axes are rows and columns; all others of a sample move together.

    Attributes
    ----------
    pixels : int
        At least 1.
    """

    pixels: int

    def __post_init__(self) -> None:
        if self.pixels < 1:
            raise RequestError("pixels", f"are {self.pixels}, not at least 1")

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Down and to the right by -pixels..pixels each, int64 (n, 2)."""
        return torch.randint(-self.pixels, self.pixels + 1, (n, 2), generator=generator)

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, \\*any, height, width), each moved by its own (down, right)."""
        if inputs.ndim < 3:
            raise DataError("inputs", f"of shape {tuple(inputs.shape)} have no rows and columns to shift")
        height, width = inputs.shape[-2:]
        padded = torch.nn.functional.pad(inputs, [self.pixels] * 4).reshape(
            len(inputs), -1, height + 2 * self.pixels, width + 2 * self.pixels
        )
        from_ = self.pixels - drawn
        rows = (torch.arange(height) + from_[:, :1])[:, :, None]
        columns = (torch.arange(width) + from_[:, 1:])[:, None, :]
        moved = padded[torch.arange(len(inputs))[:, None, None], :, rows, columns]  # channels last: indexing puts them there
        return moved.movedim(-1, 1).reshape(inputs.shape)


@dataclass(frozen=True, slots=True)
class RandomFlip:
    """Images, or spikes in time, seen in a mirror, left and right exchanged, every other time on average."""

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Whether, bool (n,)."""
        return torch.randint(2, (n,), generator=generator).bool()

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, \\*any, width), those flipped that were drawn so."""
        return torch.where(drawn.view(-1, *[1] * (inputs.ndim - 1)), inputs.flip(-1), inputs)


@dataclass(frozen=True, slots=True)
class RandomAffine:
    """Images, or spikes in time, turned, made larger or smaller, slanted and moved, each sample in its own way.

    The last two axes are rows and columns; all others of a sample move together. Pixels are read between four neighbours, so
    spikes become shares of spikes; what comes in from outside is 0.

    Attributes
    ----------
    degrees : float
        Turned by up to so much to either side, and rows slanted likewise; 0..45.
    scale : float
        Sides longer or shorter by up to this share, each by its own; in 0..1, 1 left out.
    pixels : float
        Moved by up to so many along both sides, at least 0.
    """

    degrees: float = 10.0
    scale: float = 0.1
    pixels: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("degrees", 45.0), ("scale", math.nextafter(1.0, 0.0)), ("pixels", math.inf)):
            if not 0 <= getattr(self, name) <= most or math.isinf(getattr(self, name)):
                raise RequestError(name, f"is {getattr(self, name)}, not within 0..{most:g}")

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Turn and slant in radians, scale of rows and of columns, move down and to the right in pixels: float (n, 6)."""
        most = math.radians(self.degrees)
        sides = torch.tensor([most, most, self.scale, self.scale, self.pixels, self.pixels])
        return (2 * torch.rand(n, 6, generator=generator) - 1) * sides + torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Inputs (batch, \\*any, height, width), each changed by its own six numbers; float32."""
        if inputs.ndim < 3:
            raise DataError("inputs", f"of shape {tuple(inputs.shape)} have no rows and columns to turn")
        height, width = inputs.shape[-2:]
        turn, slant, tall, wide, down, right = drawn.T
        y = torch.arange(height) - (height - 1) / 2
        x = torch.arange(width) - (width - 1) / 2
        rows, columns = (y - down[:, None])[:, :, None], (x - right[:, None])[:, None, :]
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        from_row = (cos * rows - sin * columns) / tall[:, None, None]
        from_column = (sin * rows + cos * columns) / wide[:, None, None] + slant.tan()[:, None, None] * from_row
        grid = torch.stack([2 * from_column / max(width - 1, 1), 2 * from_row / max(height - 1, 1)], dim=-1)
        images = inputs.reshape(len(inputs), -1, height, width).float()
        return torch.nn.functional.grid_sample(images, grid, align_corners=True).reshape(inputs.shape)


# -------------------- training.data.batches


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
