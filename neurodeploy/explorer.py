"""A budget to play with in a notebook: choose a chip, cores and a weight's width, and see what each layer may use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from neurodeploy.deployment import Inspection, inspect
from neurodeploy.errors import NeurodeployError, RequestError
from neurodeploy.hardware import HardwareProfile
from neurodeploy.markup import paragraphs
from neurodeploy.network import Network
from neurodeploy.profiles import load_profile
from neurodeploy.quantized import QuantizedNetwork
from neurodeploy.resources.usage import DEFAULT_WEIGHT_BITS


def explore(network: Network | QuantizedNetwork, chips: Sequence[str | HardwareProfile] = ("loihi2", "loihi1", "tiny")) -> Any:
    """Widgets that answer, for a chip, a number of cores and a width of weights: does it fit, and what may each layer use?

    Parameters
    ----------
    chips : sequence of names or HardwareProfile
        To choose from; the first is shown first.

    Returns
    -------
    ipywidgets.VBox
        Shown by the notebook where it ends a cell.

    Raises
    ------
    RequestError
        No ipywidgets here, or no chip to choose from.
    """
    try:
        import ipywidgets as widgets
    except ImportError as error:
        raise RequestError("explore", "needs ipywidgets", remedy="Install neurodeploy[notebook].") from error
    profiles = [chip if isinstance(chip, HardwareProfile) else load_profile(chip) for chip in chips]
    if not profiles:
        raise RequestError("chips", "are none")
    chip = widgets.Dropdown(options=[(profile.name, profile) for profile in profiles], description="chip")
    cores = widgets.BoundedIntText(description="cores", min=1)
    bits = widgets.Dropdown(description="weight bits")
    answer = widgets.HTML()

    def choose(_: Any) -> None:
        cores.max = chip.value.cores
        cores.value = min(cores.value, cores.max)
        bits.options = sorted(chip.value["weight_bits"].choices, reverse=True)
        bits.value = min(bits.options, key=lambda width: abs(width - DEFAULT_WEIGHT_BITS))
        look(None)

    def look(_: Any) -> None:
        if bits.value is not None:
            answer.value = told(network, chip.value, cores.value, bits.value)

    chip.observe(choose, "value")
    cores.observe(look, "value")
    bits.observe(look, "value")
    choose(None)
    return widgets.VBox([widgets.HBox([chip, cores, bits]), answer])


def told(network: Network | QuantizedNetwork, profile: HardwareProfile, cores: int, bits: int) -> str:
    """What the explorer says, as HTML; a request that cannot be met is an answer too."""
    try:
        seen: Inspection = inspect(network, profile, cores=cores, bits=bits)
    except NeurodeployError as error:
        return paragraphs([str(error)])
    budget = paragraphs([f"No compression helps. {seen.hopeless}"]) if seen.budget is None else seen.budget._repr_html_()
    return f"{seen.placement._repr_html_()}{budget}"
