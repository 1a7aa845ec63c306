# /// script
# requires-python = "==3.10.*"
# dependencies = ["brian2-loihi==0.5.2", "h5py", "numpy"]
# ///
"""Run the integers of a .net file in Brian2Loihi, which has no reader of its own: dense layers without biases or recurrence."""

from itertools import count
from typing import Any

import h5py
import numpy as np
from brian2 import prefs
from brian2_loihi import LoihiNetwork, LoihiNeuronGroup, LoihiSpikeGeneratorGroup, LoihiSpikeMonitor, LoihiSynapses
from comparison import LATEST, Case, main

MIXED = 1


def layers_of(path: Any) -> list[dict[str, Any]]:
    """Weights and registers of the layers of a file."""
    layers = []
    with h5py.File(path) as file:
        for index in count(1):
            if f"layer/{index}" not in file:
                return layers
            layer = file[f"layer/{index}"]
            kind = np.asarray(layer["type"]).item()
            assert kind in (b"dense", "dense"), f"no layer of type {kind.decode()} in Brian2Loihi"
            assert "bias" not in layer, "no bias in Brian2Loihi"
            registers = {key: int(np.unique(layer[f"neuron/{key}"][()])[0]) for key in ("vThMant", "iDecay", "vDecay")}
            layers.append({"weight": layer["weight"][()], **registers})
    raise AssertionError


def run(case: Case) -> Any:
    prefs.codegen.target = "numpy"
    layers = layers_of(case.file)
    return np.stack([one_sample(layers, sample) for sample in case.given])


def one_sample(layers: list[dict[str, Any]], sample: Any) -> Any:
    """Spikes of the last layer; each layer takes a step more."""
    indices, times = np.nonzero(sample)
    source: Any = LoihiSpikeGeneratorGroup(len(sample), indices, times)
    parts = [source]
    for layer in layers:
        weight = layer["weight"].astype(int)
        group = LoihiNeuronGroup(len(weight), threshold_v_mant=layer["vThMant"], decay_v=layer["vDecay"], decay_I=layer["iDecay"])
        synapses = LoihiSynapses(source, group, sign_mode=MIXED, num_weight_bits=8)
        synapses.connect()
        synapses.w = weight.T.reshape(-1)
        parts += [group, synapses]
        source = group
    monitor = LoihiSpikeMonitor(source)
    LoihiNetwork(*parts, monitor).run(sample.shape[-1] + LATEST)
    spikes = np.zeros((len(layers[-1]["weight"]), sample.shape[-1] + LATEST))
    spikes[np.asarray(monitor.i), np.asarray(monitor.t).astype(int)] = 1
    return spikes


if __name__ == "__main__":
    main(run)
