"""Data that are changed under a hospital that is running, and put back."""

from pathlib import Path
from typing import Any

from flwr.app import Context, Message, RecordDict

from fedcl import arrays
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.hospital.client_app import client_app
from fedcl.wire import flower
from fedcl.wire.answers import Hello
from fedcl.wire.records import to_record
from fedcl.wire.requests import EvaluateRequest, Greeting
from tests.conftest import TINY
from tests.predicted import LABELS, hospitals


def test_what_was_put_back_is_read_again_by_the_same_process(tmp_path: Path):
    root = hospitals(tmp_path / "data")
    flower.take_identity()
    frame = [one for one in TINY if not one.startswith("scenario")]
    frame += ["scenario=folder", f"scenario.root={root}", "scenario.patient='^(.+)$'", *LABELS]
    job = Config.parse(compose([*frame, "strategy=finetune"])).job
    node: dict[str, Any] = {"site": "A", "data-path": str(root / "A"), "state-path": str(tmp_path)}

    def asked(app: Any, content: RecordDict, kind: str) -> Message:
        message = Message(content, 1, kind)
        flower.set_id(message, "1")
        reply: Message = app(message, Context(1, 1, node, RecordDict(), {}))
        return reply

    def told(app: Any) -> Hello:
        return Hello.unpack(asked(app, Greeting(job.to_json()).pack(), Greeting.TYPE).content)

    model = next(iter(job.models))
    weights = to_record(arrays.of_network(job.network(model, ["A"])))
    first = told(client_app())

    def validated(app: Any) -> str:
        request = EvaluateRequest(
            job=job.to_json(), model=model, arrays=weights, run="run-1", arrivals=[["A"]],
            data=first.digest, split="val",
        )  # fmt: skip
        reply = asked(app, request.pack(), EvaluateRequest.TYPE)
        return reply.error.reason if reply.has_error() else ""

    app = client_app()  # one that was started again while the data were others
    one, *_, other = sorted((root / "A" / "images").iterdir())[:4]
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    assert "site A: its data have changed since the run began" in validated(app)
    assert told(app).digest != first.digest
    one.write_bytes(kept)
    assert validated(app) == ""
    one.write_bytes(other.read_bytes())
    assert told(app).digest != first.digest, "a run that begins is told what there is now"
