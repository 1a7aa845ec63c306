"""Batches of samples, their random augmentation, and splits into training and test data."""

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


class Augmentation(Protocol):
    """A random change of inputs, in two parts: the random draw, and the change that it determines."""

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw the random numbers of `n` samples, (n, \\*any)."""

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Change inputs (batch, \\*shape) by the numbers drawn for them, (batch, \\*any)."""


@dataclass(frozen=True, slots=True)
class RandomShift:
    """Shift images, or spikes in time, by up to `pixels` along both axes; new pixels are 0.

    The last two axes are rows and columns; all others of a sample change together.

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
        """Draw shifts down and to the right in -pixels..pixels, int64 (n, 2)."""
        return torch.randint(-self.pixels, self.pixels + 1, (n, 2), generator=generator)

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Shift inputs (batch, \\*any, height, width), each by its own (down, right)."""
        if inputs.ndim < 3:
            raise DataError("inputs", f"of shape {tuple(inputs.shape)} have no rows and columns to shift")
        height, width = inputs.shape[-2:]
        padded = torch.nn.functional.pad(inputs, [self.pixels] * 4).reshape(
            len(inputs), -1, height + 2 * self.pixels, width + 2 * self.pixels
        )
        # where the result begins in the padded image: a shift down looks further up
        from_ = self.pixels - drawn
        rows = (torch.arange(height) + from_[:, :1])[:, :, None]
        columns = (torch.arange(width) + from_[:, 1:])[:, None, :]
        moved = padded[torch.arange(len(inputs))[:, None, None], :, rows, columns]  # indexing moves channels to the end
        return moved.movedim(-1, 1).reshape(inputs.shape)


@dataclass(frozen=True, slots=True)
class RandomFlip:
    """Mirror images, or spikes in time, left to right with probability 1/2."""

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw whether to flip, bool (n,)."""
        return torch.randint(2, (n,), generator=generator).bool()

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Flip the inputs (batch, \\*any, width) that were drawn."""
        return torch.where(drawn.view(-1, *[1] * (inputs.ndim - 1)), inputs.flip(-1), inputs)


@dataclass(frozen=True, slots=True)
class RandomAffine:
    """Rotate, scale, shear and shift images, or spikes in time, each sample differently.

    The last two axes are rows and columns; all others of a sample change together. Pixels are interpolated
    bilinearly, so spikes become fractions of spikes; new pixels are 0.

    Attributes
    ----------
    degrees : float
        Largest rotation to either side, and largest shear; 0..45.
    scale : float
        Largest relative change of each side; at least 0, below 1.
    pixels : float
        Largest shift along both axes, at least 0.
    """

    degrees: float = 10.0
    scale: float = 0.1
    pixels: float = 1.0

    def __post_init__(self) -> None:
        for name, most in (("degrees", 45.0), ("scale", math.nextafter(1.0, 0.0)), ("pixels", math.inf)):
            if not 0 <= getattr(self, name) <= most or math.isinf(getattr(self, name)):
                raise RequestError(name, f"is {getattr(self, name)}, not within 0..{most:g}")

    def draw(self, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw rotation and shear in radians, scale of rows and columns, shift down and to the right in pixels: float (n, 6)."""
        most = math.radians(self.degrees)
        sides = torch.tensor([most, most, self.scale, self.scale, self.pixels, self.pixels])
        return (2 * torch.rand(n, 6, generator=generator) - 1) * sides + torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 0.0])

    def __call__(self, inputs: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        """Change inputs (batch, \\*any, height, width), each by its own six numbers; float32."""
        if inputs.ndim < 3:
            raise DataError("inputs", f"of shape {tuple(inputs.shape)} have no rows and columns to turn")
        height, width = inputs.shape[-2:]
        turn, slant, tall, wide, down, right = drawn.T
        # coordinates from the centre, about which images turn
        y = torch.arange(height) - (height - 1) / 2
        x = torch.arange(width) - (width - 1) / 2
        rows, columns = (y - down[:, None])[:, :, None], (x - right[:, None])[:, None, :]
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        # The inverse map: for each new pixel, where it comes from in the old image.
        from_row = (cos * rows - sin * columns) / tall[:, None, None]
        from_column = (sin * rows + cos * columns) / wide[:, None, None] + slant.tan()[:, None, None] * from_row
        # grid_sample wants (x, y), with -1 and 1 at the centres of the outermost pixels (align_corners)
        grid = torch.stack([2 * from_column / max(width - 1, 1), 2 * from_row / max(height - 1, 1)], dim=-1)
        images = inputs.reshape(len(inputs), -1, height, width).float()
        return torch.nn.functional.grid_sample(images, grid, align_corners=True).reshape(inputs.shape)


class Samples(Protocol):
    """Inputs that are made on access; a tensor (n, \\*shape) is one kind."""

    def __len__(self) -> int: ...

    def __getitem__(self, which: torch.Tensor, /) -> torch.Tensor:
        """Return the inputs (len(which), \\*shape) of these numbers, int64 (len(which),)."""


class Intensities:
    """Images kept as bytes, a quarter of the memory; float32 in 0..1 on access."""

    def __init__(self, images: torch.Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, which: torch.Tensor) -> torch.Tensor:
        return self._images[which].to(torch.float32) / 255


class _Subset:
    """Some samples, in the order of `which`."""

    def __init__(self, whole: Samples, which: torch.Tensor) -> None:
        self._whole, self._which = whole, which

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, which: torch.Tensor) -> torch.Tensor:
        return self._whole[self._which[which]]


class Batches:
    """Samples in batches, in their own order or, for a training epoch, in a random one.

    Parameters
    ----------
    inputs : array or tensor (n, \\*shape), or Samples
    targets : array or tensor (n,)
    batch_size : int
        The last batch may be smaller.
    augmentations : sequence of Augmentation
        Applied one after the other to the inputs of a training epoch; samples in their own order stay unchanged.
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
        # rounded up: the last batch may be smaller
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self._in_order(torch.arange(len(self.inputs)), [])

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Iterate over all samples once, in a random order, augmented.

        All random numbers are drawn at the call, for every sample: a sample's augmentation depends neither on the batch size
        nor on how many batches are taken.
        """
        n = len(self.inputs)
        # order first, then the augmentations in turn: that sequence of draws is part of a seed's result
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
        """Hash of the batch size, the augmentations, all targets and the first input: 16 letters that tell data sets apart."""
        # the first input alone: hashing all of them would read the whole data set
        digest = sha256(repr((tuple(self.inputs[torch.arange(1)].shape), self.batch_size, self.augmentations)).encode())
        for tensor in (self.targets, self.inputs[torch.arange(1)]):
            digest.update(tensor.contiguous().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def part(self, which: torch.Tensor | Sequence[int]) -> Batches:
        """Return batches of the samples with these numbers."""
        which = torch.as_tensor(which, dtype=torch.int64)
        return Batches(_Subset(self.inputs, which), self.targets[which], self.batch_size, self.augmentations)


class DataSplit(NamedTuple):
    """Samples to train on and to test on.

    Attributes
    ----------
    train, test : iterable of (input, target)
    input_shape : tuple of int
        Shape of one input in the batches: an image's, or (n_steps, \\*shape) of spikes in time.
    n_classes : int
    """

    train: Data
    test: Data
    input_shape: tuple[int, ...]
    n_classes: int

    def for_choices(self, share: float = 1 / 6, *, seed: int = 0) -> DataSplit:
        """Split the training data once more, so that settings can be chosen without the real test data.

        Parameters
        ----------
        share : float
            Share of each class that goes into `test`, above 0 and below 1; a sixth of MNIST's 60,000 equals its own test set.
        seed : int
            Seed of the split.

        Raises
        ------
        DataError
            Training data that are not `Batches`, or too few for both halves.
        """
        if not isinstance(self.train, Batches):
            raise DataError("data", f"is {type(self.train).__name__}, which cannot be split", remedy="Let it be Batches.")
        if not 0 < share < 1:
            raise RequestError("share", f"is {share}, not above 0 and below 1")
        targets, generator = self.train.targets, torch.Generator().manual_seed(seed)
        is_held_out = torch.zeros(len(targets), dtype=torch.bool)
        for label in sorted(set(targets.tolist())):
            of_class = torch.nonzero(targets == label)[:, 0]
            # class by class, so that both halves have the classes in the same shares
            drawn = torch.randperm(len(of_class), generator=generator)[: round(share * len(of_class))]
            is_held_out[of_class[drawn]] = True
        kept, held_out = torch.nonzero(~is_held_out)[:, 0], torch.nonzero(is_held_out)[:, 0]
        if not (len(kept) and len(held_out)):
            raise DataError("data", f"has too few samples ({len(self.train.targets)}) to hold {share:.3g} of each class out")
        return self._replace(train=self.train.part(kept), test=self.train.part(held_out))

    def augmented(self, *augmentations: Augmentation) -> DataSplit:
        """Return the same data with augmented training inputs, changed differently in every epoch."""
        if not isinstance(self.train, Batches):
            raise DataError("data", f"is {type(self.train).__name__}, which cannot be augmented", remedy="Let it be Batches.")
        was = self.train
        return self._replace(train=Batches(was.inputs, was.targets, was.batch_size, (*was.augmentations, *augmentations)))
