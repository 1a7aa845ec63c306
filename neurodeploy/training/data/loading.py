"""Which data set is meant, and where its files are."""

from __future__ import annotations

import os
from pathlib import Path

from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.data.batches import DataSplit
from neurodeploy.training.data.catalogue import CATALOGUE, DataSet
from neurodeploy.training.data.digits import load_digits
from neurodeploy.training.data.factory import load_from_factory
from neurodeploy.training.data.npz import load_npz
from neurodeploy.training.data.pictures import load_pictures
from neurodeploy.training.data.recordings import load_recordings

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
