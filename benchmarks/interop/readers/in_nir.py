# /// script
# requires-python = "==3.11.*"
# dependencies = ["nir==1.0.8", "numpy"]
# ///
"""Read a .nir file with nir itself, all its checks on, and write it again: the same nodes, edges and numbers."""

from typing import Any

import nir
import numpy as np
from comparison import Case, main


def run(case: Case) -> Any:
    graph = nir.read(case.file)
    again = case.folder / "again.nir"
    nir.write(again, graph)
    same = nir.read(again)
    assert graph.nodes.keys() == same.nodes.keys()
    assert sorted(graph.edges) == sorted(same.edges)
    numbers = 0
    for name, node in graph.nodes.items():
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray):
                np.testing.assert_array_equal(value, getattr(same.nodes[name], key))
                numbers += value.size
    return {"reads": f"{len(graph.nodes)} nodes, {numbers:,} numbers", "is_equal": True}


if __name__ == "__main__":
    main(run)
