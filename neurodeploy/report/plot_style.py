"""Style of the plots: colours, axes, SVG for the report page, and the positions at which layers and cores are drawn."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from neurodeploy.ir.arrays import Integers
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.energy import mesh_of
from neurodeploy.mapping.placement import Placement

_INK = "#010203"
"""Stands for the page's own text colour, which differs by day and by night."""
_INKED = (
    "text.color", "axes.labelcolor", "axes.edgecolor", "axes.titlecolor", "xtick.color", "ytick.color", "legend.labelcolor",
    "xtick.labelcolor", "ytick.labelcolor",
)  # fmt: skip
_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def svg(
    draw: Callable[[Sequence[Axes]], object],
    size: tuple[float, float],
    *,
    name: str,
    panels: tuple[int, int] = (1, 1),
    label: str = "",
) -> str:
    """Draw on new axes and return the figure as an ``<svg>`` element; text stays text.

    Parameters
    ----------
    draw : callable
        Called with the axes, row by row.
    size : tuple of float
        Width and height, in inches of 72 points.
    name : str
        Letters and digits; the prefix of every id in the SVG, as a page holds several.
    panels : tuple of int
        Rows and columns of axes.
    label : str
        What the figure shows, for those who cannot see it.
    """
    # A colour that nothing else has, so that it can be found in the SVG again.
    ink = dict.fromkeys(_INKED, _INK)
    # "none" keeps text as text; a fixed salt gives the same ids in every run
    with mpl.rc_context({**ink, "svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9.0, "font.family": "sans-serif"}):
        # not by pyplot, which keeps its figures and may open windows
        figure = Figure(figsize=size, layout="constrained")
        draw(list(figure.subplots(*panels, squeeze=False).ravel()))
        buffer = io.StringIO()
        for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
            patch.set(facecolor="none", edgecolor="none")
        # not by savefig, which draws twice
        FigureCanvasSVG(figure).print_svg(buffer, metadata=_NO_METADATA)  # type: ignore[no-untyped-call]  # matplotlib has no type for it
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r' id="image[0-9a-f]*"', "", text)  # a hash of the image, which two equal images would share
    text = re.sub(r'\bid="', f'id="{name}-', text)
    # ids have a prefix now; so must whatever refers to them
    text = text.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    # for screen readers: one picture, not a list of shapes
    described = f' aria-label="{escape(label)}"' if label else ""
    return text.replace("<svg", f'<svg role="img"{described}', 1)


COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""Okabe & Ito 2008, "Color Universal Design", without black; in an order in which neighbours differ in lightness."""
MOST_NAMED = 12
"""Layers that a legend names."""
UNUSED = "#B8BCC2"
SCALE = "cividis"
"""Colour map of shares: perceptually uniform, and the same with and without red-green vision (Nunez et al. 2018)."""


def colours_of(n: int) -> tuple[str, ...]:
    """A colour for each of `n` layers: distinct hues for up to seven, else shades from dark to light by depth."""
    if n <= len(COLOURS):
        return COLOURS[:n]
    return shades(n)


def shades(n: int) -> tuple[str, ...]:
    """`n` colours of the map for shares, from dark to light."""
    scale = mpl.colormaps[SCALE]
    # one colour alone is the darkest
    return tuple(to_hex(scale(i / max(n - 1, 1))) for i in range(n))


def axes_or_new(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    """Return `ax`, or the axes of a new figure of that size in inches."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    return ax


def bare(ax: Axes, *, grid: str = "") -> Axes:
    """Remove the upper and right edge; draw faint lines along `grid` (``"x"``, ``"y"`` or none)."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    ax.set_axisbelow(True)
    if grid in ("x", "y"):
        ax.grid(axis="x" if grid == "x" else "y", color=UNUSED, alpha=0.4, linewidth=0.6)
    return ax


def name_lines(ax: Axes, n: int, what: str = "layers") -> None:
    """Add a legend above the axes, or, for too many lines, a title that explains their shades."""
    if n <= MOST_NAMED:
        ax.legend(frameon=False, fontsize="small", ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    else:
        ax.set_title(f"{n} {what}, the first dark, the last light", fontsize="small")


def plain(text: str) -> str:
    """Escape a name: matplotlib reads text between two dollar signs as mathematics."""
    return text.replace("$", r"\$")


def shortened(names: Sequence[str], longest: int = 24) -> list[str]:
    """Shorten names for ticks and legends by leaving out the middle."""
    half = (longest - 1) // 2
    return [plain(name if len(name) <= longest else f"{name[:half]}…{name[-half:]}") for name in names]


BOX = (0.62, 0.5)
"""Width and height of a layer's box, where columns and rows of boxes are 1 apart."""


class NetworkDrawing:
    """Positions of a network's boxes and arrows.

    Attributes
    ----------
    graph : networkx.MultiDiGraph
    places : dict
        Centre (column, row) of the input and of each layer: a column is a topological generation, connections back left out.
    """

    def __init__(self, network: Network | QuantizedNetwork) -> None:
        import networkx as nx

        self.graph = network.to_networkx()
        order = {name: number for number, name in enumerate(self.graph)}
        # Generations need a graph without cycles: connections back, and loops, are left out.
        forward = nx.DiGraph()
        forward.add_nodes_from(self.graph)
        forward.add_edges_from((source, target) for source, target in self.graph.edges() if order[source] < order[target])
        self.places = {
            name: (float(column), (len(names) - 1) / 2 - row)
            for column, names in enumerate(nx.topological_generations(forward))
            for row, name in enumerate(sorted(names, key=order.__getitem__))
        }

    def arrow(self, source: str, target: str) -> tuple[tuple[float, float], tuple[float, float], float, tuple[float, float]]:
        """Start, end, curvature (the `rad` of matplotlib's arc3) and position of the label of an arrow."""
        (x0, y0), (x1, y1), (wide, high) = self.places[source], self.places[target], BOX
        if source == target:  # a loop below the box
            return (x0 + wide / 4, y0 - high / 2), (x0 - wide / 4, y0 - high / 2), -1.2, (x0, y0 - high / 2 - 0.3)
        middle = (x0 + x1) / 2, (y0 + y1) / 2
        if 0 < x1 - x0 <= 1:
            return (x0 + wide / 2, y0), (x1 - wide / 2, y1), 0.0, (middle[0], middle[1] + 0.08)
        # Others pass the boxes between them: above to a later layer, below to an earlier one. An arc3 rises by rad * length / 2.
        side = 1 if x1 > x0 else -1
        passed = [side * y for x, y in self.places.values() if min(x0, x1) <= x <= max(x0, x1)]
        rise = max(passed) + 0.3 - side * middle[1]
        # arc3 counts to the right of the arrow's direction as positive, which is downwards for one to the right
        bend = -2 * rise / math.hypot(x1 - x0, y1 - y0)
        return (
            (x0, y0 + side * high / 2),
            (x1, y1 + side * high / 2),
            bend,
            (middle[0], middle[1] + side * (high / 2 + rise + 0.14)),
        )

    def limits(self) -> tuple[float, float, float, float]:
        """Bottom, left, top and right of the drawing."""
        labels = [self.arrow(source, target)[3][1] for source, target in self.graph.edges()]
        rows = [y for _, y in self.places.values()]
        low, top = min([*labels, min(rows) - BOX[1] / 2]), max([*labels, max(rows) + BOX[1] / 2])
        return low - 0.1, -0.4, top + 0.1, max(x for x, _ in self.places.values()) + 0.4


_GAP = 1
"""Empty cells between chips; the layers of a three-dimensional board are drawn side by side, two gaps apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipBox:
    """Position of a chip's upper left cell."""

    chip: int
    x: int
    y: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CoreGrid:
    """Cells at which the cores of a board, or of its used part, are drawn.

    Attributes
    ----------
    cores, x, y : array (n_cores,), int64
        Every core of every chip drawn, with its column from the left and its row from the top.
    chips : tuple of ChipBox
    columns, rows : int
        Cells per chip.
    """

    cores: Integers
    x: Integers
    y: Integers
    chips: tuple[ChipBox, ...]
    columns: int
    rows: int

    @property
    def size(self) -> tuple[int, int]:
        """Number of columns and rows of the whole drawing."""
        return max(box.x for box in self.chips) + self.columns, max(box.y for box in self.chips) + self.rows


def core_grid(placement: Placement) -> CoreGrid:
    """Positions of the cores of all chips that a placement uses, and of the chips between them."""
    profile = placement.profile
    mesh, per_chip = mesh_of(profile), profile["cores_per_chip"].number
    # one core for each chip: its first
    used = mesh.position(np.unique(np.array(placement.cores, np.int64) // per_chip) * per_chip)
    everywhere = mesh.position(np.arange(mesh.chips) * per_chip)
    inside = np.ones(mesh.chips, dtype=bool)
    # from the fourth on: column, row and level of the chip on the board
    for here, all_of_them in zip(used[3:], everywhere[3:], strict=True):
        inside &= (all_of_them >= here.min()) & (all_of_them <= here.max())
    # a crossbar, without a mesh of tiles, is drawn as one tile, as square as possible
    per_tile = mesh.cores_per_tile if mesh.tile_mesh else per_chip
    tile_columns = math.ceil(math.sqrt(per_tile))
    tile_rows = math.ceil(per_tile / tile_columns)
    columns, rows = mesh.columns_and_rows[0] * tile_columns, mesh.columns_and_rows[1] * tile_rows
    west, north = int(used.chip_x.min()), int(used.chip_y.min())
    level_width = (int(used.chip_x.max()) - west + 1) * (columns + _GAP) + _GAP
    chips = tuple(
        ChipBox(
            chip=chip,
            x=(z - int(used.chip_z.min())) * level_width + (x - west) * (columns + _GAP),
            y=(y - north) * (rows + _GAP),
        )
        for chip, x, y, z in np.stack([everywhere.chip, *everywhere[3:]])[:, inside].T.tolist()
    )
    on_chip = np.arange(per_chip)
    at = mesh.position(on_chip)
    # cores count tile after tile, within a tile row by row
    within = on_chip % per_tile
    x = at.tile_x * tile_columns + within % tile_columns
    y = at.tile_y * tile_rows + within // tile_columns
    return CoreGrid(
        cores=np.concatenate([box.chip * per_chip + on_chip for box in chips]),
        x=np.concatenate([box.x + x for box in chips]),
        y=np.concatenate([box.y + y for box in chips]),
        chips=chips, columns=columns, rows=rows,
    )  # fmt: skip


def main_layer(placement: Placement) -> dict[int, str]:
    """The layer with most neurons on each used core."""
    neurons: dict[int, dict[str, int]] = {}
    for part in placement.slices:
        on_core = neurons.setdefault(part.core, {})
        on_core[part.layer] = on_core.get(part.layer, 0) + part.usage.neurons
    return {core: max(layers, key=lambda name: layers[name]) for core, layers in neurons.items()}
