"""Paths of different depth made equally long: spikes stay equal, the cheaper way is taken, and the choice is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import examples
from grammar import graph_jobs, graphs
from hypothesis import given
from numpy.typing import NDArray
from paper import layer_of
from recount import assert_true_to
from strategies import spikes_into

from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import INPUT, Connection, early_steps
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedDense, QuantizedLayer, QuantizedNetwork
from neurodeploy.mapping.delay_balancing import balance
from neurodeploy.mapping.place import lay_out, place
from neurodeploy.passes.quantize import dequantize
from neurodeploy.pipeline.deploy import deploy
from neurodeploy.pipeline.inspection import inspect
from neurodeploy.targets.loihi.netx_io import read_netx
from neurodeploy.targets.simulate import simulate, verify

MakeChip = Callable[..., HardwareProfile]
Job = tuple[QuantizedNetwork, NDArray[np.uint8]]


def joined(layer: QuantizedLayer, other: QuantizedLayer) -> QuantizedLayer:
    """A layer with the connections of both."""
    return QuantizedLayer(
        name=layer.name, shape=layer.shape, neuron=layer.neuron, bias=layer.bias, scale=layer.scale,
        connections=(*layer.connections, *other.connections),
    )  # fmt: skip


def skipping(n_in: int, n_deep: int, n_out: int, depth: int) -> QuantizedNetwork:
    """The input to the last layer directly, and through `depth` small layers."""
    one = np.ones((n_deep, n_in), dtype=int)
    layers = [layer_of(one, name="deep0", source=INPUT, vth=1)]
    deep = np.ones((n_deep, n_deep), dtype=int)
    layers += [layer_of(deep, name=f"deep{k}", source=f"deep{k - 1}", vth=1) for k in range(1, depth)]
    last = layer_of(np.ones((n_out, n_deep), dtype=int), name="last", source=layers[-1].name, vth=2)
    skip = layer_of(np.ones((n_out, n_in), dtype=int), name="last", source=INPUT, vth=2)
    return QuantizedNetwork(input_shape=(n_in,), layers=(*layers, joined(last, skip)))


def test_many_synapses_are_spared_their_delays_by_few_relays() -> None:
    network, choices = balance(skipping(40, 2, 400, depth=2), load_profile("loihi2"))
    assert [(choice.source, choice.targets, choice.steps, choice.by) for choice in choices] == [("input", ("last",), 2, "relays")]
    assert [layer.name for layer in network] == ["input.relay1", "input.relay2", "deep0", "deep1", "last"]
    assert [c.source for c in network["last"].connections] == ["deep1", "input.relay2"]
    assert choices[0].synapses_cost is not None
    assert choices[0].relays_cost < choices[0].synapses_cost


def test_few_synapses_wait_rather_than_be_relayed_by_many_neurons() -> None:
    network = skipping(300, 2, 1, depth=3)
    same, choices = balance(network, load_profile("loihi1"))
    assert same == network
    assert [choice.by for choice in choices] == ["synapses"]
    assert str(choices[0]).startswith(
        "spikes from 'input' reach 'last' 3 steps too early; they wait in their synapses at no cost ("
    )


def test_costs_are_as_on_paper(make_chip: MakeChip) -> None:
    """3 delay bits in each of 4 x 5 synapses; or 2 x 4 neurons of 10 bits, each with a list of 2 + 3; a core has 1,000."""
    chip = make_chip(
        synapse_memory_bits_per_core=None, memory_bits_per_core=1000, encodings=("sparse",),
        max_delay_steps=7, neuron_state_bits=10,
        weight_bits=(1, 2, 8), index_bits=(3,),
        block_header_bits=None, memory_unit_bits=None, synapses_per_block=None,
        neurons_per_core=1000, input_axons_per_core=None, output_axons_per_core=None,
    )  # fmt: skip
    _, (choice,) = balance(skipping(4, 2, 5, depth=2), chip)
    assert (choice.synapses_cost, choice.relays_cost) == (pytest.approx(0.060), pytest.approx(0.120))


def test_a_wait_that_no_synapse_holds_is_relayed_and_fits_then(make_chip: MakeChip) -> None:
    chip, network = make_chip(max_delay_steps=2), skipping(3, 1, 1, depth=3)
    (broken,) = lay_out(network, chip).overruns()
    assert (broken.layer, broken.resource, broken.need, broken.limit) == ("last", "delay_steps", 3, 2)
    assert "steps of synaptic delay" in str(broken)
    assert "relay" in broken.remedy
    balanced, (choice,) = balance(network, chip)
    assert (choice.by, choice.synapses_cost) == ("relays", None)
    assert "waiting in synapses cannot delay them that long" in str(choice)
    assert place(balanced, chip).fits


def test_layers_that_skip_from_one_source_share_its_relays(make_chip: MakeChip) -> None:
    network = skipping(2, 2, 2, depth=3)
    nearer = joined(network["deep2"], layer_of(np.ones((2, 2), dtype=int), name="deep2", source=INPUT, vth=1))
    layers = tuple(nearer if layer.name == "deep2" else layer for layer in network)
    both = QuantizedNetwork(input_shape=(2,), layers=layers)
    balanced, _ = balance(both, make_chip(max_delay_steps=0))
    relays = [layer.name for layer in balanced if "relay" in layer.name]
    assert relays == ["input.relay1", "input.relay2", "input.relay3"]
    assert balanced["deep2"].connections[1].source == "input.relay2"
    assert balanced["last"].connections[1].source == "input.relay3"


@examples(30)
@given(job=graph_jobs)
def test_spikes_and_membranes_stay_equal_when_all_is_relayed(make_chip: MakeChip, job: Job) -> None:
    network, spikes = job
    balanced, choices = balance(network, make_chip(max_delay_steps=0, weight_bits=tuple(range(1, 10))))
    assert all(choice.by == "relays" for choice in choices)
    assert all(steps == 0 for per_connection in early_steps(balanced).values() for steps in per_connection)
    before, after = (simulate(each, spikes, record="all") for each in (network, balanced))
    for layer in network:
        np.testing.assert_array_equal(before.spikes[layer.name], after.spikes[layer.name])
        np.testing.assert_array_equal(before.v[layer.name], after.v[layer.name])


@examples(20)
@given(job=graphs().flatmap(lambda n: spikes_into(n).map(lambda s: (n, s))))
def test_floats_stay_equal_too(make_chip: MakeChip, job: tuple[Network, NDArray[np.uint8]]) -> None:
    network, spikes = job
    balanced, _ = balance(network, make_chip(max_delay_steps=0, weight_bits=tuple(range(1, 10))))
    before, after = (simulate(each, spikes, record="all") for each in (network, balanced))
    for layer in network:
        np.testing.assert_array_equal(before.v[layer.name], after.v[layer.name])


@examples(20)
@given(job=graph_jobs)
def test_relays_are_counted_like_any_layer(make_chip: MakeChip, job: Job) -> None:
    chip = make_chip(max_delay_steps=0, weight_bits=tuple(range(1, 10)))
    balanced, _ = balance(job[0], chip)
    assert_true_to(balanced, lay_out(balanced, chip))


@pytest.mark.lava
def test_relayed_spikes_are_lavas_too(make_chip: MakeChip) -> None:
    chip = make_chip(max_delay_steps=0)
    balanced, _ = balance(skipping(5, 3, 4, depth=3), chip)
    assert verify(balanced, n_steps=12).equal


def test_a_recurrence_is_not_early() -> None:
    itself = layer_of([[1, 0], [1, 1]], name="self", source="self", vth=1)
    network = QuantizedNetwork(input_shape=(1,), layers=(joined(layer_of([[1], [1]], name="self", vth=1), itself),))
    assert balance(network, load_profile("loihi2")) == (network, ())
    assert isinstance(network["self"].connections[0], Connection)
    assert isinstance(network["self"].connections[0].synapse, QuantizedDense)


def test_what_was_chosen_for_floats_is_what_is_deployed(tmp_path: Path) -> None:
    """And none of it is chosen twice: the report of the integers quotes the inspection's choices."""
    floats = dequantize(skipping(40, 2, 400, depth=2))
    loihi2 = load_profile("loihi2")
    made = deploy(floats, loihi2, out=tmp_path)
    assert made.report.balances == inspect(floats, loihi2).balances
    assert [layer.name for layer in made.quantized] == ["input.relay1", "input.relay2", "deep0", "deep1", "last"]
    assert read_netx(tmp_path / "model.net") == made.quantized
