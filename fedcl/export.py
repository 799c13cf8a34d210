"""The command `fedcl export`: a fitted field as a NIfTI volume, at any resolution."""

import math
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import yaml
from torch import nn

from fedcl import arrays
from fedcl.checkpoint import read_results
from fedcl.config import Config
from fedcl.errors import ConfigError, RunError
from fedcl.field import Field
from fedcl.plugins import name_of

LONGEST = 2**15 - 1  # points along an axis that NIfTI can count


def export(
    run: Path,
    out: Path,
    output: str = "signal",
    shape: tuple[int, int, int, int] | None = None,
    stage: int | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> tuple[int, ...]:
    """Write the values of a field on a regular grid over its planned extent.

    Args:
        run: folder of a completed run.
        out: the file, .nii or .nii.gz, of shape (columns, rows, slices, frames).
        output: "signal" or the name of a mask.
        shape: frames, slices, rows and columns wanted; None for the planned ones.
        stage: after which stage, counted from 1; None for the last.
        spacing: distance between the planned grid's slices, rows and columns, in mm; the
            new voxels' follow from it.

    Returns:
        The shape written.

    Raises:
        ConfigError: the folder holds no such run, or the field has no value there.
    """
    if not out.name.endswith((".nii", ".nii.gz")):
        raise ConfigError(f"export --out: {out} must end in .nii or .nii.gz")
    task, network, known = fitted(run, stage)
    if output not in known:
        raise ConfigError(f"export --output: no {output!r}; there are {', '.join(known)}")
    if not all(0 < distance < math.inf for distance in spacing):
        raise ConfigError(f"export --spacing: {spacing}; give three distances in mm")
    wanted = shape or task.space.shape
    for points, planned in zip(wanted, task.space.shape, strict=True):
        if not 1 <= points <= LONGEST or (planned == 1 and points != 1):
            raise ConfigError(
                f"export --shape: {wanted}; the planned extent is {task.space.shape}, an axis of "
                f"length 1 has no coordinate, and none may be longer than {LONGEST}"
            )
    axes = [torch.linspace(-1, 1, wanted[axis]) for axis in task.space.axes]
    inputs = torch.cartesian_prod(*axes).view(-1, len(axes))
    try:
        values = task.answers(network, inputs)[:, known.index(output)]
    except RunError as error:
        raise ConfigError(
            f"export --shape: {wanted}: {error}; leave it out, for the planned {task.space.shape}"
        ) from None
    volume = values.numpy().reshape(wanted)
    before, after = task.space.shape[1:], wanted[1:]
    steps = [
        distance * (planned - 1) / (now - 1) if now > 1 else distance
        for distance, planned, now in zip(spacing, before, after, strict=True)
    ]
    image = nib.Nifti1Image(volume.T.astype(np.float32), np.diag([*steps[::-1], 1.0]))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, out)
    except OSError as error:
        raise ConfigError(f"export --out: {out}: {error.strerror}") from None
    return tuple(volume.T.shape)


def fitted(run: Path, stage: int | None = None) -> tuple[Field, nn.Module, list[str]]:
    """Return a run's task, its field after a stage, and the names of the field's outputs.

    Args:
        run: folder of a completed run.
        stage: counted from 1; None for the last.

    Raises:
        ConfigError: the folder holds no such run.
    """
    results = read_results(run)
    if results is None or results["status"] != "completed":
        raise ConfigError(f"export: {run} holds no completed run")
    try:
        config = Config.parse(yaml.safe_load((run / "config.yaml").read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"export: {run / 'config.yaml'} cannot be read ({reason})") from None
    job, task, stages = config.job, config.job.scenario.task, config.timeline.stages
    if not isinstance(task, Field):
        raise ConfigError(f"export: {run} is no run of a field (scenario {name_of(job.scenario)})")
    last = len(stages) if stage is None else stage
    if not 1 <= last <= len(stages):
        raise ConfigError(f"export --stage: {last}; the run has {len(stages)} stages")
    seen = config.timeline.seen(last - 1)
    (model,) = job.models  # fields are of one architecture
    network = job.network(model, seen).eval()
    if job.local(network):
        raise ConfigError(f"export: the sites of {run} keep part of their fields to themselves")
    weights = arrays.load_file(run / "checkpoint" / f"stage-{last}.safetensors")
    arrays.into_network(network, weights)
    return task, network, list(task.names[: task.room(seen).outputs])
