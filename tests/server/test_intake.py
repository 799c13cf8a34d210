"""A round's updates as they come in: in site order, and none is held for longer than it must be."""

import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message

from fedcl.arrays import Arrays
from fedcl.effort import Clock
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.exchange import Failure
from fedcl.server.intake import Intake
from fedcl.server.run import Server
from fedcl.wire.answers import Scored, Update
from fedcl.wire.local_grid import InProcessGrid
from fedcl.wire.records import to_record
from fedcl.wire.requests import EvaluateRequest
from tests.servers import config

SITES = "ABCDEF"


@pytest.fixture
def server(tmp_path: Path) -> Server:
    """Return a server that has met six hospitals."""
    nodes = [{"site": site, "state-path": str(tmp_path / site)} for site in SITES]
    grid = InProcessGrid("tests.apps:rogue", nodes)
    made = Server(grid, config("strategy=finetune"), Checkpoint(tmp_path / "checkpoint"))
    made.meet()
    return made


def requests(server: Server) -> dict[str, EvaluateRequest]:
    sent = to_record(dict(weights(server)))
    return {
        site: server.exchange.request(
            EvaluateRequest,
            site,
            0,
            model=server.config.job.roles[site].model,
            arrays=sent,
            split="val",
        )
        for site in SITES
    }


def intake_of(server: Server, sites: str, *overrides: str) -> Intake:
    settings = config("strategy=finetune", "timeline.stages=[[A,B,C,D,E,F]]", *overrides)
    return Intake(settings, server.state, server.architectures, dict.fromkeys(sites, 10), {})


def update_of(server: Server, change: float = 0.0, samples: int = 10) -> Update:
    moved: Arrays = {key: value + np.asarray(change, value.dtype) for key, value in weights(server)}
    return Update(moved, round=1, samples=samples, losses={}, seconds=0.0)


def weights(server: Server) -> list[tuple[str, np.ndarray]]:
    (architecture,) = server.architectures.values()
    return list(architecture.shared(server.state.weights).items())


def joined(intake: Intake, server: Server) -> Arrays:
    (architecture,) = server.architectures.values()
    return intake.joining(architecture).result((0, 1))


def test_a_site_is_heard_as_soon_as_those_before_it_were(server: Server):
    exchange, heard = server.exchange, []
    sent = exchange.grid.send_and_receive(exchange.messages(requests(server)))
    replies = {reply.metadata.src_node_id: reply for reply in sent}

    def late() -> Iterator[Message]:
        for site in "BCAFD":  # and E says nothing
            heard.append(site.lower())
            yield replies[exchange.roster.nodes[site]]

    answers = {}
    for site, answer in exchange.answers(Scored, SITES, late()):
        heard.append(site)
        answers[site] = answer
    assert "".join(heard) == "bcaABCfdDEF"
    assert isinstance(answers["E"], Failure) and answers["E"].reason.startswith("no answer within")
    assert all(isinstance(answers[site], Scored) for site in "ABCDF")


def test_what_was_heard_is_counted_though_the_rest_is_not_wanted(server: Server):
    exchange = server.exchange
    before = dict(exchange.ledger.seconds)
    replies = exchange.grid.send_and_receive(exchange.messages(requests(server)))
    answers = exchange.answers(Scored, SITES, replies)
    _, first = next(answers)
    answers.close()
    assert isinstance(first, Scored)
    assert exchange.ledger.seconds["evaluate"] == before["evaluate"] + first.seconds
    again = exchange.ask(Scored, {"B": requests(server)["B"]})
    assert isinstance(again["B"], Scored), "what nobody waited for is in nobody's way"


def test_a_round_of_many_sites_takes_no_more_memory_than_one_of_few(server: Server):
    big = {"w": np.ones(100_000, np.float32)}
    server.state.weights = {"w": np.zeros(100_000, np.float32)}

    def peak(sites: str) -> int:
        intake = intake_of(server, sites)
        tracemalloc.start()
        for site in sites:
            copy = {key: value.copy() for key, value in big.items()}
            intake.take(site, Update(copy, 1, 10, {}, 0.0))
            del copy
        intake.close()
        assert all(update.arrays == {} for update in intake.updates.values())
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert joined(intake, server)["w"].tolist() == big["w"].tolist()
        return most

    assert peak("ABCDEF") < peak("AB") + big["w"].nbytes / 2


@pytest.mark.parametrize("overrides", [[], ["engine.norm_bound=3"], ["aggregation=median"]])
def test_one_bad_update_is_left_out_and_the_others_count(server: Server, overrides: list[str]):
    intake = intake_of(server, "ABCD", *overrides)
    for site, change in {"A": 1.0, "B": np.nan, "D": 1.0}.items():
        intake.take(site, update_of(server, change))
    intake.take("C", Failure("no answer"))
    intake.close()
    assert list(intake.updates) == ["A", "D"] and list(intake.refused) == ["B", "C"]
    assert [intake.refused[site].came for site in "BC"] == [True, False]
    assert "is not finite" in intake.refused["B"].reason
    for key, value in joined(intake, server).items():
        np.testing.assert_array_equal(
            value, dict(weights(server))[key] + np.asarray(1, value.dtype)
        )


def test_a_run_of_a_hundred_hospitals_ends_with_what_all_of_them_sent(tmp_path: Path):
    """They send back what they were sent, so that nothing may change."""
    settings = config("strategy=finetune", "scenario.hospitals=100", "timeline.per_stage=100")
    nodes = [{"site": site} for site in settings.timeline.sites]
    grid = InProcessGrid("benchmarks.scale:idle", nodes)
    server = Server(grid, settings, Checkpoint(tmp_path / "checkpoint"))
    before = dict(weights(server))
    server.run(server.meet(), Clock())
    assert [len(stage) for stage in server.state.trained] == [100]
    assert not server.state.ledger.failures and server.state.round == 2
    for key, value in weights(server):
        np.testing.assert_array_equal(value, before[key])
