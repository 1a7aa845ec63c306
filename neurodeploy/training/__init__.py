"""The trainer: the loop, the minimax method, masks, spikes from images, data, weights on disk."""

from neurodeploy.training.checkpoints import Checkpoint
from neurodeploy.training.data import Batches, DataSplit, load_data
from neurodeploy.training.decays import learn_decays
from neurodeploy.training.direct import Direct, in_levels
from neurodeploy.training.encoders import encode, simulator_spikes
from neurodeploy.training.inference import evaluate, predict
from neurodeploy.training.loop import fit
from neurodeploy.training.masks import Choice, choose_synapses
from neurodeploy.training.minimax import Compression
from neurodeploy.training.options import FitOptions, MinimaxOptions
from neurodeploy.training.progress import ProgressBars, Step
from neurodeploy.training.pruning import Pruning
from neurodeploy.training.readouts import decide
from neurodeploy.training.replicas import Replicas, together
from neurodeploy.training.running import run_model
from neurodeploy.training.weights import load_weights, save_weights

__all__ = [
    "Batches", "Checkpoint", "Choice", "Compression", "DataSplit", "Direct", "FitOptions", "MinimaxOptions", "ProgressBars",
    "Pruning", "Replicas", "Step",
    "choose_synapses", "decide", "encode", "evaluate", "fit", "in_levels", "learn_decays", "load_data", "load_weights", "predict",
    "run_model", "save_weights", "simulator_spikes", "together",
]  # fmt: skip
