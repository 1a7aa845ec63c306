"""Where samples come from, and in which batches: data sets by name, a user's own, what is changed and held out."""

from neurodeploy.training.data.augmentation import Augmentation, RandomAffine, RandomFlip, RandomShift
from neurodeploy.training.data.batches import Batches, DataSplit, Samples
from neurodeploy.training.data.catalogue import CATALOGUE, DataSet
from neurodeploy.training.data.frames import frames
from neurodeploy.training.data.loading import load_data

__all__ = [
    "CATALOGUE",
    "Augmentation",
    "Batches",
    "DataSet",
    "DataSplit",
    "RandomAffine",
    "RandomFlip",
    "RandomShift",
    "Samples",
    "frames",
    "load_data",
]
