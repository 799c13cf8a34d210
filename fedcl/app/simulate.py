"""`simulate.py` and `fedcl simulate`: interruptible from the first moment.

What a run needs takes seconds to import, in which a signal may come.
"""

import sys
from collections.abc import Callable, Sequence

from fedcl import interruption


def main(arguments: Sequence[str]) -> int:
    """Run or resume what a command line asks for; see `interruptibly`."""

    def act() -> int:
        from fedcl.app.entry import run

        return run(arguments)

    return interruptibly(act)


def interruptibly(act: Callable[[], int]) -> int:
    """Do what runs, or resumes, a simulation.

    Returns:
        The exit status: 0 when every run completed, 2 for bad configuration or data, 128 and
        the signal's number after an interruption, else 1.
    """
    try:
        with interruption.interruptible():
            return act()
    except interruption.ToldError:
        pass
    except BaseException as error:
        # In the middle of an import a library may make another error of an interruption.
        if not (interruption.came() or isinstance(error, KeyboardInterrupt)):
            raise
        print(f"fedcl: {interruption.reason()}; nothing was begun", file=sys.stderr)
    return interruption.exit_code()
