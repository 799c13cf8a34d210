"""Simulate federated continual learning: `python simulate.py strategy=ted seed=1`.

Any configuration value can be given as group.key=value; `-m` runs a sweep. Exit status: 0
when every run completed, 2 for bad configuration or data, 128 and the signal's number after an
interruption (130 on Ctrl-C), else 1.
"""

import sys

from fedcl.app.simulate import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
