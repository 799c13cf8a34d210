"""The command `fedcl export`: a fitted field as a NIfTI volume, at any resolution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from torch import Tensor, nn

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.data.grid import Array
from fedcl.errors import ConfigError, RunError
from fedcl.registry import name_of
from fedcl.server.results import Results
from fedcl.tasks.field import Field

LONGEST = 2**15 - 1  # points along an axis that NIfTI can count


@dataclass(frozen=True)
class Fitted:
    """A run's field after a stage.

    Attributes:
        task: of the run.
        network: the field.
        known: the names of its outputs.
        learned: the sites that had trained by then.
        source: where its values come from, as in results.json; empty where that is not known.
    """

    task: Field
    network: nn.Module
    known: list[str]
    learned: list[str]
    source: dict[str, Any]

    def covered(self, output: int, shape: Sequence[int]) -> Tensor:
        """Return which frames and slices of a grid an output was learned of, bool, (T, D).

        Args:
            output: its number.
            shape: frames, slices, ... of the grid; what lies between planned frames or slices
                counts where it was learned on both sides.
        """
        frames, slices = self.task.space.shape[:2]
        every = self.task.known(self.learned)[:, output].view(frames, slices, -1).all(dim=2)
        for axis, (planned, wanted) in enumerate(((frames, shape[0]), (slices, shape[1]))):
            place = torch.linspace(0, planned - 1, wanted, dtype=torch.float64)
            place = (place * 1e6).round() / 1e6
            ends = (place.floor().long(), place.ceil().long())
            every = every.index_select(axis, ends[0]) & every.index_select(axis, ends[1])
        return every


def export(
    run: Path,
    out: Path,
    output: str = "signal",
    shape: tuple[int, int, int, int] | None = None,
    stage: int | None = None,
    spacing: tuple[float, float, float] | None = None,
    everywhere: bool = False,
) -> tuple[tuple[int, ...], list[str]]:
    """Write the values of a field on a regular grid over its planned extent.

    Where the run knows the file it was learned from, the volume lies where that one does, frames
    are as far apart, and the signal is in that file's intensities.

    Args:
        run: folder of a completed run.
        out: the file, .nii or .nii.gz, of shape (columns, rows, slices, frames).
        output: "signal" or the name of a mask.
        shape: frames, slices, rows and columns wanted; None for the planned ones.
        stage: after which stage, counted from 1; None for the last.
        spacing: distance between the planned grid's slices, rows and columns, in mm; the
            new voxels' follow from it. None for the source's, or 1 where that is not known.
        everywhere: write what the field says of slices and frames too that no site has taught
            it; otherwise they are NaN.

    Returns:
        The shape written, and what a user should know of it.

    Raises:
        ConfigError: the folder holds no such run, or the field has no value there.
    """
    if not out.name.endswith((".nii", ".nii.gz")):
        raise ConfigError(f"export --out: {out} must end in .nii or .nii.gz")
    field = fitted(run, stage)
    task, known = field.task, field.known
    if output not in known:
        raise ConfigError(f"export --output: no {output!r}; there are {', '.join(known)}")
    if spacing is not None and not all(0 < distance < math.inf for distance in spacing):
        raise ConfigError(f"export --spacing: {spacing}; give three distances in mm")
    wanted = shape or task.space.shape
    for points, planned in zip(wanted, task.space.shape, strict=True):
        if not 1 <= points <= LONGEST or (planned == 1 and points != 1):
            raise ConfigError(
                f"export --shape: {wanted}; the planned extent is {task.space.shape}, an axis of "
                f"length 1 has no coordinate, and none may be longer than {LONGEST}"
            )
    number = known.index(output)
    covered = field.covered(number, wanted)
    if not covered.any() and not everywhere:
        raise ConfigError(f"export --output: no site had taught {output} by then; --everywhere")
    try:
        volume = _values(field, number, wanted, None if everywhere else covered)
    except RunError as error:
        raise ConfigError(
            f"export --shape: {wanted}: {error}; leave it out, for the planned "
            f"{task.space.shape}" + (", and --everywhere" if everywhere else "")
        ) from None
    low, high = field.source.get("scale", (0.0, 1.0)) if output == "signal" else (0.0, 1.0)
    values = (low + (high - low) * volume.T).astype(np.float32)
    image: Any = nib.Nifti1Image(values, _affine(field, wanted, spacing))
    if field.source:
        own = nib.orientations.axcodes2ornt(field.source["axes"])
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), own)
        image = image.as_reoriented(turn)
    _describe(image, field.source, (low, high), (task.space.shape[0], wanted[0]))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, out)
    except OSError as error:
        raise ConfigError(f"export --out: {out}: {error.strerror}") from None
    return tuple(volume.T.shape), _told(field, covered, everywhere, spacing)


def _values(field: Fitted, output: int, shape: Sequence[int], covered: Tensor | None) -> Array:
    """Return what an output is on a grid over the planned extent, NaN where it is not covered."""
    axes = field.task.space.axes
    volume = torch.full(tuple(shape), math.nan)
    ends = [torch.linspace(-1, 1, length, dtype=torch.float64) for length in shape]
    every = torch.ones(*shape[:2], dtype=torch.bool) if covered is None else covered
    for frame, slice_ in every.nonzero().tolist():
        own = [ends[0][[frame]], ends[1][[slice_]], ends[2], ends[3]]
        inputs = torch.cartesian_prod(*(own[axis] for axis in axes)).view(-1, len(axes)).float()
        answers = field.task.answers(field.network, inputs)[:, output]
        volume[frame, slice_] = answers.view(*shape[2:])
    return volume.numpy()


def _affine(
    field: Fitted, shape: Sequence[int], spacing: tuple[float, float, float] | None
) -> Array:
    """Return where (column, row, slice) of a grid over the planned extent lie, in mm."""
    affine = np.array(field.source["affine"]) if field.source else np.eye(4)
    if spacing is not None:  # other voxels in the same directions, from the same origin
        affine[:3, :3] *= np.array(spacing[::-1]) / np.linalg.norm(affine[:3, :3], axis=0)
    planned = field.task.space.shape
    steps = [
        (before - 1) / (now - 1) if now > 1 else 1.0
        for before, now in zip(planned[:0:-1], shape[:0:-1], strict=True)
    ]
    return np.asarray(affine @ np.diag([*steps, 1.0]))


def _describe(
    image: Any, source: dict[str, Any], scale: tuple[float, float], frames: tuple[int, int]
) -> None:
    """Write place, units, the time between frames and what was clipped into a header.

    Args:
        image: gets it.
        source: where the field comes from, if that is known.
        scale: the intensities it was clipped to.
        frames: how many are planned, and how many there are now.
    """
    image.set_sform(image.affine, code=1)
    image.set_qform(image.affine, code=1, strip_shears=True)
    seconds, (planned, now) = source.get("seconds_per_frame"), frames
    image.header.set_xyzt_units("mm", "sec" if seconds else "unknown")
    if seconds:
        step = seconds * (planned - 1) / (now - 1) if now > 1 else seconds
        image.header.set_zooms((*image.header.get_zooms()[:3], step))
    if scale != (0.0, 1.0):
        text = "fedcl field; source clipped to {:g}..{:g}".format(*scale)
        image.header["descrip"] = text.encode()[:79]


def _told(
    field: Fitted, covered: Tensor, everywhere: bool, spacing: tuple[float, float, float] | None
) -> list[str]:
    """Return what a user should know of an exported volume."""
    told = []
    if not field.source:
        told.append(
            "where the volume lies is not known: its axes are those of the planned grid"
            + ("" if spacing else ", its voxels 1 mm; --spacing gives others")
        )
    missing = int((~covered).sum())
    if missing:
        what = "not learned, what the field makes of them" if everywhere else "not learned: NaN"
        told.append(f"{missing} of {covered.numel()} slices (over all frames) {what}")
    return told


def fitted(run: Path, stage: int | None = None) -> Fitted:
    """Return a run's field after a stage.

    Args:
        run: folder of a completed run.
        stage: counted from 1; None for the last.

    Raises:
        ConfigError: the folder holds no such run.
    """
    results = Results.read(run)
    if results is None or not results.completed:
        raise ConfigError(f"export: {run} holds no completed run")
    try:
        config = Config.parse(yaml.safe_load((run / "config.yaml").read_text()))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"export: {run / 'config.yaml'} cannot be read ({reason})") from None
    job, task, stages = config.job, config.job.task, config.timeline.stages
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
    learned = list(dict.fromkeys(site for known in results.stages[:last] for site in known))
    sources = [results.source.get(site) for site in learned]
    source: dict[str, Any] = next((one for one in sources if one), {})
    known = list(task.names[: task.room(seen).outputs])
    return Fitted(task, network, known, learned, source)
