"""Neurons that a model computes itself: written by hand in several ways, of snnTorch and of SpikingJelly.

The reference run of what was extracted has to give the spikes of the module, all of them, on inputs that extraction never saw.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from own_neurons import (
    BATCH,
    N_HIDDEN,
    N_IN,
    N_OUT,
    SAMPLE,
    WAYS,
    ByMultiplying,
    BySurrogate,
    ByWhere,
    TwoLayers,
    WithCurrent,
    assert_same_spikes,
    drawn_input,
    layers,
    module_spikes,
    reference_spikes,
    written,
)

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.network import LIF, Network, SubtractiveLIF, nearly_equal


@pytest.mark.parametrize("way", WAYS)
def test_hand_written_neurons_come_in_as_what_they_are(way: str) -> None:
    model = TwoLayers(WAYS[way], bias=way == "where")
    network = extract(model, SAMPLE)
    assert [layer.name for layer in network if layer.n_neurons > 1] == ["first", "second"]
    assert_same_spikes(model, network)


def neuron_of(network: Network) -> LIF | SubtractiveLIF:
    neuron = network["first"].neuron
    assert isinstance(neuron, (LIF, SubtractiveLIF))
    return neuron


def test_parameters_are_those_of_the_module() -> None:
    made = neuron_of(extract(TwoLayers(BySurrogate).double(), SAMPLE))
    model = BySurrogate(N_HIDDEN)
    np.testing.assert_allclose(made.voltage_decay, 1 - model.beta.detach().numpy(), rtol=1e-6)
    np.testing.assert_array_equal(made.current_decay, 1.0)
    made = neuron_of(extract(TwoLayers(lambda _n: WithCurrent()), SAMPLE))
    assert (float(made.current_decay), float(made.voltage_decay)) == pytest.approx((0.4, 0.3))
    made = neuron_of(extract(TwoLayers(lambda _n: ByMultiplying()), SAMPLE))
    assert (float(made.threshold), float(made.voltage_decay)) == (1.0, pytest.approx(0.2))


def test_weights_stay_bit_for_bit_where_the_input_has_no_gain() -> None:
    model = TwoLayers(lambda _n: ByMultiplying())
    weight = extract(model, SAMPLE)["first"].connections[0].synapse.weight  # type: ignore[union-attr]
    np.testing.assert_array_equal(weight, model.first.weight.detach().double().numpy())


def test_equality_with_the_threshold_fires_where_the_module_says_so() -> None:
    """Weights and threshold are whole quarters, so membranes meet the threshold exactly."""
    for fires_at, comparison in ((True, torch.ge), (False, torch.gt)):

        class Integrate(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weights = torch.nn.Linear(2, 1, bias=False)
                torch.nn.init.constant_(self.weights.weight, 0.25)

            def forward(self, x: torch.Tensor, v: Any = 0.0, comparison: Any = comparison) -> tuple[torch.Tensor, Any]:
                v = 0.0 if v is None else v
                v = v + self.weights(x)
                spike = comparison(v, 0.5).to(x.dtype)
                return spike, v * (1 - spike)

        model = Integrate()
        network = extract(model, torch.zeros(1, 2))
        ones = torch.ones(4, BATCH, 2).double()
        spikes = reference_spikes(network, ones)
        np.testing.assert_array_equal(spikes, module_spikes(model, ones))
        assert bool(spikes[0, 0, 0]) is fires_at


class InsideForward(torch.nn.Module):
    """No module for the neurons: everything in one forward, with a loop over time, and recurrent weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.own, self.second = layers(N_IN, N_HIDDEN), layers(N_HIDDEN, N_HIDDEN, 0.5), layers(N_HIDDEN, N_OUT, 2.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = w = spikes = torch.zeros(x.shape[1], N_HIDDEN, dtype=x.dtype)
        w = torch.zeros(x.shape[1], N_OUT, dtype=x.dtype)
        outputs = []
        for t in range(len(x)):
            v = 0.9 * v + self.first(x[t]) + self.own(spikes)
            spikes = (v > 1.0).to(x.dtype)
            v = v * (spikes == 0)
            w = torch.exp(torch.tensor(-0.5)) * w + self.second(spikes)
            out = (w >= 0.7).to(x.dtype)
            w = w - w * out
            outputs.append(out)
        return torch.stack(outputs)


def test_neurons_in_a_loop_inside_forward_with_recurrent_weights() -> None:
    model = InsideForward()
    network = extract(model, torch.zeros(12, 1, N_IN))
    assert [layer.name for layer in network] == ["first", "second"]
    assert [c.source for c in network["first"].connections] == ["input", "first"]
    inputs = drawn_input()
    theirs = model.double()(inputs).detach().movedim(0, -1).numpy()
    np.testing.assert_array_equal(reference_spikes(network, inputs), theirs)


class TwoShares(torch.nn.Module):
    """Two kinds of neurons on one current, and weights for each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.slow, self.fast = layers(N_IN, N_HIDDEN), layers(N_HIDDEN, N_OUT), layers(N_HIDDEN, N_OUT)
        self.last = ByMultiplying()

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        v, w, u = (0.0, 0.0, None) if state is None else state
        current = self.first(x)
        v, w = 0.9 * v + current, 0.4 * w + current
        slow, fast = (v > 1).to(x.dtype), (w > 1).to(x.dtype)
        out, u = self.last(self.slow(slow) + self.fast(fast), u)
        return out, (v * (1 - slow), w * (1 - fast), u)


def test_two_kinds_of_neurons_share_a_current() -> None:
    model = TwoShares()
    network = extract(model, SAMPLE)
    assert [float(layer.neuron.voltage_decay) for layer in network] == pytest.approx([0.1, 0.6, 0.2])
    assert_same_spikes(model, network)


@torch.jit.script
def compiled_step(v: torch.Tensor) -> torch.Tensor:
    return (v > 1.0).float()


def test_functions_compiled_by_torch_jit_are_followed() -> None:
    def scripted(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        v = 0.8 * v + x
        spike = compiled_step(v)
        return spike, v * (1 - spike)

    call = torch.jit.ScriptFunction.__call__
    model = written(scripted)
    assert_same_spikes(model, extract(model, SAMPLE))
    assert torch.jit.ScriptFunction.__call__ is call


class Residual(torch.nn.Module):
    """Images, normalisation, a skip of spikes, and a pooling between hand-written neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = torch.nn.Conv2d(1, 4, 3, padding=1, bias=False), torch.nn.BatchNorm2d(4)
        self.second, self.pool, self.last = torch.nn.Conv2d(4, 4, 3, padding=1), torch.nn.AvgPool2d(2), layers(36, N_OUT, 2.0)
        draw = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for conv, mean, spread in ((self.first, 0.2, 0.6), (self.second, 0.1, 0.3)):
                conv.weight.copy_(torch.randn(conv.weight.shape, generator=draw) * spread + mean)
            self.second.bias.fill_(0.05)
        self.a, self.b, self.c = ByMultiplying(), ByMultiplying(), ByMultiplying()

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        a, b, c = (None, None, None) if state is None else state
        first, a = self.a(self.norm(self.first(x)), a)
        second, b = self.b(self.second(first), b)
        third, c = self.c(self.last(self.pool(first + second).flatten(1)), c)
        return third, (a, b, c)


def test_images_normalisation_and_skips() -> None:
    model = Residual().eval()
    assert_same_spikes(model, extract(model, torch.zeros(1, 1, 6, 6)), shape=(1, 6, 6))


def test_the_model_is_left_as_it_was() -> None:
    model = TwoLayers(lambda _n: ByWhere())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    extract(model, SAMPLE)
    assert model.a.v is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


# ---------------------------------------------------------------------------------------------- snnTorch, SpikingJelly


def snntorch_neurons(kind: str, **options: Any) -> Callable[[int], torch.nn.Module]:
    snntorch = pytest.importorskip("snntorch")
    shares = {"beta": 0.85} if kind == "Leaky" else {"alpha": 0.5, "beta": 0.85}
    return lambda _n: getattr(snntorch, kind)(**{**shares, "reset_mechanism": "zero", **options})


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Leaky", {}),
        ("Leaky", {"reset_delay": False, "threshold": 0.7}),
        ("Leaky", {"init_hidden": True, "learn_beta": True, "learn_threshold": True}),
        ("Synaptic", {"reset_delay": False}),
        ("Synaptic", {"reset_delay": False, "init_hidden": True, "threshold": 1.3}),
        ("Leaky", {"reset_mechanism": "subtract"}),
        ("Leaky", {"reset_mechanism": "subtract", "threshold": 0.45, "init_hidden": True, "learn_threshold": True}),
        ("Synaptic", {"reset_mechanism": "subtract"}),
        ("Synaptic", {"reset_mechanism": "subtract", "threshold": 0.7}),
    ],
)
def test_snntorch(kind: str, options: dict[str, Any]) -> None:
    model = TwoLayers(snntorch_neurons(kind, **options))
    network = extract(model, SAMPLE)
    assert_same_spikes(model, network)
    neuron = neuron_of(network)
    assert isinstance(neuron, LIF) is (options.get("reset_mechanism") != "subtract")
    assert float(neuron.voltage_decay) == pytest.approx(0.15)
    assert float(neuron.current_decay) == pytest.approx(1.0 if kind == "Leaky" else 0.5)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("Leaky", {"reset_mechanism": "subtract", "reset_delay": False}, r"subtracts .* not after every spike.*reset_delay=True"),
        ("Leaky", {"reset_mechanism": "none"}, "does not reset"),  # its spikes are received; a readout's are not
        ("Synaptic", {}, r"ignores what arrives in the step after a spike.*reset_delay=False"),
    ],
)
def test_snntorch_with_other_resets_is_refused(kind: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ExtractError, match=rf"a \({kind}\): .*{reason}"):
        extract(TwoLayers(snntorch_neurons(kind, **options)), SAMPLE)


def spikingjelly_neurons(kind: str, **options: Any) -> Callable[[int], torch.nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes in its docstrings, which newer Pythons warn of
        neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    return lambda _n: getattr(neuron, kind)(**options)


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize(
    ("kind", "options", "decay"),
    [
        ("IFNode", {}, 0.0),
        ("LIFNode", {"tau": 2.5, "v_threshold": 0.4}, 0.4),
        ("LIFNode", {"tau": 4.0, "decay_input": False, "v_threshold": 1.2}, 0.25),
        ("LIFNode", {"tau": 2.0, "v_reset": -0.25, "v_threshold": 0.3, "detach_reset": True}, 0.5),
        ("ParametricLIFNode", {"init_tau": 4.0, "v_threshold": 0.2}, 0.25),
        ("ParametricLIFNode", {"init_tau": 4.0, "decay_input": False}, 0.25),
    ],
)
def test_spikingjelly(kind: str, options: dict[str, Any], decay: float, is_training: bool) -> None:
    model = TwoLayers(spikingjelly_neurons(kind, **options)).train(is_training)
    network = extract(model, SAMPLE)
    assert float(neuron_of(network).voltage_decay) == pytest.approx(decay)
    assert_same_spikes(model, network)


@pytest.mark.parametrize("kind", ["IFNode", "LIFNode", "ParametricLIFNode"])
@pytest.mark.parametrize("more", [{}, {"v_threshold": 0.35, "decay_input": False}])
def test_spikingjelly_with_a_soft_reset_subtracts(kind: str, more: dict[str, Any]) -> None:
    more = {key: value for key, value in more.items() if kind != "IFNode" or key == "v_threshold"}
    model = TwoLayers(spikingjelly_neurons(kind, v_reset=None, **{"v_threshold": 0.5} | more))
    network = extract(model, SAMPLE)
    assert isinstance(neuron_of(network), SubtractiveLIF)
    assert len(network["first"].connections) == 1  # in the step of the spike
    assert_same_spikes(model.double(), network)


def test_spikingjelly_is_checked_against_what_it_does_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TwoLayers(spikingjelly_neurons("LIFNode"))
    forward = type(model.a).single_step_forward
    monkeypatch.setattr(type(model.a), "single_step_forward", lambda node, x: 1 - forward(node, x))
    with pytest.raises(ExtractError, match=r"a \(LIFNode\): does something else than the SpikingJelly"):
        extract(model, SAMPLE)


class ManySteps(torch.nn.Module):
    """Layers of SpikingJelly that take all steps at once, in containers and by themselves."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = pytest.importorskip("spikingjelly.activation_based.layer")
        self.images = layer.SeqToANNContainer(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.BatchNorm2d(4))
        self.neurons = spikingjelly_neurons("LIFNode", v_threshold=0.2, step_mode="m")(0)
        self.pool = layer.MaxPool2d(2, 2, step_mode="m")
        self.last = layer.SeqToANNContainer(torch.nn.Flatten(), layers(16, N_OUT, 2.0))
        self.out = spikingjelly_neurons("IFNode", v_threshold=0.5, step_mode="m")(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.last(self.pool(self.neurons(self.images(x)))))


def test_spikingjelly_takes_all_steps_at_once() -> None:
    model = ManySteps().eval()
    network = extract(model, torch.zeros(4, 1, 1, 4, 4))
    assert [layer.shape for layer in network if layer.n_neurons > 1] == [(4, 4, 4), (4, 2, 2), (N_OUT,)]
    inputs = drawn_input(shape=(1, 4, 4))
    with torch.no_grad():
        theirs = model(inputs.float()).movedim(0, -1).numpy()
    assert 0.05 < theirs.mean() < 0.95
    np.testing.assert_array_equal(reference_spikes(network, inputs), theirs)
    with pytest.raises(ExtractError, match=r"takes \(time, batch, .*step_mode='s'"):
        extract(model, torch.zeros(1, 1, 4, 4))


def test_spikingjelly_that_has_run_before_starts_at_rest() -> None:
    model = TwoLayers(spikingjelly_neurons("LIFNode"))
    before = extract(model, SAMPLE)
    model(torch.ones(7, N_IN))
    after = extract(model, SAMPLE)
    assert nearly_equal(before, after)
    assert len(model.a.v) == 7  # the model is left as it was


# ----------------------------------------------------------------------------------------------------------- refusals


def charged(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    v = 0.8 * v + x
    return (v > 1.0).to(x.dtype), v


def never(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return charged(x, v)


def elsewhere(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    spike, v = charged(x, v)
    return spike, torch.where(spike > 0, -0.25, v)


def rectified(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    spike, v = charged(x, v)
    return spike, (v * (1 - spike)).clamp(min=-0.5)


def softly(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    spike, v = charged(x, v)
    return spike, v * (1 - 0.5 * spike)


def relative_to_others(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    v = 0.8 * v + x
    spike = (v > v.mean(dim=1, keepdim=True)).to(x.dtype)
    return spike, v * (1 - spike)


def at_rest(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    v = 0.8 * v + x
    spike = (v > -0.1).to(x.dtype)
    return spike, v * (1 - spike)


def growing(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    v = 1.1 * v + x
    spike = (v > 1.0).to(x.dtype)
    return spike, v * (1 - spike)


def late(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    v = (0.8 * v + x) * (v <= 1.0)
    return (v > 1.0).to(x.dtype), v


def limited(x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    spike, v = charged(x, v)
    return spike, v - spike * v.clamp(max=1.5)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (limited, r"subtracts 1\.[25] of its threshold, but not after every spike.*v \* \(1 - spike\)"),
        (never, r"does not reset"),
        (elsewhere, r"resets to -0.25 of its threshold"),
        (rectified, r"does not leak by a fixed share"),
        (softly, r"changes in the step after a spike as no reset does"),
        (relative_to_others, r"gt is not supported"),
        (at_rest, r"fires without any input"),
        (growing, r"voltage_decay"),
        (late, r"ignores what arrives in the step after a spike: its reset comes late"),
    ],
)
def test_other_neurons_are_refused_with_the_reason(function: Any, reason: str) -> None:
    with pytest.raises(ExtractError, match=rf"a \(Neurons\):? .*{reason}"):
        extract(written(function), SAMPLE)


def test_a_state_that_is_forgotten_between_calls_is_refused() -> None:
    class Forgets(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.neurons = layers(N_IN, N_HIDDEN), ByMultiplying()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.neurons(self.first(x))[0]

    with pytest.raises(ExtractError, match="state is not kept between them"):
        extract(Forgets(), SAMPLE)


def test_a_membrane_does_not_go_to_other_neurons() -> None:
    class Leaks(TwoLayers):
        def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
            one, two = (None, None) if state is None else state
            _, one = self.a(self.first(x), one)
            spikes, two = self.b(self.second(one), two)
            return spikes, (one, two)

    with pytest.raises(ExtractError, match="synapses add up weighted spikes"):
        extract(Leaks(lambda _n: ByMultiplying()), SAMPLE)
