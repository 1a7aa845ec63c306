"""What we say: the report of a run, as an object, as JSON and as text."""

from neurodeploy.report.facts import LavaCheck, LayerReport
from neurodeploy.report.ladder import Accuracy, accuracy, outputs
from neurodeploy.report.summary import Report, binding, inspection, summarize, versions

__all__ = [
    "Accuracy", "LavaCheck", "LayerReport", "Report", "accuracy", "binding", "inspection", "outputs", "summarize", "versions",
]  # fmt: skip
