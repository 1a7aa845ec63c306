"""Training, epoch by epoch: loss, accuracy, how far over budget, at which prices.

What is to be had for what: accuracy against cores, and which offers no other one beats.

Layer by layer: what each may use of the chip and does, and how large its weights are.

The board seen from above: which layer stands on which core, or how full cores are.

Spikes: who fired when, and how often.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from neurodeploy.errors import RequestError
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.mapping.placement import Placement
from neurodeploy.report.plot_style import (
    COLOURS,
    MOST_NAMED,
    SCALE,
    UNUSED,
    Ground,
    axes_or_new,
    bare,
    colours_of,
    ground_of,
    main_layer,
    name_lines,
    plain,
    shortened,
)
from neurodeploy.simulation.records import EpochRecord, SpikeRecord

# -------------------- plot.epochs

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

# -------------------- plot.fronts


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


# -------------------- plot.layers

_RESOURCES = {"synapse_memory_bits": "synapse memory", "input_axons": "axons in", "output_axons": "axons out"}


def budget(budget: Budget, placement: Placement | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw what each layer may use.

    Without a placement: the share of its synapse memory that a layer may keep. With one: how much of its budget the placed
    network takes, a bar for each resource; what reaches beyond the line would be too much.
    """
    names = [entry.layer for entry in budget.layers]
    rows = np.arange(len(names))
    ax = axes_or_new(ax, (6.4, min(1.2 + 0.55 * len(names), 12.0)))
    if placement is None:
        ax.barh(rows, [1.0] * len(names), color=UNUSED, alpha=0.4, height=0.6, label="as it came")
        ax.barh(rows, [entry.kept for entry in budget.layers], color=COLOURS[0], height=0.6, label="may stay")
        for row, entry in zip(rows, budget.layers, strict=True):
            binds = f"\n{entry.binds.replace('_', ' ')} bind" if entry.binds else ""
            text = f"{entry.kept:.0%}, {_cores(entry.cores)}{binds}"
            ax.text(1.02, row, text, va="center", fontsize="small")
        ax.set_xlabel("share of the layer's synapse memory")
        ax.set_xlim(0, 1)
    else:
        high = 0.8 / len(_RESOURCES)
        for i, (resource, label) in enumerate(_RESOURCES.items()):
            may = np.array([getattr(entry, resource) for entry in budget.layers], dtype=np.float64)
            used = np.array([getattr(placement.of(name), resource) for name in names], dtype=np.float64)
            share = np.divide(used, may, out=np.zeros_like(used), where=may > 0)
            ax.barh(rows + (i - 1) * high, share, height=high * 0.9, color=COLOURS[i], label=label)
        ax.axvline(1.0, color=COLOURS[5], linewidth=1.2, linestyle="--")
        ax.set_xlabel("used, as a share of the layer's budget")
        ax.set_xlim(left=0)
    ax.set_yticks(rows, shortened(names))
    ax.invert_yaxis()
    ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    ax.set_title(f"{budget.profile.name}, {_cores(budget.cores)}", pad=26, fontsize="medium")
    return bare(ax, grid="x")


def _cores(n: int) -> str:
    return f"{n:,} core{'s' if n > 1 else ''}"


def weights(network: Network | QuantizedNetwork, *, ax: Axes | None = None, bins: int = 41) -> Axes:
    """Draw how many synapses have which weight, on a logarithmic axis, layer by layer; zeros are no synapses, and left out."""
    ax = axes_or_new(ax)
    found = {layer.name: np.concatenate([c.synapse.weight.ravel() for c in layer.connections]) for layer in network}
    found = {name: array[array != 0] for name, array in found.items()}
    most = max((float(np.abs(array).max()) for array in found.values() if array.size), default=1.0)
    edges = np.linspace(-most, most, bins + 1)
    for (name, array), colour, label in zip(found.items(), colours_of(len(found)), shortened(list(found)), strict=True):
        counts, _ = np.histogram(array, edges)
        ax.stairs(counts, edges, color=colour, linewidth=1.6, label=f"{label} ({found[name].size:,})")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(bottom=0)
    whole = isinstance(network, QuantizedNetwork)
    ax.set_xlabel("weight, the chip's integer" if whole else "weight, in units of v a spike")
    ax.set_ylabel("weights stored")
    name_lines(ax, len(found))
    return bare(ax, grid="y")


# -------------------- plot.maps

_MANY_CHIPS = 64
"""So many chips can be framed and still be told apart."""


def chip(placement: Placement, by: str = "layer", *, ax: Axes | None = None) -> Axes:
    """Draw the cores of a placement where they stand on the board; chips that are not needed are left out.

    Parameters
    ----------
    by : str
        ``"layer"`` colours a core by the layer with most neurons on it; a resource that the chip limits, such as
        ``"synapse_memory_bits"``, by the share of it that is used. Cores that nobody uses are grey.

    Raises
    ------
    RequestError
        The chip has no limit of that resource.
    """
    if by != "layer" and by not in placement.resources:
        raise RequestError("by", f"{by!r} is neither 'layer' nor a resource of {placement.profile.name}",
                           remedy=f"Take one of {', '.join(placement.resources)}.")  # fmt: skip
    ground = ground_of(placement)
    wide, high = ground.size
    ax = axes_or_new(ax, (min(max(4.0, 0.28 * wide + 2.2), 13.0), min(max(2.6, 0.28 * high + 1.0), 9.0)))
    columns = list(placement.resources)
    if by == "layer":
        names = list(placement.n_pairs)
        colours = dict(zip(names, colours_of(len(names)), strict=True))
        fill = {core: to_rgba(colours[name]) for core, name in main_layer(placement).items()}
        _legend(ax, names, colours)
    else:
        share = placement.utilizations()[:, columns.index(by)]
        scale = ScalarMappable(Normalize(0, max(1.0, float(share.max()))), SCALE)
        fill = dict(zip(placement.cores, map(tuple, scale.to_rgba(share)), strict=True))
        scale.set_array([])
        ax.figure.colorbar(scale, ax=ax, label=f"share of {by.replace('_', ' ')} used", shrink=0.8)
    _paint(ax, ground, fill)
    chips = placement.profile["chips"].number
    on_chips = f", {placement.chips_used:,} of {chips:,} chips" if chips > 1 else ""
    used = f"{placement.cores_used:,} of {placement.cores_available:,} cores{on_chips}"
    ax.set_title(plain(f"{placement.profile.name}: {used}"), fontsize="medium")
    return ax


def _paint(ax: Axes, ground: Ground, fill: Mapping[int, tuple[float, ...]]) -> None:
    """One picture, a pixel a core: thousands of cores are drawn at once."""
    wide, high = ground.size
    picture = np.zeros((high, wide, 4))
    picture[ground.y, ground.x] = to_rgba(UNUSED, 0.45)
    used = np.array([core in fill for core in ground.cores.tolist()])
    picture[ground.y[used], ground.x[used]] = [fill[core] for core in ground.cores[used].tolist()]
    ax.imshow(picture, interpolation="nearest", extent=(0, wide, high, 0))
    if max(wide, high) <= 80:
        for edge in np.arange(wide + 1):
            ax.axvline(edge, color="white", linewidth=0.8)
        for edge in np.arange(high + 1):
            ax.axhline(edge, color="white", linewidth=0.8)
    if len(ground.chips) <= _MANY_CHIPS:
        for box in ground.chips:
            ax.add_patch(Rectangle((box.x, box.y), ground.columns, ground.rows, fill=False, edgecolor=UNUSED, linewidth=1.0))
            if len(ground.chips) > 1:
                ax.text(box.x + 0.2, box.y - 0.15, f"chip {box.chip}", fontsize="x-small", va="bottom")
    ax.set_axis_off()


def _legend(ax: Axes, names: list[str], colours: dict[str, str]) -> None:
    """Each layer while there are few; where there are many, some of them from first to last."""
    shown = names if len(names) <= MOST_NAMED else [names[i] for i in np.linspace(0, len(names) - 1, 8).round().astype(int)]
    handles = [Patch(color=colours[name], label=label) for name, label in zip(shown, shortened(shown), strict=True)]
    title = "layer with most neurons" if shown is names else f"{len(names)} layers, first to last"
    ax.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")


# -------------------- plot.spikes

_MOST_ROWS = 4_000
"""Neurons that are drawn; a picture has no more rows to show."""


def raster(record: SpikeRecord, layer: str | None = None, sample: int = 0, *, ax: Axes | None = None) -> Axes:
    """Draw the spikes of one sample, a row a neuron, layer below layer; of large layers some neurons, evenly chosen.

    Parameters
    ----------
    layer : str, optional
        One layer alone; all that were recorded by default.
    sample : int
        Counted from 0.

    Raises
    ------
    RequestError
        The record has no such layer or sample.
    """
    names = list(record.spikes) if layer is None else [layer]
    if layer is not None and layer not in record.spikes:
        raise RequestError("layer", f"{layer!r} was not recorded", remedy=f"Take one of {', '.join(record.spikes)}.")
    if not 0 <= sample < record.n_samples:
        raise RequestError("sample", f"{sample} is outside 0..{record.n_samples - 1}")
    ax = axes_or_new(ax, (6.4, 4.4))
    whole = {name: record.spikes[name][sample].reshape(-1, record.n_steps) for name in names}
    most = max(_MOST_ROWS // len(names), 1)
    rows = {name: spikes[np.linspace(0, len(spikes) - 1, min(len(spikes), most)).astype(int)] for name, spikes in whole.items()}
    counts = [
        f"{len(whole[name]):,}" if len(rows[name]) == len(whole[name]) else f"{most:,} of {len(whole[name]):,}" for name in names
    ]
    picture = np.zeros((sum(map(len, rows.values())), record.n_steps, 4))
    start, ticks = 0, []
    for spikes, colour in zip(rows.values(), colours_of(len(rows)), strict=True):
        picture[start : start + len(spikes)][spikes > 0] = to_rgba(colour)
        ticks.append(start + len(spikes) / 2)
        start += len(spikes)
        ax.axhline(start, color=UNUSED, linewidth=0.6)
    ax.imshow(picture, aspect="auto", interpolation="nearest", extent=(-0.5, record.n_steps - 0.5, start, 0))
    if len(names) <= MOST_NAMED:
        ax.set_yticks(ticks, [f"{label}\n{count}" for label, count in zip(shortened(names, 16), counts, strict=True)])
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(names)} layers, first above")
    ax.set_xlabel("step")
    ax.set_title(
        plain(f"{record.end.capitalize()}, sample {sample}: {sum(int(s.sum()) for s in whole.values()):,} spikes"),
        fontsize="medium",
    )
    return bare(ax)


def rates(record: SpikeRecord, *, ax: Axes | None = None, bins: int = 20) -> Axes:
    """Draw how many neurons of each layer fire how often, in spikes a step, over all samples of a record."""
    ax = axes_or_new(ax)
    edges = np.linspace(0, 1, bins + 1)
    labels = shortened(list(record.spikes))
    for array, colour, label in zip(record.spikes.values(), colours_of(len(labels)), labels, strict=True):
        each = array.mean(axis=(0, -1)).ravel()
        counts, _ = np.histogram(each, edges)
        ax.stairs(counts / each.size, edges, color=colour, linewidth=1.6, label=f"{label} (mean {each.mean():.3f})")
    ax.set_xlabel("spikes a step")
    ax.set_ylabel("share of neurons")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    name_lines(ax, len(labels))
    return bare(ax, grid="y")
