"""Plots of a network, its training, its budget, its placement and its spikes; `neurodeploy.plot`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch, Rectangle
from numpy.typing import NDArray

from neurodeploy.errors import RequestError, check_arguments, counted
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.budget import Budget
from neurodeploy.mapping.placement import Placement
from neurodeploy.report.front import front
from neurodeploy.report.plot_style import (
    BOX,
    COLOURS,
    MOST_NAMED,
    SCALE,
    UNUSED,
    CoreGrid,
    NetworkDrawing,
    axes_or_new,
    bare,
    colours_of,
    core_grid,
    main_layer,
    name_lines,
    plain,
    shortened,
)
from neurodeploy.simulation.records import EpochRecord, SpikeRecord

__all__ = ["budget", "chip", "front", "network", "raster", "rates", "training", "weights"]
History = Sequence[EpochRecord]
TRAINING_PANELS = ("loss", "accuracy", "overruns", "multipliers")
_MOST_CONSTRAINTS_NAMED = 4
_LETTER, _ROW_OF_NAMES = 0.03, 0.07
"""Width of a letter of a phase's name, and height of a row of them, as shares of a panel."""
_MOST_FRAMED_CHIPS = 64
"""More frames of chips could not be told apart."""
_MOST_ROWS, _MOST_COLUMNS = 300, 300
"""Neurons and steps that a raster draws; the page's figure has no more pixels: a spike of another row would vanish."""
_RESOURCES = {"synapse_memory_bits": "synapse memory", "input_axons": "axons in", "output_axons": "axons out"}
BELOW: Mapping[str, Any] = MappingProxyType({"loc": "upper center", "bbox_to_anchor": (0.5, -0.2)})
"""Place of a legend below the name of the x axis, where it covers no data."""


@check_arguments
def network(network: Network | QuantizedNetwork, *, ax: Axes | None = None) -> Axes:
    """Draw a network as a graph: layers from left to right, an arrow per connection, skips above, loops below.

    A box shows a layer's name, shape and kind of neuron. An arrow shows its number of synapses, and its delay if it has one.
    """
    ax = axes_or_new(ax, network_size(network))
    drawing, (wide, high) = NetworkDrawing(network), BOX
    graph = drawing.graph
    for (name, node), label in zip(graph.nodes(data=True), shortened(list(graph), 14), strict=True):
        x, y = drawing.places[name]
        ax.add_patch(FancyBboxPatch(
            (x - wide / 2, y - high / 2), wide, high, boxstyle="round,pad=0,rounding_size=0.06", facecolor=COLOURS[4], alpha=0.25,
        ))  # fmt: skip
        lines = [
            label,
            " x ".join(map(str, node["shape"])),
            *([node["neuron"].removeprefix("Quantized")] if node["neuron"] else []),
        ]
        ax.text(x, y, "\n".join(lines), ha="center", va="center", fontsize="small")
    for source, target, parallel, edge in graph.edges(keys=True, data=True):
        start, end, bend, at = drawing.arrow(source, target)
        ax.add_patch(FancyArrowPatch(
            start, end, connectionstyle=f"arc3,rad={bend + 0.4 * parallel}", arrowstyle="-|>", mutation_scale=9, color=COLOURS[0],
            shrinkA=0, shrinkB=0, linewidth=1.2,
        ))  # fmt: skip
        text = f"{edge['n_synapses']:,}" + (f", +{counted(edge['delay_steps'], 'step')}" if edge["delay_steps"] else "")
        ax.text(at[0], at[1] - 0.16 * parallel, text, ha="center", va="center", fontsize="x-small")
    low, left, top, right = drawing.limits()
    ax.set_xlim(left, right)
    ax.set_ylim(low, top)
    ax.set_axis_off()
    return ax


def network_size(network: Network | QuantizedNetwork) -> tuple[float, float]:
    """Width and height, in inches, in which `network` draws a graph legibly; at most 16 x 9."""
    low, left, top, right = NetworkDrawing(network).limits()
    return min(1.5 * (right - left), 16.0), min(1.4 * (top - low), 9.0)


@check_arguments
def training(
    history: History, show: Sequence[str] = TRAINING_PANELS, *, ax: Axes | Sequence[Axes] | NDArray[np.object_] | None = None
) -> NDArray[np.object_]:
    """Draw a training run.

    Parameters
    ----------
    history : sequence of EpochRecord
        As `neurodeploy.fit` returns it.
    show : sequence of str
        Panels to draw, from ``"loss"``, ``"accuracy"``, ``"overruns"`` and ``"multipliers"``.
    ax : one or several Axes, optional
        One per panel.

    Returns
    -------
    array of Axes

    Raises
    ------
    RequestError
        An empty history, an unknown panel, or another number of axes than of panels.
    """
    if not history:
        raise RequestError("history", "holds no epoch", remedy="Pass the history that neurodeploy.fit returned.")
    unknown = [what for what in show if what not in TRAINING_PANELS]
    if unknown or not show:
        what = repr(unknown[0]) if unknown else "nothing"
        raise RequestError("show", f"{what} is no panel", remedy=f"Select from {', '.join(TRAINING_PANELS)}.")
    if ax is None:
        _, drawn = plt.subplots(1, len(show), figsize=(3.4 * len(show), 3.4), layout="constrained", squeeze=False)
        panels = drawn.ravel()
    else:
        panels = np.atleast_1d(np.array(ax, dtype=object)).ravel()
    if len(panels) != len(show):
        raise RequestError("ax", f"{len(panels)} axes for {len(show)} panels")
    drawer = _TrainingPanels(history)
    for panel, what in zip(panels, show, strict=True):
        # `what` was checked against TRAINING_PANELS, the names of the methods
        getattr(drawer, what)(panel)
        drawer.mark_phases(panel)
        panel.set_xlabel("epoch")
        # epochs are whole
        panel.xaxis.get_major_locator().set_params(integer=True)
        # a common factor above the axis, matplotlib's default for small numbers, would cover the name of a phase
        panel.yaxis.set_major_formatter("{x:.4g}")
        bare(panel, grid="y")
    return panels


@dataclass(frozen=True)
class _TrainingPanels:
    """The panels of `training`, a method for each of `TRAINING_PANELS`."""

    history: History

    @property
    def epochs(self) -> range:
        """Numbers of the epochs: from 1, as progress counts them."""
        return range(1, len(self.history) + 1)

    def mark_phases(self, ax: Axes) -> None:
        """Draw a line and a name where a phase starts; a name that would cover the one before it stands above that."""
        ends = list[float]()  # of the last name in each row of names, in epochs
        for i, epoch in zip(self.epochs, self.history, strict=True):
            if i == 1 or epoch.phase != self.history[i - 2].phase:
                ax.axvline(i - 0.5, color=UNUSED, linewidth=0.8)
                row = next((row for row, end in enumerate(ends) if end <= i), len(ends))
                ends[row : row + 1] = [i + _LETTER * len(epoch.phase) * len(self.history)]
                at, across = (i - 0.4, 1.01 + _ROW_OF_NAMES * row), ax.get_xaxis_transform()
                ax.text(*at, plain(epoch.phase), transform=across, fontsize="x-small", va="bottom")
        ax.set_xlim(0.5, len(self.history) + 0.5)

    def loss(self, ax: Axes) -> None:
        """Training loss."""
        ax.plot(self.epochs, [epoch.loss for epoch in self.history], color=COLOURS[0], marker=".")
        ax.set_ylabel("loss, training")
        ax.set_ylim(bottom=0)

    def accuracy(self, ax: Axes) -> None:
        """Accuracies, and the share of weights kept."""
        ax.plot(self.epochs, [epoch.train_accuracy for epoch in self.history], color=COLOURS[0], marker=".", label="training")
        tested = [(i, epoch.test_accuracy) for i, epoch in enumerate(self.history, 1) if epoch.test_accuracy is not None]
        if tested:
            ax.plot(*zip(*tested, strict=True), color=COLOURS[1], marker="s", markersize=4, label="test")
        ax.plot(
            self.epochs, [epoch.connectivity for epoch in self.history], color=COLOURS[2], linestyle="--", label="weights kept"
        )
        ax.set_ylabel("share")
        ax.set_ylim(0, 1.03)
        ax.legend(frameon=False, fontsize="x-small", ncols=3, **BELOW)

    def overruns(self, ax: Axes) -> None:
        """Largest usage / budget - 1: the overrun as a share of the budget."""
        worst = [max(epoch.overruns.values(), default=np.nan) for epoch in self.history]
        ax.plot(self.epochs, worst, color=COLOURS[5], marker=".")
        ax.axhline(0, color=UNUSED, linewidth=0.8, linestyle="--")
        ax.set_ylabel("largest overrun / budget")
        if np.isnan(worst).all():
            ax.text(0.5, 0.5, "trained without a budget", transform=ax.transAxes, ha="center", fontsize="small")

    def multipliers(self, ax: Axes) -> None:
        """Shadow price of each constraint; the highest are named."""
        highest: dict[str, float] = {}
        for epoch in self.history:
            highest |= {name: max(value, highest.get(name, 0.0)) for name, value in epoch.multipliers.items()}
        names = sorted(highest, key=lambda name: -highest[name])
        # drawn from the lowest up: the highest of the grey lines is on top
        for name in reversed(names[_MOST_CONSTRAINTS_NAMED:]):
            ax.plot(self.epochs, [epoch.multipliers.get(name, np.nan) for epoch in self.history], color=UNUSED, linewidth=0.7)
        labels = shortened([name.replace("_", " ") for name in names[:_MOST_CONSTRAINTS_NAMED]], 48)
        for number, (name, colour, label) in enumerate(zip(names, COLOURS, labels, strict=False)):
            prices = [epoch.multipliers.get(name, np.nan) for epoch in self.history]
            # slices of one core have equal prices: each line is narrower than the one below it, so that all are seen
            ax.plot(self.epochs, prices, color=colour, marker=".", label=label, linewidth=6.5 - 1.5 * number)
        ax.set_ylabel("shadow price")
        if names:
            ax.legend(frameon=False, fontsize="xx-small", title="highest prices", title_fontsize="x-small", **BELOW)
        else:
            ax.text(0.5, 0.5, "no prices: trained without a budget", transform=ax.transAxes, ha="center", fontsize="small")


@check_arguments
def budget(budget: Budget, placement: Placement | None = None, *, ax: Axes | None = None) -> Axes:
    """Draw the budget of each layer.

    Without a placement: the share of its synapse memory that a layer may keep. With one: the share of its budget that the
    placed network uses, a bar for each resource; bars beyond the dashed line exceed the budget.
    """
    limits = budget.layers if placement is None else budget.placed(placement)
    names = [entry.layer for entry in limits]
    rows = np.arange(len(names))
    ax = axes_or_new(ax, (6.4, min(1.2 + 0.55 * len(names), 12.0)))
    if placement is None:
        ax.barh(rows, [1.0] * len(names), color=UNUSED, alpha=0.4, height=0.6, label="unpruned")
        ax.barh(rows, [entry.kept for entry in budget.layers], color=COLOURS[0], height=0.6, label="may be kept")
        for row, entry in zip(rows, budget.layers, strict=True):
            binds = f"\n{entry.binds.replace('_', ' ')} bind" if entry.binds else ""
            ax.text(1.02, row, f"{entry.kept:.0%}, {counted(entry.cores, 'core')}{binds}", va="center", fontsize="small")
        ax.set_xlabel("share of the layer's synapse memory")
        ax.set_xlim(0, 1)
    else:
        limited = {name: label for name, label in _RESOURCES.items() if "axons" not in name or name in placement.resources}
        high = 0.8 / len(limited)
        for i, (resource, label) in enumerate(limited.items()):
            limit = np.array([getattr(entry, resource) for entry in limits], dtype=np.float64)
            used = np.array([getattr(placement.of(name), resource) for name in names], dtype=np.float64)
            # a limit of 0 is drawn as nothing used
            share = np.divide(used, limit, out=np.zeros_like(used), where=limit > 0)
            ax.barh(rows + (i - (len(limited) - 1) / 2) * high, share, height=high * 0.9, color=COLOURS[i], label=label)
        ax.axvline(1.0, color=COLOURS[5], linewidth=1.2, linestyle="--")
        ax.set_xlabel("used, as a share of the layer's budget")
        ax.set_xlim(left=0)
    ax.set_yticks(rows, shortened(names))
    # matplotlib counts rows from the bottom; the first layer belongs on top
    ax.invert_yaxis()
    ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    ax.set_title(f"{budget.profile.name}, {counted(budget.cores, 'core')}", pad=26, fontsize="medium")
    return bare(ax, grid="x")


@check_arguments
def weights(network: Network | QuantizedNetwork, *, ax: Axes | None = None, bins: int = 41) -> Axes:
    """Draw a histogram of each layer's weights on a logarithmic axis; zeros are not synapses, and left out."""
    ax = axes_or_new(ax)
    found = {layer.name: np.concatenate([c.synapse.weight.ravel() for c in layer.connections]) for layer in network}
    found = {name: array[array != 0] for name, array in found.items()}
    most = max((float(np.abs(array).max()) for array in found.values() if array.size), default=1.0)
    edges = np.linspace(-most, most, bins + 1)
    for (name, array), colour, label in zip(found.items(), colours_of(len(found)), shortened(list(found)), strict=True):
        counts, _ = np.histogram(array, edges)
        ax.stairs(counts, edges, color=colour, linewidth=1.6, label=f"{label} ({found[name].size:,})")
    # symlog: bins with no weight have no logarithm
    ax.set_yscale("symlog", linthresh=1)
    ax.set_ylim(bottom=0)
    whole = isinstance(network, QuantizedNetwork)
    ax.set_xlabel("weight, the chip's integer" if whole else "weight, in units of v per spike")
    ax.set_ylabel("weights stored")
    name_lines(ax, len(found))
    return bare(ax, grid="y")


@check_arguments
def chip(placement: Placement, by: str = "layer", *, ax: Axes | None = None) -> Axes:
    """Draw the cores of a placement at their positions on the board; unused chips are left out.

    Parameters
    ----------
    by : str
        ``"layer"`` colours a core by the layer with most neurons on it; a resource that the chip limits, such as
        ``"synapse_memory_bits"``, by its utilisation. Unused cores are grey.

    Raises
    ------
    RequestError
        The chip has no limit of that resource.
    """
    if by != "layer" and by not in placement.resources:
        raise RequestError("by", f"{by!r} is neither 'layer' nor a resource of {placement.profile.name}",
                           remedy=f"Select one of {', '.join(placement.resources)}.")  # fmt: skip
    grid = core_grid(placement)
    wide, high = grid.size
    ax = axes_or_new(ax, (min(max(4.0, 0.28 * wide + 2.2), 13.0), min(max(2.6, 0.28 * high + 1.0), 9.0)))
    columns = list(placement.resources)
    if by == "layer":
        names = list(placement.weight_bits)
        colours = dict(zip(names, colours_of(len(names)), strict=True))
        fill = {core: to_rgba(colours[name]) for core, name in main_layer(placement).items()}
        # all layers by name where there are few of them, else some from first to last
        picked = range(len(names)) if len(names) <= MOST_NAMED else np.linspace(0, len(names) - 1, 8).round().astype(int)
        shown = [names[i] for i in picked]
        handles = [Patch(color=colours[name], label=label) for name, label in zip(shown, shortened(shown), strict=True)]
        title = "layer with most neurons" if len(names) <= MOST_NAMED else f"{len(names)} layers, first to last"
        ax.legend(handles=handles, title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")
    else:
        share = placement.utilizations()[:, columns.index(by)]
        scale = ScalarMappable(Normalize(0, max(1.0, float(share.max()))), SCALE)
        fill = dict(zip(placement.cores, map(tuple, scale.to_rgba(share)), strict=True))
        # a colour bar asks for an array, even an empty one
        scale.set_array([])
        ax.figure.colorbar(scale, ax=ax, label=f"share of {by.replace('_', ' ')} used", shrink=0.8)
    _paint(ax, grid, fill)
    chips = placement.profile["chips"].number
    on_chips = f", {placement.chips_used:,} of {chips:,} chips" if chips > 1 else ""
    used = f"{placement.cores_used:,} of {counted(placement.cores_available, 'core')}{on_chips}"
    ax.set_title(plain(f"{placement.profile.name}: {used}"), fontsize="medium")
    return ax


def _paint(ax: Axes, grid: CoreGrid, fill: Mapping[int, tuple[float, ...]]) -> None:
    """Draw all cores as one image, a pixel per core: thousands of rectangles would take minutes."""
    wide, high = grid.size
    picture = np.zeros((high, wide, 4))
    # an image's first axis is its rows, from the top
    picture[grid.y, grid.x] = to_rgba(UNUSED, 0.45)
    used = np.array([core in fill for core in grid.cores.tolist()])
    picture[grid.y[used], grid.x[used]] = [fill[core] for core in grid.cores[used].tolist()]
    ax.imshow(picture, interpolation="nearest", extent=(0, wide, high, 0))
    # white lines between more cores than that would cover the cores
    if max(wide, high) <= 80:
        for edge in np.arange(wide + 1):
            ax.axvline(edge, color="white", linewidth=0.8)
        for edge in np.arange(high + 1):
            ax.axhline(edge, color="white", linewidth=0.8)
    if len(grid.chips) <= _MOST_FRAMED_CHIPS:
        for box in grid.chips:
            ax.add_patch(Rectangle((box.x, box.y), grid.columns, grid.rows, fill=False, edgecolor=UNUSED, linewidth=1.0))
            if len(grid.chips) > 1:
                ax.text(box.x + 0.2, box.y - 0.15, f"chip {box.chip}", fontsize="x-small", va="bottom")
    ax.set_axis_off()


def raster_height(n_layers: int) -> float:
    """Return the height of a raster in inches: labels of two lines stand below each other."""
    return max(4.2, 1.2 + 0.5 * min(n_layers, MOST_NAMED))


def _first_to_fire(spikes: NDArray[Any], most: int) -> NDArray[np.bool_]:
    """Return what a raster draws of a layer, (n_neurons, n_steps): the neurons that fire first, in their order, and silent ones.

    Several steps become one column, with a spike where there was one in any of them, if there are more than a figure can show.
    """
    fired, n_steps = spikes > 0, spikes.shape[1]
    firsts = np.where(fired.any(axis=1), fired.argmax(axis=1), n_steps)
    rows = fired[np.sort(np.argsort(firsts, kind="stable")[:most])]
    columns = np.arange(0, n_steps, -(-n_steps // _MOST_COLUMNS))
    return np.logical_or.reduceat(rows, columns, axis=1)


@check_arguments
def raster(record: SpikeRecord, layer: str | None = None, sample: int = 0, *, ax: Axes | None = None) -> Axes:
    """Draw the spikes of one sample, one row per neuron, layer below layer; of large layers the neurons that fire first.

    A mark is never narrower than a pixel: where there are many steps, it stands for several.

    Parameters
    ----------
    layer : str, optional
        The layer to draw; by default all that were recorded.
    sample : int
        Index of the sample.

    Raises
    ------
    RequestError
        The record has no such layer or sample.
    """
    names = list(record.spikes) if layer is None else [layer]
    if layer is not None and layer not in record.spikes:
        raise RequestError("layer", f"{layer!r} was not recorded", remedy=f"Select one of {', '.join(record.spikes)}.")
    if not 0 <= sample < record.n_samples:
        raise RequestError("sample", f"{sample} is outside 0..{record.n_samples - 1}")
    ax = axes_or_new(ax, (6.4, raster_height(len(names))))
    # (n_neurons, n_steps), whatever the shape of the layer
    whole = {name: record.spikes[name][sample].reshape(-1, record.n_steps) for name in names}
    rows = {name: _first_to_fire(spikes, max(_MOST_ROWS // len(names), 1)) for name, spikes in whole.items()}
    n_rows, top, ticks, labels = sum(map(len, rows.values())), 0.0, [], []
    for (name, spikes), label, colour in zip(rows.items(), shortened(names, 16), colours_of(len(rows)), strict=True):
        # half of the height in equal parts: a layer of one neuron is seen, and its label has room
        bottom = top + 0.5 / len(rows) + 0.5 * len(spikes) / n_rows
        picture = np.zeros((*spikes.shape, 4))
        picture[spikes] = to_rgba(colour)
        ax.imshow(picture, aspect="auto", interpolation="nearest", extent=(-0.5, record.n_steps - 0.5, bottom, top))
        ax.axhline(bottom, color=UNUSED, linewidth=0.6)
        ticks.append((top + bottom) / 2)
        n = len(whole[name])
        labels.append(f"{label}\n{n:,}" if len(spikes) == n else f"{label}\n{len(spikes):,} of {n:,}")
        top = bottom
    ax.set_ylim(top, 0)
    if len(names) <= MOST_NAMED:
        ax.set_yticks(ticks, labels, fontsize="small")
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(names)} layers, first on top")
    is_cut = any(len(rows[name]) < len(whole[name]) for name in names)
    ax.set_xlabel("step\nof large layers, the neurons that fire first" if is_cut else "step")
    ax.set_title(
        plain(f"{record.end.capitalize()}, sample {sample}: {counted(sum(int(s.sum()) for s in whole.values()), 'spike')}"),
        fontsize="medium",
    )
    return bare(ax)


@check_arguments
def rates(record: SpikeRecord, *, ax: Axes | None = None, bins: int = 20) -> Axes:
    """Draw a histogram of each layer's firing rates, in spikes per step, over all samples of a record."""
    ax = axes_or_new(ax)
    edges = np.linspace(0, 1, bins + 1)
    labels = shortened(list(record.spikes))
    for array, colour, label in zip(record.spikes.values(), colours_of(len(labels)), labels, strict=True):
        # over samples and steps
        each = array.mean(axis=(0, -1)).ravel()
        counts, _ = np.histogram(each, edges)
        ax.stairs(counts / each.size, edges, color=colour, linewidth=1.6, label=f"{label} (mean {each.mean():.3f})")
    ax.set_xlabel("spikes per step")
    ax.set_ylabel("share of neurons")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    name_lines(ax, len(labels))
    return bare(ax, grid="y")


def __dir__() -> list[str]:
    return __all__
