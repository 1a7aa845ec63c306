"""How the documentation site is made: Sphinx, from prose, docstrings and notebooks that were executed before."""

from importlib import metadata

project = "neurodeploy"
author = "the neurodeploy authors"
version = release = metadata.version("neurodeploy-snn")  # the distribution; the module is neurodeploy
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"neurodeploy {release}"
html_extra_path = ["extra"]  # docs/build puts the demo's page there
exclude_patterns = ["extra", "_build"]

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the build executes them once, as tests, and what they show comes in with them
nb_output_stderr = "remove"
suppress_warnings = ["mystnb.unknown_mime_type"]  # a widget needs a running notebook

napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_typehints = "none"  # NumPy's docstrings say them, with units
autodoc_member_order = "bysource"
autosummary_generate = True
