"""When layers answer on the chip, and how long spikes wait for others there."""

from __future__ import annotations

import numpy as np
import pytest
from paper import layer_of

from neurodeploy.chip_clock import depths, waits
from neurodeploy.errors import SimulationError
from neurodeploy.graph import INPUT, Connection
from neurodeploy.quantized import QuantizedLayer, QuantizedLI, QuantizedNetwork
from neurodeploy.simulation import simulate


def hears(name: str, **delays: int) -> QuantizedLayer:
    """A layer of one neuron that hears the layers of these names, so much later."""
    synapse = layer_of([[1]]).connections[0].synapse
    return QuantizedLayer(
        name=name, shape=(1,), neuron=QuantizedLI(du=np.array(0), dv=np.array(0)), bias=np.array(0), scale=np.array(1.0),
        connections=tuple(Connection(source=source, synapse=synapse, delay_steps=d) for source, d in delays.items()),
    )  # fmt: skip


def test_a_layer_answers_after_the_longest_path_and_short_ones_wait() -> None:
    network = QuantizedNetwork(
        input_shape=(1,),
        layers=(hears("a", input=0), hears("b", a=2, b=1), hears("c", b=0, a=0, input=3), hears("alone", alone=0)),
    )
    assert depths(network) == {INPUT: 0, "a": 1, "b": 2, "c": 3, "alone": 1}
    assert waits(network) == {"a": (0,), "b": (2, 1), "c": (0, 1, 2 + 3), "alone": (0,)}


@pytest.mark.lava
def test_spikes_wait_no_longer_than_a_synapse_can_hold_them() -> None:
    def skip(delay: int) -> QuantizedNetwork:
        return QuantizedNetwork(input_shape=(1,), layers=(hears("a", input=0), hears("b", a=0, input=delay)))

    assert waits(skip(62))["b"] == (0, 63)
    message = (
        r"^layer 'b': 64 steps for which spikes from 'input' wait in a synapse, 1 of them for longer paths > 63 "
        r"\(lava-nc .*models\.py\)\. Shorten the delay"
    )
    with pytest.raises(SimulationError, match=message):
        simulate(skip(63), np.ones((1, 2), dtype=np.uint8), end="lava")
