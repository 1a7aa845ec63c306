"""The paper's 2FC network, 784-800-10, for MNIST: a model for ``neurodeploy compress``, a factory a seed.

neurodeploy compress benchmarks/mnist.py:seed0 --target loihi1 --cores 2 --data mnist:FILE.npz --seed 0 \\
    --steps 8 --readout mean --learning-rate 0.003 --epochs 8 4 4 --out mnist-0
"""

from __future__ import annotations

import torch
from norse.torch import LICell, LIFCell, LIFParameters, SequentialState
from norse.torch.functional.leaky_integrator import LIParameters


def network(seed: int) -> SequentialState:
    """784-800-10, LIF and a leaky readout, no biases; membranes of 1 ms, synapses of 1.4 ms, steps of 1 ms."""
    torch.manual_seed(seed)
    fast = {"tau_syn_inv": torch.tensor(700.0), "tau_mem_inv": torch.tensor(1000.0)}
    return SequentialState(
        torch.nn.Linear(784, 800, bias=False),
        LIFCell(LIFParameters(**fast, v_th=torch.tensor(0.3))),
        torch.nn.Linear(800, 10, bias=False),
        LICell(LIParameters(**fast)),
    )


def seed0() -> SequentialState:
    """Seed 0."""
    return network(0)


def seed1() -> SequentialState:
    """Seed 1."""
    return network(1)


def seed2() -> SequentialState:
    """Seed 2."""
    return network(2)
