"""Another method than ours in the loop: it is asked in this order, and its answers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from spiking import SHORT, budget_for, build, few

from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.mapping.budget.budget import Budget
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import predict


class LargestTenth:
    """Keeps the largest tenth of the first layer's weights, once the compress phase is over, and notes what it is asked."""

    def __init__(self, _: Budget, model: torch.nn.Module) -> None:
        self.weight = next(model.parameters())
        self.kept = torch.ones_like(self.weight, dtype=torch.bool)
        self.multipliers: dict[str, float] = {}
        self.asked: list[str] = []

    @property
    def connectivity(self) -> float:
        return float(self.kept.float().mean())

    def overruns(self) -> dict[str, float]:
        return {"connectivity": self.connectivity / 0.1 - 1}

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Whole tenths, so far as the loss knows."""
        own = self.weight.data
        self.weight.data = (own * 10).round() / 10
        yield
        self.weight.data = own

    def choose(self, progress: float) -> None:
        self.asked.append(f"choose {progress:g}")

    def before_step(self) -> None:
        assert self.weight.grad is not None
        self.asked.append("gradients")

    def after_step(self, phase: str, learning_rate: float) -> None:
        self.asked.append(f"{phase} {learning_rate:g}" if phase == "compress" else phase)
        self._hold()

    def close(self) -> None:
        self.asked.append("close")
        size = self.weight.abs().flatten()
        self.kept = self.weight.abs() > size.kthvalue(int(0.9 * size.numel())).values
        self._hold()

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"kept": self.kept}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.kept = state["kept"]

    @torch.no_grad()
    def _hold(self) -> None:
        self.weight.mul_(self.kept)


def test_another_method_prunes_where_it_is_asked_and_nowhere_else(make_chip: Callable[..., HardwareProfile]) -> None:
    model, methods = build(12, 70, 3), []

    def method(budget: Budget, given: torch.nn.Module) -> LargestTenth:
        methods.append(LargestTenth(budget, given))
        return methods[0]

    budget = budget_for(model, make_chip(synapse_memory_bits_per_core=2048), 2)
    _, history = fit(model, budget, few(), SHORT, method=method)
    compress, finetune = ["gradients", f"compress {SHORT.learning_rate:g}"] * 2, ["gradients", "finetune"] * 2
    dense = ["gradients"] * 2
    assert methods[0].asked == [*dense, "choose 0", *compress, "choose 1", *compress, "close", *finetune]
    assert int(methods[0].kept.sum()) == 84
    assert [round(record.connectivity, 2) for record in history] == [1.0, 1.0, 1.0, 0.1]
    assert all(dict(record.multipliers) == {} for record in history)
    assert list(history[-1].overruns) == ["connectivity"]


def test_the_model_keeps_the_weights_that_were_in_force(make_chip: Callable[..., HardwareProfile]) -> None:
    model, owned = build(12, 70, 3), []

    def method(budget: Budget, given: torch.nn.Module) -> LargestTenth:
        owned.append(LargestTenth(budget, given))
        return owned[0]

    budget, seen = budget_for(model, make_chip(synapse_memory_bits_per_core=2048), 2), list[torch.Tensor]()
    model.register_forward_pre_hook(lambda *_: seen.append(model[0].weight.detach().clone()))
    fit(model, budget, few(), replace(SHORT, epochs_dense=0), method=method)
    in_tenths = [bool(torch.allclose(weight * 10, (weight * 10).round(), atol=1e-5)) for weight in seen]
    assert in_tenths
    assert all(in_tenths)
    assert torch.equal(model[0].weight, (owned[0].weight * 10).round() / 10)
    assert model[0].weight.any()


@pytest.mark.parametrize(("distill", "agrees"), [(1.0, True), (0.0, False)])
def test_a_distilled_model_answers_as_before_whatever_the_labels_say(
    distill: float, agrees: bool, make_chip: Callable[..., HardwareProfile]
) -> None:
    model, data = build(12, 70, 3), few()
    budget = budget_for(model, make_chip(synapse_memory_bits_per_core=8192), 2)
    inputs = torch.cat([batch for batch, _ in data])
    fit(model, None, data, replace(SHORT, epochs_dense=20, learning_rate=1e-2))
    before = predict(model, inputs, SHORT)
    wrong = [(batch, torch.from_numpy((predict(model, batch, SHORT) + 1) % 3)) for batch, _ in data]
    options = replace(SHORT, epochs_dense=0, epochs_compress=15, epochs_finetune=5, distill=distill, temperature=1.0)
    fit(model, budget, wrong, options)
    assert (float((predict(model, inputs, SHORT) == before).mean()) > 0.7) == agrees
