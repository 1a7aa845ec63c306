"""Direct coding: an image's intensities themselves, in every step, as whole numbers that spikes carry."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from neurodeploy.errors import RequestError
from neurodeploy.graph import INPUT
from neurodeploy.hardware import HardwareProfile
from neurodeploy.network import Network


@dataclass(frozen=True, slots=True)
class Direct:
    """An encoder: in every step a pixel sends round(x * levels), and nothing where that is 0.

    A model is given what that stands for, round(x * levels) / levels.

    Attributes
    ----------
    levels : int
        At least 1; 1 makes spikes of 0 and 1. A current has 24 bits, 6 of them below the unit of weights: with 15 levels and
        8-bit weights, 34 of the largest fill it. Where more come together it wraps, which the emulator counts.
    """

    levels: int = 15

    def __post_init__(self) -> None:
        if self.levels < 1:
            raise RequestError("levels", f"are {self.levels}, not at least 1")

    def __call__(self, images: torch.Tensor, n_steps: int) -> torch.Tensor:
        """Intensities (batch, \\*shape) as (batch, n_steps, \\*shape): one image's memory, seen in every step."""
        sent = torch.round(images * self.levels) / self.levels
        return sent.unsqueeze(1).expand(len(images), n_steps, *images.shape[1:])


def in_levels(network: Network, levels: int) -> Network:
    """A network that does with whole numbers 0..levels what this one does with their parts of `levels`, 0..1.

    Its weights from the input are so many times smaller; quantising takes the factor from there into the layer's scale.
    """
    if levels == 1:
        return network
    layers = []
    for layer in network:
        connections = tuple(
            replace(c, synapse=replace(c.synapse, weight=c.synapse.weight / levels)) if c.source == INPUT else c
            for c in layer.connections
        )
        layers.append(replace(layer, connections=connections))
    return replace(network, layers=tuple(layers))


def check_payload(profile: HardwareProfile, levels: int) -> None:
    """`RequestError` where spikes of the chip cannot carry numbers up to `levels`; 1 is a spike, which needs none."""
    if levels == 1:
        return
    remedy = "Give 'rate' or 'latency', which code in spikes."
    if "payload_bits" not in profile:
        raise RequestError(
            "encoder",
            f"sends numbers of up to {levels}, and spikes of {profile.name} carry none (no payload_bits)",
            remedy=remedy,
        )
    limit = profile["payload_bits"]
    if levels.bit_length() > limit.number:
        raise RequestError(
            "encoder", "bits a spike", need=levels.bit_length(), limit=limit.number, source=limit.where, remedy=remedy
        )
