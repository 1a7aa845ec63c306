"""Scikit-learn's digits, which come with it.

Images that torchvision reads, and fetches where they are not there yet.

MNIST in one .npz file, as Keras hands it out.

Data that a function of the user's makes.

Which data set is meant, and where its files are.
"""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.frontends.factories import call_factory
from neurodeploy.training.data.batches import Batches, DataSplit, Intensities
from neurodeploy.training.data.catalogue import CATALOGUE, DataSet
from neurodeploy.training.data.recordings import load_recordings

# -------------------- training.data.digits

_TEST_EVERY = 4


def load_digits(batch_size: int) -> DataSplit:
    """1,797 digits (1, 8, 8) of 17 grey levels; the first, fifth, ninth ... of a class are held out."""
    from sklearn.datasets import load_digits as load  # a second to import, and for this data set only

    digits = load()
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(digits.target)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held_out[torch.nonzero(labels == label)[::_TEST_EVERY, 0]] = True
    return DataSplit(
        train=Batches(images[~held_out], labels[~held_out], batch_size),
        test=Batches(images[held_out], labels[held_out], batch_size),
        input_shape=tuple(images.shape[1:]),
        n_classes=10,
    )


# -------------------- training.data.pictures


def load_pictures(of: DataSet, folder: Path, batch_size: int) -> DataSplit:
    """Images (channels, height, width) of a data set whose files lie in `folder` as torchvision lays them.

    Raises
    ------
    DataError
        Files that are not there and cannot be fetched, or damaged ones.
    """
    halves = [_half(_read_pictures(of, folder, train=train), batch_size) for train in (True, False)]
    return DataSplit(train=halves[0], test=halves[1], input_shape=of.input_shape, n_classes=of.n_classes)


def _read_pictures(of: DataSet, folder: Path, *, train: bool) -> Any:
    try:
        from torchvision import datasets

        with redirect_stdout(sys.stderr):  # where news goes; torchvision prints its own among the results
            return getattr(datasets, of.called)(str(folder), train=train, download=True)
    except (ImportError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        remedy = f"Put the files that torchvision's {of.called} reads into {folder}, or name their folder."
        raise DataError(of.name, f"cannot be had ({reason})", remedy=remedy) from error


def _half(read: Any, batch_size: int) -> Batches:
    images = torch.as_tensor(read.data)
    bytes_ = images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1)  # (n, rows, columns[, channels])
    return Batches(Intensities(bytes_.contiguous()), torch.as_tensor(read.targets), batch_size)


# -------------------- training.data.npz

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(path: Path, batch_size: int) -> DataSplit:
    """Bytes x_train, x_test (n, 28, 28) and their y_train, y_test (n,), as images (1, 28, 28).

    Raises
    ------
    DataError
        A file that is missing or not what it should be.
    """
    arrays, halves = _read_npz(path), []
    for half in ("train", "test"):
        images, labels = arrays[f"x_{half}"], arrays[f"y_{half}"]
        _check(images, labels, half, str(path))
        bytes_ = torch.from_numpy(images.reshape(-1, 1, 28, 28))
        halves.append(Batches(Intensities(bytes_), torch.from_numpy(labels.astype(np.int64)), batch_size))
    return DataSplit(train=halves[0], test=halves[1], input_shape=(1, 28, 28), n_classes=10)


def _check(images: NDArray[Any], labels: NDArray[Any], half: str, where: str) -> None:
    if images.dtype != np.uint8 or images.shape[1:] not in ((28, 28), (784,)):
        raise DataError(where, f"x_{half} is {images.dtype} {images.shape}, not bytes (n, 28, 28)")
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise DataError(where, f"y_{half} is {labels.dtype} {labels.shape}, not whole numbers ({len(images)},)")
    if len(labels) == 0:
        raise DataError(where, f"x_{half} holds no images")
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(where, f"y_{half} holds labels {labels.min()}..{labels.max()}, not 0..9")


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(str(path), "no such file", remedy=f"Give an .npz file with {', '.join(KEYS)}.")
    try:
        with path.open("rb") as file:  # np.load leaves a file open that it cannot read
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, Mapping):
                raise DataError(str(path), "is a single array, not an .npz file")
            missing = [key for key in KEYS if key not in arrays]
            if missing:
                raise DataError(str(path), f"has no {', '.join(missing)}", remedy=f"It has {', '.join(arrays) or 'nothing'}.")
            return {key: arrays[key] for key in KEYS}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(str(path), f"is not an .npz file of numbers ({' '.join(str(error).split())[:120]})") from error


# -------------------- training.data.factory


def load_from_factory(spec: str) -> DataSplit:
    """What the function that `spec` names returns, looked through once."""
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


# -------------------- training.data.loading

SPECS = f"{', '.join(CATALOGUE)}, mnist:FILE.npz, or FILE.py:FACTORY"


def load_data(spec: str, *, batch_size: int | None = None, folder: str | Path | None = None, n_steps: int = 12) -> DataSplit:
    """Load a data set by name.

    Parameters
    ----------
    spec : str
        ``digits``: scikit-learn's 1,797 digits of 8 x 8 pixels, the first, fifth, ninth ... of a class held out for testing.
        ``mnist``, ``fashion-mnist``, ``cifar10``: from torchvision, downloaded once into `folder`.
        ``n-mnist``, ``dvs-gesture``, ``cifar10-dvs``, ``shd``: recordings of events, from tonic (an extra, ``events``), as spikes
        (n_steps, \\*shape); see `frames`. ``dvs-gesture:32`` has sides of 32 pixels, each of them 4 x 4 of the sensor's.
        ``mnist:FILE.npz``: a file with x_train, y_train, x_test, y_test, bytes (n, 28, 28) and (n,).
        ``FILE.py:FACTORY`` or ``package.module:FACTORY``: what that function returns, (train, test), each an
        iterable of (input, target) batches. Images come as intensities in 0..1, (channels, height, width).
    batch_size : int, optional
        By default 64 for digits, 16 for recordings of 128 x 128 pixels, 256 for others; a factory makes its own batches.
    folder : path, optional
        Where files are, as torchvision or tonic lays them; a folder of the user's cache by default.
    n_steps : int
        Steps that recordings are cut into, at least 1.

    Raises
    ------
    DataError
        An unknown name, files that are missing or not what they should be, a factory that returns something else.
    RequestError
        A factory that is not there, or that fails; no steps.
    """
    if n_steps < 1:
        raise RequestError("n_steps", f"is {n_steps}, not at least 1")
    name, _, rest = spec.partition(":")
    of = CATALOGUE.get(name)
    if of is not None and (spec == name or (rest and of.reader == "tonic")):
        return _load(of, rest, batch_size or of.batch_size, _cache() if folder is None else Path(folder), n_steps)
    if name == "mnist" and rest:
        return load_npz(Path(rest), batch_size or CATALOGUE["mnist"].batch_size)
    if rest and spec.rpartition(":")[2].isidentifier():
        return load_from_factory(spec)
    raise DataError(spec, "is no data set", remedy=f"Give {SPECS}.")


def _load(of: DataSet, side: str, batch_size: int, folder: Path, n_steps: int) -> DataSplit:
    if of.reader == "scikit-learn":
        return load_digits(batch_size)
    if of.reader == "torchvision":
        return load_pictures(of, folder, batch_size)
    return load_recordings(of, folder, batch_size, n_steps, _merge(of, side) if side else 1)


def _merge(of: DataSet, side: str) -> int:
    """How many of the sensor's pixels along a side are one, where a side has so many."""
    whole = of.input_shape[-1]
    sides = [str(whole // merge) for merge in range(1, whole + 1) if whole % merge == 0]
    if side not in sides:
        raise DataError(f"{of.name}:{side}", f"is no whole part of {whole} pixels", remedy=f"Give one of {', '.join(sides)}.")
    return whole // int(side)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurodeploy"
