"""What `fedcl export` cannot write, and bundles that fedcl does not take: one line."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import simulate
from fedcl.registry import MODEL
from tests.bundles import export
from tests.conftest import TINY, TINY_FIELD
from tests.predicted import LABELS, hospitals, predict, simulated

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the two hospitals."""
    return hospitals(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run."""
    short = ["scenario.size=16", "learner.steps=1"]
    return simulated(tmp_path_factory.mktemp("runs") / "run", root, *LABELS, *short)


@pytest.fixture
def bundle(run: Path, tmp_path: Path) -> Path:
    """Return a bundle of that run."""
    assert export(run, tmp_path / "bundle") == 0
    return tmp_path / "bundle"


@pytest.fixture
def refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return what checks that nothing comes of a command but one line, and returns that."""

    def check(model: Path, *more: str, out: str = "out", answers: bool = False) -> str:
        capsys.readouterr()
        if answers:
            assert predict(model, root / "A" / "images", tmp_path / out, *more) == 2
        else:
            assert export(model, tmp_path / out, *more) == 2
        assert not (tmp_path / out).exists() and not list(tmp_path.glob(".part-*"))
        (line,) = capsys.readouterr().err.splitlines()
        return line

    return check


@pytest.mark.parametrize(
    ("out", "more", "said"),
    [
        ("m.nii", ["--format", "onnx"], "must end in .onnx"),
        ("m", ["--format", "torchscript"], "must end in .ts or .pt"),
        ("m", ["--stage", "3"], "--stage: "),
        ("m.ts", ["--site", "X"], "fedcl: --site: there is no 'X'; there are: A, B"),
        ("m.onnx", ["--model", "dynunet"], "--model: there is no 'dynunet'; there are: unet"),
        ("m.nii.gz", [], "is no run of a field (scenario folder)"),
    ],
)
def test_options_that_do_not_fit(run: Path, refused: Refused, out: str, more: list[str], said: str):
    assert said in refused(run, *more, out=out)


def test_a_folder_that_holds_something(run: Path, bundle: Path, capsys: pytest.CaptureFixture[str]):
    before = sorted(bundle.rglob("*"))
    assert export(run, bundle) == 2
    assert "is there already; give a new folder" in capsys.readouterr().err
    assert sorted(bundle.rglob("*")) == before


@pytest.mark.parametrize("kind", ["bundle", "onnx", "torchscript"])
def test_fields_have_none(tmp_path: Path, refused: Refused, kind: str):
    field = [*TINY_FIELD, "timeline.rounds=1", "learner.steps=2", "strategy=finetune"]
    assert simulate.main([*field, f"run.dir={tmp_path / 'run'}"]) == 0
    out = {"bundle": "out", "onnx": "m.onnx", "torchscript": "m.ts"}[kind]
    said = refused(tmp_path / "run", "--format", kind, out=out)
    assert "holds a field of coordinates, not images; fedcl export writes them as .nii.gz" in said


def test_weights_that_stay_at_hospitals_are_missed(root: Path, tmp_path: Path, refused: Refused):
    local = ["strategy=fedbn", "model.norm=batch", "learner.steps=1"]
    run = simulated(tmp_path / "run", root, *LABELS, *local)
    assert "to themselves" in refused(run)


def test_images_that_are_made_have_none(tmp_path: Path, refused: Refused):
    short = [*TINY, "timeline.rounds=1", "learner.steps=1", "timeline.stages=[[A]]"]
    assert simulate.main([*short, f"run.dir={tmp_path / 'run'}", "strategy=finetune"]) == 0
    assert "phantom reads no image files of its own" in refused(tmp_path / "run")


# --- bundles from elsewhere ------------------------------------------------------------------


def test_a_bundle_of_others_is_monais_to_run(bundle: Path, refused: Refused):
    (bundle / "configs" / "fedcl.json").unlink()
    said = refused(bundle, answers=True)
    assert "is a MONAI bundle, but not one of fedcl's" in said
    assert "python -m monai.bundle run --config_file configs/inference.json" in said


def test_its_stage_is_the_one_it_has(bundle: Path, refused: Refused):
    assert "--stage: a bundle holds the model of one stage" in refused(bundle, "--stage", "1")


def changed(bundle: Path, *keys: str, to: Any) -> None:
    """Change an entry of what a bundle tells fedcl."""
    file = bundle / "configs" / "fedcl.json"
    told = json.loads(file.read_text())
    place = told
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    file.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (["sites"], "A", "fedcl.json cannot be used (sites: "),
        (["samples", "A"], [1, 16, 1e9], "samples.A"),
        (["samples", "A"], [1, 16, 2**30], "samples.A: no shape of a sample"),
        (["samples", "A"], [1, 16, 16, 16], "its samples are no 2-D images"),
        (["sites"], ["A\x1b[2J", "B"], "is no name"),
        (["site"], "X", "site: 'X' is none of the sites"),
        (["architecture"], "other", "models, trains and architecture are at odds"),
        (["scenario", "name"], "os.path", "scenario: there is no 'os.path'"),
        (["scenario", "root"], "/etc", "scenario.root: a path has no place in it"),
        (["scenario", "splits"], "/etc/passwd", "scenario.splits: a path has no place in it"),
        (["scenario", "labels"], [0, 1, 2, 3], "4 classes are needed"),
        (["scenario", "resize"], 10**6, "scenario.resize: "),
        (["scenario", "odd"], 1, "scenario.odd: no such key"),
        (["models", "unet", "weights"], "/x.pt", "model.weights: a path has no place in it"),
        (["models", "unet", "channels"], [4096] * 8, "is not all of unet"),
        (["models", "unet", "channels"], [1] * 40, "needs images of "),
        (["models", "unet"], {"name": "siren"}, "none for images"),
        (["strategy"], {"name": "none"}, "strategy: there is no 'none'"),
        (["learner", "threads"], -1, "learner.threads: "),
    ],
)
def test_nothing_in_it_is_taken_on_trust(
    bundle: Path, refused: Refused, keys: list[str], value: Any, said: str
):
    changed(bundle, *keys, to=value)
    assert said in refused(bundle, answers=True)


def test_text_that_is_no_json_or_too_much_of_it(bundle: Path, refused: Refused):
    file = bundle / "configs" / "fedcl.json"
    for content in (b"{", b"[" * 9000, b"\xff", b" " * (2**20 + 1), b"{}"):
        file.write_bytes(content)
        assert "fedcl.json cannot be used (" in refused(bundle, answers=True)


class Boom:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


@pytest.mark.parametrize("content", ["pickle", "code", "script", "cut"])
def test_weights_are_never_unpickled(bundle: Path, refused: Refused, content: str):
    file = bundle / "models" / "model.pt"
    if content == "pickle":
        file.write_bytes(pickle.dumps(Boom()))
    elif content == "code":
        torch.save({"weight": Boom()}, file)
    elif content == "script":
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
    else:
        file.write_bytes(file.read_bytes()[:-400])
    assert "model.pt cannot be read" in refused(bundle, answers=True)


def test_its_scripts_are_never_run_by_fedcl(root: Path, bundle: Path, tmp_path: Path):
    for name in ("scripts/images.py", "scripts/__init__.py"):
        (bundle / name).write_text("raise SystemExit('executed')")
    (bundle / "configs" / "inference.json").write_text('{"imports": ["$exit(3)"]}')
    shutil.rmtree(bundle / "docs")
    assert predict(bundle, root / "A" / "images", tmp_path / "out") == 0


def test_an_array_that_is_one_value_over_and_over_takes_no_memory(bundle: Path, refused: Refused):
    """Else a file of a few KiB has a network built that no memory holds."""
    channels = [4096] * 8
    changed(bundle, "models", "unet", "channels", to=channels)
    with torch.device("meta"):
        network = MODEL.make({"name": "unet", "channels": channels}).build(1, 3, 2)
    weights = {
        key: torch.zeros(()).as_strided(value.shape, (0,) * value.dim())
        for key, value in network.state_dict().items()
    }
    torch.save(weights, bundle / "models" / "model.pt")
    assert "without values of its own" in refused(bundle, answers=True)


def test_mappings_in_mappings_take_no_time(bundle: Path, refused: Refused):
    nested: dict[str, object] = {"weight": torch.zeros(1)}
    for _ in range(3):
        nested = {str(number): nested for number in range(300)}
    torch.save(nested, bundle / "models" / "model.pt")
    assert "is not all of unet" in refused(bundle, answers=True)


def test_of_a_bundle_no_file_is_copied_that_lies_elsewhere(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    secret = tmp_path / "secret"
    secret.write_text("a key of mine")
    (bundle / "docs" / "README.md").unlink()
    (bundle / "docs" / "README.md").symlink_to(secret)
    assert export(bundle, tmp_path / "out", "--format", "bundle") == 2
    assert "lies elsewhere" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_texts_of_a_bundle_are_taken_over_whatever_they_are(bundle: Path, tmp_path: Path):
    (bundle / "docs" / "README.md").write_bytes(b"# \xff\xfe\n")
    (bundle / "LICENSE").write_text("MIT")
    (bundle / "config.yaml").write_text("[" * 5000)
    left = tmp_path / ".part-out" / "models" / "model.ts"  # of an export that was killed
    left.parent.mkdir(parents=True)
    left.write_text("of another model")
    assert export(bundle, tmp_path / "out", "--format", "bundle") == 0
    assert (tmp_path / "out" / "LICENSE").read_text() == "MIT"
    assert not (tmp_path / "out" / "models" / "model.ts").exists()


def test_the_folder_that_one_is_in_can_be_the_new_one(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert export(bundle, Path("."), "--format", "bundle") == 0
    assert (tmp_path / "here" / "models" / "model.pt").is_file()
