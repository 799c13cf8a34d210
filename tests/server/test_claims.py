"""A hospital that lies is found out where its answer is at odds with what is known of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import RunError
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.claims import Claims
from fedcl.server.roster import Roster
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.tasks.base import Range
from fedcl.tasks.field import Field
from fedcl.tasks.metrics import FURTHER
from fedcl.tasks.segmentation import Segmentation
from fedcl.wire.answers import Report, Scored, Update
from fedcl.wire.requests import EvaluateRequest, ReportRequest, TrainRequest
from tests.images import site
from tests.server.test_roster import Lines, deployed, lost, run
from tests.servers import config

SETTINGS = config("strategy=ted")


def claims(state: State | None = None, settings: Config = SETTINGS) -> Claims:
    """Return what is known of a site A with two validation and three test cases."""
    roster = Roster(Lines(Path()), settings.job, 1.0, 0.0, lambda site, hello: None)
    roster.samples["A"], roster.cases["A"] = 12, {"val": 2, "test": 3}
    return Claims(settings, state or State({}), roster)


SENT: dict[str, Any] = {"job": "{}", "model": "unet", "arrays": None}
TRAIN, REPORT = TrainRequest(**SENT), ReportRequest(**SENT)
TEST, VAL = (EvaluateRequest(**SENT, split=split) for split in ("test", "val"))
GOOD = {"dice": [0.0, 0.5, 1.0], "iou": [0.0, 1.0, 1.0000001], "hd95": [0.0, 1.5, 80.0]}
NAMES = ["p", "q", "r"]


def update(losses: dict[str, float], samples: int = 12, stored: int = 0) -> Update:
    return Update({}, 1, samples, losses, 1.0, stored=stored)


def scored(cases: list[str], scores: dict[str, list[float]]) -> Scored:
    return Scored(cases, scores, 1.0, 0.5)


def test_what_agrees_is_believed():
    known = claims()
    assert known.problem("A", TRAIN, update({"seg": 1.0, "kd": 0.5, "ska": 0.1})) is None
    assert known.problem("A", REPORT, Report({}, 12, 1.0)) is None
    assert known.problem("A", VAL, scored(["0", "1"], {"dice": [0.5, 0.5]})) is None
    assert known.problem("A", TEST, scored(NAMES, GOOD)) is None


LIES = {
    "a loss of another method": (TRAIN, update({"seg": 1.0, "penalty": 1.0}), "the loss penalty"),
    "a loss that leads elsewhere": (TRAIN, update({"..": 1.0}), "the loss .., which neither"),
    "more samples": (TRAIN, update({}, samples=13), "13 samples, it has 12"),
    "more samples kept": (TRAIN, update({}, stored=13), "13 samples, it has 12"),
    "more samples reported": (REPORT, Report({}, 13, 1.0), "13 samples, it has 12"),
    "Dice above 1": (TEST, scored(NAMES, GOOD | {"dice": [0.5, 0.5, 999_999]}), "dice is 999999"),
    "Dice below 0": (TEST, scored(NAMES, GOOD | {"dice": [0.5, 0.5, -5]}), r"outside of [0, 1]"),
    "a negative distance": (TEST, scored(NAMES, GOOD | {"hd95": [1, 1, -1]}), "its hd95 is -1"),
    "a distance beyond all": (TEST, scored(NAMES, GOOD | {"hd95": [1, 1, 2e5]}), "hd95 is 200000"),
    "a score of no task": (TEST, scored(NAMES, GOOD | {"luck": [1, 1, 1]}), "other scores than"),
    "a score left out": (TEST, scored(NAMES, {"dice": [1, 1, 1]}), "other scores than dice, iou"),
    "more cases": (TEST, scored(["p"], {k: v[:1] for k, v in GOOD.items()}), "1 test cases"),
    "more validation": (VAL, scored(NAMES, {"dice": [1, 1, 1]}), "3 validation cases, it has 2"),
    "names for numbers": (VAL, scored(["0", "x"], {"dice": [1, 1]}), "validation cases are not"),
    "another score": (VAL, scored(["0", "1"], {"iou": [1, 1]}), "other scores than dice"),
}  # fmt: skip


@pytest.mark.parametrize(("request_", "answer", "said"), LIES.values(), ids=LIES)
def test_what_is_at_odds_is_not_believed(request_: Any, answer: Any, said: str):
    problem = claims().problem("A", request_, answer)
    assert problem is not None and said in problem and "\n" not in problem


def test_a_class_that_a_site_does_not_mark_has_no_scores(tmp_path: Path):
    site(tmp_path / "A")
    folder = f"scenario.root={tmp_path}", "scenario.patient='^(.+)$'", "scenario.labels=[0,1,2]"
    known = claims(
        settings=Config.parse(compose(["scenario=folder", *folder, "+scenario.unmarked.A=[2]"]))
    )
    own = GOOD | {f"{name}_1": values for name, values in GOOD.items()}
    wrong = own | {f"{name}_2": values for name, values in GOOD.items()}
    assert known.problem("A", TEST, scored(NAMES, own)) is None
    problem = known.problem("A", TEST, scored(NAMES, wrong))
    assert problem is not None and "other scores than dice, iou, hd95, dice_1" in problem


@pytest.mark.parametrize("names", [["p", "q", "s"], ["q", "p", "r"]])
def test_test_cases_keep_the_names_that_they_had_first(names: list[str]):
    told = {"dice": dict(zip(NAMES, GOOD["dice"], strict=True))}
    resumed = [claims(State({}, initial={"A": told})), claims(State({}, rows=[{}, {"A": told}]))]
    fresh = claims()
    assert fresh.problem("A", TEST, scored(NAMES, GOOD)) is None
    for known in (fresh, *resumed):
        problem = known.problem("A", TEST, scored(names, GOOD))
        assert problem == "its test cases are not those that it came with"
        assert known.problem("A", TEST, scored(NAMES, GOOD)) is None


def test_every_score_of_every_task_has_a_range():
    further = Segmentation(1, 3, further=FURTHER)
    assert further.scores == tuple(further.ranges) and "auc_2" in further.scores
    for ranges in (further.ranges, Field.ranges):
        assert all(one.low < one.high for one in ranges.values())
    assert Range(0, 1).problem([float("nan")]) is not None


# --- in whole runs ---------------------------------------------------------------------------


def spoiling(change: Callable[[Message], dict[str, Any]]) -> Any:
    """Return what makes of B's scores others."""

    def answers(what: str, site: str, reply: Message) -> RecordDict | None:
        if (what, site) != ("evaluate", "B") or reply.has_error():
            return None
        return RecordDict({**reply.content, **change(reply)})

    return answers


@pytest.mark.parametrize("number", [1e308, float("nan"), 999_999.0, -5.0])
def test_a_score_that_is_none_is_no_score(tmp_path: Path, number: float):
    def change(reply: Message) -> dict[str, Any]:
        scores = reply.content["scores"]
        return {"scores": MetricRecord({key: [number] * len(scores[key]) for key in scores})}

    found = run(deployed(tmp_path, Lines(tmp_path, answers=spoiling(change))))
    assert [row[1] for row in found["matrix"]] == [None, None]
    assert {what for _, _, what in lost(found)} == {"test", "validation"}
    assert {site for site, _, _ in lost(found)} == {"B"}


def test_other_names_at_a_later_test_are_refused(tmp_path: Path):
    seen: list[int] = []

    def change(reply: Message) -> dict[str, Any]:
        cases = list(reply.content["names"]["cases"])
        if reply.content["scores"].keys() > {"dice"}:
            seen.append(len(cases))
            cases = cases if len(seen) == 1 else [f"{name}!" for name in cases]
        return {"names": ConfigRecord({"cases": cases})}

    found = run(deployed(tmp_path, Lines(tmp_path, answers=spoiling(change))))
    assert len(seen) == 3 and [row[1] for row in found["matrix"]] == [None, None]
    assert [one["reason"] for one in found["failures"]] == [
        "its test cases are not those that it came with"
    ] * 2


def test_a_simulation_names_the_site_whose_scores_cannot_be(tmp_path: Path):
    def change(reply: Message) -> dict[str, Any]:
        scores = dict(reply.content["scores"])
        return {"scores": MetricRecord(scores | {"dice": [7.0] * len(scores["dice"])})}

    grid = Lines(tmp_path, answers=spoiling(change))
    settings = config("strategy=finetune", "timeline.stages=[[A,B],[C,D]]")
    server = Server(grid, settings, Checkpoint(tmp_path / "checkpoint"))
    with pytest.raises(RunError, match=r"site B could not be evaluated .* its dice is 7, outside"):
        server.run(server.meet(), Clock())
