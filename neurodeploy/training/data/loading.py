"""Which data set is meant, and where its files are."""

from __future__ import annotations

import os
from pathlib import Path

from neurodeploy.errors import DataError
from neurodeploy.training.data.batches import DataSplit
from neurodeploy.training.data.catalogue import CATALOGUE
from neurodeploy.training.data.digits import load_digits
from neurodeploy.training.data.factory import load_from_factory
from neurodeploy.training.data.npz import load_npz
from neurodeploy.training.data.pictures import load_pictures

SPECS = f"{', '.join(CATALOGUE)}, mnist:FILE.npz, or FILE.py:FACTORY"


def load_data(spec: str, *, batch_size: int | None = None, folder: str | Path | None = None) -> DataSplit:
    """Load a data set by name.

    Parameters
    ----------
    spec : str
        ``digits``: scikit-learn's 1,797 digits of 8 x 8 pixels, the first, fifth, ninth ... of a class held out for testing.
        ``mnist``, ``fashion-mnist``, ``cifar10``: from torchvision, downloaded once into `folder`.
        ``mnist:FILE.npz``: a file with x_train, y_train, x_test, y_test, bytes (n, 28, 28) and (n,).
        ``FILE.py:FACTORY`` or ``package.module:FACTORY``: what that function returns, (train, test), each an
        iterable of (input, target) batches. Images of all others come as intensities in 0..1, (channels, height, width).
    batch_size : int, optional
        64 for digits and 256 for others by default; a factory makes its own batches.
    folder : path, optional
        Where files are, as torchvision lays them; a folder of the user's cache by default.

    Raises
    ------
    DataError
        An unknown name, files that are missing or not what they should be, a factory that returns something else.
    RequestError
        A factory that is not there, or that fails.
    """
    name, _, rest = spec.partition(":")
    if spec in CATALOGUE:
        of = CATALOGUE[spec]
        if of.reader == "scikit-learn":
            return load_digits(batch_size or of.batch_size)
        return load_pictures(of, _cache() if folder is None else Path(folder), batch_size or of.batch_size)
    if name == "mnist" and rest:
        return load_npz(Path(rest), batch_size or CATALOGUE["mnist"].batch_size)
    if rest and spec.rpartition(":")[2].isidentifier():
        return load_from_factory(spec)
    raise DataError(spec, "is no data set", remedy=f"Give {SPECS}.")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "neurodeploy"
