"""Memory that idle neurons leave, lent to all synapses of the core while weights that are away learn on.

A neuron that nobody hears, or that hears nobody, is not deployed, and the memory of its synapses is free. Given to those who are
heard, it would keep the others out for good. Lent to all, it lowers the price for the idle as well, so that some come back; the
core is full when the survivors between live neurons fill it. How much that is, a few trials tell, from what it was last time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from neurodeploy.budgets.budget import Budget
from neurodeploy.training.forms import Form
from neurodeploy.training.masks import Core
from neurodeploy.training.matrices import Matrix, within
from neurodeploy.training.needs import memory_bits

_SETTLED = 0.02
"""Share of a core's memory that may be missing, or too much."""
_MOST = 8.0
"""Times its memory that a core is lent at most: not even all its synapses may fill it."""


def shares_taken(
    cores: Sequence[Core], layers: Mapping[str, Matrix], survivors: Mapping[str, torch.Tensor], forms: Mapping[str, Form],
    budget: Budget,
) -> list[float]:  # fmt: skip
    """Of each core's memory, the share that survivors take which lead neither from nor to a neuron that its form leaves out."""
    inside = within(layers, {name: form.left_out(budget.of(name)) for name, form in forms.items()})
    heard = {name: mask & torch.from_numpy(inside[name]).to(mask.device) for name, mask in survivors.items()}
    return [memory_bits(core.parts, heard, forms, budget.profile) / max(core.memory_bits, 1) for core in cores]


class Loans:
    """What each core is lent.

    Attributes
    ----------
    shares : dict of slice to float
        Of its memory, at least 0, by the name of its first slice.
    """

    def __init__(self) -> None:
        self.shares: dict[str, float] = {}

    def of(self, core: Core) -> float:
        """The share of its memory that a core is lent, 0 to begin with."""
        return self.shares.get(core.parts[0].name, 0.0)

    def are_settled(self, cores: Sequence[Core], taken: Sequence[float]) -> bool:
        """Whether cores are as full as they should be; if not, what is left is lent to them, or what is too much taken back.

        Parameters
        ----------
        taken : sequence of float
            Of each core's memory, as `shares_taken` has it.
        """
        settled = True
        for core, share in zip(cores, taken, strict=True):
            lent = min(max(self.of(core) + 1 - share, 0.0), _MOST)
            settled &= abs(lent - self.of(core)) <= _SETTLED
            self.shares[core.parts[0].name] = lent
        return settled
