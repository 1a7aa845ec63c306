"""Models that the command line names."""

from __future__ import annotations

import torch

from neurodeploy.errors import RequestError
from neurodeploy.factories import call_factory


def load_model(spec: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """The model that ``file.py:factory`` or ``package.module:factory`` makes, and a sample of its input for one step.

    The factory takes no arguments and returns a torch module, or a pair of it and a sample (batch, \\*input_shape). Without
    a sample the input is as long as the first Linear expects.

    Raises
    ------
    RequestError
        No such factory; it raised; or it returned something else.
    """
    made = call_factory(spec)
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], torch.Tensor):
        model, sample = made
    else:
        model, sample = made, None
    if not isinstance(model, torch.nn.Module):
        raise RequestError(spec, f"returned a {type(model).__name__}, not a torch module or a pair (module, sample)")
    if sample is None:
        linear = next((m for m in model.modules() if isinstance(m, torch.nn.Linear)), None)
        if linear is None:
            raise RequestError(spec, "returned a model without a Linear", remedy="Return a pair (module, sample) of tensors.")
        sample = torch.zeros(1, linear.in_features)
    return model, sample
