"""What we say: the report of a run, as an object, as JSON and as text."""

from neurodeploy.report.facts import LavaCheck, LayerReport
from neurodeploy.report.ladder import Accuracy, Measured, Stretch, check_in_lava, measure, stretch_of, tried
from neurodeploy.report.summary import Report, binding, inspection, layer_reports, summarize

__all__ = [
    "Accuracy", "LavaCheck", "LayerReport", "Measured", "Report", "Stretch", "binding", "check_in_lava", "inspection",
    "layer_reports", "measure", "stretch_of", "summarize", "tried",
]  # fmt: skip
