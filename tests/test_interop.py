"""Which tool takes what: the tables in docs/interop.md and the sentence in README.md are those of the measured rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.interop.__main__ import TOOLS, networks, rating
from benchmarks.interop.cases import INTEGERS, write_case
from benchmarks.interop.readers.comparison import agreement
from benchmarks.interop.tables import DOCS, MARK, ROOT, ROWS, in_docs, in_readme, marked
from benchmarks.placement.rows import rows


def test_the_tables_are_those_of_the_rows() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert marked(page, in_docs(rows(ROWS))) == page
    assert len(MARK.findall(page)) == 1
    assert in_readme(rows(ROWS)) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_tool_was_tried_on_every_network_in_the_version_that_its_reader_names() -> None:
    tried = {(row["tool"], row["version"], row["file"], row["written_for"], row["net"]) for row in rows(ROWS)}
    asked = {
        (tool.name, tool.version(), f".{tool.file.partition('.')[2]}", tool.written_for, net)
        for tool in TOOLS
        for net in networks(tool.file)
    }
    assert tried == asked
    assert len(rows(ROWS)) == len(asked)


@pytest.mark.parametrize(
    ("late", "lost", "expected"), [(0, 0, "exact"), (2, 0, "exact"), (0, 3, "approximate"), (1, 30, "no"), (0, 36, "no")]
)
def test_ratings(late: int, lost: int, expected: str) -> None:
    ours = np.zeros((1, 4, 20), dtype=np.uint8)
    ours[:, :, 1:19:2] = 1
    theirs = np.pad(ours, [(0, 0), (0, 0), (late, 4 - late)])
    theirs.reshape(-1)[np.flatnonzero(theirs)[:lost]] = 0
    found = agreement(theirs, ours)
    assert rating(found) == expected
    assert found["their_spikes"] == found["spikes"] - lost
    if lost < 36:
        assert found["steps_late"] == late


def test_a_tool_that_runs_nothing_is_exact_or_reads() -> None:
    assert rating({"reads": "6 nodes", "is_equal": True}) == "exact"
    assert rating({"reads": "code"}) == "reads"


@pytest.mark.parametrize("file", ["model.nir", "model.net", "model.npz"])
def test_a_case_is_a_file_an_input_and_what_neurodeploy_answers(file: str, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    write_case(folder, INTEGERS[0], file, {"library": "norse"} if file == "model.nir" else {})
    given, expected = np.load(folder / "given.npy"), np.load(folder / "expected.npy")
    assert given.shape[0] == expected.shape[0]
    assert given.shape[-1] == expected.shape[-1]
    assert 0 < expected.mean() < 1
    assert (folder / file).exists()
    assert json.loads((folder / "case.json").read_text())["file"] == file
