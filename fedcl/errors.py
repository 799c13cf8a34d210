"""The errors fedcl raises on purpose: one line each, with the exit status they lead to."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class FedclError(Exception):
    """Base of all errors a user can act on; `exit_code` is what the command ends with."""

    exit_code = 1


class ConfigError(FedclError):
    """A bad configuration; the message names the key."""

    exit_code = 2


class DataError(FedclError):
    """Bad data; the message names the site and, where there is one, the file."""

    exit_code = 2


class RunError(FedclError):
    """A run that cannot go on; what was done so far is kept and can be resumed."""


class TooLateError(RunError):
    """An answer that would come after the deadline; in simulation nobody waits for it."""


def one_line(text: str) -> str:
    """Return the first line of what somebody else said, fit for a terminal and not too long."""
    first = text.strip().partition("\n")[0]
    return "".join(sign for sign in first if sign.isprintable())[:500]


def some_of(things: Iterable[str], most: int = 10, sep: str = ", ") -> str:
    """Return things in a row for a person to read: the first ones, and how many more there are."""
    every = list(things)
    more = [f"and {len(every) - most} more"] if len(every) > most else []
    return sep.join(every[:most] + more)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong in writing a run's file, a full disk for one, into a `RunError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{path}: cannot be written ({reason}); mend that and go on") from None
