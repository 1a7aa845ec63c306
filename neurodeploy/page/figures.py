"""Which figures a page has: those for which there is something to show."""

from __future__ import annotations

from neurodeploy import plot
from neurodeploy.budgets.budget import Budget
from neurodeploy.plot.inline import svg
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.records import SpikeRecord
from neurodeploy.report import Report


def figures(
    report: Report,
    quantized: QuantizedNetwork | None,
    budget: Budget | None,
    emulated: SpikeRecord | None,
    lava: SpikeRecord | None,
) -> dict[str, str]:
    """Name and SVG text of each."""
    drawn: dict[str, str] = {}
    if budget is not None and len(budget.layers) <= 40:
        placement, high = report.placement, 1.1 + 0.5 * len(budget.layers)
        drawn["budget"] = svg(lambda axes: plot.budget(budget, placement, ax=axes[0]), (6.6, high), name="budget")
    if report.history:
        history = report.history
        drawn["training"] = svg(lambda axes: plot.training(history, ax=list(axes)), (9.6, 6.0), name="training", panels=(2, 2))
    if quantized is not None:
        drawn["weights"] = svg(lambda axes: plot.weights(quantized, ax=axes[0]), (6.0, 3.6), name="weights")
    if emulated is not None:
        drawn["rates"] = svg(lambda axes: plot.rates(emulated, ax=axes[0]), (6.0, 3.6), name="rates")
    ends = [record for record in (emulated, lava) if record is not None]
    if ends:
        drawn["raster"] = svg(
            lambda axes: [plot.raster(record, ax=ax) for record, ax in zip(ends, axes, strict=True)],
            (4.9 * len(ends), 4.2), name="raster", panels=(1, len(ends)),
        )  # fmt: skip
    return drawn
