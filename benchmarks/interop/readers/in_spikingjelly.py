# /// script
# requires-python = "==3.11.*"
# dependencies = ["spikingjelly==2.0.0", "nir==1.0.8", "nirtorch==2.6", "torch==2.15.0", "numpy"]
# ///
"""Read a .nir file with SpikingJelly's `import_from_nir` and run it."""

from typing import Any

from comparison import Case, main, run_torch
from spikingjelly.activation_based.nir_exchange import import_from_nir


def run(case: Case) -> Any:
    return run_torch(lambda: import_from_nir(case.file), case)


if __name__ == "__main__":
    main(run)
