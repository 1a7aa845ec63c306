"""The data sets that are known by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A data set, as it is published.

    Attributes
    ----------
    name : str
    input_shape : tuple of int
        Of an image (channels, height, width).
    n_classes, n_train, n_test : int
    reader : str
        The library that reads its files.
    called : str
        What the library calls it.
    batch_size : int
        Unless another is asked for.
    source : str
        Who made it.
    """

    name: str
    input_shape: tuple[int, ...]
    n_classes: int = 10
    n_train: int
    n_test: int
    reader: Literal["scikit-learn", "torchvision"]
    called: str
    batch_size: int = 256
    source: str


_ALL = (
    DataSet(
        name="digits", input_shape=(1, 8, 8), n_train=1343, n_test=454, reader="scikit-learn", called="load_digits",
        batch_size=64, source="Alpaydin 1998, Optical Recognition of Handwritten Digits, UCI: its test set, split anew",
    ),
    DataSet(
        name="mnist", input_shape=(1, 28, 28), n_train=60_000, n_test=10_000, reader="torchvision", called="MNIST",
        source="LeCun, Bottou, Bengio and Haffner 1998, Gradient-based learning applied to document recognition",
    ),
    DataSet(
        name="fashion-mnist", input_shape=(1, 28, 28), n_train=60_000, n_test=10_000, reader="torchvision", called="FashionMNIST",
        source="Xiao, Rasul and Vollgraf 2017, arXiv 1708.07747",
    ),
    DataSet(
        name="cifar10", input_shape=(3, 32, 32), n_train=50_000, n_test=10_000, reader="torchvision", called="CIFAR10",
        source="Krizhevsky 2009, Learning multiple layers of features from tiny images",
    ),
)  # fmt: skip

CATALOGUE: dict[str, DataSet] = {of.name: of for of in _ALL}
