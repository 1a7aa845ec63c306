"""Data that a function of the user's makes."""

from __future__ import annotations

from typing import Any

import torch

from neurodeploy.errors import DataError
from neurodeploy.factories import call_factory
from neurodeploy.training.data.batches import DataSplit


def load_from_factory(spec: str) -> DataSplit:
    """What the function that `spec` names returns, looked through once."""
    made = call_factory(spec)
    if not isinstance(made, (tuple, list)) or len(made) != 2:
        raise DataError(spec, f"returned {type(made).__name__}, not a pair (train, test)")
    shapes, largest = [], 0
    for half, data in zip(("train", "test"), made, strict=True):
        shape, top = _survey(data, f"{spec}, {half}")
        shapes.append(shape)
        largest = max(largest, top)
    if shapes[0] != shapes[1]:
        raise DataError(spec, f"train holds inputs {shapes[0]}, test {shapes[1]}")
    return DataSplit(train=made[0], test=made[1], input_shape=shapes[0], n_classes=largest + 1)


def _survey(data: Any, where: str) -> tuple[tuple[int, ...], int]:
    """Shape of an input, and the largest class, over all batches."""
    try:
        batches = iter(data)
    except TypeError as error:
        raise DataError(where, f"is {type(data).__name__}, not an iterable of (input, target) batches") from error
    if batches is data:
        raise DataError(where, "can be read only once", remedy="Return a list of batches, or a DataLoader.")
    shapes, largest = set(), -1
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise DataError(where, f"gave {type(batch).__name__}, not a pair (input, target)")
        try:
            inputs, labels = (torch.as_tensor(part) for part in batch)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(where, f"gave {str(batch)[:60]}, which are no tensors") from error
        if labels.is_floating_point() or labels.shape != inputs.shape[:1] or not len(labels) or labels.min() < 0:
            raise DataError(where, f"gave {str(labels.dtype)[6:]} targets {tuple(labels.shape)}, not a class from 0 a sample")
        shapes.add(tuple(inputs.shape[1:]))
        largest = max(largest, int(labels.max()))
    if len(shapes) != 1:
        raise DataError(where, f"holds inputs of shapes {sorted(shapes)}" if shapes else "holds no batches")
    return shapes.pop(), largest
