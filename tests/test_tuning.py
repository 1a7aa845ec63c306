"""The choice of a learning rate and of epochs: what is tried, what is broken off, edges, resuming; and in a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from test_sweep import MODEL, OPTIONS, rows_of

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.errors import TrainingError
from neurodeploy.pipeline.tuning import Measure, RateStudy, check_trials


def best_at(peak: float, epochs: int = 9) -> Measure:
    """Accuracy that falls with the distance to a rate, and rises with the epochs."""

    def measure(rate: float, factor: float, report: Callable[[float], None]) -> None:
        for epoch in range(round(epochs * factor)):
            report((0.9 + 0.01 * epoch) / (1 + math.log(rate / peak) ** 2))

    return measure


def study(path: Path, seed: int = 0) -> RateStudy:
    return RateStudy(path=path / "study.json", default=0.004, seed=seed)


def test_the_best_rate_is_found_and_bad_ones_are_broken_off(tmp_path: Path) -> None:
    tried = study(tmp_path)
    best = tried.run(12, best_at(0.009))
    assert [one.learning_rate for one in tried.trials[:5]] == [0.004, 0.00126, 0.0126, 0.0004, 0.04]
    assert 0.007 < best.learning_rate < 0.0115
    assert best.complete
    assert len(best.accuracy) == 9
    assert len(tried.trials) == 12
    broken_off = [one for one in tried.trials if not one.complete]
    assert {0.00126, 0.0004, 0.04} <= {one.learning_rate for one in broken_off}
    assert all(len(one.accuracy) < 9 for one in broken_off)
    assert "edge" not in tried.sentence()


@pytest.mark.parametrize(("peak", "beyond"), [(0.2, 10.0), (0.0001, 0.1)])
def test_the_range_grows_where_the_best_is_at_its_edge(tmp_path: Path, peak: float, beyond: float) -> None:
    tried = study(tmp_path)
    best = tried.run(6, best_at(peak))
    assert len(tried.trials) == 6 + 3
    assert abs(math.log(best.learning_rate / peak)) < abs(math.log(0.004 * beyond / peak))
    assert best.learning_rate / (0.004 * beyond) > 1 if beyond > 1 else best.learning_rate < 0.0004


def test_a_best_rate_beyond_all_is_said(tmp_path: Path) -> None:
    tried = study(tmp_path)

    def rising(rate: float, factor: float, report: Callable[[float], None]) -> None:
        report(1 - 1 / (1 + 1e6 * rate))

    assert tried.run(5, rising).learning_rate == max(one.learning_rate for one in tried.trials) > 0.04
    assert tried.sentence().endswith("the best is at the edge of the range; a better one may be beyond")


def test_a_study_that_is_broken_off_goes_on_to_the_same_rates(tmp_path: Path) -> None:
    whole = study(tmp_path / "whole")
    whole.run(9, best_at(0.01))

    def failing(rate: float, factor: float, report: Callable[[float], None]) -> None:
        if len(halves[-1].trials) in (2, 7):
            report(0.5)
            raise KeyboardInterrupt
        best_at(0.01)(rate, factor, report)

    halves = [study(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        halves[-1].run(9, failing)
    halves.append(study(tmp_path))
    assert len(halves[-1].trials) == 2
    halves[-1].run(6, best_at(0.01))
    halves.append(study(tmp_path))
    halves[-1].run(9, best_at(0.01))
    assert halves[-1].trials == whole.trials
    other = study(tmp_path / "seed", seed=1)
    other.run(9, best_at(0.01))
    assert other.trials[:5] == whole.trials[:5]
    assert other.trials != whole.trials


def test_a_loss_that_is_no_number_is_the_worst(tmp_path: Path) -> None:
    def measure(rate: float, factor: float, report: Callable[[float], None]) -> None:
        report(0.5)
        if rate > 0.01:
            raise TrainingError("dense epoch 0", "the loss is nan")
        report(0.4)

    tried = study(tmp_path)
    assert tried.run(5, measure).learning_rate == 0.004, "of equal ones, the nearest to the rate that was given"
    assert [one.accuracy for one in tried.trials if one.learning_rate > 0.01] == [(0.5, 0.0)] * 2


@pytest.mark.parametrize(
    ("saturates", "chosen", "tried"),
    [(0.2, 0.5, [0.5, 2.0]), (0.9, 1.0, [0.5, 2.0]), (1.9, 2.0, [0.5, 2.0, 4.0]), (9.0, 4.0, [0.5, 2.0, 4.0])],
)
def test_as_few_epochs_are_chosen_as_lose_next_to_nothing(
    tmp_path: Path, saturates: float, chosen: float, tried: list[float]
) -> None:
    """Accuracy that rises by a tenth up to a factor of the epochs, and falls by little after it."""
    asked: list[tuple[float, float]] = []

    def measure(rate: float, factor: float, report: Callable[[float], None]) -> None:
        asked.append((rate, factor))
        report(0.5)
        report(0.9 - 0.1 * max(0.0, saturates - factor) / saturates - 1e-4 * factor - abs(math.log(rate / 0.004)))

    found = study(tmp_path).choose(5, measure)
    assert found["chosen"] == {"learning_rate": 0.004, "epochs_factor": chosen}
    assert asked[5:] == [(0.004, factor) for factor in tried]
    assert f"; {chosen:g} x the epochs, " in found["said"]
    again = study(tmp_path)
    assert again.choose(5, measure) == found
    assert len(asked) == 5 + len(tried), "nothing is tried twice"


def test_what_cannot_be_tuned_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(nd.RequestError, match="trials: are 4, not 0 or at least 5"):
        check_trials(4, ())
    with pytest.raises(nd.RequestError, match=r"rates: are 2 where the best is looked for. Give one"):
        check_trials(5, (0.1, 0.2))
    (tmp_path / "study.json").write_text('{"trials": [{}]}')
    with pytest.raises(nd.DataError, match=r"study.json: holds no trials .*Delete it"):
        study(tmp_path)
    monkeypatch.setattr("neurodeploy.pipeline.tuning.find_spec", {}.get)
    with pytest.raises(nd.RequestError, match=r"trials: need Optuna. Run: pip install optuna"):
        check_trials(5, ())


@pytest.mark.slow  # a sweep with all its trials
def test_a_sweep_uses_the_rate_that_it_chose_on_held_out_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(MODEL)
    asked = [
        "sweep",
        f"{tmp_path}/mine.py:model",
        "--targets",
        "tiny",
        "--cores",
        "2,1",
        "--seeds",
        "1",
        *OPTIONS[:-1],
        "--tune",
        "5",
    ]
    for workers in (1, 2):
        assert main([*asked, "--workers", str(workers), "--out", str(tmp_path / str(workers))]) == 0
    said = capsys.readouterr().err
    trials = json.loads((tmp_path / "1" / "tuning" / "tiny-minimax.json").read_text())["trials"]
    assert len(trials) in (5, 8)
    rows = rows_of(tmp_path / "1")
    chosen = max((one for one in trials if one["complete"]), key=lambda one: one["accuracy"][-1])["learning_rate"]
    assert [row["learning_rate"] for row in rows] == [chosen] * 2
    assert f"Learning rate and epochs of tiny-minimax on held-out data: {chosen:g} of {len(trials)} from" in said
    (factor,) = {row["epochs_factor"] for row in rows}
    assert f"; {factor:g} x the epochs" in said
    of_epochs = json.loads((tmp_path / "1" / "tuning" / "tiny-minimax.json").read_text())["of_epochs"]
    assert {one["epochs_factor"] for one in of_epochs} >= {2.0}
    assert rows == rows_of(tmp_path / "2")
    assert main([*asked, "--workers", "1", "--out", str(tmp_path / "1"), "--resume"]) == 0
    assert rows_of(tmp_path / "1") == rows
