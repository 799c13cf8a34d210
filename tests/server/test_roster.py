"""Hospitals that come, go and come back in a deployed run, over a grid in this process."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fedcl.config.groups import DEPLOYED
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import DataError, FedclError, RunError
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Watcher
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.wire.answers import Hello
from fedcl.wire.codes import GONE
from fedcl.wire.local_grid import InProcessGrid, LocalGrid, answer
from fedcl.wire.superlink_grid import SuperLinkGrid
from tests.conftest import TINY

SITES = "ABCD"


class Lines(InProcessGrid):
    """Hospitals whose lines may be down.

    Args:
        folder: of the hospitals' states.
        down: tells whether the line of a site is, from what was asked for so far: pairs of a
            message's type and a site.
        names: that sites are registered under, where these are not their own.
        starts: when a site was started, from the same.
        answers: what a site answers instead of what it should, to a type of message.
    """

    def __init__(
        self,
        folder: Path,
        down: Callable[[str, list[tuple[str, str]]], bool] = lambda site, sent: False,
        names: dict[str, str] | None = None,
        starts: Callable[[str, list[tuple[str, str]]], str] = lambda site, sent: "",
        answers: Callable[[str, str, Message], RecordDict | None] = lambda what, site, message: (
            None
        ),
    ) -> None:
        nodes: list[Any] = [{"site": site, "state-path": str(folder / site)} for site in SITES]
        super().__init__("fedcl.hospital.client_app:client_app", nodes)
        self.down, self.names, self.starts, self.answers = down, names or {}, starts, answers
        self.sent: list[tuple[str, str]] = []

    def site(self, node: int) -> str:
        return str(self.contexts[node].node_config["site"])

    def get_nodes(self) -> Iterable[NodeInfo]:
        for node in self.contexts:
            site = self.site(node)
            if not self.down(site, self.sent):
                name, start = self.names.get(site, site), self.starts(site, self.sent)
                yield NodeInfo(node_id=node, name=name, last_activated_at=start)

    def get_node_ids(self) -> Iterable[int]:
        return [node.node_id for node in self.get_nodes()]

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            node, site = message.metadata.dst_node_id, self.site(message.metadata.dst_node_id)
            down = self.down(site, self.sent)
            self.sent.append((message.metadata.message_type, site))
            if down:
                self._keep(Message(Error(GONE, "node unavailable"), reply_to=message))
                continue
            reply = answer(self.loaded, message, self.contexts[node])
            other = self.answers(message.metadata.message_type, site, reply)
            self._keep(reply if other is None else Message(other, reply_to=message))


def deployed(folder: Path, grid: Grid, *overrides: str, name: str = "") -> Server:
    """Return a server that has not started yet."""
    stages = ["timeline.stages=[[A,B],[C,D]]", "timeline.wait=0.05"]
    values = compose([*TINY, "strategy=finetune", *stages, *overrides])
    values["engine"]["name"] = DEPLOYED
    config = Config.parse(values, simulated=False)
    return Server(grid, config, Checkpoint(folder / "checkpoint"), name=name)


def run(server: Server) -> dict[str, Any]:
    """Run to the end; return the results."""
    server.run(server.meet(), Clock())
    return outcome(server.config, server.state).values()


def rounds(sent: list[tuple[str, str]]) -> list[str]:
    """Return the sites that were asked to train, one after the other."""
    return [site for what, site in sent if what == "train"]


def lost(found: dict[str, Any]) -> list[tuple[str, int, str]]:
    """Return site, stage and kind of what was lost."""
    return [(one["site"], one["stage"], one["what"]) for one in found["failures"]]


def test_who_comes_late_enters_with_the_next_round_of_its_stage(tmp_path: Path):
    grid = Lines(tmp_path, lambda site, sent: site == "D" and "C" not in rounds(sent))
    found = run(deployed(tmp_path, grid))
    assert rounds(grid.sent) == [*"ABAB", "C", *"CD"]
    assert lost(found) == [("D", 2, "arrival")] and found["stages"] == [["A", "B"], ["C", "D"]]
    assert None not in found["matrix"][1] and found["matrix"][0][3] is None
    assert found["metrics"]["avg"] is not None and found["metrics"]["fwt"] is None


def test_who_never_comes_holds_nobody_up_and_no_mean_hides_it(tmp_path: Path):
    found = run(deployed(tmp_path, Lines(tmp_path, lambda site, sent: site == "D")))
    assert found["stages"] == [["A", "B"], ["C"]] and found["cases"]["D"] == {}
    assert lost(found) == [("D", 2, "arrival"), ("D", 2, "test")]
    assert found["metrics"]["avg"] is None and found["metrics"]["bwt"] is not None


def test_a_stage_without_any_of_its_hospitals_is_an_error(tmp_path: Path):
    server = deployed(tmp_path, Lines(tmp_path, lambda site, sent: site in "CD"))
    with pytest.raises(RunError, match="stage 2, round 3: none of its sites is there"):
        run(server)


def test_who_is_off_at_the_test_has_no_score_there(tmp_path: Path):
    def down(site: str, sent: list[tuple[str, str]]) -> bool:
        scored = sum(what == "evaluate" for what, _ in sent)
        return site == "B" and scored >= len("ABCD" + "AB" + "AB") and "C" not in rounds(sent)

    found = run(deployed(tmp_path, Lines(tmp_path, down)))
    assert lost(found) == [("B", 1, "test"), ("B", 2, "arrival")]
    assert [row[1] is None for row in found["matrix"]] == [True, False]
    assert found["metrics"]["avg"] is not None and found["metrics"]["bwt"] is None


def test_who_is_cut_off_in_a_round_is_asked_again_and_then_has_lost_it(tmp_path: Path):
    def down(site: str, sent: list[tuple[str, str]]) -> bool:
        return site == "B" and 1 <= len(rounds(sent)) < 4

    found = run(deployed(tmp_path, Lines(tmp_path, down)))
    assert lost(found) == [("B", 1, "update"), ("B", 1, "validation")]
    assert found["reputation"]["B"] == {"again": 2, "lost": 1, "delivered": 1}


def test_a_hospital_answers_for_the_name_it_is_registered_under(tmp_path: Path):
    server = deployed(tmp_path, Lines(tmp_path, names={"B": "A"}))
    with pytest.raises(DataError, match="site A: registered by this name, but says 'B'"):
        run(server)


def test_two_hospitals_of_one_name_are_refused(tmp_path: Path):
    grid = Lines(tmp_path, names=dict.fromkeys("ABCD", ""))
    grid.contexts[3].node_config["site"] = "A"
    with pytest.raises(DataError, match="site A: two hospitals answer to that name"):
        run(deployed(tmp_path, grid))


def test_who_is_connected_and_no_part_of_the_run_is_left_alone(tmp_path: Path):
    grid = Lines(tmp_path)
    grid.contexts[4].node_config["site"] = "stranger"
    found = run(deployed(tmp_path, grid, "timeline.stages=[[A,B],[C]]"))
    assert grid.sent.count(("query.hello", "stranger")) == 1 and not found["failures"]
    assert {site for what, site in grid.sent if what != "query.hello"} == {*"ABC"}


def test_who_comes_with_data_that_cannot_be_used_costs_the_run_nothing_else(tmp_path: Path):
    """At the start it is an error; later it is that hospital's."""
    grid = Lines(tmp_path, lambda site, sent: site == "." and "C" not in rounds(sent))
    grid.contexts[4].node_config["site"] = "."  # no name that a folder can have
    grid.names = {".": "D"}
    found = run(deployed(tmp_path, grid))
    assert {one[:2] for one in lost(found)} == {("D", 2)} and found["stages"][1] == ["C"]
    with pytest.raises(FedclError):
        run(deployed(tmp_path / "b", grid, "timeline.stages=[[C,D],[A,B]]"))


def test_who_was_started_again_says_anew_what_it_holds(tmp_path: Path):
    grid = Lines(tmp_path, starts=lambda site, sent: str("B" in rounds(sent) and site == "B"))
    server = deployed(tmp_path, grid)
    about = server.meet()
    server.state.digests["B"] = "0" * 64
    server.run(about, Clock())
    found = outcome(server.config, server.state).values()
    assert grid.sent.count(("query.hello", "B")) == 2
    told = {one["what"]: one["reason"] for one in found["failures"] if one["site"] == "B"}
    assert {"update", "test"} <= told.keys() and not any("B" in s for s in server.state.trained)
    assert all("site B: its data have changed since the" in reason for reason in told.values())
    assert found["matrix"][1][1] is None and found["metrics"]["avg"] is None


class Restarting(Lines):
    """The line of a SuperNode that takes a message on and is started again at once."""

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            site = self.site(message.metadata.dst_node_id)
            call = message.metadata.message_type, site
            if call == ("train", "B") and call not in self.sent:
                self.sent.append(call)
            else:
                super()._send([message])


def test_what_a_restarted_hospital_had_taken_on_is_asked_for_again(tmp_path: Path):
    grid = Restarting(tmp_path, starts=lambda site, sent: str(site == "B" and "B" in rounds(sent)))
    link = SuperLinkGrid(grid)
    link.POLL = 0.01
    found = run(deployed(tmp_path, link))
    clean = run(deployed(tmp_path / "clean", Lines(tmp_path / "clean")))
    assert found["reputation"]["B"] == {"again": 1, "delivered": 2} and not found["failures"]
    assert found["weights_sha256"] == clean["weights_sha256"]


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({"missing": ConfigRecord({})}),
        RecordDict({"missing": ConfigRecord({"records": ["teacher"]})}),
        RecordDict({}),
    ],
)
def test_whatever_one_hospital_answers_is_its_own_failure(tmp_path: Path, content: RecordDict):
    grid = Lines(
        tmp_path, answers=lambda what, site, _: content if (what, site) == ("train", "B") else None
    )
    found = run(deployed(tmp_path, grid, "strategy=ted"))
    assert lost(found) == [("B", 1, "update")] * 2 and found["stages"] == [["A"], ["C", "D"]]


def test_what_a_hospital_says_is_one_line_of_a_bounded_length(tmp_path: Path):
    grid = Lines(tmp_path)
    server = deployed(tmp_path, grid)
    server.state.ledger.fail("A", 0, 1, "update", "\x1b[31mred" + "x" * 1000 + "\nsecret")
    (failure,) = server.state.ledger.failures
    assert failure["reason"] == "[31mred" + "x" * 493


def test_who_says_nothing_at_first_is_asked_at_the_next_stage(tmp_path: Path):
    class Slow(Lines):
        """D does not answer the first question who it is."""

        def _send(self, messages: list[Message]) -> None:
            for message in messages:
                call = message.metadata.message_type, self.site(message.metadata.dst_node_id)
                if call == ("query.hello", "D") and call not in self.sent:
                    self.sent.append(call)
                else:
                    super()._send([message])

        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            return LocalGrid.send_and_receive(self, messages, timeout=0.01)

    grid = Slow(tmp_path)
    found = run(deployed(tmp_path, grid))
    assert grid.sent.count(("query.hello", "D")) == 2 and found["failures"] == []
    assert found["stages"] == [["A", "B"], ["C", "D"]]


def test_two_runs_at_the_same_hospitals_keep_apart_what_stays_there(tmp_path: Path):
    """A run is stopped, another one takes place, the first goes on: as if there were no other."""

    def begin(name: str, *overrides: str) -> Server:
        grid = Lines(tmp_path / "hospitals")
        settings = ["strategy=fedbn", "model.norm=batch", *overrides]
        return deployed(tmp_path / name, grid, *settings, name=name)

    expected = run(begin("run-1"))
    first = begin("run-2")
    first.watchers.append(Stop(after=2))
    with pytest.raises(KeyboardInterrupt):
        run(first)
    run(begin("run-3", "seed=7"))
    state = first.checkpoint.load()
    grid = Lines(tmp_path / "hospitals")
    again = Server(grid, first.config, first.checkpoint, state, name="run-2")
    assert run(again)["weights_sha256"] == expected["weights_sha256"]
    assert {path.name for path in (tmp_path / "hospitals" / "A").glob("run-*")} == {
        "run-1", "run-2", "run-3",
    }  # fmt: skip


class Stop(Watcher):
    """Interrupts a run after a round."""

    def __init__(self, after: int) -> None:
        self.after = after

    def round_began(self, stage: int, number: int, cohort: list[str]) -> None:
        if number > self.after:
            raise KeyboardInterrupt


def test_what_went_out_before_a_crash_is_paid_for_in_privacy(tmp_path: Path):
    """The server dies while round 1's weights are validated, and B is off when it goes on."""
    grid = Lines(tmp_path)
    server = deployed(tmp_path, grid, "privacy=central_dp", "timeline.rounds=1")

    def down(site: str, sent: list[tuple[str, str]]) -> bool:
        if rounds(sent) == ["A", "B"] and sent[-1] == ("evaluate", "A"):
            raise KeyboardInterrupt
        return False

    grid.down = down
    with pytest.raises(KeyboardInterrupt):
        run(server)
    state = server.checkpoint.load()
    assert state is not None and state.round == 0
    off = Lines(tmp_path, lambda site, sent: site == "B" and "C" not in rounds(sent))
    epsilon = run(Server(off, server.config, server.checkpoint, state))["privacy"]["epsilon"]
    assert epsilon["A"] > epsilon["B"] == epsilon["C"] > 0, "A has trained for it twice"


def test_a_restarted_hospital_that_has_lost_everything_is_sent_it_in_the_same_round(
    tmp_path: Path,
):
    """In the second round of stage 2 C is down at first, and has then no teacher any more."""

    def down(site: str, sent: list[tuple[str, str]]) -> bool:
        if site == "C" and rounds(sent) == [*"ABABCD"] and sent[-1][0] == "evaluate":
            for path in (tmp_path / "C").rglob("*.safetensors"):
                path.unlink()
            return True
        return False

    grid = Lines(tmp_path, down)
    found = run(deployed(tmp_path, grid, "strategy=ted", "timeline.stages=[[A,B],[C,D]]"))
    assert rounds(grid.sent).count("C") == 4, "without an answer, without a teacher, with one"
    assert found["failures"] == [] and found["reputation"]["C"] == {"again": 1, "delivered": 2}


def test_among_registered_names_nobody_is_without_one(tmp_path: Path):
    grid = Lines(tmp_path, names={"B": ""})
    with pytest.raises(DataError, match="site B: registered without a name"):
        run(deployed(tmp_path, grid))


def test_who_may_not_speak_for_a_hospital_does_it_no_harm(tmp_path: Path):
    """In the second round a node comes that is registered without a name, and says to be A."""
    grid = Lines(tmp_path, lambda site, sent: site == "?" and len(rounds(sent)) < 2)
    grid.contexts[4].node_config["site"] = "?"
    grid.names = {"?": "", "A": "A"}
    server = deployed(tmp_path, grid, "timeline.stages=[[A,B],[C]]")
    about = server.meet()
    grid.site = lambda node: "ABC?"[node - 1]  # what it is here; it says otherwise
    grid.contexts[4].node_config["site"] = "A"
    server.run(about, Clock())
    found = outcome(server.config, server.state).values()
    assert (
        list(server.exchange.roster.refused) == ["node 4"] and "A" in server.exchange.roster.nodes
    )
    assert found["failures"] == [] and None not in found["matrix"][1]


@pytest.mark.parametrize("strategy", ["finetune", "cauaug"])
@pytest.mark.parametrize("shape", [[64], [1, 64], [1, 64, 64, 64]])
@pytest.mark.parametrize("site", ["A", "B"])
def test_samples_with_other_axes_are_refused(
    tmp_path: Path, site: str, shape: list[int], strategy: str
):
    """Whichever hospital says so, the first that is met or another; what there is has both."""

    def answer(what: str, one: str, message: Message) -> RecordDict | None:
        said = Hello(one, digest="x", train=3, val=1, test=1, samples=9, shape=shape)
        return said.pack() if what == "query.hello" and one == site else None

    server = deployed(tmp_path, Lines(tmp_path, answers=answer), f"strategy={strategy}")
    with pytest.raises(DataError, match=f"site {site}: .*(axes|cannot take samples)"):
        server.meet()


def test_a_refusal_ends_when_its_node_is_stopped(tmp_path: Path):
    """A hospital that is being mended is waited for, and asked when it is there again."""
    grid = Lines(tmp_path)
    hospitals = deployed(tmp_path, grid).exchange.roster

    def admit(site: str, hello: Hello) -> None:
        if site == "C" and not grid.starts(site, []):
            raise DataError("its data cannot be used")

    hospitals.admit = admit
    hospitals.meet()
    assert "C" in hospitals.refused and "C" not in hospitals.meet("C")
    grid.down = lambda site, sent: site == "C"
    assert not hospitals.meet() and not hospitals.refused
    grid.down, grid.starts = lambda site, sent: False, lambda site, sent: str(site == "C")
    assert "C" in hospitals.meet("C") and not hospitals.refused


def test_without_the_reports_that_are_owed_a_stage_cannot_end(tmp_path: Path):
    def down(site: str, sent: list[tuple[str, str]]) -> bool:
        return site in "AB" and sent.count(("evaluate", "D")) == 2  # all are tested, then

    server = deployed(tmp_path, Lines(tmp_path, down), "strategy=ewc")
    with pytest.raises(RunError, match="0 of 2 sites reported after stage 1"):
        run(server)
