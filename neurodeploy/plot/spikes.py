"""Spikes: who fired when, and how often."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from neurodeploy.errors import RequestError
from neurodeploy.plot.style import MOST_NAMED, UNUSED, axes_or_new, bare, colours_of, name_lines, plain, shortened
from neurodeploy.records import SpikeRecord

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
