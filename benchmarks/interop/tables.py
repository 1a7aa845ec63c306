"""Tables of the rows of `benchmarks.interop`, in docs/interop.md and in README.md; a test compares them with the rows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "benchmarks/results/interop.jsonl"
DOCS = ROOT / "docs/interop.md"
MARK = re.compile(r"(?<=<!-- interop -->\n).*?(?=\n<!-- /interop -->)", re.DOTALL)
FILES = {".nir": "NIR file", ".net": "Lava's netx file", ".npz": "Xylo's specification"}
Rows = list[dict[str, Any]]


def in_docs(rows: Rows) -> str:
    """A table for each kind of file, and what each tool raised."""
    parts = []
    for suffix, title in FILES.items():
        some = [row for row in rows if row["file"] == suffix]
        nets = list(dict.fromkeys(row["net"] for row in some))
        is_nir = suffix == ".nir"
        option = " option of `write_nir` |" if is_nir else ""
        lines = [f"**{title}, `{suffix}`**", "", f"| tool | version |{option} {' | '.join(nets)} |"]
        lines.append("|---" * (lines[-1].count("|") - 1) + "|")
        for tool in tools(some):
            cells = {row["net"]: cell(row) for row in some if row["tool"] == tool}
            first = next(row for row in some if row["tool"] == tool)
            option = f" `{first['written_for']}` |" if is_nir else ""
            lines.append(f"| {tool} | {first['version']} |{option} {' | '.join(cells[net] for net in nets)} |")
        parts += ["\n".join(lines)]
    errors: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "error" in row:
            errors.setdefault((row["tool"], row["error"]), []).append(row["net"])
    lines = ["| tool | network | error |", "|---|---|---|"]
    lines += [f"| {tool} | {'; '.join(nets)} | `{error}` |" for (tool, error), nets in errors.items()]
    return "\n\n".join([*parts, "\n".join(lines)])


def tools(rows: Rows) -> list[str]:
    """Names of the tools, in the order of the rows."""
    return list(dict.fromkeys(row["tool"] for row in rows))


def cell(row: dict[str, Any]) -> str:
    """A rating, with the share of spikes in common where some differ, and the steps that the tool is late."""
    late = row.get("steps_late", 0)
    share = f" {row['in_common']:.2f}" if row["rating"] != "exact" and "in_common" in row else ""
    return row["rating"] + share + (f", {late} late" if late and row["rating"] != "no" else "")


def in_readme(rows: Rows) -> str:
    """One sentence: how many networks each tool that runs them reads exactly."""
    parts = []
    for suffix in FILES:
        runs = [row for row in rows if row["file"] == suffix and ("in_common" in row or "error" in row)]
        counts = {}
        for tool in tools(runs):
            some = [row for row in runs if row["tool"] == tool]
            counts[tool] = (sum(row["rating"] == "exact" for row in some), len(some))
        said = ", ".join(f"{tool} {k} of {n}" for tool, (k, n) in sorted(counts.items(), key=lambda item: -item[1][0]) if k)
        parts.append(f"`{suffix}` {said}")
    return f"Networks that a tool reads exactly, spike for spike: {'; '.join(parts)}."


def marked(page: str, text: str) -> str:
    """A page with the text between its marks."""
    return MARK.sub(lambda _: text, page)
