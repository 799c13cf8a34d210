"""The command `fedcl predict`: what a trained model sees in images that nobody has labelled."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from fedcl.analysis.columns import csv_of
from fedcl.contracts import where
from fedcl.data.alone import Alone
from fedcl.data.files import printable, reading
from fedcl.data.grid import Array
from fedcl.data.layouts import Layout
from fedcl.data.patterns import Pattern
from fedcl.errors import ConfigError, DataError, RunError
from fedcl.files import write_atomically
from fedcl.learning.loop import device_of
from fedcl.release.trained import Trained, trained
from fedcl.reporting.gallery import FOLDER, Answered, gallery
from fedcl.reporting.overlays import overlay

COLUMNS = ("case", "label", "voxels", "ml", "mean")
FAILED = "failed.txt"
PAGE = "index.html"


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
    overlays: bool = True,
    called: str = "",
) -> None:
    """Write a mask for every image in a folder, on its own grid and under its name.

    Beside them lie `predictions.csv`, per case and class voxels, millilitres (where the file says
    how large voxels are) and the mean of the image's first channel, as it came; a picture of each
    in `overlays/`; and `index.html` to look through them. One image at a time is held.

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
        overlays: whether pictures and page are written: they show patients.
        called: what the model is called on the page; by default as its folder.

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
        place = device_of(replace(one.learner, device=device))
    except RunError:
        raise ConfigError("--device: cuda was asked for, but no CUDA device is there") from None
    _check_new(out)
    torch.set_num_threads(one.learner.threads)
    one.answering.to(place)
    ((usual, _),) = Counter(tuple(files) for files in cases.values()).most_common(1)
    answered: list[Answered] = []
    failed: dict[str, str] = {}
    for name, files in track(cases.items(), "predicting", console=console, transient=True):
        try:
            if tuple(files) != usual:
                numbers = (", ".join(map(str, those)) for those in (files, usual))
                raise DataError("it has the channels {}, others {}".format(*numbers))
            answered.append(_answered(one, name, [*files.values()], place, out, overlays))
        except ConfigError:  # it is not the image's
            raise
        except Exception as error:  # whatever it is, it costs no other image
            failed[printable(name)] = printable(_reason(error, one.site))
            torch.cuda.empty_cache()
    listed = {"predictions.csv": _table(answered)} if answered else {}
    if failed:
        listed[FAILED] = "".join(f"{name}: {reason}\n" for name, reason in failed.items())
    if overlays:
        which = f"the model {called or f'of {run.name}'}" + (
            f" after stage {stage}" if stage is not None else ""
        )
        as_of = f"Images were read as those of {site or 'no hospital in particular'}."
        title = f"{len(answered)} masks by {which}"
        listed[PAGE] = gallery(printable(title), [as_of], answered, failed)
    try:
        for file, text in listed.items():
            write_atomically(out / file, text.encode())
    except OSError as error:
        there = f"{len(answered)} masks are there"
        raise RunError(f"--out: {out}: {error.strerror} ({there})") from None
    for what, count in Counter(note for case in answered for note in case.notes).items():
        console.print(f"note: {what} ({count})", markup=False, soft_wrap=True)
    look = f"; look through them: {out / PAGE}" if overlays else ""
    console.print(f"{len(answered)} masks in {out}{look}", markup=False, soft_wrap=True)
    if failed:
        raise RunError(_missed(failed, len(cases), out / FAILED))


def _missed(failed: Mapping[str, str], count: int, listed: Path) -> str:
    """Return in one line how many of so many images have no mask, and where they are listed."""
    first, reason = next(iter(failed.items()))
    said = f"{len(failed)} of {count} images could not be used; {listed} lists them, "
    if 1 < len(failed) == count and len({*failed.values()}) == 1:
        return f"{said}all for one reason, which is hardly the images': {reason}"
    return f"{said}first {first}: {reason}"


def _answered(
    one: Trained, name: str, files: Sequence[Path], device: torch.device, out: Path, overlays: bool
) -> Answered:
    """Write the mask of an image, and its picture; both or, where one cannot be, none.

    Raises:
        DataError, OSError: the image cannot be read, or the mask not be written.
    """
    with reading(one.site):
        alone = one.scenario.alone(name, files, one.site)
    found = one.answer(alone, device)
    picture = out / FOLDER / f"{name}.png"
    try:
        if overlays:
            write_atomically(picture, overlay(alone, found, one.task.dims))
        _write(alone, found, out)
    except BaseException:
        picture.unlink(missing_ok=True)
        raise
    notes = [note.what for note in alone.notes]
    return Answered(name, alone.written, _measured(alone, found), notes)


def _reason(error: Exception, site: str) -> str:
    """Return in one line why an image has no mask; a fault of the program with its place."""
    causes = (error, error.__cause__)
    if any(isinstance(one, torch.OutOfMemoryError) for one in causes):
        return "too large for the memory of the GPU; --device cpu may have more"
    # The CPU's allocator has no exception of its own.
    if any(isinstance(one, MemoryError) or "can't allocate memory" in str(one) for one in causes):
        return "too large for the memory there is"
    return _unnamed(error, site) if isinstance(error, DataError | OSError) else where(error)


def _table(answered: Sequence[Answered]) -> str:
    """Return what was measured as CSV, with a header."""
    rows = ({"case": case.name, **row} for case in answered for row in case.rows)
    return csv_of(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])


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


def _measured(alone: Alone, classes: Array) -> list[dict[str, str]]:
    """Return how much of every class but the background there is, and how bright."""
    rows = []
    for number in range(1, alone.labels.classes):
        inside = classes == number
        voxels, volume = int(inside.sum()), ""
        if alone.spacing is not None:
            along, down, across = alone.spacing
            volume = f"{voxels * along * down * across / 1000:.6g}"
        mean = f"{alone.image[0][inside].mean(dtype='f8'):.6g}" if voxels else ""
        told = (alone.labels.written(number), str(voxels), volume, mean)
        rows.append(dict(zip(COLUMNS[1:], told, strict=True)))
    return rows
