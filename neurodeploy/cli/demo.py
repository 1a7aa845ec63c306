"""The demo: scikit-learn's digits and a network too large for its cores, from training to Lava."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters

from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.pipeline.compress import compress
from neurodeploy.pipeline.deploy import Deployment, Say, ignore
from neurodeploy.training.data_loading import load_data
from neurodeploy.training.options import FitOptions, Progress

HIDDEN = 640
LAVA_SAMPLES = 24
OPTIONS = FitOptions(epochs_dense=8, epochs_compress=8, epochs_finetune=4, n_steps=12, learning_rate=3e-3, readout="mean")
"""Tuned, with the model's time constants, on a fifth of the training data."""


def digits_model(seed: int = 0) -> SequentialState:
    """A Norse network for 8 x 8 digits: two hidden layers of LIF neurons and a leaky readout, no biases."""
    # in 1/s; with Norse's step of 1 ms, 0.7 of a current and all of a membrane decays in a step
    fast = {"tau_syn_inv": torch.tensor(700.0), "tau_mem_inv": torch.tensor(1000.0)}
    neurons, readout = LIFParameters(**fast, v_th=torch.tensor(0.3)), LIParameters(**fast)
    # no devices: weights are drawn on the CPU, and forking GPU states would start CUDA
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return SequentialState(
            torch.nn.Linear(64, HIDDEN, bias=False),
            LIFCell(neurons),
            torch.nn.Linear(HIDDEN, HIDDEN, bias=False),
            LIFCell(neurons),
            torch.nn.Linear(HIDDEN, 10, bias=False),
            LICell(readout),
        )


def run_demo(
    profile: HardwareProfile,
    *,
    out: str | Path,
    cores: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
    say: Say = ignore,
    command: str = "",
    resume: bool = False,
) -> Deployment:
    """Train, compress, quantise, place, emulate and run in Lava; arguments and result as in `neurodeploy.compress`."""
    data = load_data("digits")
    model = digits_model(seed)
    sample, options = torch.zeros(1, model[0].in_features), replace(OPTIONS, seed=seed)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model gains nothing from more, and on a busy machine threads wait for each other
    try:
        return compress(
            model, sample, profile, data, options, out=out, cores=cores, lava_samples=LAVA_SAMPLES, progress=progress, say=say,
            command=command, resume=resume,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)
