"""`learner.keep=best_round`: a stage ends with the round that did best on validation."""

from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from flwr.app import Message, MetricRecord, RecordDict

from fedcl import arrays
from fedcl.app.simulation import APP, nodes_of
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.events import Round, Watcher
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.wire.local_grid import InProcessGrid
from tests.conftest import TINY, TINY_FIELD
from tests.servers import config

UNSTEADY = ["strategy=finetune", "timeline.stages=[[A,B],[C]]", "timeline.rounds=3"]


class Diary(Watcher):
    """Notes the validation and the weights of every round."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.weights: list[str] = []

    def round_done(self, done: Round, state: State) -> None:
        self.scores.append(fmean(done.validation.values()) if done.validation else -1.0)
        self.weights.append(arrays.digest(state.weights))


class Told(InProcessGrid):
    """Hospitals whose validation scores are given, round by round, None for no answer.

    Args:
        nodes: of the hospitals.
        scores: of each site.
        stop: after how many scorings, validations and tests, the server is killed.
    """

    def __init__(
        self, nodes: list[Any], scores: dict[str, list[float | None]], stop: int | None = None
    ) -> None:
        super().__init__(APP, nodes)
        self.scores, self.stop, self.scored = scores, stop, 0

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if message.metadata.message_type == "evaluate":
                self.scored += 1
            if self.scored == self.stop:
                raise KeyboardInterrupt
            super()._send([message])

    def _keep(self, reply: Message) -> None:
        scores = dict(reply.content.metric_records.get("scores", {})) if reply.content else {}
        if scores.keys() == {"dice"}:  # a validation
            site = str(self.contexts[reply.metadata.src_node_id].node_config["site"])
            score = self.scores[site].pop(0)
            count = len(scores["dice"])  # type: ignore[arg-type]
            given = [float("nan") if score is None else score] * count
            content = {**reply.content, "scores": MetricRecord({"dice": given})}
            reply.content = RecordDict(content)
        super()._keep(reply)


def ends(folder: Path) -> list[str]:
    """Return the digests of the weights that stages ended with."""
    files = sorted((folder / "checkpoint").glob("stage-*.safetensors"))
    return [arrays.digest(arrays.load_file(file)) for file in files]


def serve(
    settings: Config, folder: Path, grid: InProcessGrid | None = None
) -> tuple[dict[str, Any], Diary, Server]:
    """Run to the end, from what `folder` holds."""
    grid = grid or InProcessGrid(APP, list(nodes_of(settings, folder).values()))
    checkpoint, diary = Checkpoint(folder / "checkpoint"), Diary()
    server = Server(grid, settings, checkpoint, checkpoint.load(), watchers=[diary])
    server.run(server.meet(), Clock())
    return outcome(settings, server.state).values(), diary, server


def told(
    settings: Config, folder: Path, scores: dict[str, list[float | None]], stop: int | None = None
) -> Told:
    return Told(list(nodes_of(settings, folder).values()), scores, stop)


def test_a_stage_ends_with_the_weights_of_its_best_round(tmp_path: Path):
    """At a rate that is too high, the last round is not the best one."""
    best = config(*UNSTEADY, "learner.lr=0.05", "learner.keep=best_round")
    found, diary, server = serve(best, tmp_path / "best")
    stages = diary.scores[:3], diary.scores[3:]
    wanted = [1 + stages[0].index(max(stages[0])), 4 + stages[1].index(max(stages[1]))]
    assert found["chosen"] == wanted and wanted != [3, 6], "a rate at which rounds get worse"
    assert ends(tmp_path / "best") == [diary.weights[number - 1] for number in wanted]
    assert found["weights_sha256"] == arrays.digest(server.state.weights)
    assert found["weights_sha256"] == ends(tmp_path / "best")[1]
    last = config(*UNSTEADY, "learner.lr=0.05")
    plain, rounds, _ = serve(last, tmp_path / "last")
    assert plain["chosen"] == [3, 6] and ends(tmp_path / "last") == rounds.weights[2::3]
    assert rounds.weights[:3] == diary.weights[:3], "rounds go on from the last one, not the best"
    assert rounds.weights[3:] != diary.weights[3:], "stages begin where the one before has ended"


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        ({"A": [0.2, 0.9, 0.4], "B": [0.2, 0.5, 0.8]}, 2),  # 0.2, 0.7, 0.6
        ({"A": [0.3, 0.5, 0.5], "B": [0.3, 0.3, 0.3]}, 2),  # of ties the first
        ({"A": [0.0, 0.0, 0.0], "B": [0.0, 0.0, 0.0]}, 1),  # nothing is better than 0
        ({"A": [0.9, 0.2, 0.1], "B": [None, 0.2, 0.1]}, 2),  # B has not validated the first
        ({"A": [0.9, 0.2, 0.1], "B": [None, None, None]}, 3),  # none can be compared: the last
    ],
)
def test_the_cohorts_mean_decides_where_all_of_it_has_validated(
    tmp_path: Path, caplog, scores: dict[str, list[float | None]], chosen: int
):
    settings = config(*UNSTEADY, "timeline.stages=[[A,B]]", "learner.keep=best_round")
    given = {site: [*values] for site, values in scores.items()}
    with caplog.at_level("INFO", "fedcl"):
        found, diary, _ = serve(settings, tmp_path, told(settings, tmp_path, given))
    assert found["chosen"] == [chosen] and ends(tmp_path) == [diary.weights[chosen - 1]]
    if scores["B"] == [None] * 3:
        assert "stage 1 ends with its last round: in none did the whole cohort" in caplog.text
    else:
        assert f"stage 1 ends with the weights of round {chosen} (" in caplog.text


def test_who_is_away_in_a_round_takes_it_out_of_the_choice(tmp_path: Path):
    away = config(
        *UNSTEADY, "timeline.stages=[[A,B]]", "timeline.rounds=6", "timeline.dropout=0.3",
        "learner.lr=0.05", "learner.keep=best_round",
    )  # fmt: skip
    found, diary, _ = serve(away, tmp_path)
    missed = {number for rounds in found["away"].values() for number in rounds}
    whole = [number for number in range(1, 7) if number not in missed]
    best = max(whole, key=lambda number: diary.scores[number - 1])
    assert found["chosen"] == [best]
    assert max(diary.scores) > diary.scores[best - 1], "a round of one site alone is better"


@pytest.mark.parametrize("stop", [3 + 2 * 3 + 1, 3 + 2 * 3 + 3])
def test_killed_as_a_stage_is_closed_it_ends_with_the_same_round(tmp_path: Path, stop: int):
    """After the last round was saved: in the test of the first site, and of the third."""

    def given() -> dict[str, list[float | None]]:
        return {"A": [0.4, 0.9, 0.1], "B": [0.4, 0.9, 0.1], "C": [0.7, 0.2, 0.3]}

    settings = config(*UNSTEADY, "strategy=ewc", "learner.keep=best_round")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    expected, _, _ = serve(settings, whole, told(settings, whole, given()))
    assert expected["chosen"] == [2, 4]
    killed = told(settings, folder, given(), stop)
    with pytest.raises(KeyboardInterrupt):
        serve(settings, folder, killed)
    state = Checkpoint(folder / "checkpoint").load()
    assert state is not None and (state.round, state.stage, state.best_round) == (3, 0, 2)
    found, _, _ = serve(settings, folder, told(settings, folder, killed.scores))
    assert ends(folder) == ends(whole)
    for key in ("weights_sha256", "chosen", "cases", "matrix", "rounds"):
        assert found[key] == expected[key], key


def test_killed_after_the_best_round_it_still_has_its_weights(tmp_path: Path):
    settings = config(*UNSTEADY, "timeline.stages=[[A]]", "learner.keep=best_round")
    whole, folder = tmp_path / "whole", tmp_path / "run"
    serve(settings, whole, told(settings, whole, {"A": [0.4, 0.9, 0.1]}))
    killed = told(settings, folder, {"A": [0.4, 0.9, 0.1]}, stop=1 + 3)
    with pytest.raises(KeyboardInterrupt):  # in the third validation, which is done again
        serve(settings, folder, killed)
    found, diary, _ = serve(settings, folder, told(settings, folder, killed.scores))
    assert found["chosen"] == [2] and len(diary.weights) == 1 and ends(folder) == ends(whole)


def test_the_pools_best_round_counts_in_its_twin(tmp_path: Path):
    settings = config(*UNSTEADY, "timeline.centralised=true", "learner.keep=best_round")
    found, diary, _ = serve(settings, tmp_path)
    stages = diary.scores[:3], diary.scores[3:]
    assert found["chosen"] == [1 + s.index(max(s)) + 3 * n for n, s in enumerate(stages)]
    assert ends(tmp_path) == [diary.weights[number - 1] for number in found["chosen"]]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [*TINY, "strategy=individual"],
            "learner.keep: best_round chooses among global models, and hospitals keep",
        ),
        (
            [*TINY, "strategy=fedbn", "model.norm=batch"],
            "to themselves; take last or best",
        ),
        (
            [*TINY_FIELD, "strategy=field_distillation"],
            "no cases to validate on but those it is trained on; take learner.keep=last",
        ),
    ],
)
def test_where_there_is_no_global_model_to_choose_it_is_refused(
    cli, tmp_path: Path, capsys, overrides: list[str], said: str
):
    folder = tmp_path / "run"
    assert cli(*overrides, "learner.keep=best_round", f"run.dir={folder}") == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedcl:")]
    assert "learner.keep: " in line and said in line and not folder.exists()
