"""What a core more, or a bit less a weight, would give each layer: as sharing the budget anew says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import examples
from hypothesis import assume, given
from hypothesis import strategies as st

from neurodeploy.errors import BudgetError
from neurodeploy.hardware.loading import load_profile
from neurodeploy.hardware.profile import HardwareProfile
from neurodeploy.ir.network import Network
from neurodeploy.mapping.allocation import gains, share_budget

MakeNetwork, MakeChip = Callable[..., Network], Callable[..., HardwareProfile]
TINY = load_profile("tiny")


def kept(network: Network, chip: HardwareProfile, cores: int, bits: int) -> dict[str, float]:
    return {layer.layer: layer.kept for layer in share_budget(network, chip, cores=cores, bits=bits).layers}


def test_a_network_that_is_kept_whole_has_nothing_to_gain(make_network: MakeNetwork) -> None:
    network = make_network([8, 6, 4])
    assert gains(network, TINY, share_budget(network, TINY)) == ()


@examples(40)
@given(sizes=st.lists(st.integers(10, 90), min_size=2, max_size=4), cores=st.integers(1, 4), bits=st.sampled_from([1, 2, 4, 8]))
def test_gains_are_what_a_budget_for_that_would_keep(make_network: MakeNetwork, sizes: list[int], cores: int, bits: int) -> None:
    network = make_network(sizes)
    try:
        budget = share_budget(network, TINY, cores=cores, bits=bits)
    except BudgetError:  # too small for any
        assume(False)
        raise
    for gain in gains(network, TINY, budget):
        assert gain.kept == kept(network, TINY, cores, bits)[gain.layer]
        if gain.with_a_core_more is not None:
            assert gain.with_a_core_more == kept(network, TINY, cores + 1, bits)[gain.layer]
        assert (gain.with_a_core_more is None) or cores < TINY.cores
        assert gain.narrower_bits == {1: None, 2: None, 4: 3, 8: 6}[bits]
        if gain.narrower_bits is not None and gain.a_width_narrower is not None:
            assert gain.a_width_narrower == kept(network, TINY, cores, gain.narrower_bits)[gain.layer]


def test_what_is_compressed_gains_by_a_core_and_by_narrower_weights(make_network: MakeNetwork) -> None:
    network = make_network([64, 100, 10])
    hidden, readout = gains(network, TINY, share_budget(network, TINY, cores=2))
    assert (hidden.layer, readout.layer) == ("layer1", "layer2")
    assert hidden.kept < 1
    assert hidden.with_a_core_more is not None
    assert hidden.with_a_core_more > hidden.kept
    assert hidden.a_width_narrower is not None
    assert hidden.a_width_narrower > hidden.kept
    assert hidden.narrower_bits == readout.narrower_bits == 6


def test_all_cores_leave_no_core_more(make_network: MakeNetwork) -> None:
    network = make_network([128, 120, 60])
    found = gains(network, TINY, share_budget(network, TINY))
    assert found
    assert all(gain.with_a_core_more is None for gain in found)


@pytest.mark.parametrize(("widths", "narrower"), [((8,), None), ((1, 8), None), ((2, 4, 8), 4)])
def test_narrower_is_the_next_width_that_holds_more_than_a_sign(
    make_network: MakeNetwork, make_chip: MakeChip, widths: tuple[int, ...], narrower: int | None
) -> None:
    chip, network = make_chip(weight_bits=widths), make_network([64, 100, 10])
    found = gains(network, chip, share_budget(network, chip, cores=2))
    assert {gain.narrower_bits for gain in found} == {narrower}
    assert all((gain.a_width_narrower is None) is (narrower is None) for gain in found)


def test_a_budget_that_nothing_else_would_make_possible_says_so(make_network: MakeNetwork, make_chip: MakeChip) -> None:
    """Gains that cannot be had are None, not an error: one core is all that the chip has, one width too."""
    chip = make_chip(cores_per_chip=1, weight_bits=(8,))
    network = make_network([90, 30, 4])
    (first, _) = gains(network, chip, share_budget(network, chip))
    assert first.kept < 1
    assert (first.with_a_core_more, first.a_width_narrower) == (None, None)
