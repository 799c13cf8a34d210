"""A week of a federation in minutes: hospitals come and go, a key and the code change."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedcl.app.cli import main
from fedcl.files import locked
from tests.conftest import read
from tests.federation import SMALL, Federation, other_version

pytestmark = [pytest.mark.network, pytest.mark.exhaustive]

WEEK = [
    *SMALL[:-2], "timeline.stages=[[A,B],[C],[D]]", "timeline.sites.B.leave=3", "strategy=replay",
    "timeline.rounds=2", "engine.quorum=1.0",
]  # fmt: skip


def test_hospitals_come_and_go_and_keys_and_code_change_between_stages(
    cli: Callable[..., int],
    tmp_path: Path,
    federation: Callable[[list[str]], Federation],
    capsys: pytest.CaptureFixture[str],
):
    fed = federation(["A", "B"])

    def deploy(*words: str) -> None:
        assert main(["deploy", str(fed.folder), *words]) == 0, capsys.readouterr().err

    def ended(stage: int) -> bool:
        return any((folder / "checkpoint").glob(f"round-*-stage-{stage:03d}"))

    fed.open(registered=["A", "B"], started=["A", "B"])
    fed.until(lambda: fed.online() == 2)
    folder = fed.run([*WEEK, "timeline.wait=300"])
    fed.until(lambda: list((folder / "checkpoint").glob("round-000001-*")))
    deploy("--add", "C")  # on Tuesday
    fed.start("C")
    fed.until(lambda: ended(1))
    deploy("--rotate", "A")  # on Wednesday
    fed.kill("A")
    fed.start("A")
    current, results = folder, folder / "results.json"
    fed.until(lambda: ended(2) or results.exists())
    if not ended(2):  # in the middle of a round, of which all are asked for: the run stops
        assert "engine.quorum asks for 3" in read(folder)["reason"]
        fed.until(lambda: fed.online() == 3)
        current = fed.run([f"run.resume={folder.name}"])
        fed.until(lambda: ended(2))
    fed.flwr("stop", current.name.removeprefix("run-"), "federation")  # on Thursday
    fed.until(lambda: not locked(folder))
    deploy("--revoke", "B")
    deploy("--add", "D")
    new = other_version(tmp_path / "next")
    for site in ("A", "C", "D"):
        if site != "D":
            fed.kill(site)
        fed.start(site, PYTHONPATH=str(new))
    fed.until(lambda: fed.online() == 3)
    fed.run([f"run.resume={folder.name}"], code=new)  # on Friday
    fed.until(lambda: results.exists() and read(folder)["status"] == "completed")
    here = tmp_path / "here"
    common = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
    assert cli(*WEEK, *common, f"run.dir={here}") == 0
    found, expected = read(folder), read(here)
    assert found["status"] == "completed"
    assert found["weights_sha256"] == expected["weights_sha256"]
    assert found["stages"] == expected["stages"]
    there = ["AB", "ABC", "ACD"]
    soon = "C", "", ""  # who may have come before it was their turn
    for stage, (row, one) in enumerate(zip(found["matrix"], expected["matrix"], strict=True)):
        known = [site for site, score in zip("ABCD", row, strict=True) if score is not None]
        assert {*there[stage]} <= {*known} <= {*there[stage], *soon[stage]}, (
            "who is there is tested"
        )
        assert row == [s if site in known else None for site, s in zip("ABCD", one, strict=True)]
