"""Networks from NIR files and into them."""

from neurodeploy.frontends.nir.reading import read_nir
from neurodeploy.frontends.nir.writing import write_nir

__all__ = ["read_nir", "write_nir"]
