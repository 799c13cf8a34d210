"""A hospital withdraws from a deployed run: hospitals in this process, each with its own folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedcl.app.server_app import app, withdrawn
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.errors import ConfigError
from fedcl.hospital.forgetting import forget
from fedcl.server.forgetting import Hospitals
from fedcl.wire.fields import MalformedError
from fedcl.wire.flower import set_id
from fedcl.wire.forgetting import ForgetRequest, Kept
from fedcl.wire.limits import SITES
from fedcl.wire.local_grid import InProcessGrid
from tests.conftest import TINY, read

OWN = [
    *(one for one in TINY if one.partition("=")[0] in ("scenario.size", "scenario.patients",
      "scenario.slices", "scenario.strength", "model.channels")),
    "scenario=phantom", "learner.steps=2", "timeline.rounds=1", "timeline.wait=0.1",
]  # fmt: skip
Asked = Callable[..., dict[str, Any]]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Return what lets the server run a line of overrides over some hospitals, by a number."""
    monkeypatch.setenv("FEDCL_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("FEDCL_TRACKING", raising=False)

    def run(number: int, line: str, sites: str = "ABC") -> dict[str, Any]:
        nodes: list[Any] = [{"site": one, "state-path": str(tmp_path / one)} for one in sites]
        grid = InProcessGrid("fedcl.hospital.client_app:client_app", nodes)
        app(grid, Context(number, 0, {}, RecordDict(), {"overrides": line}))
        return read(tmp_path / "runs" / f"run-{number}")

    return run


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_hospitals_take_over_what_they_kept_and_delete_the_rest(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = " ".join([*OWN, "strategy=replay", "timeline.stages=[[A],[B],[C]]"])
    asked(1, line)
    assert files(tmp_path / "A" / "run-1") and files(tmp_path / "B" / "run-1")
    never = asked(2, line.replace("[B],", ""), "AC")
    capsys.readouterr()
    made = asked(3, "run.forget=run-1 run.site=B")
    for key in ("status", "weights_sha256", "matrix", "cases", "stages", "sites"):
        assert made[key] == never[key], key
    assert made["forgot"] == {"from_stage": 2, "stages_replayed": 1}
    said = capsys.readouterr().err
    assert "B has deleted 2 files of run-1" in said and "nothing of it is left" in said
    for site in "ABC":
        assert not (tmp_path / site / "run-1").exists()
    assert not (tmp_path / "B" / "run-3").exists()
    assert files(tmp_path / "A" / "run-3") == files(tmp_path / "A" / "run-2")
    assert (tmp_path / "runs" / "run-1" / "results.json").exists(), "the server's is for people"


@pytest.mark.slow
def test_what_a_hospital_has_lost_is_learned_again(
    asked: Asked, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    line = " ".join([*OWN, "strategy=replay", "timeline.stages=[[A],[B]]"])
    asked(1, line, "AB")
    for path in (tmp_path / "A" / "run-1").iterdir():
        path.unlink()
    made = asked(2, "run.forget=run-1 run.site=B", "A")
    assert made["forgot"] == {"from_stage": 1, "stages_replayed": 1}
    said = capsys.readouterr().err
    assert "(site A has lost what it had kept of run-1)" in said
    assert "B has not said that it did: it must delete by itself what there is of run-1" in said
    assert made["weights_sha256"] == asked(3, line.replace(",[B]", ""), "A")["weights_sha256"]


def test_a_hospital_that_cannot_delete_is_told_with_its_reason(tmp_path: Path):
    def broken(message: Message, context: Context) -> Message:
        if context.node_id == 1:
            raise PermissionError("read-only file system")
        return forget(message, context)

    hospital = ClientApp()
    hospital.query("forget")(broken)
    nodes: list[Any] = [{"site": one, "state-path": str(tmp_path / one)} for one in "AB"]
    config = Config.parse(compose(OWN))
    asked = Hospitals(InProcessGrid(hospital, nodes), config, "run-1", "run-2")
    lines = asked.delete(["A", "B"])
    assert lines[0] == "B has deleted 0 files of run-1"
    assert lines[1].startswith("node 1: ") and "read-only file system" in lines[1]
    assert lines[2].startswith("A has not said that it did: it must delete by itself")
    assert len(lines) == 3


@pytest.mark.parametrize(
    "line",
    [
        "run.forget=run-1", "run.forget=../run-1 run.site=B", "run.forget=run-1 run.site=a/b",
        "run.forget=run-1 run.site=B seed=3", "run.forget= run.site=B",
    ],
)  # fmt: skip
def test_only_a_run_and_a_hospital_can_be_named(line: str):
    with pytest.raises(ConfigError, match=r"^run\.forget: give the name of a run"):
        withdrawn({"overrides": line})


def test_a_run_that_forgets_nobody_is_any_run():
    assert withdrawn({"overrides": "strategy=ted seed=1"}) is None
    assert withdrawn({"overrides": "run.forget=run-1 run.site='St Mary'"}) == ("run-1", "St Mary")


def told(folder: Path, call: ForgetRequest, **node: Any) -> Kept:
    context = Context(1, 1, {"site": "A", "state-path": str(folder), **node}, RecordDict(), {})
    message = Message(call.pack(), 1, ForgetRequest.TYPE)
    set_id(message, "1")
    return Kept.unpack(forget(message, context).content)


@pytest.mark.parametrize("run", ["", ".", "..", "run-", "run-1/..", "/tmp", "run-1\n", "run-x"])
def test_no_other_folder_can_be_named(tmp_path: Path, run: str):
    (tmp_path / "round-000001.safetensors").touch()
    for call in (ForgetRequest(run, delete=True), ForgetRequest("run-1", run or "x", [1])):
        with pytest.raises(MalformedError):
            ForgetRequest.unpack(call.pack())
    assert files(tmp_path) == ["round-000001.safetensors"]


@pytest.mark.parametrize(
    "call",
    [
        ForgetRequest("run-1", "run-1", [1]),
        ForgetRequest("run-1", "run-2", [-1]),
        ForgetRequest("run-1", "run-2", list(range(SITES + 1))),
        ForgetRequest("run-1", "run-2", ["1"]),  # type: ignore[list-item]
        ForgetRequest("run-1", delete=1),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_meant_is_refused(call: ForgetRequest):
    with pytest.raises(MalformedError):
        ForgetRequest.unpack(call.pack())


def test_only_files_of_its_own_are_deleted(tmp_path: Path):
    (tmp_path / "run-1").mkdir()
    (tmp_path / "received").mkdir()
    own = ("run-1/round-000001.safetensors", "run-1/report-000000.safetensors")
    for name in (*own, "run-1/mine.txt", "received/x.safetensors"):
        (tmp_path / name).touch()
    assert told(tmp_path, ForgetRequest("run-1", delete=True)) == Kept("A", {}, 3)
    assert files(tmp_path) == ["run-1/mine.txt"]
    assert told(tmp_path, ForgetRequest("run-2", delete=True)) == Kept("A", {}, 0)
    assert files(tmp_path) == ["run-1/mine.txt"]
