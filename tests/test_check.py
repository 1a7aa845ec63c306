"""`neurodeploy check`: every node of a model with what becomes of it, or why not and the way round, and whether it fits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from norse.torch import LI, LIF, LICell, LIFAdExCell, LIFCell, LIFParameters, SequentialState
from support_matrix import ROWS, Row, write_models
from test_nir import DT, edited, lif, written
from test_nir_errors import EDITED, REFUSED, W, one
from test_norse_refusals import WRONG
from torch import nn
from torch.nn import functional

from neurodeploy.__main__ import main
from neurodeploy.errors import ExtractError
from neurodeploy.frontends.assembly import NodeSupport
from neurodeploy.frontends.nir.reading import check_nir, read_nir
from neurodeploy.frontends.torch.extract import extract
from neurodeploy.frontends.torch.support import check_model
from neurodeploy.hardware.loading import load_profile
from neurodeploy.pipeline.inspection import check_network

FLAT = torch.zeros(1, 64)
THREE = """
import torch
from norse.torch import LICell, LIFAdExCell, LIFCell, SequentialState


def linear(n_in, n_out):
    return torch.nn.Linear(n_in, n_out, bias=False)


def model():
    layers = [linear(64, 24), LIFAdExCell(), linear(24, 24), torch.nn.ReLU(), linear(24, 24), LIFCell()]
    return SequentialState(*layers, torch.nn.LayerNorm(24), linear(24, 10), LICell()), torch.zeros(1, 64)


def wide():
    return SequentialState(linear(64, 9000), LIFCell(), linear(9000, 10), LICell()), torch.zeros(1, 64)


def broken():
    return SequentialState(linear(64, 24), LIFCell(), linear(25, 10), LICell()), torch.zeros(1, 64)
"""


def linear(n_in: int, n_out: int) -> nn.Linear:
    return nn.Linear(n_in, n_out, bias=False)


def verdicts(nodes: tuple[NodeSupport, ...]) -> dict[str, str]:
    return {node.name: node.verdict for node in nodes}


def refused(nodes: tuple[NodeSupport, ...]) -> dict[str, list[str]]:
    return {node.name: [reason.what for reason in node.reasons] for node in nodes if node.reasons}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models of the support matrix."""
    folder = tmp_path_factory.mktemp("support")
    write_models(folder)
    (folder / "three.py").write_text(THREE, encoding="utf-8")
    return folder


def checked(capsys: pytest.CaptureFixture[str], model: str, *options: str, target: str = "loihi2") -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    code = main(["check", model, "--target", target, "--json", *options])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, answer


# ---------------------------------------------------------------------------------------------- the command


def test_three_modules_are_refused_at_once_each_with_a_reason_and_a_way_round(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = checked(capsys, f"{models / 'three.py'}:model")
    assert code == 1
    assert (answer["supported"], answer["fits"], answer["compressible"]) == (False, False, None)
    nodes = {node["name"]: node for node in answer["nodes"]}
    assert [nodes[name]["kind"] for name in "136"] == ["LIFAdExCell", "ReLU", "LayerNorm"]
    for name, node in nodes.items():
        assert node["verdict"] == ("unsupported" if name in "136" else "exact")
    reasons = [nodes[name]["reasons"][0] for name in "136"]
    assert [reason["what"] for reason in reasons] == [
        "is no neuron that the chip has", "relu is not supported", "layer_norm is not supported"
    ]  # fmt: skip
    assert "LIFCell" in reasons[0]["remedy"]
    assert reasons[1]["remedy"] == "Put spiking neurons in its place; in front of neurons, leave it out."
    assert "BatchNorm" in reasons[2]["remedy"]
    assert main(["check", f"{models / 'three.py'}:model", "--target", "loihi2"]) == 1
    shown = capsys.readouterr().out
    assert all(
        text in shown
        for text in (
            "6 exact",
            "3 unsupported",
            "Put spiking neurons in",
            "Supported: no. 3 of 9",
        )
    )
    assert len(shown.splitlines()) < 24


def test_a_supported_model_that_does_not_fit_ends_with_1_and_says_what_binds(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = checked(capsys, f"{models / 'three.py'}:wide", "--cores", "2", target="loihi1")
    assert (code, answer["supported"], answer["fits"]) == (1, True, False)
    assert "cores" in {one["resource"] for one in answer["binding"]}


def test_a_model_that_fails_on_its_own_sample_is_bad_input(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{models / 'three.py'}:broken", "--target", "loihi2", "--json"]) == 2
    assert "2 (Linear): fails on the sample (1, 64)" in capsys.readouterr().err


@pytest.mark.parametrize("row", [pytest.param(row, id=row.model) for row in ROWS])
def test_every_row_of_the_support_matrix_has_the_answer_of_extract(
    row: Row, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if row.library:
        pytest.importorskip(row.library)
    page = (Path(__file__).parent.parent / "docs" / "operators.md").read_text(encoding="utf-8")
    inspected = next(line for line in page.splitlines() if line.startswith(f"| {row.name} |")).split(" | ")[1]
    path = models / row.model
    model, options = (str(path), ()) if path.suffix else (f"{models / 'models.py'}:{row.model}", ())
    code, answer = checked(capsys, model, *(("--dt", "0.001") if path.suffix == ".nir" else options))
    assert (answer["supported"], code) == ((True, 0) if inspected == "yes" else (False, 1))
    assert answer["supported"] is not any(node["verdict"] == "unsupported" for node in answer["nodes"])
    said = " ".join(text for node in answer["nodes"] for text in node["rewrites"])
    assert REWRITES.get(row.model, "") in said


REWRITES = {
    "biased": "comes from one extra neuron", "convolutional": "folds into", "max_pooling": "becomes a layer of 54 neurons",
    "upsampling": "listed one by one", "paddings": "listed one by one", "products": "product with the weights of 1 (Conv2d)",
    "norm_behind": "folds into", "norm_in_front": "folds into", "delays": "late, by a delay", "leaky_readout": "that leak",
    "weights_behind": "forget at once", "votes": "forget at once", "delay.nir": "Whole steps",
}  # fmt: skip
"""What a row's model is said to become."""


# ---------------------------------------------------------------------------------------------- torch modules


@pytest.mark.parametrize(("model", "message"), WRONG.values(), ids=list(WRONG))
def test_what_extract_refuses_check_refuses_too(model: nn.Module, message: str) -> None:
    del message
    with pytest.raises(ExtractError) as caught:
        extract(model.eval(), torch.zeros(2, 4))
    if caught.value.__cause__ is not None:
        pytest.skip("the model itself fails")
    nodes, network = check_model(model, torch.zeros(2, 4))
    assert network is None
    assert refused(nodes)
    assert all(reason["what"] and reason["remedy"] for node in nodes for reason in node.explained())


class Plain(nn.Module):
    """A network of rates, as it would be trained without spikes: one activation for all, and functions in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), linear(4, 10)
        self.relu, self.pool, self.gelu = nn.ReLU(), nn.MaxPool2d(2), nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(self.relu(self.first(x)))
        x = functional.softplus(self.relu(self.second(x)))
        return self.last(self.gelu(x.flatten(1)))


def test_each_activation_of_a_network_without_neurons_is_refused_modules_and_functions_alike() -> None:
    nodes, network = check_model(Plain(), torch.zeros(1, 1, 8, 8))
    assert network is None
    assert refused(nodes) == {
        "model": ["softplus is not supported"],
        "relu": ["relu is not supported"],
        "gelu": ["gelu is not supported"],
    }
    assert verdicts(nodes)["pool"] == "exact"


class Stepping(nn.Module):
    """Time in its forward, neurons that the chip lacks between two activations, and what only the host does at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = linear(8, 6), linear(6, 6), linear(6, 4)
        self.lif, self.adaptive, self.out, self.tanh, self.sigmoid = LIFCell(), LIFAdExCell(), LICell(), nn.Tanh(), nn.Sigmoid()
        self.softmax = nn.Softmax(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        p = q = r = None
        outputs = []
        for one_step in x:
            y, p = self.lif(self.tanh(self.a(one_step)), p)
            y, q = self.adaptive(self.b(y), q)
            y, r = self.out(self.sigmoid(self.c(y)), r)
            outputs.append(y)
        return self.softmax(torch.stack(outputs).mean(0))


def test_a_loop_over_time_lists_each_module_once_and_the_host_keeps_its_part() -> None:
    nodes, _ = check_model(Stepping(), torch.zeros(5, 1, 8))
    found = verdicts(nodes)
    assert {name for name, verdict in found.items() if verdict == "unsupported"} == {"tanh", "adaptive", "sigmoid"}
    assert {found[name] for name in ("a", "b", "c", "lif", "out")} == {"exact"}
    assert found["softmax"] == "host"


def test_sequences_say_which_function_is_not_supported() -> None:
    layers = [linear(8, 6), nn.Tanh(), LIF(), linear(6, 4), nn.GELU(), LI()]
    nodes, _ = check_model(SequentialState(*layers), torch.zeros(5, 1, 8))
    assert refused(nodes) == {"1": ["tanh is not supported"], "4": ["gelu is not supported"]}


class Branching(nn.Module):
    """Reads a number out of its tensors, and then goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.lif, self.out, self.tanh = linear(8, 6), linear(6, 4), LIFCell(), LICell(), nn.Tanh()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        p, q = state or (None, None)
        y, p = self.lif(self.a(x), p)
        y = y + 0 if y.sum() > 3 else y
        y, q = self.out(self.tanh(self.b(y)), q)
        return y, (p, q)


def test_control_flow_that_depends_on_data_hides_nothing_behind_it() -> None:
    nodes, _ = check_model(Branching(), torch.zeros(1, 8))
    assert list(refused(nodes)) == ["model", "tanh"]
    assert "reads numbers out of its tensors" in refused(nodes)["model"][0]


class Softening(nn.Module):
    """Own neurons that keep half of what is above the threshold."""

    def forward(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        v = x if v is None else 0.8 * v + x
        spike = (v > 0.5).float()
        return spike, v - 0.5 * spike * (v - 0.5)


def test_a_cell_that_fails_once_it_is_refused_leaves_one_reason() -> None:
    cell = LIFCell(LIFParameters(v_th=torch.ones(5)))
    nodes, _ = check_model(SequentialState(linear(8, 6), cell, linear(6, 4), nn.ReLU(), LICell()), torch.zeros(1, 8))
    assert refused(nodes) == {"1": ["its v_th has shape (5,), not () or (6,)"]}
    assert verdicts(nodes)["4"] == "not reached"


class Chain(nn.Module):
    def __init__(self, *neurons: nn.Module) -> None:
        super().__init__()
        self.weights = nn.ModuleList(linear(6, 6) for _ in neurons)
        self.neurons = nn.ModuleList(neurons)

    def forward(self, x: torch.Tensor, states: Any = None) -> Any:
        kept = []
        for weights, neurons, state in zip(self.weights, self.neurons, states or [None] * len(self.neurons), strict=True):
            x, state = neurons(weights(x), state)
            kept.append(state)
        return x, kept


def test_every_population_is_tried_own_neurons_and_cells() -> None:
    leaks = LIFCell(LIFParameters(v_leak=torch.tensor(0.1)))
    nodes, _ = check_model(Chain(Softening(), LIFCell(), leaks, Softening()), torch.zeros(1, 6))
    found = refused(nodes)
    assert list(found) == ["neurons.0", "neurons.2", "neurons.3"]
    assert found["neurons.0"][0].startswith("changes in the step after a spike as no reset does")
    assert found["neurons.2"][0].startswith("leaks to 0.1")


@pytest.mark.parametrize("is_late", [False, True])
def test_neurons_that_subtract_are_listed_and_refused_by_the_target_alone(is_late: bool) -> None:
    class Subtracting(nn.Module):
        def forward(self, x: torch.Tensor, v: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
            before = torch.zeros_like(x) if v is None else v
            v = 0.8 * before + x - (0.5 * (before > 0.5).float() if is_late else 0.0)
            spike = (v > 0.5).float()
            return spike, v if is_late else v - 0.5 * spike

    nodes, network = check_model(Chain(Subtracting()), torch.zeros(1, 6))
    assert network is not None
    found = {node.name: (node.verdict, node.rewrites) for node in nodes}
    late = ("rewrite", ("subtracts one step late: its neurons send that to themselves",))
    assert found["neurons.0"] == (late if is_late else ("exact", ()))
    seen = check_network(nodes, network, load_profile("loihi2"))
    assert not seen.fits
    assert any("resets by subtraction, and neurons of target 'loihi' to zero" in one for one in seen.sentences)
    assert seen.sentences[-1] == "Compressible: no, for that reason."


def test_a_module_that_forward_never_calls_is_not_said_to_be_exact() -> None:
    model = SequentialState(linear(8, 4), LIFCell())
    model[0].spare = nn.Identity()
    nodes, network = check_model(model, torch.zeros(1, 8))
    assert network is not None
    assert verdicts(nodes)["0.spare"] == "not reached"


def test_the_model_is_left_as_it_was() -> None:
    model = Stepping()
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    check_model(model, torch.zeros(5, 1, 8))
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == {n: set(d) for n, d in before.items()}
    assert model.training


def test_a_large_model_stays_on_one_screen_and_names_every_node(capsys: pytest.CaptureFixture[str]) -> None:
    from neurodeploy.report.text import as_text, node_table

    layers = [layer for _ in range(20) for layer in (linear(8, 8), LIFCell())]
    nodes, network = check_model(SequentialState(*layers, nn.Linear(8, 4), LICell()), torch.zeros(1, 8))
    lines = as_text(node_table(nodes)).splitlines()
    assert len(lines) < 24
    assert "0, 2, 4, 6" in "\n".join(lines)
    assert any("one extra neuron" in line for line in lines)
    assert check_network(nodes, network, load_profile("loihi2")).fits


# ---------------------------------------------------------------------------------------------- NIR files


def test_nodes_behind_one_that_is_refused_are_read_too(tmp_path: Path) -> None:
    delay = nir.Delay(np.full(4, 3.5e-3))
    made = one(
        W, lif(4, v_threshold=0.0), nir.Linear(np.ones((4, 4))), delay, lif(4, tau=5e-4), nir.Linear(np.ones((4, 4))), lif(4)
    )
    nodes, network = check_nir(edited(made, tmp_path, "n5", type="Attention"), dt=DT)
    assert network is None
    assert list(refused(nodes)) == ["n1", "n3", "n4", "n5"]
    assert all(reason.remedy for node in nodes for reason in node.reasons)
    assert {verdicts(nodes)[name] for name in ("n0", "n2", "n6", "input", "output")} == {"exact"}


@pytest.mark.parametrize("case", [*REFUSED, *EDITED])
def test_what_read_nir_refuses_check_refuses_too(case: str, tmp_path: Path) -> None:
    if case in REFUSED:
        path = written(REFUSED[case][0], tmp_path)
    else:
        made, node, fields, _ = EDITED[case]
        path = edited(made, tmp_path, node, **fields)
    with pytest.raises(ExtractError) as caught:
        read_nir(path, dt=DT)
    if caught.value.where == str(path) or case in ("no kind", "two ways in"):  # there are no nodes to tell apart
        with pytest.raises(ExtractError, match=re.escape(str(caught.value))):
            check_nir(path, dt=DT)
        return
    nodes, network = check_nir(path, dt=DT)
    assert network is None
    assert any(name in caught.value.where and reasons for name, reasons in refused(nodes).items())


class Several(nn.Module):
    """A module of the model's own that computes what no synapse does, by one function after the other and side by side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(functional.gelu(x)) * 2 + functional.softmax(x, -1) + torch.exp(x).sort().values


def test_all_functions_of_one_forward_that_are_not_supported_are_named_those_of_a_chain_too() -> None:
    model = SequentialState(nn.Linear(6, 5, bias=False), Several(), LIFCell())
    nodes, network = check_model(model, torch.zeros(1, 6))
    assert network is None
    (node,) = (node for node in nodes if node.reasons)
    assert {reason.what for reason in node.reasons} == {
        f"{name} is not supported" for name in ["tanh", "gelu", "softmax", "sort", "exp"]
    }
