"""The command `fedcl predict`: what a trained model sees in images that nobody has labelled."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from fedcl.data.alone import Alone
from fedcl.data.files import printable, reading
from fedcl.data.grid import Array
from fedcl.data.layouts import Layout
from fedcl.data.patterns import Pattern
from fedcl.errors import ConfigError, DataError, RunError
from fedcl.files import write_atomically
from fedcl.learning.loop import device_of
from fedcl.release.trained import trained

COLUMNS = ("case", "label", "voxels", "ml", "mean")
FAILED = "failed.txt"


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
