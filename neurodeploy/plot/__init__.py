"""Figures: matplotlib axes from nouns. Each function takes `ax=`, and gives back what it drew on."""

from neurodeploy.plot.epochs import training
from neurodeploy.plot.fronts import pareto
from neurodeploy.plot.layers import budget, weights
from neurodeploy.plot.maps import chip
from neurodeploy.plot.spikes import raster, rates

__all__ = ["budget", "chip", "pareto", "raster", "rates", "training", "weights"]
