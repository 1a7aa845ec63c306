"""A pruning method of the user's own, from `compress` to a deployed network; methods by name; options under their old names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import with_values
from spiking import SHORT, build, few

import neurodeploy as nd
from benchmarks.compression.methods import METHODS as BENCHMARKED
from neurodeploy.__main__ import main
from neurodeploy.compression import method_named
from neurodeploy.compression.bit_width import LayerFormat, WeightGrid
from neurodeploy.compression.minimax import MinimaxOptions
from neurodeploy.compression.pruning_method import Pruning, PruningSetup, overruns_of
from neurodeploy.compression.weight_matrices import find_layers
from neurodeploy.errors import RequestError
from neurodeploy.mapping.budget import Budget
from neurodeploy.training.batches import DataSplit


class Magnitude(Pruning):
    """Keep the largest weights of each layer: the same share of all layers, the largest that every constraint allows."""

    def __init__(self, budget: Budget, model: torch.nn.Module, _: PruningSetup) -> None:
        self.budget, self.layers = budget, find_layers(model, budget)
        self.masks = {name: torch.ones_like(layer.weight, dtype=torch.bool) for name, layer in self.layers.items()}

    @property
    def connectivity(self) -> float:
        return sum(int(mask.sum()) for mask in self.masks.values()) / sum(mask.numel() for mask in self.masks.values())

    @property
    def widths(self) -> Mapping[str, int]:
        return {part.layer: self.budget.weight_bits for part in self.budget.layers}

    def overruns(self) -> Mapping[str, float]:
        formats = {name: LayerFormat(grid=WeightGrid(width=self.widths[name])) for name in self.layers}
        return overruns_of(self.budget, self.masks, formats)

    @torch.no_grad()
    def choose(self, progress: float) -> None:
        if progress < 1:  # dense until the full budget is in force
            return
        for share in torch.linspace(1, 0.01, 100).tolist():
            for name, layer in self.layers.items():
                n = max(round(share * layer.weight.numel()), 1)
                self.masks[name] = layer.weight.abs() >= layer.weight.abs().flatten().topk(n).values[-1]
            if max(self.overruns().values()) <= 0:
                break
        self.after_step()

    @torch.no_grad()
    def after_step(self, *_: Any) -> None:
        for name, layer in self.layers.items():
            layer.weight.mul_(self.masks[name])

    def state_dict(self) -> Mapping[str, Any]:
        return {"masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        self.masks = dict(state["masks"])

    def close(self) -> None:
        self.choose(1.0)


def compressed(tmp_path: Path, method: Any, **more: Any) -> nd.Deployment:
    chip, data = with_values(nd.load_profile("loihi1"), synapse_memory_bits_per_core=3_000), few()
    split = DataSplit(train=data, test=data, input_shape=(12,), n_classes=3)
    return nd.compress(
        build(12, 70, 3), torch.zeros(1, 12), chip, split, SHORT, out=tmp_path, cores=1, method=method, lava_samples=0, **more
    )


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(Magnitude, id="toy"),
        pytest.param(BENCHMARKED["gradual"].make, id="gradual", marks=pytest.mark.slow),
        pytest.param(BENCHMARKED["lottery"].make, id="lottery"),
    ],
)
def test_another_method_goes_the_whole_way_to_the_chip(method: Any, tmp_path: Path) -> None:
    deployment = compressed(tmp_path, method, bits=4)
    assert deployment.placement.fits
    assert 0 < deployment.quantized.n_synapses < 12 * 70 + 70 * 3
    assert {layer.weight_bits for layer in deployment.quantized} == {4}
    assert nd.read_netx(tmp_path / "model.net").n_synapses == deployment.quantized.n_synapses
    assert (tmp_path / "report.html").is_file()
    assert deployment.placement.on_core(0)["synapse_memory_bits"] <= 3_000
    assert deployment.placement.cores_used == 1


def test_a_method_that_leaves_something_out_cannot_be_made() -> None:
    class Half(Pruning):
        def choose(self, progress: float) -> None: ...

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_a_method_has_a_name_or_is_a_function() -> None:
    assert method_named("minimax") is not Magnitude
    assert method_named(Magnitude) is Magnitude
    with pytest.raises(RequestError, match=r"^method: no pruning method 'maximin'\. Choose from minimax, minimax-saddle\.$"):
        method_named("maximin")


def test_an_unknown_method_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = "compress nothing:model --target loihi1 --data digits --method maximin --out"
    assert main([*command.split(), str(tmp_path)]) == 2
    assert "no pruning method 'maximin'. Choose from minimax, minimax-saddle." in " ".join(capsys.readouterr().err.split())


def test_options_of_one_method_are_refused_by_another(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^minimax: are options of 'minimax' and 'minimax-saddle'. Set others' in"):
        compressed(tmp_path, Magnitude, minimax=MinimaxOptions())


@pytest.mark.parametrize(("old", "new"), [("dread_of_rounding", "rounding_penalty"), ("form_interval", "format_interval")])
def test_an_option_under_its_old_name_works_and_says_the_new_one(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^MinimaxOptions\({old}=\.\.\.\) is now {new}=\.\.\.$"):
        options = MinimaxOptions(**{old: 7})
    assert options == MinimaxOptions(**{new: 7})
    with pytest.raises(TypeError, match=f"both '{old}' and '{new}'"):
        MinimaxOptions(**{old: 7, new: 7})
