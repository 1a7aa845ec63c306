"""A synthetic network of the size and the irregularity of the fruit fly's brain."""

from __future__ import annotations

from neurodeploy.quantized import QuantizedNetwork


def flywire(*, seed: int = 0) -> QuantizedNetwork:
    """Not built yet."""
    raise NotImplementedError(seed)
