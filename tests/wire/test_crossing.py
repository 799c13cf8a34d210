"""What crosses between server and hospital: every record of every method, inspected."""

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict

from fedcl.config.hydra import compose
from fedcl.config.job import Job
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.hospital.site import Hospital
from fedcl.registry import STRATEGY
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.run import Server
from fedcl.wire.answers import EFFORT, Hello
from fedcl.wire.local_grid import InProcessGrid, answer, load_app
from fedcl.wire.records import from_record
from fedcl.wire.requests import CACHED, EvaluateRequest, ReportRequest, TrainRequest
from tests.conftest import NEEDS, base

DIGEST = r"[0-9a-f]{64}"
SECRET = "folder-of-this-hospital"
NUMBERS = {
    "train": {"round", "samples", "stored", *EFFORT},
    "evaluate": {"predicting", *EFFORT},
    "query.report": {"samples", *EFFORT},
}
"""What a hospital counts, besides losses and scores."""


class Tap(InProcessGrid):
    """Keeps what crosses, in both directions."""

    crossed: list[tuple[Message, Message]]

    def _send(self, messages: list[Message]) -> None:
        self.crossed = getattr(self, "crossed", [])
        for message in messages:
            node = message.metadata.dst_node_id
            reply = answer(load_app(self.app), message, self.contexts[node])
            self.crossed.append((message, reply))
            self._keep(reply)


def words(content: RecordDict) -> Iterator[str]:
    """Yield all text of a message, names of records and of what is in them included."""
    for name, record in content.items():
        yield name
        for key, value in record.items():
            yield key
            if not isinstance(record, ArrayRecord):
                yield from map(str, value if isinstance(value, list) else [value])


def arrays_of(content: RecordDict) -> Iterator[np.ndarray]:
    for record in content.array_records.values():
        yield from from_record(record).values()


QUICK = ("ted optimiser.keep=true", "replay", "souvenir", "souvenir privacy=report_dp")


@pytest.mark.parametrize(
    "asked",
    [
        *QUICK,
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in STRATEGY.available()
            if name not in QUICK
        ),
    ],
)
def test_nothing_crosses_but_what_is_documented(tmp_path: Path, asked: str):
    strategy, *more = asked.split()
    overrides = [*base(strategy), *NEEDS.get(strategy, []), "timeline.rounds=1"]
    config = Config.parse(compose([*overrides, f"strategy={strategy}", *more]))
    nodes: list[Any] = [
        {"site": site, "state-path": str(tmp_path / SECRET / site)}
        for site in config.timeline.sites
    ]
    grid = Tap("fedcl.hospital.client_app:client_app", nodes)
    server = Server(grid, config, Checkpoint(tmp_path / "checkpoint"))
    server.run(server.meet(), Clock())
    seen = set()
    for message, reply in grid.crossed:
        what, content = message.metadata.message_type, message.content
        seen.add(what)
        assert not reply.has_error()
        assert not any(SECRET in text for side in (content, reply.content) for text in words(side))
        if what == "query.hello":
            assert set(content) == {"job"} and content["job"] == {"json": config.job.to_json()}
            assert set(reply.content) == {"hello"}
            assert set(reply.content["hello"]) == {item.name for item in fields(Hello)}
        else:
            check_call(what, content, config.job)
            check_reply(what, content, reply.content, config.job, server.shape)
    assert {"query.hello", "train", "evaluate"} <= seen <= {*NUMBERS, "query.hello"}
    for node in nodes:
        own = [sample.tobytes() for sample in samples_of(Hospital.of(node, config.job.to_json()))]
        for _, reply in grid.crossed:
            for array in arrays_of(reply.content):
                raw = array.tobytes()
                assert not any(one in raw for one in own), "a sample has left"


def samples_of(hospital: Hospital) -> Iterator[np.ndarray]:
    """Yield what a hospital trains on, sample by sample; single numbers may be equal by chance."""
    samples = hospital.samples({hospital.site: 1.0})
    for part in (samples.inputs, samples.targets):
        yield from (one for one in part.cpu().numpy() if one.size > 16)


REQUESTS = {one.TYPE: one for one in (TrainRequest, EvaluateRequest, ReportRequest)}


def check_call(what: str, content: RecordDict, job: Job) -> None:
    """Names, numbers and digests; no path and no code."""
    kind = REQUESTS[what]
    assert set(content) <= {"request", "arrays", *(CACHED if kind is TrainRequest else ())}
    call = content.config_records["request"]
    known = {item.name for item in fields(kind)} - {"arrays", "arrivals", *CACHED}
    known -= {"forms"}  # the strategy's, which a hospital has as well
    known |= {"arrived", "sizes"} | ({"learning"} if "shares" in known else set())
    assert set(call) == known
    assert call["job"] == job.to_json()
    assert all(re.fullmatch(rf"({DIGEST})?", str(mark)) for mark in call.get("digests", []))


def check_reply(
    what: str, sent: RecordDict, content: RecordDict, job: Job, shape: list[int]
) -> None:
    """Weights like those sent, counts, losses, scores, and what a strategy reports."""
    assert set(content.metric_records["numbers"]) == NUMBERS[what]
    if what == "evaluate":
        assert set(content) == {"numbers", "scores", "names"} and set(content["names"]) == {"cases"}
    elif what == "train":
        assert set(content) == {"arrays", "numbers", "losses", "words"}
        call = TrainRequest.unpack(sent)
        assert set(content["losses"]) <= job.losses(call.model)
        shapes = [{name: one.shape for name, one in c["arrays"].items()} for c in (sent, content)]
        assert shapes[0] == shapes[1]
        assert set(content["words"]) == {"kept", "holds"}
        marks = [content["words"]["kept"], *content["words"]["holds"]]
        assert all(re.fullmatch(rf"({DIGEST})?", str(mark)) for mark in marks)
    else:
        assert set(content) == {"arrays", "numbers"}
        call = ReportRequest.unpack(sent)
        reporting = job.strategy.reporting(job.network(call.model, call.arrived), job.task, shape)
        forms = reporting.forms
        told = from_record(content["arrays"])
        assert told.keys() == forms.keys()
        assert not any(form.problem(told[name]) for name, form in forms.items())


@pytest.mark.parametrize("written", ["{}", "{}/", "{}/.", "{}//"])
@pytest.mark.parametrize("site", ["A", "B"])
def test_an_error_of_a_hospital_tells_nothing_of_its_folders(
    tmp_path: Path, site: str, written: str
):
    """At A an image cannot be read, B has no folder; each says so, without where it lies."""
    folder = tmp_path / SECRET / "A"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
        for number in range(6):
            (folder / kind / f"{number}.png").write_bytes(b"no image")
    overrides = ["scenario=folder", f"scenario.root={tmp_path / SECRET}", "timeline.stages=[[A,B]]"]
    config = Config.parse(compose([*overrides, "tracking.enabled=false"]), simulated=False)
    own = written.format(tmp_path / SECRET / site)
    node: Any = {"site": site, "data-path": own, "state-path": own}
    grid = InProcessGrid("fedcl.hospital.client_app:client_app", [node])
    job = RecordDict({"job": ConfigRecord({"json": config.job.to_json()})})
    (reply,) = grid.send_and_receive([Message(job, 1, "query.hello")])
    said = " ".join(words(reply.content))
    assert f"site {site}" in said and SECRET not in said, said
    spoilt = RecordDict({"call": ConfigRecord({"job": "{}"})})
    (reply,) = grid.send_and_receive([Message(spoilt, 1, "train")])
    assert reply.has_error() and SECRET not in reply.error.reason
