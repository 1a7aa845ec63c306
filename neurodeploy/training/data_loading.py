"""Data sets by name: scikit-learn's digits, torchvision's images, tonic's recordings, MNIST in an .npz file, user factories.

Event recordings are read with tonic and binned into frames of 0 and 1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError, check_arguments, said_by, unsupported_kind
from neurodeploy.frontends import call_factory
from neurodeploy.ir.arrays import load_numpy
from neurodeploy.training.batches import Batches, DataSplit, Intensities
from neurodeploy.training.distributed import data_fingerprint
from neurodeploy.training.encoders import check_labels
from neurodeploy.training.forward import batches_of


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A published data set.

    Attributes
    ----------
    name : str
    input_shape : tuple of int
        (channels, height, width) of an image; (polarities, height, width) or (channels,) of a step of a recording.
    n_classes, n_train, n_test : int
    reader : str
        Library that reads its files.
    class_name : str
        Its name in that library.
    batch_size : int
        Default.
    has_one_half : bool
        Whether it is published as one set; a part of it is then the test set.
    packages : tuple of str
        Optional packages that read it.
    source : str
        Authors.
    """

    name: str
    input_shape: tuple[int, ...]
    n_classes: int = 10
    n_train: int
    n_test: int
    reader: Literal["scikit-learn", "torchvision", "tonic"]
    class_name: str
    batch_size: int = 256
    has_one_half: bool = False
    packages: tuple[str, ...] = ()
    source: str


CATALOGUE = {one.name: one for one in (
    DataSet(
        name="digits", input_shape=(1, 8, 8), n_train=1343, n_test=454, reader="scikit-learn", class_name="load_digits",
        batch_size=64, source="Alpaydin 1998, Optical Recognition of Handwritten Digits, UCI: its test set, split anew",
    ),
    DataSet(
        name="mnist", input_shape=(1, 28, 28), n_train=60_000, n_test=10_000, reader="torchvision", class_name="MNIST",
        source="LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition",
    ),
    DataSet(
        name="fashion-mnist", input_shape=(1, 28, 28), n_train=60_000, n_test=10_000, reader="torchvision",
        class_name="FashionMNIST", source="Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747",
    ),
    DataSet(
        name="cifar10", input_shape=(3, 32, 32), n_train=50_000, n_test=10_000, reader="torchvision", class_name="CIFAR10",
        source="Krizhevsky 2009, Learning multiple layers of features from tiny images",
    ),
    DataSet(
        name="n-mnist", input_shape=(2, 34, 34), n_train=60_000, n_test=10_000, reader="tonic", class_name="NMNIST",
        packages=("tonic",), source="Orchard, Jayawant, Cohen and Thakor 2015, Frontiers in Neuroscience 9:437",
    ),
    DataSet(
        name="dvs-gesture", input_shape=(2, 128, 128), n_classes=11, n_train=1077, n_test=264, reader="tonic",
        class_name="DVSGesture", batch_size=16, packages=("tonic",),
        source="Amir et al. 2017, CVPR, pages 7243-7252; cut into gestures by tonic's authors",
    ),
    DataSet(
        name="cifar10-dvs", input_shape=(2, 128, 128), n_train=9000, n_test=1000, reader="tonic", class_name="CIFAR10DVS",
        batch_size=16, has_one_half=True, packages=("tonic", "aedat"),
        source="Li, Liu, Ji, Li and Shi 2017, Frontiers in Neuroscience 11:309",
    ),
    DataSet(
        name="shd", input_shape=(700,), n_classes=20, n_train=8156, n_test=2264, reader="tonic", class_name="SHD",
        packages=("tonic",),
        source="Cramer, Stradmann, Schemmel and Zenke 2020, IEEE Transactions on Neural Networks and Learning Systems",
    ),
)}  # fmt: skip
"""Data sets by name."""

_TEST_EVERY = 4
"""Of scikit-learn's digits, every fourth sample of a class is in the test set."""


def load_digits(batch_size: int) -> DataSplit:
    """Load 1,797 digits (1, 8, 8) of 17 grey levels; the first, fifth, ninth ... of a class are the test set."""
    from sklearn.datasets import load_digits as load  # takes a second to import

    digits = load()
    # grey levels are 0..16
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


def load_pictures(of: DataSet, folder: Path, batch_size: int) -> DataSplit:
    """Load images (channels, height, width) of a data set with torchvision, from its files in `folder`.

    Raises
    ------
    DataError
        Files are missing and cannot be downloaded, or damaged.
    """
    halves = []
    for train in (True, False):
        try:
            # in the `try`: a torchvision that cannot be imported gets the remedy below, too
            from torchvision import datasets

            with redirect_stdout(sys.stderr):  # torchvision prints its progress to stdout, where our results go
                read = getattr(datasets, of.class_name)(str(folder), train=train, download=True)
        except (ImportError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            remedy = f"Put the files that torchvision's {of.class_name} reads into {folder}, or name their folder."
            raise DataError(of.name, f"cannot be loaded ({reason})", remedy=remedy) from error
        images = torch.as_tensor(read.data)
        bytes_ = images.unsqueeze(1) if images.ndim == 3 else images.movedim(-1, 1)  # (n, rows, columns[, channels])
        halves.append(Batches(Intensities(bytes_.contiguous()), torch.as_tensor(read.targets), batch_size))
    return DataSplit(train=halves[0], test=halves[1], input_shape=of.input_shape, n_classes=of.n_classes)


NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(path: Path, batch_size: int) -> DataSplit:
    """Load images (1, 28, 28) from bytes x_train, x_test (n, 28, 28) and labels y_train, y_test (n,).

    Raises
    ------
    DataError
        The file is missing, or has other contents.
    """
    arrays, halves = _read_npz(path), []
    for half in ("train", "test"):
        images, labels = arrays[f"x_{half}"], arrays[f"y_{half}"]
        if images.dtype != np.uint8 or images.shape[1:] not in ((28, 28), (784,)):
            raise DataError(str(path), f"x_{half} is {images.dtype} {images.shape}, not bytes (n, 28, 28)")
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise DataError(str(path), f"y_{half} is {labels.dtype} {labels.shape}, not whole numbers ({len(images)},)")
        if len(labels) == 0:
            raise DataError(str(path), f"x_{half} holds no images")
        if labels.min() < 0 or labels.max() > 9:
            raise DataError(str(path), f"y_{half} holds labels {labels.min()}..{labels.max()}, not 0..9")
        bytes_ = torch.from_numpy(images.reshape(-1, 1, 28, 28))
        halves.append(Batches(Intensities(bytes_), torch.from_numpy(labels.astype(np.int64)), batch_size))
    return DataSplit(train=halves[0], test=halves[1], input_shape=(1, 28, 28), n_classes=10)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise DataError(str(path), "no such file", remedy=f"Give an .npz file with {', '.join(NPZ_KEYS)}.")
    arrays = load_numpy(path)
    if isinstance(arrays, np.ndarray):
        raise DataError(str(path), "is a single array, not an .npz file")
    missing = [key for key in NPZ_KEYS if key not in arrays]
    if missing:
        raise DataError(str(path), f"has no {', '.join(missing)}", remedy=f"It has {', '.join(arrays) or 'nothing'}.")
    return {key: arrays[key] for key in NPZ_KEYS}


def load_from_factory(spec: str) -> DataSplit:
    """Load the data that a function named by `spec` returns, and check all of it once."""
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
    # classes count from 0
    train, test = (FactoryBatches(data, f"{spec}, {half}") for half, data in zip(("train", "test"), made, strict=True))
    return DataSplit(train=train, test=test, input_shape=shapes[0], n_classes=largest + 1)


@dataclass(frozen=True, slots=True)
class FactoryBatches:
    """The batches of a factory's data; what reading them raises becomes a `DataError`.

    Attributes
    ----------
    data : iterable
        Of (input, target) batches.
    where : str
        What errors call it.
    """

    data: Any
    where: str

    @property
    def fingerprint(self) -> str | None:
        """That of the factory's data."""
        return data_fingerprint(self.data)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each batch as dense tensors."""
        try:
            yield from batches_of(self.data, self.where)
        except (DataError, KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # also `sys.exit()`, which would end the command
            raise DataError(self.where, f"raised {said_by(error)}") from error


def _survey(data: Any, where: str) -> tuple[tuple[int, ...], int]:
    """Return the shape of an input and the largest class, over all batches."""
    try:
        batches = iter(data)
    except TypeError as error:
        raise DataError(where, f"is {type(data).__name__}, not an iterable of (input, target) batches") from error
    if batches is data:
        raise DataError(where, "can be read only once", remedy="Return a list of batches, or a DataLoader.")
    shapes, largest, n_samples = set(), -1, 0
    for inputs, labels in FactoryBatches(data, where):
        if inputs.ndim > 2 and labels.ndim == 1 and len(labels) not in (0, len(inputs)) and len(labels) == inputs.shape[1]:
            what = f"gave inputs {tuple(inputs.shape)} and targets {tuple(labels.shape)}: samples come second"
            raise DataError(where, what, remedy="Samples come first, steps second: inputs.movedim(0, 1).")
        check_labels(labels, len(inputs), None, f"{where}, targets")
        if not len(labels):
            raise DataError(where, "gave a batch without samples")
        if (labels < 0).any():
            first = int((labels < 0).nonzero()[0, 0])
            raise DataError(
                f"{where}, targets", f"label {int(labels[first])} of sample {n_samples + first} is below 0",
                remedy="Classes count from 0: leave such samples out, or give them a class.",
            )  # fmt: skip
        n_samples += len(labels)
        shapes.add(tuple(inputs.shape[1:]))
        largest = max(largest, int(labels.max()))
    if len(shapes) != 1:
        raise DataError(where, f"holds inputs of shapes {sorted(shapes)}" if shapes else "holds no batches")
    return shapes.pop(), largest


SPECS = f"{', '.join(CATALOGUE)}, mnist:FILE.npz, or FILE.py:FACTORY"


@check_arguments
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
        Folder of the files, in torchvision's or tonic's layout; by default the user's cache directory.
    n_steps : int
        Steps that recordings are cut into, at least 1.

    Raises
    ------
    DataError
        An unknown name, files that are missing or have other contents, a factory that returns something else.
    RequestError
        A factory that does not exist, or that fails; no steps.
    """
    if n_steps < 1:
        raise RequestError("n_steps", f"is {n_steps}, not at least 1")
    name, _, rest = spec.partition(":")
    of = CATALOGUE.get(name)
    if of is not None and (spec == name or (rest and of.reader == "tonic")):
        size = batch_size or of.batch_size
        if folder is None:
            folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurodeploy"
        match of.reader:
            case "scikit-learn":
                return load_digits(size)
            case "torchvision":
                return load_pictures(of, Path(folder), size)
            case "tonic":
                return load_recordings(of, Path(folder), size, n_steps, _merged_pixels(of, rest) if rest else 1)
            case _:
                raise unsupported_kind(of.reader)
    if name == "mnist" and rest:
        return load_npz(Path(rest), batch_size or CATALOGUE["mnist"].batch_size)
    # the last colon: a path may hold others
    if rest and spec.rpartition(":")[2].isidentifier():
        return load_from_factory(spec)
    raise DataError(spec, "is no data set", remedy=f"Give {SPECS}.")


def _merged_pixels(of: DataSet, side: str) -> int:
    """Sensor pixels along a side that make one, for a requested `side` in pixels."""
    whole = of.input_shape[-1]
    sides = [str(whole // merge) for merge in range(1, whole + 1) if whole % merge == 0]
    if side not in sides:
        raise DataError(f"{of.name}:{side}", f"is no whole part of {whole} pixels", remedy=f"Give one of {', '.join(sides)}.")
    return whole // int(side)
