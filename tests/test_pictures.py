"""Images that torchvision reads: from files as it lays them, made here, and what is said where there are none."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from neurodeploy.__main__ import main
from neurodeploy.errors import DataError
from neurodeploy.training.data_loading import CATALOGUE, load_data

RNG = np.random.default_rng(0)
HALVES = {"train": 12, "t10k": 5}


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    """The format of MNIST's files: two zeros, a type, the number of sides, the sides, the bytes."""
    path.write_bytes(struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes())


def write_images(folder: Path, called: str) -> dict[str, NDArray[np.uint8]]:
    """Small files where torchvision looks for those of MNIST's format; the images of each."""
    raw = folder / called / "raw"
    raw.mkdir(parents=True)
    images = {half: RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8) for half, n in HALVES.items()}
    for half, n in HALVES.items():
        write_idx(raw / f"{half}-images-idx3-ubyte", images[half])
        write_idx(raw / f"{half}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8) % 10)
    return images


@pytest.mark.parametrize(("name", "called"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_idx_files_are_read_from_the_folder(name: str, called: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = write_images(tmp_path, called)
    split = load_data(name, folder=tmp_path, batch_size=4)
    assert (split.input_shape, split.n_classes) == ((1, 28, 28), 10)
    inputs, target = next(iter(split.train))
    assert inputs.dtype == torch.float32
    assert torch.allclose(inputs[:, 0] * 255, torch.from_numpy(images["train"][:4]).float())
    assert target.tolist() == [0, 1, 2, 3]
    assert [len(target) for _, target in split.test] == [4, 1]
    assert not capsys.readouterr().out


def test_the_command_line_reads_from_the_folder_that_it_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, "MNIST")
    (tmp_path / "models.py").write_text(
        "from norse.torch import LICell, SequentialState\nimport torch\n\ndef narrow():\n"
        "    return SequentialState(torch.nn.Linear(64, 10, bias=False), LICell())\n"
    )
    where = ["--data", "mnist", "--data-dir", str(tmp_path), "--out", str(tmp_path / "made")]
    assert main(["compress", f"{tmp_path / 'models.py'}:narrow", "--target", "loihi2", *where]) == 2
    said = capsys.readouterr()
    assert "Dense" not in said.out  # before any training
    assert "inputs: have shape (batch, 1, 28, 28), but a step of the network takes 64 values" in " ".join(said.err.split())


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, NDArray[np.uint8]]]:
    """A folder of small files, and the images of the first and the last; torchvision is told their checksums."""
    from torchvision import datasets  # seconds: not while tests are collected

    folder, images, sums = tmp_path / datasets.CIFAR10.base_folder, {}, {}
    folder.mkdir()
    contents = {f"data_batch_{k}": {"data": None, "labels": [k, 9]} for k in range(1, 6)} | {
        "test_batch": {"data": None, "labels": [0, 3]}, "batches.meta": {"label_names": list("abcdefghij")},
    }  # fmt: skip
    for name, content in contents.items():
        if "data" in content:
            images[name] = RNG.integers(0, 256, (2, 3072), dtype=np.uint8)
            content["data"] = images[name]
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[f"data_batch_{k}", sums[f"data_batch_{k}"]] for k in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", datasets.CIFAR10.meta | {"md5": sums["batches.meta"]})
    return tmp_path, images


def test_cifar_is_read_with_channels_first_and_without_a_word_among_results(
    cifar: tuple[Path, dict[str, NDArray[np.uint8]]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, images = cifar
    split = load_data("cifar10", folder=folder)
    assert (split.input_shape, split.n_classes) == ((3, 32, 32), 10)
    inputs, target = next(iter(split.train))
    assert target.tolist() == [1, 9, 2, 9, 3, 9, 4, 9, 5, 9]
    assert torch.allclose(inputs[-1] * 255, torch.from_numpy(images["data_batch_5"][1].reshape(3, 32, 32)).float())
    (inputs, target), *_ = split.test
    assert inputs.shape == (2, 3, 32, 32)
    assert target.tolist() == [0, 3]
    assert not capsys.readouterr().out  # torchvision 0.18 prints that it has verified the files


@pytest.mark.parametrize("name", [name for name, of in CATALOGUE.items() if of.reader == "torchvision"])
def test_what_is_not_there_and_cannot_be_fetched_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no way out")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    kind = CATALOGUE[name].class_name
    message = (
        rf"{name}: cannot be loaded \(.+\)\. Put the files that torchvision's {kind} reads into .*data, or name their folder"
    )
    with pytest.raises(DataError, match=message):
        load_data(name, folder=tmp_path / "data")


def test_files_are_looked_for_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no way out")))
    with pytest.raises(DataError, match=f"into {tmp_path / 'neurodeploy'}"):
        load_data("mnist")


def test_the_catalogue_says_how_many_digits_there_are() -> None:
    split, of = load_data("digits"), CATALOGUE["digits"]
    assert [sum(len(target) for _, target in half) for half in (split.train, split.test)] == [of.n_train, of.n_test]
    assert split.input_shape == of.input_shape
