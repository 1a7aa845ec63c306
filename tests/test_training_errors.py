"""Runs that cannot start or go on: what is said, and what the model is left with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, SequentialState
from spiking import SHORT, build, few, weights

import neurodeploy as nd
from neurodeploy.errors import ArgumentTypeError, DataError, RequestError, TrainingError
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import evaluate, predict
from neurodeploy.training.options import FitOptions, Step


def test_an_interrupt_leaves_the_last_finished_epoch() -> None:
    model, finished = build(12, 5, 3), []

    def stop(step: Step) -> None:
        if (step.epoch, step.step) == (2, 0):
            raise KeyboardInterrupt
        if step.step == 1:
            finished.append(weights(model))

    model.eval()
    with pytest.raises(KeyboardInterrupt):
        fit(model, None, few(), replace(SHORT, epochs_dense=5), progress=stop)
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), finished[-1], strict=True))
    assert not model.training


def test_a_loss_that_is_no_number_says_where_and_what_to_do() -> None:
    model = build(12, 5, 3)
    before = weights(model)
    options = replace(SHORT, loss=lambda output, _: output.sum() * float("nan"), learning_rate=0.5)
    with pytest.raises(TrainingError, match=r"dense epoch 0, step 0: the loss is nan\. Lower learning_rate \(now 0\.5\)"):
        fit(model, None, few(), options)
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), before, strict=True))


@pytest.mark.parametrize("result", [3.0, torch.zeros(2, requires_grad=True), torch.tensor(1.0)])
def test_a_loss_has_to_be_a_scalar_of_the_model(result: Any) -> None:
    with pytest.raises(TrainingError, match="loss: returned no scalar tensor that depends on the model"):
        fit(build(12, 5, 3), None, few(), replace(SHORT, loss=lambda *_: result))


@pytest.mark.parametrize(("result", "found"), [(torch.zeros(3), r"shape \(3,\)"), (None, "NoneType")])
def test_a_readout_has_to_give_values_of_classes(result: Any, found: str) -> None:
    with pytest.raises(TrainingError, match=rf"readout: returned {found}, not a tensor of shape \(25, classes\)"):
        fit(build(12, 5, 3), None, few(), replace(SHORT, readout=lambda _: result))


class _Strange(torch.nn.Module):
    """A model of one Linear that answers as it is told to."""

    def __init__(self, answer: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(12, 3)
        self.answer = answer

    def forward(self, x: torch.Tensor, _: Any) -> Any:
        return self.answer(self.linear(x))


def test_a_model_has_to_answer_with_an_output_and_a_state() -> None:
    with pytest.raises(TrainingError, match=r"model: failed on spikes \(25, 12\) of a step \(.*\)\. It has to take model\(x"):
        fit(_Strange(lambda out: out), None, few(), SHORT)
    with pytest.raises(TrainingError, match=r"model: returned a step of shape \(25, 3, 1\), not \(batch, n_out\)"):
        fit(_Strange(lambda out: (out.unsqueeze(-1), None)), None, few(), SHORT)
    with pytest.raises(TrainingError, match=r"model: failed on spikes \(25, 12\)"):
        fit(SequentialState(*list(build(12, 5, 3))[:2], *build(6, 3)), None, few(), SHORT)


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(TrainingError, match="model: has no Linear module, recurrent cell or convolution"):
        fit(SequentialState(torch.nn.LayerNorm(12), LICell()), None, few(), SHORT)
    frozen = build(12, 5, 3).requires_grad_(False)
    with pytest.raises(TrainingError, match="model: has no parameters to train"):
        fit(frozen, None, few(), SHORT)


IMAGES = torch.zeros(2, 12)
CLASSES = torch.tensor([0, 1])


def _once() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    yield IMAGES, CLASSES


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data: holds no batches"),
        (5, r"fit, argument 'data': is of type int \(5\), and has to be Iterable"),
        (_once(), "data: can be read only once. Give a list"),
        ([3], r"data: gave int, not a pair \(input, target\)"),
        ([(IMAGES[:0], CLASSES[:0])], "data: gave a batch without samples"),
        (
            [(torch.zeros(2, 12, 5), CLASSES)],
            r"have shape \(batch, 12, 5\), but .* steps come last here, np\.moveaxis\(inputs, -1, 1\) moves them",
        ),
        ([([["a"]], CLASSES)], "data: gave .* which are not tensors"),
        ([(torch.zeros(2, 11), CLASSES)], r"inputs: have shape \(batch, 11\), but the model's first layer takes 12 values"),
        ([(torch.zeros(2), CLASSES)], r"inputs: have shape \(batch, \), but"),
        ([(torch.full((2, 12), 2.0), CLASSES)], r"images: intensities 2\.\.2 leave 0\.\.1"),
        ([(torch.full((2, 4, 12), 0.5), CLASSES)], "inputs: holds values other than 0 and 1"),
        ([(IMAGES, torch.tensor([0]))], "targets: are 1 for 2 inputs"),
        ([(IMAGES, torch.tensor([0, 3]))], r"targets: class 3 is outside 0\.\.2, the model's outputs"),
        ([(IMAGES, torch.tensor([-1, 0]))], r"targets: class -1 is outside 0\.\.2"),
        ([(IMAGES, torch.tensor([0.0, 1.0]))], r"targets: are float32 of shape \(2,\), not whole numbers"),
        ([(IMAGES, torch.tensor([[0], [1]]))], r"targets: are int64 of shape \(2, 1\)"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(data: Any, message: str) -> None:
    with pytest.raises((DataError, ArgumentTypeError), match=message):
        fit(build(12, 5, 3), None, data, SHORT)


def test_nothing_to_evaluate_on_is_refused() -> None:
    with pytest.raises(DataError, match="data: holds no samples"):
        evaluate(build(12, 5, 3), [], SHORT)
    assert predict(build(12, 5, 3), IMAGES[:0], SHORT).shape == (0,)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("epochs_dense", -1, "is -1, not a whole number of at least 0"),
        ("epochs_compress", 1.5, r"is of type float \(1\.5\), and has to be int"),
        ("epochs_finetune", True, r"is of type bool \(True\), and has to be int"),
        ("n_steps", 0, "is 0, not a whole number of at least 1"),
        ("mask_interval", 0, "is 0, not a whole number of at least 1"),
        ("seed", -1, "is -1, not a whole number of at least 0"),
        ("learning_rate", 0, "is 0, not a number above 0"),
        ("learning_rate", float("nan"), "is nan, not a number above 0"),
        ("compress_share", 0, "is 0, not above 0 and at most 1"),
        ("compress_share", 1.1, r"is 1\.1, not above 0 and at most 1"),
        ("amp", "fp8", r"is of type str \('fp8'\), and has to be 'bf16' or None"),
        ("loss", "mse", r"is of type str \('mse'\), and has to be a function"),
        ("optimizer", None, "is None, and has to be a function"),
        ("encoder", "poisson", "'poisson' is unknown. Give one of rate, latency"),
        ("readout", "first", "'first' is unknown. Give one of max, last, mean, sum"),
    ],
)
def test_options_without_meaning_are_refused_by_name(setting: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=f"{setting}'?: {message}"):
        FitOptions(**{setting: value})


class TwoHeads(torch.nn.Module):
    """A readout of ten classes, and one of three."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lif = torch.nn.Linear(64, 24, bias=False), LIFCell()
        self.of_ten, self.ten = torch.nn.Linear(24, 10, bias=False), LICell()
        self.of_three, self.three = torch.nn.Linear(24, 3, bias=False), LICell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        one, two, three = state or (None, None, None)
        spikes, one = self.lif(self.first(x), one)
        classes, two = self.ten(self.of_ten(spikes), two)
        groups, three = self.three(self.of_three(spikes), three)
        return (classes, groups), (one, two, three)


def test_a_head_that_no_label_is_for_is_not_lost_without_a_word(tmp_path: Path) -> None:
    sample = torch.zeros(1, 64)
    assert len(nd.extract(TwoHeads(), sample).layers) == 3
    with pytest.raises(
        RequestError, match=r"^model: has several outputs, layers '.*', '.*'; labels are for one\. Return the one"
    ):
        nd.compress(TwoHeads(), sample, "loihi2", nd.load_data("digits"), nd.FitOptions(), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
