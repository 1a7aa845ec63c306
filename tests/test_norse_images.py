"""Images and recurrence from Norse: what folds, folds exactly; Norse itself is run beside the reference, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from norse.torch import (
    IAFCell,
    IAFParameters,
    LIBoxCell,
    LICell,
    LIFBoxCell,
    LIFCell,
    LIFParameters,
    LIFRecurrentCell,
    SequentialState,
)
from norse.torch.functional.lif_box import LIFBoxParameters
from norse_runs import assert_alike
from strategies import spikes_into
from torch.nn import AdaptiveAvgPool2d, AvgPool2d, BatchNorm1d, BatchNorm2d, Conv2d, Dropout2d, Flatten, Linear, MaxPool2d

from neurodeploy.errors import ExtractError
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.ir.graph import INPUT
from neurodeploy.ir.network import Conv, Dense
from neurodeploy.simulation.layer_schedule import run_reference

# ---------------------------------------------------------------------------------------------- drawn networks


def loud(module: Any, rng: np.random.Generator) -> Any:
    """The module in doubles, with weights that let neurons fire and no membrane meet its threshold exactly."""
    module = module.double().eval()
    for parameter in module.parameters():
        parameter.data = torch.as_tensor(rng.normal(0.4, 1, tuple(parameter.shape)) * 2)
    if isinstance(module, (BatchNorm1d, BatchNorm2d)):
        module.running_mean = torch.as_tensor(rng.normal(0, 1, module.num_features))
        module.running_var = torch.as_tensor(rng.uniform(0.5, 2, module.num_features))
    return module


def boxes() -> Any:
    return LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(300.0, dtype=torch.float64)))


def current() -> Any:
    values = {"tau_mem_inv": 300.0, "tau_syn_inv": 400.0}
    return LIFCell(LIFParameters(**{key: torch.tensor(value, dtype=torch.float64) for key, value in values.items()}))


@st.composite
def pictures(draw: st.DrawFn) -> tuple[SequentialState, tuple[int, ...]]:
    """A convolution or two with pooling and normalisation around, then flat layers; and the shape of their input."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (draw(st.integers(1, 3)), draw(st.integers(4, 9)), draw(st.integers(4, 9)))
    modules: list[Any] = []

    def size() -> tuple[int, ...]:
        with torch.no_grad():
            x = torch.zeros(1, *shape, dtype=torch.float64)
            for module in modules:
                x = module(x)[0] if isinstance(module, (LIFCell, LIFBoxCell)) else module(x)
        return tuple(x.shape[1:])

    for _ in range(draw(st.integers(1, 2))):
        c, height, width = size()
        if draw(st.booleans()) and height % 2 == width % 2 == 0:
            modules.append(draw(st.sampled_from([AvgPool2d(2), AdaptiveAvgPool2d((height // 2, width // 2))])))
        groups = draw(st.sampled_from([1, c]))
        _, height, width = size()
        kernel, stride = draw(st.tuples(st.integers(1, min(3, height)), st.integers(1, min(3, width)))), draw(st.integers(1, 2))
        bias = draw(st.booleans())
        modules.append(loud(Conv2d(c, 2 * c, kernel, stride, draw(st.integers(0, 1)), groups=groups, bias=bias), rng))
        normal = draw(st.booleans())
        modules += [loud(BatchNorm2d(2 * c), rng), Dropout2d()] if normal else []
        if draw(st.booleans()) and min(size()[1:]) >= 2:
            modules.append(AvgPool2d(2, draw(st.integers(1, 2)), ceil_mode=False))
        modules.append(boxes() if bias or normal else current())
        if draw(st.booleans()) and min(size()[1:]) >= 2:
            modules.append(MaxPool2d(2, draw(st.integers(1, 2)), draw(st.integers(0, 1))))
    if draw(st.booleans()) and min(size()[1:]) >= 2:
        modules.append(AvgPool2d(2, 1, 1))
    modules.append(Flatten())
    modules += [loud(Linear(size()[0], 3, bias=False), rng), current()]
    return SequentialState(*modules).eval(), shape


@examples(80)
@given(drawn=pictures(), data=st.data())
def test_a_drawn_network_of_images_answers_in_every_layer_as_norse_does(
    drawn: tuple[SequentialState, tuple[int, ...]], data: st.DataObject
) -> None:
    model, shape = drawn
    network = extract(model, torch.zeros(1, *shape))
    assert_alike(model, data.draw(spikes_into(network, max_steps=12)), atol=1e-9)


@pytest.mark.parametrize("autapses", [False, True])
def test_recurrence_comes_a_step_later(autapses: bool) -> None:
    rng = np.random.default_rng(1)
    p = LIFParameters(tau_mem_inv=torch.tensor(300.0), tau_syn_inv=torch.tensor(400.0))
    first = loud(LIFRecurrentCell(6, 8, p=p, autapses=autapses), rng)
    if not autapses:
        first.recurrent_weights.data.fill_diagonal_(0.0)
    second, read = loud(LIFRecurrentCell(8, 4, p=p), rng), loud(Linear(4, 3, bias=False), rng)
    model = SequentialState(Flatten(), first, second, read, LICell())
    spikes = (rng.random((3, 2, 3, 40)) < 0.4).astype(np.uint8)
    network = extract(model, torch.zeros(1, 2, 3))
    assert [[c.source for c in layer.connections] for layer in network] == [
        [INPUT, "layer1"], ["layer1", "layer2"], ["layer2"]
    ]  # fmt: skip
    assert assert_alike(model, spikes, atol=1e-5) > 200  # a readout's parameters are in single precision


# ---------------------------------------------------------------------------------------------- what becomes of modules

IMAGE = torch.zeros(1, 2, 4, 4)


def only(*modules: torch.nn.Module, sample: torch.Tensor = IMAGE) -> Any:
    """The synapse of a model of one layer."""
    return extract(SequentialState(*modules), sample).output.connections[0].synapse


def test_pooling_before_a_padded_convolution_is_one_window() -> None:
    """The pad of 1 lies two pixels out; each of three places a row is two pixels wide."""
    conv = Conv2d(2, 5, 3, padding=1, bias=False)
    folded = only(AvgPool2d(2), conv, IAFCell())
    assert isinstance(folded, Conv)
    assert (folded.weight.shape, folded.padding, folded.stride, folded.output_shape) == ((5, 2, 6, 6), (2, 2), (2, 2), (5, 2, 2))
    np.testing.assert_allclose(folded.weight[:, :, ::2, ::2], conv.weight.detach().numpy() / 4)
    np.testing.assert_allclose(folded.weight[:, :, 1::2, 1::2], conv.weight.detach().numpy() / 4)


def test_pooling_before_a_matrix_spreads_its_weights() -> None:
    linear = Linear(8, 3, bias=False)
    folded = only(AvgPool2d(2), Flatten(), linear, IAFCell())
    assert isinstance(folded, Dense)
    expected = np.repeat(np.repeat(linear.weight.detach().numpy().reshape(3, 2, 2, 2) / 4, 2, axis=2), 2, axis=3)
    np.testing.assert_allclose(folded.weight, expected.reshape(3, 32))


def test_pooling_alone_in_front_of_neurons_is_a_layer_of_its_own() -> None:
    network = extract(SequentialState(AvgPool2d(2), IAFCell()), IMAGE)
    assert [layer.name for layer in network] == ["layer0"]
    assert (network.output.connections[0].synapse.weight == 0.25).all()


def test_the_largest_of_spikes_is_whether_any_fired() -> None:
    spikes = (np.random.default_rng(0).random((2, 2, 4, 4, 9)) < 0.2).astype(np.uint8)
    network = extract(SequentialState(MaxPool2d(3, 2, 1)), IMAGE)
    expected = torch.stack([MaxPool2d(3, 2, 1)(torch.tensor(spikes[..., t]).float()) for t in range(9)], dim=-1)
    np.testing.assert_array_equal(run_reference(network, spikes).spikes["layer0"], expected)


def test_same_and_valid_padding() -> None:
    assert only(Conv2d(2, 1, (3, 1), padding="same", dilation=(2, 1), bias=False), IAFCell()).padding == (2, 0)
    assert only(Conv2d(2, 1, 2, padding="valid", bias=False), IAFCell()).padding == (0, 0)


def test_normalisation_of_features_folds_into_a_matrix() -> None:
    rng = np.random.default_rng(0)
    model = SequentialState(loud(Linear(4, 3, bias=True), rng), loud(BatchNorm1d(3), rng), boxes())
    spikes = (rng.random((4, 4, 30)) < 0.5).astype(np.uint8)
    assert assert_alike(model.eval(), spikes, atol=1e-9) > 10
    plain = BatchNorm1d(3, affine=False)
    assert extract(SequentialState(Linear(4, 3, bias=False), plain, LIFCell()).eval(), torch.zeros(1, 4)).output.bias == 0


def test_thresholds_of_channels_and_of_neurons() -> None:
    channels = IAFParameters(v_th=torch.tensor([1.0, 2.0]).reshape(2, 1, 1))
    network = extract(SequentialState(Conv2d(2, 2, 3, bias=False), IAFCell(channels)), IMAGE)
    assert network.output.neuron.threshold.tolist() == [1.0] * 4 + [2.0] * 4


# ---------------------------------------------------------------------------------------------- listed synapse by synapse


def conv(n: int = 2, window: int = 3, **options: Any) -> Conv2d:
    return Conv2d(n, 2, window, bias=False, **options)


class Apply(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


LISTED: dict[str, list[torch.nn.Module]] = {
    "circular padding": [conv(padding=1, padding_mode="circular")],
    "reflected padding": [conv(padding=1, padding_mode="reflect")],
    "replicated padding": [conv(padding=1, padding_mode="replicate")],
    "uneven zeros under a dilated window": [torch.nn.ZeroPad2d((0, 1, 0, 1)), conv(window=2, dilation=2)],
    "a window in front of a padded window": [AvgPool2d(2, 1), conv(padding=1)],
    "the mean of the pixels that exist": [AvgPool2d(2, 2, 1, count_include_pad=False), conv(window=2)],
    "the mean of the pixels that exist, behind weights": [conv(), AvgPool2d(2, 1, 1, count_include_pad=False)],
    "a padded mean behind weights": [Conv2d(2, 2, 3), AvgPool2d(2, 1, 1)],
    "a mean over the edge": [AvgPool2d(3, 2, ceil_mode=True), conv(window=2)],
    "a divisor over the edge": [AvgPool2d(3, 2, ceil_mode=True, divisor_override=2), conv(window=2)],
    "means of several sizes": [AdaptiveAvgPool2d((3, 2)), conv(window=2)],
    "a transposed convolution": [torch.nn.ConvTranspose2d(2, 3, 2, 2)],
    "a transposed convolution with everything": [
        torch.nn.ConvTranspose2d(2, 4, (3, 2), (2, 3), (2, 1), (1, 2), groups=2, dilation=(2, 3))
    ],
    "a transposed convolution of lines": [torch.nn.Flatten(2), torch.nn.ConvTranspose1d(2, 3, 3, 2, 1, 1)],
    "a larger image, nearest": [torch.nn.Upsample(scale_factor=2), conv()],
    "a larger image, bilinear": [conv(), torch.nn.Upsample(size=(5, 3), mode="bilinear", align_corners=True)],
    "a larger image, bicubic": [torch.nn.Upsample(scale_factor=1.5, mode="bicubic"), Flatten(), Linear(72, 3)],
    "a longer line": [torch.nn.Flatten(2), torch.nn.Upsample(scale_factor=2, mode="linear"), torch.nn.Conv1d(2, 2, 3)],
    "a smaller image": [torch.nn.Upsample(size=3, mode="area"), Flatten(), Linear(18, 3)],
    "weights behind weights": [Flatten(), Linear(32, 5), Linear(5, 4)],
    "a window behind a window": [Conv2d(2, 3, 3, padding=1), conv(3, padding=1)],
    "depthwise, then pointwise": [Conv2d(2, 4, 3, groups=2, padding=1), Conv2d(4, 3, 1)],
    "a matrix behind a window": [Conv2d(2, 3, 3), Flatten(), Linear(12, 3)],
    "a norm a pixel": [conv(), Flatten(), BatchNorm1d(8)],
    "pixels scaled apart": [Apply(lambda x: x * torch.linspace(0.5, 2, 16, dtype=x.dtype).view(4, 4)), conv()],
    "one place, two factors": [
        Apply(lambda x: x.flatten(1).repeat(1, 2) * torch.linspace(0.5, 2, 64, dtype=x.dtype)), Linear(64, 3)
    ],
    "a mean over channels": [Apply(lambda x: x.mean(1)), Flatten(), Linear(16, 3)],
    "a sum over rows": [Apply(lambda x: x.sum(2, keepdim=True)), Conv2d(2, 2, (1, 3), padding=(0, 1))],
    "what is scaled behind a mean": [AdaptiveAvgPool2d(3), Apply(lambda x: 3 * x), conv(window=2)],
}  # fmt: skip


@pytest.mark.parametrize("kind", LISTED)
def test_what_no_single_window_does_is_listed_synapse_by_synapse(kind: str) -> None:
    rng = np.random.default_rng(3)
    model = SequentialState(*(loud(module, rng) for module in LISTED[kind]), boxes())
    spikes = (rng.random((2, 2, 4, 4, 20)) < 0.4).astype(np.uint8)
    assert assert_alike(model, spikes, atol=1e-9) > 10


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
def test_a_window_with_zeros_on_one_side_stays_a_convolution() -> None:
    even = only(conv(window=2, padding="same"), IAFCell())
    assert even.n_synapses == 2 * 2 * (4 + 3) ** 2
    assert only(torch.nn.ZeroPad2d((0, 1, 2, 0)), conv(stride=2), IAFCell()).output_shape == (2, 2, 2)


def test_a_maximum_over_windows_of_several_sizes_is_whether_any_fired() -> None:
    spikes = (np.random.default_rng(0).random((2, 2, 4, 4, 9)) < 0.2).astype(np.uint8)
    for pool in (MaxPool2d(3, 2, ceil_mode=True), torch.nn.AdaptiveMaxPool2d(3)):
        expected = torch.stack([pool(torch.tensor(spikes[..., t]).float()) for t in range(9)], dim=-1)
        np.testing.assert_array_equal(run_reference(extract(SequentialState(pool), IMAGE), spikes).spikes["layer0"], expected)


# ---------------------------------------------------------------------------------------------- what is refused


def flat(*modules: torch.nn.Module) -> SequentialState:
    return SequentialState(Flatten(), Linear(32, 4, bias=False), *modules)


CONV = Conv2d(2, 2, 3, bias=False)

WRONG: list[tuple[SequentialState, str]] = [
    (SequentialState(Conv2d(3, 2, 3), IAFCell()), r"^0 \(Conv2d\): fails on the sample \(.*\): Given .* but got 2 channels"),
    (SequentialState(Conv2d(2, 2, 5), IAFCell()), r"^0 \(Conv2d\): fails on the sample \(.*\): .*Kernel size: \(5 x 5\)"),
    (flat(IAFCell(), Conv2d(2, 2, 3)), r"^3 \(Conv2d\): fails on the sample \(.*\): .* input of size: \[1, 4\]\. Give a"),
    (SequentialState(CONV, MaxPool2d(2), IAFCell()), r"^1 \(MaxPool2d\): takes the maximum of the output of 0 \(Conv2d\), which"),
    (SequentialState(CONV, BatchNorm2d(2, track_running_stats=False), IAFCell()), r"1 \(BatchNorm2d\): normalises by each batch"),
    (SequentialState(CONV, BatchNorm2d(3), IAFCell()), r"^1 \(BatchNorm2d\): fails on the sample \(.*\): running_mean should"),
    (SequentialState(AvgPool2d(2), Flatten(), Linear(9, 2, bias=False), IAFCell()), r"2 \(Linear\): fails on the sam.*mat1"),
    (SequentialState(CONV, LIBoxCell(), AvgPool2d(2), IAFCell()), r"^2 \(AvgPool2d\): takes the membrane of 'layer0', which"),
    (SequentialState(CONV, IAFCell(IAFParameters(v_th=torch.ones(3)))),
     r"^1 \(IAFCell\): its v_th has shape \(3,\), not \(\) or \(2, 2, 2\)"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
@pytest.mark.parametrize(("model", "message"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_come_in_exactly_is_refused_by_name(model: torch.nn.Module, message: str) -> None:
    with pytest.raises(ExtractError, match=message):
        extract(model, IMAGE)
