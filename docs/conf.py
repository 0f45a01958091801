"""The documentation site: ``make docs`` builds it into site/, warnings are errors."""

import importlib.metadata

from rl4rec_kernels.adapters import TRAINERS

project = "rl4rec_kernels"
copyright = "the rl4rec_kernels authors"
release = importlib.metadata.version("rl4rec-kernels")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",  # formulas without a network
]
myst_enable_extensions = ["dollarmath", "substitution"]
myst_heading_anchors = 3
adapters = [f".. automodule:: rl4rec_kernels.adapters.{name}\n   :members:" for name in TRAINERS]
myst_substitutions = {"adapters": "\n\n".join(["```{eval-rst}", *adapters, "```"])}

napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes are described in one place
autodoc_typehints = "none"  # docstrings give the types
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"rl4rec_kernels {release}"
html_show_copyright = False
html_copy_source = False
