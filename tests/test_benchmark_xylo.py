"""The benchmark of spoken digits on Xylo: its filter bank, its spikes, and recordings that are for the test alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import xylo


def tone(hz: float, seconds: float = 0.4, rate_hz: int = 8000) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (20_000 * np.sin(2 * np.pi * hz * time_s)).astype(np.int16)


@pytest.mark.parametrize("band", [2, 8, 14])
def test_a_tone_is_heard_by_its_band(band: int) -> None:
    edges = np.geomspace(xylo.LOWEST_HZ, xylo.HIGHEST_HZ, 17)
    amplitudes = xylo.band_amplitudes(tone(float(np.sqrt(edges[band] * edges[band + 1]))), 8000)
    assert amplitudes.shape == (64, 16)
    assert amplitudes.mean(axis=0).argmax() == band
    assert amplitudes[:40].any(axis=1).all()
    assert not amplitudes[40:].any()  # 0.4 s are 40 steps; the rest is silence
    spikes = xylo.as_spikes(amplitudes[None])
    assert set(np.unique(spikes)) == {0, 1}
    assert spikes[0].sum(axis=0).argmax() == band


def test_louder_recordings_have_the_same_spikes() -> None:
    quiet, loud = (xylo.as_spikes(xylo.band_amplitudes(part, 8000)[None]) for part in (tone(500) // 4, tone(500)))
    assert np.abs(quiet - loud).sum() <= 2  # 16-bit samples round


@pytest.mark.parametrize(("held_out", "test", "train"), [(False, range(5), range(5, 12)), (True, range(5, 10), range(10, 12))])
def test_test_recordings_are_not_trained_on(held_out: bool, test: range, train: range, tmp_path: Path) -> None:
    """Every recording is a tone of its own; those of digits 8 and 9 are left out."""
    labels, numbers = np.repeat([0, 3, 7, 8], 12).astype(np.uint8), np.tile(np.arange(12), 4).astype(np.uint8)
    sounds = [tone(150 + 60 * k, seconds=0.1) for k in range(48)]
    np.savez(
        tmp_path / "sounds.npz", samples=np.concatenate(sounds), end=np.cumsum([len(sound) for sound in sounds]),
        label=labels, recording=numbers, speaker=np.zeros(48, np.uint8), rate_hz=8000,
    )  # fmt: skip
    data = xylo.spoken_digits(tmp_path / "sounds.npz", held_out=held_out)
    for batches, expected in ((data.test, test), (data.train, train)):
        inputs = torch.cat([one for one, _ in batches]).numpy()
        wanted = [k for k in range(36) if numbers[k] in expected]
        np.testing.assert_array_equal(inputs, xylo.as_spikes(np.stack([xylo.band_amplitudes(sounds[k], 8000) for k in wanted])))
        assert torch.cat([each for _, each in batches]).tolist() == [int(labels[k]) for k in wanted]


def test_the_codewords_of_ten_classes_differ_in_four_places() -> None:
    code = xylo.codewords(10)
    assert set(code.unique().tolist()) == {-1.0, 1.0}
    assert all(int((one != other).sum()) >= 4 for k, one in enumerate(code) for other in code[:k])
    # each class is read from its own codeword, also with one of eight readouts wrong
    assert xylo.decoded(code[None]).argmax(dim=1).tolist() == list(range(10))
    wrong = code.clone()
    wrong[:, 3] *= -1
    assert xylo.decoded(wrong[None]).argmax(dim=1).tolist() == list(range(10))
