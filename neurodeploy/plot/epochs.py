"""Training, epoch by epoch: loss, accuracy, how far over budget, at which prices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from neurodeploy.errors import RequestError
from neurodeploy.plot.style import COLOURS, UNUSED, bare, plain
from neurodeploy.records import EpochRecord

History = Sequence[EpochRecord]
WHAT = ("loss", "accuracy", "overruns", "multipliers")
_NAMED = 4
"""So many prices are drawn by name."""


def training(
    history: History, show: Sequence[str] = WHAT, *, ax: Axes | Sequence[Axes] | NDArray[np.object_] | None = None
) -> NDArray[np.object_]:
    """Draw a training run.

    Parameters
    ----------
    history : sequence of EpochRecord
        As `neurodeploy.fit` gives it.
    show : sequence of str
        Which of ``"loss"``, ``"accuracy"``, ``"overruns"`` and ``"multipliers"``, a panel each.
    ax : one or several Axes, optional
        As many as there are panels.

    Returns
    -------
    array of Axes

    Raises
    ------
    RequestError
        An empty history, a panel of another name, or not as many axes as panels.
    """
    if not history:
        raise RequestError("history", "holds no epoch", remedy="Give what neurodeploy.fit returned.")
    unknown = [what for what in show if what not in _PANELS]
    if unknown or not show:
        what = repr(unknown[0]) if unknown else "nothing"
        raise RequestError("show", f"{what} is no panel", remedy=f"Take some of {', '.join(WHAT)}.")
    if ax is None:
        _, drawn = plt.subplots(1, len(show), figsize=(3.4 * len(show), 2.8), layout="constrained", squeeze=False)
        panels = drawn.ravel()
    else:
        panels = np.atleast_1d(np.array(ax, dtype=object)).ravel()
    if len(panels) != len(show):
        raise RequestError("ax", f"{len(panels)} axes for {len(show)} panels")
    for panel, what in zip(panels, show, strict=True):
        _PANELS[what](panel, history)
        _phases(panel, history)
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        bare(panel, grid="y")
    return panels


def _phases(ax: Axes, history: History) -> None:
    """A line where a phase begins, and its name."""
    for i, epoch in enumerate(history):
        if i == 0 or epoch.phase != history[i - 1].phase:
            ax.axvline(i - 0.5, color=UNUSED, linewidth=0.8)
            ax.text(i - 0.4, 1.01, plain(epoch.phase), transform=ax.get_xaxis_transform(), fontsize="x-small", va="bottom")
    ax.set_xlim(-0.5, len(history) - 0.5)


def _loss(ax: Axes, history: History) -> None:
    ax.plot([epoch.loss for epoch in history], color=COLOURS[0], marker=".")
    ax.set_ylabel("loss, training")
    ax.set_ylim(bottom=0)


def _accuracy(ax: Axes, history: History) -> None:
    ax.plot([epoch.train_accuracy for epoch in history], color=COLOURS[0], marker=".", label="training")
    tested = [(i, epoch.test_accuracy) for i, epoch in enumerate(history) if epoch.test_accuracy is not None]
    if tested:
        ax.plot(*zip(*tested, strict=True), color=COLOURS[1], marker="s", markersize=4, label="held out")
    ax.plot([epoch.connectivity for epoch in history], color=COLOURS[2], linestyle="--", label="weights kept")
    ax.set_ylabel("share")
    ax.set_ylim(0, 1.03)
    ax.legend(frameon=False, fontsize="x-small", loc="lower left")


def _overruns(ax: Axes, history: History) -> None:
    worst = [max(epoch.overruns.values(), default=np.nan) for epoch in history]
    ax.plot(worst, color=COLOURS[5], marker=".")
    ax.axhline(0, color=UNUSED, linewidth=0.8, linestyle="--")
    ax.set_ylabel("worst usage over budget, less one")
    if np.isnan(worst).all():
        _nothing(ax, "trained without a budget")


def _multipliers(ax: Axes, history: History) -> None:
    last: dict[str, float] = {}
    for epoch in history:
        last |= {name: max(value, last.get(name, 0.0)) for name, value in epoch.multipliers.items()}
    dearest = sorted(last, key=lambda name: -last[name])
    for name in reversed(dearest[_NAMED:]):
        ax.plot([epoch.multipliers.get(name, np.nan) for epoch in history], color=UNUSED, linewidth=0.7)
    for name, colour in zip(dearest[:_NAMED], COLOURS, strict=False):
        label = plain(name.replace("_", " "))
        ax.plot([epoch.multipliers.get(name, np.nan) for epoch in history], color=colour, marker=".", label=label)
    ax.set_ylabel("price of a unit")
    if dearest:
        ax.legend(frameon=False, fontsize="xx-small", title="dearest constraints", title_fontsize="x-small")
    else:
        _nothing(ax, "no prices: trained without a budget")


def _nothing(ax: Axes, why: str) -> None:
    ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", fontsize="small")


_PANELS: dict[str, Callable[[Axes, History], None]] = {
    "loss": _loss, "accuracy": _accuracy, "overruns": _overruns, "multipliers": _multipliers,
}  # fmt: skip
