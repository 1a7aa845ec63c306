"""Front of a sweep: accuracy against cores, its mean and interval over seeds, and the smallest chip that keeps the accuracy."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any, TypeGuard
from urllib.parse import quote

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from neurodeploy.errors import RequestError, check_arguments, counted
from neurodeploy.report.plot_style import UNUSED, axes_or_new, bare, colours_of, name_lines, plain, shortened, svg
from neurodeploy.report.summary import Accuracy

Row = Mapping[str, Any]
SETTING = ("target", "method", "learning_rate", "cores")
"""Keys of a row by which the runs of a sweep differ, besides their seed."""
_WIDE = 8
"""Ratio of the largest x to the smallest from which on the axis is logarithmic."""
_MOST_TICKS = 9
_UNITS = {"j": "J", "s": "s"}
"""Symbols of the units that are the last word of a key."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Runs that differ in their seed alone.

    Attributes
    ----------
    rows : tuple of mappings
        One for each seed; at least one.
    x_key, y_key : str
        Keys of what is compared.
    """

    rows: tuple[Row, ...]
    x_key: str
    y_key: str

    @cached_property
    def x(self) -> float:
        """Largest x of its runs: so many cores are enough for each seed."""
        return float(max(row[self.x_key] for row in self.rows))

    @cached_property
    def y(self) -> float:
        """Mean over its runs."""
        return self.mean(self.y_key) or 0.0

    @cached_property
    def error(self) -> float | None:
        """Standard error of the mean over seeds: standard deviation over the square root of their number; None of one run."""
        n = len(self.rows)
        return None if n == 1 else float(np.std([row[self.y_key] for row in self.rows], ddof=1)) / math.sqrt(n)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of the mean over seeds, by Student's t distribution; None of one run."""
        from scipy.special import stdtrit  # takes a while to import

        if self.error is None:
            return None
        half = float(stdtrit(len(self.rows) - 1, 0.975)) * self.error
        return self.y - half, self.y + half

    def mean(self, key: str) -> float | None:
        """Mean of the known numbers under a key; None where there are none."""
        known = [row[key] for row in self.rows if is_number(row.get(key))]
        return float(np.mean(known)) if known else None

    @property
    def binds(self) -> str:
        """What limits this size, in most of its runs; empty where nothing does."""
        return str(Counter(row.get("binds") or "" for row in self.rows).most_common(1)[0][0])

    @property
    def asked(self) -> int | None:
        """Cores that its runs were allowed; None where the rows do not say."""
        asked = self.rows[0].get("cores")
        return int(asked) if is_number(asked) else None

    @property
    def size(self) -> str:
        """Cores used, and those asked for where they differ: ``1 core used, 2 asked for``."""
        used = counted(int(self.x), "core")
        return used if self.asked in (None, self.x) else f"{used} used, {self.asked:,} asked for"

    @property
    def share(self) -> str:
        """Mean and standard error of a share: ``95.2 ± 0.4 %``."""
        return f"{self.y * 100:.1f}{'' if self.error is None else f' ± {self.error * 100:.1f}'} %"

    @property
    def text(self) -> str:
        """Mean and standard error of a share, and the number of seeds: ``95.2 ± 0.4 %, 3 seeds``."""
        return f"{self.share}, {counted(len(self.rows), 'seed')}"


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def is_done(row: Row, *keys: str) -> bool:
    """Whether a run is done, fits, and has a number under each key."""
    return row.get("state") != "failed" and row.get("fits") is not False and all(is_number(row.get(key)) for key in keys)


def settings_of(rows: Iterable[Row], x: str = "cores_used", y: str = "accuracy") -> list[Setting]:
    """Settings of the rows that are done, in order; a row without a seed is one of its own."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for number, row in enumerate(rows):
        if is_done(row, x, y):
            groups.setdefault(setting_key(row) if "seed" in row else (number,), []).append(row)
    return [Setting(rows=tuple(group), x_key=x, y_key=y) for group in groups.values()]


def setting_key(row: Row) -> tuple[object, ...]:
    """Values of a row under `SETTING`."""
    return tuple(row.get(key) for key in SETTING)


def front_of(settings: Iterable[Setting]) -> list[Setting]:
    """Settings on the Pareto front, by x: no other has as little x and as much y, and is better in one; equal ones stay."""
    kept: list[Setting] = []
    for one in sorted(settings, key=lambda one: (one.x, -one.y)):
        if not kept or one.y > kept[-1].y or (one.x, one.y) == (kept[-1].x, kept[-1].y):
            kept.append(one)
    return kept


def bend_of(points: Sequence[Setting]) -> Setting | None:
    """Point of a front that lies farthest above the straight line between its ends, with x on a logarithmic scale.

    From there on, another core gives less than it did before. None where no point lies above the line.
    """
    if len(points) < 3 or points[0].x <= 0 or points[0].x == points[-1].x:
        return None
    first, last = points[0], points[-1]
    slope = (last.y - first.y) / math.log(last.x / first.x)
    above = [(one.y - first.y - slope * math.log(one.x / first.x), one) for one in points[1:-1]]
    highest, found = max(above, key=lambda pair: pair[0])
    return found if highest > 1e-9 else None


def dense_of(rows: Iterable[Row]) -> Setting | None:
    """The dense network at its best learning rate; None where its accuracy is not known."""
    runs = {
        (row.get("target"), row.get("learning_rate"), row.get("seed")): {
            "target": row.get("target"), "learning_rate": row.get("learning_rate"), "seed": row.get("seed"), "cores": 0,
            "accuracy_dense": row["accuracy_dense"],
        }
        for row in rows if is_number(row.get("accuracy_dense"))
    }  # fmt: skip
    return max(settings_of(runs.values(), "cores", "accuracy_dense"), key=lambda one: one.y, default=None)


def smallest(rows: Sequence[Row], within: float, target: str | None = None) -> Setting | None:
    """Setting of fewest cores, of that target or any, that keeps the accuracy; of several the most accurate."""
    return next(iter(settings_within(rows, within, target)), None)


def settings_within(rows: Sequence[Row], within: float, target: str | None = None) -> list[Setting]:
    """Settings, of that target or any, that keep the accuracy, all of their seeds done; the smallest first.

    One keeps the accuracy where its mean is at most `within` points (hundredths) below that of `dense_of`. Of those that use
    as few cores the most accurate comes first, then the one that asked for fewest.
    """
    dense = dense_of(rows)
    if dense is None:
        return []
    failed = {setting_key(row) for row in rows if not is_done(row, "cores_used", "accuracy")}
    enough = [
        one for one in settings_of(of_target(rows, target))
        if one.y >= dense.y - within / 100 - 1e-9 and setting_key(one.rows[0]) not in failed
    ]  # fmt: skip
    return sorted(enough, key=lambda one: (one.x, -one.y, one.asked or 0))


def of_target(rows: Sequence[Row], target: str | None) -> Sequence[Row]:
    """Rows of a target, or all rows."""
    return rows if target is None else [row for row in rows if row.get("target") == target]


def answer(rows: Sequence[Row], within: float = 1.0, target: str | None = None) -> str:
    """Sentence that names the smallest chip, or size of a target, that keeps the accuracy; or the nearest where none does.

    Parameters
    ----------
    rows : sequence of mappings
        As `neurodeploy.sweep` returns them.
    within : float
        Points (hundredths) that the mean accuracy over seeds may be below the dense network's, at its best learning rate.
    target : str, optional
        Only this target's sizes, compared with the dense network of all rows.
    """
    points = f"{within:g} point{'s' * (within != 1)}"
    best = max(settings_of(of_target(rows, target)), key=lambda one: (one.y, -one.x), default=None)
    dense, enough = dense_of(rows), settings_within(rows, within, target)
    if best is None:
        return "No run is done."
    if dense is None:
        return f"The dense network's accuracy is not known. The most accurate: {name_of(best, rows)} ({best.text})."
    if not enough:
        none = "No chip" if target is None else "No size"
        return f"{none} keeps the accuracy within {points} of dense ({dense.text}). Nearest: {name_of(best, rows)} ({best.text})."
    found = enough[0]
    near = found.error is not None and found.y - dense.y + within / 100 < found.error
    return (
        f"The smallest {'chip' if target is None else 'size'} that keeps the accuracy within {points} of dense: "
        f"{name_of(found, rows)} ({found.text}; dense {dense.share})."
        + " It is closer to that limit than its standard error: more seeds would tell." * near
        + alternatives(enough, rows)
    )


def alternatives(enough: Sequence[Setting], rows: Sequence[Row]) -> str:
    """Other chips that keep the accuracy, and how the first setting was chosen among them; empty where it is the only one."""
    chips: dict[object, Setting] = {}
    for one in enough:
        chips.setdefault(one.rows[0].get("target"), one)
    others = [f"{name_of(one, rows)} ({one.share})" for one in list(chips.values())[1:]]
    rules = ["of equal core counts the most accurate is chosen"] * (sum(one.x == enough[0].x for one in enough) > 1)
    rule = "; ".join([*rules, *["cores of different chips differ in size"] * bool(others)])
    return f" Also: {'; '.join(others)}." * bool(others) + f" {rule[:1].upper()}{rule[1:]}." * bool(rule)


def doubts(rows: Sequence[Row]) -> tuple[str, ...]:
    """A sentence where the dense network is undertrained: compression, which trains further, made it more accurate."""
    dense, best = dense_of(rows), max((one.y for one in settings_of(rows)), default=None)
    samples = next((row["test_samples"] for row in rows if row.get("test_samples")), None)
    # without a number of classes, chance is no matter
    return () if dense is None else Accuracy(dense=dense.y, compressed=best, test_samples=samples).doubts(1)


def name_of(setting: Setting, rows: Iterable[Row]) -> str:
    """Target and cores of a setting; its method and learning rate where the rows have several."""
    row, several = setting.rows[0], {key: len({other.get(key) for other in rows}) > 1 for key in ("method", "learning_rate")}
    method = [str(row.get("method"))] if several["method"] else []
    rate = [f"learning rate {row.get('learning_rate')}"] if several["learning_rate"] else []
    return ", ".join([str(row.get("target")), setting.size, *method, *rate])


def run_text(row: Row) -> str:
    """A run in lines, for those who point at its dot."""
    costs = [
        cost_text(row.get(key), unit, is_assumed=row.get("energy_assumed")) for key, unit in (("energy_j", "J"), ("time_s", "s"))
    ]
    dense = f" (dense {row['accuracy_dense']:.1%})" if is_number(row.get("accuracy_dense")) else ""
    lines = [
        f"{row.get('target')}, {row.get('cores')} cores asked for, {row.get('cores_used')} used",
        f"{row.get('method')}, learning rate {row.get('learning_rate')}, seed {row.get('seed')}, from {row.get('start')}",
        f"accuracy {row['accuracy']:.1%}{dense}",
        f"{', '.join(filter(None, costs))} a sample" if any(costs) else "",
        f"binds: {row['binds']}" if row.get("binds") else "",
    ]
    return "\n".join(filter(None, lines))


def cost_text(value: object, unit: str, *, is_assumed: object = False) -> str:
    """An energy or a time in millionths, ~ where figures are assumed; empty where it is unknown."""
    return f"{'~' * bool(is_assumed)}{value * 1e6:,.3g} µ{unit}" if is_number(value) else ""


def failures(rows: Iterable[Row]) -> list[tuple[str, str, int, list[str]]]:
    """Target, reason, number, and values of method, learning rate, cores and seed of the runs that are not done, by reason."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if not is_done(row, "cores_used", "accuracy"):
            what = "does not fit" if row.get("fits") is False else "no accuracy was measured"
            groups.setdefault((str(row.get("target")), str(row.get("reason") or what)), []).append(row)
    keys = ("method", "learning_rate", "cores", "seed")
    return [
        (*group, len(own), [", ".join(dict.fromkeys(str(row.get(key)) for row in own)) for key in keys])
        for group, own in groups.items()
    ]


@check_arguments
def front(
    rows: Sequence[Row], x: str = "cores_used", y: str = "accuracy", *, by: str = "target", label: str | None = None,
    runs: bool = True, ax: Axes | None = None,
) -> Axes:  # fmt: skip
    """Draw the rows of a sweep as dots, and a line along the Pareto front: no other has less `x` and as much `y`.

    Rows that differ in their seed alone are one point of the front: their largest `x`, and the mean of `y` with its 95 %
    interval over seeds (Student's t). Rows without a seed are points of their own.

    Parameters
    ----------
    rows : sequence of mappings
        As `neurodeploy.sweep` returns them; or any with numbers under `x` (less is better) and `y` (more is better).
        Runs that failed, and those whose `x` or `y` is unknown (None), are left out.
    by : str
        Key of the rows: each of its values has a front and a colour of its own.
    label : str, optional
        Key of a text that is written at each point.
    runs : bool
        Whether to draw a dot for each row.

    Raises
    ------
    RequestError
        No rows, a row without a number under `x` or `y`, or no row that is done.
    """
    for number, row in enumerate(rows):
        for key in (x, y):
            if row.get("state") != "failed" and (key not in row or not (row[key] is None or is_number(row[key]))):
                raise RequestError(f"row {number}", f"has no number under {key!r}")
    series: dict[str, list[Row]] = {}
    for row in rows:
        if is_done(row, x, y):
            series.setdefault(str(row.get(by, "")), []).append(row)
    if not series:
        raise RequestError("rows", f"hold no run that is done and has {x!r} and {y!r}" if rows else "are none")
    ax = axes_or_new(ax)
    names = shortened(list(series)) if len(series) > 1 else ["front"]
    intervals: list[tuple[float, float, float, str]] = []
    for own, name, colour in zip(series.values(), names, colours_of(len(series)), strict=True):
        settings = settings_of(own, x, y)
        points = front_of(settings)
        if runs:
            at = [row[x] for row in own], [row[y] for row in own]
            dots = ax.scatter(*at, s=30, color=colour, alpha=0.35, linewidths=0, clip_on=False, zorder=3)
            # in an SVG, a dot links to its run's report
            dots.set_urls([row.get("report") for row in own])
        # "post": a front holds its value until the next point
        ax.step(
            [one.x for one in points],
            [one.y for one in points],
            where="post",
            color=colour,
            marker="o",
            markersize=3.5,
            label=name,
        )
        intervals += [(one.x, *one.interval, colour) for one in points if one.interval is not None]
        for one in settings if label is not None else ():
            text = plain(str(one.rows[0].get(label or "", "")))
            ax.annotate(text, (one.x, one.y), xytext=(5, -11), textcoords="offset points", fontsize="small")
    dense = dense_of(rows) if y == "accuracy" else None
    if dense is not None:
        ax.axhline(dense.y, color=UNUSED, linewidth=1.2, linestyle="--", label="dense")
    scale_axes(ax, x, y, {float(row[x]) for own in series.values() for row in own})
    # the axis ends where the points do: an interval of two seeds may be wider than all of it
    limits = ax.get_ylim()
    if intervals:
        places, lows, highs, colours = zip(*intervals, strict=True)
        ax.vlines(places, lows, highs, color=colours, linewidth=1.0)
    ax.set_ylim(limits)
    name_lines(ax, len(series), "fronts")
    return bare(ax, grid="y")


def scale_axes(ax: Axes, x: str, y: str, values: set[float]) -> None:
    """Name the axes; x is logarithmic where its values are far apart, and has a tick at each of a few whole numbers."""
    ax.margins(0.12)
    if min(values) > 0 and max(values) >= _WIDE * min(values):
        ax.set_xscale("log", base=2 if all(value.is_integer() for value in values) else 10)
    if all(value.is_integer() for value in values):
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        if len(values) <= _MOST_TICKS:
            ax.xaxis.set_major_locator(FixedLocator(sorted(values)))
            ax.xaxis.set_minor_locator(NullLocator())
    for axis, key in ((ax.xaxis, x), (ax.yaxis, y)):
        name, _, unit = key.rpartition("_")
        if unit in _UNITS:
            axis.set_major_formatter(EngFormatter(_UNITS[unit]))
        elif key.startswith("accuracy"):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axis.set_label_text(plain((name if unit in _UNITS else key).replace("_", " ")))


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFront:
    """Part of a sweep's page on one target.

    Attributes
    ----------
    answer : str
        Sentence on the smallest size that keeps the accuracy.
    found, bend : Setting or None
        That size, and the point of the front at which it bends.
    settings, points : list of Setting
        All settings, the smallest and most accurate first; and those on the front.
    figures : list of str
        SVG of accuracy against cores and, where it is known, energy.
    several : bool
        Whether the best of several methods and learning rates was chosen.
    """

    target: str
    answer: str
    found: Setting | None
    settings: list[Setting]
    points: list[Setting]
    bend: Setting | None
    figures: list[str]
    several: bool


def target_fronts(rows: Sequence[Row], within: float) -> list[TargetFront]:
    """Front of each target, in the order of the rows."""
    dense, fronts = dense_of(rows), []
    for number, target in enumerate(dict.fromkeys(str(row.get("target")) for row in rows)):
        own = of_target(rows, target)
        settings = sorted(settings_of(own), key=lambda one: (one.x, -one.y, one.asked or 0))
        points = front_of(settings)
        known = [x for x in ("cores_used", "energy_j") if any(is_done(row, x, "accuracy") for row in own)]
        fronts.append(TargetFront(
            target=target, answer=answer(rows, within, target), found=smallest(rows, within, target), settings=settings,
            points=points, bend=bend_of(points), figures=[linked_figure(own, x, f"{x[0]}{number}", dense, within) for x in known],
            several=len({(row.get("method"), row.get("learning_rate")) for row in own}) > 1,
        ))  # fmt: skip
    return fronts


def linked_figure(rows: Sequence[Row], x: str, name: str, dense: Setting | None, within: float) -> str:
    """SVG of a target's front, a colour for each method. A dot shows its run on hover, and leads to its report."""
    done = [row for row in rows if is_done(row, x, "accuracy")]
    marked = [{**row, "report": f"run-{number}", "accuracy_dense": None} for number, row in enumerate(done)]

    def draw(axes: Sequence[Axes]) -> None:
        # one dot for each run on the page
        front(marked, x, by="method", runs=x == "cores_used", ax=axes[0])
        if dense is not None:
            axes[0].axhline(dense.y, color=UNUSED, linestyle="--", linewidth=1.2)
            axes[0].axhspan(dense.y - within / 100, dense.y, color=UNUSED, alpha=0.25, linewidth=0)
            low, high = axes[0].get_ylim()
            axes[0].set_ylim(min(low, dense.y - within / 50), max(high, dense.y + within / 100))

    def opened(match: re.Match[str]) -> str:
        row = done[int(match[1])]
        link = f' href="{escape(link_of(row))}"' if link_of(row) else ""
        return f'<a tabindex="-1"{link}><title>{escape(run_text(row))}</title>'

    label = f"Accuracy against {x.rpartition('_')[0]} on {rows[0].get('target')}: the table below has the numbers."
    return re.sub(r'<a\b[^>]*?href="run-(\d+)"[^>]*>', opened, svg(draw, (4.9, 3.5), name=name, label=label))


def link_of(row: Row) -> str:
    """Address of a run's report, relative to the page whatever it says: without scheme and host; empty where it has none."""
    return quote(str(row["report"]).lstrip("/")) if row.get("report") else ""
