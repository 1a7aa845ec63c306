"""Every key of a profile binds: some code outside `hardware` reads it, and a network that breaks it is refused with its name."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import structure
from conftest import with_values

import neurodeploy as nd
from neurodeploy.errors import BudgetError, NeurodeployError, PlacementError, QuantizeError, RequestError
from neurodeploy.hardware.loading import load_profile, profile_paths, profile_schema
from neurodeploy.hardware.profile import KEYS, NO_LIMITS, REGISTER_KEYS, HardwareProfile, Limit, Value
from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.network import LI, LIF, Conv, Dense, Layer, Network, SubtractiveLIF, Synapse
from neurodeploy.mapping.place import lay_out, place
from neurodeploy.mapping.placement import LAYER_LIMITS
from neurodeploy.resources.usage import RESOURCES
from neurodeploy.targets import arithmetic_of, weight_widths
from neurodeploy.training.encoders import check_payload

A = np.array
DISPLAYS = ("hardware", "report", "cli")
"""Rooms that show every key of a profile, whether it binds or not."""


def literals(tree: ast.Module) -> set[str]:
    """Texts of a module that are code: no docstrings."""
    docs = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in docs)
    return {node.value for node in texts if isinstance(node.value, str)}


@cache
def names_read() -> set[str]:
    """Texts in the code outside the displays, by themselves and as names with a suffix: f"{resource}_per_core"."""
    found: set[str] = set()
    for path, tree in structure.parsed().items():
        if path.relative_to(structure.PACKAGE).parts[0] in DISPLAYS:
            continue
        here = literals(tree)
        suffixes = {text for text in here if text in ("_per_core", "_energy", "_time")}
        found |= here | {f"{text}{suffix}" for suffix in suffixes for text in here}
    resources = literals(structure.parsed()[Path(structure.PACKAGE / "resources" / "usage.py")])
    return found | {f"{resource}_per_core" for resource in resources}  # `HardwareProfile.capacity` adds the suffix


def unread(keys: Iterable[str]) -> list[str]:
    """Keys that no code outside the displays reads."""
    return [key for key in keys if key not in names_read()]


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


def alike(*sizes: int, kind: str | None, delay_steps: int) -> Network:
    """Inputs, recurrent neurons that send to two layers, and these to an output; no weight rounds to zero, whatever its width."""
    n_in, hidden, left, right, out = sizes
    settings = {"threshold": A(1.0), "current_decay": A(0.23), "voltage_decay": A(0.123), "rest": A(0.0)}
    neuron = SubtractiveLIF(max_spikes=A(31), **settings) if kind == "xylo" else LIF(**settings)

    def of(name: str, n: int, *sources: tuple[str, int], delay_steps: int = 0) -> Layer:
        connections = tuple(
            Connection(source=source, synapse=Dense(weight=np.full((n, m), 0.5)), delay_steps=delay_steps)
            for source, m in sources
        )
        return Layer(name=name, shape=(n,), neuron=neuron, bias=A(0.5), connections=connections)

    layers = (
        of("hidden", hidden, (INPUT, n_in), ("hidden", hidden)),
        of("left", left, ("hidden", hidden), delay_steps=delay_steps),
        of("right", right, ("hidden", hidden), delay_steps=delay_steps),
        of("out", out, ("left", left), ("right", right)),
    )
    if kind == "xylo":  # an input and a delay of its readout are none that the chip has
        layers = (layers[0], of("out", out, ("hidden", hidden)))
    return Network(input_shape=(n_in,), timestep_s=1e-3, layers=layers)


COUNTED = [key for key in KEYS if key in LAYER_LIMITS or key.removesuffix("_per_core") in RESOURCES]
STATED = [(name, limit.key) for name in sorted(profile_paths()) for limit in load_profile(name) if limit.profile == name]
"""Profiles and the keys that they state themselves; what a board inherits is walked through where it stands."""


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, key in STATED if key in COUNTED and key != "cores_per_layer"])
def test_every_limit_of_every_chip_refuses_what_takes_one_more(name: str, key: str) -> None:
    """One core of the chip with what the network takes under this key and no other limit; then with one less."""
    profile = load_profile(name)
    floats = alike(3, 5, 3, 4, 2, kind=profile.target, delay_steps=2 if "max_delay_steps" in profile else 0)
    only = {"neurons_per_core": 1000, "chips": 1, "cores_per_chip": 1}
    whole = {"cores_per_layer": 1} if profile.number("cores_per_layer", 0) == 1 else {}
    meshes = ("chip_mesh", "tile_mesh", "cores_per_tile")
    one = with_values(profile, **{**dict.fromkeys((*COUNTED, *meshes)), **only, **whole, key: 1_000_000})
    base = lay_out(nd.quantize(floats, one), one)
    resource = key.removesuffix("_per_core")
    need = (
        max((base.layer_usage | {key: base._usage_by_layer(key)})[key].values())
        if key in LAYER_LIMITS
        else base.on_core(0)[resource]
    )
    assert need > 1
    for limit in (need, need - 1):
        chip = with_values(one, **{key: limit})
        integers = nd.quantize(floats, chip) if profile.target != "xylo" else nd.quantize(floats, one)
        found = [lay_out(network, chip) for network in (floats, integers)]
        assert [each.fits for each in found] == [limit == need] * 2
        if limit == need:
            place(integers, chip)
            continue
        for each in found:
            for overrun in each.overruns():
                named = overrun.source == f"{name}.yaml: {key}" and (overrun.need, overrun.limit) == (need, limit)
                assert named or (overrun.resource == "cores" and f"Of {resource}, " in overrun.remedy)
        with pytest.raises(NeurodeployError) as caught:
            place(integers, chip)
        assert key in caught.value.source or f"Of {resource}, " in caught.value.remedy


@pytest.mark.parametrize("name", [name for name, key in STATED if key in ("chips", "cores_per_layer")])
def test_every_board_and_every_layer_ends_with_its_cores(name: str) -> None:
    """A layer that takes two cores, on a board of two chips with a core each; with one core less it is refused."""
    profile = load_profile(name)
    floats = alike(3, 6, 3, 3, 2, kind=profile.target, delay_steps=0)
    floats = replace(floats, layers=floats.layers[:1])
    meshes = ("chip_mesh", "tile_mesh", "cores_per_tile")
    two = with_values(
        profile, **{**dict.fromkeys((*COUNTED, *meshes)), "neurons_per_core": 3, "chips": 2, "cores_per_chip": 1}
    )  # fmt: skip
    assert lay_out(floats, two).fits
    keys = f"{name}.yaml: cores_per_chip"
    for chip, asked, need, source in (
        (with_values(two, chips=1), None, 2, keys),
        (with_values(two, neurons_per_core=2), None, 3, f"{name}.yaml: chips, {keys}"),
        (two, 1, 2, "cores allowed"),
    ):
        (overrun,) = lay_out(floats, chip, cores=asked).overruns()
        assert (overrun.resource, overrun.need, overrun.limit, overrun.source) == ("cores", need, need - 1, source)
    if "cores_per_layer" in profile:
        wide = with_values(two, cores_per_layer=2)
        assert lay_out(floats, wide).fits
        (overrun,) = lay_out(floats, with_values(two, cores_per_layer=1)).overruns()
        assert overrun.remedy.startswith(f"{name} keeps a layer on one core")


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, key in STATED if key in REGISTER_KEYS])
def test_registers_of_every_chip_with_a_target_hold_their_numbers_or_refuse_them(name: str, key: str) -> None:
    """A profile for counting only rounds nothing to them: there they are for the reader."""
    profile = load_profile(name)
    floats = alike(3, 5, 3, 4, 2, kind=profile.target, delay_steps=0)
    if profile.target is None:
        first = replace(floats, layers=floats.layers[:1])
        assert nd.inspect(first, with_values(profile, **{key: 1})).fits
        return
    integers, registers = nd.quantize(floats, profile), arithmetic_of(profile).registers
    neurons = [layer.neuron for layer in integers]
    threshold = max(int(neuron.vth.max()) for neuron in neurons)
    decays = [int(number) for neuron in neurons for number in (*np.ravel(neuron.du), *np.ravel(neuron.dv))]
    unused = min(number & -number for number in decays).bit_length() - 1  # low bits that are zero in every decay
    width = {
        "threshold_bits": threshold.bit_length(), "state_bits": (threshold << registers.weight_exponent).bit_length() + 1,
        "decay_bits": max(decays).bit_length() if registers.has_shift_decays else registers.decay_bits - unused,
    }[key]  # fmt: skip
    assert width <= profile[key].number
    assert place(integers, with_values(profile, **{key: width})).fits
    narrow = with_values(profile, **{key: width - 1})
    with pytest.raises(QuantizeError) as caught:
        place(integers, narrow)
    assert caught.value.source == f"{name}.yaml: {key}"
    seen = nd.inspect(integers, narrow)
    assert not seen.fits
    assert str(seen.unwritable) == str(caught.value)


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, key in STATED if key in ("weight_bits", "index_bits")])
def test_widths_of_every_chip_are_all_there_are(name: str, key: str) -> None:
    """A weight wider than all, and a list onto more neurons than an index tells apart."""
    profile = load_profile(name)
    floats = alike(3, 5, 3, 4, 2, kind=profile.target, delay_steps=0)
    if key == "weight_bits":
        widest = max(weight_widths(profile))
        assert {layer.weight_bits for layer in nd.quantize(floats, profile, bits=widest)} == {widest}
        for refuse in (nd.quantize, nd.inspect):
            with pytest.raises(QuantizeError, match=f"weights of {widest + 1} bits do not exist on {name}") as wide:
                refuse(floats, profile, bits=widest + 1)
            assert wide.value.source == f"{name}.yaml: weight_bits"
        return
    only = {"encodings": ("sparse",), "neurons_per_core": 1000, "cores_per_layer": 1}
    chip = with_values(profile, **{**dict.fromkeys(COUNTED), **only})
    assert lay_out(floats, with_values(chip, index_bits=(3,))).fits
    with pytest.raises(BudgetError, match=r"^target index: 3 bits > 2 ") as caught:
        lay_out(floats, with_values(chip, index_bits=(2,)))
    assert caught.value.source == f"{name}.yaml: index_bits"


@pytest.mark.parametrize("name", [name for name, key in STATED if key == "payload_bits"])
def test_a_spike_carries_what_its_payload_holds(name: str) -> None:
    narrow = with_values(load_profile(name), payload_bits=4)
    check_payload(narrow, 15)
    with pytest.raises(RequestError, match=r"^encoder: 5 bits a spike > 4 ") as caught:
        check_payload(narrow, 16)
    assert caught.value.source == f"{name}.yaml: payload_bits"


def test_every_key_is_broken_above_or_says_that_it_is_no_limit() -> None:
    """The schema tells them apart, for who writes a profile."""
    places = ["chip_mesh", "cores_per_tile", "tile_mesh", "routings"]
    formulas = [
        "neuron_state_bits", "input_axon_bits", "output_axon_bits", "encodings", "memory_unit_bits", "synapses_per_block",
        "block_header_bits", "axon_base_neurons",
    ]  # fmt: skip
    estimates = [key for key, what in KEYS.items() if what.unit in ("pJ", "ns", "factors")] + ["sync_tiles"]
    assert sorted(NO_LIMITS) == sorted([*places, *formulas, *estimates])
    broken = {*COUNTED, *REGISTER_KEYS, "chips", "cores_per_chip", "weight_bits", "index_bits", "payload_bits"}
    assert {*KEYS} == broken | {*NO_LIMITS}
    for key, entry in profile_schema()["properties"].items():
        if key in KEYS:
            assert ("is refused)" in entry["description"]) == (key in broken - {*REGISTER_KEYS})
            assert ("no limit" in entry["description"]) == (key in NO_LIMITS)


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
