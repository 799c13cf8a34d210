"""Models in MLflow's registry: made once, released in order, fetched by name, taken back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from fedcl.app.cli import main
from fedcl.app.simulation import simulate
from fedcl.config.hydra import compose
from fedcl.errors import ConfigError
from fedcl.server.results import Results
from fedcl.tracking.client import connect
from fedcl.tracking.models import fetch, register, roll_back
from tests.begun import SHORT, unet

Place = Callable[[int], str]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def client(uri: str) -> MlflowClient:
    return connect(uri, "tracking.uri")


@pytest.fixture(scope="module")
def run(client: MlflowClient, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that has logged the models of three stages."""
    folder = tmp_path_factory.mktemp("artefacts")
    experiment = client.create_experiment("phantom", artifact_location=folder.as_uri())
    made = client.create_run(experiment).info.run_id
    for stage in (1, 2, 3):
        models = tmp_path_factory.mktemp("bundle") / "models"
        models.mkdir()
        torch.save(unet(seed=stage).state_dict(), models / "model.pt")
        client.log_artifacts(made, str(models), f"models/stage-{stage}/models")
    return str(made)


def released(client: MlflowClient, name: str) -> int:
    return int(client.get_model_version_by_alias(name, "released").version)


def test_a_version_is_made_once_however_often_it_is_told(client: MlflowClient, run: str):
    for _ in range(3):
        register(client, "once", run, "models/stage-1", 1, True, {"score/A": "0.75"})
    (version,) = client.search_model_versions("name='once'")
    assert version.tags["score/A"] == "0.75" and version.tags["released"] == "yes"
    assert version.run_id == run and released(client, "once") == 1


def test_what_is_told_late_does_not_move_the_alias_back(client: MlflowClient, run: str):
    for stage in (2, 1, 3):
        register(client, "late", run, f"models/stage-{stage}", stage, stage < 3, {})
    now = client.get_model_version_by_alias("late", "released")
    assert now.tags["stage"] == "2", "the third is refused, the first came after the second"


def test_telling_again_after_a_roll_back_leaves_it_rolled_back(
    client: MlflowClient, run: str, uri: str
):
    for stage in (1, 2):
        register(client, "again", run, f"models/stage-{stage}", stage, True, {})
    assert roll_back(uri, "again") == (2, 1)
    register(client, "again", run, "models/stage-2", 2, True, {})
    assert released(client, "again") == 1


def test_rolling_back_goes_from_one_released_version_to_the_one_before(
    client: MlflowClient, run: str, uri: str, capsys: pytest.CaptureFixture[str]
):
    for stage in (1, 2, 3):
        register(client, "back", run, f"models/stage-{stage}", stage, stage != 2, {})
    assert main(["rollback", "back", "--uri", uri]) == 0
    assert capsys.readouterr().out == "back: released is version 1; version 3 is withdrawn\n"
    assert released(client, "back") == 1
    assert "withdrawn" in client.get_model_version("back", "3").tags
    assert main(["rollback", "back", "--uri", uri]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "no version before 1 that was released" in line


def test_what_is_no_name_or_in_use_already_is_said(client: MlflowClient, run: str, uri: str):
    register(client, "use", run, "models/stage-1", 1, True, {})
    with pytest.raises(ConfigError, match="give the model's name alone, without models:/"):
        roll_back(uri, "models:/use@released")
    with pytest.raises(ConfigError, match="version 1 of use is in use already"):
        roll_back(uri, "use", 1)


@pytest.mark.parametrize("to", [2, 9])
def test_no_version_refused_or_not_there_can_be_gone_back_to(
    client: MlflowClient, run: str, uri: str, to: int
):
    for stage in (1, 2, 3):
        register(client, "to", run, f"models/stage-{stage}", stage, stage != 2, {})
    with pytest.raises(ConfigError, match=r"--to: to has no version .*: 1$"):
        roll_back(uri, "to", to)
    assert released(client, "to") == 3


@pytest.mark.parametrize(
    ("reference", "called"),
    [("models:/fetched@released", "models:/fetched/2"), ("models:/fetched/1", "models:/fetched/1")],
)
def test_a_model_is_fetched_by_alias_or_number(
    client: MlflowClient, run: str, uri: str, tmp_path: Path, reference: str, called: str
):
    for stage in (1, 2):
        register(client, "fetched", run, f"models/stage-{stage}", stage, True, {})
    path, told = fetch(reference, uri, "model.weights", tmp_path)
    assert told == called
    weights = torch.load(Path(path) / "models" / "model.pt", weights_only=True)
    wanted = unet(seed=int(called[-1])).state_dict()
    assert all(torch.equal(weights[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("models:/nobody@released", "the registry has no model 'nobody'"),
        ("models:/there@other", "no alias 'other'; there are versions 1, and by alias: released"),
        ("models:/there/7", "there has no version 7; there are versions 1"),
        ("models:/there", "give models:/NAME@released or models:/NAME/VERSION"),
        ("models:/there/../../etc", "give models:/NAME@released"),
        ("models:/x' or name='there@released", "give models:/NAME@released"),
    ],
)
def test_a_model_that_is_not_there_is_one_line(
    client: MlflowClient, run: str, uri: str, tmp_path: Path, reference: str, reason: str
):
    register(client, "there", run, "models/stage-1", 1, True, {})
    with pytest.raises(ConfigError) as error:
        fetch(reference, uri, "model.weights", tmp_path)
    assert reason in str(error.value) and str(error.value).startswith("model.weights: ")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_no_registry_is_made_by_asking_it(tmp_path: Path):
    file = tmp_path / "mlflow.db"
    with pytest.raises(ConfigError, match="there is no MLflow at sqlite"):
        fetch("models:/a@released", f"sqlite:///{file}", "MODEL", tmp_path)
    with pytest.raises(ConfigError, match="there is no MLflow"):
        roll_back(f"sqlite:///{file}", "a")
    assert not file.exists()


def test_a_run_begins_with_a_model_of_the_registry(
    client: MlflowClient, run: str, uri: str, tmp_path: Path
):
    register(client, "begun", run, "models/stage-1", 1, True, {})
    given = [*SHORT, f"tracking.uri={uri}"]
    values = compose([*given, "model.weights=models:/begun@released"])
    named = simulate(values, tmp_path / "named")
    file = tmp_path / "model.pt"
    torch.save(unet(seed=1).state_dict(), file)
    plain = simulate(compose([*given, f"model.weights={file}"]), tmp_path / "file")
    assert named.weights_sha256 == plain.weights_sha256
    assert named.begun["unet"]["file"] == "models:/begun/1", "an alias moves, a version does not"
    assert "models:/begun/1" in (tmp_path / "named" / "log.txt").read_text()
    assert "weights: models:/begun/1" in (tmp_path / "named" / "config.yaml").read_text()
    assert isinstance(Results.read(tmp_path / "named"), Results)


def test_a_version_delivered_late_is_not_what_was_in_use_last(
    client: MlflowClient, run: str, uri: str
):
    for stage in (2, 1, 3):
        register(client, "mixed", run, f"models/stage-{stage}", stage, True, {})
    assert roll_back(uri, "mixed") == (3, 1), "version 1 is of stage 2"
    assert roll_back(uri, "mixed") == (1, 2), "and version 2 of stage 1"
