"""A figure as a piece of a page: SVG text, whose ink is the page's own, so that it is read by day and by night.

How figures look: colours that colour-blind readers tell apart, axes without ornament.

Where cores are drawn: a cell each, tile by tile, chip by chip, as they stand on the board.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.arrays import Integers
from neurodeploy.mapping.energy import mesh_of
from neurodeploy.mapping.placement import Placement
from neurodeploy.mapping.traffic import Mesh

# -------------------- plot.inline

_INK = "#010203"
_INKED = (
    "text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color", "legend.labelcolor",
    "xtick.labelcolor", "ytick.labelcolor",
)  # fmt: skip
_QUIET = {"Creator": None, "Date": None, "Format": None, "Type": None}


def svg(
    draw: Callable[[Sequence[Axes]], object], size: tuple[float, float], *, name: str, panels: tuple[int, int] = (1, 1)
) -> str:
    """What `draw` puts on new axes, as an ``<svg>`` element; text stays text.

    Parameters
    ----------
    draw : callable
        Called with the axes, row by row.
    size : tuple of float
        Width and height, in inches of 72 points.
    name : str
        Letters and digits; begins every id in the SVG, of which a page holds several.
    panels : tuple of int
        Rows and columns of axes.
    """
    ink = dict.fromkeys(_INKED, _INK)
    with mpl.rc_context({**ink, "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.0, "font.family": "sans-serif"}):
        figure = Figure(figsize=size, layout="constrained")
        draw(list(figure.subplots(*panels, squeeze=False).ravel()))
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=_QUIET)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would reach the whole page
    text = re.sub(r' id="image[0-9a-f]*"', "", text)  # the hash of a picture, the same for two that are alike
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    return text.replace("<svg", '<svg role="img"', 1)


# -------------------- plot.style

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


# -------------------- plot.ground

_GAP = 1
"""Cells between chips; storeys stand two gaps apart, side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipBox:
    """A chip's cells: `columns` x `rows` of them, the north-western at (x, y)."""

    chip: int
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ground:
    """The cells of a board, or of the part of it that is used.

    Attributes
    ----------
    cores, x, y : array (n_cores,), int64
        Every core of every chip drawn, and its cell: column from the west, row from the north.
    chips : tuple of ChipBox
    columns, rows : int
        Cells of a chip.
    """

    cores: Integers
    x: Integers
    y: Integers
    chips: tuple[ChipBox, ...]
    columns: int
    rows: int

    @property
    def size(self) -> tuple[int, int]:
        """Cells from west to east, and from north to south."""
        return max(box.x for box in self.chips) + self.columns, max(box.y for box in self.chips) + self.rows


def ground_of(placement: Placement) -> Ground:
    """The cells of the chips that a placement uses, and of those between them."""
    profile = placement.profile
    mesh, per_chip = mesh_of(profile), profile["cores_per_chip"].number
    used = mesh.position(np.unique(np.array(placement.cores, np.int64) // per_chip) * per_chip)
    everywhere = mesh.position(np.arange(mesh.chips) * per_chip)
    inside = np.ones(mesh.chips, dtype=bool)
    for here, all_of_them in zip(used[3:], everywhere[3:], strict=True):
        inside &= (all_of_them >= here.min()) & (all_of_them <= here.max())
    on_tile, columns, rows = _chip_cells(mesh, profile)
    west, north = int(used.chip_x.min()), int(used.chip_y.min())
    storey = (int(used.chip_x.max()) - west + 1) * (columns + _GAP) + _GAP
    chips = tuple(
        ChipBox(
            chip=chip,
            x=(z - int(used.chip_z.min())) * storey + (x - west) * (columns + _GAP),
            y=(y - north) * (rows + _GAP),
        )
        for chip, x, y, z in np.stack([everywhere.chip, *everywhere[3:]])[:, inside].T.tolist()
    )
    on_chip = np.arange(per_chip)
    at = mesh.position(on_chip)
    within = on_chip % on_tile[2]
    x = at.tile_x * on_tile[0] + within % on_tile[0]
    y = at.tile_y * on_tile[1] + within // on_tile[0]
    return Ground(
        cores=np.concatenate([box.chip * per_chip + on_chip for box in chips]),
        x=np.concatenate([box.x + x for box in chips]),
        y=np.concatenate([box.y + y for box in chips]),
        chips=chips, columns=columns, rows=rows,
    )  # fmt: skip


def _chip_cells(mesh: Mesh, profile: HardwareProfile) -> tuple[tuple[int, int, int], int, int]:
    """Cells of a tile (columns, rows, cores in them), and of a chip; a crossbar is drawn as one tile, as square as can be."""
    on_tile = mesh.cores_per_tile if mesh.tile_mesh else profile["cores_per_chip"].number
    wide = math.ceil(math.sqrt(on_tile))
    high = math.ceil(on_tile / wide)
    columns, rows = mesh.columns_and_rows
    return (wide, high, on_tile), columns * wide, rows * high


def main_layer(placement: Placement) -> dict[int, str]:
    """The layer with most neurons on each used core."""
    neurons: dict[int, dict[str, int]] = {}
    for part in placement.slices:
        on_core = neurons.setdefault(part.core, {})
        on_core[part.layer] = on_core.get(part.layer, 0) + part.usage.neurons
    return {core: max(layers, key=lambda name: layers[name]) for core, layers in neurons.items()}
