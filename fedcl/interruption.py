"""Ctrl-C, SIGTERM and SIGHUP: all three end a run in order, so that it can be resumed.

Each raises `KeyboardInterrupt`, which libraries know and hand on, though not always the same one:
which signal it was is therefore noted here.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C; a time limit, a pre-emption or a stop by a service manager; a terminal that is gone."""

_received: list[int] = []
"""The signals that have come since the last `interruptible` began."""


class ToldError(KeyboardInterrupt):
    """An interruption of which the user has been told."""


def came() -> bool:
    """Return whether a signal has come."""
    return bool(_received)


def reason() -> str:
    """Return what interrupted a run, in words."""
    return f"interrupted by {signal.Signals(_received[0]).name}" if _received else "interrupted"


def exit_code() -> int:
    """Return what an interrupted command ends with: 128 and the signal's number."""
    return 128 + (_received[0] if _received else signal.SIGINT)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let `SIGNALS` raise `KeyboardInterrupt` in the main thread.

    One that is ignored already stays so: `nohup` and shells' background jobs ask for that.
    """
    _received.clear()
    before = _handlers()
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _raise)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Put back the handlers that a library replaces without being asked, whatever they do.

    Ray's handler of SIGTERM exits with the signal's number, which is an interruption as well.
    """
    before = _handlers()
    try:
        yield
    except SystemExit as error:
        if error.code not in before:
            raise
        _received.append(int(str(error.code)))
        raise KeyboardInterrupt from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handlers() -> dict[int, signal.Handlers]:
    """Return the handlers of `SIGNALS`; none outside of the main thread, which gets all signals."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    return {number: signal.getsignal(number) for number in numbers}  # type: ignore[misc]


def _raise(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt
