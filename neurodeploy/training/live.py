"""Which neurons a step has to calculate while weights that do not survive rest.

One that nobody hears changes no answer, and nothing is learnt through it; one that hears nobody never fires, and what leaves it
has no gradient. Of 800 neurons 200 to 400 are left where a network is pressed hard, and a step takes so much less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import torch

from neurodeploy.training.matrices import Matrix

_FEW = 0.9
"""Share of a layer's neurons above which all are calculated: taking rows out of a matrix takes time too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Few:
    """Some of a layer's neurons.

    Attributes
    ----------
    numbers : tensor (n,), int64
        Ascending, within 0..of-1.
    of : int
        Neurons that the layer has.
    """

    numbers: torch.Tensor
    of: int

    def spread(self, signal: torch.Tensor) -> torch.Tensor:
        """(..., n) -> (..., of), zero where the others are."""
        return signal.new_zeros(*signal.shape[:-1], self.of).index_copy(-1, self.numbers, signal)


Live: TypeAlias = Mapping[torch.nn.Module, Few]
"""The neurons of some Linear modules that have to be calculated; of others all have."""


def live_of(layers: Mapping[str, Matrix], survivors: Mapping[str, torch.Tensor]) -> Live:
    """The neurons that hear somebody and are heard, of layers one behind the other that lose enough of them.

    The last layer stays whole, and so do recurrent ones. A bias may lift a neuron that hears nobody.
    """
    needed = {name: torch.ones(len(mask), dtype=torch.bool, device=mask.device) for name, mask in survivors.items()}
    for before, after in reversed(list(pairwise(layers))):
        if not layers[before].is_recurrent:
            needed[before] &= survivors[after][needed[after], : layers[after].n_before].any(dim=0)
    heard = None  # what comes from outside is
    for name in list(layers)[:-1]:
        if not (layers[name].is_recurrent or layers[name].bias is not None):
            mask = survivors[name]
            needed[name] &= (mask if heard is None else mask[:, heard]).any(dim=1)
        heard = needed[name]
    few = {name: Few(numbers=mask.nonzero().flatten(), of=len(mask)) for name, mask in needed.items()}
    return {layers[name].module: some for name, some in few.items() if 0 < len(some.numbers) <= _FEW * some.of}
