# /// script
# requires-python = "==3.11.*"
# dependencies = ["snn-mlir==1.0.0", "nir==1.0.8", "numpy"]
# ///
"""Check a .nir file with `snn-mlir check` and generate code with `snn-mlir codegen`; its compiler is on no package registry."""

from typing import Any

import numpy as np
import snn_mlir
from comparison import Case, main


def run(case: Case) -> Any:
    report = snn_mlir.check(case.file)
    assert report.ok, report.errors[0].message
    folder = case.folder / "codegen"
    folder.mkdir()
    (folder / case.file.name).write_bytes(case.file.read_bytes())
    sample = case.given[0].reshape(-1, case.given.shape[-1]).T
    np.savetxt(folder / "input.csv", sample, fmt="%d", delimiter=",")
    build = snn_mlir.codegen_folder(folder)
    return {"reads": f"code of {sum(len(path.read_text().splitlines()) for path in build.iterdir()):,} lines"}


if __name__ == "__main__":
    main(run)
