# /// script
# requires-python = "==3.10.*"
# dependencies = ["xylosim==0.1.3", "numpy<2"]
# ///
"""Run a Xylo specification, .npz and .json, in SynSense's XyloSim; its shapes are those of rockpool's specifications."""

import json
from typing import Any

import numpy as np
from comparison import LATEST, Case, main
from xylosim.v2 import XyloLayer, XyloSynapse


def run(case: Case) -> Any:
    with np.load(case.file) as file:
        arrays = {name: array.tolist() for name, array in file.items() if "/" not in name}
    assert json.loads(case.file.with_suffix(".json").read_text()) == arrays
    return np.stack([one_sample(arrays, sample) for sample in case.given])


def one_sample(arrays: dict[str, Any], sample: Any) -> Any:
    """Spikes of the readout; each hidden layer takes a step more."""
    lists = {
        f"synapses_{memory}": [[XyloSynapse(k, 0, w) for k, w in enumerate(row) if w] for row in arrays[f"weights_{memory}"]]
        for memory in ("in", "rec", "out")
    }
    layer = XyloLayer(
        **lists, aliases=[[] for _ in arrays["threshold"]], threshold=arrays["threshold"], threshold_out=arrays["threshold_out"],
        has_bias=False, bias=[0] * len(arrays["threshold"]), bias_out=[0] * len(arrays["threshold_out"]),
        weight_shift_inp=arrays["weight_shift_in"], weight_shift_rec=arrays["weight_shift_rec"],
        weight_shift_out=arrays["weight_shift_out"], dash_mem=arrays["dash_mem"], dash_mem_out=arrays["dash_mem_out"],
        dash_syns=[[d, 1] for d in arrays["dash_syn"]], dash_syns_out=[[d] for d in arrays["dash_syn_out"]], name="case",
    )  # fmt: skip
    spikes = np.array(layer.evolve(np.pad(sample, [(0, 0), (0, LATEST)]).T.tolist())).T
    del layer  # it points to its synapses, which have to live as long
    return spikes


if __name__ == "__main__":
    main(run)
