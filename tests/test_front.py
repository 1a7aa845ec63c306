"""The front of a sweep: settings over seeds, the smallest chip that keeps the accuracy, where the curve bends, the figure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import sem, ttest_1samp
from sweep_rows import drawn_row, drawn_sweep, failed_row

import neurodeploy as nd
from neurodeploy.errors import RequestError
from neurodeploy.report.front import answer, bend_of, dense_of, doubts, failures, front_of, run_text, settings_of, smallest

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _no_figure_stays_open() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture
def axes() -> Axes:
    return Figure().add_subplot()


def at(cores: int, *accuracies: float, **changed: object) -> list[dict[str, object]]:
    """Rows of one setting, one for each seed; dense is 96 % throughout."""
    return [
        drawn_row("loihi1", cores, seed, accuracy=share, accuracy_dense=0.96, **changed) for seed, share in enumerate(accuracies)
    ]


# ---------------------------------------------------------------------------------------------- settings


def test_seeds_are_averaged_with_their_standard_error_and_interval() -> None:
    (setting,) = settings_of(at(4, 0.95, 0.94, 0.97))
    assert setting.y == pytest.approx(0.95333, abs=1e-5)
    assert setting.error == pytest.approx(sem([0.95, 0.94, 0.97]))
    expected = ttest_1samp([0.95, 0.94, 0.97], 0).confidence_interval(0.95)
    assert setting.interval == pytest.approx((expected.low, expected.high))
    assert setting.text == "95.3 ± 0.9 %, 3 seeds"


def test_one_seed_has_no_interval() -> None:
    (setting,) = settings_of(at(4, 0.95))
    assert (setting.error, setting.interval, setting.text) == (None, None, "95.0 %, 1 seed")


def test_a_setting_is_as_large_as_its_largest_run_and_binds_as_most_of_them() -> None:
    rows = at(8, 0.9, 0.9, 0.9)
    for row, used, binds in zip(rows, (6, 7, 6), ("axons in of layer1", None, None), strict=True):
        row |= {"cores_used": used, "binds": binds}
    (setting,) = settings_of(rows)
    assert (setting.x, setting.binds) == (7, "")


def test_methods_rates_and_core_counts_are_settings_of_their_own_and_rows_without_a_seed_too() -> None:
    rows = at(4, 0.9, 0.9) + at(4, 0.9, method="gradual") + at(4, 0.9, learning_rate=0.1) + at(8, 0.9, cores_used=4)
    assert [len(setting.rows) for setting in settings_of(rows)] == [2, 1, 1, 1]
    assert len(settings_of([{"cores_used": 1, "accuracy": 0.5}] * 3)) == 3


def test_runs_that_failed_or_do_not_fit_or_were_not_measured_count_nowhere() -> None:
    rows = [failed_row("loihi1", 4), *at(4, 0.99, fits=False), *at(4, math.nan), *at(4, 0.9)]
    rows[2]["accuracy"] = None
    assert [setting.y for setting in settings_of(rows)] == [0.9]


def test_the_front_is_what_no_other_setting_dominates() -> None:
    """Against the definition, pair by pair, on a grid on which many are equal."""
    rng = random.Random(0)
    rows = [{"cores_used": rng.randint(1, 6), "accuracy": rng.randint(1, 6) / 10} for _ in range(40)]
    settings = settings_of(rows)
    expected = {
        id(one) for one in settings
        if not any(o.x <= one.x and o.y >= one.y and (o.x, o.y) != (one.x, one.y) for o in settings)
    }  # fmt: skip
    found = front_of(settings)
    assert {id(one) for one in found} == expected
    assert [one.x for one in found] == sorted(one.x for one in found)


@pytest.mark.parametrize(
    ("accuracies", "bend"),
    [((0.5, 0.8, 0.9, 0.92), 2), ((0.5, 0.6, 0.7, 0.8), None), ((0.5, 0.51, 0.6, 0.9), None), ((0.5, 0.9), None)],
)  # fmt: skip
def test_the_curve_bends_where_it_rises_most_above_the_straight_line(accuracies: tuple[float, ...], bend: int | None) -> None:
    points = front_of(settings_of([row for i, share in enumerate(accuracies) for row in at(2**i, share)]))
    found = bend_of(points)
    assert (None if found is None else found.x) == bend


# ---------------------------------------------------------------------------------------------- the answer


def test_the_smallest_chip_within_the_points_is_named() -> None:
    rows = at(8, 0.96, 0.962) + at(4, 0.952, 0.956) + at(2, 0.93, 0.95)
    assert answer(rows) == (
        "The smallest chip that keeps the accuracy within 1 point of dense: "
        "loihi1, 4 cores (95.4 ± 0.2 %, 2 seeds; dense 96.0 ± 0.0 %)."
    )
    assert "loihi1, 2 cores (94.0 ± 1.0 %" in answer(rows, 2.5)
    assert "It is closer to that limit than its standard error: more seeds would tell." in answer(rows, 2.5)


def test_of_equal_core_counts_the_most_accurate_is_named_and_the_other_chips_that_qualify_too() -> None:
    others = (("tiny", 2, 0.952), ("tiny", 4, 0.96), ("odin", 8, 0.97), ("xylo", 1, 0.8))
    rows = at(2, 0.958) + [drawn_row(chip, cores, accuracy=share, accuracy_dense=0.96) for chip, cores, share in others]
    assert answer(rows) == (
        "The smallest chip that keeps the accuracy within 1 point of dense: loihi1, 2 cores (95.8 %, 1 seed; dense 96.0 %). "
        "Also: tiny, 2 cores (95.2 %); odin, 8 cores (97.0 %). "
        "Of equal core counts the most accurate is chosen; cores of different chips differ in size."
    )
    assert answer(rows[1:]).endswith("Also: odin, 8 cores (97.0 %). Cores of different chips differ in size.")
    assert answer(rows, 1.0, "tiny").endswith(": tiny, 2 cores (95.2 %, 1 seed; dense 96.0 %).")


def test_of_settings_that_use_as_many_cores_the_most_accurate_is_named_and_this_is_said() -> None:
    rows = at(2, 0.958, cores_used=1) + at(1, 0.952)
    assert answer(rows, 1.0, "loihi1").endswith(
        ": loihi1, 1 core used, 2 asked for (95.8 %, 1 seed; dense 96.0 %). Of equal core counts the most accurate is chosen."
    )
    assert "Of equal" not in answer(rows[:1]) + answer(at(1, 0.96) + at(2, 0.96))
    assert ": loihi1, 1 core (95.8 %" in answer(rows[:1] + at(1, 0.958))  # as accurate: the one that asks for less


def test_what_to_ask_for_is_named_where_fewer_cores_were_used() -> None:
    assert ": loihi1, 4 cores (96.0 %" in answer(at(4, 0.96))
    assert "Nearest: loihi1, 3 cores used, 8 asked for (90.0 %" in answer(at(8, 0.9, cores_used=3))
    assert [one.size for one in settings_of([{"cores_used": 1, "accuracy": 0.5}])] == ["1 core"]


def test_none_names_the_nearest() -> None:
    assert answer(at(8, 0.93) + at(4, 0.91), 0.5) == (
        "No chip keeps the accuracy within 0.5 points of dense (96.0 %, 1 seed). Nearest: loihi1, 8 cores (93.0 %, 1 seed)."
    )


def test_a_size_of_which_a_seed_failed_is_not_the_answer() -> None:
    rows = at(8, 0.96, 0.96) + at(4, 0.96) + [failed_row("loihi1", 4, 1)]
    found = smallest(rows, 1.0)
    assert found is not None
    assert found.x == 8


def test_dense_is_the_best_learning_rate_s_so_that_a_bad_one_does_not_flatter() -> None:
    good, bad = at(8, 0.93, learning_rate=0.003), at(4, 0.80, learning_rate=1.0)
    for row in bad:
        row["accuracy_dense"] = 0.80
    dense = dense_of(good + bad)
    assert dense is not None
    assert dense.y == 0.96
    assert answer(good + bad).startswith("No chip keeps")
    assert "learning rate 0.003" in answer(good + bad)


def test_a_target_is_answered_against_the_dense_network_of_all() -> None:
    rows = [*at(8, 0.96), drawn_row("xylo", 1, accuracy=0.7, accuracy_dense=0.7)]
    assert answer(rows, 1.0, "xylo") == (
        "No size keeps the accuracy within 1 point of dense (96.0 %, 1 seed). Nearest: xylo, 1 core (70.0 %, 1 seed)."
    )
    assert answer(rows, 1.0, "loihi1").startswith("The smallest size that keeps")


def test_nothing_done_and_nothing_to_compare_with_are_said() -> None:
    assert answer([failed_row("loihi1", 4)]) == answer([]) == "No run is done."
    rows = at(4, 0.9)
    rows[0]["accuracy_dense"] = None
    assert answer(rows) == "The dense network's accuracy is not known. The most accurate: loihi1, 4 cores (90.0 %, 1 seed)."


def test_a_dense_network_that_compression_made_more_accurate_is_doubted() -> None:
    """Only beyond the interval of its test samples: of 454 at 96 %, that ends at 97.4 %."""
    assert doubts(at(4, 0.97)) == doubts([]) == ()
    (said,) = doubts(at(4, 0.98))
    assert said.startswith("The dense network is undertrained: its accuracy is 96.0%, less than the 98.0% after compression")


def test_failures_are_counted_by_target_and_reason() -> None:
    rows = [failed_row("loihi1", cores, seed) for cores in (2, 1) for seed in (0, 1)]
    rows += [failed_row("xylo", 1, reason="RequestError: <b>"), *at(4, 0.9, fits=False)]
    assert failures(rows) == [
        ("loihi1", "BudgetError: layer0: 9 slices > 8", 4, ["minimax", "0.003", "2, 1", "0, 1"]),
        ("xylo", "RequestError: <b>", 1, ["minimax", "0.003", "1", "0"]),
        ("loihi1", "does not fit", 1, ["minimax", "0.003", "4", "0"]),
    ]


def test_a_run_is_told_in_lines() -> None:
    row = drawn_row("loihi2", 4, 1, cores_used=3, accuracy=0.95, accuracy_dense=0.97, energy_j=3.21e-6, time_s=1e-5)
    assert run_text(row).splitlines() == [
        "loihi2, 4 cores asked for, 3 used", "minimax, learning rate 0.003, seed 1, from 8 cores", "accuracy 95.0% (dense 97.0%)",
        "~3.21 µJ, ~10 µs a sample", "binds: synapse memory of layer0",
    ]  # fmt: skip


# ---------------------------------------------------------------------------------------------- the figure


def test_the_figure_leaves_out_what_another_row_beats(axes: Axes) -> None:
    rows = [{"cores": c, "accuracy": a, "bits": 8} for c, a in [(1, 0.8), (2, 0.9), (3, 0.85), (2, 0.7), (4, 0.95)]]
    nd.plot.front(rows, x="cores", label="bits", ax=axes)
    (line,), (dots,) = axes.lines, [c for c in axes.collections if len(c.get_offsets())]
    assert list(zip(*line.get_data(), strict=True)) == [(1, 0.8), (2, 0.9), (4, 0.95)]
    assert sorted(map(tuple, dots.get_offsets().tolist())) == sorted((row["cores"], row["accuracy"]) for row in rows)
    assert [text.get_text() for text in axes.texts] == ["8"] * 5


def test_each_target_has_a_front_and_a_colour_and_dense_a_line() -> None:
    ax = nd.plot.front(drawn_sweep())
    *fronts, dense = ax.lines
    assert [line.get_label() for line in fronts] == ["loihi1", "loihi2", "xylo"]
    assert len({line.get_color() for line in fronts}) == 3
    assert dense.get_ydata()[0] == pytest.approx(0.965)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4", "8", "16"]
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "cores used", "accuracy")


def test_an_axis_has_the_unit_of_its_key_and_unknown_costs_are_left_out() -> None:
    ax = nd.plot.front(drawn_sweep(), x="energy_j", runs=False)
    assert ax.get_xlabel() == "energy"
    assert ax.xaxis.get_major_formatter()(2e-6) == "2 µJ"
    assert [line.get_label() for line in ax.lines][:2] == ["loihi1", "loihi2"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "rows: are none"),
        ([{"cores_used": 1}], "row 0: has no number under 'accuracy'"),
        ([drawn_row(), drawn_row(accuracy="0.9")], "row 1: has no number under 'accuracy'"),
        ([failed_row("loihi1", 4)], "rows: hold no run that is done and has 'cores_used' and 'accuracy'"),
    ],
)
def test_a_front_of_nothing_is_refused(rows: list[dict[str, object]], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        nd.plot.front(rows)


def test_a_wide_interval_does_not_widen_the_axis(axes: Axes) -> None:
    """Of two seeds, t is 12.7: the bars leave the axis, which shows the runs."""
    nd.plot.front(at(4, 0.90, 0.95) + at(8, 0.96, 0.97), ax=axes)
    low, high = axes.get_ylim()
    assert low > 0.85
    assert high < 1.0
