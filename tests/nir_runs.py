"""NIR's equations in steps of forward Euler, node by node, as the second way to what `read_nir` and `write_nir` say."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import torch
from numpy.typing import NDArray

NEURONS = (nir.LIF, nir.CubaLIF, nir.IF, nir.LI, nir.CubaLI, nir.I, nir.Threshold)
READ = (nir.LI, nir.CubaLI, nir.I)


def run_nir(graph: nir.NIRGraph, spikes: NDArray[np.uint8], dt: float) -> dict[str, NDArray[Any]]:
    """What each node of neurons fires, or its membrane, in a graph without subgraphs: (batch, *shape, n_steps)."""
    run = _Run(graph, dt)
    steps = [run.step(np.asarray(spikes[..., t], dtype=np.float64)) for t in range(spikes.shape[-1])]
    return {name: np.stack([step[name] for step in steps], axis=-1) for name in steps[0]}


class _Run:
    def __init__(self, graph: nir.NIRGraph, dt: float) -> None:
        self.graph, self.dt = graph, dt
        self.i: dict[str, Any] = {}
        self.v: dict[str, Any] = {}
        self.said: dict[str, Any] = {}
        self.lines: dict[str, list[Any]] = {}

    def step(self, given: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        self.given, self.now, self.busy = given, {}, set()
        names = [name for name, node in self.graph.nodes.items() if isinstance(node, NEURONS)]
        answers = {name: self.value(name) for name in names}
        self.said = dict(answers)
        return answers

    def value(self, name: str) -> Any:
        node = self.graph.nodes[name]
        if name in self.now:
            return self.now[name]
        if isinstance(node, nir.Input):
            return self.given
        if name in self.busy:  # it hears itself: what it fired before
            return self.said.get(name, np.zeros((len(self.given), *np.shape(node.r))))
        self.busy.add(name)
        arriving = sum(self.value(source) for source, target in self.graph.edges if target == name)
        self.busy.discard(name)
        out = self.answer(name, node, arriving) if isinstance(node, NEURONS) else self.passed(name, node, arriving)
        if not self.busy:
            self.now[name] = out
        return out

    def answer(self, name: str, node: Any, x: Any) -> Any:
        if isinstance(node, nir.Threshold):
            return (x > node.threshold).astype(float)
        leak = getattr(node, "v_leak", 0.0)
        rest = getattr(node, "v_reset", leak)
        v = self.v.get(name, rest + 0 * x)
        if isinstance(node, (nir.CubaLIF, nir.CubaLI)):
            i = self.i.get(name, 0 * x)
            self.i[name] = i + self.dt / node.tau_syn * (node.w_in * x - i)
            v = v + self.dt / node.tau_mem * (leak - v + node.r * self.i[name])
        elif isinstance(node, (nir.IF, nir.I)):
            v = v + self.dt * node.r * x
        else:
            v = v + self.dt / node.tau * (leak - v + node.r * x)
        if isinstance(node, READ):
            self.v[name] = v
            return v
        fired = v > node.v_threshold
        self.v[name] = np.where(fired, rest, v)
        return fired.astype(float)

    def passed(self, name: str, node: Any, x: Any) -> Any:
        wiring: dict[str, Any]
        match node:
            case nir.Output():
                return x
            case nir.Linear():
                return x @ node.weight.T
            case nir.Affine():
                return x @ node.weight.T + node.bias
            case nir.Conv2d():
                wiring = {"stride": _pair(node.stride), "dilation": _pair(node.dilation)}
                wiring["padding"] = node.padding if isinstance(node.padding, str) else _pair(node.padding)
                weights = (torch.tensor(np.asarray(array, dtype=float)) for array in (node.weight, node.bias))
                return torch.conv2d(torch.tensor(x), *weights, groups=int(node.groups), **wiring).numpy()
            case nir.Conv1d():
                wiring = {key: int(getattr(node, key)) for key in ("stride", "padding", "dilation", "groups")}
                return torch.conv1d(torch.tensor(x), torch.tensor(node.weight), torch.tensor(node.bias), **wiring).numpy()
            case nir.AvgPool2d() | nir.SumPool2d():
                kernel = _pair(node.kernel_size)
                mean = torch.nn.functional.avg_pool2d(torch.tensor(x), kernel, _pair(node.stride), _pair(node.padding)).numpy()
                return mean * (kernel[0] * kernel[1] if isinstance(node, nir.SumPool2d) else 1)
            case nir.Flatten():
                return torch.tensor(x).flatten(int(node.start_dim) + 1, int(node.end_dim)).numpy()
            case nir.Scale():
                return x * node.scale
            case nir.Delay():
                return self.delayed(name, node, x)
        raise AssertionError(node)

    def delayed(self, name: str, node: nir.Delay, x: Any) -> Any:
        line = self.lines.setdefault(name, [])
        line.append(x)
        late = np.broadcast_to(np.rint(node.delay / self.dt).astype(int), x.shape[1:])
        out = np.zeros_like(x)
        for d in np.unique(late):
            if d < len(line):
                out = np.where(late == d, line[-1 - d], out)
        return out


def _pair(value: Any) -> tuple[int, int]:
    rows, columns = np.broadcast_to(np.reshape(value, -1), 2)
    return int(rows), int(columns)
