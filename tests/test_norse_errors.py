"""What a Norse model cannot bring onto the chip exactly is refused, by path and type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import IAFCell, IAFParameters, LICell, LIFBoxCell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse.torch.functional.reset import reset_subtract
from torch.nn import Flatten, Linear

from neurodeploy.errors import ArgumentTypeError, ExtractError, RequestError
from neurodeploy.frontends import load_model
from neurodeploy.frontends.torch.extract import extract


class Doubles(SequentialState):
    def forward(self, input_tensor: torch.Tensor, state: Any = None) -> Any:
        x, state = super().forward(input_tensor, state)
        return 2 * x, state


def lif(**parameters: Any) -> LIFCell:
    return LIFCell(LIFParameters(**{name: torch.as_tensor(value) for name, value in parameters.items()}))


def linear(n_in: int, n_out: int) -> Linear:
    return Linear(n_in, n_out, bias=False)


def chain(*modules: torch.nn.Module) -> SequentialState:
    """Three inputs, four neurons of the cell given."""
    return SequentialState(linear(3, 4), *modules)


def with_weight(value: float) -> Linear:
    made = linear(3, 4)
    torch.nn.init.constant_(made.weight, value)
    return made


def with_bias(value: float) -> Linear:
    made = Linear(3, 4)
    torch.nn.init.constant_(made.bias, value)
    return made


def reset_halfway(z: torch.Tensor, v: torch.Tensor, _reset: torch.Tensor, _th: torch.Tensor) -> torch.Tensor:
    return v - 0.5 * z * v


HALFWAY = LIFBoxCell(LIFBoxParameters(reset_method=reset_halfway))
SAMPLE = torch.zeros(1, 3)
NO_RESET = r"leaks to 1\.0 but resets to 0\.0 \(the chip's membrane starts, leaks and resets to one value\)\. Set v_leak equal"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(
            SequentialState(torch.nn.Conv1d(1, 2, 3), LIFCell()),
            r"^0 \(Conv1d\): needs lines \(channels, length\), but its input has shape \(3,\)",
            id="a convolution of lines",
        ),
        pytest.param(
            chain(torch.nn.ReLU(), LIFCell()),
            r"^1 \(ReLU\): relu is not supported \(a chip's .* spikes\)\. Put spiking neurons in its place; in front of neurons, "
            r"leave it out\.$",
            id="an activation",
        ),
        pytest.param(
            chain(HALFWAY),
            r"^1 \(LIFBoxCell\): resets by reset_halfway \(neurons of chips reset to a value, or by subtraction\)",
            id="another reset",
        ),
        pytest.param(
            chain(LIFBoxCell(LIFBoxParameters(reset_method=reset_subtract, v_leak=torch.tensor(0.5)))),
            r"^1 \(LIFBoxCell\): subtracts v_th, counted from 0, but leaks to 0\.5\. Set v_leak to 0",
            id="subtracts and leaks elsewhere",
        ),
        pytest.param(
            chain(lif(v_leak=1.0, v_th=2.0)),
            rf"^1 \(LIFCell\): {NO_RESET}",
            id="a leak elsewhere",
        ),
        pytest.param(
            chain(LIFBoxCell(LIFBoxParameters(v_leak=torch.tensor(1.0)))),
            rf"1 \(LIFBoxCell\): {NO_RESET}",
            id="a box that leaks elsewhere",
        ),
        pytest.param(
            chain(LICell(), linear(4, 2), LICell()),
            r"^2 \(Linear\): takes the membrane of 'layer0', which never fires .* has to be last",
            id="a readout that is read",
        ),
        pytest.param(
            chain(LIFCell(dt=0.002), linear(4, 2), LICell()),
            r"^model: its cells have different time steps: \[0\.001, 0\.002\] s",
            id="two clocks",
        ),
        pytest.param(
            SequentialState(linear(4, 4), LIFCell()),
            r"^0 \(Linear\): fails on the sample \(.*\): (mm: )?mat1 and mat2 .*\. Give a sample of the shape that the model",
            id="too few weights",
        ),
        pytest.param(
            chain(LIFCell(), linear(5, 2), LICell()),
            r"^2 \(Linear\): fails on the sample \(.*\): (mm: )?mat1 and mat2 shapes cannot",
            id="weights that do not meet",
        ),
        pytest.param(
            SequentialState(),
            r"^model: holds no neurons\. Supported are LIFCell",
            id="nothing",
        ),
        pytest.param(
            chain(lif(v_th=0.0)),
            r"1 \(LIFCell\): LIF\.threshold 0\.0 is not above the reset potential\. A neuron at rest",
            id="a threshold at rest",
        ),
        pytest.param(
            SequentialState(with_weight(float("nan")), LIFCell()),
            r"^0 \(Linear\): its weight is not finite",
            id="NaN weights",
        ),
        pytest.param(
            SequentialState(with_bias(float("inf")), IAFCell()),
            r"^0 \(Linear\): its bias is not finite",
            id="infinite bias",
        ),
        pytest.param(
            chain(lif(v_th=float("nan"))),
            r"^1 \(LIFCell\): its v_th is not finite",
            id="NaN parameters",
        ),
        pytest.param(
            chain(lif(tau_mem_inv=1500.0)),
            r"^1 \(LIFCell\): its tau_mem_inv of 1500 per second forgets more than all in a step of 0\.001 s\. Use at most",
            id="a decay above 1",
        ),
        pytest.param(
            chain(LICell(LIParameters(tau_syn_inv=torch.tensor(-1.0)))),
            r"\(LICell\): LI\.current_decay -0\.001 is out",
            id="a current that grows",
        ),
        pytest.param(
            chain(lif(tau_mem_inv=[1.0] * 3)),
            r"^1 \(LIFCell\): its tau_mem_inv has shape \(3,\), not \(\) or \(4,\)",
            id="too few taus",
        ),
        pytest.param(
            chain(IAFCell(IAFParameters(v_th=torch.ones(5)))),
            r"^1 \(IAFCell\): its v_th has shape \(5,\), not",
            id="too many thresholds",
        ),
        pytest.param(
            SequentialState(Flatten(0, 1), linear(3, 4), LIFCell()),
            r"^1 \(Linear\): linear mixes samples, or steps, of the input",
            id="a part flattened",
        ),
    ],
)
def test_what_cannot_come_in_exactly_is_refused_by_name(model: torch.nn.Module, message: str) -> None:
    with pytest.raises(ExtractError, match=message):
        extract(model, SAMPLE)


def test_a_layer_cannot_be_called_as_the_input_is() -> None:
    model = SequentialState()
    model.add_module("input", linear(3, 4))
    model.add_module("cell", LIFCell())
    with pytest.raises(
        ExtractError, match=r"^input \(Linear\): gives its name 'input' to a layer, but that is the name of .*\. Rename it\.$"
    ):
        extract(model, SAMPLE)


def test_an_input_of_many_sides_has_to_be_flattened() -> None:
    with pytest.raises(
        ExtractError, match=r"^0 \(Linear\): acts on the last dimension .* shape \(2, 3\) only\. Put a Flatten before"
    ):
        extract(chain(LIFCell()), torch.zeros(1, 2, 3))


def test_a_sample_is_a_batch_of_one_step() -> None:
    sample = torch.zeros(3)
    with pytest.raises(ExtractError, match=r"^sample: .*is not a tensor \(batch, \*input_shape\)\. .*sample\.unsqueeze\(0\)\.$"):
        extract(chain(LIFCell()), sample)
    assert extract(chain(LIFCell()), sample.unsqueeze(0)).n_inputs == 3
    for no_tensor in (np.zeros((1, 3)), None):
        with pytest.raises(ArgumentTypeError, match=r"^extract, argument 'sample': is .* and has to be Tensor\.$"):
            extract(chain(LIFCell()), no_tensor)  # type: ignore[arg-type]  # wrong on purpose


def test_a_model_without_a_linear_does_not_tell_its_input(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from norse.torch import LIFCell\n\nmodel = LIFCell\n")
    with pytest.raises(RequestError, match=r"mine\.py:model: returned a model without a sample, .* LIFCell, .*\. Return a pair"):
        load_model(f"{tmp_path / 'mine.py'}:model")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_in_half_precision_is_read_in_single(dtype: torch.dtype) -> None:
    model = chain(LIFBoxCell()).to(dtype)
    weights = model.get_parameter("0.weight").detach().float().numpy()
    for sample in (SAMPLE, SAMPLE.to(dtype)):
        np.testing.assert_allclose(extract(model, sample)["layer0"].weight, weights * 0.1, rtol=1e-6)
    assert model.get_parameter("0.weight").dtype == dtype


def test_autocast_changes_nothing() -> None:
    model = chain(LIFBoxCell())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network = extract(model, SAMPLE)
    assert network == extract(model, SAMPLE)


def test_a_wrapped_model_is_unwrapped() -> None:
    model = chain(LIFBoxCell())
    for wrapped in (torch.nn.DataParallel(model), torch.compile(model), torch.nn.DataParallel(torch.compile(model))):
        assert extract(wrapped, SAMPLE) == extract(model, SAMPLE)


def test_a_model_without_numbers_is_refused() -> None:
    with pytest.raises(ExtractError, match=r"^0\.weight: is on the meta device"):
        extract(chain(LIFBoxCell()).to("meta"), SAMPLE)
