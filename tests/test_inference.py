"""What a model is given of a batch: images coded or spikes as they are, flat where it begins with a matrix."""

from __future__ import annotations

import pytest
import torch
from norse.torch import LICell, LIFCell, SequentialState

from neurodeploy.errors import DataError
from neurodeploy.training.encoders import encode, spikes_of
from neurodeploy.training.forward import predict, run_model
from neurodeploy.training.options import FitOptions

OPTIONS = FitOptions(n_steps=4)
IMAGES = torch.rand(3, 2, 5, 6, generator=torch.Generator().manual_seed(0))
SPIKES = encode(IMAGES, 7)
DENSE = SequentialState(torch.nn.Linear(60, 4), LICell())
CONVOLVED = SequentialState(torch.nn.Conv2d(2, 3, 3), LIFCell(), torch.nn.Flatten(), torch.nn.Linear(36, 4), LICell())
UNFLAT = SequentialState(torch.nn.Conv2d(2, 1, 1), LIFCell(), torch.nn.Flatten(), torch.nn.Linear(30, 4), LICell())


def test_a_model_that_begins_with_a_matrix_gets_images_and_spikes_flat() -> None:
    assert torch.equal(spikes_of(IMAGES, DENSE, OPTIONS), encode(IMAGES, 4).flatten(2))
    assert torch.equal(spikes_of(SPIKES, DENSE, OPTIONS), SPIKES.flatten(2))


@pytest.mark.parametrize("model", [CONVOLVED, UNFLAT], ids=["smaller", "as many values as the last matrix takes"])
def test_a_model_that_begins_with_a_convolution_gets_them_in_shape(model: SequentialState) -> None:
    assert torch.equal(spikes_of(IMAGES, model, OPTIONS), encode(IMAGES, 4))
    assert torch.equal(spikes_of(SPIKES, model, OPTIONS), SPIKES)
    assert run_model(model, spikes_of(IMAGES, model, OPTIONS)).shape == (4, 3, 4)
    assert predict(model, IMAGES, OPTIONS).shape == (3,)


def test_a_convolution_refuses_other_channels_and_sides() -> None:
    for wrong in (IMAGES[:, :1], IMAGES[:, 0], IMAGES.flatten(1), SPIKES[:, :, :1]):
        with pytest.raises(DataError, match=r"inputs: have shape .*, but the model's first layer takes 2 channels"):
            spikes_of(wrong, CONVOLVED, OPTIONS)
