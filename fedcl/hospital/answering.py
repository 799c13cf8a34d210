"""How the warm process answers: what is allowed, by the app, with a line for the hospital's log."""

import logging
import time
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict

from fedcl.errors import FedclError, one_line
from fedcl.hospital import call_log
from fedcl.hospital.allowed import Allowed
from fedcl.hospital.client_app import client_app
from fedcl.wire.codes import RAISED
from fedcl.wire.supernode import NodeConfig

log = logging.getLogger("fedcl")


class Answering:
    """Answers calls by the app that is installed.

    Args:
        node: the hospital's own configuration.
        folder: of the hospital.
    """

    def __init__(self, node: NodeConfig, folder: Path) -> None:
        self.node, self.folder = node, folder
        self._app, self._run = client_app(), 0

    def answer(self, message: Message, number: int) -> Message:
        """Answer a call.

        Args:
            message: the call.
            number: that the SuperLink knows this hospital by.
        """
        started, run = time.perf_counter(), message.metadata.run_id
        if run != self._run:  # what was held for another run goes
            self._app, self._run = client_app(), run
        try:
            call = call_log.read(message)
            allowed = Allowed.of(self.folder)
            if call.job:
                allowed.check(call.job, call.round)
        except FedclError as error:
            log.warning("run-%d: %s", run, error)
            return Message(Error(RAISED, one_line(str(error))), reply_to=message)
        log.info("%s", call.words)
        reply = self._app(message, Context(run, number, self.node, RecordDict(), {}))
        told = call_log.answered(reply, time.perf_counter() - started)
        log.log(logging.ERROR if reply.has_error() else logging.INFO, "%s: %s", call.words, told)
        return reply
