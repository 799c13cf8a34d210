"""Hospitals that deliver rubbish: it costs their round, is named, and goes no further."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedcl.config.groups import Engine
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import ConfigError, RunError
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.wire.local_grid import InProcessGrid
from fedcl.wire.requests import TrainRequest
from tests.servers import config, serve

SPOILT = {
    "nan": "not finite",
    "shape": "has shape",
    "missing": "its arrays are not those that were asked for",
    "empty": "malformed update",
    "weightless": "malformed update",
    "loss": "the loss is not finite (seg)",
}


@pytest.mark.parametrize(("spoil", "said"), SPOILT.items())
def test_a_spoilt_update_costs_that_round_of_that_site(tmp_path: Path, spoil: str, said: str):
    settings = config("strategy=finetune")
    state = serve(tmp_path, settings, spoil).state
    (failure,) = outcome(settings, state).values()["failures"]
    assert (failure["site"], failure["stage"], failure["round"]) == ("D", 2, 3)
    assert said in failure["reason"] and "\n" not in failure["reason"]
    known = outcome(settings, state).values()["reputation"]["D"]
    assert (known.get("refused"), known.get("lost")) == (
        (None, 1) if spoil == "loss" else (1, None)
    )
    assert all(np.isfinite(array).all() for array in state.weights.values())
    assert state.trained == [["A", "B"], ["C", "D"], ["E", "F"]], "D trained in the next round"
    clean = serve(tmp_path / "clean", settings, None).state
    assert (
        outcome(settings, clean).values()["weights_sha256"]
        != outcome(settings, state).values()["weights_sha256"]
    )


@pytest.mark.parametrize("quorum", ["2", "1.0"])
def test_below_the_quorum_the_run_stops_and_can_be_resumed(tmp_path: Path, quorum: str):
    settings = config("strategy=finetune", f"engine.quorum={quorum}")
    with pytest.raises(RunError, match=r"stage 2, round 3: 1 of 2 sites.*quorum.*D: "):
        serve(tmp_path, settings, "nan")
    state = Checkpoint(tmp_path / "checkpoint").load()
    assert (state.round, state.stage) == (2, 1), "the round below the quorum left no trace"
    resumed = serve(tmp_path, settings, None, state).state
    never_failed = serve(tmp_path / "clean", settings, None).state
    one, two = (outcome(settings, s).values() for s in (resumed, never_failed))
    assert one["weights_sha256"] == two["weights_sha256"]
    assert one["matrix"] == two["matrix"]


def test_a_quorum_in_parts_asks_for_as_many_as_it_says():
    """0.28 * 25 is 7.000000000000001 in floating point."""
    asked = Engine(name="inprocess")
    for hundredths in range(1, 101):
        engine = replace(asked, quorum=hundredths / 100)
        for cohort in range(1, 101):
            assert engine.needed(cohort) == -(-hundredths * cohort // 100)


def test_second_moments_without_measure_spoil_a_round_as_weights_do(tmp_path: Path):
    """A finite update whose square is not: no snapshot with it could be read again."""
    nodes: list[dict] = [{"site": site, "state-path": str(tmp_path / site)} for site in "ABCD"]
    nodes[3] |= {"spoil": "huge", "bad-round": 3}
    more = ("timeline.stages=[[A,B],[C,D]]", "learner.lr=0.01", "engine.largest_change=null")
    settings = config("strategy=finetune", "aggregation=fedadam", *more)
    server = Server(
        InProcessGrid("tests.apps:rogue", nodes), settings, Checkpoint(tmp_path / "checkpoint")
    )
    server.run(server.meet(), Clock())
    momentum = server.state.momentum.values()
    assert all(np.isfinite(one).all() for one in momentum) and server.state.shut_out == []
    (failure,) = outcome(settings, server.state).values()["failures"]
    assert (failure["site"], failure["round"]) == ("D", 3) and "not finite" in failure["reason"]


class Listening(InProcessGrid):
    """Keeps whom the hospitals of each round take for not heard."""

    lost: dict[int, list[str]]

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if message.metadata.message_type == TrainRequest.TYPE:
                call = TrainRequest.unpack(message.content)
                self.lost[call.round] = call.lost
        super()._send(messages)


def test_who_has_not_delivered_has_taught_nothing(tmp_path: Path):
    nodes: list[dict] = [{"site": site, "state-path": str(tmp_path / site)} for site in "ABCDEF"]
    nodes[3] |= {"spoil": "nan", "bad-round": 3}
    grid = Listening("tests.apps:rogue", nodes)
    grid.lost = {}
    settings = config("strategy=lwf", "strategy.teacher.refresh=round")
    server = Server(grid, settings, Checkpoint(tmp_path / "checkpoint"))
    server.run(server.meet(), Clock())
    said = [set(grid.lost[round_]) for round_ in range(1, 7)]
    assert said == [{*"AB"}, set(), {*"CD"}, {"D"}, {*"EF"}, set()]


def test_a_cohort_of_one_that_fails_stops_the_run(tmp_path: Path):
    settings = config("timeline.stages=[[A],[D]]", "timeline.rounds=2", "strategy=finetune")
    with pytest.raises(RunError, match="0 of 1 sites"):
        serve(tmp_path, settings, "nan")


def test_changed_data_are_refused_on_resume(tmp_path: Path):
    settings = config("strategy=finetune")
    state = serve(tmp_path, settings, None).state
    state.digests["B"] = "0" * 64
    with pytest.raises(Exception, match="site B: its data have changed"):
        serve(tmp_path, settings, None, state)


REPORTS = {
    "keys": "its arrays are not those that were asked for",
    "shape": "has shape",
    "negative": "has values outside of",
    "huge": "has values outside of",
    "nan": "is not finite float32",
}


def remembered(folder: Path, settings: Config, **spoilt: str) -> State:
    """Run with sites whose reports are spoilt; return the last state."""
    nodes: list[dict] = [{"site": site, "state-path": str(folder / site)} for site in "ABCDEF"]
    for site, spoil in spoilt.items():
        nodes["ABCDEF".index(site)]["report"] = spoil
    grid = InProcessGrid("tests.apps:rogue", nodes)
    server = Server(grid, settings, Checkpoint(folder / "checkpoint"))
    server.run(server.meet(), Clock())
    return server.state


@pytest.mark.parametrize(
    ("strategy", "spoil"),
    [*(("ewc", spoil) for spoil in REPORTS), ("cauaug", "shape"), ("souvenir", "huge")],
)
def test_a_spoilt_report_costs_its_site_and_nothing_else(tmp_path: Path, strategy: str, spoil: str):
    settings = config(f"strategy={strategy}")
    state = remembered(tmp_path, settings, A=spoil)
    failures = outcome(settings, state).values()["failures"]
    assert {(failure["site"], failure["what"]) for failure in failures} == {("A", "report")}
    assert REPORTS[spoil] in failures[0]["reason"]
    assert all(np.isfinite(array).all() for array in state.memory.values())
    assert state.round == 6


def test_reports_below_the_quorum_stop_the_run(tmp_path: Path):
    settings = config("strategy=ewc", "engine.quorum=1.0")
    with pytest.raises(RunError, match=r"1 of 2 sites reported after stage 1.*quorum"):
        remembered(tmp_path, settings, A="nan")
    state = Checkpoint(tmp_path / "checkpoint").load()
    assert (state.round, state.stage, state.memory) == (2, 0, {})


def test_a_site_that_kept_nothing_is_not_asked_to_rehearse(tmp_path: Path):
    settings = config("strategy=replay", "timeline.rounds=1")
    state = serve(tmp_path, settings, None).state
    assert set(state.stored) == set("ABCDEF")
    lost = tmp_path / "lost"
    nodes: list[dict] = [{"site": site, "state-path": str(lost / site)} for site in "ABCDEF"]
    nodes[0] |= {"spoil": "nan", "bad-round": 1}
    server = Server(
        InProcessGrid("tests.apps:rogue", nodes), settings, Checkpoint(lost / "checkpoint")
    )
    server.run(server.meet(), Clock())
    failures = outcome(settings, server.state).values()["failures"]
    assert [(f["site"], f["round"]) for f in failures] == [("A", 1)]
    assert set(server.state.stored) == set("BCDEF")


def test_a_snapshot_of_another_version_is_refused(tmp_path: Path):
    settings = config("strategy=finetune")
    serve(tmp_path, settings, None)
    for path in (tmp_path / "checkpoint").glob("round-*/state.json"):
        numbers = json.loads(path.read_text())
        del numbers["format"]
        path.write_text(json.dumps(numbers))
    with pytest.raises(ConfigError, match="another version of fedcl"):
        Checkpoint(tmp_path / "checkpoint").load()
