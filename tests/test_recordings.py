"""Recordings of events: frames by hand and tonic's, files that tonic reads, in which order, and what is said where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from event_files import EVENT, some_events, write_cifar, write_gesture, write_nmnist, write_shd
from numpy.typing import NDArray

from neurodeploy.errors import DataError, RequestError
from neurodeploy.training.data_loading import CATALOGUE, frames, load_data

RECORDED = [name for name, of in CATALOGUE.items() if of.reader == "tonic"]


# ---------------------------------------------------------------------------------------------- frames


def events(*rows: tuple[int, int, int, int]) -> NDArray[np.void]:
    """From (t, x, y, p)."""
    return np.array(list(rows), dtype=EVENT)


def test_frames_by_hand() -> None:
    seen = events((10, 0, 0, 0), (11, 2, 1, 1), (11, 2, 1, 1), (14, 1, 0, 0), (18, 0, 1, 0), (19, 1, 1, 1))
    made = frames(seen, (2, 2, 3), 2)  # steps of 4 ticks, from 10 and from 14; what comes at 18 and later is in none
    assert [tuple(place) for place in np.argwhere(made)] == [(0, 0, 0, 0), (0, 1, 1, 2), (1, 0, 0, 1)]
    assert frames(events((0, 2, 0, 0), (7, 4, 0, 0), (9, 0, 0, 0)), (5,), 3).tolist() == [
        [0, 0, 1, 0, 0],
        [0] * 5,
        [0, 0, 0, 0, 1],
    ]
    assert not frames(events(), (2, 2, 3), 2).any()


@pytest.mark.parametrize("shape", [(2, 9, 9), (9,)])
@pytest.mark.parametrize(("n", "until"), [(200, 5000), (200, 30), (3, 5), (1, 5)])
def test_frames_are_tonics_where_those_are_more_than_0(shape: tuple[int, ...], n: int, until: int) -> None:
    transforms = pytest.importorskip("tonic.transforms")
    given = some_events(n + until, 9, n, until)
    if len(shape) == 1:
        given["p"] = 1
    size = (*shape[:0:-1], shape[0]) if len(shape) == 3 else (shape[0], 1, 1)
    fields = given if len(shape) == 3 else given[["t", "x", "p"]].copy()
    for n_steps in (1, 4, 7):
        theirs = transforms.ToFrame(sensor_size=size, n_time_bins=n_steps)(fields.copy())
        assert np.array_equal(frames(fields, shape, n_steps), (theirs > 0).reshape(n_steps, *shape))


def test_pixels_are_merged_by_hand() -> None:
    seen = events((0, 0, 0, 0), (1, 3, 1, 1), (4, 2, 3, 0), (9, 0, 0, 0))
    assert [tuple(place) for place in np.argwhere(frames(seen, (2, 4, 4), 2, 2))] == [(0, 0, 0, 0), (0, 1, 0, 1), (1, 0, 1, 1)]
    assert frames(events((0, 5, 0, 0), (9, 0, 0, 0)), (6,), 1, 3).tolist() == [[0, 1]]


def test_events_outside_the_sensor_are_refused() -> None:
    with pytest.raises(DataError, match=r"events: have y in 0\.\.2, outside 0\.\.1"):
        frames(events((0, 0, 0, 0), (1, 0, 2, 0)), (2, 2, 3), 2)
    with pytest.raises(RequestError, match="n_steps: is 0, not at least 1"):
        load_data("n-mnist", n_steps=0)


# ---------------------------------------------------------------------------------------------- data sets


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in which tonic takes a few files for a data set: it counts them, as many as the published one has at least."""
    dataset = pytest.importorskip("tonic.dataset").Dataset

    def any_of(self: Any, _n_files: int, ending: str) -> bool:
        return any(Path(self.location_on_system, self.folder_name).rglob(f"*{ending}"))

    monkeypatch.setattr(dataset, "_folder_contains_at_least_n_files_of_type", any_of)
    return tmp_path


def archives(folder: Path, *names: str) -> None:
    """What tonic has downloaded and unpacked: it looks whether they are there, and never into them."""
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def nmnist(folder: Path) -> dict[str, list[tuple[int, NDArray[np.void]]]]:
    archives(folder, "NMNIST/train.zip", "NMNIST/test.zip")
    halves = {"Train": [(0, "00001"), (0, "00007"), (3, "00002")], "Test": [(9, "00001")]}
    made = {half: [(label, some_events(10 * label + int(name), 34)) for label, name in files] for half, files in halves.items()}
    for half, files in halves.items():
        for (label, name), (_, recorded) in reversed(list(zip(files, made[half], strict=True))):
            write_nmnist(folder, half, label, name, recorded)
    return made


def gesture(folder: Path) -> dict[str, list[tuple[int, NDArray[np.void]]]]:
    archives(folder, "DVSGesture/ibmGestureTrain.tar.gz", "DVSGesture/ibmGestureTest.tar.gz")
    halves = {"Train": [("user01_lab", 0), ("user01_lab", 10), ("user01_lab", 2), ("user02_led", 1)], "Test": [("user24_led", 4)]}
    made: dict[str, list[tuple[int, NDArray[np.void]]]] = {}
    for half, files in halves.items():
        made[half] = [(label, some_events(seed, 128)) for seed, (_, label) in enumerate(files)]
        for (user, label), (_, recorded) in reversed(list(zip(files, made[half], strict=True))):
            recorded["t"] -= recorded["t"] % 1000
            write_gesture(folder, half, user, label, recorded)
    return made


def cifar(folder: Path) -> dict[str, list[tuple[int, NDArray[np.void]]]]:
    pytest.importorskip("aedat")
    archives(folder, "CIFAR10DVS/CIFAR10DVS.zip")
    made = [(label, some_events(100 * label + k, 128)) for label in range(10) for k in range(10)]
    for k, (label, recorded) in reversed(list(enumerate(made))):
        write_cifar(folder, label, k % 10, recorded)
    return {"Train": [r for k, r in enumerate(made) if k % 10 < 9], "Test": made[9::10]}


def shd(folder: Path) -> dict[str, list[tuple[int, NDArray[np.void]]]]:
    archives(folder, "SHD/shd_train.h5.zip", "SHD/shd_test.h5.zip")
    labels = {"Train": [4, 19, 0], "Test": [7, 7]}
    made = {half: [(label, some_events(k, 700)) for k, label in enumerate(of)] for half, of in labels.items()}
    for half, of in labels.items():
        write_shd(folder, half.lower(), of, [recorded for _, recorded in made[half]])
    return made


MAKERS: dict[str, Callable[[Path], dict[str, list[tuple[int, NDArray[np.void]]]]]] = {
    "n-mnist": nmnist, "dvs-gesture": gesture, "cifar10-dvs": cifar, "shd": shd,
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_recordings_become_spikes_in_time_in_the_order_of_their_files(
    name: str, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, of = MAKERS[name](small), CATALOGUE[name]
    split = load_data(name, folder=small, batch_size=2, n_steps=5)
    assert (split.input_shape, split.n_classes) == ((5, *of.input_shape), of.n_classes)
    for half, recorded in ((split.train, made["Train"]), (split.test, made["Test"])):
        inputs, target = (torch.cat(parts) for parts in zip(*half, strict=True))
        assert target.tolist() == [label for label, _ in recorded]
        assert inputs.dtype == torch.float32
        for spikes, (_, given) in zip(inputs, recorded, strict=True):
            assert np.array_equal(spikes.numpy(), frames(given, of.input_shape, 5))
            assert spikes.sum() > 20
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("spec", "shape"), [("n-mnist:17", (2, 17, 17)), ("shd:140", (140,))])
def test_recordings_may_have_larger_pixels(spec: str, shape: tuple[int, ...], small: Path) -> None:
    name = spec.partition(":")[0]
    recorded = MAKERS[name](small)["Train"]
    split = load_data(spec, folder=small, n_steps=5)
    assert split.input_shape == (5, *shape)
    (inputs, _), *_ = split.train
    merge = CATALOGUE[name].input_shape[-1] // shape[-1]
    for spikes, (_, given) in zip(inputs, recorded, strict=True):
        assert np.array_equal(spikes.numpy(), frames(given, CATALOGUE[name].input_shape, 5, merge))


@pytest.mark.parametrize("side", ["30", "0", "-17", "a", "68"])
def test_sides_that_do_not_divide_the_sensor_are_refused(side: str) -> None:
    with pytest.raises(DataError, match=rf"n-mnist:{side}: is no whole part of 34 pixels\. Give one of 34, 17, 2, 1\."):
        load_data(f"n-mnist:{side}")


def test_recordings_are_read_once(small: Path) -> None:
    nmnist(small)
    train = load_data("n-mnist", folder=small, n_steps=5).train
    first = [inputs for inputs, _ in train]
    for path in small.rglob("*.bin"):
        path.unlink()
    assert all(torch.equal(again, inputs) for (again, _), inputs in zip(train, first, strict=True))


def test_a_damaged_recording_is_told(small: Path) -> None:
    gesture(small)
    path = small / "DVSGesture" / "ibmGestureTrain" / "user01_lab" / "0.npy"
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(DataError, match=r"dvs-gesture: recording \d+ cannot be read \(\w+: .+\)"):
        list(load_data("dvs-gesture", folder=small).train)


# ---------------------------------------------------------------------------------------------- what is not there


@pytest.mark.parametrize("name", RECORDED)
def test_recordings_that_are_not_there_and_cannot_be_fetched_are_told(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tonic")
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no way out")))
    called = CATALOGUE[name].class_name
    message = rf"{name}: cannot be loaded \(no way out\)\. Put the files that tonic's {called} reads into .*/{called}, or name"
    with pytest.raises(DataError, match=message):
        load_data(name, folder=tmp_path)


@pytest.mark.parametrize("name", RECORDED)
def test_a_library_that_is_missing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurodeploy.training.data_loading.find_spec", lambda _: None)
    message = rf"{name}: is read by {' and '.join(CATALOGUE[name].packages)}, not installed here\. uv pip install 'tonic"
    with pytest.raises(DataError, match=message):
        load_data(name, folder=tmp_path)
