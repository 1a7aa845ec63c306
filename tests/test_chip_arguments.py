"""Every public function that takes a chip takes a loaded profile, the name of one, or a path to a file."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LIFCell, SequentialState

import neurodeploy as nd
from neurodeploy.hardware.loading import load_profile, profile_paths

DYNAMICS = {"current_decay": np.array(0.5), "voltage_decay": np.array(0.5), "rest": np.array(0.0)}


def network() -> nd.Network:
    """4 inputs, 3 neurons."""
    connection = nd.Connection(source=nd.INPUT, synapse=nd.Dense(weight=np.arange(1.0, 13.0).reshape(3, 4)))
    neuron = nd.LIF(threshold=np.array(1.0), **DYNAMICS)
    layer = nd.Layer(name="only", shape=(3,), neuron=neuron, bias=np.array(0.0), connections=(connection,))
    return nd.Network(input_shape=(4,), layers=(layer,), timestep_s=0.001)


def trained(chip: Any, out: Path, **options: Any) -> object:
    """Compress the network of a file without any epoch, to say what came of it."""
    epochs = nd.FitOptions(epochs_dense=0, epochs_compress=0, epochs_finetune=0, n_steps=2)
    data = nd.load_data("digits", n_steps=2)
    function = nd.compress_to if "cores" in options else nd.compress
    return function(network(), None, chip, data, epochs, out=out, lava_samples=0, **options)


def first_choice(chip: Any) -> str:
    """The first chip that the widgets offer."""
    pytest.importorskip("ipywidgets")
    return str(nd.explore(network(), [chip]).children[0].children[0].options[0][0])


CALLS: dict[str, Callable[[Any, Path], object]] = {
    "balance": lambda chip, _: nd.balance(network(), chip),
    "deploy": lambda chip, out: nd.deploy(network(), chip, out=out).quantized,
    "explore": lambda chip, _: first_choice(chip),
    "inspect": lambda chip, _: nd.inspect(network(), chip).to_json(),
    "narrow_budget": lambda chip, _: nd.narrow_budget(network(), chip),
    "place": lambda chip, _: nd.place(nd.quantize(network(), nd.load_profile("loihi2")), chip).cores_used,
    "quantize": lambda chip, _: nd.quantize(network(), chip),
    "share_budget": lambda chip, _: nd.share_budget(network(), chip),
    "summary": lambda chip, _: str(nd.summary(SequentialState(torch.nn.Linear(4, 3), LIFCell()), torch.zeros(1, 4), chip)),
    "summarize": lambda chip, _: nd.summarize(chip, None, nd.inspect(network(), "loihi2").placement).to_json(),
}
TRAINING: dict[str, Callable[[Any, Path], object]] = {
    "compress": lambda chip, out: trained(chip, out),
    "compress_to": lambda chip, out: trained(chip, out, cores=(2, 1)),
    "sweep": lambda chip, out: nd.sweep(network(), [chip], "digits", nd.FitOptions(), out=out),
}
"""They take long: that they look at the chip is tested by an unknown one."""


def takes_a_chip(name: str) -> bool:
    """Whether a public name is a function with a chip among its parameters."""
    found = getattr(nd, name)
    if not inspect.isfunction(found) or name == "load_profile":
        return False
    return any("Chip" in str(each.annotation) or "HardwareProfile" in str(each.annotation)
               for each in inspect.signature(found).parameters.values())  # fmt: skip


def test_all_functions_that_take_a_chip_are_tried_here() -> None:
    assert {name for name in nd.__all__ if takes_a_chip(name)} == CALLS.keys() | TRAINING.keys()


@pytest.mark.parametrize("name", CALLS)
def test_a_name_a_path_and_a_profile_give_the_same(name: str, tmp_path: Path) -> None:
    shutil.copy(profile_paths()["loihi2"], tmp_path / "loihi2.yaml")
    chips = "loihi2", tmp_path / "loihi2.yaml", str(tmp_path / "loihi2.yaml"), load_profile("loihi2")
    answers = [CALLS[name](chip, tmp_path / "out") for chip in chips]
    assert answers[1:] == answers[:-1]


@pytest.mark.parametrize("name", [*CALLS, *TRAINING])
@pytest.mark.parametrize(("chip", "said"), [
    ("lohi2", r"^lohi2: no such hardware profile\. Did you mean 'loihi2'\? Give one of "),
    ("nothing.yaml", r"^nothing\.yaml: no such file\. Give one of "),
    (7, r"^\w+, argument '\w+': is of type .*int.*, and has to be .*HardwareProfile(,| or) str or a path"),
])  # fmt: skip
def test_no_chip_is_refused_by_all(name: str, chip: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises((nd.ProfileError, nd.RequestError), match=said):
        (CALLS | TRAINING)[name](chip, tmp_path / "out")
