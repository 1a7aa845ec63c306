"""How figures look: colours that colour-blind readers tell apart, axes without ornament."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe & Ito 2008, "Color Universal Design", without black; in an order in which neighbours differ in lightness."""
MOST_NAMED = 12
"""So many layers are named in a legend."""
UNUSED = "#B8BCC2"
SCALE = "cividis"
"""Of shares: grows lighter evenly, and looks alike with and without red-green vision (Nunez et al. 2018)."""


def colours_of(n: int) -> tuple[str, ...]:
    """A colour for each of `n` layers: told apart by hue while there are few, from dark to light by depth where many."""
    if n <= len(COLOURS):
        return COLOURS[:n]
    return shades(n)


def shades(n: int) -> tuple[str, ...]:
    """`n` steps of the scale for shares, from its dark to its light end."""
    scale = mpl.colormaps[SCALE]
    return tuple(to_hex(scale(i / max(n - 1, 1))) for i in range(n))


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """The axes given, or those of a new figure."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    return ax


def bare(ax: Axes, *, grid: str = "") -> Axes:
    """Take the box away; keep faint lines along `grid` (``"x"``, ``"y"`` or none)."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_axisbelow(True)
    if grid in ("x", "y"):
        ax.grid(axis="x" if grid == "x" else "y", color=UNUSED, alpha=0.4, linewidth=0.6)
    return ax


def name_lines(ax: Axes, n_layers: int) -> None:
    """A legend above the axes; where layers are too many to be named, what their shades mean."""
    if n_layers <= MOST_NAMED:
        ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    else:
        ax.set_title(f"{n_layers} layers, the first dark, the last light", fontsize="small")


def plain(text: str) -> str:
    """A name as it stands: matplotlib would read what is between two dollar signs as mathematics."""
    return text.replace("$", r"\$")


def shortened(names: Sequence[str], longest: int = 24) -> list[str]:
    """Names fit for ticks and legends: the middle of a long one left out."""
    half = (longest - 1) // 2
    return [plain(name if len(name) <= longest else f"{name[:half]}…{name[-half:]}") for name in names]
