"""Images that torchvision reads, and fetches where they are not there yet."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

from neurodeploy.errors import DataError
from neurodeploy.training.data.batches import Batches, DataSplit, Intensities
from neurodeploy.training.data.catalogue import DataSet


def load_pictures(of: DataSet, folder: Path, batch_size: int) -> DataSplit:
    """Images (channels, height, width) of a data set whose files lie in `folder` as torchvision lays them.

    Raises
    ------
    DataError
        Files that are not there and cannot be fetched, or damaged ones.
    """
    halves = [_half(_read(of, folder, train=train), batch_size) for train in (True, False)]
    return DataSplit(train=halves[0], test=halves[1], input_shape=of.input_shape, n_classes=of.n_classes)


def _read(of: DataSet, folder: Path, *, train: bool) -> Any:
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
