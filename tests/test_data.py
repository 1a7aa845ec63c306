"""Data by name: what is loaded, and every way in which a set is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.data_loading import load_data

Arrays = dict[str, NDArray[np.generic]]


# ---------------------------------------------------------------------------------------------- digits


def test_digits_are_split_the_same_way_every_time_and_evenly() -> None:
    split, again = load_data("digits"), load_data("digits")
    assert (split.input_shape, split.n_classes) == ((1, 8, 8), 10)
    assert next(iter(split.test))[0].shape == (64, 1, 8, 8)
    train, test = (torch.cat([target for _, target in half]) for half in (split.train, split.test))
    assert len(train) + len(test) == 1797
    assert all(0.25 <= float((test == k).sum()) / float((train == k).sum() + (test == k).sum()) < 0.26 for k in range(10))
    for (inputs, target), (inputs_again, target_again) in zip(split.test, again.test, strict=True):
        assert torch.equal(inputs, inputs_again)
        assert torch.equal(target, target_again)
        assert 0 <= inputs.min() <= inputs.max() <= 1


def test_no_digit_is_both_trained_on_and_tested_on() -> None:
    train, test, _, _ = load_data("digits")
    seen = {image.numpy().tobytes() for inputs, _ in train for image in inputs}
    held_out = {image.numpy().tobytes() for inputs, _ in test for image in inputs}
    assert not seen & held_out


# ---------------------------------------------------------------------------------------------- MNIST


@pytest.fixture
def arrays() -> Arrays:
    rng = np.random.default_rng(0)
    made: Arrays = {}
    for half, n in (("train", 12), ("test", 5)):
        made |= {f"x_{half}": rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), f"y_{half}": np.arange(n, dtype=np.uint8) % 10}
    return made


def saved(arrays: Arrays, folder: Path) -> str:
    np.savez(folder / "m.npz", **arrays)  # type: ignore[arg-type]
    return f"mnist:{folder / 'm.npz'}"


def test_mnist_comes_as_images_of_intensities(arrays: Arrays, tmp_path: Path) -> None:
    train, test, input_shape, n_classes = load_data(saved(arrays, tmp_path), batch_size=4)
    assert (input_shape, n_classes) == ((1, 28, 28), 10)
    inputs, target = next(iter(train))
    assert inputs.shape == (4, 1, 28, 28)
    assert torch.allclose(inputs[:, 0] * 255, torch.from_numpy(arrays["x_train"][:4]).float())
    assert target.tolist() == [0, 1, 2, 3]
    assert sum(len(target) for _, target in test) == 5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("x_train", np.zeros((12, 28, 28)), r"x_train is float64 \(12, 28, 28\), not bytes \(n, 28, 28\)"),
        ("x_test", np.zeros((5, 27, 28), dtype=np.uint8), r"x_test is uint8 \(5, 27, 28\), not bytes"),
        ("y_train", np.zeros(11, dtype=np.uint8), r"y_train is uint8 \(11,\), not whole numbers \(12,\)"),
        ("y_test", np.zeros(5), r"y_test is float64 \(5,\), not whole numbers"),
        ("y_test", np.array([0, 1, 2, 3, 10]), r"y_test holds labels 0\.\.10, not 0\.\.9"),
        ("y_test", np.array([0, 1, 2, 3, -1]), r"y_test holds labels -1\.\.3, not 0\.\.9"),
        ("y_test", np.array([None] * 5), "is not a NumPy file of numbers"),
    ],
)
def test_mnist_refuses_arrays_that_are_none(
    arrays: Arrays, tmp_path: Path, key: str, value: NDArray[np.generic], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        load_data(saved(arrays | {key: value}, tmp_path))


def test_mnist_refuses_no_images(arrays: Arrays, tmp_path: Path) -> None:
    nothing = {"x_test": np.zeros((0, 28, 28), dtype=np.uint8), "y_test": np.zeros(0, dtype=np.uint8)}
    with pytest.raises(DataError, match="x_test holds no images"):
        load_data(saved(arrays | nothing, tmp_path))


def test_mnist_refuses_a_missing_key(arrays: Arrays, tmp_path: Path) -> None:
    del arrays["y_test"]
    with pytest.raises(DataError, match=r"m\.npz: has no y_test\. It has x_train, y_train, x_test"):
        load_data(saved(arrays, tmp_path))


def test_mnist_refuses_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        load_data(f"mnist:{tmp_path / 'none.npz'}")
    text = tmp_path / "text.npz"
    text.write_text("hello")
    with pytest.raises(DataError, match=r"text\.npz: is not a NumPy file of numbers"):
        load_data(f"mnist:{text}")
    text.write_bytes(b"PK\x03\x04 not a zip file after all")
    with pytest.raises(DataError, match=r"text\.npz: is not a NumPy file of numbers"):
        load_data(f"mnist:{text}")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"one\.npy: is a single array"):
        load_data(f"mnist:{tmp_path / 'one.npy'}")


@pytest.mark.parametrize("spec", ["", "cifar", "digits:8", "MNIST", "mnist:", "folder/data.py", "data.py:", ":", "mnist2:x.npz"])
def test_an_unknown_name_is_refused(spec: str) -> None:
    with pytest.raises(DataError, match=r"is no data set\. Give digits, mnist, .*, mnist:FILE\.npz, or FILE\.py:FACTORY\."):
        load_data(spec)


# ---------------------------------------------------------------------------------------------- the user's own

GOOD = "[(torch.zeros(4, 3), torch.tensor([0, 1, 2, 1]))]"


def factory(tmp_path: Path, body: str) -> str:
    path = tmp_path / "own.py"
    path.write_text(f"import torch\n\n{body}\n")
    return f"{path}:make"


def test_a_factory_gives_its_own_batches(tmp_path: Path) -> None:
    train, test, input_shape, n_classes = load_data(factory(tmp_path, f"def make():\n    return {GOOD}, {GOOD} * 2"))
    assert (input_shape, n_classes) == ((3,), 3)
    assert len(list(train)) == 1
    assert len(list(test)) == 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def make():\n    return None", r"returned NoneType, not a pair \(train, test\)"),
        (f"def make():\n    return {GOOD}, 3", r"own\.py:make, test: is int, not an iterable"),
        (f"def make():\n    return iter({GOOD}), {GOOD}", "train: can be read only once"),
        (f"def make():\n    return [], {GOOD}", "train: holds no batches"),
        (f"def make():\n    return {GOOD}, [1]", r"test: gave int, not a pair \(input, target\)"),
        (f"def make():\n    return {GOOD}, [('a', 'b')]", r"test: gave \('a', 'b'\), which are not tensors"),
        (f"def make():\n    return {GOOD}, [(torch.zeros(2, 3), torch.zeros(2))]", r"test, targets: are float32 of shape \(2,\)"),
        (f"def make():\n    return {GOOD}, [(torch.zeros(2, 3), torch.tensor([0]))]", "test, targets: are 1 for 2 inputs"),
        (
            f"def make():\n    return {GOOD}, [(torch.zeros(5, 2, 3), torch.tensor([0, 1]))]",
            r"test: gave inputs \(5, 2, 3\) and targets \(2,\): samples come second\. .* inputs\.movedim\(0, 1\)\.",
        ),
        (
            f"def make():\n    return {GOOD}, {GOOD} + [(torch.zeros(2, 3), torch.tensor([0, -2]))]",
            "label -2 of sample 5 is below 0",
        ),
        (f"def make():\n    return {GOOD}, [(torch.zeros(0, 3), torch.zeros(0).long())]", "test: gave a batch without samples"),
        (f"def make():\n    return {GOOD}, [(torch.zeros(1, 2), torch.tensor([0]))]", r"train holds inputs \(3,\), test \(2,\)"),
        (f"def make():\n    return {GOOD} + [(torch.zeros(1, 2), torch.tensor([0]))], {GOOD}", "train: holds inputs of shapes"),
    ],
)
def test_a_factory_is_refused_by_what_is_wrong_with_it(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(factory(tmp_path, body))


@pytest.mark.parametrize("given", ["labels.double()", "labels[:, None]", "one_hot", "one_hot.double()", "one_hot.bool()"])
def test_labels_in_other_forms_are_refused_with_what_makes_them_classes(tmp_path: Path, given: str) -> None:
    body = (
        "def make():\n    labels = torch.tensor([0, 2, 1, 1])\n    one_hot = torch.eye(3)[labels].long()\n"
        "    batches = [(torch.zeros(4, 3), {})]\n    return batches, batches"
    )
    with pytest.raises(
        DataError, match=r"train, targets: are .*, not whole numbers \(batch,\)\. Give classes as int64"
    ) as refused:
        load_data(factory(tmp_path, body.format(given)))
    assert ("argmax over the last axis" in str(refused.value)) == ("one_hot" in given)
    remedy = re.search(r"targets(\.[\w.()-]+\))\.$", str(refused.value))
    assert remedy
    (batch,) = load_data(factory(tmp_path, body.format(f"({given}){remedy[1]}"))).train
    assert batch[1].tolist() == [0, 2, 1, 1]


def test_a_factory_that_is_missing_or_fails_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"none\.py:make: no file"):
        load_data(f"{tmp_path / 'none.py'}:make")
    with pytest.raises(RequestError, match=r"own\.py:make: raised ZeroDivisionError: division by zero"):
        load_data(factory(tmp_path, "def make():\n    1 / 0"))
