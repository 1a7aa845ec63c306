"""Weights on disk: they come back, whole or not at all, and never another model's."""

from __future__ import annotations

import json
import math
import pickle
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import with_values
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from safetensors.torch import save_file
from spiking import build, weights

import neurodeploy as nd
from neurodeploy.__main__ import main
from neurodeploy.cli.options import ModelSpec
from neurodeploy.errors import DataError, RequestError
from neurodeploy.ir.network import LIF
from neurodeploy.pipeline.deploy import IntegerForm
from neurodeploy.targets.loihi.target import LOIHI
from neurodeploy.training.checkpoint import load_weights, save_weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_weights_come_back(tmp_path: Path, suffix: str) -> None:
    model, other = build(12, 5, 3), build(12, 5, 3, seed=1)
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_weights(model, path)
    load_weights(other, path)
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_weights_that_cannot_be_written_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"w\.safetensors: cannot be written"):
        save_weights(build(12, 5, 3), tmp_path / "none" / "w.safetensors")
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(RequestError, match=r"w\.safetensors: is not a regular file"):
        save_weights(build(12, 5, 3), tmp_path / "w.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"0.weight": torch.zeros(5, 12)}, r"weights '2\.weight' are missing\. The file has 0\.weight"),
        ({"0.weight": torch.zeros(5, 12), "2.weight": torch.zeros(3, 5), "b": torch.zeros(1)}, "weights 'b' belong to no module"),
        ({"0.weight": torch.zeros(5, 11), "2.weight": torch.zeros(3, 5)}, r"have shape \(5, 11\), the model's \(5, 12\)"),
        ({"0.weight": torch.full((5, 12), torch.nan), "2.weight": torch.zeros(3, 5)}, r"weights '0\.weight' are not finite"),
    ],
)
def test_weights_of_another_model_are_refused_and_change_nothing(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    model = build(12, 5, 3)
    before = weights(model)
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=message):
        load_weights(model, tmp_path / "w.safetensors")
    assert all(np.array_equal(a, b) for a, b in zip(weights(model), before, strict=True))


class _Code:
    """What a pickle must not be able to build."""


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    model = build(12, 5, 3)
    with pytest.raises(DataError, match=r"none\.pt: no such file"):
        load_weights(model, tmp_path / "none.pt")
    for name in ("w.safetensors", "w.pt"):
        for content in (b"", b"hello, this is no file of weights at all"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(DataError, match=rf"{name}: is not a file of weights"):
                load_weights(model, tmp_path / name)
    (tmp_path / "w.pt").write_bytes(pickle.dumps(_Code()))
    with pytest.raises(DataError, match=r"w\.pt: is not a file of weights .it is not in the format"):
        load_weights(model, tmp_path / "w.pt")
    torch.save(torch.zeros(3), tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"w\.pt: holds Tensor, not a state_dict"):
        load_weights(model, tmp_path / "w.pt")
    torch.save({"0.weight": 3, "2.weight": 4}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"w\.pt: '0\.weight' is int, not a tensor"):
        load_weights(model, tmp_path / "w.pt")
    (tmp_path / "w.h5").touch()
    with pytest.raises(DataError, match=r"w\.h5: ends in '\.h5'\. Give \.safetensors, \.pt or \.pth"):
        load_weights(model, tmp_path / "w.h5")


def lightning(state: dict[str, torch.Tensor]) -> dict[str, object]:
    """As Lightning writes it: the model as an attribute, a metric beside it, and the state of the run."""
    named = {f"net.{name}": tensor for name, tensor in state.items()} | {"loss.weight": torch.ones(3)}
    return {"state_dict": named, "epoch": 3, "optimizer_states": [{"lr": 0.1}]}


WRAPPED = {
    "data parallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "compiled in part": lambda state: {name.replace(".", "._orig_mod.", 1): tensor for name, tensor in state.items()},
    "both": lambda state: {f"module._orig_mod.{name}": tensor for name, tensor in state.items()},
    "a checkpoint": lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
    "Lightning": lightning,
}


@pytest.mark.parametrize("name", ["w.pt", "w.ckpt", "w"])
@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_taken_out_of_what_people_save(kind: str, name: str, tmp_path: Path) -> None:
    model, other = build(12, 5, 3), build(12, 5, 3, seed=7)
    torch.save(WRAPPED[kind](model.state_dict()), tmp_path / name)
    load_weights(other, tmp_path / name)
    for ours, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_prefix_that_leaves_something_missing_is_not_left_out(tmp_path: Path) -> None:
    torch.save({"module.0.weight": torch.zeros(5, 12)}, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"weights '0\.weight' are missing\. The file has module\.0\.weight"):
        load_weights(build(12, 5, 3), tmp_path / "w.pt")
    twice = {f"{name}.0.weight": torch.zeros(5, 12) for name in "ab"} | {f"{name}.2.weight": torch.zeros(3, 5) for name in "ab"}
    torch.save(twice, tmp_path / "w.pt")
    with pytest.raises(DataError, match=r"weights '0\.weight' are missing"):
        load_weights(build(12, 5, 3), tmp_path / "w.pt")


def test_a_module_in_a_file_is_refused_with_what_to_save(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 2), tmp_path / "whole.pt")
    with pytest.raises(DataError, match=r"whole\.pt: is not a file of weights .it holds torch.nn.*torch\.save\(model\."):
        load_weights(build(12, 5, 3), tmp_path / "whole.pt")
    torch.jit.script(torch.nn.Linear(3, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(DataError, match=r"script\.pt: is not a file of weights .it is a scripted module.*torch\.save"):
        load_weights(build(12, 5, 3), tmp_path / "script.pt")


# ------------------------------------------------------------------------------------------- of compressed models


def convolutions() -> tuple[SequentialState, torch.Tensor]:
    """A factory: normalised convolutions, on digits."""
    lif = LIFParameters(tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.3))
    modules: list[torch.nn.Module] = []
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        for n_in, n_out in ((1, 6), (6, 8)):
            conv = torch.nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
            modules += [conv, torch.nn.BatchNorm2d(n_out), LIFCell(lif), torch.nn.AvgPool2d(2)]
        return SequentialState(*modules, torch.nn.Flatten(), torch.nn.Linear(32, 10), LICell()), torch.zeros(1, 1, 8, 8)


@pytest.mark.parametrize("encoder", ["rate", pytest.param("direct", marks=pytest.mark.slow)])
def test_the_weights_of_a_compressed_model_become_the_same_integers_on_the_same_cores(encoder: str, tmp_path: Path) -> None:
    chip = with_values(nd.load_profile("loihi2"), neurons_per_core=300)
    options = nd.FitOptions(epochs_dense=1, epochs_compress=1, epochs_finetune=1, n_steps=4, encoder=encoder)
    model, sample = convolutions()
    made = nd.compress(model, sample, chip, nd.load_data("digits"), options, out=tmp_path, cores=1, lava_samples=0)
    spec = ModelSpec(name=f"{__file__}:convolutions", weights=tmp_path / "weights.safetensors")
    network = spec.network()
    assert isinstance(network, nd.Network)
    neurons = [sum(layer.n_neurons for layer in one) for one in (network, made.quantized)]
    assert neurons[0] > 300 >= neurons[1]
    read, form = spec.to_place(chip, None)
    again = nd.deploy(read, chip, out=tmp_path / "again", cores=1, form=form)
    assert again.placement.fits
    assert again.placement.cores_used == made.placement.cores_used == 1
    nets = [LOIHI.read(folder / "model.net") for folder in (tmp_path, tmp_path / "again")]
    scales = [[float(layer.scale.max()) for layer in net] for net in nets]
    # back and forth through a normalisation in single precision
    assert scales[0] == pytest.approx(scales[1], rel=1e-5)
    first, second = (replace(net, layers=tuple(replace(layer, scale=np.ones(())) for layer in net)) for net in nets)
    assert first == second
    # one width for all is asked for: nothing is trimmed, as of any other weights
    assert spec.to_place(chip, 4) == (network, None)


def biased() -> tuple[SequentialState, torch.Tensor]:
    """A factory: rows of neurons whose biases come by synapses, on digits."""
    lif = LIFParameters(tau_syn_inv=torch.tensor(500.0), tau_mem_inv=torch.tensor(500.0), v_th=torch.tensor(0.3))
    modules: list[torch.nn.Module] = [torch.nn.Flatten()]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        for n_in, n_out in ((64, 40), (40, 30)):
            modules += [torch.nn.Linear(n_in, n_out), LIFCell(lif)]
        return SequentialState(*modules, torch.nn.Linear(30, 10), LICell()), torch.zeros(1, 1, 8, 8)


def test_weights_bring_the_relays_and_cuts_of_the_plan_where_the_cores_suffice_for_it(tmp_path: Path) -> None:
    with_delays = with_values(nd.load_profile("loihi1"), synapse_memory_bits_per_core=8192, cores_per_chip=8)
    chip = with_values(with_delays, max_delay_steps=0)
    options = nd.FitOptions(epochs_dense=1, epochs_compress=1, epochs_finetune=0, n_steps=4)
    model, sample = biased()
    made = nd.compress(model, sample, chip, nd.load_data("digits"), options, out=tmp_path, cores=2, lava_samples=0)
    relays = ["bias.relay1", "bias.relay2"]
    assert [layer.name for layer in made.quantized if "relay" in layer.name] == relays
    spec = ModelSpec(name=f"{__file__}:biased", weights=tmp_path / "weights.safetensors")
    network, form = spec.to_place(chip, None)
    assert form is not None
    again = nd.deploy(network, chip, out=tmp_path / "again", cores=2, form=form)
    assert again.placement.slices == made.placement.slices
    assert LOIHI.read(tmp_path / "again/model.net") == LOIHI.read(tmp_path / "model.net")
    # a plan that waits in synapses, where packing anew chooses relays
    cuts = tuple(cut for cut in form.cuts if cut[0] not in relays)
    waiting = replace(form, cuts=cuts, balances=tuple(replace(one, by="synapses") for one in form.balances))
    own, by_plan, too_few = (
        nd.inspect(network, with_delays, cores=cores, form=one) for cores, one in ((2, None), (2, waiting), (1, waiting))
    )
    assert own.placement.fits
    assert by_plan.placement.fits
    assert not too_few.placement.fits
    assert [seen.balances[0].by for seen in (own, by_plan, too_few)] == ["relays", "synapses", "relays"]


@pytest.mark.parametrize(
    "changes",
    [{"widths": {"elsewhere": 8}}, {"cuts": []}, {"cuts": [["bias", 0, [0], [1, 1]]]}, {"cuts": [["bias", "x", [0], [1]]]}],
)
def test_weights_compressed_for_another_network_are_refused_where_their_widths_are_used(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model, sample = convolutions()
    form = {"widths": {}, "largest_states": {}, "kept": {}, "levels": 1, "balances": [], "cuts": []} | changes
    save_weights(model, tmp_path / "w.safetensors", form=json.dumps(form))
    chip, spec = nd.load_profile("loihi2"), ModelSpec(name=f"{__file__}:convolutions", weights=tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"has a header that is damaged, or of another network: .* Give --bits"):
        spec.to_place(chip, None)
    assert spec.to_place(chip, 8) == (nd.extract(model, sample), None)


# ------------------------------------------------------------------------------------------- headers that were changed

LAYERS = {"a": 9, "b": 10, "c": 4}
FORM: dict[str, Any] = {
    "widths": {"a": 8, "b": 8, "c": 8}, "largest_states": {"a": 10.0, "b": 0.0}, "kept": {"b": [10, "ff80"]}, "levels": 1,
    "balances": [{"source": "a", "targets": ["c"], "steps": 1, "by": "relays", "synapses_cost": None, "relays_cost": 0.1}],
    "cuts": [["a", 0, [0], [9]], ["a.relay1", 0, [0], [9]], ["b", 0, [0], [9]], ["c", 1, [0], [4]]],
}  # fmt: skip


def skipping() -> nd.Network:
    """Layers a, b and c, where c gets spikes of a and of b."""
    sources = {"a": {nd.INPUT: 5}, "b": {"a": 9}, "c": {"b": 10, "a": 9}}
    layers = []
    for name, n in LAYERS.items():
        synapses = {source: nd.Dense(weight=np.ones((n, n_in))) for source, n_in in sources[name].items()}
        connections = tuple(nd.Connection(source=source, synapse=synapse) for source, synapse in synapses.items())
        neuron = LIF(threshold=np.ones(()), current_decay=np.ones(()), voltage_decay=np.ones(()), rest=np.zeros(()))
        layers.append(nd.Layer(name=name, shape=(n,), connections=connections, bias=np.zeros(()), neuron=neuron))
    return nd.Network(input_shape=(5,), layers=tuple(layers), timestep_s=1e-3)


def of_balance(**changes: Any) -> dict[str, Any]:
    return {"balances": [FORM["balances"][0] | changes]}


def of_cut(*cut: Any) -> dict[str, Any]:
    return {"cuts": [*FORM["cuts"][:-1], list(cut)]}


NOT_WHOLE = (-1, 1.5, "x", None, True, 10**18, math.nan, math.inf, [1], {})
DAMAGED: list[Any] = [
    *({"levels": value} for value in (0, *NOT_WHOLE)),
    *({"widths": {"a": value}} for value in (0, *NOT_WHOLE)), {"widths": [1]}, {"widths": 3}, {"widths": {"other": 8}},
    *({"largest_states": {"a": value}} for value in (-1, "x", None, True, 10**400, math.nan, math.inf, [1], {})),
    {"largest_states": [1]}, {"largest_states": 3}, {"largest_states": {"other": 1.0}},
    *({"kept": {"b": [value, "ff80"]}} for value in (0, 9, *NOT_WHOLE)),
    *({"kept": kept} for kept in (
        {"b": [2**33, "ff"]}, {"b": [10, "zz80"]}, {"b": [10, "ff"]}, {"b": [10, "0000"]}, {"b": [1, 2, 3]}, {"b": 3},
        {"other": [1, "ff"]}, {"c": [4, "f0"]}, {"b": [10, 3]}, [1], 3,
    )),
    *(of_balance(steps=value) for value in (0, 2, 10**9, *NOT_WHOLE)),
    *(of_balance(source=value) for value in (nd.INPUT, "other", None, [], "c")), of_balance(source=nd.INPUT, steps=3_000_000),
    *(of_balance(by=value) for value in ("x", [], None)), *(of_balance(targets=value) for value in (["other"], 3, [[1]], [1])),
    *(of_balance(relays_cost=value) for value in ("x", [], 10**400)), of_balance(extra=1), {"balances": FORM["balances"] * 2},
    {"balances": [1]}, {"balances": 3}, {"balances": "ab"}, {"balances": []},
    *(of_cut("c", value, [0], [4]) for value in (*NOT_WHOLE, 10**6, 32)),
    *(of_cut("c", 1, [start], [stop]) for start, stop in (
        (-10, 4), (0, 10**18), (0, 5), (4, 0), (0, 0), (None, None), (0.0, 4.0), ("a", 4), (False, 4), (0, None),
    )),
    of_cut("c", 1, 0, 4), of_cut("c", 1, [0, 0], [4, 1]), of_cut("c", 1, [0], []), of_cut(["c"], 1, [0], [4]), of_cut("c"),
    of_cut("other", 1, [0], [4]), {"cuts": [*FORM["cuts"], ["c", 0, [0], [0]]]}, {"cuts": ["abcd"]}, {"cuts": 3}, {"cuts": []},
]  # fmt: skip


def test_a_changed_form_is_refused_whatever_was_changed() -> None:
    network = skipping()
    form = IntegerForm.from_json(json.dumps(FORM), network)
    assert json.loads(form.to_json()) == FORM
    texts = [json.dumps(FORM | changes) for changes in DAMAGED]
    texts += [json.dumps({key: value for key, value in FORM.items() if key != missing}) for missing in FORM]
    texts += ["", "x", "[" * 100_000, "1", "[]", "null", "{}", '{"levels": ' + "9" * 5000 + "}", json.dumps(FORM)[:50]]
    accepted = []
    for text in texts:
        with suppress(ValueError):
            IntegerForm.from_json(text, network)
            accepted.append(text)
    assert accepted == []


def test_a_changed_header_ends_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(convolutions()[0], tmp_path / "w.safetensors", form="[" * 100_000)
    told = ["inspect", f"{__file__}:convolutions", "--target", "loihi2", "--weights", str(tmp_path / "w.safetensors")]
    assert main(told) == 2
    assert "w.safetensors: has a header that is damaged, or of another network: RecursionError" in capsys.readouterr().err
