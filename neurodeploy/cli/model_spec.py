"""Model specifications of the command line, ``file.py:factory``, ``model.net`` or ``model.nir``, read as a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from neurodeploy.errors import RequestError
from neurodeploy.ir.files import absence

# Imported in the methods that use them: a path that leads nowhere is refused before anything slow is imported.
if TYPE_CHECKING:
    import torch

    from neurodeploy.ir.network import Network
    from neurodeploy.ir.quantized import QuantizedNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model specification with what its kind of file needs to be read.

    Attributes
    ----------
    name : str
        ``file.py:factory``, ``package.module:factory``, or a file that ends with .net or .nir.
    weights : Path or None
        Trained weights of a factory's model.
    dt, discretisation
        Of a .nir file; see `neurodeploy.read_nir`.

    Raises
    ------
    RequestError
        No such file, or `dt` or `discretisation` with another file than a .nir file.
    """

    name: str
    weights: Path | None = None
    dt: float | None = None
    discretisation: str | None = None

    def __post_init__(self) -> None:
        if not self.name.endswith(".nir") and (self.dt is not None or self.discretisation is not None):
            raise RequestError("--dt and --discretisation", "are for .nir files", remedy=f"{self.name} has its own time step.")
        file, colon, _ = self.name.rpartition(":")
        if colon:
            if file.endswith(".py") and not Path(file).is_file():
                raise RequestError(self.name, f"no file {file}")
        elif why := absence(self.name):
            raise RequestError(self.name, why, remedy="Give a .net or .nir file, file.py:factory, or package.module:factory.")
        if self.weights is not None and (why := absence(self.weights)):
            raise RequestError(str(self.weights), why)

    def network(self) -> Network | QuantizedNetwork:
        """Read the network; it is in the chip's integers if it comes from a .net file."""
        from neurodeploy.targets import target_of_file

        # a target's own kind of file, such as .net; it holds integers already
        if (target := target_of_file(Path(self.name))) is not None:
            return target.read(Path(self.name))
        if self.name.endswith(".nir"):
            from neurodeploy.frontends.nir.reading import read_nir

            return read_nir(self.name, dt=self.dt, discretisation=self.discretisation)
        # the factory first: it may be missing, and importing Norse for `extract` takes seconds
        module, sample = self.module()
        from neurodeploy.frontends.torch.extract import extract

        return extract(module, sample)

    def quantized_network(self, target: str, bits: int | None, levels: int = 1) -> QuantizedNetwork:
        """Read the network in the chip's integers; a float network is quantised for the chip `target`.

        Parameters
        ----------
        target : str
            A chip's name or YAML file; a .net file is already in integers and ignores it.
        bits : int or None
            Width of a weight, sign included; None for the widest that the chip has.
        levels : int
            Above 1: the float network's input of 0..1 becomes whole numbers 0..levels.
        """
        from neurodeploy.ir.quantized import QuantizedNetwork

        network = self.network()
        if isinstance(network, QuantizedNetwork):
            return network
        from neurodeploy.hardware.loading import load_profile
        from neurodeploy.passes.quantize import quantize

        if levels > 1:
            from neurodeploy.training.encoders import in_levels  # brings torch

            network = in_levels(network, levels)
        return quantize(network, load_profile(target), bits=bits)

    def trained(self) -> tuple[torch.nn.Module | Network | QuantizedNetwork, torch.Tensor | None]:
        """What `neurodeploy.compress` trains: a factory's module and sample, or the network of a file."""
        return self.module() if ":" in self.name else (self.network(), None)

    def module(self) -> tuple[torch.nn.Module, torch.Tensor]:
        """Call the factory: its model, with `weights` if there are any, and a sample of its input."""
        from neurodeploy.frontends.model_factory import load_model

        module, sample = load_model(self.name)
        if self.weights is not None:
            from neurodeploy.training.checkpoint import load_weights  # brings the training with it

            # after the factory, whose own weights they replace
            load_weights(module, self.weights)
        return module, sample


def export(spec: ModelSpec, to: Path, target: str | None, bits: int | None) -> Network | QuantizedNetwork:
    """Write a network as the kind of file that `to` ends with, .net or .nir, and return what was written.

    Parameters
    ----------
    target : str or None
        The chip whose integers are written. None writes floats into a .nir file and the integers of Loihi 2 into a .net file.

    Raises
    ------
    RequestError
        Another ending than .net or .nir.
    """
    from neurodeploy.targets import target_of_file

    network: Network | QuantizedNetwork
    if (writer := target_of_file(to)) is not None:
        network = quantized = spec.quantized_network(target or "loihi2", bits)
        if quantized.target != writer.name:
            raise RequestError(
                str(to), f"is a file of target {writer.name!r}, and the network's integers are those of {quantized.target!r}",
                remedy=f"Choose a chip whose profile names target {writer.name!r}.",
            )  # fmt: skip
        writer.write(quantized, to)
        return network
    if to.suffix == ".nir":
        from neurodeploy.frontends.nir.writing import write_nir

        network = spec.network() if target is None else spec.quantized_network(target, bits)
        write_nir(network, to)
        return network
    raise RequestError(str(to), "is no kind of file that networks are written to", remedy="Let it end with .net or .nir.")
