"""Another method than ours in the loop: it is asked in this order, and its answers are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from spiking import SHORT, budget_for, build, few

from neurodeploy.compression.module_weights import trainable
from neurodeploy.compression.trainable_network import TrainableNetwork
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.mapping.budget import Budget
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
    _, history = fit(trainable(model, torch.zeros(1, 12)), budget, few(), SHORT, method=method)
    dense, finetune = ["gradients"] * 2, ["gradients", "finetune"] * 2
    # four steps of the ten in which the rate rises
    compress = [["gradients", f"compress {SHORT.learning_rate * n / 10:g}"] for n in range(1, 5)]
    asked = [*dense, "choose 0", *compress[0], *compress[1], "choose 1", *compress[2], *compress[3], "close", *finetune]
    assert methods[0].asked == asked
    assert int(methods[0].kept.sum()) == 84
    assert [round(record.connectivity, 2) for record in history] == [1.0, 1.0, 1.0, 0.1]
    assert all(dict(record.multipliers) == {} for record in history)
    assert list(history[-1].overruns) == ["connectivity"]


def test_the_model_keeps_the_weights_that_were_in_force(make_chip: Callable[..., HardwareProfile]) -> None:
    model, seen = build(12, 70, 3), list[torch.Tensor]()
    network = trainable(model, torch.zeros(1, 12))
    weight = next(network.parameters())

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append(weight.detach().clone())
        return torch.nn.functional.cross_entropy(output, target)

    budget = budget_for(model, make_chip(synapse_memory_bits_per_core=2048), 2)
    owned = LargestTenth(budget, network)
    fit(network, budget, few(), replace(SHORT, epochs_dense=0, loss=loss), method=lambda *_: owned)
    in_tenths = [bool(torch.allclose(weight * 10, (weight * 10).round(), atol=1e-5)) for weight in seen]
    assert in_tenths
    assert all(in_tenths)
    assert torch.equal(weight, (owned.weight * 10).round() / 10)
    assert weight.any()


def test_a_method_owns_the_weights_of_a_modules_network_and_the_module_gets_them_in_the_end(
    make_chip: Callable[..., HardwareProfile],
) -> None:
    model, owned = build(12, 70, 3), list[LargestTenth]()

    def method(budget: Budget, network: torch.nn.Module) -> LargestTenth:
        assert isinstance(network, TrainableNetwork)
        owned.append(LargestTenth(budget, network))
        return owned[-1]

    budget = budget_for(model, make_chip(synapse_memory_bits_per_core=2048), 2)
    _, history = fit(model, budget, few(), SHORT, method=method)
    assert [record.phase for record in history] == ["dense", "compress", "compress", "finetune"]
    assert list(history[0].overruns) == ["connectivity"]
    assert torch.allclose(model[0].weight, owned[-1].weight, atol=1e-6)
    assert int((model[0].weight != 0).sum()) <= 84


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
