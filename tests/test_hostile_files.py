"""Files from elsewhere: damaged, too large for what they are, or reaching beyond themselves. Each is refused in one line."""

from __future__ import annotations

import errno
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from benchmarks.hostile import HEADERS, MADE, WEIGHTS, bomb, made, repack, with_header, write_chain
from neurodeploy.__main__ import main
from neurodeploy.errors import DataError
from neurodeploy.ir.files import load_numpy, replacing
from neurodeploy.training.checkpoint import load_weights, read_torch_file


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("suffix", [".net", ".nir"])
def test_hdf5_that_reaches_beyond_itself_is_refused(
    kind: str, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    path = tmp_path / f"chain{suffix}"
    made(kind, path)
    assert main(["inspect", str(path), "--target", "loihi2"]) == 2
    told = capsys.readouterr().err
    assert MADE[kind][1] in " ".join(told.split())
    assert "Traceback" not in told


def test_packed_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "chain.net"
    write_chain(path)
    with h5py.File(path, "a") as file:
        del file["layer/1/weight"]
        file.create_dataset("layer/1/weight", data=np.ones((4, 10), np.int32), compression="gzip", shuffle=True, fletcher32=True)
    assert main(["inspect", str(path), "--target", "loihi2"]) == 0


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_numpy_files_that_cannot_be_read_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "spikes.npy"
    with_header(HEADERS[kind], path)
    with pytest.raises(DataError, match="is not a NumPy file of numbers"):
        load_numpy(path)


def test_archives_that_unpack_to_far_more_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    bomb(path)
    with pytest.raises(DataError, match=r"declares 0\.3 GB of data in a file of"):
        load_numpy(path)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez_compressed(path, x=np.arange(1000), y=np.arange(10))
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            load_numpy(path)
        except DataError:
            continue


@pytest.mark.parametrize("array", [np.zeros((0, 3)), np.float32(2.0), np.arange(6).reshape(2, 3).T])
def test_arrays_of_any_shape_are_read(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", array)
    found = load_numpy(tmp_path / "a.npy")
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["m.py:net", "--target", "loihi1", "--connectivity", "nan"], "'nan' is not a number"),
        (["x" * 5000, "--target", "loihi1"], "x…x"),
        (["m.py:" + "x" * 5000, "--target", "loihi1"], "no file m.py"),
        (["m\n\x1b[31m.net", "--target", "loihi1"], r"m\n\x1b[31m.net: does not exist"),
        (["no\n.py:net", "--target", "loihi1"], r"no\n.py"),
    ],
)
def test_errors_quote_what_was_typed_in_one_short_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main(["inspect", *arguments]) == 2
    line = capsys.readouterr().err
    assert told in line
    assert line.count("\n") == 1
    assert len(line) < 800


def test_an_empty_output_path_is_not_the_current_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "m.py:net", "--target", "loihi1", "--data", "digits", "--out", ""]) == 2
    assert "the path is empty" in capsys.readouterr().err


def test_too_many_steps_end_in_a_line_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\nfrom norse.torch import LICell, SequentialState\n"
        "def net(): return SequentialState(torch.nn.Linear(64, 10, bias=False), LICell()), torch.zeros(1, 64)\n"
    )
    told = [f"{tmp_path / 'm.py'}:net", "--target", "loihi1", "--data", "digits", "--steps", str(10**14)]
    assert main(["compress", *told, "--out", str(tmp_path / "out")]) == 2
    assert "Not enough memory" in capsys.readouterr().err


def test_a_full_disk_names_the_file_that_was_to_be_written(tmp_path: Path) -> None:
    def fill() -> None:
        with replacing(tmp_path / "model.net"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left") as raised:
        fill()
    assert raised.value.filename == str(tmp_path / "model.net")


def test_weights_are_read_without_torch_load_and_no_code_of_theirs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    model, path = torch.nn.Linear(2, 3), tmp_path / "w.pt"
    torch.save(model.state_dict(), path)
    other = torch.nn.Linear(2, 3)
    load_weights(other, path)
    assert torch.equal(other.weight, model.weight)

    reasons = {
        "scripted": "it is a scripted module", "attack": r"it holds (pathlib|__builtin__|builtins)\.",
        "old": "it is not in the format", "module": r"it holds torch\.nn\.modules\.linear\.Linear",
        "short": "its storage 0 holds 5 numbers",
        "big": "its numbers have their most significant byte first", "tar": "it is not in the format",
    }  # fmt: skip
    assert reasons.keys() == WEIGHTS.keys()
    for name, reason in reasons.items():
        WEIGHTS[name](tmp_path / f"{name}.pt")
        with pytest.raises(DataError, match=rf"{name}\.pt: is not a file of weights \(({reason}).*Save the weights alone"):
            load_weights(other, tmp_path / f"{name}.pt")
    assert not (tmp_path / "touched").exists()


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.arange(6.0).view(2, 3)}, path)

    def longer(name: str, data: bytes) -> bytes:
        return data.replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86") if name.endswith("data.pkl") else data

    repack(path, tmp_path / "longer.pt", longer)
    with pytest.raises(ValueError, match=r"a tensor \(9, 3\) reaches beyond its storage"):
        read_torch_file(tmp_path / "longer.pt")
