"""The models of a run in MLflow's registry: every stage's, with what they are, ready to be used."""

import json
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

import simulate
from fedcl import arrays
from fedcl.app.cli import main
from fedcl.app.resuming import changes
from fedcl.app.simulation import resume
from fedcl.app.simulation import simulate as run_it
from fedcl.config.hydra import compose
from fedcl.errors import ConfigError, RunError
from fedcl.release.trained import trained
from fedcl.server.results import Results
from fedcl.tracking.client import connect
from tests.begun import SHORT
from tests.conftest import TINY_FIELD
from tests.predicted import LABELS, hospitals, simulated

KEPT = ["tracking.enabled=true", "release.name=prostate", "release.licence=CC-BY-4.0"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def uri(place: Path) -> str:
    return f"sqlite:///{place / 'mlflow.db'}"


@pytest.fixture(scope="module")
def run(place: Path, uri: str) -> Path:
    """A run of two hospitals with files, one after the other, whose models are kept."""
    given = [*LABELS, *KEPT, f"tracking.uri={uri}", "timeline.stages=[[A],[B]]"]
    return simulated(place / "run", hospitals(place / "data"), *given)


@pytest.fixture(scope="module")
def client(uri: str, run: Path) -> MlflowClient:
    return connect(uri, "tracking.uri")


def test_every_stage_is_a_version_with_its_figures(client: MlflowClient, run: Path):
    results = Results.read(run)
    assert results is not None
    versions = client.search_model_versions("name='prostate'", order_by=["version_number ASC"])
    assert [one.tags["stage"] for one in versions] == ["1", "2"]
    first, last = (one.tags for one in versions)
    assert "score/B" not in first and "data/B" not in first, "it had not come"
    for column, site in enumerate(results.sites):
        assert float(last[f"score/{site}"]) == pytest.approx(results.matrix[1][column], abs=1e-5)
        assert last[f"data/{site}"] == results.data_sha256[site]
    assert float(last["avg"]) == pytest.approx(results.avg, abs=1e-5)
    assert last["weights_sha256"] == results.weights_sha256
    assert client.get_model_version_by_alias("prostate", "released").tags["stage"] == "2"
    assert versions[0].run_id == results.tracking["run"]


def test_what_is_kept_has_signature_example_card_and_no_pickle(uri: str, run: Path):
    folder = run / "models" / "stage-2"
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in ("MLmodel", "input_example.json", "data/bundle/configs/inference.json"):
        assert name in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle"))]
    weights = torch.load(folder / "data/bundle/models/model.pt", weights_only=True)
    assert arrays.digest({k: v.numpy() for k, v in weights.items()}) == arrays.digest(
        arrays.load_file(run / "checkpoint" / "stage-2.safetensors")
    )
    assert "CC-BY-4.0" in (folder / "data/bundle/docs/README.md").read_text()
    assert (folder / "data/bundle/LICENSE").read_text() == "CC-BY-4.0"
    about = json.loads((folder / "data/bundle/configs/fedcl.json").read_text())
    assert str(run.parent) not in json.dumps(about), "no path of this machine"


def test_mlflow_serves_the_probabilities_of_the_network(uri: str, run: Path):
    mlflow.set_tracking_uri(uri)
    served = mlflow.pyfunc.load_model("models:/prostate@released")
    one = trained(run, None, None, None)
    size = one.task.framing.whole((16,) * one.task.dims)
    samples = np.random.default_rng(0).normal(size=(2, one.task.channels, *size)).astype("f4")
    found = served.predict(samples)
    with torch.no_grad():
        wanted = one.network(torch.from_numpy(samples)).softmax(1).numpy()
    assert found == pytest.approx(wanted, abs=1e-6)
    shape = served.metadata.signature.inputs.inputs[0].shape
    assert shape == (-1, one.task.channels, *(-1,) * one.task.dims)


def test_predict_answers_by_the_registry_as_by_the_run(run: Path, uri: str, tmp_path: Path):
    images = str(run.parent / "data" / "A" / "images")
    common = ["--images", images, "--no-overlays"]
    assert main(["predict", str(run), *common, "--out", str(tmp_path / "run")]) == 0
    named = ["predict", "models:/prostate@released", "--uri", uri]
    assert main([*named, *common, "--out", str(tmp_path / "registry")]) == 0
    files = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "registry").iterdir())
    for name in files:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "registry" / name).read_bytes()


def test_a_bundle_can_be_made_of_what_is_kept(run: Path, uri: str, tmp_path: Path):
    out = tmp_path / "bundle"
    assert main(["export", "models:/prostate/1", "--uri", uri, "--out", str(out)]) == 0
    found = torch.load(out / "models/model.pt", weights_only=True)
    wanted = arrays.load_file(run / "checkpoint" / "stage-1.safetensors")
    assert all(np.array_equal(found[key].numpy(), wanted[key]) for key in wanted)


def test_a_run_that_is_gone_on_with_makes_no_version_twice(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    values = compose([*SHORT, *KEPT, f"tracking.uri={uri}", "release.on_refusal=stop"])
    with pytest.raises(RunError, match="refused"):  # no hospital has two validation cases
        run_it(values, tmp_path / "run")
    client = connect(uri, "tracking.uri")
    assert len(client.search_model_versions("name='prostate'")) == 1
    resume(tmp_path / "run", changes(["release.on_refusal=warn"]))
    versions = client.search_model_versions("name='prostate'", order_by=["version_number ASC"])
    assert [(one.tags["stage"], one.tags["released"]) for one in versions] == [
        ("1", "yes"), ("2", "no"),
    ]  # fmt: skip
    assert client.get_model_version_by_alias("prostate", "released").version in ("1", 1)
    assert "1 validation case" in versions[1].tags["reason"]


def test_a_model_that_cannot_be_kept_takes_nothing_from_the_run(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "models").touch()  # where the folder of models is to be
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = run_it(compose([*SHORT, *KEPT, f"tracking.uri={uri}"]), tmp_path / "run")
    assert found.completed and len(found.matrix) == 2
    said = (tmp_path / "run" / "log.txt").read_text()
    assert "the model of stage 1 is not kept in the registry: " in said
    assert not connect(uri, "x").search_registered_models()


def test_each_architecture_is_a_model_of_its_own(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    both = [
        "models.small.name=unet", "models.small.channels=[4,8]", "sites.B.model=small",
        "sites.A.model=unet",
    ]  # fmt: skip
    given = [*SHORT, *KEPT, *both, f"tracking.uri={uri}", f"run.dir={tmp_path / 'run'}"]
    assert simulate.main(given) == 0
    names = {one.name for one in connect(uri, "x").search_registered_models()}
    assert names == {"prostate-unet", "prostate-small"}


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["release.name=a/b"], "release.name: 'a/b' cannot name a model"),
        (["release.name=x", "tracking.enabled=false"], "release.name: MLflow keeps models"),
        (["release.name=x", "strategy=individual"], "release.name: it is about global models"),
        ([*TINY_FIELD, "release.name=x", "tracking.enabled=true"], "kept in the run's folder"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_the_run(
    tmp_path: Path, overrides: list[str], reason: str
):
    given = [*SHORT, "tracking.enabled=true", f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"]
    if overrides[: len(TINY_FIELD)] == TINY_FIELD:
        given = [given[-1]]
    with pytest.raises(ConfigError, match=reason):
        run_it(compose([*given, *overrides]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
