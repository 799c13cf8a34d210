"""The program of a hospital and its warm process, and what happens to both."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from flwr.app import Message, RecordDict
from flwr.cli.build import build_fab_from_disk

from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.hospital import message_loop
from fedcl.hospital.message_loop import MessageLoop
from fedcl.hospital.worker import Worker
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.run import Server
from fedcl.wire import flower
from fedcl.wire.codes import CRASHED, RAISED
from fedcl.wire.local_grid import InProcessGrid
from fedcl.wire.requests import TrainRequest
from tests.conftest import ROOT, TINY

pytestmark = pytest.mark.slow


class Recording(InProcessGrid):
    """Keeps what site A is asked, and what it answers."""

    def _send(self, messages: list[Message]) -> None:
        self.sent |= {one.metadata.message_id: one for one in messages}
        super()._send(messages)

    def _keep(self, reply: Message) -> None:
        call = self.sent[reply.metadata.reply_to_message_id]
        if call.metadata.dst_node_id == 1:
            self.seen.append((call, reply))
        super()._keep(reply)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Message, Message]]:
    folder = tmp_path_factory.mktemp("server")
    nodes = [{"site": site, "state-path": str(folder / site)} for site in "AB"]
    grid = Recording("fedcl.hospital.client_app:app", nodes)
    grid.seen, grid.sent = [], {}
    settings = [*TINY, "strategy=lwf", "timeline.stages=[[A,B]]", "timeline.rounds=1"]
    config = Config.parse(compose(settings))
    server = Server(grid, config, Checkpoint(folder / "checkpoint"), None)
    server.run(server.meet(), Clock())
    return grid.seen


class Done(Exception):  # noqa: N818
    """Nothing more is asked."""


class Table:
    """A link to a server that asks one call after the other, and waits for every answer.

    Args:
        calls: what it asks.
        patient: whether it waits; else the next call comes while one is worked on.
        bundle: what the run brings along.
    """

    node = 1

    def __init__(self, calls: list[Message], bundle: bytes, patient: bool = True) -> None:
        self.calls, self.patient, self._bundle = calls, patient, bundle
        self.running, self.waits = True, False
        self.replies: list[Message] = []

    def receive(self) -> Message | None:
        if self.waits and self.patient:
            return None
        if not self.calls:
            raise Done
        self.waits, self.patient = True, self.patient or len(self.calls) == 1
        return self.calls.pop(0)

    def send(self, reply: Message, seconds: float) -> bool:
        self.replies.append(reply)
        self.waits = False
        return True

    def goes_on(self, run: int) -> bool:
        self.waits = self.running
        return self.running

    def bundle(self, run: int) -> bytes:
        return self._bundle


@pytest.fixture(scope="module")
def bundle() -> bytes:
    return build_fab_from_disk(ROOT)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, bundle: bytes) -> Iterator[MessageLoop]:
    folder = tmp_path_factory.mktemp("hospital")
    node = {"site": "A", "state-path": str(folder / "A")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(message_loop, "GLANCE", 0.2)
        made = MessageLoop(Table([], bundle), lambda: Worker(node, folder))
        yield made
        made.close()


def attend(own: MessageLoop, table: Table) -> None:
    """Serve until nothing more is asked."""
    own.link = table
    with pytest.raises(Done):
        own.run()


def endless(call: Message) -> Message:
    """Return a call to train, but for longer than anybody has time."""
    request = TrainRequest.unpack(call.content)
    job = json.loads(request.job)
    job["learner"]["epochs"] = 10**6
    content = replace(request, job=json.dumps(job)).pack()
    return flower.same_with(call, content)


def values(message: Message) -> RecordDict:
    """Return what is said, without time and memory."""
    content = message.content
    for records in content.metric_records.values():
        for name in ("seconds", "cpu", "memory", "predicting"):
            records.pop(name, None)
    return content


def when_it_trains(log: pytest.LogCaptureFixture, act: Callable[[psutil.Process], None]) -> None:
    """Do something to the process that answers, once it has begun to train."""

    def watch() -> None:
        while ": train, stage 1" not in log.text:
            time.sleep(0.05)
        time.sleep(0.3)
        (worker,) = (
            one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline())
        )
        act(worker)

    threading.Thread(target=watch, daemon=True).start()


def test_the_warm_process_answers_call_after_call_as_a_fresh_one_does(
    seen: list[tuple[Message, Message]], bundle: bytes, own: MessageLoop
):
    calls = [call for call, _ in seen]
    assert [one.metadata.message_type for one in calls] == [
        "query.hello", "evaluate", "train", "evaluate", "evaluate"
    ]  # fmt: skip
    table = Table([*calls, *calls], bundle)
    attend(own, table)
    expected = [values(reply) for _, reply in seen]
    assert [values(reply) for reply in table.replies] == [*expected, *expected]


def test_one_that_dies_is_an_error_at_once_and_the_next_call_is_answered(
    seen: list[tuple[Message, Message]],
    bundle: bytes,
    own: MessageLoop,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO, "fedcl")
    train, reply = seen[2]
    table = Table([endless(train), train], bundle)
    when_it_trains(caplog, lambda worker: worker.kill())
    attend(own, table)
    died, answer = table.replies
    assert died.error.code == CRASHED and "SIGKILL" in died.error.reason
    assert values(answer) == values(reply)
    assert "it is started again" in caplog.text


def test_one_that_dies_between_two_calls_ends_nothing_else(
    seen: list[tuple[Message, Message]], bundle: bytes, own: MessageLoop
):
    hello, reply = seen[0]

    class Dying(Table):
        def receive(self) -> Message | None:
            call = super().receive()
            if call is not None and len(self.replies) == 1:
                own._worker._process.kill()
                own._worker._process.join()
            return call

    table = Dying([hello] * 3, bundle)
    attend(own, table)
    first, died, answer = table.replies
    assert died.error.code == CRASHED and "SIGKILL" in died.error.reason
    assert values(first) == values(answer) == values(reply)


def test_a_call_that_nobody_waits_for_any_more_does_not_hold_up_the_next(
    seen: list[tuple[Message, Message]],
    bundle: bytes,
    own: MessageLoop,
    caplog: pytest.LogCaptureFixture,
):
    """The server asks for something new; then the run ends while one is worked on."""
    caplog.set_level(logging.INFO, "fedcl")
    train, reply = seen[2]
    table = Table([endless(train), train], bundle, patient=False)
    attend(own, table)
    assert [values(one) for one in table.replies] == [values(reply)]
    assert "given up: the server waits no longer" in caplog.text
    ended = Table([endless(train)], bundle)
    ended.running = False
    attend(own, ended)
    assert ended.replies == [] and "given up: the run has ended" in caplog.text


class Idle:
    """A process that is never asked anything."""

    used = False

    def reply(self, seconds: float) -> None:
        pytest.fail("it was asked")


def test_a_run_with_other_code_is_refused_by_a_line_on_both_sides(
    seen: list[tuple[Message, Message]],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
):
    caplog.set_level(logging.INFO, "fedcl")
    for path in ("fedcl", "sites", "strategies", "conf", "pyproject.toml"):
        (tmp_path / "app").mkdir(exist_ok=True)
        copy = shutil.copytree if (ROOT / path).is_dir() else shutil.copy
        copy(ROOT / path, tmp_path / "app" / path)
    trap = tmp_path / "executed"
    (tmp_path / "app" / "strategies" / "lwf.py").write_text(f"open({str(trap)!r}, 'w')\n")
    table = Table([seen[0][0]], build_fab_from_disk(tmp_path / "app"))
    attend(MessageLoop(table, Idle), table)
    (said,) = table.replies
    assert said.error.code == RAISED
    assert (
        "refused: the run's code" in said.error.reason
        and "files that differ: 1" in said.error.reason
    )
    assert "strategies/lwf.py" in caplog.text and "\n" not in said.error.reason
    assert not trap.exists()
