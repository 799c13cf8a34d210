"""Flower's Grid without Flower's network; here in this process, see `ray_grid` for Ray.

Nothing above this module knows which grid it talks to. Flower's own SuperLink grid is the
third one.
"""

import importlib
import itertools
import logging
import math
import time
import traceback
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedcl.errors import FedclError, TooLateError
from fedcl.wire import flower
from fedcl.wire.codes import RAISED, TOO_LATE

log = logging.getLogger("fedcl")

NodeConfig = dict[str, str | int | float | bool]


def load_app(reference: str | ClientApp) -> ClientApp:
    """Import the ClientApp that "module:attribute" names, or have the function so named make it."""
    if isinstance(reference, ClientApp):
        return reference
    module, _, attribute = reference.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    app = found if isinstance(found, ClientApp) else found()
    assert isinstance(app, ClientApp)
    return app


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """Let `app` answer; an exception becomes an error reply, its traceback after line one."""
    try:
        return app(message, context)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if not isinstance(error, FedclError):  # a bug: say where
            ours = [
                frame
                for frame in traceback.extract_tb(error.__traceback__)
                if "site-packages" not in frame.filename
            ]
            reason += f" ({Path(ours[-1].filename).name}, line {ours[-1].lineno})"
        code = TOO_LATE if isinstance(error, TooLateError) else RAISED
        return Message(Error(code, f"{reason}\n{traceback.format_exc()}"), reply_to=message)


class LocalGrid(Grid):
    """What grids without a network share: nodes, contexts and message ids.

    Args:
        app: the ClientApp, or as "module:attribute" where it is, or a function that makes it.
        nodes: the configuration of each node, which gets the ids 1, 2, ...
        on_reply: called with each reply as it comes in.

    Attributes:
        contexts: what each node's app is handed, by the node's id.
    """

    def __init__(
        self,
        app: str | ClientApp,
        nodes: Sequence[NodeConfig],
        on_reply: Callable[[Message], None] = lambda reply: None,
    ) -> None:
        flower.take_identity()
        self.app, self.on_reply = app, on_reply
        self.contexts = {
            number: Context(1, number, node, RecordDict(), {})
            for number, node in enumerate(nodes, start=1)
        }
        self._ids = itertools.count(1)
        self._replies: dict[str, Message] = {}
        self._run = Run.create_empty(1)

    def set_run(self, run: Run) -> None:
        """Set the run; nothing here depends on it."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message; the same as calling `Message`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of all nodes."""
        return list(self.contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return all nodes, by id and the name of their site."""
        for number, context in self.contexts.items():
            yield NodeInfo(node_id=number, name=str(context.node_config.get("site", "")))

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send `messages`; returns their ids."""
        batch = list(messages)
        for message in batch:
            flower.set_id(message, str(next(self._ids)))
        self._send(batch)
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, each once."""
        self._advance(0.0)
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send `messages`; yield the replies as they come; late ones are left out and dropped."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        return self._coming(dict.fromkeys(self.push_messages(messages)), deadline)

    def _coming(self, left: dict[str, None], deadline: float) -> Iterator[Message]:
        """Yield the replies to the messages of these ids until a time, by `time.monotonic`."""
        try:
            while left:
                for number in [i for i in self._replies if i in left]:
                    del left[number]
                    yield self._replies.pop(number)
                if self._over(deadline):
                    break
                if left:
                    self._advance(deadline - time.monotonic())
        except GeneratorExit:  # nobody wants the others any more
            self._drop(left)
            raise
        self._drop(left)
        self._give_up(left)

    @property
    def lanes(self) -> int:
        """How many nodes can answer at the same time."""
        return 1

    def close(self) -> None:
        """Free what the grid holds."""

    def _keep(self, reply: Message) -> None:
        self._replies[reply.metadata.reply_to_message_id] = reply
        self.on_reply(reply)

    @abstractmethod
    def _send(self, messages: list[Message]) -> None:
        """Set `messages` off."""

    def _advance(self, seconds: float) -> None:
        """Wait up to `seconds` for a reply."""

    def _over(self, deadline: float) -> bool:
        """Return whether replies that are not there yet are too late."""
        return time.monotonic() >= deadline

    def _drop(self, message_ids: Collection[str]) -> None:
        """Begin no work on these messages."""

    def _give_up(self, message_ids: Collection[str]) -> None:
        """Stop working on these messages."""


class InProcessGrid(LocalGrid):
    """Every node answers in this process, in order, when its reply is asked for.

    No timeout applies to what is computed here.
    """

    @cached_property
    def _queue(self) -> deque[Message]:
        """What is still to be answered."""
        return deque()

    @cached_property
    def loaded(self) -> ClientApp:
        """The app."""
        return load_app(self.app)

    def _send(self, messages: list[Message]) -> None:
        self._queue.extend(messages)

    def _advance(self, seconds: float) -> None:
        if self._queue:
            message = self._queue.popleft()
            self._keep(answer(self.loaded, message, self.contexts[message.metadata.dst_node_id]))

    def _over(self, deadline: float) -> bool:
        return not self._queue and super()._over(deadline)

    def _drop(self, message_ids: Collection[str]) -> None:
        self._queue = deque(m for m in self._queue if m.metadata.message_id not in message_ids)
