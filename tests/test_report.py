"""What is said of a network on a chip: the keys that scripts rely on, the text that people read, the rungs of accuracy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from norse.torch import LIBoxCell, LICell, LIFBoxCell, LIFCell, SequentialState
from norse.torch.functional.leaky_integrator_box import LIBoxParameters
from paper import in_integers, layer_of
from spiking import SHORT, few

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.mapping.allocation import share_budget
from neurodeploy.mapping.place import lay_out, place
from neurodeploy.mapping.placement import Placement
from neurodeploy.passes.quantize import quantize
from neurodeploy.pipeline.evaluation import first_samples, for_simulator, measure, outputs
from neurodeploy.pipeline.inspection import inspect
from neurodeploy.report.summary import Accuracy, LavaCheck, Report, binding, inspection, summarize, versions
from neurodeploy.report.text import accuracy_table, as_text, chip_table, core_table, layer_notes, layer_table
from neurodeploy.targets.simulate import simulate

TINY = load_profile("tiny")
COUNTS = [
    "neurons", "synapses", "weight_bits", "encoding", "fan_in", "synapse_memory_bits", "input_axons", "output_axons", "cores",
    "slices", "delay_steps",
]  # fmt: skip
BOARD = ["utilization", "traffic", "estimate"]

# ---------------------------------------------------------------------------------------------- what scripts rely on


@pytest.fixture
def before(make_network: Callable[..., Network]) -> Placement:
    """Too much for one core of the toy chip."""
    return lay_out(make_network([40, 50, 5]), TINY, cores=1)


@pytest.fixture
def after() -> Placement:
    """What is left of it, on that core."""
    hidden, readout = np.zeros((50, 40), dtype=int), np.zeros((5, 50), dtype=int)
    hidden[:25, :10], readout[:, :25] = 7, -3
    network = in_integers(layer_of(hidden, name="layer1", vth=9, bits=4), layer_of(readout, name="layer2", source="layer1"))
    return lay_out(network, TINY, cores=1)


def test_report_json_has_the_keys_that_were_promised(
    make_network: Callable[..., Network], before: Placement, after: Placement
) -> None:
    budget = share_budget(make_network([40, 50, 5]), TINY, cores=2)
    said = summarize(TINY, budget, after, before=before).to_json()
    first = ["profile", "target", "seed", "versions", "fits", "binding", "cores"]
    last = ["accuracy", "lava", "overflows", "layers", "balances", "worth", "files", "checkpoint", "infeasible"]
    assert list(said) == [*first, *BOARD, *last]
    assert list(said["fits"]) == ["before", "after"]
    assert list(said["cores"]) == ["used", "available", "lower_bound", "chips"]
    assert list(said["accuracy"]) == [
        "dense",
        "compressed",
        "quantized",
        "emulated",
        "lava",
        "test_samples",
        "lava_samples",
        "simulator",
        "emulated_on_lava_samples",
    ]
    assert list(said["lava"]) == ["steps", "mismatches", "spikes", "simulator"]
    for broken in said["binding"]:
        assert list(broken) == ["layer", "resource", "core", "need", "limit", "source", "remedy"]
        assert broken["layer"] in [layer["name"] for layer in said["layers"]]
    for layer in said["layers"]:
        assert set(layer) == {"name", "connectivity", "before", "budget", *COUNTS}
        assert set(layer["before"]) == set(COUNTS)
        assert set(layer["budget"]) == {*COUNTS, "binds", "kept"} - {"encoding", "fan_in", "delay_steps", "slices"}


def test_inspect_json_has_the_keys_that_were_promised(before: Placement) -> None:
    said = inspection(before, None)
    assert list(said) == ["profile", "target", "fits", "binding", "cores", *BOARD, "gains", "balances", "layers"]
    assert (said["profile"], said["target"], said["fits"]) == ("tiny", "loihi", False)
    assert said["binding"] == binding(before)
    assert [set(layer) for layer in said["layers"]] == [{"name", "connectivity", "before", "budget", *COUNTS}] * 2
    assert [(layer["before"], layer["budget"]) for layer in said["layers"]] == [(None, None)] * 2


def test_what_was_not_run_is_null(after: Placement) -> None:
    said = summarize(TINY, None, after).to_json()
    assert (said["seed"], said["fits"], said["lava"]) == (
        None,
        {"before": None, "after": True},
        {"steps": None, "mismatches": None, "spikes": None, "simulator": None},
    )
    assert set(said["accuracy"].values()) == {None}
    assert [(layer["before"], layer["budget"]) for layer in said["layers"]] == [(None, None)] * 2
    assert (said["binding"], said["files"]) == ([], {})


def test_what_was_run_is_there(before: Placement, after: Placement) -> None:
    report = summarize(
        TINY, None, after, before=before, seed=3, accuracy=Accuracy(dense=0.9, lava=0.5, test_samples=10, lava_samples=2),
        lava=LavaCheck(steps=64, mismatches=0, spikes=9), files={"network": "out/model.net"},
    )  # fmt: skip
    said = json.loads(json.dumps(report.to_json()))
    assert said == report.to_json()
    assert (said["profile"], said["target"], said["seed"]) == ("tiny", "loihi", 3)
    assert said["fits"] == {"before": False, "after": True}
    assert said["accuracy"] == {
        "dense": 0.9, "compressed": None, "quantized": None, "emulated": None, "lava": 0.5, "test_samples": 10, "lava_samples": 2,
        "simulator": None, "emulated_on_lava_samples": None,
    }  # fmt: skip
    assert (said["lava"], said["files"]) == (
        {"steps": 64, "mismatches": 0, "spikes": 9, "simulator": "Lava"},
        {"network": "out/model.net"},
    )
    assert said["cores"] == {"used": 1, "available": 1, "lower_bound": 1, "chips": 1}


def test_the_numbers_of_a_layer(before: Placement, after: Placement) -> None:
    """Ten axons with 25 of 50 synapses each, of 4 bits: sparse 25 * 10 + 10, so 320; dense 50 * 4 + 10, so 256."""
    first, second = summarize(TINY, None, after, before=before).to_json()["layers"]
    assert {key: first[key] for key in ("name", "connectivity", *COUNTS)} == {
        "name": "layer1", "connectivity": 0.125, "neurons": 50, "synapses": 250, "weight_bits": 4, "encoding": "dense",
        "fan_in": 10, "synapse_memory_bits": 2560, "input_axons": 10, "output_axons": 25, "cores": 1, "slices": 1,
            "delay_steps": 0,
    }  # fmt: skip
    assert (first["before"]["synapses"], first["before"]["weight_bits"], first["before"]["input_axons"]) == (2000, 8, 80)
    assert (second["name"], second["connectivity"], second["synapses"]) == ("layer2", 0.5, 125)


def test_binding_is_what_the_network_broke_as_it_came(before: Placement, after: Placement) -> None:
    said = summarize(TINY, None, after, before=before).to_json()["binding"]
    assert said == binding(before)
    assert {key: said[0][key] for key in ("layer", "resource", "core", "need", "limit", "source")} == {
        "layer": "layer1", "resource": "cores", "core": None, "need": before.cores_used, "limit": 1,
        "source": "cores allowed",
    }  # fmt: skip
    assert "'layer1' takes 85%" in said[0]["remedy"]
    assert summarize(TINY, None, before).to_json()["binding"] == binding(before)


def test_versions_of_what_is_missing_are_null(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = metadata.version

    def version(name: str) -> str:
        if name.startswith("lava"):
            raise metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(metadata, "version", version)
    said = versions()
    assert (said["lava-nc"], said["lava-dl"], said["numpy"]) == (None, None, np.__version__)
    assert {"neurodeploy", "torch", "norse"} < set(said)


# ---------------------------------------------------------------------------------------------- what people read


def lines(report: Report) -> list[str]:
    return str(report).splitlines()


def test_the_verdict_comes_first(before: Placement, after: Placement) -> None:
    said = lines(summarize(TINY, None, after, before=before))
    assert said[0] == f"tiny (target loihi): {TINY.description}"
    assert said[1].startswith(f"Before: does not fit. network: {before.cores_used} cores > 1 (cores allowed)")
    verdict = next(line for line in said if line.startswith("Now: "))
    assert verdict == "Now: fits. 1 of 1 core used; lower bound: 1 core (each resource's total over what a core has)."
    assert said.index(verdict) < next(n for n, line in enumerate(said) if line.startswith("Layers: used / budget (before)"))


def test_no_more_than_three_broken_limits_are_told_each_once(make_chip: Callable[..., HardwareProfile]) -> None:
    names = ["input", *"abcde"]
    network = in_integers(*(layer_of(np.ones((9, 9)), name=name, source=source, vth=1) for source, name in pairwise(names)))
    placement = lay_out(network, make_chip(input_axons_per_core=8, cores_per_chip=50))
    assert len(binding(placement)) == 45
    told = lines(summarize(TINY, None, placement))
    assert [line[:29] for line in told if line.startswith("Now:")] == [f"Now: does not fit. layer '{name}':" for name in "abc"]
    assert " ".join(told).count("The same on 8 more cores.") == 3
    assert "... and 2 more limits." in told


def test_the_table_shows_use_budget_and_what_was(
    make_network: Callable[..., Network], before: Placement, after: Placement
) -> None:
    budget = share_budget(make_network([40, 50, 5]), TINY, cores=2)
    report = summarize(TINY, budget, after, before=before)
    first, may, was = report.layers[0].now, budget.placed(after)[0], before.of("layer1")
    (row,) = (line for line in as_text(layer_table(report.layers)).splitlines() if "layer1" in line)
    cells = re.split(r" {2,}", row.strip())
    assert cells[:5] == ["layer1", "50", "12.5%", "4-bit dense", "250 (2,000)"]
    assert cells[5] == f"2,560 / {may.synapse_memory_bits:,} ({was.synapse_memory_bits:,})"
    assert cells[6:8] == [f"10 / {may.input_axons} (80)", f"{first.output_axons} / {may.output_axons} ({was.output_axons})"]
    assert cells[8] == f"1 / {may.cores}" + (f" ({was.cores})" if was.cores != 1 else "")


def test_under_fits_no_layer_uses_more_than_its_budget(after: Placement, make_network: Callable[..., Network]) -> None:
    """Memory that one layer of a core leaves is the other's, and the budget moves with it."""
    budget = share_budget(make_network([40, 50, 5]), TINY, cores=2)
    # the plan as it was before memory moved: too little for the first layer
    budget = replace(budget, layers=tuple(replace(entry, synapse_memory_bits=100, input_axons=1) for entry in budget.layers))
    assert after.fits
    layers = summarize(TINY, budget, after).layers
    for layer in layers:
        assert layer.budget is not None
        for resource in ("neurons", "synapse_memory_bits", "input_axons", "output_axons", "cores"):
            assert getattr(layer.now, resource) <= getattr(layer.budget, resource)
    left = TINY.capacity("synapse_memory_bits") - after.on_core(0)["synapse_memory_bits"]
    assert [layer.budget.synapse_memory_bits - layer.now.synapse_memory_bits for layer in layers if layer.budget] == [left, left]


def test_an_unfit_network_is_shown_beside_what_it_may_use(before: Placement, make_network: Callable[..., Network]) -> None:
    budget = share_budget(make_network([40, 50, 5]), TINY, cores=2)
    assert [layer.budget for layer in summarize(TINY, budget, before).layers] == list(budget.layers)


def test_kept_is_of_the_original_matrix_whatever_was_cut_from_it(before: Placement) -> None:
    """A layer that lost half its inputs and outputs, and has all weights between the rest, keeps a quarter."""
    hidden, readout = np.full((25, 20), 7), np.full((5, 25), -3)
    narrow = in_integers(layer_of(hidden, name="layer1", vth=9, bits=4), layer_of(readout, name="layer2", source="layer1"))
    placement = lay_out(narrow, TINY, cores=1)
    assert [layer.connectivity for layer in summarize(TINY, None, placement, before=before).layers] == [0.25, 0.5]
    assert [layer.connectivity for layer in summarize(TINY, None, placement).layers] == [1.0, 1.0]


def broken_words(text: str, whole: str) -> set[str]:
    """Words of a narrow text that a wide one does not have."""

    def words(of: str) -> set[str]:
        return {word for word in of.split() if set(word) - {"\u2500"}}

    return {word for word in words(text) if word not in words(whole)}


@pytest.mark.parametrize("width", [80, 100, 120])
def test_tables_never_break_a_word_or_a_number(width: int, make_network: Callable[..., Network]) -> None:
    network = make_network([4000, 900, 700])
    before, profile = lay_out(network, load_profile("loihi1"), cores=128), load_profile("loihi1")
    layers = summarize(profile, share_budget(network, profile), before, before=before).layers
    wide = tuple(
        replace(layer, before=replace(layer.now, synapses=3_747_840_000, synapse_memory_bits=3_747_840_123)) for layer in layers
    )
    for table in (
        layer_table(wide),
        core_table(before),
        accuracy_table(Accuracy(dense=0.5, test_samples=9)),
        chip_table(profile),
    ):
        text, whole = as_text(table, width=width), as_text(table, width=400)
        assert max(map(len, text.splitlines())) <= width
        rows, _, note = text.partition("Left out in ")
        assert broken_words(rows, whole) == set()
        assert "Left out" not in whole
        assert not note or " ".join(note.split()).endswith("--wide shows them.")


def test_layers_that_are_added_share_a_row_unless_all_are_asked_for() -> None:
    model = SequentialState(torch.nn.Linear(12, 5), LIFCell(), torch.nn.Linear(5, 4), LIFCell(), torch.nn.Linear(4, 3), LICell())
    layers = inspect(extract(model, torch.zeros(1, 12)), load_profile("loihi2")).layers
    assert [layer.now.layer for layer in layers if layer.is_added] == ["bias"]
    assert "1 added" not in as_text(layer_table(layers))
    relay = replace(layers[0], now=replace(layers[0].now, layer="bias.relay1", neurons=6))
    folded, wide = (as_text(layer_table((*layers, relay), wide=asked)) for asked in (False, True))
    assert re.search(r"\n 2 added +7 ", folded)
    assert "bias" not in folded
    assert "bias.relay1" in wide
    assert "Added by neurodeploy, to bring biases or to delay spikes: bias, bias.relay1." in layer_notes((*layers, relay))


@pytest.mark.parametrize(
    ("right", "n", "said"),
    [
        (81, 263, "30.80% [25.5%, 36.6%]"),
        (0, 20, "0.00% [0.0%, 16.1%]"),
        (1, 29, "3.45% [0.6%, 17.2%]"),
        (10, 10, "100.00% [72.2%, 100.0%]"),
    ],
)
def test_accuracy_comes_with_its_wilson_interval(right: int, n: int, said: str) -> None:
    """The first three are worked in Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    text = as_text(accuracy_table(Accuracy(emulated=right / n, test_samples=n)))
    assert f"Accuracy on {n} test samples" in text
    assert said in text
    assert text.count("not run") == 4


@pytest.mark.parametrize(
    ("dense", "compressed", "classes", "said"),
    [
        (0.14, 0.60, 10, "its accuracy is 14.0%, less than the 60.0% after compression, which trained it further."),
        (0.11, 0.12, 10, "its accuracy is 11.0%, no better than chance, 10.0%."),
        (0.97, 0.98, 10, ""),  # within the interval of 200 samples
        (0.97, 0.40, 10, ""),  # that is what compression costs
        (1.0, 1.0, 1, ""),
        (None, 0.5, 10, ""),
    ],
)
def test_a_dense_network_that_is_undertrained_is_told(dense: float | None, compressed: float, classes: int, said: str) -> None:
    doubts = Accuracy(dense=dense, compressed=compressed, test_samples=200).doubts(classes)
    assert [doubt.partition(": ")[2].partition(" What")[0] for doubt in doubts] == ([said] if said else [])


def test_a_report_warns_of_an_undertrained_network_first(after: Placement) -> None:
    accuracy = Accuracy(dense=0.2, compressed=0.6, test_samples=100)
    report = summarize(TINY, None, after, accuracy=accuracy, warnings=("another",))
    assert report.warnings == (*accuracy.doubts(5), "another")
    assert "Note: The dense network is undertrained" in str(report)


def test_lavas_accuracy_has_samples_of_its_own() -> None:
    text = as_text(accuracy_table(Accuracy(emulated=0.5, lava=0.5, test_samples=1000, lava_samples=10)))
    assert "in Lava (10 samples)" in text
    assert "50.00% [46.9%, 53.1%]" in text
    assert "50.00% [23.7%, 76.3%]" in text
    assert "samples" not in as_text(accuracy_table(Accuracy(emulated=0.5, test_samples=1))).partition("in Lava")[2]


def test_the_emulator_has_lavas_samples_beside_lava() -> None:
    accuracy = Accuracy(emulated=0.97, lava=0.75, emulated_on_lava_samples=0.75, test_samples=100, lava_samples=8)
    *_, whole, beside, in_lava = as_text(accuracy_table(accuracy)).splitlines()
    assert re.match(r" emulated +97\.00%", whole)
    assert re.match(r" emulated \(8 samples\) +75\.00% .* the same, on the first 8 samples", beside)
    assert re.match(r" in Lava \(8 samples\) +75\.00%", in_lava)
    all_of_them = as_text(accuracy_table(replace(accuracy, lava_samples=100)))
    assert all_of_them.count("emulated") == 1
    assert "samples)" not in all_of_them


def test_the_rest_is_told_where_there_is_something_to_tell(after: Placement) -> None:
    bare = str(summarize(TINY, None, after))
    assert not any(word in bare for word in ("Accuracy", "Lava", "Spikes", "Note:", "Files:"))
    more: dict[str, Any] = {
        "rates": {"layer1": 0.1234}, "warnings": ("one thing", "another"), "files": {"network": "a.net", "text": "b.txt"},
        "lava": LavaCheck(steps=1200, mismatches=0, spikes=50),
    }  # fmt: skip
    said = lines(summarize(TINY, None, after, **more))
    assert "Lava and the emulator: 1,200 steps, spikes and membranes equal." in said
    assert "Spikes per neuron and step (a readout never fires): layer1 0.123." in said
    assert [line for line in said if line.startswith("Note")] == ["Note: one thing", "Note: another"]
    assert said[-1] == "Files: a.net, b.txt"
    long = "folder with a space/" * 9 + "model.net"
    narrow = as_text(*summarize(TINY, None, after, files={"network": long}).tables(), width=40).splitlines()
    assert narrow[-1] == f"Files: {long}"
    silent = lines(summarize(TINY, None, after, lava=LavaCheck(steps=1200, mismatches=0, spikes=0)))
    assert "Lava and the emulator: 1,200 steps, membranes equal, but no neuron fired: no spikes were compared." in silent
    differs = str(summarize(TINY, None, after, lava=LavaCheck(steps=1200, mismatches=3456, spikes=50)))
    assert "Lava and the emulator: 1,200 steps, 3,456 values differ." in differs


def test_names_with_brackets_and_colons_are_names(after: Placement) -> None:
    odd = in_integers(layer_of([[1]], name="[b]:key:"))
    said = str(summarize(TINY, None, place(odd, TINY), files={"network": "runs[final]/:cat:.net"}))
    assert "[b]:key:" in said
    assert "runs[final]/:cat:.net" in said


def test_the_rates_are_those_of_the_record_unless_they_are_given(after: Placement) -> None:
    record = simulate(in_integers(layer_of([[5]], vth=1)), np.array([[1, 1, 0, 0]]))
    assert summarize(TINY, None, after, record).rates == {"only": 0.5}
    assert summarize(TINY, None, after, record, rates={"only": 0.25}).rates == {"only": 0.25}
    assert summarize(TINY, None, after).rates == {}


# ---------------------------------------------------------------------------------------------- the rungs


def trained() -> SequentialState:
    """As if: three classes of images, each bright where its own hidden neurons look."""
    looks = torch.eye(3).repeat(1, 4)
    first, second = torch.nn.Linear(12, 3, bias=False), torch.nn.Linear(3, 3, bias=False)
    first.weight.data, second.weight.data = 4 * looks - 1.5, 3.0 * torch.eye(3)
    return SequentialState(first, LIFBoxCell(), second, LIBoxCell(LIBoxParameters(v_leak=torch.tensor(-65.0))))


def test_outputs_are_in_the_models_own_units() -> None:
    model, (inputs, _) = trained(), few()[0]
    network = extract(model, inputs)
    quantized = quantize(network, TINY)
    spikes = for_simulator(inputs, model, SHORT)
    assert (spikes.shape, spikes.dtype) == ((25, 12, SHORT.n_steps), np.uint8)
    said = outputs(simulate(quantized, spikes), quantized, network.output.neuron.rest)
    np.testing.assert_allclose(said, simulate(network, spikes).v["layer2"], atol=0.05)
    assert said.min() >= -65 - 1e-9
    assert said.max() > -64.9


def test_outputs_of_neurons_that_fire_are_their_spikes() -> None:
    network = in_integers(layer_of([[5], [0]], vth=1))
    spikes = np.array([[1, 0, 1]])
    assert outputs(simulate(network, spikes), network, np.zeros(())).tolist() == [[[1, 0, 1], [0, 0, 0]]]


def test_every_rung_is_measured_on_all_samples() -> None:
    model, data = trained(), few()
    network = extract(model, data[0][0])
    quantized = quantize(network, TINY)
    measured = measure(model, network, quantized, data, SHORT)
    assert measured.accuracy.test_samples == 40
    assert measured.accuracy.emulated == measured.accuracy.quantized > 0.9
    assert (measured.accuracy.dense, measured.accuracy.lava) == (None, None)
    records = [simulate(quantized, for_simulator(inputs, model, SHORT), record="all") for inputs, _ in data]
    assert measured.rates["layer0"] == pytest.approx(np.concatenate([r.spikes["layer0"] for r in records]).mean())
    assert list(measured.rates) == ["layer0"]  # the readout never fires
    assert (measured.changed, measured.overflows) == ((), {"layer0": 0, "layer2": 0})
    wrong = [(inputs, (target + 1) % 3) for inputs, target in data]
    assert (measure(model, network, quantized, wrong, SHORT).accuracy.emulated or 0) < 0.1


def test_a_stretch_reads_no_more_than_it_shows() -> None:
    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield few()[0]
        raise AssertionError("read on")

    stretch = first_samples(trained(), batches(), SHORT, 20)
    assert (len(stretch.spikes), stretch.labels.tolist()) == (20, few()[0][1][:20].tolist())
