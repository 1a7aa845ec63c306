# /// script
# requires-python = "==3.11.*"
# dependencies = ["rockpool==3.1.0", "nir==1.0.8", "nirtorch==2.6", "torch==2.15.0", "numpy"]
# ///
"""Read a .nir file with Rockpool's `from_nir` and run it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comparison import Case, main
from rockpool.nn.modules.torch.nir import from_nir


def run(case: Case) -> Any:
    model, state, steps = from_nir(case.file), None, []
    with torch.no_grad():
        for x in case.steps():
            spikes, state = model(torch.from_numpy(x[:, None]), state)
            steps.append(spikes.numpy()[:, 0])
    return np.stack(steps, axis=-1)


if __name__ == "__main__":
    main(run)
