"""Neurons written by hand in several ways, a model of two layers of them, and its spikes beside those of the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from neurodeploy.ir.network import Network
from neurodeploy.simulation.layer_schedule import run_reference

N_IN, N_HIDDEN, N_OUT, N_STEPS, BATCH = 12, 9, 4, 25, 6
SAMPLE = torch.zeros(1, N_IN)


def drawn_input(n_steps: int = N_STEPS, shape: tuple[int, ...] = (N_IN,)) -> torch.Tensor:
    """Spikes (n_steps, batch, *shape)."""
    return (torch.rand(n_steps, BATCH, *shape, generator=torch.Generator().manual_seed(3)) < 0.5).double()


def layers(n_in: int, n_out: int, gain: float = 1.5, bias: bool = False) -> torch.nn.Linear:
    made = torch.nn.Linear(n_in, n_out, bias=bias)
    draw = torch.Generator().manual_seed(n_in * n_out)
    with torch.no_grad():
        made.weight.copy_(torch.randn(n_out, n_in, generator=draw) * gain / n_in**0.5 + 0.15)
        if bias:
            made.bias.fill_(0.1)
    return made


class Step(torch.autograd.Function):
    """A step with a triangular surrogate gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return gradient * torch.relu(1 - x.abs())


class ByMultiplying(torch.nn.Module):
    """State passed; comparison; reset by a factor."""

    def forward(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        v = 0.8 * (torch.zeros_like(x) if v is None else v) + x
        spike = (v > 1.0).to(x.dtype)
        return spike, v * (1 - spike)


class BySurrogate(torch.nn.Module):
    """State passed; autograd function; threshold and decay a parameter for each neuron; input gain; detached reset."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.beta = torch.nn.Parameter(torch.linspace(0.3, 0.95, n))
        self.threshold = torch.nn.Parameter(torch.linspace(0.2, 0.5, n))

    def forward(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        beta = self.beta.clamp(0, 1)
        v = x * (1 - beta) if v is None else beta * v + (1 - beta) * x
        spike = Step.apply(v / self.threshold - 1.0)
        return spike, v - spike.detach() * v


class ByWhere(torch.nn.Module):
    """State in an attribute; reset by torch.where to a potential that it also leaks to."""

    def __init__(self) -> None:
        super().__init__()
        self.v: torch.Tensor | None = None
        self.tau, self.rest, self.threshold = 2.0, -0.3, 0.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = torch.full_like(x, self.rest) if self.v is None else self.v
        v = v + (x - (v - self.rest)) / self.tau
        fires = self.threshold <= v
        self.v = torch.where(fires, self.rest, v)
        return fires.to(x.dtype)

    def reset(self) -> None:
        self.v = None


class ByMask(torch.nn.Module):
    """State in an attribute, written in place; no leak."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Any = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = x + self.v
        spike = torch.heaviside(v - 0.9, torch.zeros(()).to(x))
        v[spike.bool()] = 0.0
        self.v = v
        return spike

    def reset(self) -> None:
        self.v = 0.0


class ByNextStep(torch.nn.Module):
    """The membrane is compared again, and reset, at the start of the next step; a constant drive."""

    def __init__(self) -> None:
        super().__init__()
        self.v: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = torch.zeros_like(x) if self.v is None else self.v
        self.v = 0.7 * v.masked_fill(v > 1.0, 0.0) + x + 0.05
        return (self.v > 1.0).to(x.dtype)

    def reset(self) -> None:
        self.v = None


class BySilence(torch.nn.Module):
    """Compares for silence, in one expression with where; a threshold tensor on the left."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.tensor(0.8))

    def forward(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        v = x if v is None else v * 0.75 + x
        silent = v < self.threshold
        return (~silent).to(x.dtype), torch.where(silent, v, torch.zeros_like(v))


class WithCurrent(torch.nn.Module):
    """A synaptic current and a membrane, as a pair."""

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        i, v = (torch.zeros_like(x), torch.zeros_like(x)) if state is None else state
        i = i.mul(0.6).add(x)
        v = torch.lerp(v, i, 0.3)
        spike = Step.apply(v - 0.5)
        return spike, (i, (1 - spike) * v)


class TwoLayers(torch.nn.Module):
    """Weights, neurons, weights, neurons; called for one step with the states of both."""

    def __init__(self, neurons: Callable[[int], torch.nn.Module], bias: bool = False) -> None:
        super().__init__()
        self.first, self.a = layers(N_IN, N_HIDDEN, bias=bias), neurons(N_HIDDEN)
        self.second, self.b = layers(N_HIDDEN, N_OUT, 2.5), neurons(N_OUT)

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        one, two = (None, None) if state is None else state
        spikes, one = step(self.a, self.first(x), one)
        spikes, two = step(self.b, self.second(spikes), two)
        return spikes, (one, two)


def written(function: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> torch.nn.Module:
    """One layer of neurons that compute (spikes, next membrane) from the input and the membrane."""

    class Neurons(torch.nn.Module):
        def forward(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            return function(x, torch.zeros_like(x) if v is None else v)

    return TwoLayers(lambda _n: Neurons())


def step(neurons: torch.nn.Module, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
    """Call neurons that return spikes and a state, or spikes alone."""
    if state is None:
        answer = neurons(x)
    elif isinstance(state, tuple) and not isinstance(neurons, WithCurrent):
        answer = neurons(x, *state)
    else:
        answer = neurons(x, state)
    if not isinstance(answer, tuple):
        return answer, None
    return answer[0], answer[1] if len(answer) == 2 else answer[1:]


def module_spikes(model: torch.nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Spikes (batch, n, n_steps) of a model of one step."""
    inputs = inputs.to(next(model.parameters()).dtype)
    state, outputs = None, []
    with torch.no_grad():
        for x in inputs:
            output, state = model(x, state)
            outputs.append(output.reshape(len(output), -1))
    return torch.stack(outputs, -1).numpy()


def reference_spikes(network: Network, inputs: torch.Tensor) -> np.ndarray:
    record = run_reference(network, inputs.movedim(0, -1).numpy().astype(np.uint8))
    return record.spikes[network.layers[-1].name].reshape(BATCH, -1, len(inputs))


def assert_same_spikes(model: torch.nn.Module, network: Network, shape: tuple[int, ...] = (N_IN,)) -> None:
    inputs = drawn_input(shape=shape)
    ours, theirs = reference_spikes(network, inputs), module_spikes(model, inputs)
    assert 0.05 < theirs.mean() < 0.95, "the neurons have to fire, and not always"
    np.testing.assert_array_equal(ours, theirs)


WAYS: dict[str, Callable[[int], torch.nn.Module]] = {
    "factor": lambda _n: ByMultiplying(),
    "autograd function": BySurrogate,
    "where": lambda _n: ByWhere(),
    "mask in place": lambda _n: ByMask(),
    "reset at the next step": lambda _n: ByNextStep(),
    "silence": lambda _n: BySilence(),
    "synaptic current": lambda _n: WithCurrent(),
}
