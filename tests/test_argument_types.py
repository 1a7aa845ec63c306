"""A wrong argument of a public function or class ends in an error that names the call and the argument, at once."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LICell, LIFCell, SequentialState

import neurodeploy as nd
from neurodeploy.errors import ArgumentTypeError, NeurodeployError
from neurodeploy.training.batches import DataSplit

DECAYS = {"current_decay": 0.5, "voltage_decay": 0.5, "rest": 0.0}


def network() -> nd.Network:
    """4 inputs, 3 neurons, and a readout of 2."""
    layers = []
    for name, source, n, n_in in (("a", nd.INPUT, 3, 4), ("b", "a", 2, 3)):
        weight = np.arange(1.0, 1 + n * n_in).reshape(n, n_in)
        neuron = nd.LIF(threshold=1.0, **DECAYS) if name == "a" else nd.LI(**DECAYS)
        connection = nd.Connection(source=source, synapse=nd.Dense(weight=weight))
        layers.append(nd.Layer(name=name, shape=(n,), neuron=neuron, bias=np.array(0.0), connections=(connection,)))
    return nd.Network(input_shape=(4,), layers=tuple(layers), timestep_s=0.001)


def module() -> torch.nn.Module:
    return SequentialState(torch.nn.Linear(4, 3, bias=False), LIFCell(), torch.nn.Linear(3, 2, bias=False), LICell())


@cache
def made() -> dict[str, Any]:
    """Arguments that the calls below share."""
    options = nd.FitOptions(epochs_dense=0, epochs_compress=0, epochs_finetune=0, n_steps=2)
    quantized = nd.quantize(network(), "loihi2")
    batches = [(torch.zeros(2, 4), torch.tensor([0, 1]))]
    seen = nd.inspect(network(), "tiny")
    return {
        "network": network(), "quantized": quantized, "profile": nd.load_profile("tiny"), "options": options, "batches": batches,
        "seen": seen, "record": nd.simulate(quantized, np.zeros((4, 2), np.uint8), record="all"), "sample": torch.zeros(1, 4),
    }  # fmt: skip


def calls(folder: Path) -> dict[str, dict[str, Any]]:
    """Arguments of every public function, and of every public class, with which it returns."""
    at = made()
    floats, integers, chip, sample, options = at["network"], at["quantized"], at["profile"], at["sample"], at["options"]
    split = DataSplit(at["batches"], at["batches"], (4,), 2)
    trained = {"model": module(), "sample": sample, "profile": chip, "data": split, "options": options, "out": folder / "out"}
    nd.write_netx(integers, folder / "model.net")
    nd.write_nir(floats, folder / "model.nir")
    nd.save_weights(module(), folder / "weights.pt")
    first = floats.layers[0]
    layer = {name: getattr(first, name) for name in ("name", "shape", "neuron", "connections", "bias")}
    return {
        "balance": {"network": floats, "profile": chip},
        "compare": {"emulator": at["record"], "lava": at["record"]},
        "compress": trained, "compress_to": trained | {"cores": [2, 1]},
        "deploy": {"network": floats, "profile": "loihi2", "out": folder / "deployed"},
        "dequantize": {"network": integers},
        "encode": {"images": torch.zeros(2, 4), "n_steps": 3},
        "evaluate": {"network": integers, "data": at["batches"], "options": options, "progress": False},
        "explore": {"network": floats}, "extract": {"model": module(), "sample": sample},
        "fit": {"model": module(), "budget": None, "data": at["batches"], "options": options},
        "in_levels": {"network": floats, "levels": 3}, "inspect": {"network": floats, "profile": chip},
        "load_data": {"spec": "digits"}, "load_profile": {"name_or_path": "tiny"},
        "load_weights": {"model": module(), "path": folder / "weights.pt"},
        "narrow_budget": {"network": floats, "profile": chip}, "place": {"network": integers, "profile": chip},
        "quantization_errors": {"network": floats, "quantized": integers}, "quantize": {"network": floats, "profile": chip},
        "read_netx": {"path": folder / "model.net"}, "read_nir": {"path": folder / "model.nir", "dt": 0.001},
        "save_weights": {"model": module(), "path": folder / "saved.pt"}, "share_budget": {"network": floats, "profile": chip},
        "simulate": {"network": integers, "spikes": np.zeros((4, 2), np.uint8)},
        "simulator_spikes": {"images": torch.zeros(2, 4), "n_steps": 3},
        "summarize": {"profile": chip, "budget": at["seen"].budget, "placement": at["seen"].placement},
        "summary": {"model": module(), "sample": sample}, "trainable": {"model": module(), "sample": sample},
        "sweep": {
            "model": floats, "profiles": ["tiny"], "data": trained["data"], "options": options, "out": folder / "swept",
        },
        "trim": {"network": floats}, "verify": {"network": integers}, "with_input_population": {"network": integers},
        "write_back": {"network": nd.TrainableNetwork(floats), "model": module(), "sample": sample},
        "write_netx": {"network": integers, "path": folder / "written.net"},
        "write_nir": {"network": floats, "path": folder / "written.nir"},
        "write_nir_data": {"record": at["record"], "path": folder / "spikes.nir"},
        "Connection": {"source": "a", "synapse": first.connections[0].synapse},
        "Conv": {"weight": np.ones((1, 1, 2, 2)), "input_shape": (1, 4, 4)}, "Dense": {"weight": [[1.0, 2.0]]},
        "Direct": {}, "FitOptions": {}, "LI": DECAYS, "LIF": DECAYS | {"threshold": 1.0}, "Layer": layer,
        "SubtractiveLIF": DECAYS | {"threshold": 1.0, "max_spikes": 3},
        "HardwareProfile": {"name": "tiny", "description": "Tiny.", "limits": dict(chip.limits)},
        "MinimaxOptions": {}, "MinimaxSaddleOptions": {},
        "Network": {"input_shape": (4,), "layers": floats.layers, "timestep_s": 0.001},
        "QuantizedNetwork": {"input_shape": (4,), "layers": integers.layers},
        "Sparse": {"n_in": 2, "starts": [0, 1], "sources": [1], "weight": [2.0]},
        "SpikeRecord": {"end": "emulator", "spikes": dict(at["record"].spikes)}, "TrainableNetwork": {"network": floats},
    }  # fmt: skip


WRONG: tuple[Any, ...] = (
    object(), None, "text", b"x", 1.5, -3, True, ["x", object()], {1: 2}, (), float("nan"), [1, 2], 10**30, [[1], [1, 2]],
)  # fmt: skip
SLOW = {"compress", "compress_to", "explore", "fit", "sweep", "verify"}
"""They train, or run Lava: values that they might take are not tried."""
RESULTS = {"Budget", "Deployment", "EpochRecord", "Evaluation", "Inspection", "ModelSummary", "Placement", "Report"}
"""Classes that users get, and do not build."""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text is a path, too: some calls write there."""
    monkeypatch.chdir(tmp_path)


def public_calls() -> list[str]:
    """Names of all public functions with arguments, and of all classes that users build."""
    found = {name: getattr(nd, name) for name in nd.__all__}
    classes = {name for name, one in found.items() if inspect.isclass(one) and not issubclass(one, Exception)} - {"Pruning"}
    functions = {name for name, one in found.items() if inspect.isfunction(one) and inspect.signature(one).parameters}
    return sorted(functions | classes - RESULTS)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return calls(tmp_path_factory.mktemp("arguments"))


def test_every_public_call_is_tried_here(arguments: dict[str, dict[str, Any]]) -> None:
    assert sorted(arguments) == public_calls()


@pytest.mark.parametrize("name", public_calls())
def test_a_wrong_argument_ends_in_an_error_of_neurodeploys(name: str, arguments: dict[str, dict[str, Any]]) -> None:
    call = getattr(nd, name)
    for argument in inspect.signature(call).parameters:
        for wrong in WRONG[:1] if name in SLOW else WRONG:
            with suppress(NeurodeployError):  # some calls take it
                call(**(arguments[name] | {argument: wrong}))


@pytest.mark.parametrize("name", public_calls())
def test_an_argument_of_no_possible_type_is_named_with_what_the_call_takes(
    name: str, arguments: dict[str, dict[str, Any]]
) -> None:  # fmt: skip
    call = getattr(nd, name)
    for argument, parameter in inspect.signature(call).parameters.items():
        with pytest.raises(ArgumentTypeError, match=f"^{name}, argument '{argument}': is of type object, and has to be ") as told:
            call(**(arguments[name] | {argument: object()}))
        assert isinstance(told.value, TypeError)
        assert ("None" in str(parameter.annotation)) == ("None" in str(told.value))


def test_plots_name_their_arguments_too() -> None:
    for call in (nd.plot.network, nd.plot.chip, nd.plot.raster, nd.plot.budget):
        first, *_ = inspect.signature(call).parameters
        needed = [n for n, p in inspect.signature(call).parameters.items() if p.default is p.empty]
        with pytest.raises(ArgumentTypeError, match=f"^{call.__name__}, argument '{first}': is of type object"):
            call(**dict.fromkeys(needed, object()))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: nd.inspect("model.net", "loihi2"), "of type str ('model.net'), and has to be Network or QuantizedNetwork"),
        (lambda: nd.inspect(network(), "loihi2", cores="4"), "'cores': is of type str ('4'), and has to be int or None"),
        (lambda: nd.inspect(network(), "loihi2", form={}), "is of type dict, and has to be IntegerForm or None"),
        (lambda: nd.inspect(network(), 7), "'profile': is of type int (7), and has to be HardwareProfile, str or a path"),
        (lambda: nd.place(made()["quantized"], "tiny", cores=True), "'cores': is of type bool (True), and has to be int"),
        (lambda: nd.share_budget(network(), "tiny", whole="a"), "is of type str ('a'), and has to be a collection of str"),
        (lambda: nd.share_budget(network(), "tiny", whole=["a", 1]), "is of type list of 2 int, str, and has to be a collection"),
        (lambda: nd.quantize(network(), "tiny", bits={"a": 2.5}), "is of type dict, and has to be int, a mapping of str and int"),
        (lambda: nd.simulate(made()["quantized"], [[0], [0, 1]]), "'spikes': is of type list of 2 list, and has to be an array"),
        (lambda: nd.Layer(name="a", shape="33", neuron=None, connections=(), bias=0), "'shape': is of type str ('33'), and has"),
        (lambda: nd.encode(torch.zeros(2, 4), 10**30), "'n_steps': is a number of 100 bits, and has to be int"),
        (lambda: nd.evaluate(made()["quantized"], 3, made()["options"]), "has to be Iterable"),
    ],
)  # fmt: skip
def test_the_error_shows_the_value_and_what_is_taken(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ArgumentTypeError) as told:
        call()
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_what_users_pass_in_place_of_the_type_itself_is_taken(tmp_path: Path) -> None:
    quantized = nd.quantize(network(), "loihi2", bits=np.int64(8))
    assert quantized == nd.quantize(network(), "loihi2", bits=8)
    nd.write_netx(quantized, os.fspath(tmp_path / "a.net"))
    with os.scandir(tmp_path) as entries:  # os.DirEntry is a path, too
        assert nd.read_netx(next(entries)) == quantized
    spikes = np.zeros((4, 2), np.uint8)
    for same in (spikes.tolist(), torch.from_numpy(spikes), tuple(map(tuple, spikes.tolist()))):
        assert nd.simulate(quantized, same).rates() == nd.simulate(quantized, spikes).rates()
    nd.write_nir(network(), tmp_path / "a.nir", dt=np.float32(0.001))
    nd.evaluate(quantized, torch.utils.data.DataLoader([(torch.zeros(4), 1)]), made()["options"], progress=np.bool_(False))
    assert nd.LIF(threshold=1, current_decay=np.float32(0.5), voltage_decay=0.5, rest=0) == nd.LIF(threshold=1.0, **DECAYS)


def test_too_many_and_too_few_arguments_are_pythons_own_errors() -> None:
    with pytest.raises(TypeError, match=r"^inspect\(\) missing 1 required positional argument: 'profile'"):
        nd.inspect(network())  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^trim\(\) got an unexpected keyword argument 'nosuch'"):
        nd.trim(network(), nosuch=1)  # type: ignore[call-arg]


def test_checked_functions_and_classes_stay_what_they_are() -> None:
    assert pickle.loads(pickle.dumps(nd.simulate)) is nd.simulate
    assert pickle.loads(pickle.dumps(network())) == network()
    assert list(inspect.signature(nd.trim).parameters) == ["network"]


def test_data_of_no_batches_is_refused() -> None:
    for data, said in (([1, 2], "gave int"), (["ab"], "gave str"), ([("a", "b")], "are not tensors"), ([(1.0, 2)], "no dense")):
        with pytest.raises(nd.DataError, match=f"^data: .*{said}"):
            nd.evaluate(made()["quantized"], data, made()["options"])
        with pytest.raises(nd.DataError, match=f"^data: .*{said}"):
            nd.fit(module(), None, data, nd.FitOptions(epochs_dense=1, epochs_compress=0, epochs_finetune=0, n_steps=2))
