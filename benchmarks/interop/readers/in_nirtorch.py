# /// script
# requires-python = "==3.11.*"
# dependencies = ["nirtorch==2.6", "nir==1.0.8", "torch==2.15.0", "numpy"]
# ///
"""Make a torch module of a .nir file with NIRTorch, which leaves neurons to its callers: here, a step of forward Euler each."""

from typing import Any

import nir
import nirtorch
import numpy as np
import torch
from comparison import Case, main, run_torch

DT = 1.0


class Euler(torch.nn.Module):
    """A node of neurons: dt / tau * (v_leak - v + r * x), and a reset to v_reset."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        ones = np.ones_like(node.v_threshold)
        tau_mem = getattr(node, "tau", getattr(node, "tau_mem", None))
        numbers = {
            "leak": 0 * ones if tau_mem is None else DT / tau_mem,
            "gain": DT * node.r if tau_mem is None else DT / tau_mem * node.r,
            "v_leak": getattr(node, "v_leak", 0 * ones), "v_threshold": node.v_threshold, "v_reset": node.v_reset,
            "lost": DT / getattr(node, "tau_syn", DT * ones), "w_in": getattr(node, "w_in", ones),
        }  # fmt: skip
        self.p = {name: torch.as_tensor(np.asarray(value), dtype=torch.float32) for name, value in numbers.items()}

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        p = self.p
        i, v = (torch.zeros_like(p["v_reset"]), p["v_reset"]) if state is None else state
        i = i + p["lost"] * (p["w_in"] * x - i)
        v = v + p["leak"] * (p["v_leak"] - v) + p["gain"] * i
        fired = v > p["v_threshold"]
        return fired.float(), (i, torch.where(fired, p["v_reset"], v))


def run(case: Case) -> Any:
    neurons = dict.fromkeys((nir.LIF, nir.CubaLIF, nir.IF), Euler)
    return run_torch(lambda: nirtorch.nir_to_torch(nir.read(case.file), neurons).float(), case, batched=False)


if __name__ == "__main__":
    main(run)
