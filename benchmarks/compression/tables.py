"""The tables of `benchmarks/RESULTS.md`, from the rows: ``python -m benchmarks.compression.tables ROWS.jsonl``."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.placement.rows import rows

Row = dict[str, Any]


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


def main() -> None:
    """Print them all."""
    have = rows(Path(sys.argv[1]))
    for task in sorted({row["task"] for row in have}):
        for name in ("tuning", "budgets", "connectivity", "ablation"):
            of = [row for row in have if (row["task"], row["table"]) == (task, name)]
            if of:
                print(f"\n{task}, {name}\n\n{table(of)}")


if __name__ == "__main__":
    main()
