"""`python -m fedcl`: the command `fedcl`, where its script is not on the path."""

import sys

from fedcl.app.cli import main

sys.exit(main())
