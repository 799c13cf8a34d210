"""Flower's grid over the SuperLink, made to notice hospitals that were started again."""

import math
import time
from collections.abc import Iterable

from flwr.app import Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from fedcl.errors import RunError
from fedcl.messages import GONE


class LinkGrid(Grid):
    """Flower's grid, but for how answers are waited for.

    What a SuperNode had taken on when it was stopped is answered by nobody. If it is connected
    again before anyone has noticed, Flower's grid waits until the timeout; here it is an error at
    once, as that of a node which stays away.

    Args:
        grid: that the ServerApp was given.
    """

    POLL = 0.5  # seconds

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send `messages` and wait for the replies; late ones are left out.

        Raises:
            RunError: the SuperLink does not take them.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        before, batch = self._starts(), list(messages)
        waiting = dict(zip(self.push_messages(batch), batch, strict=False))
        if len(waiting) < len(batch) or None in waiting:
            raise RunError("the SuperLink has not taken all messages; its log says why")
        replies: list[Message] = []
        while waiting and time.monotonic() < until:
            time.sleep(min(self.POLL, max(0.0, until - time.monotonic())))
            now = self._starts()
            for reply in self.pull_messages(list(waiting)):
                waiting.pop(reply.metadata.reply_to_message_id, None)
                replies.append(reply)
            for mark, call in list(waiting.items()):
                node = call.metadata.dst_node_id
                if now.get(node, before.get(node)) != before.get(node):
                    error = Error(GONE, "it was stopped and started again")
                    replies.append(Message(error, reply_to=waiting.pop(mark)))
        return replies

    def _starts(self) -> dict[int, str]:
        """Return when each node that is connected was last started."""
        return {node.node_id: node.last_activated_at for node in self.get_nodes()}

    # --- the rest is Flower's --------------------------------------------------------

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """The run."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message; the same as calling `Message`."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are connected."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes that are connected."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send `messages`; returns their ids."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, each once."""
        return self._grid.pull_messages(message_ids)
