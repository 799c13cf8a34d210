"""Ctrl-C, SIGTERM and SIGHUP: all three end a run in order, so that it can be resumed."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C; a time limit, a pre-emption or a stop by a service manager; a terminal that is gone."""


class Interruption(KeyboardInterrupt):
    """One of `SIGNALS` has come; handled wherever Ctrl-C is."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def reason_of(error: KeyboardInterrupt) -> str:
    """Return what interrupted a run, in words."""
    return f"interrupted by {error}" if isinstance(error, Interruption) else "interrupted"


def exit_code_of(error: KeyboardInterrupt) -> int:
    """Return what a command ends with: 128 and the signal's number, 130 for Ctrl-C."""
    return error.exit_code if isinstance(error, Interruption) else 130


@contextmanager
def interruptible() -> Iterator[None]:
    """Let `SIGNALS` raise `Interruption` in the main thread.

    One that is ignored already stays so: `nohup` and shells' background jobs ask for that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, before[number])


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Put back the handlers of signals that a library replaces without being asked."""
    main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in SIGNALS if main and hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Interruption(number)
