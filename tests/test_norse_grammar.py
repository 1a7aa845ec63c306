"""Modules drawn over all that a forward may do between its neurons answer as the networks that are read of them do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from norse.torch import IAFCell, LIBoxCell, LICell, LIFBoxCell, LIFCell, LIFParameters
from norse.torch.functional.leaky_integrator import LIParameters
from norse.torch.functional.leaky_integrator_box import LIBoxParameters
from norse.torch.functional.lif_box import LIFBoxParameters
from norse_runs import answers
from strategies import spikes_into
from torch import nn
from torch.nn import functional as F  # noqa: N812  (as everybody calls it)

from neurodeploy.frontends.torch.extract import extract
from neurodeploy.simulation.layer_schedule import run_reference


@dataclass(frozen=True)
class Stage:
    """One population: a window over what it hears, what else joins its currents, and what becomes of its spikes."""

    kernel: int
    groups: int
    bias: bool
    normal: bool
    cell: str
    shortcut: bool
    """A second window over what the stage before heard, where sizes allow."""
    back: bool
    """Hears itself, a step later, by hand."""
    late: bool
    """Hears the stage before a step later than it fires."""
    joins: str
    """How its spikes meet those that it heard: "", "add" or "cat"."""
    pool: str
    factor: float


stages = st.builds(
    Stage, kernel=st.sampled_from([1, 3]), groups=st.sampled_from([1, 2]), bias=st.booleans(), normal=st.booleans(),
    cell=st.sampled_from(["lif", "box", "iaf"]), shortcut=st.booleans(), back=st.booleans(), late=st.booleans(),
    joins=st.sampled_from(["", "add", "cat"]), pool=st.sampled_from(["", "max", "average", "sum"]),
    factor=st.sampled_from([1.0, 0.5, -2.0]),
)  # fmt: skip


def cell(kind: str) -> nn.Module:
    rates = {"tau_mem_inv": torch.tensor(300.0, dtype=torch.float64)}
    if kind == "lif":
        return LIFCell(LIFParameters(**rates, tau_syn_inv=torch.tensor(400.0, dtype=torch.float64)))
    return LIFBoxCell(LIFBoxParameters(**rates)) if kind == "box" else IAFCell()


def readout(*, has_current: bool) -> nn.Module:
    rate = torch.tensor(300.0, dtype=torch.float64)
    return (
        LICell(LIParameters(tau_mem_inv=rate, tau_syn_inv=rate)) if has_current else LIBoxCell(LIBoxParameters(tau_mem_inv=rate))
    )


class Drawn(nn.Module):
    """A forward that does what its stages say; all state, and spikes that are heard late, pass through one tuple."""

    def __init__(self, plan: list[Stage], channels: int, side: int, seed: int) -> None:
        super().__init__()
        self.plan = plan
        for k, stage in enumerate(plan):
            out = 2 * channels if stage.groups == 1 else channels
            pad = stage.kernel // 2
            groups = stage.groups if channels % stage.groups == 0 and out % stage.groups == 0 else 1
            self.add_module(f"conv{k}", nn.Conv2d(channels, out, stage.kernel, padding=pad, groups=groups, bias=stage.bias))
            self.add_module(f"norm{k}", nn.BatchNorm2d(out) if stage.normal else nn.Identity())
            self.add_module(f"short{k}", nn.Conv2d(channels, out, 1, bias=False))
            self.add_module(f"back{k}", nn.Conv2d(out, out, 1, bias=False))
            self.add_module(f"cell{k}", cell(stage.cell))
            channels = self.joined(stage, channels, out)
            side = side // 2 if self.pooled(stage, side) else side
        self.fc, self.out = nn.Linear(channels * side * side, 3), readout(has_current=plan[0].bias)
        rng = np.random.default_rng(seed)
        self.double().eval()
        for parameter in self.parameters():
            parameter.data = torch.as_tensor(rng.normal(0.2, 0.7, tuple(parameter.shape)))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean = torch.as_tensor(rng.normal(0, 1, module.num_features))
                module.running_var = torch.as_tensor(rng.uniform(0.5, 2, module.num_features))

    @staticmethod
    def joined(stage: Stage, heard: int, out: int) -> int:
        return heard + out if stage.joins == "cat" else out

    @staticmethod
    def pooled(stage: Stage, side: int) -> bool:
        return bool(stage.pool) and side % 2 == 0

    def forward(self, x: torch.Tensor, states: Any = None) -> Any:
        states = [(None, None, None)] * len(self.plan) + [None] if states is None else states
        after: list[Any] = []
        for k, stage in enumerate(self.plan):
            part = {name: getattr(self, f"{name}{k}") for name in ("conv", "norm", "short", "back", "cell")}
            state, own, before = states[k]
            heard = x
            if stage.late:
                heard = torch.zeros_like(x) if before is None else before
            current = part["norm"](part["conv"](heard)) * stage.factor
            if stage.shortcut:
                current = current + part["short"](x)
            if stage.back and own is not None:
                current = current + part["back"](own)
            z, state = part["cell"](current, state)
            after.append((state, z, x))
            x = self.met(stage, x, z)
        v, state = self.out(self.fc(x.flatten(1)), states[-1])
        return v, [*after, state]

    def met(self, stage: Stage, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """What the next stage hears; maxima are of spikes alone, so they come first."""
        if not self.pooled(stage, z.shape[-1]):
            return torch.cat([x, z], 1) if stage.joins == "cat" else z + x if self.adds(stage, x, z) else z
        if stage.pool == "max":
            return torch.cat([F.avg_pool2d(x, 2), F.max_pool2d(z, 2)], 1) if stage.joins == "cat" else F.max_pool2d(z, 2)
        pooled = F.avg_pool2d(torch.cat([x, z], 1) if stage.joins == "cat" else z + x if self.adds(stage, x, z) else z, 2)
        return pooled * 4 if stage.pool == "sum" else pooled

    @staticmethod
    def adds(stage: Stage, x: torch.Tensor, z: torch.Tensor) -> bool:
        return stage.joins == "add" and x.shape == z.shape


@st.composite
def models(draw: st.DrawFn) -> tuple[Drawn, tuple[int, int, int]]:
    channels, side = draw(st.sampled_from([1, 2])), draw(st.sampled_from([2, 4, 5]))
    plan = draw(st.lists(stages, min_size=1, max_size=3))
    return Drawn(plan, channels, side, draw(st.integers(0, 2**32))), (channels, side, side)


@examples(40)
@given(drawn=models(), data=st.data())
def test_a_drawn_module_answers_as_what_is_read_of_it(drawn: tuple[Drawn, tuple[int, int, int]], data: st.DataObject) -> None:
    model, shape = drawn
    network = extract(model, torch.zeros(2, *shape))
    spikes = data.draw(spikes_into(network, max_steps=8))
    record = run_reference(network, spikes)
    theirs = answers(model, torch.as_tensor(np.moveaxis(spikes, -1, 0)).double())
    np.testing.assert_allclose(record.v[network.output.name].reshape(theirs.shape), theirs, rtol=1e-9, atol=1e-9)
