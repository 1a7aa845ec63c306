"""Console output: results on stdout, messages and progress on stderr; plain text in a pipe, colours on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import click

# rich is imported where something is printed: neither help texts nor errors need it
if TYPE_CHECKING:
    from rich.console import RenderableType

    from neurodeploy.training.options import ProgressBars

_QUIET_KEY = "neurodeploy.quiet"


def _set_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    del parameter
    if value:
        context.meta[_QUIET_KEY] = True  # a context's meta is shared with its subcommands: --quiet may come before or after


QUIET = click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set_quiet, help="Print errors only.")


def is_quiet() -> bool:
    """Whether the running command has ``--quiet``."""
    return bool(click.get_current_context().meta.get(_QUIET_KEY))


@contextmanager
def progress_output(*, enabled: bool = True) -> Iterator[tuple[ProgressBars, Callable[[str], None]]]:
    """Progress bars, and a function that prints a message above them, both on stderr.

    Parameters
    ----------
    enabled : bool
        Print at all; under torchrun only rank 0 does.
    """
    from rich.console import Console

    from neurodeploy.training.options import ProgressBars

    console = Console(stderr=True, quiet=is_quiet() or not enabled)
    with ProgressBars(console) as bars:
        yield bars, lambda line: console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


@contextmanager
def status(what: str) -> Iterator[None]:
    """Show on a terminal's stderr what is being done, until it is done."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(what) if console.is_terminal and not is_quiet() else nullcontext():
        yield


def show(*parts: RenderableType) -> None:
    """Print parts of a report on stdout: on a terminal in its width, verdicts coloured unless ``NO_COLOR``; plain in a pipe."""
    from rich.console import Console
    from rich.text import Text

    from neurodeploy.report.text import as_text

    # no markup: names of layers may have brackets, as in fc1[0:64]
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        click.echo(as_text(*parts))
        return
    coloured: list[RenderableType] = []
    for part in parts:
        if isinstance(part, str):
            text = Text(part)
            text.highlight_regex(r"\b[Dd]oes not fit\b", "bold red")
            text.highlight_regex(r"(?m)^Now: fits\b|^Before: fits\b", "bold green")
            coloured.append(text)
        else:
            coloured.append(part)
    console.print(*coloured, sep="\n")


def show_json(data: Any) -> None:
    """Print JSON on stdout."""
    click.echo(json.dumps(data, indent=2))
