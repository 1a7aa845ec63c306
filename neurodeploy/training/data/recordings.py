"""Event recordings, read with tonic and binned into frames of 0 and 1."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError
from neurodeploy.training.data.batches import Batches, DataSplit

if TYPE_CHECKING:
    from neurodeploy.training.data.loading import DataSet  # `loading` imports this module


def frames(events: NDArray[Any], sensor: tuple[int, ...], n_steps: int, merge: int = 1) -> NDArray[np.uint8]:
    """Bin events into steps of equal length: 1 where a pixel had any in that step.

    The frames of tonic's ``ToFrame(sensor_size, n_time_bins=n_steps)``, more than 0: a step is a whole number of the recording's
    ticks, so events in the last ticks, fewer than `n_steps`, are in no frame.

    Parameters
    ----------
    events : structured array (n,)
        Fields t, in ticks and rising, and x; y and p where the sensor has them.
    sensor : tuple of int
        (polarities, height, width), or (width,).
    n_steps : int
    merge : int
        Pixels along each side that make one; sides are multiples of it.

    Returns
    -------
    array (n_steps, \\*shape), uint8
        Zeros and ones; the shape is the sensor's as `merged` has it.

    Raises
    ------
    DataError
        Events outside the sensor.
    """
    made = np.zeros((n_steps, *merged(sensor, merge)), dtype=np.uint8)
    if len(events) == 0:
        return made
    places = []
    for axis, size in zip("pyx"[-len(sensor) :], sensor, strict=True):
        place = events[axis].astype(np.int64)
        if place.min() < 0 or place.max() >= size:
            raise DataError("events", f"have {axis} in {place.min()}..{place.max()}, outside 0..{size - 1}")
        places.append(place if axis == "p" else place // merge)
    times = events["t"].astype(np.int64)
    # whole ticks, as tonic's ToFrame cuts
    step = (times[-1] - times[0]) // n_steps
    bounds = np.searchsorted(times, times[0] + step * np.arange(n_steps + 1))
    for frame, (start, end) in zip(made, pairwise(bounds), strict=True):
        frame[tuple(place[start:end] for place in places)] = 1
    return made


def merged(sensor: tuple[int, ...], merge: int) -> tuple[int, ...]:
    """Shape of a sensor with `merge` pixels along each side made one; polarities stay apart."""
    return (*sensor[:-2], *(side // merge for side in sensor[-2:]))


_TRAIN_SHARE = 0.9
_EXTRA = "'tonic>=1.6,<2' 'aedat>=2'"


class Recordings:
    """Recordings as spikes in time, float32 (n, n_steps, \\*shape), read from their files on first use.

    They are then kept in memory, one bit per pixel and step.
    """

    def __init__(self, of: DataSet, read: Any, which: Sequence[int], n_steps: int, merge: int) -> None:
        self._of, self._read, self._which, self._n_steps, self._merge = of, read, which, n_steps, merge
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def __len__(self) -> int:
        return len(self._which)

    def __getitem__(self, which: torch.Tensor) -> torch.Tensor:
        shape = (len(which), self._n_steps, *merged(self._of.input_shape, self._merge))
        # numbers within this half, then within the files
        bits = [self._bits(self._which[k]) for k in which.tolist()]
        size = int(np.prod(shape[1:]))
        unpacked = np.unpackbits(np.stack(bits), axis=1, count=size) if bits else np.zeros(0, dtype=np.uint8)
        return torch.from_numpy(unpacked.reshape(shape)).to(torch.float32)

    def _bits(self, k: int) -> NDArray[np.uint8]:
        if k not in self._kept:
            try:
                events = self._read[k][0]
            except Exception as error:  # file readers raise almost anything on invalid input
                reason = " ".join(str(error).split())[:120]
                raise DataError(self._of.name, f"recording {k} cannot be read ({type(error).__name__}: {reason})") from error
            # a bit per pixel and step, an eighth of the bytes
            self._kept[k] = np.packbits(frames(events, self._of.input_shape, self._n_steps, self._merge))
        return self._kept[k]


def load_recordings(of: DataSet, folder: Path, batch_size: int, n_steps: int, merge: int = 1) -> DataSplit:
    """Load spikes (n_steps, \\*shape) of a data set with tonic, from its files in `folder`, in the order of their names.

    The shape is the sensor's, or smaller where pixels are merged; see `frames`.
    Where a set is published in one half, the first nine tenths of each class are the training data.

    Raises
    ------
    DataError
        A package is missing; files are missing and cannot be downloaded, or damaged.
    """
    made = []
    for read, which in _halves(of, folder):
        if read.targets:
            labels = np.asarray(read.targets, dtype=np.int64)
        else:
            with h5py.File(Path(read.location_on_system) / read.data_filename) as file:  # tonic opens it for each label
                labels = np.asarray(file["labels"], dtype=np.int64)
        inputs, targets = Recordings(of, read, which, n_steps, merge), torch.as_tensor(labels)[which]
        made.append(Batches(inputs, targets, batch_size))
    shape = (n_steps, *merged(of.input_shape, merge))
    return DataSplit(train=made[0], test=made[1], input_shape=shape, n_classes=of.n_classes)


def _halves(of: DataSet, folder: Path) -> list[tuple[Any, list[int]]]:
    """Open the reader of each half, with the numbers of its recordings."""

    def by_file_name(read: Any) -> list[int]:
        # tonic has some in the order of the file system, which differs between machines
        return sorted(range(len(read)), key=read.data.__getitem__) if read.data else list(range(len(read)))

    if not of.has_one_half:
        return [(half, by_file_name(half)) for half in (_open(of, folder, train=True), _open(of, folder, train=False))]
    whole = _open(of, folder)
    train: list[int] = []
    test: list[int] = []
    for label in range(of.n_classes):
        of_class = [k for k in by_file_name(whole) if whole.targets[k] == label]
        n_train = int(_TRAIN_SHARE * len(of_class))
        train, test = train + of_class[:n_train], test + of_class[n_train:]
    return [(whole, train), (whole, test)]


def _open(of: DataSet, folder: Path, **half: bool) -> Any:
    missing = [name for name in of.packages if find_spec(name) is None]
    if missing:
        raise DataError(of.name, f"is read by {' and '.join(missing)}, not installed here", remedy=f"uv pip install {_EXTRA}")
    from tonic import datasets  # seconds to import, and GPL-3: only for these data sets

    try:
        with redirect_stdout(sys.stderr):  # tonic prints its progress to stdout, where our results go
            return getattr(datasets, of.class_name)(save_to=str(folder), **half)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        remedy = f"Put the files that tonic's {of.class_name} reads into {folder / of.class_name}, or name the folder above."
        raise DataError(of.name, f"cannot be loaded ({reason})", remedy=remedy) from error
