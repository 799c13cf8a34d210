"""The grids: the same answers from one process and from Ray, and what happens when it fails."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fedcl.errors import ConfigError
from fedcl.grids import CRASHED, RAISED, InProcessGrid, LocalGrid, RayGrid

APP = "tests.apps:app"
WEIGHTS = ArrayRecord({"w": Array(np.arange(12, dtype=np.float32).reshape(3, 4))})


def calls(grid: LocalGrid, **call: float) -> list[Message]:
    content = RecordDict({"arrays": WEIGHTS, "call": ConfigRecord(call)})
    return [Message(content, node, "train") for node in grid.get_node_ids()]


def nodes(count: int, **more: object) -> list[dict]:
    return [{"site": f"S{n}", **more} for n in range(count)]


@pytest.fixture(params=["inprocess", "ray"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[..., LocalGrid]]:
    """Open a grid of either kind."""
    opened: list[LocalGrid] = []

    def open_(nodes: list[dict], **more: object) -> LocalGrid:
        kind = InProcessGrid if request.param == "inprocess" else RayGrid
        opened.append(kind(APP, nodes, **more))
        return opened[-1]

    yield open_
    for grid in opened:
        grid.close()


def test_every_node_answers_with_its_own_context_and_exact_arrays(make):
    seen = []
    grid = make(nodes(5), on_reply=seen.append)
    for _ in range(2):
        messages = calls(grid)
        replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(messages)}
        assert sorted(replies) == [1, 2, 3, 4, 5]
        for number, reply in replies.items():
            assert reply.content["about"]["site"] == f"S{number - 1}"
            assert reply.content["arrays"]["w"].numpy().tolist() == WEIGHTS["w"].numpy().tolist()
        assert all("arrays" in m.content for m in messages), "the callers' messages are untouched"
    assert len(seen) == 10


def test_an_app_that_raises_costs_its_own_reply_and_says_why(make):
    grid = make([*nodes(2), {"site": "bad", "raises": True}])
    *good, bad = sorted(
        grid.send_and_receive(calls(grid)), key=lambda reply: reply.metadata.src_node_id
    )
    assert all(reply.has_content() for reply in good)
    assert bad.error.code == RAISED
    first, _, traceback = bad.error.reason.partition("\n")
    assert re.fullmatch(r"ValueError: no luck at bad \(apps\.py, line \d+\)", first)
    assert "apps.py" in traceback


def test_push_and_pull_give_each_reply_once(make):
    grid = make(nodes(3))
    ids = list(grid.push_messages(calls(grid)))
    replies: list[Message] = []
    deadline = time.monotonic() + 60
    while len(replies) < 3 and time.monotonic() < deadline:
        replies += grid.pull_messages(ids)
        time.sleep(0.01)
    assert {reply.metadata.reply_to_message_id for reply in replies} == set(ids)
    assert list(grid.pull_messages(ids)) == []


@pytest.mark.parametrize(("deaths", "survives"), [(1, True), (2, False)])
def test_a_worker_that_dies_is_tried_once_more(tmp_path: Path, deaths: int, survives: bool):
    mortal = {"site": "M", "dies": deaths, "diary": str(tmp_path / "deaths")}
    with closing(RayGrid(APP, [*nodes(2), mortal], workers=2)) as grid:
        for round_ in range(2):
            replies = {r.metadata.src_node_id: r for r in grid.send_and_receive(calls(grid))}
            assert replies[1].has_content() and replies[2].has_content()
            assert replies[3].has_content() == (survives or round_ == 1)
        if not survives:
            assert (tmp_path / "deaths").read_text() == "xx"


def test_the_reason_of_a_lost_call_is_a_crash(tmp_path: Path):
    mortal = {"site": "M", "dies": 2, "diary": str(tmp_path / "deaths")}
    with closing(RayGrid(APP, [mortal], workers=1)) as grid:
        (reply,) = grid.send_and_receive(calls(grid))
        assert reply.error.code == CRASHED
        assert "died twice" in reply.error.reason


def test_a_node_that_hangs_is_left_behind_and_its_worker_freed():
    with closing(RayGrid(APP, [*nodes(1), {"site": "H", "hangs": True}], workers=2)) as grid:
        replies = list(grid.send_and_receive(calls(grid), timeout=5))
        assert [reply.metadata.src_node_id for reply in replies] == [1]
        again = [message for message in calls(grid) if message.metadata.dst_node_id == 1]
        for _ in range(3):  # both workers are there again
            assert len(list(grid.send_and_receive(again, timeout=60))) == 1


def test_a_site_comes_back_to_the_worker_that_has_its_data():
    with closing(RayGrid(APP, nodes(2), workers=2)) as grid:
        served: dict[str, set[int]] = {}
        for _ in range(4):
            for reply in grid.send_and_receive(calls(grid, sleep=0.2)):
                about = reply.content["about"]
                served.setdefault(str(about["site"]), set()).add(int(about["process"]))
        assert [len(processes) for processes in served.values()] == [1, 1]


def test_short_calls_travel_together_and_every_node_still_answers():
    with closing(RayGrid(APP, nodes(40), workers=2)) as grid:
        for _ in range(3):
            replies = grid.send_and_receive(calls(grid))
            assert sorted(r.metadata.src_node_id for r in replies) == list(range(1, 41))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"workers": 1000}, "engine.workers: 1000 workers"),
        ({"workers": 1, "num_gpus": 64.0}, "engine.workers: 1 workers with num_cpus=1"),
        ({"address": "127.0.0.1:1"}, "engine.address: no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_an_engine_that_cannot_be_had_is_named(settings: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        RayGrid(APP, nodes(1), **settings)
