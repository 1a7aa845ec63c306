"""Neurons onto cores by any partition: what is counted of it on paper, of our layout, and against the limits; sizes of growth."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import with_values
from paper import in_integers, layer_of

from benchmarks.placement.growth import network_of
from benchmarks.placement.yardsticks import (
    NETS,
    RIVALS,
    THEIRS,
    Parts,
    adjacency_of,
    conv_digits,
    limits_of,
    part_of,
    partitioned,
    table,
)
from neurodeploy.hardware.loading import load_profile
from neurodeploy.ir.quantized import QuantizedNetwork
from neurodeploy.mapping.energy import multicast_hops
from neurodeploy.mapping.place import lay_out
from neurodeploy.mapping.traffic import Mesh, spike_hops

LOIHI1 = load_profile("loihi1")
ROW = Mesh(chips=1, chip_mesh=(1,), cores_per_chip=4, cores_per_tile=1, tile_mesh=(4, 1))


def two_layers() -> QuantizedNetwork:
    """Neurons 0, 1, 2 hear the input; 3 hears 0 and 1, 4 hears 1 alone."""
    return in_integers(layer_of([[1], [1], [1]], name="a", vth=1), layer_of([[1, 1, 0], [0, 1, 0]], name="b", source="a", vth=1))


def test_the_messages_of_a_partition_on_paper() -> None:
    """Neuron 1 sends to cores 1 and 2, neuron 0 to core 1; neuron 2, on core 1, sends nothing."""
    adjacency = adjacency_of(two_layers())
    assert sorted(zip(*(ends.tolist() for ends in adjacency.nonzero()), strict=True)) == [(0, 3), (1, 3), (1, 4)]
    parts = Parts.of(adjacency, np.array([0, 0, 1, 1, 2]))
    assert (parts.n_cores, parts.km1) == (3, 3)
    flow = parts.flow
    assert list(zip(flow.source, flow.target, flow.spikes, strict=True)) == [(0, 1, 0.2), (0, 2, 0.1)]
    position = np.array([0, 1, 3])
    assert spike_hops(flow, position, ROW) == pytest.approx(0.2 + 0.3)
    assert multicast_hops(parts.copies, position, ROW) == pytest.approx(0.1 + 0.3)
    assert Parts.of(adjacency, np.zeros(5, np.int64)).km1 == 0


def test_our_own_layout_breaks_no_limit_and_a_heap_does() -> None:
    network = two_layers()
    chip = with_values(LOIHI1, neurons_per_core=2, output_axons_per_core=2)
    part = part_of(network, lay_out(network, chip))
    assert limits_of(network, part, chip) == (part.max() + 1, {})
    needs, broken = limits_of(network, np.array([0, 0, 0, 1, 2]), chip)
    assert broken == {
        "neurons": {"parts": 1, "most": 3, "limit": 2}, "output_axons": {"parts": 1, "most": 3, "limit": 2},
    }  # fmt: skip
    assert needs == 2 + 1 + 1


def test_neurons_of_convolutions_may_be_anywhere() -> None:
    """Output axons are those of the messages: one layer a core here, so one slice of a target layer a core."""
    network = conv_digits(channels=1)
    part = np.random.default_rng(0).integers(0, 3, network.n_neurons)
    part[:3] = range(3)
    chip = with_values(LOIHI1, output_axons_per_core=1, neurons_per_core=1024, synapse_memory_bits_per_core=1)
    _, broken = limits_of(network, part, chip)
    assert set(broken) == {"output_axons", "synapse_memory_bits", *({"input_axons"} & set(broken))}
    assert broken["output_axons"]["parts"] == 3


def test_the_table_has_ratios_to_ours() -> None:
    broken = {"neurons": {"parts": 1, "most": 1030, "limit": 1024}}
    rows = [
        {"net": "n", "profile": "loihi1", "cores": 2, "way": way, "km1": n, "spike_hops": 2.0 * n, "multicast_hops": 0.0,
         "partition_s": n / 8, "arrange_s": 0.25, "needs": 3, "broken": broken}
        for n, way in enumerate((*RIVALS, "neurodeploy", *THEIRS), start=1)
    ]  # fmt: skip
    headings, rule, line = table(rows)
    assert headings.count("|") == rule.count("|") == line.count("|")
    assert line == (
        "| n, loihi1 | 2 | 1.25, 1.50 | 0.25 | 0.50 | 0.75 | 1.25, 1.50 | - | - | - | - | 0.50 s | 0.62, 0.75 s | 0.25 s "
        "| 3, 3 (neurons 1,030 > 1,024) |"
    )


def test_mtkahypar_keeps_the_balance() -> None:
    pytest.importorskip("mtkahypar")
    build, _ = NETS["784-800-10, a tenth of the weights"]
    part, _ = partitioned(adjacency_of(build()), 4, 210, "DEFAULT")
    assert part.shape == (810,)
    assert np.bincount(part, minlength=4).max() <= 210


@pytest.mark.parametrize(("kind", "power"), [*(("convolutions", n) for n in range(3, 10)), *(("lists", n) for n in range(3, 6))])
def test_networks_of_the_growth_figure_have_the_synapses_that_they_stand_for(kind: str, power: int) -> None:
    assert 0.9 <= network_of(kind, power).n_synapses / 10**power <= 1.1
