"""One hospital sends what nobody can go on from: it is refused, or taken back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from fedcl.effort import Clock
from fedcl.errors import RunError
from fedcl.reporting.mlflow import Tracker
from fedcl.server.checkpoint import Checkpoint
from fedcl.server.collapse import collapsed
from fedcl.server.outcome import outcome
from fedcl.server.run import Server
from fedcl.server.state import State
from fedcl.tracking.client import spelt
from fedcl.wire.local_grid import InProcessGrid
from tests.servers import config

FEW = ("timeline.stages=[[A,B],[C,D]]", "learner.lr=0.01")
UNBOUND = "engine.largest_change=null"
ON_ITS_OWN = {"spoil": "loss", "bad-from": 3}
"""A hospital D that delivers nothing in the second stage."""


def begun(
    folder: Path,
    *overrides: str,
    strategy: str = "finetune",
    checkpoint: Checkpoint | None = None,
    **about: Any,
) -> Server:
    """Return a server of four hospitals, of which D is as told; it goes on where there is a run."""
    nodes: list[dict] = [{"site": site, "state-path": str(folder / site)} for site in "ABCD"]
    nodes[3] |= about
    checkpoint = checkpoint or Checkpoint(folder / "checkpoint")
    grid = InProcessGrid("tests.apps:rogue", nodes)
    settings = config(*FEW, f"strategy={strategy}", *overrides)
    return Server(grid, settings, checkpoint, checkpoint.load())


def results(server: Server) -> Mapping[str, Any]:
    """Run to the end; return the results."""
    server.run(server.meet(), Clock())
    return outcome(server.config, server.state).values()


def told(found: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """Return site, round and kind of what went wrong."""
    return [(one["site"], one["round"], one["what"]) for one in found["failures"]]


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Return the results of a run in which D delivers nothing."""
    return results(begun(tmp_path_factory.mktemp("without"), **ON_ITS_OWN))


def test_an_update_without_measure_is_refused_of_two_as_well(tmp_path: Path):
    found = results(begun(tmp_path / "huge", **{"spoil": "huge", "bad-round": 3}))
    assert told(found) == [("D", 3, "update")] and found["reputation"]["D"]["refused"] == 1
    assert "engine.largest_change is 1000" in found["failures"][0]["reason"]
    lost = results(begun(tmp_path / "lost", **{"spoil": "loss", "bad-round": 3}))
    assert found["weights_sha256"] == lost["weights_sha256"], "as if it had not come"


@pytest.mark.parametrize(
    ("spoil", "said", "also"),
    [
        ("huge", "validation fell from", []),
        ("loud", "after it no site could train any more", [("C", 4, "update"), ("D", 4, "update")]),
    ],
)
def test_a_spoilt_round_is_taken_back_and_its_site_left_out(
    tmp_path: Path, spoil: str, said: str, also: list, without: Mapping[str, Any]
):
    found = results(begun(tmp_path, UNBOUND, **{"spoil": spoil, "bad-round": 3}))
    assert told(found) == [*also, ("D", 3, "round")]
    assert said in found["failures"][-1]["reason"] and found["rounds"] == 4
    assert found["weights_sha256"] == without["weights_sha256"]
    assert found["matrix"] == without["matrix"]
    assert found["reputation"]["C"]["delivered"] == 3
    assert found["stages"] == [["A", "B"], ["C"]]


def test_mlflow_is_told_the_round_that_takes_its_place(tmp_path: Path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    server = begun(tmp_path, UNBOUND, f"tracking.uri={uri}", **{"spoil": "loud", "bad-round": 3})
    about = server.meet()
    tracker = Tracker(server.config, tmp_path, {}, server.state, about)
    server.watchers.append(tracker)
    server.run(about, Clock())
    tracker.finish("FINISHED")
    client, run = MlflowClient(uri), server.state.tracking_run
    assert run is not None
    scores = client.get_metric_history(run, spelt("train/validation/C"))
    assert sorted(one.step for one in scores) == [3, 3, 4]
    assert len({one.value for one in scores}) == 3, "what D spoilt is another one"
    rounds = client.get_metric_history(run, "round")
    assert [m.step for m in sorted(rounds, key=lambda m: m.timestamp)] == [1, 2, 3, 2, 3, 4]
    told_of_d = client.get_metric_history(run, spelt("train/loss/D/seg"))
    assert [one.step for one in told_of_d] == [3], "of the round that was taken back"


def test_what_hospitals_keep_goes_back_as_well(tmp_path: Path):
    """Of a method by which every site has a state of its own, a version per round."""
    common = ("timeline.participation=cumulative",)
    about = {"spoil": "loud", "bad-round": 3}
    spoilt = results(begun(tmp_path / "spoilt", UNBOUND, *common, strategy="replay", **about))
    lost = results(begun(tmp_path / "lost", *common, strategy="replay", **ON_ITS_OWN))
    assert ("D", 3, "round") in told(spoilt) and spoilt["stored"] == lost["stored"]
    assert spoilt["weights_sha256"] == lost["weights_sha256"]


class Dying(Checkpoint):
    """Snapshots of a process that dies around one of them.

    Args:
        folder: where they are.
        at: the number of the snapshot, of which nothing is written; negative, that after which
            nothing else is done.
    """

    def __init__(self, folder: Path, at: int) -> None:
        super().__init__(folder)
        self.at, self.count = at, 0

    def save(self, state: State) -> None:
        """See `Checkpoint.save`."""
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        super().save(state)
        if self.count == -self.at:
            raise KeyboardInterrupt


# Before: the beginning, the initial scores, two rounds, the first stage; then, of a loud update,
# its round. Next comes the run as it is taken back.
@pytest.mark.parametrize(("spoil", "at"), [("huge", 6), ("huge", -6), ("loud", 7), ("loud", -7)])
def test_a_run_killed_as_a_round_is_taken_back_goes_on_as_if_it_had_not_been(
    tmp_path: Path, spoil: str, at: int, without: Mapping[str, Any]
):
    about = {"spoil": spoil, "bad-round": 3}
    dying = Dying(tmp_path / "checkpoint", at)
    with pytest.raises(KeyboardInterrupt):
        results(begun(tmp_path, UNBOUND, checkpoint=dying, **about))
    there = Checkpoint(tmp_path / "checkpoint").load()
    assert there is not None
    assert (there.round, there.shut_out) == (
        3 if spoil == "loud" else 2,
        ["D"] if (spoil, at) == ("huge", -6) else [],
    )
    found = results(begun(tmp_path, UNBOUND, **about))
    assert found["weights_sha256"] == without["weights_sha256"]
    assert told(found)[-1] == ("D", 3, "round")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("engine.collapse=null", r"stage 2, round 4: 0 of 2 sites delivered"),
        ("engine.quorum=2", r"1 of 2 sites delivered.*asks for 2 \(D: left out of this stage\)"),
    ],
)
def test_a_run_that_cannot_go_on_says_why(tmp_path: Path, override: str, said: str):
    server = begun(tmp_path, UNBOUND, override, **{"spoil": "huge", "bad-round": 3})
    with pytest.raises(RunError, match=said):
        results(server)
    left = Checkpoint(tmp_path / "checkpoint").load()
    assert left is not None and left.tries > 0


@pytest.mark.parametrize(
    ("before", "now", "failed", "found"),
    [
        ({"A": 0.5, "B": 0.4}, {"A": 0.04, "B": 0.0}, [], True),
        ({"A": 0.5, "B": 0.4}, {"A": 0.06, "B": 0.0}, [], False),  # A can use them
        ({"A": 0.5}, {"A": 0.04}, ["B"], True),
        ({}, {}, ["A", "B"], True),
        ({}, {}, [], False),  # nobody was asked
        ({"A": 0.5}, {"A": 0.04, "B": 0.0}, [], False),  # of B it is not known
        ({"A": 0.0}, {"A": 0.0}, [], False),  # there was nothing to lose
        ({"A": 25.0}, {"A": 2.4}, [], True),  # PSNR
        ({"A": 25.0}, {"A": -300.0}, [], True),
        ({"A": -3.0}, {"A": -300.0}, [], False),
    ],
)
def test_validation_collapses_where_all_sites_lose_almost_everything(
    before: dict, now: dict, failed: list, found: bool
):
    assert collapsed(before, now, failed, 0.1) is found
