"""Tries every tool on every network: ``python -m benchmarks.interop --out benchmarks/results/interop.jsonl``.

With ``--docs`` it tries nothing, and writes the tables in docs/interop.md from the rows.

A reader is a script that names its packages, with versions; uv makes an environment of its own for each. A row is exact where
every spike is equal, or where a tool that runs nothing has every node; approximate where at least half of the spikes are
in common; reads where a tool takes the file and nothing could be compared; else no, with the line that it raised.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.interop.cases import FLOATS, INTEGERS, write_case
from benchmarks.interop.tables import DOCS, in_docs, marked
from benchmarks.placement.rows import append, commit, rows
from neurodeploy.targets.simulator_process import uv_command

READERS = Path(__file__).parent / "readers"
APPROXIMATE = 0.5
"""Least share of spikes in common of a tool that reads a network approximately."""


@dataclass(frozen=True)
class Tool:
    """A tool: its name, its script, the file that it reads, and the options of `write_nir` that it is written with.

    The first requirement of the script is the tool's, with the version that is tried.
    """

    name: str
    script: str
    file: str = "model.nir"
    dt: float | None = None
    library: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Options of `write_nir`."""
        return {key: value for key, value in (("dt", self.dt), ("library", self.library)) if value is not None}

    @property
    def written_for(self) -> str:
        """The same as code."""
        return ", ".join(f"{key}={value!r}" for key, value in self.options.items())

    def version(self) -> str:
        found = re.search(r'# dependencies = \["[\w-]+==([\w.]+)"', (READERS / self.script).read_text(encoding="utf-8"))
        assert found, self.script
        return found[1]


TOOLS = (
    Tool("nir", "in_nir.py", dt=0.001), Tool("nirviz", "in_nirviz.py", dt=0.001), Tool("NIRTorch", "in_nirtorch.py", dt=1.0),
    Tool("SpikingJelly", "in_spikingjelly.py", library="spikingjelly"), Tool("snnTorch", "in_snntorch.py", library="snntorch"),
    Tool("Norse", "in_norse.py", library="norse"), Tool("sinabs", "in_sinabs.py", dt=1.0),
    Tool("Rockpool", "in_rockpool.py", dt=0.001),
    Tool("Spyx", "in_spyx.py", dt=1.0), Tool("snn-mlir", "in_snn_mlir.py", dt=1.0), Tool("Lava", "in_lava.py", "model.net"),
    Tool("Brian2Loihi", "in_brian2_loihi.py", "model.net"), Tool("XyloSim", "in_xylosim.py", "model.npz"),
)  # fmt: skip


def networks(file: str) -> tuple[str, ...]:
    """Names of the networks that are written as a file."""
    return {"model.nir": tuple(FLOATS), "model.net": INTEGERS}.get(file, ("Xylo",))


def uv(*command: str) -> subprocess.CompletedProcess[str]:
    """Run uv, for a Python that finds none of this one's modules."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*uv_command(), *command], env=environment, capture_output=True, text=True, timeout=1200)


def tried(tool: Tool, net: str, folder: Path) -> dict[str, Any]:
    """Write a network, hand it to a tool, and return the row."""
    write_case(folder, net, tool.file, tool.options)
    done = uv("run", "--quiet", "--no-project", "--script", str(READERS / tool.script), str(folder))
    row = {"tool": tool.name, "version": tool.version(), "file": Path(tool.file).suffix, "written_for": tool.written_for}
    row["net"] = net
    if done.returncode:
        return row | {"rating": "no", "error": done.stderr.strip().splitlines()[-1][:160]}
    found = json.loads(done.stdout.splitlines()[-1])
    return row | {"rating": rating(found)} | found


def rating(found: dict[str, Any]) -> str:
    """What a row says of a tool that took the file."""
    if "in_common" not in found:
        return "exact" if found.pop("is_equal", False) else "reads"
    return "exact" if found["in_common"] == 1 else "approximate" if found["in_common"] >= APPROXIMATE else "no"


def main() -> None:
    """Try the tools that are asked for; their rows take the place of those before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="TOOL", help="names of tools; by default all")
    parser.add_argument("--out", type=Path, help="file of rows, each a line of JSON")
    parser.add_argument("--docs", action="store_true", help=f"write the tables in {DOCS.name} from the rows, and try nothing")
    options = parser.parse_args()
    if options.docs:
        page = DOCS.read_text(encoding="utf-8")
        DOCS.write_text(marked(page, in_docs(rows(options.out))), encoding="utf-8")
        return
    asked = [tool for tool in TOOLS if not options.only or tool.name in options.only]
    before, at = [row for row in rows(options.out) if row["tool"] not in {tool.name for tool in asked}], commit()
    with tempfile.TemporaryDirectory() as scratch:
        new = []
        for tool in asked:
            installed = uv("sync", "--script", str(READERS / tool.script))
            if installed.returncode:  # says nothing about the tool
                raise SystemExit(f"{tool.name} {tool.version()} cannot be installed: {installed.stderr.strip()}")
            for index, net in enumerate(networks(tool.file)):
                row = tried(tool, net, Path(scratch) / f"{tool.name}{index}") | {"commit": at}
                append(row, None)
                new.append(row)
    if options.out is not None:
        order = [tool.name for tool in TOOLS]
        together = sorted([*before, *new], key=lambda row: order.index(row["tool"]))
        options.out.write_text("".join(f"{json.dumps(row)}\n" for row in together), encoding="utf-8")


if __name__ == "__main__":
    main()
