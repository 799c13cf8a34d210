"""Hospitals that come, go and come back in a deployed run, over a grid in this process."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY
from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from fedcl.checkpoint import Checkpoint
from fedcl.composition import compose
from fedcl.config import DEPLOYED, Config
from fedcl.errors import DataError, FedclError, RunError
from fedcl.grids import InProcessGrid, answer, load_app
from fedcl.link import LinkGrid
from fedcl.messages import GONE
from fedcl.results import results
from fedcl.server import Server

SITES = "ABCD"


class Lines(InProcessGrid):
    """Hospitals whose lines may be down.

    Args:
        folder: of the hospitals' states.
        down: tells whether the line of a site is, from what was asked for so far: pairs of a
            message's type and a site.
        names: that sites are registered under, where these are not their own.
        starts: when a site was started, from the same.
    """

    def __init__(
        self,
        folder: Path,
        down: Callable[[str, list[tuple[str, str]]], bool] = lambda site, sent: False,
        names: dict[str, str] | None = None,
        starts: Callable[[str, list[tuple[str, str]]], str] = lambda site, sent: "",
    ) -> None:
        nodes: list[Any] = [{"site": site, "state-path": str(folder / site)} for site in SITES]
        super().__init__("fedcl.client:app", nodes)
        self.down, self.names, self.starts = down, names or {}, starts
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
        app = load_app(self.app)
        for message in messages:
            node, site = message.metadata.dst_node_id, self.site(message.metadata.dst_node_id)
            down = self.down(site, self.sent)
            self.sent.append((message.metadata.message_type, site))
            if down:
                self._keep(Message(Error(GONE, "node unavailable"), reply_to=message))
            else:
                self._keep(answer(app, message, self.contexts[node]))


def deployed(folder: Path, grid: Grid, *overrides: str) -> Server:
    """Return a server that has not started yet."""
    stages = ["timeline.stages=[[A,B],[C,D]]", "timeline.wait=0.05"]
    values = compose([*TINY, "strategy=finetune", *stages, *overrides])
    values["engine"]["name"] = DEPLOYED
    config = Config.parse(values, simulated=False)
    return Server(grid, config, Checkpoint(folder / "checkpoint"))


def run(server: Server) -> dict[str, Any]:
    """Run to the end; return the results."""
    server.run(server.meet(), 0.0)
    return results(server.config, server.state)


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
    server.state.digests["B"] = "of other data"
    server.run(about, 0.0)
    found = results(server.config, server.state)
    assert grid.sent.count(("query.hello", "B")) == 2
    reasons = {one["reason"] for one in found["failures"] if one["site"] == "B"}
    assert "site B: its data have changed since the run began" in reasons
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
    link = LinkGrid(grid)
    link.POLL = 0.01
    found = run(deployed(tmp_path, link))
    clean = run(deployed(tmp_path / "clean", Lines(tmp_path / "clean")))
    assert found["reputation"]["B"] == {"again": 1, "delivered": 2} and not found["failures"]
    assert found["weights_sha256"] == clean["weights_sha256"]
