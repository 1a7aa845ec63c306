"""Files that are changed at random are read, or refused in one line, in seconds; see benchmarks/fuzz.py."""

from __future__ import annotations

import secrets

import pytest

from benchmarks.fuzz import FORMATS, LIMIT_S, MAX_MEMORY_BYTES, fuzz
from benchmarks.hostile import CORPUS


def check(name: str, n_files: int, seed: int) -> None:
    found = fuzz(name, n_files, seed)
    assert not found.broken, f"seed {seed}: {[outcome for outcome, _ in found.broken][:3]}"
    assert found.outcomes.total() == n_files + len(CORPUS.get(name, {}))
    assert found.outcomes["refused"]
    assert found.slowest_s < LIMIT_S
    assert found.memory_bytes < MAX_MEMORY_BYTES


@pytest.mark.parametrize("name", FORMATS)
def test_changed_files_are_read_or_refused(name: str) -> None:
    check(name, 40, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_thousands_of_changed_files_are_read_or_refused(name: str) -> None:
    check(name, 1250, seed=secrets.randbits(32))
