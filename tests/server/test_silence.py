"""Hospitals that say nothing: nobody waits for them longer than there is reason to."""

from collections.abc import Collection
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedcl.server import exchange
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.run import Server
from fedcl.wire.codes import RAISED
from fedcl.wire.local_grid import LocalGrid
from tests.server.test_roster import Lines, deployed, lost, rounds, run

TRAIN, VALIDATION, TEST = "train", "evaluate val", "evaluate test"


class Hanging(Lines):
    """Hospitals of which one takes requests to train, and does not answer.

    Args:
        folder: of the hospitals' states.
        site: which one.
        hung: those of its trainings that it does not answer, counted from 1.
        restarted: after how many trainings in all its node is started again.
    """

    def __init__(
        self, folder: Path, site: str, hung: Collection[int], restarted: int = 1000
    ) -> None:
        self.hanging, self.hung, self.asked, self.limits = site, hung, 0, list[float | None]()
        super().__init__(
            folder,
            starts=lambda one, sent: str(one == site and len(rounds(sent)) >= restarted),
        )

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        """Note how long is waited; a long time is not."""
        batch = list(messages)
        if any(message.metadata.message_type == "train" for message in batch):
            self.limits.append(timeout)
        return LocalGrid.send_and_receive(self, batch, timeout=0.01)

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            site = self.site(message.metadata.dst_node_id)
            if (message.metadata.message_type, site) == ("train", self.hanging):
                self.asked += 1
                if self.asked in self.hung:
                    self.sent.append(("train", site))
                    continue
            super()._send([message])


STAGE = ("timeline.stages=[[A,B]]", "timeline.rounds=6", "engine.quorum=1")


def test_who_is_silent_in_three_rounds_in_a_row_is_left_out(tmp_path: Path):
    grid = Hanging(tmp_path, "B", hung=range(2, 100))
    found = run(deployed(tmp_path, grid, *STAGE))
    assert rounds(grid.sent) == [*"ABABABAB", *"AA"]
    silent = [("B", 1, "update")] * 3
    assert lost(found) == [*silent, ("B", 1, "presence"), ("B", 1, "test")]
    assert "until its SuperNode is started again" in found["failures"][3]["reason"]
    assert found["reputation"]["B"] == {"delivered": 1, "lost": 3}


def test_it_is_back_once_its_node_was_started_again(tmp_path: Path):
    grid = Hanging(tmp_path, "B", hung=(2, 3, 4), restarted=9)
    server = deployed(tmp_path, grid, *STAGE)
    found = run(server)
    assert rounds(grid.sent) == [*"ABABABAB", "A", *"AB"]
    assert lost(found) == [*[("B", 1, "update")] * 3, ("B", 1, "presence")]
    assert server.state.ledger.missed == {} and None not in found["matrix"][0]


def test_one_answer_is_enough_to_stay(tmp_path: Path):
    grid = Hanging(tmp_path, "B", hung=(2, 3, 5, 6))
    found = run(deployed(tmp_path, grid, *STAGE))
    assert rounds(grid.sent) == [*"ABABABABABAB"]
    assert lost(found) == [("B", 1, "update")] * 4
    never = Hanging(tmp_path / "never", "B", hung=range(2, 100))
    run(deployed(tmp_path / "never", never, *STAGE, "engine.silent_rounds=null"))
    assert rounds(never.sent) == [*"ABABABABABAB"]


def test_it_is_waited_for_by_how_long_answers_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """In full while it is not known; then ten times the longest, whoever took that long."""
    monkeypatch.setattr(exchange, "LEAST", 0.0)
    grid = Hanging(tmp_path, "B", hung=(1,))
    server = deployed(tmp_path, grid, "timeline.stages=[[A,B]]", "timeline.rounds=3")
    found = run(server)
    longest = server.state.ledger.longest
    assert grid.limits[0] == 3600 and longest.keys() == {TRAIN, VALIDATION, TEST}
    assert longest[TRAIN].keys() == {"A", "B"} and longest[TEST].keys() == {"A", "B"}
    assert all(limit is not None and limit < 3600 for limit in grid.limits[1:])
    assert grid.limits[2] <= 10 * max(longest[TRAIN].values())
    assert lost(found) == [("B", 1, "update")]


def waits(folder: Path, *overrides: str, longest: dict, missed: dict) -> float | None:
    """Return how long the trainings of A and B are waited for, by what is known."""
    server = deployed(folder, Lines(folder), *overrides)
    server.meet()
    ledger = server.exchange.ledger
    ledger.longest, ledger.missed = longest, missed
    nodes = server.exchange.roster.nodes
    batch = [Message(RecordDict({"request": ConfigRecord()}), nodes[s], "train") for s in "AB"]
    return server.exchange.patience(batch, 3600.0)


@pytest.mark.parametrize(
    ("longest", "missed", "overrides", "found"),
    [
        ({}, {}, [], 3600),
        ({TRAIN: {"A": 30, "B": 20}}, {}, [], 300),
        ({TRAIN: {"A": 30}}, {}, [], 3600),  # B may take longer
        ({TRAIN: {"A": 30}}, {"B": 1}, [], 300),  # it had its chance
        ({}, {"B": 1}, [], 3600),
        ({TEST: {"A": 30, "B": 20}}, {}, [], 3600),  # something else
        ({TRAIN: {"A": 3, "B": 2}}, {}, [], 180),  # a process that dies is known after a minute
        ({TRAIN: {"A": 3000, "B": 2}}, {}, [], 3600),
        ({TRAIN: {"A": 30, "B": 20}}, {}, ["engine.patience=20"], 600),
        ({TRAIN: {"A": 30, "B": 20}}, {}, ["engine.patience=null"], 3600),
    ],
)
def test_how_long_is_waited(
    tmp_path: Path, longest: dict, missed: dict, overrides: list, found: float
):
    assert waits(tmp_path, *overrides, longest=longest, missed=missed) == found


def test_what_is_known_of_hospitals_outlives_the_process(tmp_path: Path):
    """A hospital that says hello again starts anew; how long answers took stays known."""
    grid = Hanging(tmp_path, "B", hung=(2, 3))
    server = deployed(tmp_path, grid, *STAGE)

    def stop(*_: object) -> None:
        if server.state.round == 3:
            raise KeyboardInterrupt

    server.checkpoint.save = _after(server.checkpoint, stop)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        run(server)
    state = Checkpoint(tmp_path / "checkpoint").load()
    assert state is not None and state.ledger.missed == {"B": 2}
    assert state.ledger.longest == server.state.ledger.longest
    again = Server(Lines(tmp_path), server.config, Checkpoint(tmp_path / "checkpoint"), state)
    assert run(again)["rounds"] == 6 and again.state.ledger.missed == {}


def _after(checkpoint: Checkpoint, then) -> object:  # type: ignore[no-untyped-def]
    save = checkpoint.save

    def both(state) -> None:  # type: ignore[no-untyped-def]
        save(state)
        then()

    return both


def test_in_a_simulation_no_site_is_given_up(tmp_path: Path):
    """How fast a machine is must not decide over what is learned."""
    server = deployed(tmp_path, Lines(tmp_path))
    server.config.engine.name = "inprocess"
    server.meet()
    server.exchange.ledger.longest = {TRAIN: {"A": 0.001, "B": 0.001}}
    for round_ in range(5):
        server.exchange.heard("B", True, 0, round_)
    assert "B" in server.exchange.roster.nodes
    message = Message(RecordDict(), server.exchange.roster.nodes["B"], "train")
    assert server.exchange.patience([message], 3600.0) == 3600.0


def test_an_error_is_an_answer(tmp_path: Path):
    """Who cannot train says so at once; nobody has to wait."""

    class Failing(Lines):
        def _send(self, messages: list[Message]) -> None:
            for message in messages:
                site = self.site(message.metadata.dst_node_id)
                if (message.metadata.message_type, site) == ("train", "B"):
                    self.sent.append(("train", "B"))
                    self._keep(Message(Error(RAISED, "no memory"), reply_to=message))
                else:
                    super()._send([message])

    grid = Failing(tmp_path)
    found = run(deployed(tmp_path, grid, *STAGE))
    assert found["reputation"]["B"] == {"again": 6, "lost": 6}
    assert rounds(grid.sent)[-3:] == [*"ABB"]
