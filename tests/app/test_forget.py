"""`fedcl forget` makes the run that would have been, had a hospital never taken part. Real runs."""

import hashlib
import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simulate
from fedcl.app.cli import main
from fedcl.app.leftovers import Search
from tests.conftest import MIXED, TINY, TINY_FIELD, read
from tests.images import nifti

SMALL = [*TINY, "learner.steps=2"]
STAGES = {"A": "[[B],[C],[D]]", "C": "[[A,B],[D]]", "D": "[[A,B],[C]]"}
"""Of the run with all four hospitals, what is left without the first, a middle or the last one."""
WHOLE = "[[A,B],[C],[D]]"
SAME = ("status", "weights_sha256", "matrix", "cases", "secondary", "stages", "arrivals", "rounds")
Made = Callable[..., Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Return what runs a command line, once, and says where."""
    folder = tmp_path_factory.mktemp("runs")

    @cache
    def run(*overrides: str) -> Path:
        name = hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:12]
        assert simulate.main([*overrides, f"run.dir={folder / name}"]) == 0
        return folder / name

    return run


def forget(run: Path, site: str, out: Path, *more: str) -> int:
    return main(["forget", str(run), "--site", site, "--out", str(out), *more])


def assert_never_had(folder: Path, never: Path) -> None:
    one, two = read(folder), read(never)
    for key in SAME:
        assert one[key] == two[key], key


def contents(folder: Path) -> dict[Path, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


QUICK = [("ted", "C"), ("replay", "D")]


@pytest.mark.parametrize(
    ("strategy", "site"),
    [
        pytest.param(strategy, site, marks=() if (strategy, site) in QUICK else pytest.mark.slow)
        for strategy in ("ted", "replay", "ewc", "souvenir", "mib")
        for site in STAGES
    ],
)
def test_the_weights_and_scores_are_those_of_a_run_that_never_had_the_hospital(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], strategy: str, site: str
):
    own = [*SMALL, f"strategy={strategy}"]
    whole = made(*own, f"timeline.stages={WHOLE}")
    never = made(*own, f"timeline.stages={STAGES[site]}")
    before = contents(whole)
    capsys.readouterr()
    assert forget(whole, site, tmp_path / "out") == 0
    assert_never_had(tmp_path / "out", never)
    assert read(whole)["weights_sha256"] != read(never)["weights_sha256"]
    kept = {"A": 0, "C": 1, "D": 2}[site]
    left = len(read(never)["arrivals"]) - kept
    assert read(tmp_path / "out")["forgot"] == {"from_stage": kept + 1, "stages_replayed": left}
    said = capsys.readouterr().out
    assert "nothing of it is left" in said and f"still holds what {site} gave" in said
    assert contents(whole) == before, "the run itself is left as it was"


MORE = {
    "a pool": ["timeline.centralised=true", "strategy=replay"],
    "joint training, momentum": ["strategy=joint", "aggregation=fedavgm"],
    "the best round": ["learner.keep=best_round", "strategy=lwf"],
    "moments kept": [
        "optimiser.keep=true", "strategy=finetune", "timeline.participation='window(2)'"
    ],
    "own weights": ["strategy=fedbn", "model.norm=batch"],
    "a moving teacher": ["strategy=lwf", "strategy.teacher.refresh=ema"],
    "a server that distils": ["strategy=tkrl"],
    "faults and dropout": [
        "timeline.dropout=0.3", "faults.nan={A:0.3,E:0.3}", "engine.quorum=1", "strategy=plop",
        "timeline.participation=cumulative",
    ],
    "others that come and go": [
        "timeline.sites.A.leave=2", "timeline.sites.A.rejoin=4", "timeline.sites.B.ramp=2",
        "strategy=mas", "scenario.patients=12",
    ],
    "a model in use": [
        "release.on_refusal=keep", "scenario.patients=14", "scenario.val=0.3", "strategy=finetune",
    ],
    "noise that can be drawn again": ["privacy=central_dp", "privacy.seed=1", "strategy=finetune"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("how", MORE)
def test_whatever_a_run_carries_on_it_is_carried_on_without_the_hospital(
    made: Made, tmp_path: Path, how: str
):
    whole = made(*SMALL, *MORE[how], "timeline.stages=[[A,B],[C],[D,E]]")
    others = [one for one in MORE[how] if not one.startswith("faults")]
    if len(others) < len(MORE[how]):
        others.append("faults.nan={A:0.3}")
    never = made(*SMALL, *others, "timeline.stages=[[A,B],[C],[D]]")
    assert forget(whole, "E", tmp_path / "one") == 0
    assert_never_had(tmp_path / "one", never)
    assert read(tmp_path / "one")["forgot"]["from_stage"] == 3
    # And another one, of the run that was made: it has all that it takes.
    shutil.move(whole, tmp_path / "gone")
    try:
        assert forget(tmp_path / "one", "D", tmp_path / "two") == 0
    finally:
        shutil.move(tmp_path / "gone", whole)
    assert read(tmp_path / "two")["forgot"]["from_stage"] == 3
    assert forget(tmp_path / "one", "C", tmp_path / "three") == 0
    assert read(tmp_path / "three")["forgot"]["from_stage"] == 2


def test_with_several_architectures(made: Made, tmp_path: Path):
    own = [*SMALL, *MIXED, "strategy=contrastive"]
    whole = made(*own, "timeline.stages=[[A,B],[C],[D]]")
    assert forget(whole, "C", tmp_path / "out") == 0
    assert_never_had(tmp_path / "out", made(*own, "timeline.stages=[[A,B],[D]]"))
    assert read(tmp_path / "out")["forgot"]["from_stage"] == 2


def test_of_one_folder_that_all_share_nobody_gets_what_the_hospital_had(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    names = [f"case_{letter}{n}" for letter in "abcd" for n in range(4)]
    for number, name in enumerate(names):
        for kind in ("imagesTr", "labelsTr"):
            array = np.random.default_rng(number).integers(0, 2, (16, 16, 2), dtype=np.uint8)
            nifti(tmp_path / "data" / kind / f"{name}.nii.gz", array)
    every = [{k: f"{k}sTr/{n}.nii.gz" for k in ("image", "label")} for n in names]
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"training": every}))
    own = [one for one in SMALL if not one.startswith("scenario")]
    own += ["scenario=decathlon", f"scenario.root={tmp_path / 'data'}", "strategy=ted"]
    listed = [
        f"scenario.cohorts.{s}.cases={[n for n in names if s.lower() in n[5]]}" for s in "ACD"
    ]
    none = [f"scenario.cohorts.{site}.share=null" for site in "ACD"]
    never = made(*own, *none, *listed, "~scenario.cohorts.B")
    whole = made(*own)  # a quarter of the cases each, in the order of their names
    assert forget(whole, "B", tmp_path / "out") == 0
    assert_never_had(tmp_path / "out", never)
    assert "4 names of its cases" in " ".join(capsys.readouterr().out.split())
    assert "cases that no site holds: 4" in (tmp_path / "out" / "log.txt").read_text()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    forget(whole, "B", tmp_path / "out", "--search")
    said = " ".join(capsys.readouterr().out.split())
    assert "only its test cases are known by name: " in said and str(tmp_path / "data") in said
    moved = f"scenario.root={tmp_path / 'elsewhere'}"
    forget(whole, "B", tmp_path / "out", "--search", "--set", moved)
    assert "only its test cases" not in capsys.readouterr().out
    assert forget(whole, "B", tmp_path / "out", "--search", "--set", "scenario.rooot=x") == 2


@pytest.mark.slow
def test_an_architecture_that_nobody_else_has_was_never_there(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own = [*SMALL, *MIXED, "strategy=lwf"]
    whole = made(*own, "timeline.stages=[[A],[C],[B]]")
    assert forget(whole, "B", tmp_path / "out") == 0
    assert "played from the beginning (without B models.small." in capsys.readouterr().out
    assert_never_had(tmp_path / "out", made(*own, "timeline.stages=[[A],[C]]"))


@pytest.mark.slow
@pytest.mark.parametrize("more", [["model=siren"], ["model=diner", "model.width=8"]])
def test_frames_of_a_field(made: Made, tmp_path: Path, more: list[str]):
    own = [*TINY_FIELD, *more, "strategy=field_distillation"]
    whole = made(*own)
    sites = read(whole)["sites"]
    never = made(*own, f"timeline.stages=[[{sites[0]}],[{sites[2]}]]")
    assert forget(whole, sites[1], tmp_path / "out") == 0
    assert_never_had(tmp_path / "out", never)
    assert read(tmp_path / "out")["forgot"]["from_stage"] == 2


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param("round-*-stage-001/weights.safetensors", marks=pytest.mark.slow),
        "sites/A/round-*",
    ],
)
def test_what_is_damaged_is_played_again(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str
):
    own = [*SMALL, "strategy=replay"]
    whole = tmp_path / "whole"
    shutil.copytree(made(*own, f"timeline.stages={WHOLE}"), whole)
    for path in (whole / "checkpoint").glob(damaged):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert forget(whole, "C", tmp_path / "out") == 0
    assert "played from the beginning (" in capsys.readouterr().out
    assert_never_had(tmp_path / "out", made(*own, f"timeline.stages={STAGES['C']}"))


@pytest.mark.slow
def test_of_a_run_that_was_killed_the_snapshots_are_enough(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    own, whole = [*SMALL, "privacy=central_dp", "strategy=lwf"], tmp_path / "whole"
    shutil.copytree(made(*own, f"timeline.stages={WHOLE}"), whole)
    (whole / "results.json").unlink()
    assert forget(whole, "C", tmp_path / "out") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "draws noise of its own" in said and "3 names of its cases" in said
    one, other = read(tmp_path / "out"), read(made(*own, f"timeline.stages={STAGES['C']}"))
    assert one["weights_sha256"] != other["weights_sha256"] and one["stages"] == other["stages"]
    assert one["privacy"] == other["privacy"], "what is accounted for is that of such a run"


def test_an_interrupted_forgetting_is_resumed_like_any_run(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    own = [*SMALL, "strategy=replay"]
    whole = made(*own, f"timeline.stages={WHOLE}")
    from fedcl.server.rounds import Stage

    finish = Stage._finish_round

    def interrupted(self: Any, number: int, weights: Any) -> None:
        finish(self, number, weights)
        if number == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Stage, "_finish_round", interrupted)
        assert forget(whole, "C", tmp_path / "out") == 130
    assert f"go on with run.resume={tmp_path / 'out'}" in capsys.readouterr().err
    assert read(tmp_path / "out")["status"] == "interrupted"
    assert simulate.main([f"run.resume={tmp_path / 'out'}"]) == 0
    assert_never_had(tmp_path / "out", made(*own, f"timeline.stages={STAGES['C']}"))
    assert read(tmp_path / "out")["forgot"] == {"from_stage": 2, "stages_replayed": 1}
    assert forget(whole, "C", tmp_path / "out", "--search") == 0


def test_nothing_is_left_behind_and_what_is_planted_is_found(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole, out = made(*SMALL, "strategy=souvenir", f"timeline.stages={WHOLE}"), tmp_path / "out"
    assert forget(whole, "C", out) == 0
    digest, case = read(whole)["data_sha256"]["C"], next(iter(read(whole)["cases"]["C"]))
    kept = {
        out / "checkpoint" / "note.json": json.dumps({"C": 1}),
        out / "config.yaml": (out / "config.yaml").read_text() + "\nlist: [C]\n",
        out / "log.txt": "site C: lost\n",
        out / "figures.svg": f"<text>{case}</text>",
        out / "blob.bin": f"\xff\xfe{digest}",
    }
    for path, text in kept.items():
        path.write_bytes(text.encode("latin-1"))
    (out / "sites" / "C").mkdir(parents=True)
    (out / "sites" / "C" / "x").touch()
    capsys.readouterr()
    assert forget(whole, "C", out, "--search") == 1
    said = capsys.readouterr().out
    for path in (*kept, out / "sites" / "C" / "x"):
        assert f"{path.relative_to(out)}: " in said, path
    assert "found in 6 places" in said
    assert "only its test cases" not in said
    assert forget(whole, "C", whole, "--search") == 1, "the run that had it is full of it"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.json", '{"epochs": 2, "B": 1}', True),
        ("a.json", '{"by": ["site B: 2 images"]}', True),
        ("a.json", '{"what": "vitamin B and C", "B2": 1}', False),
        ("a.txt", "round 2: validation B dice 0.3", True),
        ("a.txt", "ABBA, B2, 4B_1", False),
        ("a.yaml", "- [A, B]", True),
    ],
)
def test_a_letter_is_a_name_only_where_names_stand(
    tmp_path: Path, name: str, text: str, found: bool
):
    (tmp_path / name).write_text(text)
    assert bool(Search("B").through(tmp_path)[0]) is found


def test_a_name_inside_of_anothers_is_that_ones(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("stages: [[float-large, D]]")
    (tmp_path / "float-large").mkdir()
    (tmp_path / "float-large" / "b.txt").write_text("site float-large has come")
    assert Search("float", others=["float-large", "D"]).through(tmp_path) == ([], 2)
    (tmp_path / "c.txt").write_text("sites float-large, float have come")
    found, _ = Search("float", others=["float-large", "D"]).through(tmp_path)
    assert [one.file.name for one in found] == ["c.txt"]


def test_a_number_is_a_name_only_where_names_stand(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"rounds": 1, "bank/1/x": [1, 2], "1.5": 0}')
    (tmp_path / "log.txt").write_text("stage 1, round 1\n")
    assert Search("1").through(tmp_path) == ([], 2)
    (tmp_path / "b.json").write_text('{"0/1/quantiles": [], "buffer/1/inputs": []}')
    (tmp_path / "c.txt").write_text("site 1 has come")
    assert len(Search("1").through(tmp_path)[0]) == 2


@pytest.mark.parametrize(
    ("site", "more", "said"),
    [
        ("X", [], "--site: 'X' took no part"),
        ("C", ["--set", "seed=3"], "seed: a resumed run keeps its configuration"),
        ("C", ["--set", "engine.quorum=3"], "without C there can be no such run: engine.quorum"),
    ],
)
def test_what_cannot_be_is_told_in_one_line_and_leaves_nothing(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str], site: str, more: Any, said: str
):
    whole = made(*SMALL, "strategy=replay", f"timeline.stages={WHOLE}")
    capsys.readouterr()
    assert forget(whole, site, tmp_path / "out", *more) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_or_is_none_of_a_run_is_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    whole = made(*SMALL, "strategy=replay", f"timeline.stages={WHOLE}")
    (tmp_path / "note").touch()
    for run, out, said in (
        (whole, tmp_path, "--out: "),
        (whole, whole / "new", "lies in the run"),
        (tmp_path, tmp_path / "new", "holds no run"),
    ):
        assert forget(run, "C", out) == 2
        assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["note"] and not (whole / "new").exists()


def test_weights_to_begin_with_that_are_others_now_are_refused(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    short = [*SMALL, "strategy=finetune", "timeline.rounds=1"]
    first, other = (made(*short, "timeline.stages=[[E]]", f"seed={seed}") for seed in (0, 1))
    file = tmp_path / "weights.safetensors"
    shutil.copyfile(first / "checkpoint" / "stage-1.safetensors", file)
    whole = made(*short, f"model.weights={file}", "timeline.stages=[[A,B],[C]]")
    never = made(*short, f"model.weights={file}", "timeline.stages=[[B],[C]]")
    assert forget(whole, "A", tmp_path / "same") == 0
    assert_never_had(tmp_path / "same", never)
    shutil.copyfile(other / "checkpoint" / "stage-1.safetensors", file)
    capsys.readouterr()
    assert forget(whole, "A", tmp_path / "others") == 2
    error = capsys.readouterr().err
    assert "model.weights: " in error and "is not any more what" in error
    assert len(error.splitlines()) == 1 and not (tmp_path / "others").exists()
    assert forget(whole, "C", tmp_path / "later") == 0, "what comes later begins with a snapshot"
