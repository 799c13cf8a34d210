"""The command `fedcl predict`: what a trained model sees in images that nobody has labelled."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from fedcl import arrays
from fedcl.app.run_folder import stored
from fedcl.data.alone import Alone
from fedcl.data.files import printable, reading
from fedcl.data.grid import Array
from fedcl.data.layouts import Layout
from fedcl.data.patterns import Pattern
from fedcl.data.resampling import restored
from fedcl.errors import ConfigError, DataError, RunError
from fedcl.files import write_atomically
from fedcl.learning.learner import Learner
from fedcl.learning.loop import device_of
from fedcl.learning.scenario import Scenario
from fedcl.registry import MODEL, SCENARIO, STRATEGY, name_of
from fedcl.server.begin import found_at, load, of_architecture
from fedcl.server.results import Results
from fedcl.settings import parse
from fedcl.tasks.segmentation import Segmentation

COLUMNS = ("case", "label", "voxels", "ml", "mean")
FAILED = "failed.txt"


@dataclass(frozen=True)
class Trained:
    """A model of a run, ready to answer.

    Attributes:
        network: with the weights of a stage.
        scenario: as which images are read.
        task: that the network has learned, in samples of the size that it has seen.
        site: as whose images they are read; empty for those of no site.
        learner: of the run: where to compute.
    """

    network: nn.Module
    scenario: Scenario
    task: Segmentation
    site: str
    learner: Learner

    def answer(self, alone: Alone, device: torch.device) -> Array:
        """Return the class of every voxel of an image, on its own grid, as it would be scored."""
        (found,) = self.task.predict(self.network, alone.case, device, self.learner.amp)
        (scan,) = alone.case.scans
        return np.asarray(restored(found, scan.own).max(0).indices.numpy())


def trained(run: Path, site: str | None, stage: int | None, model: str | None) -> Trained:
    """Return the model of a run.

    Args:
        run: its folder.
        site: as whose images others are read, and padded; None for the largest samples of all.
        stage: after which, from 1; None for the last.
        model: which of several architectures; None for that of the site, or the default one.

    Raises:
        ConfigError: there is none, or it is not for images.
    """
    values = stored(run)
    results = Results.read(run)
    if results is None:
        raise ConfigError(f"predict: {run} has no results.json: the run has not ended")
    here = {"table": None, "splits": None}  # who held what in the run plays no part
    described = {k: here.get(k, v) for k, v in values["scenario"].items()}
    scenario = SCENARIO.make(described)
    settled = {k.removeprefix("scenario."): v for k, v in results.settled.items()}
    scenario = replace(scenario, **settled)
    task = scenario.task
    if not isinstance(task, Segmentation):
        raise ConfigError(f"predict: {name_of(scenario)} holds {task.words}; see fedcl export")
    if type(scenario).alone is Scenario.alone:
        raise ConfigError(f"predict: {name_of(scenario)} reads no image files of its own")
    if site is not None and site not in results.sites:
        raise ConfigError(f"--site: there is no {site!r}; there are: {', '.join(results.sites)}")
    own = [name for name, one in results.architectures.items() if site in one.sites]
    name = model or (own[0] if own else next(iter(results.architectures)))
    known = {name_of(MODEL.make(values["model"])): values["model"], **(values.get("models") or {})}
    if name not in known or name not in results.architectures:
        there = ", ".join(results.architectures)
        raise ConfigError(f"--model: there is no {name!r}; there are: {there}")
    made = {one: MODEL.make(known[one]) for one in results.architectures}
    fitted = _padded(task.fitted([*made.values()]), results.samples, site)
    network = fitted.build(made[name], results.sites)
    kept = STRATEGY.make(values["strategy"]).partition(network, 0).local | task.local(network)
    if kept:
        raise ConfigError(
            f"predict: the hospitals of {run} keep {', '.join(sorted(kept)[:3])} to themselves; "
            "what lies here in their place has seen no image"
        )
    file = found_at(str(run), "predict")
    if stage is not None:
        file = run / "checkpoint" / f"stage-{stage}.safetensors"
        if not file.is_file():
            raise ConfigError(f"--stage: {run} has no {file.name}")
    weights = of_architecture(name, load(file, "predict"))
    problem = arrays.mismatch(weights, arrays.of_network(network))
    if problem is not None:
        raise ConfigError(f"predict: {file} is not all of {name} ({problem})")
    arrays.into_network(network, weights)
    learner = parse(Learner, values["learner"], "learner")
    return Trained(network.eval(), scenario, fitted, site or "", learner)


def _padded(
    task: Segmentation, samples: Mapping[str, Sequence[int]], site: str | None
) -> Segmentation:
    """Return the task with samples as a site has them, or the largest of all sites."""
    if not samples:
        return task
    shapes = [shape for name, shape in samples.items() if site in (None, name)]
    return replace(task, least=tuple(map(max, zip(*(shape[1:] for shape in shapes), strict=True))))


def predict(
    run: Path,
    images: Path,
    out: Path,
    console: Console,
    site: str | None = None,
    stage: int | None = None,
    model: str | None = None,
    pattern: str = "{case}",
    device: str = "auto",
) -> None:
    """Write a mask for every image in a folder, on its own grid and under its name.

    Beside them lies `predictions.csv`: per case and class voxels, millilitres (where the file says
    how large voxels are) and the mean of the image's first channel, as it came.

    Args:
        run: whose model, a folder.
        images: the folder.
        out: a new folder, or an empty one.
        console: where progress is shown.
        site: as whose images they are read; see `trained`.
        stage: likewise.
        model: likewise.
        pattern: which files are images, as `scenario.image`.
        device: auto, cpu or cuda.

    Raises:
        FedclError: nothing can be predicted; or, once all others are, some images could not be
            read: they are listed in `failed.txt`.
    """
    one = trained(run, site, stage, model)
    layout = Layout((Pattern(pattern, "--pattern"),), ())
    if not images.is_dir():
        raise ConfigError(f"--images: {images} is no folder")
    try:
        with reading(one.site):
            cases = layout.images(one.site, images)
    except DataError as error:
        raise DataError(f"--images: {_unnamed(error, one.site)}") from None
    try:
        where = device_of(replace(one.learner, device=device))
    except RunError:
        raise ConfigError("--device: cuda was asked for, but no CUDA device is there") from None
    _check_new(out)
    torch.set_num_threads(one.learner.threads)
    one.network.to(where)
    ((usual, _),) = Counter(tuple(files) for files in cases.values()).most_common(1)
    rows: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    notes: dict[str, int] = {}
    written = 0
    for name, files in track(cases.items(), "predicting", console=console, transient=True):
        try:
            if tuple(files) != usual:
                numbers = (", ".join(map(str, those)) for those in (files, usual))
                raise DataError("it has the channels {}, others {}".format(*numbers))
            with reading(one.site):
                alone = one.scenario.alone(name, list(files.values()), one.site)
            found = one.answer(alone, where)
            _write(alone, found, out)
        except (DataError, OSError) as error:
            failed[printable(name)] = printable(_unnamed(error, one.site))
            continue
        written += 1
        rows += _measured(alone, found)
        for note in alone.notes:
            notes[note.what] = notes.get(note.what, 0) + 1
    listed = {"predictions.csv": _table(rows)} if rows else {}
    if failed:
        listed[FAILED] = "".join(f"{name}: {reason}\n" for name, reason in failed.items())
    try:
        for file, text in listed.items():
            write_atomically(out / file, text.encode())
    except OSError as error:
        raise RunError(f"--out: {out}: {error.strerror} ({written} masks are there)") from None
    for what, count in notes.items():
        console.print(f"note: {what} ({count})", markup=False, soft_wrap=True)
    console.print(f"{written} masks in {out}", markup=False, soft_wrap=True)
    if failed:
        first = next(iter(failed))
        raise RunError(
            f"{len(failed)} of {len(cases)} images could not be used; {out / FAILED} lists them, "
            f"first {first}: {failed[first]}"
        )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with a header."""
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _unnamed(error: Exception, site: str) -> str:
    """Return what an error says, but for the site: an image is of none."""
    return str(error).removeprefix(f"site {site}: ")


def _check_new(out: Path) -> None:
    """Raise a ConfigError where a folder cannot be made, or holds something."""
    above = next(path for path in (out, *out.parents) if path.exists())
    if not above.is_dir():
        raise ConfigError(f"--out: {above} is no folder")
    if above == out and any(out.iterdir()):
        raise ConfigError(f"--out: {out} is there already; give a new folder")


def _write(alone: Alone, classes: Array, out: Path) -> None:
    """Write a mask whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / alone.written
    part = out / f".part-{alone.written}"
    try:
        alone.write(classes, part)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _measured(alone: Alone, classes: Array) -> list[dict[str, Any]]:
    """Return how much of every class but the background there is, and how bright."""
    rows = []
    for number in range(1, alone.labels.classes):
        inside = classes == number
        voxels, volume = int(inside.sum()), ""
        if alone.spacing is not None:
            along, down, across = alone.spacing
            volume = f"{voxels * along * down * across / 1000:.6g}"
        mean = f"{alone.image[0][inside].mean(dtype='f8'):.6g}" if voxels else ""
        label = alone.labels.written(number)
        told = (alone.case.name, label, str(voxels), volume, mean)
        rows.append(dict(zip(COLUMNS, told, strict=True)))
    return rows
