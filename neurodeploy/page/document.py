"""How the page is put together: from a report, and what was run for it, to one HTML text."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from neurodeploy.budgets.budget import Budget
from neurodeploy.files import write_text
from neurodeploy.page.chipmap import chip_map
from neurodeploy.page.figures import figures
from neurodeploy.page.tables import USES, cost_of, ladder, prices, provenance, uses
from neurodeploy.placement import Placement
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.records import SpikeRecord
from neurodeploy.report import Report

_HERE = Path(__file__).parent
_MOST_LIMITS = 12
"""Broken limits that are told one by one."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evidence:
    """What a page shows beside its report; None, or an empty text, for what there is not.

    Attributes
    ----------
    quantized : QuantizedNetwork or None
        For the weights.
    budget : Budget or None
    emulated, lava : SpikeRecord or None
        The same samples at both ends, for spikes and rates.
    command : str
        What was typed.
    """

    quantized: QuantizedNetwork | None = None
    budget: Budget | None = None
    emulated: SpikeRecord | None = None
    lava: SpikeRecord | None = None
    command: str = ""


def page_of(report: Report, evidence: Evidence | None = None) -> str:
    """The page as HTML text."""
    evidence = Evidence() if evidence is None else evidence
    placement, shown = report.placement, figures(report, evidence.quantized, evidence.budget, evidence.emulated, evidence.lava)
    steps = evidence.emulated.n_steps if evidence.emulated is not None else None
    return _environment().get_template("page.html.j2").render(
        report=report, placement=placement, profile=report.profile, before=report.before,
        style=_own("page.css"), script=_own("page.js"),
        broken=_broken(placement), broken_before=[] if report.before is None else _broken(report.before),
        headings=list(USES.values()),
        rows=[(layer, uses(layer), prices(report.history, layer.now.layer)) for layer in report.layers],
        map=chip_map(placement), cost=cost_of(placement), traffic=placement.traffic(), steps=steps,
        ladder=ladder(report.accuracy) if report.accuracy.test_samples else [],
        figures={name: Markup(text) for name, text in shown.items()},  # noqa: S704  # matplotlib escapes what it writes
        provenance=provenance(report, evidence.command), written=datetime.now(timezone.utc),
    )  # fmt: skip


def write_page(report: Report, path: str | Path, evidence: Evidence | None = None) -> None:
    """Write ``report.html``."""
    write_text(path, page_of(report, evidence))


def _environment() -> Environment:
    """Where templates are read; all that is put into one is escaped, but what is `Markup` already."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["n"] = "{:,}".format
    environment.filters["percent"] = "{:.1%}".format
    environment.filters["figure"] = lambda value: f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
    return environment


def _own(name: str) -> Markup:
    """A file that stands beside this one, as it is."""
    return Markup((_HERE / name).read_text(encoding="utf-8"))  # noqa: S704  # nobody else's


def _broken(placement: Placement) -> list[str]:
    """Broken limits, a sentence each; where they are many, the first and how many more."""
    told = [str(overrun) for overrun in placement.overruns()]
    more = len(told) - _MOST_LIMITS
    return told if more <= 0 else [*told[:_MOST_LIMITS], f"and {more:,} limits more."]
