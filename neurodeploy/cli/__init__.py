"""The command line: `cli` is the group of all commands."""

from __future__ import annotations

import click

from neurodeploy.cli import commands
from neurodeploy.cli.console import QUIET, answering
from neurodeploy.cli.options import DIFFERS, DONE

__all__ = ["DIFFERS", "DONE", "cli"]


def print_versions(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Print the versions that numbers depend on, and exit, if ``--version`` was typed."""
    del parameter
    if value:
        from neurodeploy.report.summary import version_line  # no help text should wait for it

        click.echo(version_line())
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_versions, help="Show the versions and exit."
)
@QUIET
def cli() -> None:
    """Get a spiking network onto a neuromorphic chip.

    MODEL is file.py:factory or package.module:factory, a function without arguments that returns a Norse network (or a
    pair of it and a sample input), or a .net or .nir file. DATA is digits, mnist, fashion-mnist, cifar10, n-mnist, dvs-gesture,
    cifar10-dvs, shd, mnist:FILE.npz, or file.py:factory, a function that returns (train, test), each an iterable of
    (input, target) batches.

    Exit codes: 0 fits, equal or done; 1 does not fit, or differs; 2 bad input.
    """


for command in (
    commands.profiles,
    commands.inspect_command,
    commands.check_command,
    commands.compare_command,
    commands.deploy_command,
    commands.compress_command,
    commands.simulate_command,
    commands.verify_command,
    commands.evaluate_command,
    commands.export_command,
    commands.demo,
):
    assert command.callback is not None
    command.callback = answering(command.callback)
    cli.add_command(command)
