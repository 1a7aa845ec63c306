"""Every key of a profile binds: some code outside `hardware` reads it, and a network that breaks it is refused with its name."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import structure

import neurodeploy as nd
from neurodeploy.errors import PlacementError, QuantizeError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import KEYS, HardwareProfile, Limit, Value
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, Synapse
from neurodeploy.mapping.place import lay_out, place

A = np.array
DISPLAYS = ("hardware", "report", "cli")
"""Rooms that show every key of a profile, whether it binds or not."""


def literals(tree: ast.Module) -> set[str]:
    """Texts of a module that are code: no docstrings."""
    docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in docs)
    return {node.value for node in texts if isinstance(node.value, str)}


def unread(keys: Iterable[str]) -> list[str]:
    """Keys that no code outside the displays reads, by their whole name or as a name with a suffix: f"{resource}_per_core"."""
    found: set[str] = set()
    for path, tree in structure.parsed().items():
        if path.relative_to(structure.PACKAGE).parts[0] in DISPLAYS:
            continue
        here = literals(tree)
        suffixes = {text for text in here if text in ("_per_core", "_energy", "_time")}
        found |= here | {f"{text}{suffix}" for suffix in suffixes for text in here}
    resources = literals(structure.parsed()[Path(structure.PACKAGE / "resources" / "usage.py")])
    found |= {f"{resource}_per_core" for resource in resources}  # `HardwareProfile.capacity` adds the suffix
    return [key for key in keys if key not in found]


def test_some_code_reads_every_key() -> None:
    assert unread(KEYS) == []


def test_a_key_that_nothing_reads_is_found() -> None:
    assert unread([*KEYS, "colours_per_core", "colour_bits"]) == ["colours_per_core", "colour_bits"]


def chip(**values: Value) -> HardwareProfile:
    """Loihi 2, with these numbers instead of its own."""
    profile = load_profile("loihi2")
    limits = {
        key: Limit(key=key, value=value, unit=KEYS[key].unit, source="a test", assumed=True, profile="chip")
        for key, value in values.items()
    }
    return replace(profile, limits={**profile.limits, **limits})


def dense(n_out: int, n_in: int) -> Dense:
    return Dense(weight=np.random.default_rng(n_out + n_in).normal(size=(n_out, n_in)))


def layer(name: str, shape: tuple[int, ...], *sources: tuple[str, Synapse], is_read: bool = False, delay_steps: int = 0) -> Layer:
    settings = {"current_decay": A(0.23), "voltage_decay": A(0.123), "rest": A(0.0)}
    neuron = LI(**settings) if is_read else LIF(threshold=A(1.0), **settings)
    connections = tuple(Connection(source=source, synapse=synapse, delay_steps=delay_steps) for source, synapse in sources)
    return Layer(name=name, shape=shape, neuron=neuron, connections=connections, bias=A(0.0))


def network(delay_steps: int = 0) -> Network:
    """20 inputs, 12 recurrent neurons that send to two layers of 8, and 3 outputs."""
    return Network(
        input_shape=(20,),
        timestep_s=1e-3,
        layers=(
            layer("hidden", (12,), (INPUT, dense(12, 20)), ("hidden", dense(12, 12))),
            layer("left", (8,), ("hidden", dense(8, 12)), delay_steps=delay_steps),
            layer("right", (8,), ("hidden", dense(8, 12)), delay_steps=delay_steps),
            layer("out", (3,), ("left", dense(3, 8)), ("right", dense(3, 8)), is_read=True),
        ),
    )


BROKEN = {  # what the network takes, and the first words of the error
    "external_inputs": (20, "the network's input: 20 input neurons > 19"),
    "targets_per_layer": (3, "layer 'hidden': 3 layers that receive its spikes > 2"),
    "fan_in_per_neuron": (32, "layer 'hidden': 32 synapses onto one neuron > 31"),
    "fan_out_per_neuron": (28, "layer 'hidden': 28 synapses from one neuron > 27"),
    "max_delay_steps": (5, "layer 'left': 5 steps of synaptic delay > 4"),
}


@pytest.mark.parametrize("key", BROKEN)
def test_a_network_that_breaks_one_limit_is_refused_with_its_key(key: str) -> None:
    taken, says = BROKEN[key]
    floats = network(delay_steps=5 if key == "max_delay_steps" else 0)
    assert nd.inspect(floats, chip(**{key: taken})).placement.fits
    narrow = chip(**{key: taken - 1})
    found = nd.inspect(floats, narrow).placement
    assert not found.fits
    assert {overrun.source for overrun in found.overruns()} == {f"chip.yaml: {key}"}
    assert str(next(found.overruns())).startswith(f"{says} (chip.yaml: {key}). ")
    with pytest.raises(PlacementError) as caught:
        place(nd.quantize(floats, narrow), narrow)
    assert (caught.value.need, caught.value.limit, caught.value.source) == (taken, taken - 1, f"chip.yaml: {key}")
    assert caught.value.remedy.endswith(".")


def test_a_layer_on_more_cores_than_it_may_use_is_refused() -> None:
    assert lay_out(network(), chip(neurons_per_core=6, cores_per_layer=2)).fits
    found = lay_out(network(), chip(neurons_per_core=5, cores_per_layer=2))
    errors = [overrun.error() for overrun in found.overruns()]
    assert {error.source for error in errors} == {"chip.yaml: cores_per_layer"}
    assert errors[0].where == "layer 'hidden'"
    assert errors[0].need is not None
    assert errors[0].need > errors[0].limit == 2


def test_fan_out_counts_the_synapses_that_exist_through_windows_and_in_rows() -> None:
    """A pixel in the middle is under 9 positions of a window and onto one of 2 outputs; weights of zero do not count."""
    window = Conv(weight=np.ones((2, 1, 3, 3)), input_shape=(1, 5, 5), padding=(1, 1))
    half = np.zeros((2, 25))
    half[0] = 1.0
    both = Network(
        input_shape=(25,),
        timestep_s=1e-3,
        layers=(
            layer("image", (1, 5, 5), (INPUT, dense(25, 25))),
            layer("windows", (2, 5, 5), ("image", window)),
            layer("out", (2,), ("image", Dense(weight=half)), is_read=True),
        ),
    )
    found = lay_out(both, chip(fan_out_per_neuron=18))
    assert found.layer_usage["fan_out_per_neuron"] == {"image": 2 * 9 + 1, "windows": 0, "out": 0}
    assert [(o.layer, o.resource, o.need, o.limit) for o in found.overruns()] == [("image", "fan_out", 19, 18)]
    expected = lay_out(both, chip(fan_out_per_neuron=18), connectivity=0.5)
    assert expected.layer_usage["fan_out_per_neuron"]["image"] == 9 + 1


REGISTERS = {
    "decay_bits": (5, r"^layer 'hidden': its current decay \d+ is no multiple of 128 \("),
    "threshold_bits": (2, r"^layer 'hidden': \d+ threshold > 3 \("),
    "state_bits": (8, r"^layer 'hidden': [\d,]+ threshold in the state > 127 \("),
}


@pytest.mark.parametrize("key", REGISTERS)
def test_numbers_that_a_narrow_register_cannot_hold_are_refused_with_its_key(key: str) -> None:
    width, says = REGISTERS[key]
    integers = nd.quantize(network(), chip())
    assert place(integers, chip()).fits
    with pytest.raises(QuantizeError, match=says) as caught:
        place(integers, chip(**{key: width}))
    assert caught.value.source == f"chip.yaml: {key}"


def test_the_two_networks_that_xylo_cannot_hold() -> None:
    """200 inputs of at most 16; a hidden neuron onto 104 of at most 64."""
    xylo = load_profile("xylo")
    wide = Network(
        input_shape=(200,), timestep_s=1e-3,
        layers=(layer("h", (100,), (INPUT, dense(100, 200))), layer("r", (4,), ("h", dense(4, 100)))),
    )  # fmt: skip
    assert ("xylo.yaml: external_inputs", 200) in [(o.source, o.need) for o in nd.inspect(wide, xylo).placement.overruns()]
    recurrent = Network(
        input_shape=(16,), timestep_s=1e-3,
        layers=(layer("h", (100,), (INPUT, dense(100, 16)), ("h", dense(100, 100))), layer("r", (4,), ("h", dense(4, 100)))),
    )  # fmt: skip
    assert ("xylo.yaml: fan_out_per_neuron", 104) in [
        (o.source, o.need) for o in nd.inspect(recurrent, xylo).placement.overruns()
    ]
