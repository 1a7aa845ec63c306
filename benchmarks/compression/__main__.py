"""Command line: compute tables in order, their runs in parallel, and write each row when it is finished."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.compression.bench import make
from benchmarks.compression.methods import METHODS, RIVALRY
from benchmarks.compression.plans import CONNECTIVITIES, CORES, TABLES, TableRequest, before
from benchmarks.compression.runs import Place
from benchmarks.compression.tasks import TASKS
from benchmarks.placement.rows import commit, rows


def main() -> None:
    """Compute the tables that the command line names."""
    asked = _asked()
    asked.cache.mkdir(parents=True, exist_ok=True)
    place = Place(mnist=asked.mnist, folder=asked.cache, device=asked.device, amp=asked.amp)
    until = time.time() + asked.minutes * 60
    for table in asked.tables:
        known = CONNECTIVITIES if table == "connectivity" else CORES
        request = TableRequest(
            task=asked.task,
            methods=asked.methods,
            budgets=asked.budgets or known,
            seeds=asked.seeds,
            epochs=tuple(asked.epochs),
        )
        planned = list(TABLES[table](request, rows(asked.out)))
        make([*before(planned), *planned], place, out=asked.out, commit=asked.commit, jobs=asked.jobs, until=until)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Accuracy of networks that are compressed into a memory budget")
    parser.add_argument("tables", nargs="+", choices=list(TABLES))
    parser.add_argument("--mnist", type=Path, help="x_train, y_train, x_test, y_test in an .npz file")
    parser.add_argument("--out", type=Path, required=True, help="a file to which rows are added")
    parser.add_argument("--cache", type=Path, required=True, help="a folder for the dense networks")
    parser.add_argument("--task", default="mnist-2fc", choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(RIVALRY), choices=list(METHODS))
    parser.add_argument("--budgets", nargs="+", help="for example '1/8 core', or '2 %%'; by default all of the table")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", nargs=2, type=int, default=[8, 4], metavar=("COMPRESS", "FINETUNE"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", choices=["bf16"], help="half precision in the matrix products while training")
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel")
    parser.add_argument("--minutes", type=float, default=1e6, help="minutes after which no further run starts")
    parser.add_argument("--commit", default=None, help="where the checkout is not a repository")
    asked = parser.parse_args()
    asked.commit = asked.commit or commit()
    return asked


if __name__ == "__main__":
    main()
