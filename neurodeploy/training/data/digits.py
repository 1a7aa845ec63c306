"""Scikit-learn's digits, which come with it."""

from __future__ import annotations

import torch

from neurodeploy.training.data.batches import Batches, DataSplit

_TEST_EVERY = 4


def load_digits(batch_size: int) -> DataSplit:
    """1,797 digits (1, 8, 8) of 17 grey levels; the first, fifth, ninth ... of a class are held out."""
    from sklearn.datasets import load_digits as load  # a second to import, and for this data set only

    digits = load()
    images, labels = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1), torch.tensor(digits.target)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        held_out[torch.nonzero(labels == label)[::_TEST_EVERY, 0]] = True
    return DataSplit(
        train=Batches(images[~held_out], labels[~held_out], batch_size),
        test=Batches(images[held_out], labels[held_out], batch_size),
        input_shape=tuple(images.shape[1:]),
        n_classes=10,
    )
