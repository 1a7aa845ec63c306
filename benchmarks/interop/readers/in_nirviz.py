# /// script
# requires-python = "==3.11.*"
# dependencies = ["nirviz==0.1.5", "nir==1.0.8"]
# ///
"""Draw a .nir file with nirviz, as its command line calls it: all nodes and edges are in the graph for Graphviz."""

from typing import Any

import nir
import nirviz
from comparison import Case, main


def run(case: Case) -> Any:
    graph = nir.read(case.file)
    lines = nirviz.visualize(case.file, orientation="horizontal").viz_graph.body
    edges = [line for line in lines if "->" in line]
    assert len(edges) == len(graph.edges)
    assert len(lines) - len(edges) == len(graph.nodes)
    return {"reads": f"{len(graph.nodes)} nodes, {len(edges)} edges", "is_equal": True}


if __name__ == "__main__":
    main(run)
