"""Errors: one root, fields for tools, one sentence for people."""

from __future__ import annotations

import inspect
import pickle

import pytest

from neurodeploy import errors
from neurodeploy.errors import BudgetError, NeurodeployError

CLASSES = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if cls.__module__ == errors.__name__ and issubclass(cls, Exception)
]


def test_a_plain_error_reads_where_and_what() -> None:
    assert str(NeurodeployError("weights.pt", "no such file")) == "weights.pt: no such file."


def test_a_broken_limit_reads_need_limit_source_and_remedy() -> None:
    error = BudgetError(
        "layer 'hidden2'", "synapse bits on core 4",
        need=1_310_720, limit=1_048_576, source="loihi1.yaml: synapse_memory_bits_per_core", remedy="Prune 20 % more.",
    )  # fmt: skip
    assert str(error) == (
        "layer 'hidden2': 1,310,720 synapse bits on core 4 > 1,048,576 "
        "(loihi1.yaml: synapse_memory_bits_per_core). Prune 20 % more."
    )


def test_a_tool_can_ask_for_each_part() -> None:
    error = BudgetError("here", "cores", need=3, limit=2, source="tiny.yaml", remedy="Take another chip.")
    parts = (error.where, error.what, error.need, error.limit, error.source, error.remedy)
    assert parts == ("here", "cores", 3, 2, "tiny.yaml", "Take another chip.")


def test_need_without_limit_says_what_alone() -> None:
    assert str(NeurodeployError("here", "cores", need=3)) == "here: cores."


def test_an_error_crosses_a_process_boundary_unharmed() -> None:
    error = BudgetError("here", "cores", need=3, limit=2, remedy="Take another chip.")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_can_be_caught_by_the_root_and_is_in_the_picture(cls: type) -> None:
    assert issubclass(cls, NeurodeployError)
    assert cls.__name__ in (errors.__doc__ or "")
    assert cls.__doc__


def test_the_picture_shows_no_error_that_does_not_exist() -> None:
    drawn = {word for word in (errors.__doc__ or "").replace("-", " ").split() if word.endswith("Error")}
    assert drawn == {cls.__name__ for cls in CLASSES}
