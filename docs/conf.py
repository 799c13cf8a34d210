"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fedcl import __version__

project = "fedcl"
author = "the fedcl authors"
release = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"fedcl {__version__}"
exclude_patterns = ["_build"]
nitpicky = True
html_static_path = ["tables.css"]
html_css_files = ["tables.css"]
