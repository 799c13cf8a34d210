"""Hospitals that have just died, or come back with another key."""

from collections.abc import Iterable
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo

from fedcl.wire.codes import GONE
from tests.server.test_roster import Lines, deployed, lost, run


class Died(Lines):
    """The line of B, which has died a moment ago, is listed still, and is back soon."""

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            call = message.metadata.message_type, self.site(message.metadata.dst_node_id)
            if call == ("query.hello", "B") and self.sent.count(call) < 3:
                self.sent.append(call)
                self._keep(Message(Error(GONE, "node unavailable"), reply_to=message))
            else:
                super()._send([message])


def test_who_died_a_moment_ago_is_waited_for(tmp_path: Path):
    grid = Died(tmp_path, starts=lambda site, sent: str(sent.count(("query.hello", site)) > 2))
    found = run(deployed(tmp_path, grid, "timeline.wait=30"))
    assert not found["failures"] and found["stages"] == [["A", "B"], ["C", "D"]]


class Rotated(Lines):
    """The line of B, whose key is changed while it trains: from then on it is another node."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.old, self.new, self.rotated = 2, 5, False
        own = self.contexts[self.old].node_config
        self.contexts[self.new] = Context(1, self.new, own, RecordDict(), {})

    def get_nodes(self) -> Iterable[NodeInfo]:
        gone = self.old if self.rotated else self.new
        return [node for node in super().get_nodes() if node.node_id != gone]

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            old = message.metadata.dst_node_id == self.old
            self.rotated |= old and message.metadata.message_type == "train"
            if old and self.rotated:
                self._keep(Message(Error(GONE, "node unavailable"), reply_to=message))
            else:
                super()._send([message])


def test_a_key_that_is_changed_in_a_round_costs_no_more_than_the_round(tmp_path: Path):
    """Nobody waits for the node that is no more: it would be for ten minutes."""
    found = run(deployed(tmp_path, Rotated(tmp_path), "timeline.wait=600"))
    assert lost(found) == [("B", 1, "update"), ("B", 1, "validation")]
    assert found["stages"] == [["A", "B"], ["C", "D"]] and found["matrix"][-1].count(None) == 0
