"""Which neurons a step has to calculate while weights that do not survive rest.

One that nobody hears changes no answer, and nothing is learnt through it; one that hears nobody never fires, and what leaves it
has no gradient. Of 800 neurons 200 to 400 are left where a network is pressed hard, and a step takes so much less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from neurodeploy.training.matrices import Matrix
from neurodeploy.training.modules import as_network
from neurodeploy.trimming import live_neurons

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
    """The neurons that `live_neurons` finds by the survivors, of layers that lose enough of them."""
    found = {}
    for name, kept in (live_neurons(as_network(layers, survivors)) if layers else {}).items():
        if 0 < kept.sum() <= _FEW * kept.size:
            numbers = torch.from_numpy(np.flatnonzero(kept)).to(survivors[name].device)
            found[layers[name].module] = Few(numbers=numbers, of=kept.size)
    return found
