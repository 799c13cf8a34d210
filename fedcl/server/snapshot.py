"""Reading a snapshot: whoever wrote it, what is taken from it is what a run could have left."""

import hashlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.errors import ConfigError, RunError
from fedcl.server.architecture import architectures
from fedcl.server.state import ARRAYS, State
from fedcl.timeline import POOL

FORMAT = 11
"""Of a snapshot and of what sites keep; another one cannot be read."""
NUMBERS = "state.json"
LARGEST, WEIGHTS = 2**30, 2**40
"""Bytes of the file of names and numbers, and of one of arrays."""

_hints = get_type_hints(State, include_extras=True)
_kinds = {name: kind for name, kind in _hints.items() if name not in ARRAYS}
_Written: Any = TypedDict("state", {**_kinds, "format": int, "sha256": dict[str, str]})  # type: ignore[misc]
_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_Written.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]
_WRITTEN: TypeAdapter[Any] = TypeAdapter(_Written)


def read(folder: Path, config: Config | None = None) -> State:
    """Return the state in a snapshot's folder.

    Args:
        folder: of the snapshot.
        config: of the run, where it is known: then its arrays must be the networks'.

    Raises:
        RunError: it is damaged; names the file.
        ConfigError: it is of another version of fedcl.
    """
    file = folder / NUMBERS
    content = _bytes(file, LARGEST)
    try:
        told = from_json(content)
        digests = dict(told["sha256"])
    except (ValueError, TypeError, LookupError) as error:
        raise RunError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from None
    parts = {f"{name}.safetensors": name for name in ARRAYS}
    there = {path.name for path in folder.glob("*.safetensors")}
    if there != digests.keys() or not there <= parts.keys() or "weights.safetensors" not in there:
        odd = min(there ^ digests.keys() or there - parts.keys() or {"weights.safetensors"})
        raise RunError(f"{folder / odd}: missing, or not of the snapshot")
    files: dict[str, Any] = {
        parts[name]: _arrays(folder / name, digest) for name, digest in digests.items()
    }
    if told.get("format", 1) != FORMAT:
        raise ConfigError(f"{folder}: written by another version of fedcl; go on with that version")
    try:
        numbers: dict[str, Any] = _WRITTEN.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RunError(f"{file}: {where[:200]}: {first['msg']}") from None
    state = State(**files, **{name: value for name, value in numbers.items() if name in _kinds})
    problem = next(_problems(state), None) if state.configuration else None
    if problem is not None:
        raise RunError(f"{file}: {problem}")
    if config is not None:
        _check(state, config, folder)
    return state


def _bytes(path: Path, most: int) -> bytes:
    """Return what is in a file; raises `RunError` for a link, a folder or too large a file."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise RunError(f"{path}: no file of its own but a link or the like")
        if found.st_size > most:
            raise RunError(f"{path}: {found.st_size} bytes, more than a snapshot can have")
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from None


def _arrays(path: Path, digest: str) -> arrays.Arrays:
    """Return the arrays of a file; raises `RunError` where they are not what was written."""
    content = _bytes(path, WEIGHTS)
    if hashlib.sha256(content).hexdigest() != digest:
        raise RunError(f"{path}: not what was written")
    found = arrays.decoded(content, path)
    for key, array in found.items():
        if array.dtype.kind not in "iufb" or not np.isfinite(array).all():
            raise RunError(f"{path}: {key} is not finite")
    return found


def _problems(state: State) -> Iterator[str]:
    """Yield what cannot be in a run of the configuration that the state names itself."""
    stages, rounds = (state.configuration.get(f"timeline.{key}") for key in ("stages", "rounds"))
    if not isinstance(stages, list) or not isinstance(rounds, int):
        yield "configuration: it says neither stages nor rounds"
        return
    done, last = len(state.rows), len(stages)
    if done > last:
        yield f"rows: {done} stages, the run has {last}"
    if not done * rounds <= state.round <= min(done + 1, last) * rounds:
        yield f"round: {state.round} cannot be after {done} stages of {rounds} rounds"
    for name in ("ended", "elsewhere", "sent", "chosen"):
        if len(getattr(state, name)) != done:
            yield f"{name}: {len(getattr(state, name))} stages, there are {done}"
    if len(state.trained) > done + 1 or len(state.verdicts) > done + 1:
        yield "trained: more stages than there were"
    sites = {site for stage in stages for site in stage} | {POOL}
    by_site: dict[str, list[Any]] = {
        "rows": state.rows, "ended": state.ended, "trained": state.trained,
        "initial": [state.initial or {}],
    }  # fmt: skip
    for name in (
        "versions", "kept", "stored", "holds", "digests", "samples", "notes", "sources", "changes",
        "validation", "shut_out",
    ):  # fmt: skip
        by_site[name] = [getattr(state, name)]
    for name, every in by_site.items():
        foreign = sorted({site for one in every for site in one} - sites)
        if foreign:
            yield f"{name}: {foreign[0][:50]!r} is no site of the run"
    if any(not 0 <= verdict.model <= len(state.verdicts) for verdict in state.verdicts):
        yield "verdicts: a model of a stage that there was not"


def _check(state: State, config: Config, folder: Path) -> None:
    """Raise `RunError` where scores or arrays are not those of a configuration."""
    for scores in (state.initial or {}, *state.rows):
        for site, by_score in scores.items():
            for score, by_case in by_score.items():
                known = config.job.task.ranges.get(score)
                problem = known.problem(list(by_case.values())) if known else "is no score"
                if problem:
                    raise RunError(f"{folder / NUMBERS}: rows: {site}: {score} {problem}")
    stage = min(state.stage, len(config.timeline.stages) - 1)
    for one in architectures(config.job, config.timeline.seen(stage)).values():
        wanted = arrays.of_network(one.network)
        for name in ("weights", "best", "teacher"):
            part = one.part(getattr(state, name))
            needed = name == "weights" and one.sites
            if (part or needed) and (problem := _misfit(part, wanted)):
                raise RunError(f"{folder / name}.safetensors: {problem}")


def _misfit(part: arrays.Arrays, wanted: arrays.Arrays) -> str | None:
    """Return why arrays are not a network's, or None; what has grown since may be shorter."""
    if part.keys() != wanted.keys():
        others = sorted(part.keys() ^ wanted.keys())
        return f"its arrays are not the model's: {', '.join(others[:3])}"
    for key, array in part.items():
        if array.dtype != wanted[key].dtype:
            return f"{key} has type {array.dtype}, not {wanted[key].dtype}"
    try:
        arrays.grown(part, wanted)
    except (RunError, TypeError) as error:
        return str(error)
    return None
