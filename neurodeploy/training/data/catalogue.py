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
        Of an image (channels, height, width), or of a recording's step (polarities, height, width) or (channels,).
    n_classes, n_train, n_test : int
    reader : str
        The library that reads its files.
    called : str
        What the library calls it.
    batch_size : int
        Unless another is asked for.
    in_one_piece : bool
        Whether it is published without a test set.
    needs : tuple of str
        Packages beside this one's own that read it.
    source : str
        Who made it.
    """

    name: str
    input_shape: tuple[int, ...]
    n_classes: int = 10
    n_train: int
    n_test: int
    reader: Literal["scikit-learn", "torchvision", "tonic"]
    called: str
    batch_size: int = 256
    in_one_piece: bool = False
    needs: tuple[str, ...] = ()
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
    DataSet(
        name="n-mnist", input_shape=(2, 34, 34), n_train=60_000, n_test=10_000, reader="tonic", called="NMNIST", needs=("tonic",),
        source="Orchard, Jayawant, Cohen and Thakor 2015, Frontiers in Neuroscience 9:437",
    ),
    DataSet(
        name="dvs-gesture", input_shape=(2, 128, 128), n_classes=11, n_train=1077, n_test=264, reader="tonic",
        called="DVSGesture", batch_size=16, needs=("tonic",),
        source="Amir et al. 2017, CVPR, pages 7243-7252; cut into gestures by tonic's authors",
    ),
    DataSet(
        name="cifar10-dvs", input_shape=(2, 128, 128), n_train=9000, n_test=1000, reader="tonic", called="CIFAR10DVS",
        batch_size=16, in_one_piece=True, needs=("tonic", "aedat"),
        source="Li, Liu, Ji, Li and Shi 2017, Frontiers in Neuroscience 11:309",
    ),
    DataSet(
        name="shd", input_shape=(700,), n_classes=20, n_train=8156, n_test=2264, reader="tonic", called="SHD", needs=("tonic",),
        source="Cramer, Stradmann, Schemmel and Zenke 2020, IEEE Transactions on Neural Networks and Learning Systems",
    ),
)  # fmt: skip

CATALOGUE: dict[str, DataSet] = {of.name: of for of in _ALL}
