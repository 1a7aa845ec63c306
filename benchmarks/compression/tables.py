"""The tables of `benchmarks/RESULTS.md`, and its figure.

``python -m benchmarks.compression.tables ROWS.jsonl [FIGURE.svg]``
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.placement.rows import rows

Row = dict[str, Any]
Cell = Callable[[Sequence[Row]], str]
OURS, MARKERS = "minimax", "sv^<>Dphxd*"


def table(of: Sequence[Row], cell: Cell) -> str:
    """Return a table of methods by budgets, the most accurate method first."""
    budgets = sorted({row["budget"] for row in of}, key=_size)
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in of:
        cells[_name(row), row["budget"]].append(row)
    names = sorted({name for name, _ in cells}, key=lambda name: -_first(cells.get((name, budgets[0]), [])))
    lines = [_line(["method", *budgets]), _line(["---"] * (1 + len(budgets)))]
    lines += [_line([name, *(cell(cells.get((name, budget), [])) for budget in budgets)]) for name in names]
    return "\n".join(lines)


def _name(row: Row) -> str:
    return str(row["method"]) + (", not distilled" if row["table"] == "ablation" and not row["distill"] else "")


def _size(budget: str) -> float:
    number, unit = budget.split()
    above, _, below = number.partition("/")
    return float(above) / float(below or 1) / (100 if unit == "%" else 1)


def _first(some: Sequence[Row]) -> float:
    return mean(row["accuracy"] for row in some) if some else 0.0


def accuracy(some: Sequence[Row]) -> str:
    """Accuracy in per cent: mean and standard deviation over seeds, and the number of seeds if not three."""
    if not some:
        return ""
    accuracies = [100 * row["accuracy"] for row in some]
    spread = f" ± {stdev(accuracies):.2f}" if len(some) > 1 else ""
    return f"{mean(accuracies):.2f}{spread}{'' if len(some) == 3 else f' ({len(some)})'}"


def best(some: Sequence[Row]) -> str:
    """Best accuracy in per cent, with its setting."""
    row = max(some, key=lambda row: float(row["accuracy"]))
    width = "" if row["width"] is None else f", {row['width']} bits"
    return f"{100 * row['accuracy']:.2f} (rate {row['learning_rate']:g}{width}, T = {row['temperature']:g}; of {len(some)})"


def synops(some: Sequence[Row]) -> str:
    """Thousands of additions per sample, and kept synapses in per cent; means over seeds."""
    if not some:
        return ""
    additions = mean(row["synops"] for row in some) / 1e3
    return f"{additions:.1f} ({100 * mean(row['connectivity'] for row in some):.2g} %)"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figure(of: Sequence[Row], path: Path) -> None:
    """Plot accuracy against the share of a core, one line per method with its spread over seeds; our method in front."""
    axes = Figure(figsize=(6.4, 4.0), layout="constrained").add_subplot()
    names = sorted({row["method"] for row in of}, key=lambda name: (name == OURS, name))
    for n, name in enumerate(names):
        mine = [row for row in of if row["method"] == name]
        budgets = sorted({row["budget"] for row in mine}, key=_size)
        accuracies = [[100 * row["accuracy"] for row in mine if row["budget"] == budget] for budget in budgets]
        look = {"color": "black", "marker": "o", "linewidth": 2.4} if name == OURS else {"marker": MARKERS[n], "linewidth": 1.0}
        axes.errorbar(
            [_size(budget) for budget in budgets], [mean(some) for some in accuracies],
            yerr=[stdev(some) if len(some) > 1 else 0 for some in accuracies], label=name, markersize=5, capsize=2, **look,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    budgets = sorted({row["budget"] for row in of}, key=_size)
    axes.set_xticks([_size(budget) for budget in budgets], budgets)
    axes.set_ylabel("MNIST test accuracy of the chip's integers (%)")
    axes.set_xlabel("synapse memory, of a Loihi 1 core (784-800-10)")
    axes.legend(fontsize="small", frameon=False, ncols=2)
    axes.figure.savefig(path, metadata={"Date": None})


TABLES: dict[str, Sequence[Cell]] = {
    "tuning": (best,), "budgets": (accuracy, synops), "smoke": (accuracy,), "connectivity": (accuracy, synops),
    "ablation": (accuracy,),
}  # fmt: skip


def main() -> None:
    """Print all tables, and draw the figure if a file is named."""
    have = rows(Path(sys.argv[1]))
    for task in sorted({row["task"] for row in have}):
        for name, cells in TABLES.items():
            of = [row for row in have if (row["task"], row["table"]) == (task, name)]
            for cell in cells if of else ():
                print(f"\n{task}, {name}: {cell.__name__}\n\n{table(of, cell)}")
    if len(sys.argv) > 2:
        figure([row for row in have if (row["task"], row["table"]) == ("mnist-2fc", "budgets")], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
