"""Layer by layer: what each may use of the chip and does, and how large its weights are."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from neurodeploy.budgets.budget import Budget
from neurodeploy.network import Network
from neurodeploy.placement import Placement
from neurodeploy.plot.style import COLOURS, UNUSED, axes_or_new, bare, colours_of, name_lines, shortened
from neurodeploy.quantized import QuantizedNetwork

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
