"""Where samples come from."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.factories import call_factory
from neurodeploy.training.inference import Data

_TEST_EVERY = 4
_MNIST_KEYS = ("x_train", "y_train", "x_test", "y_test")
_SPECS = "digits, mnist, mnist:PATH.npz, or FILE.py:FACTORY"


class Batches:
    """Samples in batches, in their own order or, for an epoch of training, in one that a generator draws.

    Parameters
    ----------
    inputs : array or tensor (n, \\*shape)
    targets : array or tensor (n,)
    batch_size : int
        The last batch may be smaller.
    """

    def __init__(self, inputs: torch.Tensor | NDArray[Any], targets: torch.Tensor | NDArray[Any], batch_size: int) -> None:
        self.inputs, self.targets = torch.as_tensor(inputs), torch.as_tensor(targets)
        self.batch_size = batch_size
        if len(self.inputs) != len(self.targets):
            raise DataError("batches", f"{len(self.inputs)} inputs have {len(self.targets)} targets")
        if len(self.inputs) == 0:
            raise DataError("batches", "hold no samples")
        if batch_size < 1:
            raise RequestError("batch_size", f"is {batch_size}, not at least 1")

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self._in_order(torch.arange(len(self.inputs)))

    def shuffled(self, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All samples once, in an order drawn from the generator."""
        return self._in_order(torch.randperm(len(self.inputs), generator=generator))

    def _in_order(self, order: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            yield self.inputs[part], self.targets[part]


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


def load_data(spec: str, *, batch_size: int | None = None) -> DataSplit:
    """Load a data set by name.

    Parameters
    ----------
    spec : str
        ``digits``: scikit-learn's 1,797 digits of 8 x 8 pixels, the first, fifth, ninth ... of a class held out for testing.
        ``mnist:PATH``: an .npz file with x_train, y_train, x_test, y_test, bytes (n, 28, 28) and (n,).
        ``mnist``: the same from torchvision, downloaded once to a cache folder.
        ``FILE.py:FACTORY`` or ``package.module:FACTORY``: what that function returns, (train, test), each an
        iterable of (input, target) batches. Images come flattened from the first three, as intensities in 0..1.
    batch_size : int, optional
        64 for digits and 256 for MNIST by default; a factory makes its own batches.

    Raises
    ------
    DataError
        An unknown name, a file that is missing or not what it should be, a factory that returns something else.
    RequestError
        A factory that is not there, or that fails.
    """
    name, _, rest = spec.partition(":")
    if spec == "digits":
        return _digits(batch_size or 64)
    if name == "mnist" and (rest or spec == "mnist"):
        arrays = _read_mnist(Path(rest)) if rest else _download_mnist()
        return _mnist(arrays, rest or "mnist", batch_size or 256)
    if rest and spec.rpartition(":")[2].isidentifier():
        return _from_factory(spec)
    raise DataError(spec, "is no data set", remedy=f"Give {_SPECS}.")


def _digits(batch_size: int) -> DataSplit:
    from sklearn.datasets import load_digits  # a second to import, and for this data set only

    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held_out[torch.nonzero(labels == label)[::_TEST_EVERY, 0]] = True
    return DataSplit(
        train=Batches(images[~held_out], labels[~held_out], batch_size),
        test=Batches(images[held_out], labels[held_out], batch_size),
        input_shape=(images.shape[1],),
        n_classes=10,
    )


# ---------------------------------------------------------------------------------------------- MNIST


def _mnist(arrays: dict[str, NDArray[Any]], where: str, batch_size: int) -> DataSplit:
    halves = []
    for half in ("train", "test"):
        images, labels = arrays[f"x_{half}"], arrays[f"y_{half}"]
        _check_mnist(images, labels, half, where)
        flat = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
        halves.append(Batches(flat, torch.from_numpy(labels.astype(np.int64)), batch_size))
    return DataSplit(train=halves[0], test=halves[1], input_shape=(784,), n_classes=10)


def _check_mnist(images: NDArray[Any], labels: NDArray[Any], half: str, where: str) -> None:
    if images.dtype != np.uint8 or images.shape[1:] not in ((28, 28), (784,)):
        raise DataError(where, f"x_{half} is {images.dtype} {images.shape}, not bytes (n, 28, 28)")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise DataError(where, f"y_{half} is {labels.dtype} {labels.shape}, not whole numbers ({len(images)},)")
    if len(labels) == 0:
        raise DataError(where, f"x_{half} holds no images")
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(where, f"y_{half} holds labels {labels.min()}..{labels.max()}, not 0..9")


def _read_mnist(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(str(path), "no such file", remedy=f"Give an .npz file with {', '.join(_MNIST_KEYS)}.")
    try:
        with path.open("rb") as file:  # np.load leaves a file open that it cannot read
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, Mapping):
                raise DataError(str(path), "is a single array, not an .npz file")
            missing = [key for key in _MNIST_KEYS if key not in arrays]
            if missing:
                raise DataError(str(path), f"has no {', '.join(missing)}", remedy=f"It has {', '.join(arrays) or 'nothing'}.")
            return {key: arrays[key] for key in _MNIST_KEYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"is not an .npz file of numbers ({' '.join(str(error).split())[:120]})") from error


def _download_mnist() -> dict[str, NDArray[Any]]:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurodeploy"
    try:
        from torchvision.datasets import MNIST

        halves = {half: MNIST(str(folder), train=half == "train", download=True) for half in ("train", "test")}
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError("mnist", f"cannot be had ({reason})", remedy="Give the path of a copy: mnist:PATH.npz.") from error
    images = {f"x_{half}": data.data.numpy() for half, data in halves.items()}
    return images | {f"y_{half}": data.targets.numpy() for half, data in halves.items()}


# ---------------------------------------------------------------------------------------------- the user's own


def _from_factory(spec: str) -> DataSplit:
    made = call_factory(spec)
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise DataError(spec, f"returned {type(made).__name__}, not a pair (train, test)")
    shapes, largest = [], 0
    for half, data in zip(("train", "test"), made, strict=True):
        shape, top = _survey(data, f"{spec}, {half}")
        shapes.append(shape)
        largest = max(largest, top)
    if shapes[0] != shapes[1]:
        raise DataError(spec, f"train holds inputs {shapes[0]}, test {shapes[1]}")
    return DataSplit(train=made[0], test=made[1], input_shape=shapes[0], n_classes=largest + 1)


def _survey(data: Any, where: str) -> tuple[tuple[int, ...], int]:
    """Shape of an input, and the largest class, over all batches."""
    try:
        batches = iter(data)
    except TypeError as error:
        raise DataError(where, f"is {type(data).__name__}, not an iterable of (input, target) batches") from error
    if batches is data:
        raise DataError(where, "can be read only once", remedy="Return a list of batches, or a DataLoader.")
    shapes, largest = set(), -1
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(where, f"gave {type(batch).__name__}, not a pair (input, target)")
        try:
            inputs, labels = (torch.as_tensor(part) for part in batch)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(where, f"gave {str(batch)[:60]}, which are no tensors") from error
        if labels.is_floating_point() or labels.shape != inputs.shape[:1] or not len(labels) or labels.min() < 0:
            raise DataError(where, f"gave {str(labels.dtype)[6:]} targets {tuple(labels.shape)}, not a class from 0 a sample")
        shapes.add(tuple(inputs.shape[1:]))
        largest = max(largest, int(labels.max()))
    if len(shapes) != 1:
        raise DataError(where, f"holds inputs of shapes {sorted(shapes)}" if shapes else "holds no batches")
    return shapes.pop(), largest
