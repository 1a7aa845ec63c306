"""The board seen from above: which layer stands on which core, or how full cores are."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.patches import Patch, Rectangle

from neurodeploy.errors import RequestError
from neurodeploy.placement import Placement
from neurodeploy.plot.ground import Ground, ground_of, main_layer
from neurodeploy.plot.style import MOST_NAMED, SCALE, UNUSED, axes_or_new, colours_of, plain, shortened

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
