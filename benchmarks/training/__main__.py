"""Steps of the ways turn by turn, and their rows. Times are of the processor, so others on the machine add little."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState

from benchmarks.emulator.timing import load
from benchmarks.mnist import network
from benchmarks.placement.rows import append
from neurodeploy.training.encoders import read_out
from neurodeploy.training.forward import run_model, spikes_of
from neurodeploy.training.options import FitOptions

BATCH, STEPS, ROUNDS = 256, 6, 40
BRIGHT = 0.19
"""Share of an MNIST image's pixels that are not black."""


class StepByStep(torch.nn.Module):
    """The same chain as its user would run it: Norse's own loop over layers, step by step."""

    def __init__(self, chain: SequentialState) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, x: torch.Tensor, state: Any) -> Any:
        return self.chain(x, state)


def convolutional(seed: int) -> SequentialState:
    """A small one for 28 x 28 pixels: 16 and 32 channels of 3 x 3, strides of 2, then 10 outputs."""
    torch.manual_seed(seed)
    lif = LIFParameters(tau_syn_inv=torch.tensor(700.0), tau_mem_inv=torch.tensor(1000.0), v_th=torch.tensor(0.3))
    return SequentialState(
        torch.nn.Conv2d(1, 16, 3, stride=2, bias=False), LIFCell(lif),
        torch.nn.Conv2d(16, 32, 3, stride=2, bias=False), LIFCell(lif),
        torch.nn.Flatten(), torch.nn.Linear(32 * 6 * 6, 10, bias=False), LICell(),
    )  # fmt: skip


def listened_to(chain: SequentialState) -> SequentialState:
    """A chain whose neurons run step by step, since somebody listens to them; weights still meet all steps at once."""
    for module in chain:
        if isinstance(module, (LIFCell, LICell)):
            module.register_forward_hook(lambda *_: None)
    return chain


def trained(make: Callable[[int], torch.nn.Module], shape: tuple[int, ...], amp: bool) -> tuple[Callable[[], None], torch.Tensor]:
    """A training step as `fit` takes it, and what the model answers."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, *shape, generator=generator)
    images *= torch.rand(BATCH, *shape, generator=generator) < BRIGHT
    target, options = torch.randint(0, 10, (BATCH,), generator=generator), FitOptions(n_steps=STEPS)
    model = make(0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            output = read_out(run_model(model, spikes_of(images, model, options)), "max")
            loss = torch.nn.functional.cross_entropy(output, target)
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        return step, run_model(model, spikes_of(images, model, options))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="What a training step takes")
    parser.add_argument("--out", type=Path, help="a file to which rows are added")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for net, make, shape in (("784-800-10", network, (784,)), ("1-16c3-32c3-10", convolutional, (1, 28, 28))):
        ways = {
            "norse": trained(lambda seed, make=make: StepByStep(make(seed)), shape, amp=False),
            "by_layer": trained(lambda seed, make=make: listened_to(make(seed)), shape, amp=False),
            "at_once": trained(make, shape, amp=False),
            "bf16": trained(make, shape, amp=True),
        }
        torch.testing.assert_close(ways["at_once"][1], ways["by_layer"][1], rtol=0, atol=0)
        torch.testing.assert_close(ways["at_once"][1], ways["norse"][1], rtol=1e-3, atol=1e-3)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, (step, _) in ways.items():
                started = time.process_time()
                step()
                taken[way].append(time.process_time() - started)
        best = {way: min(seconds) for way, seconds in taken.items()}
        middle = {way: statistics.median(seconds) for way, seconds in taken.items()}
        append({
            "table": "step", "net": net, "batch": BATCH, "steps": STEPS, "threads": arguments.threads,
            **{f"{way}_ms": round(1e3 * seconds, 2) for way, seconds in best.items()},
            **{f"{way}_over_norse": round(best[way] / best["norse"], 3) for way in ways if way != "norse"},
            **{f"{way}_over_norse_of_medians": round(middle[way] / middle["norse"], 3) for way in ways if way != "norse"},
            "load": load(),
        }, arguments.out)  # fmt: skip


main()
