"""The runs of each table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.compression.methods import ABLATIONS, BY_MAGNITUDE, METHODS
from benchmarks.compression.runs import Run

Rows = Sequence[dict[str, Any]]
TRIED_AT = {"mnist-2fc": "1/8 core", "mnist-conv": "1 core", "digits": "1/64 core"}
"""Where settings are chosen: it is tight there for each task."""
AS_FOR = {"mnist-2fc-affine": "mnist-2fc"}
"""Tasks whose settings are chosen on another: the same network, its data changed more."""
_HOT, _WARM = {"temperature": 4.0}, {"temperature": 2.0}
TRIED = [
    *({"width": width, "learning_rate": rate} | _HOT for width in (4, 5) for rate in (1e-3, 2e-3, 4e-3)),
    *({"width": width, "learning_rate": 4e-3} | _WARM for width in (4, 5)),
    *({"width": 5, "learning_rate": rate} | _WARM for rate in (8e-3, 16e-3, 32e-3, 64e-3)),
]
TRIED_WITHOUT_WIDTH = [
    *({"width": None, "learning_rate": rate} | _HOT for rate in (1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3)),
    *({"width": None, "learning_rate": rate} | _WARM for rate in (4e-3, 6e-3, 8e-3, 16e-3, 32e-3, 64e-3)),
]
"""As many for a method that chooses widths itself as for those that do not."""
TRIED_ON_IMAGES = [{"width": 8, "learning_rate": rate} for rate in (1e-3, 3e-3)]
"""Where neurons bind, and memory is there for the widest weights."""
RATES = (4e-3, 8e-3, 16e-3, 32e-3, 64e-3)
"""Tried for each method where synapses are counted, at `FEW`; the best is taken up to twice as many of them."""
FEW = "1 %"
SMOKE_RATE = 32e-3
CORES = ("1/16 core", "1/8 core", "1/4 core", "1/2 core", "1 core", "2 cores", "4 cores")
CONNECTIVITIES = ("0.5 %", "1 %", "2 %", "5 %", "10 %", "25 %")


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRequest:
    """Arguments of the command that apply to all of its tables."""

    task: str
    methods: Sequence[str]
    budgets: Sequence[str]
    seeds: Sequence[int]
    epochs: tuple[int, int]

    def run(self, table: str, method: str, budget: str, seed: int, **told: Any) -> Run:
        """Return a run of the table."""
        return Run(table=table, task=self.task, method=method, budget=budget, seed=seed, epochs=self.epochs, **told)


def dense(request: TableRequest, _: Rows) -> Iterator[Run]:
    """Dense networks to start from: trained on all training data, and on the part used to choose settings."""
    yield from (_dense(request.task, seed, choosing=False) for seed in request.seeds)
    yield _dense(request.task, 0, choosing=True)


def _dense(task: str, seed: int, choosing: bool) -> Run:
    return Run(table="dense", task=task, method="dense", budget="", seed=seed, choosing=choosing)


def before(runs: Sequence[Run]) -> list[Run]:
    """Return the dense networks that runs start from."""
    begun = [_dense(run.task, run.seed, run.choosing) for run in runs if run.method != "dense"]
    return [run for n, run in enumerate(begun) if run not in begun[:n]]


def tuning(request: TableRequest, _: Rows) -> Iterator[Run]:
    """Settings to choose from on held-out training data, at one budget: equally many for each method."""
    for method in request.methods:
        for setting in _tried(request.task, method):
            yield request.run("tuning", method, TRIED_AT[request.task], 0, choosing=True, **setting)


def _tried(task: str, method: str) -> list[dict[str, Any]]:
    chooses = METHODS[method].chooses_widths
    if task == "mnist-conv":
        return [setting | ({"width": None} if chooses else {}) for setting in TRIED_ON_IMAGES]
    return TRIED_WITHOUT_WIDTH if chooses else TRIED


def budgets(request: TableRequest, rows: Rows) -> Iterator[Run]:
    """Accuracy at each share of the chip, with the settings chosen on held-out training data."""
    for budget in request.budgets:
        for seed in request.seeds:
            for method in request.methods:
                yield request.run("budgets", method, budget, seed, **_chosen(rows, request.task, method))


def smoke(request: TableRequest, _: Rows) -> Iterator[Run]:
    """Accuracy at one learning rate for all, not tuned: a comparison of minutes."""
    for budget in request.budgets:
        for seed in request.seeds:
            for method in request.methods:
                setting = {"width": None if METHODS[method].chooses_widths else 5, "learning_rate": SMOKE_RATE} | _WARM
                yield request.run("smoke", method, budget, seed, **setting)


def rates(request: TableRequest, rows: Rows) -> Iterator[Run]:
    """Learning rates to choose from at low connectivity, on held-out training data: equally many for each method."""
    for method in request.methods:
        setting = _chosen(rows, request.task, method) | {"width": 8}
        for rate in RATES:
            yield request.run("rates", method, FEW, 0, choosing=True, **setting | {"learning_rate": rate})


def connectivity(request: TableRequest, rows: Rows) -> Iterator[Run]:
    """Accuracy where the budget is a number of synapses, each of the same cost, at 8 bits."""
    for budget in request.budgets:
        chosen_by = "rates" if _share(budget) <= 2 * _share(FEW) else "tuning"
        for seed in request.seeds:
            for method in request.methods:
                setting = _chosen(rows, request.task, method, chosen_by) | {"width": 8}
                yield request.run("connectivity", method, budget, seed, **setting)


def _share(budget: str) -> float:
    return float(budget.removesuffix(" %"))


def ablation(request: TableRequest, rows: Rows) -> Iterator[Run]:
    """Ablations: our method with one component removed at a time, and one added; by magnitude where synapses are counted."""
    for budget in request.budgets:
        counted = "%" in budget
        setting = _chosen(rows, request.task, "minimax", "rates" if counted else "tuning")
        for seed in request.seeds:
            if counted:
                yield request.run("ablation", BY_MAGNITUDE, budget, seed, **setting | {"width": 8})
                continue
            yield request.run("ablation", "minimax", budget, seed, **setting)
            yield request.run("ablation", "minimax", budget, seed, **setting, distill=0.0)
            for method in ABLATIONS:
                width = None if METHODS[method].chooses_widths else 5
                yield request.run("ablation", method, budget, seed, **setting | {"width": width})


def _chosen(rows: Rows, task: str, method: str, table: str = "tuning") -> dict[str, Any]:
    """Learning rate, width and temperature with the best accuracy on held-out training data."""
    tried = [row for row in rows if (row["table"], row["task"], row["method"]) == (table, AS_FOR.get(task, task), method)]
    if not tried:
        raise SystemExit(f"{method}: nothing to choose from; make the table {table!r} first")
    best = max(tried, key=lambda row: float(row["accuracy"]))
    return {name: best[name] for name in ("learning_rate", "width", "temperature")}


TABLES: dict[str, Callable[[TableRequest, Rows], Iterator[Run]]] = {
    "dense": dense, "tuning": tuning, "budgets": budgets, "smoke": smoke, "rates": rates, "connectivity": connectivity,
    "ablation": ablation,
}  # fmt: skip
