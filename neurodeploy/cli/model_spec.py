"""What a person names on the command line, as a network: a factory of models, a .net file, a .nir file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurodeploy.errors import RequestError
from neurodeploy.ir.network import Network
from neurodeploy.ir.quantized import QuantizedNetwork

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A network as it was named.

    Attributes
    ----------
    name : str
        ``file.py:factory``, ``package.module:factory``, or a file that ends with .net or .nir.
    weights : Path or None
        Of a factory's model.
    dt, discretisation
        Of a .nir file: see `neurodeploy.frontends.nir.read_nir`.
    """

    name: str
    weights: Path | None = None
    dt: float | None = None
    discretisation: str | None = None

    def network(self) -> Network | QuantizedNetwork:
        """The network, in the chip's integers where it is a .net file.

        Raises
        ------
        RequestError
            A time step or a discretisation for what is no .nir file.
        """
        ending = Path(self.name).suffix
        if ending != ".nir" and (self.dt is not None or self.discretisation is not None):
            raise RequestError("--dt and --discretisation", "are for .nir files", remedy=f"{self.name} states its own steps.")
        if ending == ".net":
            from neurodeploy.targets.loihi.netx_files import read_netx

            return read_netx(self.name)
        if ending == ".nir":
            from neurodeploy.frontends.nir.reading import read_nir

            return read_nir(self.name, dt=self.dt, discretisation=self.discretisation)
        from neurodeploy.frontends.torch.extract import extract

        return extract(*self.module())

    def integers(self, target: str, bits: int, levels: int = 1) -> QuantizedNetwork:
        """The network in the chip's integers; one in floats is rounded to those of `target`.

        Floats hear input of 0..1; with `levels` beyond 1, their integers hear it as whole numbers 0..levels.
        """
        network = self.network()
        if isinstance(network, QuantizedNetwork):
            return network
        from neurodeploy.hardware.loading import load_profile
        from neurodeploy.passes.quantize import quantize
        from neurodeploy.training.encoders import in_levels

        return quantize(in_levels(network, levels), load_profile(target), bits=bits)

    def module(self) -> tuple[torch.nn.Module, torch.Tensor]:
        """The model that a factory makes, and a sample of its input."""
        from neurodeploy.frontends.factories import load_model
        from neurodeploy.training.checkpoint import load_weights

        module, sample = load_model(self.name)
        if self.weights is not None:
            load_weights(module, self.weights)
        return module, sample


def export(given: Given, to: Path, target: str | None, bits: int) -> Any:
    """Write a network as the kind of file that `to` ends with; what was written.

    Parameters
    ----------
    target : str or None
        The chip whose integers are written; none writes floats into a .nir file, and those of a Loihi 2 into a .net file.

    Raises
    ------
    RequestError
        Another ending than .net or .nir.
    """
    if to.suffix == ".net":
        from neurodeploy.targets.loihi.netx_files import write_netx

        integers = given.integers(target or "loihi2", bits)
        write_netx(integers, to)
        return integers
    if to.suffix == ".nir":
        from neurodeploy.frontends.nir.writing import write_nir

        network = given.network() if target is None else given.integers(target, bits)
        write_nir(network, to)
        return network
    raise RequestError(str(to), "is no kind of file that networks are written to", remedy="Let it end with .net or .nir.")
