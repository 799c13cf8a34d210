"""A grid that asks once more where that may help, in the time that was given."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence

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
    def patience(self, messages: Sequence[Message], timeout: float | None) -> float | None:
        """Return how many of the seconds that are left the replies to messages are waited for."""

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
        seconds: that one has waited for the replies of the last exchange.
    """

    def __init__(self, grid: Grid, retries: Retries) -> None:
        super().__init__(grid)
        self.retries = retries
        self.seconds = 0.0

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send `messages`; yield the replies as they come, those to a second try included."""
        self.seconds = 0.0
        until = math.inf if timeout is None else time.perf_counter() + timeout
        batch = list(messages)
        return self._timed(self._tries(batch, self._send(batch, timeout), until))

    def _send(self, batch: Sequence[Message], timeout: float | None) -> Iterable[Message]:
        """Send messages and return the replies, which may still be on their way."""
        self.retries.sending(batch)
        limit = self.retries.patience(batch, timeout)
        return self._grid.send_and_receive(batch, timeout=limit)

    def _tries(
        self, batch: list[Message], replies: Iterable[Message], until: float
    ) -> Iterator[Message]:
        """Yield the replies that are to be taken, and send once more what is not.

        Args:
            batch: what was sent.
            replies: to that.
            until: when to stop, by `time.perf_counter`.
        """
        tried: set[tuple[int, bool]] = set()
        poor: dict[int, Message] = {}
        while True:
            again = []
            for message, reply in _pairs(batch, replies):
                node, failed = message.metadata.dst_node_id, reply.has_error()
                poor.pop(node, None)
                content = None
                if (node, failed) not in tried:
                    tried.add((node, failed))
                    content = self.retries.again(message, reply)
                if content is None:
                    yield reply
                else:
                    poor[node] = reply
                    again.append(Message(content, node, message.metadata.message_type))
            if again:
                self.retries.wait_for({message.metadata.dst_node_id for message in again})
            left = until - time.perf_counter()
            if not again or left <= 0:
                yield from poor.values()
                return
            batch, replies = again, self._send(again, None if left == math.inf else left)

    def _timed(self, replies: Iterator[Message]) -> Iterator[Message]:
        """Yield the replies; count how long one waits for them, not what is done in between."""
        while True:
            started = time.perf_counter()
            reply = next(replies, None)
            self.seconds += time.perf_counter() - started
            if reply is None:
                return
            yield reply


def _pairs(
    messages: Sequence[Message], replies: Iterable[Message]
) -> Iterator[tuple[Message, Message]]:
    """Yield each reply after what it is to, as if it were from the node that was asked."""
    asked: dict[str, Message] = {}
    for reply in replies:
        if not asked:  # ids are given when messages are sent
            asked = {message.metadata.message_id: message for message in messages}
        message = asked.get(reply.metadata.reply_to_message_id)
        if message is not None:
            said = reply.error if reply.has_error() else reply.content
            yield message, Message(said, reply_to=message)
