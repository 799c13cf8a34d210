"""`python -m fedcl`: the command `fedcl`, where its script is not on the path."""

import sys

from fedcl.cli import main

sys.exit(main())
