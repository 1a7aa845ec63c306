# /// script
# requires-python = "==3.10.*"
# dependencies = ["lava-dl==0.6.0", "lava-nc==0.10.0", "torch<2.4", "numpy<2", "setuptools<81"]
# ///
"""Read a .net file with lava-dl's netx and run it in Lava's fixed-point simulator."""

from typing import Any

import numpy as np
from comparison import LATEST, Case, main
from lava.lib.dl.netx.hdf5 import Network
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source


def run(case: Case) -> Any:
    return np.stack([one_sample(str(case.file), sample) for sample in case.given])


def one_sample(path: str, sample: Any) -> Any:
    """Spikes of the last layer; images are W, H, C in Lava. Each layer takes a step more."""
    data = np.pad(sample, [(0, 0)] * (sample.ndim - 1) + [(0, LATEST)]).astype(np.int32)
    network = Network(net_config=path, skip_layers=1)  # the file's own input block has no port
    source = Source(data=np.moveaxis(data, (0, 1, 2), (2, 1, 0)) if data.ndim == 4 else data)
    sink = Sink(shape=network.out.shape, buffer=data.shape[-1])
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    network.run(condition=RunSteps(num_steps=data.shape[-1]), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    spikes = sink.data.get()
    network.stop()
    return spikes


if __name__ == "__main__":
    main(run)
