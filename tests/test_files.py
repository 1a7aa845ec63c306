"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.errors import DataError, RequestError
from neurodeploy.ir.files import REPORT, output_folder, replacing, write_text
from neurodeploy.simulation.kernels import compiled


def test_a_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("old")
    write_text(tmp_path / "report.txt", "new")
    assert (tmp_path / "report.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["report.txt"]


def test_a_failure_on_the_way_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("old")

    def half_way() -> None:
        with replacing(tmp_path / "report.txt") as scratch:
            scratch.write_text("half of the n")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        half_way()
    assert (tmp_path / "report.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.txt"]


def test_what_a_killed_process_left_half_written_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = (f".a[1].txt.{os.getppid()}.part", f".b.txt.{dead.pid}.part", ".a[1].txt.mine.part")
    for name in (*names, f".a[1].txt.{dead.pid}.part", f".a[1].txt.{10**30}.part"):
        (tmp_path / name).touch()
    write_text(tmp_path / "a[1].txt", "new")
    assert {path.name for path in tmp_path.iterdir()} == {"a[1].txt", *names}


def test_names_and_paths_may_be_as_long_as_the_disk_takes_them(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".txt")
    for text in ("old", "new"):
        write_text(path, text)
    assert listing(tmp_path) == {path.name: "new"}
    deep = tmp_path / ("a/" * 1500)
    with output_folder(deep) as folder:
        (folder.staging / "b").touch()
    (deep / "b").unlink()
    for each in (deep, *deep.parents)[:1500]:  # pytest's own way of deleting them calls itself for each
        each.rmdir()


def test_a_file_is_readable_to_whom_the_umask_lets_read(tmp_path: Path) -> None:
    with replacing(tmp_path / "weights") as scratch:
        scratch.unlink()
        scratch.touch(mode=0o600)  # as a library that writes for the owner alone
    (tmp_path / "plain").touch()
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_no_regular_file_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(RequestError, match="is not a regular file, and would be replaced"):
        write_text(pipe, "text")
    assert pipe.is_fifo()


def network() -> nd.QuantizedNetwork:
    one = nd.Network(
        input_shape=(2,), timestep_s=1e-3,
        layers=(nd.Layer(
            name="out", shape=(2,), bias=np.array(0.0),
            connections=(nd.Connection(source=nd.INPUT, synapse=nd.Dense(weight=np.eye(2))),),
            neuron=nd.LI(current_decay=np.array(0.5), voltage_decay=np.array(0.5), rest=np.array(0.0)),
        ),),
    )  # fmt: skip
    return nd.quantize(one, nd.load_profile("tiny"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a network, spikes and a data set, where commands run."""
    nd.write_netx(network(), tmp_path / "model.net")
    np.save(tmp_path / "spikes.npy", np.ones((1, 2, 3), dtype=np.uint8))
    (tmp_path / "record.npz").touch()
    (tmp_path / "data.py").write_text("import torch\ndef two(): return 2 * ([(torch.ones(4, 2), torch.arange(4) % 2)],)\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SIMULATE = ["simulate", "model.net", "--input", "spikes.npy", "--out"]
EXPORT = ["export", "model.net", "--to"]
DEPLOY = ["deploy", "model.net", "--target", "tiny", "--out"]
COMPARE = ["compare", "model.net", "--targets", "tiny", "--out"]
COMPRESS = ["compress", "model.net", "--target", "tiny", "--data", "digits", "--out"]


def test_a_command_does_not_write_over_its_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    (here / "folder").symlink_to(here)
    for command in (
        [*SIMULATE, "model.net"], [*SIMULATE, "folder/spikes.npy"], [*EXPORT, "model.net"], [*DEPLOY, "."], [*COMPRESS, "folder"],
        ["compress", "model.net", "--target", "tiny", "--data", "mnist:record.npz", "--out", "."],
    ):  # fmt: skip
        assert main(command) == 2, command
        assert "is an input of this command, and would be replaced" in capsys.readouterr().err
    (here / "folder").unlink()
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_what_no_run_wrote_is_not_replaced(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report of somebody else's in the folder was lost without a word; `demo` looked at nothing."""
    (here / "profile.yaml").write_text("name: mine\ndescription: A toy.\nextends: loihi2\n")
    (here / "child.yaml").write_text("name: mine\ndescription: A toy.\nextends: profile\n")
    for name in ("report.html", "report.json", "report.txt", "weights.safetensors", "compare.html"):
        (here / name.partition(".")[0]).mkdir(exist_ok=True)
        (here / name.partition(".")[0] / name).write_text('{"versions": {"mine": "1"}}')
    np.savez(here / "mine.npz", spikes_of_mine=np.ones(3))
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    for path, command in {
        "report/report.": [*DEPLOY, "report"], "weights/weights.safetensors": [*COMPRESS, "weights"],
        "report/report": ["demo", "--out", "report"], "compare/compare.html": [*COMPARE, "compare"],
        "mine.npz": [*SIMULATE, "mine.npz"], "profile.yaml": [*SIMULATE, "profile.yaml", "--target", "child.yaml"],
        "data.py": [*EXPORT, "data.py"],
    }.items():  # fmt: skip
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert path in said
        assert "was not written by neurodeploy, and would be replaced" in said
        assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_what_a_run_wrote_is_replaced(here: Path) -> None:
    for _ in range(2):
        for command in ([*DEPLOY, "run"], [*COMPARE, "page"], [*SIMULATE, "r.npz"], [*EXPORT, "a.net"], [*EXPORT, "a.nir"]):
            assert main(command) == 0, command
    for path in (here / "run").iterdir():  # a killed run had moved one of its files
        if path.name != "model.net":
            path.unlink()
    (here / "run/.unfinished").mkdir()
    assert main([*DEPLOY, "run"]) == 0


def test_nothing_but_files_is_replaced_and_only_a_folder_is_written_into(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "thesis.net").write_text("mine")
    for link, leads_to in (("link.net", "thesis.net"), ("dangling.net", "nowhere"), ("loop.net", "loop.net")):
        (here / link).symlink_to(leads_to)
    os.mkfifo(here / "fifo.net")
    for name in ("made", "made/report.html"):
        (here / name).mkdir()
    (here / "linked").mkdir()
    (here / "linked/model.net").symlink_to("../thesis.net")
    (here / "pipe").mkdir()
    os.mkfifo(here / "pipe/checkpoint-dense.safetensors")
    before = sorted(here.rglob("*"))
    told = {
        "link.net: is a symbolic link, and would be replaced. It leads to thesis.net": [*EXPORT, "link.net"],
        "dangling.net: is a symbolic link": [*EXPORT, "dangling.net"],
        "loop.net: is a symbolic link": [*EXPORT, "loop.net"],
        "fifo.net: is not a regular file, and would be replaced": [*EXPORT, "fifo.net"],
        "/dev/null: is not a regular file": [*SIMULATE, "/dev/null"],
        "made: is not a regular file": [*SIMULATE, "made"],
        "dangling.net: is no folder to write to": [*DEPLOY, "dangling.net"],
        "thesis.net: is no folder to write to": [*DEPLOY, "thesis.net"],
        "thesis.net/a: is no folder to write to": [*DEPLOY, "thesis.net/a"],
        "/dev/null: is no folder to write to": [*DEPLOY, "/dev/null"],
        "/proc/none/a: is no folder to write to": [*DEPLOY, "/proc/none/a"],
        "made/report.html: is not a regular file, and would be replaced": [*DEPLOY, "made"],
        "linked/model.net: is a symbolic link": [*COMPRESS, "linked"],
        "pipe/checkpoint-dense.safetensors: is not a regular file": [*COMPRESS, "pipe", "--resume"],
        f"{'x' * 20}": [*DEPLOY, "x" * 300],
    }
    for reason, command in told.items():
        assert main(command) == 2, command
        said = capsys.readouterr().err
        assert reason in said
        assert said.count("\n") == 1
    assert sorted(here.rglob("*")) == before
    assert (here / "thesis.net").read_text() == "mine"


def test_a_folder_may_be_a_link_and_names_need_not_be_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "real").mkdir()
    (here / "folder").symlink_to("real")
    assert main([*DEPLOY, "folder"]) == 0
    files = {"model.net", "report.html", "report.json", "report.txt"}
    assert {path.name for path in (here / "real").iterdir()} == files
    capsys.readouterr()
    name = os.fsdecode(b"m\xff")
    assert main([*DEPLOY, name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]["network"] == f"{name}/model.net"
    assert r"m\udcff/model.net" in (here / name / "report.txt").read_text()


@contextmanager
def largest_file(n_bytes: int) -> Iterator[None]:
    """No file can be larger, as on a full disk."""
    before, writes_no_bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # Python would keep the half that it can write of a module's
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        sys.dont_write_bytecode = writes_no_bytecode


@pytest.mark.parametrize(
    ("command", "n_bytes", "name"),
    [
        ([*SIMULATE, "r.npz"], 300, "r.npz"), ([*EXPORT, "a.net"], 1000, "a.net"), ([*EXPORT, "a.nir"], 1000, "a.nir"),
        ([*DEPLOY, "made"], 1000, "made/model.net"), ([*DEPLOY, "made"], 40_000, "made/report.html"),
        (["compress", "model.net", "--target", "tiny", "--data", "data.py:two", "--out", "made"], 1000, "made/trained.nir"),
    ],
)  # fmt: skip
def test_a_full_disk_leaves_nothing_and_the_error_names_the_file(
    command: list[str], n_bytes: int, name: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Outside of this process HDF5 printed tracebacks, and ended it with a segmentation fault."""
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    with largest_file(n_bytes):
        assert main([*command, *(["--quiet"] if "made" in command else [])]) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert name in said
    assert "File too large" in said
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


def test_compiled_loops_need_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run of an installation ended where the disk was full: Numba could not keep its machine code."""
    (tmp_path / "loops_of_a_test.py").write_text("def twice(x): return 2 * x\n")
    monkeypatch.syspath_prepend(tmp_path)
    with largest_file(10):
        assert compiled(import_module("loops_of_a_test").twice)(3) == 6


def test_a_folder_is_written_by_one_run_at_a_time_and_a_killed_one_leaves_one_hidden_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from neurodeploy.ir.files import output_folder\n"
        "with output_folder(sys.argv[1]) as folder: (folder.staging / 'a').touch(); print(flush=True); input()"
    )
    other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    with pytest.raises(RequestError, match=rf"process {other.pid} writes into this folder"), output_folder(tmp_path):
        pass
    other.kill()
    other.communicate()
    assert [path.name for path in tmp_path.iterdir()] == [".unfinished"]
    with output_folder(tmp_path) as folder:  # the lock of a killed process ends with it
        assert list(folder.staging.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def listing(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("failure", [RuntimeError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
@pytest.mark.parametrize("existing", [True, False])
def test_staged_files_appear_together_or_not_at_all(failure: BaseException, existing: bool, tmp_path: Path) -> None:
    out = tmp_path / "new/made"
    if existing:
        out.mkdir(parents=True)
        (out / "a.txt").write_text("old")
        (out / REPORT).write_text('{"versions": {"neurodeploy": "0.1.0"}}')
    before = sorted(tmp_path.rglob("*"))

    def write(fail: bool) -> None:
        with output_folder(out, str(out / "a.txt")) as folder:
            write_text(folder.staging / "a.txt", "new")
            assert not (out / "a.txt").exists() or (out / "a.txt").read_text() == "old"
            write_text(folder.staging / "b.txt", "new")
            if fail:
                raise failure

    with pytest.raises(type(failure)):
        write(True)
    assert sorted(tmp_path.rglob("*")) == before
    write(False)
    assert {name: text for name, text in listing(out).items() if name != REPORT} == {"a.txt": "new", "b.txt": "new"}


def test_files_that_cannot_all_be_moved_stay_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "b.txt", "z.txt"):
        (tmp_path / name).write_text("old")
    replace, unlink, names = Path.replace, Path.unlink, ("a.txt", "b.txt", "c.txt")

    def broken(self: Path, target: Path) -> Path:
        if target == tmp_path / "c.txt":
            raise OSError(errno.EIO, "broken", str(self))
        return replace(self, target)

    def write() -> None:
        with output_folder(tmp_path) as folder:
            for name in names:
                (folder.staging / name).write_text("new")
            folder.publish(str(tmp_path / "z.txt"))

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="broken") as raised:
        write()
    assert raised.value.filename == str(tmp_path / "c.txt")
    assert listing(tmp_path) == {"a.txt": "old", "b.txt": "old", "z.txt": "old"}
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    write()
    assert listing(tmp_path) == dict.fromkeys(names, "new")  # z.txt was of an earlier run


def test_an_error_names_the_path_where_the_file_would_have_been(tmp_path: Path) -> None:
    def write() -> None:
        with output_folder(tmp_path / "made") as folder:
            raise DataError(str(folder.staging / "model.net"), f"cannot be written ({folder.staging}/model.net: full)")

    with pytest.raises(DataError) as raised:
        write()
    net = tmp_path / "made/model.net"
    assert str(raised.value) == f"{net}: cannot be written ({net}: full)."
    assert list(tmp_path.iterdir()) == []


def test_a_hidden_folder_that_leads_elsewhere_is_not_emptied(tmp_path: Path) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    out.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (out / ".unfinished").symlink_to(mine)
    with pytest.raises(RequestError, match=r"\.unfinished: is a symbolic link"), output_folder(out):
        pass
    (out / ".unfinished").unlink()
    (out / ".unfinished").mkdir()
    (out / ".unfinished/lock").symlink_to(mine / "thesis.txt")
    with pytest.raises(RequestError, match="is no folder to write to"), output_folder(out):
        pass
    (out / ".unfinished/lock").unlink()
    (out / ".unfinished/linked").symlink_to(mine)
    with output_folder(out):
        pass
    assert listing(tmp_path) == {"mine/thesis.txt": "mine"}
