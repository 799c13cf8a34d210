"""The command `fedcl reproduce`: the runs of a published table, and the table beside its own."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from fedcl.analysis import published, published_figures, published_frames
from fedcl.analysis.runs import Group, Run
from fedcl.analysis.sources import LeftOutError, read
from fedcl.app.entry import run
from fedcl.app.reconstructed import reconstructed
from fedcl.app.resuming import changes
from fedcl.app.run_folder import holds_run
from fedcl.app.segmented import segmented
from fedcl.config.stored import stored
from fedcl.errors import ConfigError, RunError
from fedcl.files import write_atomically
from fedcl.reporting.console import console
from fedcl.reporting.figures import save
from fedcl.server.results import Results
from fedcl.tasks.field import Field
from fedcl.tasks.segmentation import Segmentation

SAID = {
    "seed": "give --seeds, by which runs lie in folders of their own",
    "scenario.root": "give ROOT, the second argument",
    "run.dir": "give --out, in which every run has its folder",
    "run.resume": "give --out of the command before, which goes on with what was begun",
    "protocol": "it is the table's own; name another table",
    "strategy": "it is what rows differ in; choose some of them by --only",
}
"""What the command says by itself of every run, and how to say it."""


def reproduce(
    name: str,
    root: Path,
    out: Path,
    seeds: Sequence[int],
    only: Sequence[str],
    overrides: Sequence[str],
) -> int:
    """Run what a table needs, one run after the other, and write it.

    What is complete is not run again, what was begun goes on; either must have been begun with the
    same settings.

    Args:
        name: of the table; see `fedcl.analysis.published`.
        root: where the data of all sites lie.
        out: gets `runs/ROW/seedN`, the tables, `figure.png`, `cases.png` and `segmentations/`.
        seeds: empty for those of the table.
        only: rows to run, and those that teach them; empty for all. The table shows all that are
            complete.
        overrides: of every run, after those of its row.

    Returns:
        The exit status: that of the first run that failed, else 0.

    Raises:
        ConfigError: no such table or row, an override of what the command itself says, or a run
            was begun with other settings.
    """
    paper = published.paper(name)
    unknown = [row for row in only if row not in paper.rows]
    if unknown:
        raise ConfigError(
            f"reproduce --only: {name} has no row {unknown[0]!r}; there are: "
            f"{', '.join(paper.rows)}"
        )
    _settable(overrides)
    wanted = {*only, *(paper.rows[row].teacher for row in only)} or {*paper.rows}
    chosen = list(dict.fromkeys(seeds or paper.seeds))
    asked = list(product(chosen, [row for row in paper.rows if row in wanted]))
    for seed, row in product(chosen, paper.rows):
        folder, teacher = _folder(out, row, seed), paper.rows[row].teacher
        command = [
            f"protocol={paper.protocol}",
            f"scenario.root={_quoted(root)}",
            f"seed={seed}",
            *paper.rows[row].overrides,
            *(_taught_by(teacher, _folder(out, teacher, seed)) if teacher else []),
            *overrides,
        ]
        if _complete(folder):
            changes(command)(stored(folder))  # which the table shows, whether asked for or not
            console.print(f"{folder} is complete already", markup=False, soft_wrap=True)
        elif (seed, row) in asked:
            place = asked.index((seed, row)) + 1
            console.rule(f"{row}, seed {seed} ({place} of {len(asked)})")
            key = "run.resume" if holds_run(folder) else "run.dir"
            code = run([*command, f"{key}={_quoted(folder)}"])
            if code:
                return code
    _write(paper.run_with(overrides), out, chosen)
    return 0


def _settable(overrides: Sequence[str]) -> None:
    """Raise `ConfigError` where an override is of what tells the runs of a table apart."""
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if key in SAID:
            raise ConfigError(f"reproduce --set {key}: {SAID[key]}")


def _folder(out: Path, row: str, seed: int) -> Path:
    return out / "runs" / row / f"seed{seed}"


def _taught_by(row: str, folder: Path) -> list[str]:
    """Return what has the model of a row's run teach, by the row's name, an architecture's."""
    file = folder / "checkpoint" / "stage-1.safetensors"
    return [f"strategy.teacher.model={row}", f"strategy.teacher.file={_quoted(file)}"]


def _quoted(path: Path) -> str:
    """Return a path as Hydra takes any."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _complete(folder: Path) -> bool:
    results = Results.read(folder)
    return results is not None and results.completed


def _read(folder: Path) -> Run:
    try:
        return read(str(folder), folder)
    except LeftOutError as reason:
        raise RunError(f"reproduce: {folder}: {reason}; remove it, and it is run anew") from None


def _write(paper: published.Paper, out: Path, seeds: Sequence[int]) -> None:
    """Write tables and figures of the rows of which all runs are complete."""
    groups, lacking = [], []
    for row in paper.rows:
        folders = [_folder(out, row, seed) for seed in seeds]
        if all(map(_complete, folders)):
            groups.append(Group(row, [_read(folder) for folder in folders]))
        else:
            lacking.append(row)
    notes = [f"not run, or not complete: {', '.join(lacking)}"] if lacking else []
    paper = paper.run_at({site for one in groups for run in one.runs for site in run.results.sites})
    found = published.entries(paper, groups)
    draw = _fields if found[0].runs[0].results.case == "frame" else _images
    with console.status("asking the models about test cases"):
        told = draw(paper.title, found, out)
    for name, text in published.files(paper, found, [*notes, *told]).items():
        write_atomically(out / name, text.encode())
    save(published_figures.panels(found, paper.title), out / "figure.png")
    console.print((out / "table.md").read_text(encoding="utf-8"), markup=False, soft_wrap=True)
    console.print(f"written to {out}", markup=False, soft_wrap=True)


def _images(title: str, found: Sequence[published.Entry], out: Path) -> list[str]:
    """Write how the rows segment test cases; return which do not, and why."""
    pictures, told = segmented(_first(found), out / "segmentations")
    if pictures:
        save(published_figures.cases(pictures, Segmentation.legend), out / "cases.png")
    return told


def _fields(title: str, found: Sequence[published.Entry], out: Path) -> list[str]:
    """Write the frames of the rows' fields, and what lambda does to them; nothing is left out."""
    pictures = reconstructed(_first(found))
    save(published_figures.cases(pictures, Field.legend), out / "cases.png")
    write_atomically(out / "frames.csv", published_frames.frames(found).encode())
    save(published_frames.curves(found, title), out / "frames.png")
    save(published_frames.sweep(found, title), out / "lambda.png")
    return []


def _first(found: Sequence[published.Entry]) -> dict[str, Path]:
    """Return the folder of every row's first run, by the row's title."""
    return {entry.row.title: Path(entry.runs[0].place) for entry in found}
