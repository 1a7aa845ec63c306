"""From events to frames: in which step a pixel saw something."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurodeploy.errors import DataError


def frames(events: NDArray[Any], sensor: tuple[int, ...], n_steps: int, merge: int = 1) -> NDArray[np.uint8]:
    """Events binned into steps of equal length: 1 where a pixel had any in that step.

    The frames of tonic's ``ToFrame(sensor_size, n_time_bins=n_steps)``, more than 0: a step is a whole number of the recording's
    ticks, so what comes in the last few of them, fewer than `n_steps`, is in no frame.

    Parameters
    ----------
    events : structured array (n,)
        Fields t, in ticks and rising, and x; y and p where the sensor has them.
    sensor : tuple of int
        (polarities, height, width), or (width,).
    n_steps : int
    merge : int
        So many pixels along each side are seen as one; sides are multiples of it.

    Returns
    -------
    array (n_steps, \\*shape), uint8
        Zeros and ones; the shape is the sensor's as `merged` has it.

    Raises
    ------
    DataError
        Events outside the sensor.
    """
    made = np.zeros((n_steps, *merged(sensor, merge)), dtype=np.uint8)
    if len(events) == 0:
        return made
    places = []
    for axis, size in zip("pyx"[-len(sensor) :], sensor, strict=True):
        place = events[axis].astype(np.int64)
        if place.min() < 0 or place.max() >= size:
            raise DataError("events", f"have {axis} in {place.min()}..{place.max()}, outside 0..{size - 1}")
        places.append(place if axis == "p" else place // merge)
    times = events["t"].astype(np.int64)
    step = (times[-1] - times[0]) // n_steps
    bounds = np.searchsorted(times, times[0] + step * np.arange(n_steps + 1))
    for frame, (start, end) in zip(made, pairwise(bounds), strict=True):
        frame[tuple(place[start:end] for place in places)] = 1
    return made


def merged(sensor: tuple[int, ...], merge: int) -> tuple[int, ...]:
    """A sensor's shape with so many pixels along each side seen as one; polarities stay apart."""
    return (*sensor[:-2], *(side // merge for side in sensor[-2:]))
