# /// script
# requires-python = "==3.11.*"
# dependencies = ["spyx==1.0.0", "nir==1.0.8", "numpy"]
# ///
"""Read a .nir file with Spyx's `from_nir`, which runs it; Spyx has channels last."""

from typing import Any

import nir
import numpy as np
from comparison import Case, main
from spyx.nir import from_nir


def run(case: Case) -> Any:
    steps = np.moveaxis(case.given, -1, 0).astype(np.float32)
    _, spikes = from_nir(nir.read(case.file), np.moveaxis(steps, 2, -1) if steps.ndim == 5 else steps, dt=case.dt)
    return np.moveaxis(np.asarray(spikes), 0, -1)


if __name__ == "__main__":
    main(run)
