"""Flower's grid over the SuperLink, made to notice hospitals that were started again."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from flwr.app import Error, Message

from fedcl.errors import RunError
from fedcl.wire.codes import GONE, RAISED
from fedcl.wire.wrapped_grid import WrappedGrid


class SuperLinkGrid(WrappedGrid):
    """Flower's grid, but for how answers are waited for.

    What a SuperNode had taken on when it was stopped is answered by nobody. If it is connected
    again before anyone has noticed, Flower's grid waits until the timeout; here it is an error at
    once, as that of a node which stays away.

    Args:
        grid: that the ServerApp was given.
    """

    POLL = 0.5  # seconds

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send `messages`; yield the replies as they come; late ones are left out.

        Raises:
            RunError: the SuperLink does not take them.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        before, batch = self._starts(), list(messages)
        marks: list[str | None] = list(self.push_messages(batch))
        if len(marks) < len(batch):
            raise RunError("the SuperLink has not taken the messages; its log says why")
        return self._coming(list(zip(marks, batch, strict=True)), before, until)

    def _coming(
        self, pushed: Sequence[tuple[str | None, Message]], before: Mapping[int, str], until: float
    ) -> Iterator[Message]:
        """Yield the replies until a time, by `time.monotonic`.

        Args:
            pushed: the messages by their marks; without one, if their node is not there.
            before: when each node had last been started.
            until: that time.
        """
        gone = Error(GONE, "it is not registered any more")
        yield from (Message(gone, reply_to=call) for mark, call in pushed if mark is None)
        waiting = {mark: call for mark, call in pushed if mark is not None}
        while waiting:
            left, now = until - time.monotonic(), self._starts()
            for mark, call in list(waiting.items()):
                reply = self._reply(mark, call)
                node = call.metadata.dst_node_id
                if reply is None and now.get(node, before.get(node)) != before.get(node):
                    reply = Message(Error(GONE, "it was stopped and started again"), reply_to=call)
                if reply is not None:
                    del waiting[mark]
                    yield reply
            if left <= 0:
                break
            time.sleep(min(self.POLL, left))

    def _reply(self, mark: str, call: Message) -> Message | None:
        """Return the reply to a call if it is there; what cannot be read is an error."""
        try:
            reply = next(iter(self.pull_messages([mark])), None)
            if reply is None or not reply.has_error() or reply.error.code != GONE:
                return reply
            return Message(Error(GONE, "it is not connected any more"), reply_to=call)
        except (ValueError, TypeError, LookupError, AttributeError) as error:  # foreign bytes
            return Message(Error(RAISED, f"its reply cannot be read ({error!r})"), reply_to=call)

    def _starts(self) -> dict[int, str]:
        """Return when each node that is connected was last started."""
        return {node.node_id: node.last_activated_at for node in self.get_nodes()}
