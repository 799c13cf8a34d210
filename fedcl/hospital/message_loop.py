"""The program of a hospital: takes calls from the server, has the warm process answer them.

It executes nothing that comes from the network, and outlives the process that computes: when that
dies or hangs, the server is told at once or waits no longer, and the next call has a new one.
"""

import logging
import time
from collections.abc import Callable
from functools import lru_cache

from flwr.app import Error, Message

import fedcl
from fedcl.errors import RunError
from fedcl.hospital.installed import Digests, bundled, different, installed, short
from fedcl.hospital.worker import DiedError, Worker
from fedcl.wire.codes import CRASHED, RAISED
from fedcl.wire.requests import Greeting
from fedcl.wire.supernode import Link

log = logging.getLogger("fedcl")

SHORTEST, LONGEST = 0.2, 1.0
"""Seconds between two looks for a call: a tenth of the time since the last one, within these."""
GLANCE = 15.0
"""Seconds between two looks, while a call is worked on, at whether anybody still waits for it."""
IDLE = 900.0
"""Seconds without a call after which what is held of a run, on a GPU as well, is let go."""


class MessageLoop:
    """Answers the server's calls, one after the other.

    Args:
        link: to the server.
        start_worker: starts a process that answers.
    """

    def __init__(self, link: Link, start_worker: Callable[[], Worker]) -> None:
        self.link, self._start_worker = link, start_worker
        self._waiting: list[Message] = []
        self._last = time.monotonic()
        self._bundle = lru_cache(maxsize=8)(lambda run: bundled(self.link.bundle(run)))
        self._start()

    def run(self) -> None:
        """Answer calls for good."""
        while True:
            self._idle()
            while self._waiting:
                self._serve(self._waiting.pop(0))
                self._last = time.monotonic()

    def close(self) -> None:
        """End the process."""
        self._worker.stop()

    def _start(self) -> None:
        """Start a process that answers, with the code that is installed now."""
        self._code: Digests = installed()
        self._worker = self._start_worker()

    def _replace(self) -> None:
        self._worker.stop()
        self._start()

    def _idle(self) -> None:
        """Wait a moment, unless there is a call."""
        self._look()
        if self._waiting:
            return
        silent = time.monotonic() - self._last
        if silent > IDLE and self._worker.used:
            log.info("nothing was asked for %d minutes: what was held of the run goes", silent / 60)
            self._replace()
        try:
            self._worker.reply(min(max(SHORTEST, silent / 10), LONGEST))
        except DiedError as error:
            if not self._worker.ready:
                raise RunError(f"the process that computes cannot be started ({error})") from None
            log.error("the process that computes has ended (%s); it is started again", error)
            self._replace()

    def _look(self) -> None:
        """Take a call in. Of a run only the newest counts: the server waits for no other."""
        message = self.link.receive()
        if message is not None:
            run = message.metadata.run_id
            self._waiting = [one for one in self._waiting if one.metadata.run_id != run]
            self._waiting.append(message)

    def _serve(self, message: Message) -> None:
        started, run = time.monotonic(), message.metadata.run_id
        reason = self._refusal(run)
        if reason is None:
            reply = self._answer(message)
        else:
            reply = Message(Error(RAISED, reason), reply_to=message)
        if reply is not None and not self.link.send(reply, time.monotonic() - started):
            log.warning("run-%d: it has ended before the answer was there", run)

    def _refusal(self, run: int) -> str | None:
        """Return why a run's code is not answered, in one line; None where it is that of here."""
        try:
            brought = self._bundle(run)
        except RunError as error:
            log.warning("run-%d: refused: %s", run, error)
            return f"refused: {error}"
        files = different(brought, self._code)
        if not files:
            return None
        reason = (
            f"refused: the run's code ({short(brought)}) is not what this hospital has installed "
            f"({short(self._code)}, fedcl {fedcl.__version__}): files that differ: {len(files)}; "
            "install the same version on both sides"
        )
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        log.warning("run-%d: %s (%s%s)", run, reason, ", ".join(files[:5]), more)
        return reason

    def _answer(self, message: Message) -> Message | None:
        """Return what the process answers, or that it has died; None if nobody waits any more."""
        run = message.metadata.run_id
        try:
            self._worker.ask(self.link.node, message)
            while True:
                reply = self._worker.reply(GLANCE)
                if reply is not None:
                    return reply
                reason = self._given_up(message)
                if reason is not None:
                    log.warning("run-%d: given up: %s", run, reason)
                    self._replace()
                    return None
        except DiedError as error:
            reason = f"the process that computes has ended ({error})"
            log.error("run-%d: %s; it is started again", run, reason)
            self._replace()
            return Message(Error(CRASHED, reason), reply_to=message)

    def _given_up(self, message: Message) -> str | None:
        """Return why nobody waits for the answer to a call any more; None if somebody does."""
        run = message.metadata.run_id
        if not self.link.goes_on(run):
            return "the run has ended"
        self._look()
        newer = any(one.metadata.run_id == run for one in self._waiting)
        # Reading the data may take longer than the server waits; what was read is held.
        if newer and message.metadata.message_type != Greeting.TYPE:
            return "the server waits no longer, and has asked for something else"
        return None
