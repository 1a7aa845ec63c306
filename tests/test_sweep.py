"""Sweeps: the rows of all combinations, whoever computes them and however often they are broken off; what is refused."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from sweep_rows import drawn_row

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.cli.experiments import sweep_table
from neurodeploy.pipeline.sweep import COLUMNS
from neurodeploy.report.text import as_text
from neurodeploy.training.distributed import seeded
from neurodeploy.training.options import SweepProgress

MODEL = """
import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState


def model():
    fast = LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.3))
    first, last = (torch.nn.Linear(*sizes, bias=False) for sizes in ((64, 40), (40, 10)))
    return SequentialState(first, LIFCell(fast), last, LICell())
"""
SMALL = """
name: small
description: A chip of which two cores hold no ten outputs.
extends: tiny
neurons_per_core: {value: 4, unit: neurons, assumption: "a toy"}
synapse_memory_bits_per_core: {value: 4096, unit: bits, assumption: "a toy"}
"""
OPTIONS = ("--data", "digits", "--epochs", "1", "1", "1", "--readout", "mean", "--rates", "0.01", "--quiet")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Rows of a sweep, without what differs each time."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a chip."""
    folder = tmp_path_factory.mktemp("given")
    (folder / "mine.py").write_text(MODEL)
    (folder / "small.yaml").write_text(SMALL)
    return folder


def sweep(given: Path, out: Path, *more: str, targets: str = "tiny,small", seeds: int = 2) -> int:
    """Run the command on two workers."""
    chips = ",".join(str(given / f"{name}.yaml") if name == "small" else name for name in targets.split(","))
    asked = ("--targets", chips, "--seeds", str(seeds), "--workers", "2", "--out", str(out), *OPTIONS, *more)
    return main(["sweep", f"{given}/mine.py:model", *asked, *(() if "--cores" in more else ("--cores", "2,1"))])


@pytest.fixture(scope="module")
def swept(given: Path) -> Path:
    """A sweep of two chips, two sizes and two seeds; the sizes of one chip cannot be met."""
    assert sweep(given, given / "swept") == 1
    return given / "swept"


def test_every_combination_has_a_row_in_order(swept: Path) -> None:
    rows = rows_of(swept)
    asked = [(row["target"], row["seed"], row["cores"]) for row in rows]
    assert asked == [(target, seed, cores) for target in ("tiny", "small") for seed in (0, 1) for cores in (2, 1)]
    assert all(list(row) == [key for key in COLUMNS if key != "seconds"] for row in rows)
    for row in rows:
        assert row["state"] == ("failed" if row["target"] == "small" else "done")
        if row["state"] == "done":
            assert row["accuracy"] > 0.3, "it has learnt"
            assert row["fits"]
            assert row["cores_used"] <= row["cores"]
            assert (swept / row["report"]).is_file()
            assert 0 < row["connectivity"] < 1
            assert row["binds"] == (None if row["cores"] == 2 else "synapse memory of layer0")
        else:
            assert "neurons" in row["reason"]
            assert row["accuracy"] is None


def test_sizes_start_from_the_next_larger_one_and_all_from_one_dense_training(swept: Path) -> None:
    rows = {(row["target"], row["seed"], row["cores"]): row for row in rows_of(swept)}
    assert [rows["tiny", seed, cores]["start"] for seed in (0, 1) for cores in (2, 1)] == ["dense", "2 cores"] * 2
    assert sorted(path.name for path in (swept / "dense").iterdir()) == ["0.01-s0", "0.01-s1"]
    assert rows["tiny", 0, 2]["accuracy_dense"] == rows["tiny", 0, 1]["accuracy_dense"]
    assert rows["tiny", 0, 2]["accuracy_dense"] != rows["tiny", 1, 2]["accuracy_dense"], "another seed"


def test_a_chain_is_what_compress_to_computes(swept: Path, tmp_path: Path) -> None:
    fast = LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.3))
    with seeded(0):
        first, last = (torch.nn.Linear(*sizes, bias=False) for sizes in ((64, 40), (40, 10)))
    model, options = (
        SequentialState(first, LIFCell(fast), last, LICell()),
        nd.FitOptions(epochs_dense=1, epochs_compress=1, epochs_finetune=1, readout="mean", learning_rate=0.01),
    )
    made = nd.compress_to(
        model, torch.zeros(1, 64), "tiny", nd.load_data("digits"), options, cores=(2, 1), out=tmp_path / "made", lava_samples=0
    )
    for deployment, row in zip(made, rows_of(swept), strict=False):
        assert deployment.report.accuracy.emulated == row["accuracy"]
        assert deployment.report.accuracy.dense == row["accuracy_dense"]
        weights = f"{row['cores']}-cores/model.net"
        assert (swept / row["report"]).with_name("model.net").read_bytes() == (tmp_path / "made" / weights).read_bytes()


def test_the_table_has_the_rows(swept: Path) -> None:
    table = pyarrow.parquet.read_table(swept / "rows.parquet")
    assert table.column_names == list(COLUMNS)
    assert [{key: value for key, value in row.items() if key != "seconds"} for row in table.to_pylist()] == rows_of(swept)


def test_the_page_answers(swept: Path) -> None:
    page = (swept / "sweep.html").read_text(encoding="utf-8")
    assert "runs/tiny-minimax-0.01-s0/1-cores/report.html" in page
    assert "mine.py:model" in page


def test_it_goes_on_after_a_torn_row_and_repeats_nothing(swept: Path, given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, lines = rows_of(swept), (swept / "rows.jsonl").read_bytes().splitlines(keepends=True)
    written = {row["report"]: (swept / row["report"]).stat().st_mtime_ns for row in whole if row["report"]}
    (swept / "rows.jsonl").write_bytes(b"".join([*lines[:2], lines[3], lines[5], lines[2][:40]]))
    assert sweep(given, swept) == 2
    assert "holds a sweep already. Go on with it (--resume" in capsys.readouterr().err
    assert sweep(given, swept, "--epochs", "1", "2", "1", "--resume") == 2
    assert "a sweep with epochs_compress 1, this one has 2" in capsys.readouterr().err
    assert sweep(given, swept, "--resume", "--json") == 1
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in json.loads(capsys.readouterr().out)["rows"]] == whole
    assert rows_of(swept) == whole
    again = {report for report, time in written.items() if (swept / report).stat().st_mtime_ns != time}
    assert again == {whole[number]["report"] for number in (2,)}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--targets", "tiny,tinny"), "no such hardware profile"),
        (("--methods", "minimax,minmax"), "no pruning method 'minmax'. Choose from"),
        (("--data", "digit"), "is no data set"),
        (("--rates", "0.1,fast"), "is not a number"),
        (("--rates", "0.1,-1"), "learning_rate: is -1.0"),
        (("--cores", "16,8"), "8 is outside 1..4"),
        (("--cores", "2,0"), "is not a core count"),
    ],
)
def test_what_is_unknown_is_refused_before_anything_starts(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, str], said: str
) -> None:
    asked = ["--targets", "tiny", "--out", str(tmp_path / "new"), *OPTIONS]
    assert main(["sweep", f"{given}/mine.py:model", *asked, *more]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_left_alone(given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text("mine\n")
    assert sweep(given, tmp_path, targets="tiny") == 2
    assert "was not written by neurodeploy" in capsys.readouterr().err
    assert (tmp_path / "rows.jsonl").read_text() == "mine\n"


def test_a_sweep_that_could_compute_nothing_may_start_again(given: Path, tmp_path: Path) -> None:
    for seeds in (1, 2):
        assert sweep(given, tmp_path / "none", targets="small", seeds=seeds) == 1
        assert [row["state"] for row in rows_of(tmp_path / "none")] == ["failed"] * (2 * seeds)
    assert sorted(path.name for path in (tmp_path / "none").iterdir()) == [
        "rows.jsonl",
        "rows.parquet",
        "sweep.html",
        "sweep.json",
    ]


def test_core_counts_that_a_chip_does_not_have_are_left_out_once(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    with pytest.raises(nd.RequestError, match="has no runs"):
        nd.sweep(
            f"{given}/mine.py:model",
            ["tiny"],
            "digits",
            nd.FitOptions(),
            out=tmp_path / "o",
            cores=(9, 5, 4, 4),
            seeds=0,
            say=lines.append,
        )
    assert lines == ["tiny has 4 cores: 9, 5 left out."]


def test_what_cannot_be_sent_to_a_worker_is_refused(tmp_path: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(nd.RequestError, match=r"cannot be sent to other processes.*into a file"):
        nd.sweep(lambda: lock, ["tiny"], "digits", nd.FitOptions(), out=tmp_path / "o")


def test_two_chips_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(SMALL.replace("name: small", "name: tiny").replace("extends: tiny", "extends: loihi1"))
    with pytest.raises(nd.RequestError, match="are two with the name 'tiny'"):
        nd.sweep("mine.py:model", ["tiny", tmp_path / "tiny.yaml"], "digits", nd.FitOptions(), out=tmp_path / "o")


def test_a_chip_whose_neurons_reset_otherwise_is_refused_before_anything_trains(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(given, tmp_path / "o", targets="xylo", seeds=1) == 1
    assert all("resets to zero, and neurons of target 'xylo'" in row["reason"] for row in rows_of(tmp_path / "o"))
    assert not (tmp_path / "o" / "dense").exists()
    assert "No run is done." in capsys.readouterr().out


def test_a_row_that_is_damaged_is_named(swept: Path, given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = swept / "rows.jsonl"
    kept = rows.read_text()
    rows.write_text(f"{kept}{{}}\n")
    assert sweep(given, swept, "--resume") == 2
    assert "line 9 is no row (KeyError: 'state'). Delete the line" in capsys.readouterr().err
    rows.write_text(kept)


def test_the_table_in_a_terminal_has_cores_asked_for_and_used() -> None:
    said = as_text(sweep_table([drawn_row("loihi1", 2, seed, cores_used=1, accuracy=0.952) for seed in (0, 1)]))
    assert re.search(r"cores asked +runs +accuracy +of dense +cores used", said)
    assert re.search(r" 2 +2 of 2 +95\.2 ± 0\.0 % +96\.\d ± \d\.\d % +1 ", said)


def test_progress_is_one_line() -> None:
    said = SweepProgress(runs=45, done=12, running=2, failed=1, seconds_left=250.0)
    assert str(said) == "12 of 45 runs done, 2 running, 1 failed; about 4 min left"
    assert str(SweepProgress(runs=1, done=0, running=1, failed=0, seconds_left=None)) == "0 of 1 run done, 1 running"
    assert str(SweepProgress(runs=2, done=1, running=0, failed=1, seconds_left=0.0)) == "1 of 2 runs done, 1 failed"
