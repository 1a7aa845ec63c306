"""How much the loss minds each weight: the mean square of its gradient there.

A weight w that is left out costs the loss h w^2 / 2 to second order, h being the curvature of the loss in it (LeCun et al. 1990,
"Optimal brain damage"), and where a model has learnt, h is in expectation the squared gradient: the diagonal of the Fisher
information (Theis et al. 2018, arXiv 1801.05787). Every backward pass leaves it, for weights that are away as well. So a large
weight is worth little where nothing is ever heard, and a small one much where the answer hangs on it.

Which neurons a step has to calculate while weights that do not survive rest.

One that nobody hears changes no answer, and nothing is learnt through it; one that hears nobody never fires, and what leaves it
has no gradient. Of 800 neurons 200 to 400 are left where a network is pressed hard, and a step takes so much less.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from neurodeploy.compression.weight_matrices import Matrix, as_network
from neurodeploy.passes.dead_neurons import live_neurons

# -------------------- training.curvature

_FORGETS = 0.02
"""Share of a mean that the last step makes: it looks back about fifty steps."""
_LEAST = 1e-6
"""Of a layer's mean, for every weight: where no gradient comes, larger ones still go before smaller ones."""


class Curvature:
    """The running mean of squared gradients, layer by layer.

    Parameters
    ----------
    layers : mapping of layer to Matrix

    Attributes
    ----------
    means : dict of layer to tensor (n_out, n_in)
    steps : int
        That were heard.
    """

    def __init__(self, layers: Mapping[str, Matrix]) -> None:
        self.layers, self.steps = layers, 0
        self.means = {name: torch.zeros_like(matrix.weight).detach() for name, matrix in layers.items()}

    @torch.no_grad()
    def listen(self) -> None:
        """Take the gradients of a step into the means."""
        self.steps += 1
        for name, matrix in self.layers.items():
            if (gradient := matrix.gradient) is not None:
                self.means[name].lerp_(gradient.square(), max(_FORGETS, 1 / self.steps))

    def beside(self, alive: Mapping[str, torch.Tensor]) -> dict[str, NDArray[np.float64]]:
        """The curvature in each weight of each layer, (n_out, n_in), beside that of the weights that are alive; 1 at first.

        Between layers the root of it counts. By their squared weights alone readouts got too little; by the whole of it a readout
        takes all memory where much is taken at once, and what it would hear is gone.

        Parameters
        ----------
        alive : mapping of layer to tensor (n_out, n_in), bool
        """
        means = {name: mean.double() + _LEAST * mean.mean() for name, mean in self.means.items()}
        squares = {name: self.layers[name].weight.detach().double().square() * mask for name, mask in alive.items()}
        minded = {name: float((means[name] * square).sum()) for name, square in squares.items()}
        sums = {name: float(square.sum()) for name, square in squares.items()}
        if not (minded and all(minded.values())):
            return {name: np.ones(tuple(mean.shape)) for name, mean in means.items()}
        of_all = sum(minded.values()) / sum(sums.values())
        units = {name: (of_all * minded[name] / sums[name]) ** 0.5 for name in means}
        return {name: (mean / units[name]).cpu().numpy() for name, mean in means.items()}

    def state_dict(self) -> dict[str, Any]:
        """The means, and how many steps they are of."""
        return {"means": self.means, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up again."""
        self.steps = state["steps"]
        for name, mean in self.means.items():
            mean.copy_(state["means"][name])


# -------------------- training.live

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
