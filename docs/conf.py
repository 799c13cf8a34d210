"""How the documentation is built: `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from settings_page import page

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

# Written anew at every build, from the dataclasses that check the settings.
(HERE / "reference" / "settings.md").write_text(page())
