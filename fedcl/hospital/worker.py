"""The warm process of a hospital: it has everything loaded, and answers one call after the other.

It runs the code that is installed. A run's data and networks are held from call to call; those of
the run that called last, and no other's. Answers are pure functions of message, data and state:
they are the same, bit for bit, as those of a process that was started for the call.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Any

from flwr.app import Message

from fedcl.errors import RunError
from fedcl.wire import flower
from fedcl.wire.supernode import NodeConfig

log = logging.getLogger("fedcl")

READY = "ready"


class DiedError(RunError):
    """The process has ended without having been asked to."""


class Worker:
    """The process, as the program sees it that keeps it.

    Args:
        node: the hospital's own configuration.
        folder: of the hospital, which holds its `allowed.yaml`.

    Attributes:
        ready: whether it has everything loaded.
        used: whether it has been asked anything.
    """

    def __init__(self, node: NodeConfig, folder: Path) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._link, theirs = spawning.Pipe()
        self._process = spawning.Process(target=serve, args=(theirs, node, folder))
        self._process.start()
        theirs.close()
        self.ready = False
        self._given: tuple[int, Message] | None = None
        self.used = False

    def ask(self, node: int, message: Message) -> None:
        """Give it a call to answer, as the node that the SuperLink knows by that number.

        Raises:
            DiedError: the process is gone.
        """
        self._given, self.used = (node, message), True
        if self.ready:
            try:
                self._hand_over()
            except OSError:
                raise DiedError(self._end()) from None

    def reply(self, seconds: float) -> Message | None:
        """Wait for its answer; write down what it says meanwhile.

        Returns:
            The answer; None if it has not come in time.

        Raises:
            DiedError: the process is gone.
        """
        until = time.monotonic() + seconds
        try:
            while self._link.poll(max(0.0, until - time.monotonic())):
                said = self._link.recv()
                if isinstance(said, Message):
                    return said
                if said == READY:
                    self.ready = True
                    self._hand_over()
                else:
                    log.handle(said)
        except (EOFError, OSError):
            raise DiedError(self._end()) from None
        if not self._process.is_alive():
            raise DiedError(self._end())
        return None

    def stop(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.join()
        self._link.close()

    def _hand_over(self) -> None:
        if self._given is not None:
            self._link.send(self._given)
            self._given = None

    def _end(self) -> str:
        """Return how it has ended, in words."""
        self._process.join(10)
        code = self._process.exitcode
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


# --- in the process ------------------------------------------------------------------------


def serve(link: Connection, node: NodeConfig, folder: Path) -> None:
    """Answer calls until the program ends that this process was started by."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for that program
    threading.Thread(target=_end_with_parent, daemon=True).start()
    own = _Link(link)
    log.addHandler(QueueHandler(own))
    log.setLevel(logging.INFO)
    log.propagate = False
    flower.take_identity()
    from fedcl.hospital.answering import Answering  # with torch and all: it takes seconds

    answering = Answering(node, folder)
    own.put_nowait(READY)
    with contextlib.suppress(EOFError):
        while True:
            number, message = own.get()
            own.put_nowait(answering.answer(message, number))


def _end_with_parent() -> None:
    """End at once when the program ends that this process belongs to, whatever it does."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class _Link:
    """What the process hears, and what it says: lines of its log, and answers."""

    def __init__(self, link: Connection) -> None:
        self._link, self._lock = link, threading.Lock()

    def get(self) -> Any:
        """Wait for what is asked."""
        return self._link.recv()

    def put_nowait(self, said: object) -> None:
        """Say something; other threads may as well."""
        with self._lock:
            self._link.send(said)
