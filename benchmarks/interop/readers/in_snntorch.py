# /// script
# requires-python = "==3.11.*"
# dependencies = ["snntorch==1.0.0", "nir==1.0.8", "nirtorch==2.6", "torch==2.15.0", "numpy"]
# ///
"""Read a .nir file with snnTorch's `import_from_nir` and run it, without a batch, as the file's shapes are."""

from typing import Any

import nir
from comparison import Case, main, run_torch
from snntorch.import_nir import import_from_nir


def run(case: Case) -> Any:
    return run_torch(lambda: import_from_nir(nir.read(case.file)), case, batched=False)


if __name__ == "__main__":
    main(run)
