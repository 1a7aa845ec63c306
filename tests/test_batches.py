"""Batches: in which order samples come, what is held out for choices, and what an epoch changes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.batches import Batches, DataSplit, RandomAffine, RandomFlip, RandomShift

# ---------------------------------------------------------------------------------------------- batches


def test_batches_come_in_order_and_all_of_them() -> None:
    batches = Batches(torch.arange(7.0).view(7, 1), torch.arange(7), 3)
    assert len(batches) == 3
    assert [target.tolist() for _, target in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [target.tolist() for _, target in batches] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_shuffle_is_every_sample_once_in_an_order_that_the_seed_decides() -> None:
    batches = Batches(torch.arange(50.0).view(50, 1), torch.arange(50), 8)

    def orders(seed: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed)
        return [torch.cat([target for _, target in batches.shuffled(generator)]).tolist() for _ in range(2)]

    assert orders(3) == orders(3) != orders(4)
    first, second = orders(3)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(50))


def test_a_shuffled_input_keeps_its_target() -> None:
    batches = Batches(torch.arange(50.0).view(50, 1), torch.arange(50), 8)
    for inputs, target in batches.shuffled(torch.Generator().manual_seed(0)):
        assert torch.equal(inputs[:, 0].long(), target)


def test_batches_refuse_what_does_not_match() -> None:
    with pytest.raises(DataError, match="batches: 3 inputs have 2 targets"):
        Batches(torch.zeros(3, 1), torch.zeros(2), 1)
    with pytest.raises(DataError, match="batches: hold no samples"):
        Batches(torch.zeros(0, 1), torch.zeros(0), 1)
    with pytest.raises(RequestError, match="batch_size: is 0, not at least 1"):
        Batches(torch.zeros(3, 1), torch.zeros(3), 0)


def test_a_part_holds_its_samples_alone() -> None:
    part = Batches(torch.arange(50.0).view(50, 1), torch.arange(50), 8).part([3, 40, 7])
    (inputs, target), *more = part
    assert not more
    assert inputs[:, 0].tolist() == target.tolist() == [3, 40, 7]
    assert part.part([2]).targets.tolist() == [7]


# ---------------------------------------------------------------------------------------------- held out, and changed


def split_of(n: int = 60) -> DataSplit:
    """Images of 4 x 5 pixels in 3 classes; a third of the samples is class 0, a half class 1."""
    target = torch.tensor([0, 0, 1, 1, 1, 2]).repeat(n // 6)
    images = torch.arange(n * 20.0).view(n, 1, 4, 5) + 1
    train, test = Batches(images, target, 7), Batches(images[:5], target[:5], 7)
    return DataSplit(train=train, test=test, input_shape=(1, 4, 5), n_classes=3)


def everything(data: Any) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, targets = zip(*data, strict=True)
    return torch.cat(inputs), torch.cat(targets)


def test_what_is_held_out_for_choices_comes_from_training_data_and_from_each_class_alike() -> None:
    split = split_of()
    chosen, again, other = (split.for_choices(0.2, seed=seed) for seed in (5, 5, 6))
    (kept, _), (held_out, target) = everything(chosen.train), everything(chosen.test)
    assert target.bincount().tolist() == [4, 6, 2]
    assert sorted(torch.cat([kept, held_out])[:, 0, 0, 0].tolist()) == everything(split.train)[0][:, 0, 0, 0].tolist()
    assert torch.equal(held_out, everything(again.test)[0])
    assert not torch.equal(held_out, everything(other.test)[0])


def test_choices_need_batches_and_enough_of_them() -> None:
    with pytest.raises(DataError, match="data: is list, which cannot be split"):
        split_of()._replace(train=[]).for_choices()
    with pytest.raises(DataError, match="data: is list, which cannot be augmented"):
        split_of()._replace(train=[]).augmented(RandomShift(1))
    with pytest.raises(RequestError, match="share: is 1, not above 0 and below 1"):
        split_of().for_choices(1)
    with pytest.raises(DataError, match=r"data: has too few samples \(60\) to hold 0\.001 of each class out"):
        split_of().for_choices(0.001)


def test_a_shift_moves_each_image_by_what_was_drawn_for_it() -> None:
    images, moved = torch.arange(40.0).view(2, 1, 4, 5) + 1, RandomShift(2)
    down, left = moved(images, torch.tensor([[1, 0], [0, -2]]))
    assert down[0].tolist() == [[0] * 5, *images[0, 0, :3].tolist()]
    assert left[0].tolist() == [[*row[2:], 0, 0] for row in images[1, 0].tolist()]


def test_a_shift_moves_all_steps_and_channels_of_a_sample_together() -> None:
    spikes, drawn = torch.rand(3, 6, 2, 4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([[1, 1], [-2, 0], [0, 2]])
    moved = RandomShift(2)(spikes, drawn)
    for step in range(6):
        assert torch.equal(moved[:, step], RandomShift(2)(spikes[:, step], drawn))


def test_a_flip_exchanges_left_and_right_of_those_that_were_drawn() -> None:
    spikes = torch.rand(3, 6, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    flipped = RandomFlip()(spikes, torch.tensor([True, False, True]))
    assert torch.equal(flipped[1], spikes[1])
    assert torch.equal(flipped[::2], spikes[::2].flip(-1))
    drawn = RandomFlip().draw(1000, torch.Generator().manual_seed(0))
    assert 400 < drawn.sum() < 600


def changed(**told: float) -> torch.Tensor:
    """A dot two rows above the middle of 9 x 9 pixels, changed as told: where it is then, or the whole image."""
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 2, 4] = 1
    numbers = {"turn": 0.0, "slant": 0.0, "tall": 1.0, "wide": 1.0, "down": 0.0, "right": 0.0} | told
    return RandomAffine()(image, torch.tensor([list(numbers.values())]))[0, 0]


def test_an_image_is_turned_slanted_scaled_and_moved_about_its_middle() -> None:
    assert changed()[2, 4] == pytest.approx(1, abs=1e-5)
    assert changed(turn=math.pi / 2)[4, 6] == pytest.approx(1, abs=1e-5)
    assert changed(slant=math.pi / 4)[2, 6] == pytest.approx(1, abs=1e-5)
    assert changed(tall=1.5)[1, 4] == pytest.approx(1, abs=1e-5)
    assert changed(down=3.0, right=-2.0)[5, 2] == pytest.approx(1, abs=1e-5)
    assert changed(right=0.5)[2, 4:6].tolist() == pytest.approx([0.5, 0.5], abs=1e-5)
    assert changed(down=7.0).sum() == pytest.approx(0, abs=1e-5)


def test_each_sample_is_turned_in_its_own_way_and_all_its_steps_alike() -> None:
    spikes, affine = torch.rand(3, 6, 2, 8, 8, generator=torch.Generator().manual_seed(0)), RandomAffine(30, 0.2, 2)
    drawn = affine.draw(3, torch.Generator().manual_seed(0))
    turned = affine(spikes, drawn)
    for step in range(6):
        assert torch.allclose(turned[:, step], affine(spikes[:, step], drawn), atol=1e-6)
    assert torch.allclose(turned[1:2], affine(spikes[1:2], drawn[1:2]), atol=1e-6)


def test_what_an_affine_change_draws_keeps_within_what_it_was_told() -> None:
    drawn = RandomAffine(10, 0.1, 3).draw(2000, torch.Generator().manual_seed(0))
    most = torch.tensor([math.radians(10), math.radians(10), 0.1, 0.1, 3, 3])
    off = (drawn - torch.tensor([0.0, 0, 1, 1, 0, 0])).abs()
    assert (off <= most + 1e-6).all()
    assert (off.amax(dim=0) > 0.95 * most).all()
    assert torch.equal(RandomAffine(0, 0, 0).draw(2, torch.Generator()), torch.tensor([[0.0, 0, 1, 1, 0, 0]] * 2))


@pytest.mark.parametrize(("name", "value"), [("degrees", 46.0), ("scale", 1.0), ("pixels", -1.0), ("pixels", math.inf)])
def test_an_affine_change_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(RequestError, match=f"{name}: is {value}, not within 0"):
        RandomAffine(**{name: value})


def test_an_affine_change_needs_rows_and_columns() -> None:
    with pytest.raises(DataError, match=r"of shape \(2, 9\) have no rows and columns to turn"):
        RandomAffine()(torch.zeros(2, 9), torch.zeros(2, 6))


def test_an_epoch_is_augmented_as_the_seed_decides_and_whatever_the_batches() -> None:
    split = split_of().augmented(RandomShift(1))
    plain, _ = everything(split_of().train)
    assert torch.equal(everything(split.train)[0], plain)

    def epoch(batch_size: int, seed: int) -> torch.Tensor:
        train = Batches(split.train.inputs, split.train.targets, batch_size, split.train.augmentations)  # type: ignore[attr-defined]
        return everything(train.shuffled(torch.Generator().manual_seed(seed)))[0]

    assert torch.equal(epoch(7, 1), epoch(60, 1))
    assert not torch.equal(epoch(7, 1), epoch(7, 2))
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    changed = (epoch(7, 1) != plain[order]).flatten(1).any(dim=1).float().mean()
    assert 0.6 < changed < 1  # all shifts but one in nine change an image


def test_what_is_held_out_is_never_augmented() -> None:
    split = split_of().augmented(RandomShift(1)).for_choices()
    plain = split_of().for_choices()
    assert torch.equal(everything(split.test)[0], everything(plain.test)[0])
    shuffled = everything(split.train.shuffled(torch.Generator().manual_seed(0)))[0]  # type: ignore[attr-defined]
    assert (shuffled == 0).any()


def test_a_shift_refuses_what_it_cannot_move() -> None:
    with pytest.raises(RequestError, match="pixels: are 0, not at least 1"):
        RandomShift(0)
    with pytest.raises(DataError, match=r"inputs: of shape \(2, 9\) have no rows and columns to shift"):
        RandomShift(1)(torch.zeros(2, 9), torch.zeros(2, 2, dtype=torch.int64))
