"""How a benchmark tells a row: on the screen, and as a line of JSON with the commit that it was measured at."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


def append(row: dict[str, Any], path: Path | None) -> None:
    """Print a row, and add it to a file of them, with the commit if it does not say."""
    print(
        ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()),
        flush=True,
    )
    if path is not None:
        with path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row if "commit" in row else row | {"commit": commit()}) + "\n")


def rows(path: Path | None) -> list[dict[str, Any]]:
    """The rows of a file; none if it is not there yet."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path is not None and path.exists() else []
    )


def commit() -> str:
    """The commit that is checked out."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
