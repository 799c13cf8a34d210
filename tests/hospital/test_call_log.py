"""What a hospital's own log says of every call: what was asked, what came of it, and no case."""

import logging
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict

from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import RunError
from fedcl.hospital import call_log
from fedcl.hospital.allowed import NAME
from fedcl.hospital.answering import Answering
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.run import Server
from fedcl.wire import flower
from fedcl.wire.answers import Hello, Missing, Scored, Update
from fedcl.wire.fields import MalformedError
from fedcl.wire.forgetting import ForgetRequest
from fedcl.wire.local_grid import InProcessGrid
from tests.conftest import TINY

SITES = "ABCDEF"


def message(content: RecordDict, kind: str) -> Message:
    flower.take_identity()
    made = Message(content, 1, kind)
    flower.set_id(made, "1")
    return made


class Hospitals(InProcessGrid):
    """Every site answers as its warm process does."""

    def __init__(self, folder: Path) -> None:
        nodes = [{"site": site, "state-path": str(folder / site)} for site in SITES]
        super().__init__("fedcl.hospital.client_app:app", nodes)
        self.desks = [Answering(node, folder) for node in nodes]

    def _send(self, messages: list[Message]) -> None:
        for one in messages:
            number = one.metadata.dst_node_id
            self._keep(self.desks[number - 1].answer(one, number))


def run(folder: Path, *overrides: str) -> Server:
    config = Config.parse(compose([*TINY, *overrides]))
    server = Server(Hospitals(folder), config, Checkpoint(folder / "checkpoint"), None)
    server.run(server.meet(), Clock())
    return server


def test_a_run_is_written_down_call_by_call(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, logger="fedcl"):
        run(tmp_path, "strategy=cauaug", "timeline.stages=[[A,B,C],[D,E,F]]")
    said = caplog.text
    for words in (
        "run-1: who are you, and what do you hold: ",
        "run-1: train, stage 1, round 2: ",
        "run-1: train, stage 2, round 3: ",
        "run-1: validate, stage 1: ",
        "run-1: test, stage 2: ",
        "run-1: report, stage 1: ",
        "; loss seg ",
        "; mean of 3 cases dice ",
        " samples; sent ",
    ):
        assert words in said, words


def test_what_is_not_allowed_ends_the_run_with_a_line_on_both_sides(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / NAME).write_text("scenario: [folder]")
    with pytest.raises(RunError, match="refused: this hospital allows scenario folder, not 'phan"):
        run(tmp_path)
    assert "run-1: refused: this hospital allows scenario folder" in caplog.text


def test_what_is_nothing_to_ask_is_refused():
    for kind in ("query.secrets", "train", "query.hello"):
        with pytest.raises(MalformedError):
            call_log.read(message(RecordDict({"x": ConfigRecord({"run": "run-1"})}), kind))


def test_words_for_other_calls_and_answers():
    forget = ForgetRequest("run-7", delete=True)
    words = "run-7: forget a hospital, and delete what is kept of the run"
    assert call_log.read(message(forget.pack(), forget.TYPE)).words == words
    call = message(RecordDict(), "train")

    def told(said: RecordDict | Error) -> str:
        return call_log.answered(Message(said, reply_to=call), 1.26)

    assert told(Error(2, "RunError: no")) == "failed after 1.3 s: RunError: no"
    assert "takes no part: no data" in told(Hello("A", error="no data").pack())
    assert "sent before" in told(Missing(["teacher"]).pack())
    update = Update({"w": np.ones(3, np.float32)}, 7, 4, {"seg": 0.5}, 1.0)
    assert "1.3 s; loss seg 0.5; 4 samples; sent 140 bytes" in told(update.pack())
    scored = told(Scored(["Doe, John", "q"], {"dice": [0.1, 0.2]}, 1.0, 0.5).pack())
    assert "mean of 2 cases dice 0.15; sent 0 bytes" in scored and "Doe" not in scored
