"""The loop with the user's own parts: models of other kinds, losses, readouts, encoders, data, precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, LIFParameters, LIFRecurrentCell, SequentialState
from spiking import SHORT, build, few, weights

from neurodeploy.errors import DataError
from neurodeploy.training.data_loading import load_data
from neurodeploy.training.encoders import decide, encode, read_out
from neurodeploy.training.fit import fit
from neurodeploy.training.forward import evaluate, run_model


def test_layer_by_layer_is_step_by_step() -> None:
    """A plain chain runs layer by layer; the same chain inside a module of the user's, step by step."""

    class Own(torch.nn.Module):
        def __init__(self, chain: SequentialState) -> None:
            super().__init__()
            self.chain = chain

        def forward(self, x: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
            result: tuple[torch.Tensor, Any] = self.chain(x, state)
            return result

    chain = build(64, 30, 10)
    spikes = encode(next(iter(load_data("digits").train))[0].flatten(1), 9)
    assert torch.allclose(run_model(chain, spikes), run_model(Own(chain), spikes), atol=1e-5)


def test_a_cell_that_stands_twice_is_run_twice() -> None:
    lif = LIFCell(LIFParameters(tau_mem_inv=torch.tensor(400.0), v_th=torch.tensor(0.1)))
    model = SequentialState(torch.nn.Linear(6, 6, bias=False), lif, torch.nn.Linear(6, 6, bias=False), lif)
    spikes = torch.ones(2, 5, 6)
    state, outputs = None, []
    for step in spikes.unbind(dim=1):
        output, state = model(step, state)
        outputs.append(output)
    assert torch.allclose(run_model(model, spikes), torch.stack(outputs))


def test_a_recurrent_model_learns_too() -> None:
    torch.manual_seed(0)
    first = SequentialState(LIFRecurrentCell(12, 20), torch.nn.Linear(20, 3), LICell())
    behind = SequentialState(torch.nn.Linear(12, 12), LIFRecurrentCell(12, 20), torch.nn.Linear(20, 3), LICell())
    for model in (first, behind):
        _, history = fit(model, None, few(), replace(SHORT, epochs_dense=8))
        assert history[-1].loss < history[0].loss
    with pytest.raises(DataError, match="the model's first layer takes 12 values"):
        fit(first, None, few(n_in=11), SHORT)


def test_a_users_loss_readout_encoder_and_optimizer_are_used() -> None:
    called: dict[str, int] = {}

    def count(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            called[name] = called.get(name, 0) + 1
            return function(*arguments)

        return counted

    options = replace(
        SHORT,
        loss=count("loss", lambda output, target: torch.nn.functional.mse_loss(output, target)),
        readout=count("readout", lambda outputs: outputs[1:].mean(dim=0)),
        encoder=count("encoder", lambda images, n: (images.unsqueeze(1).expand(-1, n, -1) > 0.5).float()),
        optimizer=count("optimizer", lambda parameters, rate: torch.optim.SGD(parameters, lr=rate)),
    )
    one_hot = [(inputs, torch.nn.functional.one_hot(target, 3).float()) for inputs, target in few()]
    _, history = fit(build(12, 5, 3), None, one_hot, options)
    # the encoder once more: two samples are tried to see whether the model trains as it is called
    assert called == {"loss": 2, "readout": 2, "encoder": 3, "optimizer": 1}
    assert np.isnan(history[0].train_accuracy)  # these targets are no classes
    assert np.isfinite(history[0].loss)


def test_bfloat16_is_for_products_in_training_alone() -> None:
    kinds: set[torch.dtype] = set()

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        kinds.add(output.dtype)
        return torch.nn.functional.cross_entropy(output, target)

    models, losses = (build(12, 40, 3), build(12, 40, 3)), []
    for model, amp in zip(models, (None, "bf16"), strict=True):
        model[0].register_forward_hook(lambda _, __, product: kinds.add(product.dtype))
        _, history = fit(model, None, few(), replace(SHORT, epochs_dense=10, loss=loss, amp=amp), test=few())
        losses.append([record.loss for record in history])
    assert kinds == {torch.float32, torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in models[1].parameters())
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    kinds.clear()
    evaluate(models[1], few(), replace(SHORT, amp="bf16"))
    assert kinds == {torch.float32}


def test_a_convolution_learns_from_images_and_from_spikes() -> None:
    def model() -> SequentialState:
        torch.manual_seed(0)
        lif = LIFCell(LIFParameters(tau_mem_inv=torch.tensor(900.0), v_th=torch.tensor(0.1)))
        return SequentialState(torch.nn.Conv2d(1, 4, 2), lif, torch.nn.Flatten(), torch.nn.Linear(24, 3), LICell())

    images = [(inputs.view(-1, 1, 3, 4), target) for inputs, target in few()]
    found = []
    for data in (images, [(encode(inputs, SHORT.n_steps), target) for inputs, target in images]):
        _, history = fit(model(), None, data, replace(SHORT, epochs_dense=6))
        found.append([record.loss for record in history])
    assert found[0] == found[1]
    assert found[0][-1] < found[0][0]


def test_spikes_in_time_are_taken_as_they_are() -> None:
    in_time = [(encode(inputs, 4), target) for inputs, target in few()]
    models = build(12, 5, 3), build(12, 5, 3)
    fit(models[0], None, few(), SHORT)
    fit(models[1], None, in_time, replace(SHORT, n_steps=99))
    assert all(np.array_equal(a, b) for a, b in zip(weights(models[0]), weights(models[1]), strict=True))


@pytest.mark.parametrize(("readout", "value"), [("max", [3, 2]), ("last", [1, 2]), ("mean", [2, 0.5]), ("sum", [6, 1.5])])
def test_readouts_by_hand(readout: str, value: list[float]) -> None:
    outputs = torch.tensor([[[2.0, 0.5]], [[3.0, -1.0]], [[1.0, 2.0]]])
    assert read_out(outputs, readout).tolist() == [value]
    assert decide(outputs.movedim(0, -1).numpy(), readout).tolist() == [int(value[1] > value[0])]


def test_data_of_one_order_comes_in_it_and_a_loader_of_torch_will_do() -> None:
    dataset = torch.utils.data.TensorDataset(torch.cat([x for x, _ in few()]), torch.cat([y for _, y in few()]))
    loader = torch.utils.data.DataLoader(dataset, batch_size=10, shuffle=True)

    def run() -> list[np.ndarray[Any, Any]]:
        model = build(12, 5, 3)
        fit(model, None, loader, SHORT)
        return weights(model)

    assert all(np.array_equal(a, b) for a, b in zip(run(), run(), strict=True))
