"""What is to be had for what: accuracy against cores, and which offers no other one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from neurodeploy.errors import RequestError
from neurodeploy.plot.style import COLOURS, UNUSED, axes_or_new, bare, plain


def pareto(
    rows: Sequence[Mapping[str, Any]], x: str = "cores", y: str = "accuracy", *, label: str = "target", ax: Axes | None = None
) -> Axes:
    """Draw rows as points, and a line along those that no other beats: none has less `x` and as much `y`.

    Parameters
    ----------
    rows : sequence of mappings
        Each with numbers under `x` (less is better) and `y` (more is better); a name under `label` is written beside the point.

    Raises
    ------
    RequestError
        There are no rows, or one has no number under `x` or `y`.
    """
    if not rows:
        raise RequestError("rows", "are none")
    for i, row in enumerate(rows):
        for key in (x, y):
            if not isinstance(row.get(key), int | float | np.number):
                raise RequestError(f"row {i}", f"has no number under {key!r}")
    ax = axes_or_new(ax)
    at = np.array([[row[x], row[y]] for row in rows], dtype=np.float64)
    front = unbeaten(at)
    ax.plot(*at[~front].T, "o", color=UNUSED, label="beaten by another")
    ax.step(*at[front][np.argsort(at[front][:, 0])].T, where="post", color=COLOURS[0], marker="o", label="not beaten")
    for row, point in zip(rows, at, strict=True):
        if label in row:
            ax.annotate(
                plain(str(row[label])), (point[0], point[1]), xytext=(5, -11), textcoords="offset points", fontsize="small"
            )
    ax.set_xlabel(plain(x.replace("_", " ")))
    ax.set_ylabel(plain(y.replace("_", " ")))
    ax.margins(0.12)
    ax.legend(frameon=False, fontsize="small")
    return bare(ax, grid="y")


def unbeaten(at: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n_rows,): whether none of the other points (n_rows, 2) has as little x and as much y, and less or more of one."""
    less, more = at[:, None, 0] <= at[None, :, 0], at[:, None, 1] >= at[None, :, 1]
    better = (at[:, None] != at[None]).any(axis=-1)
    result: np.ndarray[Any, np.dtype[np.bool_]] = ~(less & more & better).any(axis=0)
    return result
