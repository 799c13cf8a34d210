"""Runs that begin with weights trained before: the first round, who teaches, going on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Message

import simulate
from fedcl import arrays
from fedcl.app.simulation import APP, nodes_of
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.hospital import teacher
from fedcl.wire import records
from fedcl.wire.local_grid import InProcessGrid
from fedcl.wire.requests import TrainRequest
from tests.begun import SHORT, begin, same, server, weights
from tests.conftest import MIXED, TINY_FIELD, read, start
from tests.processes import kill, snapshot, wait_for

TAUGHT = ["strategy=lwf", "model.teaches=true"]
TWO = [*MIXED[:-1], "timeline.stages=[[A,B],[C,D]]"]
"""A and C have a large model, B and D a small one."""


def made(folder: Path, *overrides: str) -> Path:
    """Return the folder of a run that is complete."""
    assert simulate.main([*SHORT, f"run.dir={folder}", *overrides]) == 0
    return folder


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that others begin from."""
    return made(tmp_path_factory.mktemp("earlier") / "run")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of two architectures."""
    return made(tmp_path_factory.mktemp("both") / "run", *TWO)


def stage(folder: Path, number: int) -> arrays.Arrays:
    return arrays.load_file(folder / f"checkpoint/stage-{number}.safetensors")


def size(weights: arrays.Arrays) -> int:
    return records.size_of(records.to_record(weights))


def taught(found: dict[str, Any]) -> list[int]:
    """Return the bytes of teachers, by stage."""
    return [costs["teacher"] for costs in found["bytes_by_stage"]]


class Listening(InProcessGrid):
    """Hospitals; what they are sent to train with is noted."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        settings = Config.parse(compose([*SHORT, *overrides]))
        super().__init__(APP, list(nodes_of(settings, folder).values()))
        self.sent: list[TrainRequest] = []

    def _send(self, messages: list[Message]) -> None:
        for message in messages:
            if message.metadata.message_type == "train":
                self.sent.append(TrainRequest.unpack(message.content))
        super()._send(messages)


# --- where a run begins ------------------------------------------------------------------------


def test_a_run_begins_where_another_has_ended(earlier: Path, tmp_path: Path):
    """Same seed and data: what is scored before the first stage was scored before."""
    before = read(earlier)
    for number, source in ((2, earlier), (1, earlier / "checkpoint/stage-1.safetensors")):
        found = read(made(tmp_path / str(number), f"model.weights={source}"))
        assert found["initial"] == before["matrix"][number - 1] != before["initial"]
        assert found["data_sha256"] == before["data_sha256"]
        digest = arrays.digest(stage(earlier, number))
        assert found["begun"] == {
            "unet": {
                "file": f"stage-{number}.safetensors", "sha256": digest, "taken": 15,
                "renewed": [], "left": [], "teaches": False,
            }
        }  # fmt: skip
        assert (digest == before["weights_sha256"]) == (number == 2)
        gain = found["matrix"][0][1] - before["matrix"][number - 1][1]  # B, just before it arrives
        assert found["metrics"]["fwt"] == pytest.approx(gain)
        log = (tmp_path / str(number) / "log.txt").read_text()
        assert f"unet begins with 15 arrays of stage-{number}.safetensors" in log
    assert before["begun"] == {}


def test_hospitals_begin_the_first_round_with_them(earlier: Path, tmp_path: Path):
    options = [f"model.weights={earlier}"]
    grid = Listening(tmp_path, *options)
    one = server(tmp_path, *options, grid=grid)
    one.run(one.meet(), Clock())
    first, second = grid.sent
    wanted = stage(earlier, 2)
    for sent in (arrays.digest(one.state.weights), arrays.digest(stage(tmp_path, 1))):
        assert sent != arrays.digest(wanted), "the run has gone on from there"
    assert same(records.from_record(first.arrays), {k: torch.tensor(v) for k, v in wanted.items()})
    assert same(
        records.from_record(second.arrays),
        {key: torch.tensor(value) for key, value in stage(tmp_path, 1).items()},
    )
    assert first.teacher is second.teacher is None
    assert str(earlier) not in first.job, "where the file lies is nothing to hospitals"


def test_where_hospitals_keep_arrays_it_is_refused(
    earlier: Path, cli: Callable[..., int], tmp_path: Path, capsys: Any
):
    for options in (["strategy=individual"], ["strategy=fedbn", "model.norm=batch"]):
        more = f"model.weights={earlier}", "model.strict=false", f"run.dir={tmp_path / 'run'}"
        assert cli(*SHORT, *options, *more) == 2
        (line,) = [one for one in capsys.readouterr().err.splitlines() if "fedcl:" in one]
        assert "model.weights: hospitals keep model.0.conv.unit0.adn." in line
        assert "to themselves and would begin without them" in line
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        ("individual", "stage-2.safetensors holds no tensors by name"),
        ("fedbn", "model.0.conv.unit0.adn.N.weight is not in it"),
    ],
)
def test_what_hospitals_kept_is_not_in_a_runs_weights(
    cli: Callable[..., int], tmp_path: Path, capsys: Any, strategy: str, said: str
):
    """In its place there would be the untrained arrays, which nobody should begin with."""
    norm = "model.norm=batch"
    folder = made(tmp_path / "kept", norm, f"strategy={strategy}")
    ended, (initial, _) = stage(folder, 2), begin(norm)
    assert not [key for key in ended if (ended[key] == initial[key]).all()]
    assert cli(*SHORT, norm, f"model.weights={folder}", f"run.dir={tmp_path / 'run'}") == 2
    assert said in capsys.readouterr().err


# --- who teaches in the first stage ------------------------------------------------------------


@pytest.mark.parametrize("refresh", ["stage", "round", "ema"])
def test_what_it_began_with_teaches_in_the_first_stage(earlier: Path, tmp_path: Path, refresh: str):
    options = [f"model.weights={earlier}", "strategy=lwf", f"strategy.teacher.refresh={refresh}"]
    grid = Listening(tmp_path, *options, "model.teaches=true")
    one = server(tmp_path, *options, "model.teaches=true", grid=grid)
    one.run(one.meet(), Clock())
    lesson = grid.sent[0].teacher
    assert lesson is not None
    wanted = {key: torch.tensor(value) for key, value in stage(earlier, 2).items()}
    assert same(records.from_record(lesson), wanted)
    untaught = read(made(tmp_path / "untaught", *options))
    assert arrays.digest(one.state.weights) != untaught["weights_sha256"]
    assert arrays.digest(stage(tmp_path, 1)) != arrays.digest(stage(tmp_path / "untaught", 1))


def test_what_began_with_a_teacher_knows_all_in_later_stages_too(
    earlier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """MiB asks it for classes that no hospital of this run marks."""
    told, found = teacher.taught, []
    monkeypatch.setattr(teacher, "taught", lambda *call: found.append(told(*call)) or found[-1])
    options = f"model.weights={earlier}", "strategy=lwf", "model.teaches=true"
    assert read(made(tmp_path / "taught", *options))["rounds_per_stage"]
    assert len(found) >= 2 and not any(found)
    found.clear()
    stages = read(made(tmp_path / "untaught", *options[:2]))["stages"]
    assert found[-1] == stages[0]


def test_of_no_weight_the_lesson_changes_nothing(earlier: Path, tmp_path: Path):
    options = f"model.weights={earlier}", "strategy=lwf", "strategy.kd=0"
    with_it = read(made(tmp_path / "taught", *options, "model.teaches=true"))
    without = read(made(tmp_path / "untaught", *options))
    assert with_it["weights_sha256"] == without["weights_sha256"]
    one = size(stage(earlier, 2))
    assert taught(with_it) == [one, one] and taught(without) == [0, one]
    assert with_it["begun"]["unet"]["teaches"] and not without["begun"]["unet"]["teaches"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["strategy=lwf"], "there are no model.weights that could"),
        (["strategy=finetune", "{}"], "strategy finetune has no teacher that they could be"),
        (["strategy=fedprox", "{}"], "strategy fedprox has no teacher that they could be"),
        (["strategy=ewc", "{}"], "strategy ewc needs what hospitals told of a stage before"),
        (["strategy=mas", "{}"], "strategy mas needs what hospitals told of a stage before"),
        (
            [*TINY_FIELD, "strategy=field_distillation", "timeline.stages=null", "{}"],
            "are taught where others were, and nobody was",
        ),
        (
            ["strategy=contrastive", *MIXED, "models.large.teaches=true"],
            "there are no model.weights that could",
        ),
        (["strategy=tkrl", "{}"], "strategy tkrl needs what was remembered of a stage before"),
    ],
)
def test_what_cannot_teach_at_first_is_refused(
    earlier: Path, cli, tmp_path: Path, capsys, options: list[str], said: str
):
    base = [] if options[0] in TINY_FIELD else SHORT
    more = [one.format(f"model.weights={earlier}") for one in options]
    teaches = [] if "models.large.teaches=true" in more else ["model.teaches=true"]
    assert cli(*base, *more, *teaches, f"run.dir={tmp_path / 'run'}") == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("fedcl:")]
    assert "model" in line and ".teaches: " in line and said in line
    assert line.endswith("; take false") and not (tmp_path / "run").exists()


# --- going on ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(
    cli: Callable[..., int], tmp_path: Path, capsys: Any
):
    """In the first stage, with their lesson still to come; the file is not read again."""
    file, folder, copy = tmp_path / "given.pt", tmp_path / "run", tmp_path / "copy"
    torch.save(weights(), file)
    options = [*TAUGHT, f"model.weights={file}", "timeline.rounds=2", "learner.steps=10"]
    whole = read(made(tmp_path / "whole", *options))
    process = start(*SHORT, *options, f"run.dir={folder}")
    wait_for(snapshot(folder, "round-000001-stage-000"), process)
    kill(process)
    assert not (folder / "results.json").exists() and not list(folder.rglob("stage-1.safetensors"))
    shutil.copytree(folder, copy)
    torch.save(weights(seed=8), file)  # others, in the same place
    assert cli(f"run.resume={folder}", f"model.weights={tmp_path / 'others.pt'}") == 2
    assert "model.weights: a resumed run keeps its configuration" in capsys.readouterr().err
    assert cli(*options, f"run.resume={folder}") == 0, "the command repeated"
    file.unlink()
    assert cli(f"run.resume={copy}") == 0
    for found in (read(folder), read(copy)):
        for key in ("status", "weights_sha256", "matrix", "cases", "initial", "begun", "rounds"):
            assert found[key] == whole[key], key


# --- several architectures ---------------------------------------------------------------------


def test_each_architecture_begins_with_its_own(both: Path, tmp_path: Path):
    """Of a run of both, by their names; of files, each its own; the other as the seed has it."""
    ended, drawn = stage(both, 2), server(tmp_path, *TWO).state.weights
    assert ended.keys() == drawn.keys()
    parts = {name: arrays.under(f"{name}/", ended) for name in ("large", "small")}
    for name, part in parts.items():
        arrays.save_file(tmp_path / f"{name}.safetensors", part)
    for sources in (
        {"large": both, "small": both},
        {name: tmp_path / f"{name}.safetensors" for name in parts},
        {"small": both},
        {"large": tmp_path / "large.safetensors"},
    ):
        state = server(
            tmp_path, *TWO, *(f"models.{name}.weights={file}" for name, file in sources.items())
        ).state
        for name in parts:
            wanted = parts[name] if name in sources else arrays.under(f"{name}/", drawn)
            assert arrays.digest(arrays.under(f"{name}/", state.weights)) == arrays.digest(wanted)
        assert {name: told["taken"] for name, told in state.begun.items()} == {
            name: len(parts[name]) for name in sources
        }
        assert state.teacher == {}


def test_each_site_is_scored_at_first_with_its_own_model(both: Path, tmp_path: Path):
    sources = [f"models.{name}.weights={both}" for name in ("large", "small")]
    found = read(made(tmp_path / "run", *TWO, *sources))
    assert found["initial"] == read(both)["matrix"][-1]
    assert list(found["begun"]) == ["large", "small"]


def test_the_weights_of_another_architecture_are_refused(
    both: Path, cli: Callable[..., int], tmp_path: Path, capsys: Any
):
    small = tmp_path / "small.safetensors"
    arrays.save_file(small, arrays.under("small/", stage(both, 2)))
    folder = tmp_path / "run"
    assert cli(*SHORT, *TWO, f"models.large.weights={small}", f"run.dir={folder}") == 2
    assert "is not of large as configured" in capsys.readouterr().err and not folder.exists()


def test_the_setting_of_one_of_several_is_named(
    both: Path, cli: Callable[..., int], tmp_path: Path, capsys: Any
):
    small = f"models.small.weights={both}"
    for options, said in (
        (["models.large.weights=/nowhere"], "fedcl: models.large.weights: /nowhere: there is no"),
        (["models.large.teaches=true"], "fedcl: models.large.teaches: there are no"),
        ([small, "models.small.teaches=true"], "models.small.teaches: nobody is taught by small"),
    ):
        more = "strategy=contrastive", f"run.dir={tmp_path / 'run'}"
        assert cli(*SHORT, *TWO, *options, *more) == 2
        assert said in capsys.readouterr().err


def test_weights_of_what_nobody_trains_are_refused(
    both: Path, cli: Callable[..., int], tmp_path: Path, capsys: Any
):
    large = tmp_path / "large.safetensors"
    arrays.save_file(large, arrays.under("large/", stage(both, 2)))
    options = [*TWO, "strategy=contrastive", f"strategy.teacher.file={large}"]
    options += ["strategy.teacher.model=large", "sites.A.model=small", "sites.C.model=small"]
    options += ["sites.E.model=small", f"models.large.weights={large}"]
    assert cli(*SHORT, *options, f"run.dir={tmp_path / 'run'}") == 2
    assert "models.large.weights: no site trains large" in capsys.readouterr().err


def test_who_comes_later_is_taught_by_what_it_began_with(both: Path, tmp_path: Path):
    """Large ones alone in the first stage; the small one's teacher waits for the second."""
    options = [*TWO, "timeline.stages=[[A],[B]]", "strategy=lwf", "strategy.teacher.refresh=ema"]
    options += [f"models.small.weights={both}", "models.small.teaches=true"]
    one = size(arrays.under("small/", stage(both, 2)))
    assert taught(read(made(tmp_path / "run", *options))) == [0, one]


def test_one_that_was_trained_with_others_may_go_on_alone(both: Path, tmp_path: Path):
    """By the name that it had, or by what its arrays are called."""
    part = arrays.under("small/", stage(both, 2))
    wanted = {key: torch.tensor(value) for key, value in part.items()}
    alone = [f"sites.{site}.model=small" for site in "AB"]
    settings = [one for one in MIXED if one.startswith("models.small")]
    found, _ = begin(*settings, *alone, f"models.small.weights={both}")
    assert same(found, wanted)
    plain = ["model=plain_unet", "model.channels=[4,8]", "model.norm=instance"]
    file = tmp_path / "named.pt"
    torch.save({f"small/{key}": value for key, value in wanted.items()}, file)
    found, _ = begin(*plain, f"model.weights={file}")
    assert same(found, wanted)


def test_the_large_one_teaches_the_small_from_the_first_stage(both: Path, tmp_path: Path):
    """A is large and its own architecture's peer, B is small: both have the large teacher."""
    options = [*TWO, "strategy=contrastive", f"models.large.weights={both}"]
    with_it = read(made(tmp_path / "taught", *options, "models.large.teaches=true"))
    without = read(made(tmp_path / "untaught", *options))
    one = size(arrays.under("large/", stage(both, 2)))
    assert taught(with_it) == [2 * one, 2 * one] and taught(without) == [0, 2 * one]
    small = [arrays.under("small/", stage(tmp_path / run, 1)) for run in ("taught", "untaught")]
    assert arrays.digest(small[0]) != arrays.digest(small[1])
