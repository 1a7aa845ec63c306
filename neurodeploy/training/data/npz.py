"""MNIST in one .npz file, as Keras hands it out."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError
from neurodeploy.training.data.batches import Batches, DataSplit, Intensities

KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(path: Path, batch_size: int) -> DataSplit:
    """Bytes x_train, x_test (n, 28, 28) and their y_train, y_test (n,), as images (1, 28, 28).

    Raises
    ------
    DataError
        A file that is missing or not what it should be.
    """
    arrays, halves = _read(path), []
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


def _read(path: Path) -> dict[str, NDArray[Any]]:
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
