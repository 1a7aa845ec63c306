# /// script
# requires-python = "==3.11.*"
# dependencies = ["sinabs==3.1.3", "torch==2.15.0", "numpy"]
# ///
"""Read a .nir file with sinabs' `from_nir` and run it."""

from __future__ import annotations

from typing import Any

import nir
import numpy as np
import torch
from comparison import Case, main
from sinabs.nir import from_nir


def run(case: Case) -> Any:
    batch, n_steps = len(case.given), case.given.shape[-1]
    model = from_nir(nir.read(case.file), batch_size=batch)
    frames = np.moveaxis(case.given, -1, 1).astype(np.float32)
    with torch.no_grad():
        out = model(torch.from_numpy(frames.reshape(-1, *frames.shape[2:])))
    spikes = (out[0] if isinstance(out, tuple) else out).numpy()
    return np.moveaxis(spikes.reshape(batch, n_steps, -1), 1, -1)


if __name__ == "__main__":
    main(run)
