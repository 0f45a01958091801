"""The documentation site: ``make docs`` builds it into site/, warnings are errors."""

import rl4rec_kernels

project = "rl4rec_kernels"
copyright = "the rl4rec_kernels authors"
release = rl4rec_kernels.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # sections of README.md keep their levels

napoleon_google_docstring = False
napoleon_use_ivar = True  # attributes are described once
autodoc_typehints = "none"  # NumPy style says them
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"rl4rec_kernels {release}"
html_show_copyright = False
html_copy_source = False
