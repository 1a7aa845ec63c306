"""The metrics of an evaluation by NeuroBench's own code, on the spikes that the emulator recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from paper import in_integers, layer_of

from neurodeploy.ir.graph import INPUT, Connection
from neurodeploy.ir.quantized import QuantizedConv, QuantizedLayer, QuantizedNetwork
from neurodeploy.pipeline.evaluation import evaluate
from neurodeploy.targets.simulate import simulate
from neurodeploy.training.encoders import decide, simulator_spikes
from neurodeploy.training.options import FitOptions

pytest.importorskip("neurobench", reason="it is not among what the tests install; .ci/run brings its code")


class Population(torch.nn.Module):
    """Where NeuroBench counts spikes."""

    def forward(self, spikes: torch.Tensor) -> torch.Tensor:
        return spikes


class Recorded(torch.nn.Module):
    """A chain whose layers say what the emulator recorded of them."""

    def __init__(self, network: QuantizedNetwork, spikes: list[torch.Tensor], populations: int) -> None:
        super().__init__()
        self.synapses = torch.nn.ModuleList([module_of(layer) for layer in network])
        self.populations = torch.nn.ModuleList([Population() for _ in range(populations)])
        self.spikes = spikes

    def forward(self, answers: torch.Tensor) -> torch.Tensor:
        for t in range(self.spikes[0].shape[-1]):
            for synapses, into in zip(self.synapses, self.spikes, strict=False):
                flat = isinstance(synapses, torch.nn.Linear)
                synapses(into[..., t].flatten(1) if flat else into[..., t])
            for population, fired in zip(self.populations, self.spikes[1:], strict=False):
                population(fired[..., t])
        return answers


def module_of(layer: QuantizedLayer) -> torch.nn.Module:
    synapse = layer.connections[0].synapse
    weight = torch.from_numpy(synapse.weight.astype(np.float32))
    if isinstance(synapse, QuantizedConv):
        f, c, *kernel = synapse.weight.shape
        module: torch.nn.Module = torch.nn.Conv2d(
            c * synapse.groups, f, kernel, synapse.stride, synapse.padding, synapse.dilation, synapse.groups, bias=False
        )
    else:
        module = torch.nn.Linear(synapse.n_in, synapse.n_out, bias=False)
    module.weight = torch.nn.Parameter(weight)
    return module


def network() -> QuantizedNetwork:
    """A convolution with padding, stride and groups, two dense layers with zeros, the last of which never fires."""
    rng = np.random.default_rng(0)
    window = QuantizedConv(
        weight=2 * rng.integers(-3, 5, (4, 1, 3, 2)),
        weight_bits=8,
        input_shape=(2, 7, 6),
        stride=(2, 1),
        padding=(1, 2),
        groups=2,
    )
    first = in_integers(layer_of(np.zeros((1, 84), dtype=int), name="first", vth=8, du=3000, dv=500)).layers[0]
    image = QuantizedLayer(
        name="first", shape=window.output_shape, neuron=first.neuron, bias=first.bias, scale=first.scale,
        connections=(Connection(source=INPUT, synapse=window),),
    )  # fmt: skip
    middle = layer_of(2 * rng.integers(-2, 4, (20, window.n_out)), name="middle", source="first", vth=9, du=3000, dv=500)
    last = layer_of(2 * rng.integers(-2, 3, (5, 20)), name="last", source="middle", dv=500)
    return QuantizedNetwork(input_shape=(2, 7, 6), layers=(image, middle, last))


@pytest.mark.parametrize("encoder", ["rate", "direct"])
def test_metrics_are_those_of_neurobench(encoder: str) -> None:
    """Of spikes, which are accumulated, and of input in levels, which is multiplied first."""
    from neurobench.metrics.static.connection_sparsity import ConnectionSparsity
    from neurobench.metrics.static.footprint import Footprint
    from neurobench.metrics.workload import ActivationSparsity, ClassificationAccuracy, SynapticOperations
    from neurobench.models import TorchModel

    quantized, rng = network(), np.random.default_rng(1)
    labels, images = rng.integers(0, 5, 6), rng.random((6, *quantized.input_shape))
    given = simulator_spikes(images, 9, encoder)
    record = simulate(quantized, given, record="all", graded=encoder == "direct")
    assert record.spikes["middle"].sum() > 50
    data = [(torch.from_numpy(images), torch.from_numpy(labels))]
    ours = evaluate(quantized, data, FitOptions(n_steps=9, encoder=encoder))
    assert (ours.synaptic_operations["Effective_MACs"] > 0) == (encoder == "direct")

    trains = [torch.from_numpy(array.astype(np.float32)) for array in (given, *record.spikes.values())]
    answers = torch.from_numpy(decide(record.v["last"], "max"))
    model = TorchModel(Recorded(quantized, trains, populations=2))
    model.add_activation_module(Population)
    model.register_hooks()
    pairs = (trains[0], torch.from_numpy(labels))
    said = model(answers)
    assert ours.classification_accuracy == pytest.approx(ClassificationAccuracy()(model, said, pairs))
    assert ours.activation_sparsity == pytest.approx(ActivationSparsity()(model, said, pairs))
    assert ours.synaptic_operations == pytest.approx(SynapticOperations()(model, said, pairs))
    assert ours.connection_sparsity == pytest.approx(ConnectionSparsity()(model), abs=1e-4)
    for module in model.net.synapses:
        module.weight = torch.nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    assert ours.footprint == Footprint()(model)
