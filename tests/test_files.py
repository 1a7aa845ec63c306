"""Files are written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from neurodeploy.ir.files import replacing, write_text


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


def test_a_file_is_readable_to_whom_the_umask_lets_read(tmp_path: Path) -> None:
    with replacing(tmp_path / "weights") as scratch:
        scratch.unlink()
        scratch.touch(mode=0o600)  # as a library that writes for the owner alone
    (tmp_path / "plain").touch()
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode
