"""How the command line speaks: results on stdout, news and progress on stderr, as plain as where they go wants them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import click
from rich.console import Console, RenderableType
from rich.text import Text

_QUIET = "neurodeploy.quiet"


def _hush(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        context.meta[_QUIET] = True  # which subcommands share


QUIET = click.option(
    "-q", "--quiet", is_flag=True, expose_value=False, callback=_hush, help="No news and no progress on stderr; errors still."
)


def quiet() -> bool:
    """Whether the command that runs was asked to be."""
    return bool(click.get_current_context().meta.get(_QUIET))


@contextmanager
def station(*, speaks: bool = True) -> Iterator[tuple[Any, Any]]:
    """Progress bars and lines of news, both on stderr; of replicas only the first speaks."""
    from neurodeploy.training.progress import ProgressBars

    console = Console(stderr=True, quiet=quiet() or not speaks)
    with ProgressBars(console) as bars:
        yield bars, lambda line: console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A word on stderr, on a terminal, of what takes its time; gone when it is done."""
    console = Console(stderr=True)
    with console.status(what) if console.is_terminal and not quiet() else nullcontext():
        yield


def show(*parts: RenderableType) -> None:
    """Parts of a report on stdout: as wide as the terminal, verdicts coloured unless ``NO_COLOR``; whole and plain in a pipe."""
    from neurodeploy.report.text import as_text

    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(*(_coloured(part) if isinstance(part, str) else part for part in parts), sep="\n")
    else:
        click.echo(as_text(*parts))


def show_json(data: Any) -> None:
    """JSON on stdout."""
    click.echo(json.dumps(data, indent=2))


def _coloured(line: str) -> Text:
    text = Text(line)
    text.highlight_regex(r"\b[Dd]oes not fit\b", "bold red")
    text.highlight_regex(r"(?m)^Now: fits\b|^Before: fits\b", "bold green")
    return text
