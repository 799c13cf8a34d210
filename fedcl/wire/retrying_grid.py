"""A grid that asks once more where that may help, in the time that was given."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedcl.wire.wrapped_grid import WrappedGrid


class Retries(ABC):
    """Who decides what is sent once more."""

    @abstractmethod
    def sending(self, messages: Sequence[Message]) -> None:
        """Take note of what is sent."""

    @abstractmethod
    def again(self, message: Message, reply: Message) -> RecordDict | None:
        """Return what a node is sent after such a reply, or None if that is to be taken."""

    @abstractmethod
    def wait_for(self, nodes: Collection[int]) -> None:
        """Wait for nodes that may just have been started again."""


class RetryingGrid(WrappedGrid):
    """Sends what `Retries` says once more, to every node at most once after an error and once else.

    Replies come as if they were from the node that was asked: of some errors the sender is the
    SuperLink.

    Args:
        grid: that messages go over.
        retries: see there.

    Attributes:
        seconds: that the last exchange took.
    """

    def __init__(self, grid: Grid, retries: Retries) -> None:
        super().__init__(grid)
        self.retries = retries
        self.seconds = 0.0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send `messages` and wait for the replies, those to a second try included."""
        started = time.perf_counter()
        until = math.inf if timeout is None else started + timeout
        batch, left = list(messages), timeout
        replies: dict[int, Message] = {}
        tried: set[tuple[int, bool]] = set()
        while True:
            self.retries.sending(batch)
            came = _by_node(batch, self._grid.send_and_receive(batch, timeout=left))
            replies |= came
            again = []
            for message in batch:
                node = message.metadata.dst_node_id
                reply = came.get(node)
                if reply is None or (node, reply.has_error()) in tried:
                    continue
                tried.add((node, reply.has_error()))
                content = self.retries.again(message, reply)
                if content is not None:
                    again.append(Message(content, node, message.metadata.message_type))
            if again:
                self.retries.wait_for({message.metadata.dst_node_id for message in again})
            remaining = until - time.perf_counter()
            if not again or remaining <= 0:
                self.seconds = time.perf_counter() - started
                return list(replies.values())
            batch, left = again, None if timeout is None else remaining


def _by_node(messages: Sequence[Message], replies: Iterable[Message]) -> dict[int, Message]:
    """Return the replies by the node that was asked, as if they were from it."""
    asked = {message.metadata.message_id: message for message in messages}
    found = {}
    for reply in replies:
        message = asked.get(reply.metadata.reply_to_message_id)
        if message is not None:
            said = reply.error if reply.has_error() else reply.content
            found[message.metadata.dst_node_id] = Message(said, reply_to=message)
    return found
