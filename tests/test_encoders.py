"""Spikes from images: the codes by hand, the same spikes for model and simulator, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.encoders import ENCODERS, check_spikes, encode, levels_of, simulator_spikes

INTENSITIES = st.lists(st.floats(0, 1, width=32), min_size=1, max_size=6)


def test_the_rate_code_by_hand() -> None:
    images = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    assert encode(images, 4, "rate")[0].T.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]]


def test_the_latency_code_by_hand() -> None:
    images = torch.tensor([[0.0, 0.25, 0.5, 1.0]])
    assert encode(images, 5, "latency")[0].T.tolist() == [[0] * 5, [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0]]


@given(x=INTENSITIES, n_steps=st.integers(1, 40))
def test_the_rate_code_spends_the_intensity_to_the_nearest_spike_at_every_moment(x: list[float], n_steps: int) -> None:
    so_far = encode(torch.tensor([x]), n_steps, "rate")[0].cumsum(dim=0)
    wanted = torch.tensor(x) * torch.arange(1, n_steps + 1).unsqueeze(1)
    assert ((so_far - wanted).abs() <= 0.5 + 1e-5).all()


@given(x=INTENSITIES, n_steps=st.integers(1, 40))
def test_the_latency_code_fires_once_and_the_brighter_pixel_first(x: list[float], n_steps: int) -> None:
    spikes = encode(torch.tensor([x]), n_steps, "latency")[0]
    lit = torch.tensor(x) > 0
    assert torch.equal(spikes.sum(dim=0), lit.float())
    when = spikes.argmax(dim=0)[lit]
    assert (when[torch.tensor(x)[lit].argsort()].diff() <= 0).all()


@given(x=INTENSITIES, n_steps=st.integers(1, 12), encoder=st.sampled_from(sorted(ENCODERS)))
def test_a_simulator_gets_the_models_spikes_with_time_last(x: list[float], n_steps: int, encoder: str) -> None:
    images = np.array([x, x[::-1]], dtype=np.float32)
    spikes = simulator_spikes(images, n_steps, encoder)
    levels = levels_of(encoder)
    assert spikes.dtype == (np.uint8 if levels == 1 else np.int32)
    assert spikes.shape == (2, len(x), n_steps)
    assert np.allclose(spikes, levels * encode(images, n_steps, encoder).permute(0, 2, 1).numpy(), atol=1e-5)


def test_an_image_keeps_its_shape() -> None:
    images = torch.rand(3, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    assert encode(images, 7).shape == (3, 7, 2, 5, 4)
    assert simulator_spikes(images, 7).shape == (3, 2, 5, 4, 7)


def test_a_users_encoder_is_used() -> None:
    def first_step_only(images: torch.Tensor, n_steps: int) -> torch.Tensor:
        spikes = torch.zeros(len(images), n_steps, *images.shape[1:])
        spikes[:, 0] = (images > 0.5).float()
        return spikes

    assert encode(torch.tensor([[0.4, 0.6]]), 3, first_step_only)[0].tolist() == [[0, 1], [0, 0], [0, 0]]


@pytest.mark.parametrize("value", [-0.01, 1.01, float("inf")])
def test_intensities_outside_their_range_are_refused(value: float) -> None:
    with pytest.raises(DataError, match=r"images: intensities .* leave 0\.\.1\. Scale them first"):
        encode(torch.tensor([[0.5, value]]), 4)


def test_nan_is_refused() -> None:
    with pytest.raises(DataError, match="images: hold NaN"):
        encode(np.array([[0.5, np.nan]]), 4)


def test_an_unknown_encoder_is_refused() -> None:
    with pytest.raises(RequestError, match=r"encoder: 'poisson' is unknown\. Give one of rate, latency, direct, or a function"):
        encode(torch.zeros(1, 2), 4, "poisson")


def test_no_steps_are_refused() -> None:
    with pytest.raises(RequestError, match="n_steps: is 0, not at least 1"):
        encode(torch.zeros(1, 2), 0)


def test_a_users_encoder_has_to_return_the_right_shape() -> None:
    with pytest.raises(DataError, match=r"encoder: returned shape \(1, 2\), not a tensor of shape \(1, 4, 2\)"):
        encode(torch.zeros(1, 2), 4, lambda images, _: images)
    with pytest.raises(DataError, match="encoder: returned list, not a tensor"):
        encode(torch.zeros(1, 2), 4, lambda _, __: [])  # type: ignore[arg-type, return-value]


def test_only_spikes_pass_for_spikes() -> None:
    assert check_spikes(torch.tensor([0.0, 1.0]), "x").tolist() == [0, 1]
    with pytest.raises(DataError, match="x: holds values other than 0 and 1"):
        check_spikes(torch.tensor([0.0, 0.5]), "x")
