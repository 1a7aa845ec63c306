"""What a slice needs to hear anybody at all, and how it is told that it gets less."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neurodeploy.errors import BudgetError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.resources.counting import LayerCount
from neurodeploy.resources.usage import Usage, count


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A limit that leaves no room, whatever is pruned.

    Attributes
    ----------
    layer : str
    what : str
        What was counted.
    need, limit : int
    key : str
        Of the limit, in the profile; what `limit` is, unless that is a number of cores.
    is_of_cores : bool
        Whether `need` and `limit` are numbers of cores, or what a number of cores comes down to.
    hangs_on_cut : bool
        Whether it comes of how many slices layers are cut into, so that other numbers of cores could help.
    """

    layer: str
    what: str
    need: int
    limit: int
    key: str
    is_of_cores: bool = False
    hangs_on_cut: bool = False

    def error(self, profile: HardwareProfile, remedy: str) -> BudgetError:
        """The lack as an error."""
        return BudgetError(
            f"layer {self.layer!r}", self.what, need=self.need, limit=self.limit, source=profile[self.key].where, remedy=remedy
        )

    def hopeless(self, profile: HardwareProfile) -> BudgetError:
        """The lack as an error that cores do not mend."""
        return self.error(profile, f"No number of cores helps, nor pruning: a limit of {self.need:,} would leave room.")


def least_room(counted: LayerCount, whole: Usage, biases: int) -> tuple[int, int]:
    """Bits and input axons of a region that keeps one synapse, and its biases: never more than it has.

    Parameters
    ----------
    whole : Usage
        Of the region, as if no weight were zero.
    biases : int
        Neurons that bring biases to all of the region.
    """
    key = ("single", whole.neurons, biases, counted.width)
    if key not in counted.counted:
        single = np.asarray([1, *[whole.neurons] * biases])
        counted.counted[key] = count(single, whole.neurons, counted.width, counted.profile).synapse_memory_bits
    return min(counted.counted[key], whole.synapse_memory_bits), min(1 + biases, whole.input_axons)
