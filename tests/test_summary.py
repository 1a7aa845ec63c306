"""`nd.summary`: a row for each module as torchinfo has it, and what its layers take of a chip; a table in a notebook."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from norse.torch import LICell, LIFCell, SequentialState
from test_notebook_tables import Cells
from torch import nn

import neurodeploy as nd
from neurodeploy.errors import ArgumentTypeError, RequestError

IMAGE = torch.zeros(1, 1, 8, 8)


def convolutional() -> SequentialState:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), LIFCell(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10, bias=False)]
    return SequentialState(*layers, LICell())


class Shared(nn.Module):
    """One cell for two populations."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.lif = nn.Linear(8, 6, bias=False), nn.Linear(6, 4, bias=False), LIFCell()

    def forward(self, x: torch.Tensor, state: Any = None) -> Any:
        a, b = state or (None, None)
        x, a = self.lif(self.first(x), a)
        x, b = self.lif(self.second(x), b)
        return x, (a, b)


def test_rows_have_shapes_parameters_and_products_of_the_modules_and_counts_of_their_layers() -> None:
    model = convolutional()
    model[0].bias.requires_grad_(False)
    seen = nd.summary(model, IMAGE, "loihi2")
    rows = list(seen.rows())
    assert [row[:6] for row in rows[:7]] == [
        ("0", "Conv2d", "6 x 6 x 6", 60, 54 * 36, "rewrite"),
        ("1", "BatchNorm2d", "6 x 6 x 6", 12, 0, "rewrite"),
        ("2", "LIFCell", "6 x 6 x 6", 0, 0, "exact"),
        ("3", "MaxPool2d", "6 x 3 x 3", 0, 0, "rewrite"),
        ("4", "Flatten", "54", 0, 0, "exact"),
        ("5", "Linear", "10", 540, 540, "exact"),
        ("6", "LICell", "10", 0, 0, "exact"),
    ]
    # counted by another command
    layers = {layer.now.layer: layer.now for layer in nd.inspect(nd.extract(model, IMAGE), "loihi2").layers}
    shown = {row[6]: row[7:] for row in rows if row[6]}
    assert shown == {
        name: (use.neurons, use.synapses, use.synapse_memory_bits, use.input_axons, use.output_axons, use.cores)
        for name, use in layers.items()
    }
    assert [(row[1], row[6]) for row in rows[7:]] == [("added", "bias")]
    assert (seen.n_parameters, seen.n_trainable) == (612, 606)
    assert sum(row[3] for row in rows if isinstance(row[3], int)) == sum(one.numel() for one in model.parameters())


def test_a_cell_of_several_populations_has_a_row_for_each() -> None:
    rows = list(nd.summary(Shared(), torch.zeros(1, 8), "tiny").rows())
    assert [(row[0], row[6], row[7]) for row in rows if row[6]] == [("lif", "first", 6), ("", "second", 4)]


def test_it_prints_itself_and_is_a_table_in_a_notebook() -> None:
    seen = nd.summary(convolutional(), IMAGE, "loihi1", cores=2)
    text = str(seen)
    assert repr(seen) == text
    assert "Parameters: 612 (612 trainable, 0 not); 2,484 products a step." in text
    assert "Now: fits. 1 of 2 cores used" in text
    html = Cells(seen._repr_html_())
    assert html.rows[0][:4] == ["module", "type", "output", "parameters"]
    assert len(html.rows) == 1 + len(list(seen.rows()))
    assert "Now: fits." in html.text


def test_a_model_that_cannot_come_in_is_summarised_without_the_chips_columns() -> None:
    model = SequentialState(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False), LICell())
    seen = nd.summary(model, torch.zeros(1, 8), "loihi2")
    assert [row[5] for row in seen.rows()] == ["exact", "unsupported", "exact", "exact"]
    assert "1 (ReLU): relu is not supported" in str(seen)
    assert not any(row[7] for row in seen.rows())


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ArgumentTypeError, match=r"^summary, argument 'sample': is None"):
        nd.summary(convolutional(), None, "loihi2")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(RequestError, match="cores"):
        nd.summary(convolutional(), IMAGE, "loihi2", cores=1_000)
