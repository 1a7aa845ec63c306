"""The command line: `cli` is the group of all commands."""

from __future__ import annotations

import click

from neurodeploy.cli import commands, experiments
from neurodeploy.cli.console import QUIET, RESULTS, answering, show_json, status
from neurodeploy.cli.options import DIFFERS, DONE, JSON

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

    MODEL is file.py:factory or package.module:factory, a function without arguments that returns a torch model (or a
    pair of it and a sample input), or a .net or .nir file. DATA is digits, mnist, fashion-mnist, cifar10, n-mnist, dvs-gesture,
    cifar10-dvs, shd, mnist:FILE.npz, or file.py:factory, a function that returns (train, test), each an iterable of
    (input, target) batches.

    Exit codes: 0 fits, equal or done; 1 does not fit, or differs; 2 bad input.
    """


@cli.group()
def simulators() -> None:
    """Show or install vendors' simulators: each in a Python 3.10 of its own, for any Python that runs neurodeploy."""


@click.command("list")
@JSON
def list_command(as_json: bool) -> int:
    """List the simulators, and the Python that runs each."""
    from neurodeploy.errors import SimulationError
    from neurodeploy.targets.simulator_process import SIMULATORS, python_of

    found: dict[str, tuple[str, str]] = {}
    for name, simulator in SIMULATORS.items():
        try:
            found[name] = (python_of(simulator), "")
        except SimulationError as error:
            found[name] = ("", str(error))
    if as_json:
        show_json({name: {"python": python or None, "missing": reason or None} for name, (python, reason) in found.items()})
    else:
        for name, (python, reason) in found.items():
            click.echo(f"{name}: {python}" if python else reason, file=RESULTS.get())
    return DONE


@click.command("install")
@click.argument("name", type=click.Choice(["lava", "xylo"]))
@click.option("--python", metavar="PATH", help="A Python 3.10 to make it from.  [default: of this machine, or downloaded by uv]")
@QUIET
def install_command(name: str, python: str | None) -> int:
    """Install a simulator in an environment of its own, in the user's cache folder (XDG_CACHE_HOME, or ~/.cache)."""
    from neurodeploy.targets.simulator_process import SIMULATORS, install

    simulator = SIMULATORS[name]
    with status(f"Installing {' '.join((*simulator.packages, *simulator.without_dependencies))} in {simulator.folder}"):
        made = install(simulator, python=python)
    click.echo(f"{name}: {made}", file=RESULTS.get())
    return DONE


COMMANDS = (
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
    experiments.sweep_command,
    experiments.demo,
)
for group, members in ((cli, COMMANDS), (simulators, (list_command, install_command))):
    for command in members:
        assert command.callback is not None
        command.callback = answering(command.callback)
        group.add_command(command)
