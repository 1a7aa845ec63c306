"""More classes than outputs: a function as readout decodes them, in training, in every evaluation and in a deployment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from spiking import SHORT, build, few

import neurodeploy as nd
from neurodeploy.errors import DataError
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.training.batches import DataSplit

CODE = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
OPTIONS = replace(
    SHORT,
    epochs_dense=60,
    epochs_compress=20,
    epochs_finetune=10,
    learning_rate=1e-2,
    readout=lambda outputs: outputs.mean(0) @ CODE.T,
)


def test_four_classes_by_two_outputs(make_chip: Callable[..., HardwareProfile], tmp_path: Path) -> None:
    batches = few(n=80, n_classes=4)
    data = DataSplit(train=batches, test=batches, input_shape=(12,), n_classes=4)
    chip, model = make_chip(synapse_memory_bits_per_core=4096), build(12, 40, 2)
    made = nd.compress(model, torch.zeros(1, 12), chip, data, OPTIONS, out=tmp_path, cores=2, lava_samples=0)
    accuracy = made.report.accuracy
    assert accuracy.emulated is not None
    assert accuracy.emulated > 0.6  # by its two outputs alone a network tells two of four apart
    found = nd.evaluate(made.quantized, data.test, OPTIONS)
    assert found.classification_accuracy == accuracy.emulated
    assert 1 <= found.latency_steps <= OPTIONS.n_steps
    assert nd.evaluate(model, data.test, OPTIONS)[0] == accuracy.compressed
    right = n = 0
    for images, labels in batches:
        record = nd.simulate(made.quantized, nd.simulator_spikes(images, OPTIONS.n_steps))
        membranes = record.v[record.output].mean(axis=-1)
        right += int((np.argmax(membranes @ CODE.numpy().T, axis=1) == labels.numpy()).sum())
        n += len(labels)
    assert right / n == accuracy.emulated


def test_classes_that_the_code_does_not_have_are_refused(make_chip: Callable[..., HardwareProfile], tmp_path: Path) -> None:
    data, steps = DataSplit(train=few(n_classes=4), test=few(n_classes=5), input_shape=(12,), n_classes=5), list[object]()
    with pytest.raises(DataError, match=r"^targets: class 4 is outside 0\.\.3, the model's outputs"):
        nd.compress(build(12, 40, 2), torch.zeros(1, 12), make_chip(), data, OPTIONS, out=tmp_path, progress=steps.append)
    assert not steps  # before training
