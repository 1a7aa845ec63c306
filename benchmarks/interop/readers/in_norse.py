# /// script
# requires-python = "==3.11.*"
# dependencies = ["norse==1.1.0", "nir==1.0.8", "nirtorch==2.6", "torch==2.15.0", "numpy"]
# ///
"""Read a .nir file with Norse's `from_nir` and run it, without a batch, as the file's shapes are."""

from typing import Any

import nir
import norse.torch
from comparison import Case, main, run_torch


def run(case: Case) -> Any:
    return run_torch(lambda: norse.torch.from_nir(nir.read(case.file)), case, batched=False)


if __name__ == "__main__":
    main(run)
