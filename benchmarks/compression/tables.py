"""The tables of `benchmarks/RESULTS.md`, and the README's figure.

``python -m benchmarks.compression.tables ROWS.jsonl [FIGURE.svg]``
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib.figure import Figure

from benchmarks.placement.rows import rows

Row = dict[str, Any]
OURS, MARKERS = "minimax", "sv^<>Dphxd*"


def table(of: Sequence[Row]) -> str:
    """Accuracy in per cent by method and budget: mean and standard deviation over seeds, and how many there were if not three."""
    budgets = sorted({row["budget"] for row in of}, key=_size)
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in of:
        cells[_name(row), row["budget"]].append(row)
    names = sorted({name for name, _ in cells}, key=lambda name: -_first(cells.get((name, budgets[0]), [])))
    lines = [_line(["method", *budgets]), _line(["---"] * (1 + len(budgets)))]
    lines += [_line([name, *(_cell(cells.get((name, budget), [])) for budget in budgets)]) for name in names]
    return "\n".join(lines)


def _name(row: Row) -> str:
    return str(row["method"]) + (", not distilled" if row["table"] == "ablation" and not row["distill"] else "")


def _size(budget: str) -> float:
    number, unit = budget.split()
    above, _, below = number.partition("/")
    return float(above) / float(below or 1) / (100 if unit == "%" else 1)


def _first(some: Sequence[Row]) -> float:
    return mean(row["accuracy"] for row in some) if some else 0.0


def _cell(some: Sequence[Row]) -> str:
    if not some:
        return ""
    accuracies = [100 * row["accuracy"] for row in some]
    spread = f" ± {stdev(accuracies):.2f}" if len(some) > 1 else ""
    return f"{mean(accuracies):.2f}{spread}{'' if len(some) == 3 else f' ({len(some)})'}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def figure(of: Sequence[Row], path: Path) -> None:
    """Accuracy against the share of a core, a line a method with its spread over seeds; ours in front."""
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


def main() -> None:
    """Print them all, and draw the budgets if a file for them is named."""
    have = rows(Path(sys.argv[1]))
    for task in sorted({row["task"] for row in have}):
        for name in ("tuning", "budgets", "connectivity", "ablation"):
            of = [row for row in have if (row["task"], row["table"]) == (task, name)]
            if of:
                print(f"\n{task}, {name}\n\n{table(of)}")
    if len(sys.argv) > 2:
        figure([row for row in have if (row["task"], row["table"]) == ("mnist-2fc", "budgets")], Path(sys.argv[2]))


if __name__ == "__main__":
    main()
