"""Files from elsewhere: damaged, too large for what they are, or reaching beyond themselves. Each is refused in one line."""

from __future__ import annotations

import errno
import json
import struct
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from benchmarks.hostile import ARCHIVES, HEADERS, MADE, WEIGHTS, bomb, made, repack, with_header, write_chain
from neurodeploy.__main__ import main
from neurodeploy.errors import DataError
from neurodeploy.ir import arrays
from neurodeploy.ir.arrays import load_numpy
from neurodeploy.ir.files import replacing
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


@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives_of_what_numpy_does_not_write_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    ARCHIVES[kind](path)
    with pytest.raises(DataError, match=r"data\.npz: is not a NumPy file of numbers \(.+\)\.$"):
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


@pytest.mark.parametrize(
    ("command", "out"),
    [
        ("deploy NOWHERE --target tiny --out", "text/made"),
        ("compare NOWHERE --targets tiny --out", "text"),
        ("compress NOWHERE --target tiny --data digits --out", "text/made"),
        ("demo --out", "text/made"),
        ("simulate NOWHERE --input NOWHERE --out", "text/record.npz"),
        ("simulate NOWHERE --input NOWHERE --out", "."),
        ("export NOWHERE --to", "text/made.net"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_before_the_model_is_read(
    command: str, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("a file")
    assert main([*command.split(), out]) == 2
    assert f"{out}: is " in (said := capsys.readouterr().err), said
    assert said.endswith("Write to another path.\n"), said


@pytest.mark.parametrize("command", ["simulate NOWHERE --input NOWHERE --out", "export NOWHERE --to"])
def test_a_file_in_a_folder_that_is_missing_is_refused_before_the_model_is_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), str(tmp_path / "none/made.net")]) == 2
    assert f"made.net: is no path to write to: there is no folder {tmp_path / 'none'}." in capsys.readouterr().err


@pytest.mark.parametrize("steps", [10**6 + 1, 10**14])
def test_too_many_steps_end_in_a_line_before_training(steps: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\nfrom norse.torch import LICell, SequentialState\n"
        "def net(): return SequentialState(torch.nn.Linear(64, 10, bias=False), LICell()), torch.zeros(1, 64)\n"
    )
    told = [f"{tmp_path / 'm.py'}:net", "--target", "loihi1", "--data", "digits", "--steps", str(steps)]
    assert main(["compress", *told, "--out", str(tmp_path / "out")]) == 2
    assert f"{steps} is not in the range 1<=x<=1000000" in capsys.readouterr().err


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
        "deep key": "it holds a dictionary with a key of tuple", "deep keys": "it holds a dictionary with a key of tuple",
        "deep argument": "TypeError", "deep name": "a storage has no name",
        "long key": "it holds what torch.save does not write", "gigantic bytes": "it holds what torch.save does not write",
        "bzip2": "it is packed in a way", "lzma": "it is packed in a way", "longer": "KeyError: 0",
        "packed instructions": "its instructions are larger",
    }  # fmt: skip
    assert reasons.keys() == WEIGHTS.keys()
    for name, reason in reasons.items():
        WEIGHTS[name](tmp_path / f"{name}.pt")
        with pytest.raises(DataError, match=rf"{name}\.pt: is not a file of weights \(({reason}).*Save the weights alone"):
            load_weights(other, tmp_path / f"{name}.pt")
    assert not (tmp_path / "touched").exists()


def test_an_archive_is_unpacked_no_further_than_it_declares(tmp_path: Path) -> None:
    WEIGHTS["longer"](tmp_path / "w.pt")
    tracemalloc.start()
    with pytest.raises(ValueError, match="KeyError: 0"):
        read_torch_file(tmp_path / "w.pt")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20  # of 64 MB
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("dtype", "bits", "reason"),
    [
        ("F8_E4M3", 8, "are numbers of torch.float8_e4m3fn, which are not read"), ("F8_E8M0", 8, "float8_e8m0fnu"),
        ("F4", 4, "float4_e2m1fn_x2"), ("C64", 64, "complex64"),
    ],
)  # fmt: skip
def test_weights_in_numbers_that_no_model_has_are_refused(dtype: str, bits: int, reason: str, tmp_path: Path) -> None:
    header = json.dumps({"weight": {"dtype": dtype, "shape": [3, 2], "data_offsets": [0, 6 * bits // 8]}}).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(6 * bits // 8))
    with pytest.raises(DataError, match=reason):
        load_weights(torch.nn.Linear(2, 3, bias=False), tmp_path / "w.safetensors")


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_people_save_beside_weights_is_read(protocol: int, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    more = [None, True, 1.5, (2**40, "x" * 300), 70000]
    kept = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "more": more}
    torch.save(kept, tmp_path / "w.pt", pickle_protocol=protocol)
    found = read_torch_file(tmp_path / "w.pt")
    assert found["more"] == more
    assert torch.equal(found["model"]["weight"], model.weight)
    assert torch.equal(found["optimizer"]["state"][0]["exp_avg"], kept["optimizer"]["state"][0]["exp_avg"])


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"a": torch.arange(6.0).view(2, 3)}, path)

    def longer(name: str, data: bytes) -> bytes:
        return data.replace(b"K\x02K\x03\x86", b"K\x09K\x03\x86") if name.endswith("data.pkl") else data

    repack(path, tmp_path / "longer.pt", longer)
    with pytest.raises(ValueError, match=r"a tensor \(9, 3\) reaches beyond its storage"):
        read_torch_file(tmp_path / "longer.pt")


def test_a_file_that_memory_cannot_hold_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.nir"
    with h5py.File(path, "w") as file:
        file.create_dataset("zeros", shape=(10**6,), dtype=np.float64, chunks=(10**6,), compression="gzip", data=np.zeros(10**6))
    assert arrays.hdf5_damage(path) == ""
    monkeypatch.setattr(arrays, "available_memory", lambda: (1e7, "what ulimit -v leaves"))
    damage = arrays.hdf5_damage(path)
    assert damage == "is too large: reading it takes 0.0 GB of memory, of 0.0 (what ulimit -v leaves)"
