"""The models of a stage as MLflow's registry keeps them: a bundle, a card, and how to serve it."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedcl import arrays
from fedcl.errors import writing
from fedcl.release.about import About
from fedcl.release.bundle import write_bundle
from fedcl.release.card import card
from fedcl.release.trained import Trained, assembled
from fedcl.server.results import ArchitectureResults, Results
from fedcl.tracking.names import BUNDLE


@dataclass(frozen=True)
class Version:
    """A model that is to be a version of one in the registry.

    Attributes:
        name: of the model.
        folder: where its files are, in the run's folder.
        tags: of the version.
    """

    name: str
    folder: str
    tags: dict[str, str]


def write_models(
    folder: Path, name: str, values: Mapping[str, Any], results: Results
) -> list[Version]:
    """Write the model of every architecture that hospitals train, as it is after the last stage.

    Args:
        folder: of the run.
        name: of the model in the registry.
        values: the run's configuration.
        results: of the run so far.

    Raises:
        RunError: they cannot be written.
    """
    stage = len(results.matrix)
    about = About.of(values, results)
    release = values.get("release") or {}
    trained = {key: one for key, one in results.architectures.items() if one.sites}
    versions = []
    for architecture, known in trained.items():
        one = assembled(
            about, folder / "checkpoint" / f"stage-{stage}.safetensors", "", architecture
        )
        several = f"-{architecture}" if len(results.architectures) > 1 else ""
        place = f"models/stage-{stage}{several}"
        digest = arrays.digest(arrays.of_network(one.network))
        words = card(results, values, stage=stage, model=architecture, sha256=digest)
        told = {"name": f"{name}{several}", "version": f"0.{stage}.0", "changelog": {}}
        if release.get("intended_use"):
            told["intended_use"] = release["intended_use"]
        with tempfile.TemporaryDirectory(prefix="fedcl-bundle-") as aside:
            bundle = Path(aside) / Path(BUNDLE).name
            write_bundle(bundle, one, told, card=words, licence=release.get("licence") or "")
            _write(folder / place, bundle, one)
        versions.append(
            Version(f"{name}{several}", place, _tags(results, known) | {"weights_sha256": digest})
        )
    return versions


def _write(folder: Path, bundle: Path, one: Trained) -> None:
    """Write a bundle with what MLflow needs to show and to serve it: signature and example."""
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Schema, TensorSpec

    task = one.task
    free, number = (-1,) * task.dims, np.dtype(np.float32)
    size = task.window or task.framing.whole((1,) * task.dims)
    example = np.zeros((1, task.channels, *size), number)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(number, (-1, task.channels, *free))]),
        outputs=Schema([TensorSpec(number, (-1, task.classes, *free))]),
    )
    with writing(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        pyfunc.save_model(
            path=str(folder),
            loader_module="fedcl.release.served",
            data_path=str(bundle),
            signature=signature,
            input_example=example,
            pip_requirements=["fedcl"],
        )


def _tags(results: Results, known: ArchitectureResults) -> dict[str, str]:
    """Return what a version says of itself in the registry."""
    row, metrics = (known.matrix or results.matrix)[-1], known.metrics or results.metrics
    come = {site for stage in results.arrivals[: len(results.matrix)] for site in stage}
    told = {site: value for site, value in zip(results.sites, row, strict=True) if site in come}
    tags = {f"score/{site}": f"{value:.6g}" for site, value in told.items() if value is not None}
    digests = results.data_sha256
    tags |= {f"data/{site}": digests[site] for site in told if site in digests}
    figures = {name: metrics.get(name) for name in ("avg", "bwt", "worst_site")}
    tags |= {name: f"{value:.6g}" for name, value in figures.items() if value is not None}
    verdict = results.release[-1] if results.release else None
    if verdict is not None and verdict.reason:
        tags["reason"] = verdict.reason
    return tags
