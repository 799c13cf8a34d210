"""The grids: the same answers from one process and from Ray, and what happens when it fails."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import closing

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedcl.errors import ConfigError
from fedcl.wire.codes import CRASHED, RAISED
from fedcl.wire.local_grid import InProcessGrid, LocalGrid, NodeConfig
from fedcl.wire.ray_grid import RayGrid

pytestmark = pytest.mark.ray

APP = "tests.apps:app"
WEIGHTS = ArrayRecord({"w": Array(np.arange(12, dtype=np.float32).reshape(3, 4))})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(
            {"workers": 1000}, "engine.workers: 1000 workers", marks=pytest.mark.exhaustive
        ),
        ({"workers": 1, "num_gpus": 64.0}, "engine.workers: 1 workers with num_cpus=1"),
        ({"address": "127.0.0.1:1"}, "engine.address: no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_an_engine_that_cannot_be_had_is_named(settings: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        RayGrid(APP, [{"site": "S0"}], **settings)


def calls(grid: LocalGrid, sites: Sequence[str], **call: float) -> list[Message]:
    """Return a message to each of these sites."""
    content = RecordDict({"arrays": WEIGHTS, "call": ConfigRecord(call)})
    ids = {str(context.node_config["site"]): n for n, context in grid.contexts.items()}
    return [Message(content, ids[site], "train") for site in sites]


def answers(grid: LocalGrid, messages: list[Message], **more: float) -> dict[str, Message]:
    """Return the replies by site."""
    replies = grid.send_and_receive(messages, **more)
    by_node = {reply.metadata.src_node_id: reply for reply in replies}
    return {
        str(grid.contexts[message.metadata.dst_node_id].node_config["site"]): by_node[
            message.metadata.dst_node_id
        ]
        for message in messages
        if message.metadata.dst_node_id in by_node
    }


PLAIN = [f"S{n}" for n in range(40)]


@pytest.fixture(scope="module", params=["inprocess", "ray"])
def grid(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalGrid]:
    """Open a grid of either kind, of good nodes and bad: Ray takes long to start."""
    folder = tmp_path_factory.mktemp("diary")
    nodes: list[NodeConfig] = [{"site": site} for site in [*PLAIN, "near", "far"]]
    nodes += [{"site": "bad", "raises": True}, {"site": "stuck", "hangs": True}]
    nodes += [{"site": "dies 1", "dies": 1, "diary": str(folder / "deaths")}]
    if request.param == "inprocess":
        yield InProcessGrid(APP, nodes)
    else:
        with closing(RayGrid(APP, nodes, workers=2)) as opened:
            yield opened


ON_RAY = pytest.mark.parametrize("grid", ["ray"], indirect=True)


def test_every_node_answers_with_its_own_context_and_exact_arrays(grid: LocalGrid):
    seen: list[Message] = []
    grid.on_reply = seen.append
    for _ in range(2):
        messages = calls(grid, PLAIN[:5])
        replies = answers(grid, messages)
        assert sorted(replies) == PLAIN[:5]
        for site, reply in replies.items():
            assert reply.content["about"]["site"] == site
            assert reply.content["arrays"]["w"].numpy().tolist() == WEIGHTS["w"].numpy().tolist()
        assert all("arrays" in m.content for m in messages), "the callers' messages are untouched"
    assert len(seen) == 10


def test_an_app_that_raises_costs_its_own_reply_and_says_why(grid: LocalGrid):
    replies = answers(grid, calls(grid, ["S0", "S1", "bad"]))
    bad = replies.pop("bad")
    assert all(reply.has_content() for reply in replies.values()) and len(replies) == 2
    assert bad.error.code == RAISED
    first, _, traceback = bad.error.reason.partition("\n")
    assert re.fullmatch(r"ValueError: no luck at bad \(apps\.py, line \d+\)", first)
    assert "apps.py" in traceback


def test_push_and_pull_give_each_reply_once(grid: LocalGrid):
    ids = list(grid.push_messages(calls(grid, PLAIN[:3])))
    replies: list[Message] = []
    deadline = time.monotonic() + 60
    while len(replies) < 3 and time.monotonic() < deadline:
        replies += grid.pull_messages(ids)
        time.sleep(0.01)
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(ids)
    assert list(grid.pull_messages(ids)) == []


@ON_RAY
def test_a_site_comes_back_to_the_worker_that_has_its_data(grid: LocalGrid):
    served: dict[str, set[int]] = {}
    for _ in range(4):
        for site, reply in answers(grid, calls(grid, ["near", "far"], sleep=0.2)).items():
            served.setdefault(site, set()).add(int(reply.content["about"]["process"]))
    assert [len(processes) for processes in served.values()] == [1, 1]


@ON_RAY
def test_short_calls_travel_together_and_every_node_still_answers(grid: LocalGrid):
    for _ in range(3):
        assert sorted(answers(grid, calls(grid, PLAIN))) == sorted(PLAIN)


@ON_RAY
def test_a_worker_that_dies_costs_its_call_and_is_replaced(grid: LocalGrid):
    for expected in (False, True):
        replies = answers(grid, calls(grid, ["S0", "dies 1", "S1"]))
        assert replies["S0"].has_content() and replies["S1"].has_content()
        assert replies["dies 1"].has_content() == expected
        if not expected:
            assert replies["dies 1"].error.code == CRASHED
            assert replies["dies 1"].error.reason.startswith("its worker died (")


@ON_RAY
def test_a_node_that_hangs_is_left_behind_and_its_worker_freed(grid: LocalGrid):
    assert sorted(answers(grid, calls(grid, ["S0", "stuck"]), timeout=10)) == ["S0"]
    for _ in range(3):  # both workers are there again
        assert list(answers(grid, calls(grid, ["S0"]), timeout=60)) == ["S0"]
