"""What the benchmarks share: runs that are made once, and their place in RESULTS.md."""

import argparse
import contextlib
import io
import json
import os
import re
import tarfile
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from os.path import relpath
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.progress import Progress

from fedcl.app.simulate import main as command
from fedcl.files import write_atomically
from fedcl.server.results import Results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "RESULTS.md"
SUNNYBROOK = ROOT.parent / "shared" / "data" / "sunnybrook"

SHARE = 20
"""Runs for each lane, after which all have a new process."""

Planned = tuple[Path, list[str]]
"""A run's folder and its overrides."""


def options(about: str | None, arguments: Sequence[str] | None, name: str) -> argparse.Namespace:
    """Read the command line of a benchmark that runs what is missing: `out`, `lanes`, `report`.

    Args:
        about: the benchmark, in words.
        arguments: None for those of the process.
        name: of its folder of runs, and of its archive.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / name)
    parser.add_argument("--lanes", type=int, default=1, help="runs at a time")
    parser.add_argument("--report", action="store_true", help="only write")
    given = parser.parse_args(arguments)
    if given.lanes < 1:
        parser.error(f"--lanes: must be at least 1, got {given.lanes}")
    return given


def finished(folder: Path) -> Results | None:
    """Return the results of the run in `folder`, or None if it is not complete."""
    results = Results.read(folder)
    return results if results is not None and results.completed else None


def completed(folder: Path) -> dict[str, Any] | None:
    """Return them as results.json has them; to copy them takes a while."""
    results = finished(folder)
    return None if results is None else results.values()


def simulate(run: Planned) -> None:
    """Do what `simulate.py` does, in this process; no path of this machine is kept.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    folder, overrides = run
    os.chdir(ROOT)
    begun, place = (folder / "config.yaml").exists(), relpath(folder, ROOT)
    own = [f"run.resume={place}"] if begun else [f"run.dir={place}", "tracking.enabled=false"]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = command(["engine=inprocess", *own, *(() if begun else overrides)])
    if status:
        raise RuntimeError(f"{folder}: {said.getvalue().strip()}")


def processes(count: int) -> ProcessPoolExecutor:
    """Return processes that make several runs each: importing torch takes as long as a short one.

    Not with `max_tasks_per_child`: Python 3.11 replaces no process that has done its share while
    calls wait, and hangs.
    """
    return ProcessPoolExecutor(count, get_context("spawn"))


def run_all(runs: Iterable[Planned], lanes: int, what: str) -> None:
    """Run those that are not complete, `lanes` at a time; go on with those begun.

    One lane is this process, several are others, which give their memory back every `SHARE` runs.
    """
    todo = [(folder, overrides) for folder, overrides in runs if finished(folder) is None]
    if not todo:
        return
    with Progress() as progress:
        bar = progress.add_task(what, total=len(todo))
        for first in range(0, len(todo), SHARE * lanes):
            share = todo[first : first + SHARE * lanes]
            with processes(lanes) as pool:
                for _ in map(simulate, share) if lanes == 1 else pool.map(simulate, share):
                    progress.advance(bar)


def slug(*words: str) -> str:
    """Return words as the name of a folder that a command line takes unquoted."""
    return re.sub(r"[^\w.+]+", "-", "-".join(words))


def check_whole(folder: Path, file: Path) -> None:
    """Check that a folder has every run that an archive has: tables of fewer would replace better.

    Raises:
        RuntimeError: it lacks some, or has none at all.
    """
    if not any(finished(one.parent) for one in folder.rglob("results.json")):
        raise RuntimeError(f"{folder} has no complete run; unpack benchmarks/{file.name} there")
    if not file.exists():
        return
    with tarfile.open(file) as kept:
        places = [Path(name).parent for name in kept.getnames() if name.endswith("results.json")]
    lacking = [one for one in places if finished(folder / one.relative_to(one.parts[0])) is None]
    if lacking:
        raise RuntimeError(
            f"{folder} lacks {len(lacking)} of the {len(places)} runs that {file.name} has, such "
            f"as {lacking[0]}: unpack it there first (tar -xf benchmarks/{file.name} -C outputs), "
            "or remove it if they are not to count any more"
        )


def archive(folder: Path, file: Path, scores: Collection[str] = ()) -> None:
    """Keep in a .tar.xz `file` what complete runs below a folder left, folder by folder.

    Args:
        folder: of runs, in folders of their own.
        file: the archive; it is replaced.
        scores: beside the main one that are kept as well. They are most of what a run leaves, and
            most tables show none of them.

    Raises:
        RuntimeError: the archive that there is has runs that the folder lacks.
    """
    check_whole(folder, file)
    name, data = Path(file.name.partition(".")[0]), io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz", preset=9) as kept:
        for place in sorted(found.parent for found in folder.rglob("results.json")):
            results = completed(place)
            if results is None:
                continue
            other = results.pop("secondary", {})
            shown = {score: one for score, one in other.items() if score in scores}
            results |= {"secondary": shown} if shown else {}
            for part, content in (
                ("config.yaml", (place / "config.yaml").read_bytes()),
                ("results.json", json.dumps(results).encode()),
            ):
                entry = tarfile.TarInfo(str(name / place.relative_to(folder) / part))
                entry.size = len(content)
                kept.addfile(entry, io.BytesIO(content))
    write_atomically(file, data.getvalue())


def write_section(name: str, text: str, page: Path = RESULTS) -> None:
    """Put `text` into a page in place of what is there under this name, or at its end.

    Args:
        name: of the section, in comments around it.
        text: in markdown.
        page: a file.
    """
    old = page.read_text() if page.exists() else ""
    first, last = f"<!-- {name} -->", f"<!-- end of {name} -->"
    new = f"{first}\n{text.strip()}\n{last}\n"
    before, found, rest = old.partition(first)
    if found and last not in rest:
        raise ValueError(f"{page}: {first} has no {last}; where the section ends is not known")
    after = rest.partition(last)[2].lstrip("\n") if found else ""
    parts = [before.rstrip("\n"), new.rstrip("\n"), after.rstrip("\n")]
    write_atomically(page, ("\n\n".join(part for part in parts if part) + "\n").encode())


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str | list[float]]]) -> list[str]:
    """Return a table; numbers are means, with the range where there are several."""

    def cell(value: str | list[float]) -> str:
        if isinstance(value, str):
            return value
        digits = 3 if max(map(abs, value)) < 1.001 else 1
        spread = f" ({min(value):.{digits}f} to {max(value):.{digits}f})" if len(value) > 1 else ""
        return f"{fmean(value):.{digits}f}{spread}"

    body = [[cell(value) for value in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in ([*heads], ["---"] * len(heads), *body)] + [""]
