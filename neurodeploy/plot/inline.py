"""A figure as a piece of a page: SVG text, whose ink is the page's own, so that it is read by day and by night."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
