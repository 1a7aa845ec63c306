"""Lava's own time for steps of a network file: a process of its own, which tells milliseconds a step, a line a stretch.

python -m benchmarks.emulator.lava_steps MODEL.net SPIKES.npy STRETCHES STEPS SKIPPED_LAYERS
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import lava.proc.conv.utils
import numpy as np
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import RunConfig
from lava.proc.io import source

lava.proc.conv.utils.TORCH_IS_AVAILABLE = False  # torch hangs in the processes that Lava forks


class FixedPoint(RunConfig):
    """The bit-accurate model of every process."""

    def select(self, _process: Any, models: list[Any]) -> Any:
        return next((model for model in models if "fixed_pt" in model.tags), models[0])


def main(path: str, spikes_path: str, stretches: int, steps: int, skipped: int) -> None:
    """Build, warm up, run."""
    network = Network(path, skip_layers=skipped)
    spikes = np.load(spikes_path)
    if len(network.inp.shape) == 3:  # an image, which Lava has as W, H, C
        spikes = spikes.reshape(*network.inp.shape[::-1], -1).transpose(2, 1, 0, 3)
    feed = source.RingBuffer(data=spikes.reshape(*network.inp.shape, -1).astype(np.int64))
    feed.s_out.connect(network.inp)
    config = FixedPoint(custom_sync_domains=None, loglevel=logging.WARNING)
    network.run(condition=RunSteps(num_steps=max(2, steps // 4)), run_cfg=config)
    for _ in range(stretches):
        started = time.perf_counter()
        network.run(condition=RunSteps(num_steps=steps), run_cfg=config)
        print(f"ms {1e3 * (time.perf_counter() - started) / steps}", flush=True)
    network.stop()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
