"""The Xylo target: its emulator equals SynSense's simulator, its files come back, and what the chip cannot do is refused."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from xylo_runs import KINDS, compared, drawn, layer_of_xylo, needs_xylosim, neurons_of_xylo

import neurodeploy as nd
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import QuantizedConv, QuantizedLI, QuantizedNetwork
from neurodeploy.targets.xylo import emulator, specification

XYLO_CHIP = nd.load_profile("xylo")


def both(network: QuantizedNetwork, spikes: Any) -> tuple[nd.SpikeRecord, nd.SpikeRecord]:
    run = {"record": "all", "graded": True}
    return nd.simulate(network, spikes, **run), nd.simulate(network, spikes, end="xylosim", **run)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run XyloSim without a process of its own, whose start takes seconds."""
    monkeypatch.setattr(specification, "run_worker", lambda *run: specification.work(run[2]))


# ---------------------------------------------------------------------------------------------- equal to XyloSim


@needs_xylosim
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("index", range(len(compared())))
def test_the_emulator_equals_xylosim(index: int) -> None:
    """Spikes and membranes of all layers at all steps."""
    ours, theirs = both(*compared()[index])
    assert nd.compare(ours, theirs).equal


@needs_xylosim
@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_the_emulator_equals_xylosim_on_many_networks() -> None:
    saturated = spikes = 0
    for seed in range(100, 300):
        network, given = drawn(seed)
        ours, theirs = both(network, given)
        assert nd.compare(ours, theirs).equal, seed
        saturated += sum(ours.overflows.values())
        spikes += sum(int(array.sum()) for array in ours.spikes.values())
    assert min(saturated, spikes) > 10_000


def test_drawn_networks_do_what_they_are_drawn_for() -> None:
    """The networks above saturate, stay silent, and fire bursts of 31."""
    records = [nd.simulate(*drawn(seed), record="all", graded=True) for seed in range(24)]
    found = {kind: records[k :: len(KINDS)] for k, kind in enumerate(KINDS)}
    assert all(sum(record.overflows.values()) for record in found["saturating"])
    assert not any(record.spikes["layer0"].any() for record in found["silent"])
    assert max(int(record.spikes["layer0"].max()) for record in found["bursts"]) == 31
    assert sum(int(array.sum()) for record in found["recurrent"] for array in record.spikes.values()) > 1000


@needs_xylosim
@pytest.mark.usefixtures("in_this_process")
def test_the_order_of_saturating_synapses_counts() -> None:
    """127 and -128, shifted by 7, three times each: the same sum, and not the same current."""
    records = []
    for weights in ([127, -128], [-128, 127]):
        hidden = layer_of_xylo("hidden", np.array([weights]) << 7, neurons_of_xylo(32767, 15, 8))
        network = QuantizedNetwork(
            input_shape=(2,),
            layers=(hidden, layer_of_xylo("readout", [[1]], neurons_of_xylo(9, most=1), "hidden")),
            target="xylo",
        )
        ours, theirs = both(network, np.array([[[3, 0, 0], [3, 0, 0]]]))
        assert nd.compare(ours, theirs).equal
        records.append(ours.v["hidden"][0, 0, 0])
    assert records == [-16384, 15999]


@needs_xylosim
@pytest.mark.usefixtures("in_this_process")
def test_a_convolution_runs_as_its_synapses() -> None:
    rng = np.random.default_rng(3)
    conv = QuantizedConv(weight=rng.integers(-20, 60, (3, 1, 2, 2)), weight_bits=8, input_shape=(1, 4, 4), stride=(2, 2))
    images = layer_of_xylo("images", np.zeros((12, 16), int), neurons_of_xylo(90))
    images = replace(images, shape=(3, 2, 2), connections=(Connection(source=INPUT, synapse=conv),))
    readout = layer_of_xylo("readout", rng.integers(-50, 90, (5, 12)), neurons_of_xylo(300, most=1), "images")
    network = QuantizedNetwork(input_shape=(1, 4, 4), layers=(images, readout), target="xylo")
    ours, theirs = both(network, rng.integers(0, 4, (2, 1, 4, 4, 20)))
    assert nd.compare(ours, theirs).equal
    assert ours.spikes["images"].any()
    assert ours.spikes["readout"].any()


@needs_xylosim
@pytest.mark.usefixtures("in_this_process")
def test_a_readout_without_spikes_is_read_by_its_membrane() -> None:
    network, spikes = drawn(1)
    readout = network.output
    readout = replace(readout, neuron=QuantizedLI(du=readout.neuron.du, dv=readout.neuron.dv), bias=np.zeros(()))
    ours, theirs = both(replace(network, layers=(*network.layers[:-1], readout)), spikes)
    assert nd.compare(ours, theirs).equal
    assert ours.v[readout.name].any()


def changed(function: Callable[..., Any], old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change a line of one of the emulator's compiled functions, and run them all in Python."""
    source = inspect.getsource(emulator)
    assert source.count(old) == 1, old
    names: dict[str, Any] = {"__name__": "mutant", "__file__": emulator.__file__}
    source = source.replace(old, new).replace("@compiled\n", "")
    monkeypatch.setitem(sys.modules, "mutant", emulator)  # where dataclasses look for the module's names
    exec(compile(source, "mutant", "exec"), names)
    monkeypatch.setattr(emulator, function.__name__, names[function.__name__])


MUTANTS = {
    "saturation after all synapses": ("i[targets[k]] = saturated_16(total)", "i[targets[k]] = total"),
    "no leak of small states": ("return lost if lost != 0 or state == 0 else 1", "return lost"),
    "leak away from the current's sign": ("lost = state >> shift\n", "lost = int(state / 2**shift)\n"),
    "no sums within the sum": (
        "total = v[k] + saturated_16(biased)",
        "total = v[k] + i[k] - lost + registers[3, k]",
    ),
    "reset to zero": ("within - n * registers[0, k]", "within * (n == 0)"),
    "above the threshold only": ("max(within, 0) // registers[0, k]", "(max(within, 1) - 1) // registers[0, k]"),
    "one spike a step": ("registers[4, k])\n", "1)\n"),
    "hidden neurons within the step": ("add_spikes(before, outgoing", "add_spikes(fired[b, t, :n], outgoing"),
    "inputs after hidden neurons": (
        "add_spikes(spikes[b, t], inputs, i[:n], full[:n])\n            add_spikes(before, recurrent, i[:n], full[:n])",
        "add_spikes(before, recurrent, i[:n], full[:n])\n            add_spikes(spikes[b, t], inputs, i[:n], full[:n])",
    ),
    "a leak that is its own negative": ("if lost != MIN_16 else i[k] + MIN_16", "if True else i[k]"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_changed_emulator_is_noticed(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rule of the arithmetic changes one of the drawn networks that are compared with XyloSim."""
    right = [nd.simulate(*pair, record="all", graded=True) for pair in compared()]
    changed(emulator.step_samples, *MUTANTS[mutant], monkeypatch)
    for pair, record in zip(compared(), right, strict=True):
        found = nd.simulate(*pair, record="all", graded=True, threads=1)
        if not nd.compare(found, record).equal:
            return
    pytest.fail("no drawn network tells it from the emulator")
