"""What a pruned convolution takes at least, beside every way in which it can be cut into boxes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from conftest import examples, with_values
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.placement.lower_bound.boxes import least_boxes
from benchmarks.placement.lower_bound.possible import possible
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.graph import Connection
from neurodeploy.ir.quantized import QuantizedConv, QuantizedLayer, QuantizedLIF
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Region

LOIHI1, LOIHI2 = load_profile("loihi1"), load_profile("loihi2")


def layer(weight: np.ndarray, image: tuple[int, int, int], padding: int, sources: tuple[str, ...]) -> QuantizedLayer:
    """A convolution that hears another layer, and maybe more, by the same weights."""
    synapse = QuantizedConv(weight=weight, input_shape=image, padding=(padding, padding), weight_bits=8)
    side = image[1] + 2 * padding - weight.shape[2] + 1, image[2] + 2 * padding - weight.shape[3] + 1
    neuron = QuantizedLIF(vth=np.array(10), du=np.array(4096), dv=np.array(4096))
    into = tuple(Connection(source=source, synapse=synapse) for source in sources)
    return QuantizedLayer(
        name="conv", shape=(weight.shape[0], *side), neuron=neuron, connections=into, bias=np.array(0), scale=np.array(0.0)
    )


def partings(free: frozenset[tuple[int, int, int]]) -> Iterator[list[Region]]:
    """Every way to part places into boxes."""
    if not free:
        yield []
        return
    first = min(free)
    for stops in product(*(range(a + 1, max(place[n] for place in free) + 2) for n, a in enumerate(first))):
        box = frozenset(product(*(range(a, b) for a, b in zip(first, stops, strict=True))))
        if box <= free:
            for rest in partings(free - box):
                yield [Region(first, stops), *rest]


def taken(count: LayerCount, regions: list[Region], profile: HardwareProfile) -> tuple[int, int, int] | None:
    """Memory of all regions, input axons, and output axons that lead to them; None if a core does not hold one."""
    memory = axons = heard = 0
    for region in regions:
        usage = count.usage(region)
        state = profile.number("neuron_state_bits", 0) * region.n_neurons
        needs = {
            "memory_bits": usage.synapse_memory_bits + state, "synapse_memory_bits": usage.synapse_memory_bits,
            "neurons": region.n_neurons, "input_axons": usage.input_axons,
        }  # fmt: skip
        if any(need > profile.capacity(resource) for resource, need in needs.items()):
            return None
        memory, axons = memory + usage.synapse_memory_bits, axons + usage.input_axons
        heard += sum(int(each.mask.sum()) for each in count.sources(region))
    return memory, axons, heard


@examples(60)
@given(
    grid=st.sampled_from([(2, 1, 3), (2, 2, 2), (3, 1, 2), (5, 1, 1), (2, 3, 1), (1, 2, 3)]), into=st.integers(1, 3),
    kernel=st.sampled_from([1, 3]), share=st.sampled_from([0.1, 0.3, 0.6]), unit=st.sampled_from([1, 64]),
    memory=st.sampled_from([None, 700, 1500]), is_pool=st.booleans(), twice=st.booleans(), seed=st.integers(0, 999),
)  # fmt: skip
def test_no_parting_into_boxes_takes_less(
    grid: tuple[int, int, int], into: int, kernel: int, share: float, unit: int, memory: int | None, is_pool: bool, twice: bool,
    seed: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    weight = 2 * rng.integers(1, 60, (grid[0], into, kernel, kernel)) * (rng.random((grid[0], into, kernel, kernel)) < share)
    assume((weight == 0).any())
    one = layer(weight, (into, *grid[1:]), kernel // 2, ("before", "other") if twice else ("before",))
    key = "memory_bits_per_core" if is_pool else "synapse_memory_bits_per_core"
    profile = with_values(LOIHI2 if is_pool else LOIHI1, memory_unit_bits=unit, **({key: memory} if memory else {}))
    count = LayerCount(one, 8, profile)
    windows = count.windows()
    assert windows is not None
    least, beside = least_boxes(windows, profile), profile.number("output_axon_bits", 0)
    found = [one for regions in partings(frozenset(np.ndindex(grid))) if (one := taken(count, regions, profile)) is not None]
    if least is None:
        assert not found
        return
    for bits, axons, heard in found:
        assert least[0] <= bits + beside * heard + 1e-6
        assert least[1] <= axons + 1e-6
        assert least[2] <= heard + 1e-6
    every = possible(count, profile, {})
    assert (every.memory >= least[0]).all()
    if grid[1:] == (1, 1) and found:  # a single place: the cheapest parting itself
        assert least[0] == pytest.approx(min(bits + beside * heard for bits, _, heard in found))


def test_what_is_too_much_to_count_is_left_alone() -> None:
    """A kernel of every group its own, or more channels than can be looked through."""
    weight = np.zeros((2, 1, 3, 3), dtype=np.int64)
    weight[0, 0, 0, 0] = 2
    synapse = QuantizedConv(weight=weight, input_shape=(2, 4, 4), padding=(1, 1), groups=2, weight_bits=8)
    neuron = QuantizedLIF(vth=np.array(10), du=np.array(4096), dv=np.array(4096))
    one = QuantizedLayer(
        name="conv", shape=(2, 4, 4), neuron=neuron, connections=(Connection(source="before", synapse=synapse),),
        bias=np.array(0), scale=np.array(0.0),
    )  # fmt: skip
    windows = LayerCount(one, 8, LOIHI2).windows()
    assert windows is not None
    assert least_boxes(windows, LOIHI2) is None


@pytest.mark.parametrize(("stride", "is_known"), [(1, True), (2, False)])
def test_outputs_that_see_padding_alone_are_no_obstacle(stride: int, is_known: bool) -> None:
    """Of three outputs over one pixel only the middle one sees it; of every second one none does."""
    weight = np.array([2, 0, 4]).reshape(3, 1, 1, 1)
    synapse = QuantizedConv(weight=weight, input_shape=(1, 1, 1), padding=(0, 1), stride=(1, stride), weight_bits=8)
    grid = (3, 1, 3 if stride == 1 else 2)
    neuron = QuantizedLIF(vth=np.array(10), du=np.array(4096), dv=np.array(4096))
    into = (Connection(source="before", synapse=synapse),)
    one = QuantizedLayer(name="conv", shape=grid, neuron=neuron, connections=into, bias=np.array(0), scale=np.array(0.0))
    count = LayerCount(one, 8, LOIHI2)
    windows = count.windows()
    assert windows is not None
    least = least_boxes(windows, LOIHI2)
    assert (least is not None) is is_known
    if least is not None:
        found = [taken(count, regions, LOIHI2) for regions in partings(frozenset(np.ndindex(grid)))]
        assert all(one is not None and least[0] <= one[0] + 32 * one[2] and least[2] <= one[2] for one in found)
