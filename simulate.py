"""Simulate federated continual learning: `python simulate.py strategy=ted seed=1`.

Any configuration value can be given as group.key=value; `-m` runs a sweep. Exit status: 0
when every run completed, 2 for bad configuration or data, 130 on Ctrl-C, else 1.
"""

import sys

from fedcl import interruption


def main() -> int:
    """Run the command line; return the exit status."""
    try:
        with interruption.interruptible():
            from fedcl.app.entry import main as run

            return run()
    except interruption.Told:
        pass
    except BaseException as error:
        # In the middle of an import a library may make another error of an interruption.
        if not (interruption.came() or isinstance(error, KeyboardInterrupt)):
            raise
        print(f"fedcl: {interruption.reason()}; nothing was begun", file=sys.stderr)
    return interruption.exit_code()


if __name__ == "__main__":
    sys.exit(main())
