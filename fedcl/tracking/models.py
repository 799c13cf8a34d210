"""MLflow's registry of models: versions by name, of which one is the released one."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fedcl.errors import ConfigError, one_line
from fedcl.tracking.client import SQLITE, asking, connect, spelt
from fedcl.tracking.names import BUNDLE, NAME, RELEASED, SCHEME

PASSED, STAGE, TOLD, WITHDRAWN = "released", "stage", "told", "withdrawn"
"""Tags of a version: whether it was released when it was made ("yes" or "no"), its stage, that all
of it has been told, and when it was withdrawn."""


def fetch(reference: str, uri: str, key: str, folder: Path) -> tuple[str, str]:
    """Fetch a model into a folder.

    Args:
        reference: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        uri: MLflow's address.
        key: what named it, for messages.
        folder: to put it into.

    Returns:
        Its path, and its name with the number of the version.

    Raises:
        ConfigError: there is no such model, or MLflow does not answer.
    """
    client = _reading(uri, key)
    with asking(uri, key):
        version = _found(client, reference, key)
        place = client.get_model_version_download_uri(version.name, version.version)
        try:
            path = Path(
                download_artifacts(artifact_uri=place, dst_path=str(folder), tracking_uri=uri)
            )
        except MlflowException as error:
            number = f"version {version.version} of {version.name}"
            raise ConfigError(
                f"{key}: the files of {number} cannot be had from {place}; they may be deleted "
                f"({one_line(str(error))})"
            ) from None
    bundle = path / BUNDLE  # a model that somebody else has registered may have none
    called = f"{SCHEME}{version.name}/{version.version}"
    return str(bundle if bundle.is_dir() else path), called


def register(
    client: MlflowClient,
    name: str,
    run: str,
    place: str,
    stage: int,
    released: bool,
    tags: Mapping[str, str],
) -> None:
    """Make a version of a model of what a run has logged; telling it again changes nothing.

    Args:
        client: of MLflow.
        name: of the model; made if there is none.
        run: its id in MLflow.
        place: of the model among the run's artefacts.
        stage: after which, from 1.
        released: whether the alias is to move to it. It does not move back to an earlier stage of
            the run, whose version may have been delivered late.
        tags: of the version.
    """
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name='{name}' and run_id='{run}'")
    version = next((one for one in known if one.tags.get(STAGE) == str(stage)), None)
    if version is None:
        source = f"{client.get_run(run).info.artifact_uri.rstrip('/')}/{place}"
        own = {STAGE: str(stage), PASSED: "yes" if released else "no"}
        spelt_ = {spelt(key)[:250]: value[:5000] for key, value in tags.items()}
        version = client.create_model_version(name, source, run_id=run, tags=spelt_ | own)
    if TOLD in version.tags:
        return
    now = aliased(client, name, RELEASED)
    later = now is not None and now.run_id == run and int(now.tags.get(STAGE, 0)) > stage
    if released and not later:
        client.set_registered_model_alias(name, RELEASED, version.version)
    client.set_model_version_tag(name, version.version, TOLD, "yes")


def roll_back(uri: str, name: str, to: int | None = None) -> tuple[int, int]:
    """Put the version to use that was in use before, and withdraw the one in use.

    Args:
        uri: MLflow's address.
        name: of the model.
        to: the version to go back to; None for the latest one before that was released and not
            withdrawn.

    Returns:
        The version in use until now, and the one in use from now on.

    Raises:
        ConfigError: there is none to go back to.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"rollback: {name[:200]!r}: give the model's name alone, without models:/"
        )
    client = _reading(uri, "rollback")
    with asking(uri, "rollback --uri"):
        now = _found(client, f"{SCHEME}{name}@{RELEASED}", "rollback")
        every = client.search_model_versions(f"name='{name}'")
        place = {int(one.version): _place(one, every) for one in every}
        before = sorted(
            int(one.version)
            for one in every
            if one.tags.get(PASSED) == "yes" and WITHDRAWN not in one.tags
        )
        if to is None:
            earlier = [one for one in before if place[one] < place[int(now.version)]]
            to = max(earlier, key=place.__getitem__, default=None)
            if to is None:
                raise ConfigError(
                    f"rollback: {name} has no version before {now.version} that was released; "
                    "there is nothing to go back to"
                )
        elif to == int(now.version):
            raise ConfigError(f"rollback --to: version {to} of {name} is in use already")
        elif to not in before:
            there = ", ".join(str(one) for one in before if one != int(now.version)) or "none"
            raise ConfigError(
                f"rollback --to: {name} has no version {to} that was released and not withdrawn; "
                f"there are, besides the one in use: {there}"
            )
        client.set_registered_model_alias(name, RELEASED, str(to))
        date = datetime.now(UTC).isoformat(timespec="seconds")
        client.set_model_version_tag(name, now.version, WITHDRAWN, date)
    return int(now.version), to


def _place(one: ModelVersion, every: Sequence[ModelVersion]) -> tuple[int, int]:
    """Return where a version stands in the order of use; one delivered late has a late number."""
    stage = int(one.tags.get(STAGE, 0))
    own = (v for v in every if one.run_id and v.run_id == one.run_id)
    numbers = [int(v.version) for v in own if int(v.tags.get(STAGE, 0)) <= stage]
    return max(numbers, default=int(one.version)), stage


def _reading(uri: str, key: str) -> MlflowClient:
    """Return a client of an MLflow that is there: none is made by asking it for a model."""
    if uri.startswith(SQLITE) and not Path(uri.removeprefix(SQLITE)).is_file():
        raise ConfigError(
            f"{key}: there is no MLflow at {uri}; give its address, --uri or tracking.uri"
        )
    return connect(uri, key)


def _found(client: MlflowClient, reference: str, key: str) -> ModelVersion:
    """Return the version that a reference means.

    Raises:
        ConfigError: there is none.
    """
    parts = re.fullmatch(rf"{SCHEME}({NAME})(?:/(\d{{1,9}})|@([\w.-]{{1,100}}))", reference)
    if parts is None:
        raise ConfigError(
            f"{key}: {reference[:200]!r}: give models:/NAME@{RELEASED} or models:/NAME/VERSION"
        )
    name, number, alias = parts.groups()
    found = aliased(client, name, alias) if alias else _numbered(client, name, number)
    if found is not None:
        return found
    there = client.search_model_versions(f"name='{name}'")
    if not there:
        raise ConfigError(f"{key}: the registry has no model {name!r}")
    numbers = ", ".join(sorted((str(one.version) for one in there), key=int))
    what = f"alias {alias!r}" if alias else f"version {number}"
    aliases = ", ".join(sorted(client.get_registered_model(name).aliases))
    numbers += f", and by alias: {aliases}" if aliases else ""
    raise ConfigError(f"{key}: {name} has no {what}; there are versions {numbers}")


def aliased(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version of a model that an alias names; None where it names none."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _numbered(client: MlflowClient, name: str, number: str) -> ModelVersion | None:
    try:
        return client.get_model_version(name, number)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
