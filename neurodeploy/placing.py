"""How a network is placed: laid out on the fewest cores, and these put where spikes travel least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from neurodeploy.board.arrangement import arrange
from neurodeploy.board.journeys import mesh_of
from neurodeploy.board.links import Rates, links_of
from neurodeploy.hardware import HardwareProfile
from neurodeploy.layout.laying import Cut, counts_of, lay_out
from neurodeploy.network import Network
from neurodeploy.placement import Placement
from neurodeploy.quantized import QuantizedNetwork


def place(
    network: QuantizedNetwork,
    profile: HardwareProfile,
    *,
    cores: int | None = None,
    chips: int | None = None,
    plan: Sequence[Cut] = (),
    rates: Rates | None = None,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Placement:
    """Put a network on the fewest cores, and these where its spikes travel least.

    Parameters
    ----------
    cores, chips : int, optional
        How many cores, or chips of them, it may use; all of the profile's by default.
    plan : sequence of (layer, core, region), optional
        The slices of a budget that it keeps: how it stands where that takes no core more, or where it fits only so. Laid
        closely, the targets of a neuron may be cut apart where the plan does not cut, and take an output axon more.
    rates : mapping, optional
        Spikes a step of every neuron, by layer, as `neurodeploy.board.links.measured_rates` takes them from a record; assumed to
        be `neurodeploy.board.links.ASSUMED_RATE` where not given.
    seed : int
        Of the search for better places.
    progress : callable, optional
        Told how far the search is, 0..1.

    Raises
    ------
    PlacementError
        It does not fit; the error names layer, resource, need, limit and its source.
    RequestError
        `cores` or `chips` is not within 1..what the profile has, or `plan` is not of this network.
    """
    available = profile.cores_given(cores, chips)
    placement = lay_out(network, profile, cores=available, plan=plan)
    for overrun in placement.overruns():
        raise overrun.error()
    return arranged(linked(placement, network, rates), seed=seed, progress=progress)


def linked(
    placement: Placement,
    network: Network | QuantizedNetwork,
    rates: Rates | None = None,
    *,
    connectivity: float | None = None,
) -> Placement:
    """A placement that knows who talks to whom, at measured rates or assumed ones."""
    counts = counts_of(network.layers, placement.weight_bits, placement.profile, connectivity)
    slices = [(part.layer, part.region) for part in placement.slices]
    return replace(placement, links=links_of(slices, network.layers, counts, rates))


def arranged(placement: Placement, *, seed: int = 0, progress: Callable[[float], None] | None = None) -> Placement:
    """The same slices, core by core, on those cores of the board between which spikes travel least.

    A chip whose cores differ keeps its own; a network that needs more cores than the board has is left as it is laid out.
    """
    traffic = placement.traffic()
    used, profile = placement.cores_used, placement.profile
    if traffic is None or profile.cores_differ or used > profile.cores:
        return placement
    chips = -(-max(placement.cores_available, used) // profile["cores_per_chip"].number)
    mesh = replace(mesh_of(profile), chips=chips)  # of the board, those chips that the network was given, or takes all the same
    return placement.moved(arrange(traffic.flow, used, mesh, seed=seed, progress=progress))
