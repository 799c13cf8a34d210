"""Snapshots of a run on disk, whole or absent, and who takes them."""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from fedcl import arrays
from fedcl.config.schema import Config
from fedcl.effort import Clock
from fedcl.errors import ConfigError, RunError, writing
from fedcl.files import sync, write_atomically
from fedcl.server.events import Round, Watcher
from fedcl.server.snapshot import FORMAT, NUMBERS, read
from fedcl.server.state import ARRAYS, State

log = logging.getLogger("fedcl")
GONE = ".old"
"""How the names of snapshots end that are being removed."""


class Checkpoint:
    """Snapshots in a folder: each one complete or absent.

    The latest of the last two rounds are kept, the very first one, and how every stage ended: the
    first after it.
    """

    ROUNDS = 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State) -> None:
        """Write `state` as a new snapshot: built aside, then renamed into place.

        Of one moment there may be several, numbered; none is ever replaced.

        Raises:
            RunError: it cannot be written; those written before are as they were. One that is not
                needed any more and cannot be removed is told of, no more.
        """
        name = f"round-{state.round:06d}-stage-{state.stage:03d}"
        same = [path.name for path in self._snapshots() if path.name.startswith(name)]
        if same:
            name = f"{name}-{int(same[-1][len(name) + 1 :] or 0) + 1:03d}"
        part, final = self.folder / f".{name}.part", self.folder / name
        with writing(final):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            try:
                _write(part, state)
            except OSError:
                shutil.rmtree(part, ignore_errors=True)
                raise
            part.rename(final)
            sync(self.folder)
        self._tidy()

    def _tidy(self) -> None:
        """Remove the snapshots that nobody may need any more."""
        every = self._snapshots()
        first = {_stage_of(path): path for path in reversed(every)}
        latest = {_round_of(path): path for path in every}
        kept = {*list(latest.values())[-self.ROUNDS :]}
        for path in every:
            ended = first[_stage_of(path)]
            # Where the first is damaged the stage has ended once more, at the same moment.
            needed = path == ended or (path.name.startswith(ended.name) and not self._whole(ended))
            if path not in kept and not needed:
                try:
                    _remove(path)
                except OSError as error:  # tried again after the next round
                    log.warning("%s: an old checkpoint cannot be removed (%s)", path, error)
        for gone in self.folder.glob(f".*{GONE}"):
            shutil.rmtree(gone, ignore_errors=True)

    def load(self, config: Config | None = None) -> State | None:
        """Read the latest snapshot that is whole; None where none was ever finished.

        Args:
            config: of the run, to which it must fit; None where that is not known.

        Raises:
            RunError: all are damaged.
        """
        if not self._snapshots():
            return None
        state = _latest(self._snapshots(), config)
        if state is None:
            raise RunError(
                f"{self.folder}: no usable checkpoint; start the run anew in another run.dir"
            )
        return state

    def before(self, round_: int) -> State | None:
        """Read the latest snapshot that is whole of before a round; None where there is none."""
        return _latest([one for one in self._snapshots() if _round_of(one) < round_])

    def drop_after(self, round_: int) -> None:
        """Remove the snapshots of what came after a round."""
        for folder in self._snapshots():
            if _round_of(folder) > round_:
                with writing(folder):
                    _remove(folder)

    def ended(self, stages: int) -> State | None:
        """Return the state in which a run was after so many stages; None where it is not there.

        Raises:
            RunError: it is damaged, or of another version of fedcl.
        """
        there = [folder for folder in self._snapshots() if _stage_of(folder) == stages]
        problem = ""
        for folder in there:
            if not folder.name.startswith(there[0].name):  # a later round
                break
            try:
                return read(folder)
            except ConfigError as error:
                raise RunError(str(error)) from None
            except RunError as error:
                problem = problem or f"checkpoint {folder} is damaged ({error})"
        if problem:
            raise RunError(problem)
        return None

    def _whole(self, folder: Path) -> bool:
        """Return whether a snapshot can be read."""
        try:
            read(folder)
        except (ConfigError, RunError):
            return False
        return True

    def _snapshots(self) -> list[Path]:
        return sorted(self.folder.glob("round-*-stage-*"), key=_moment)


def _latest(snapshots: Sequence[Path], config: Config | None = None) -> State | None:
    """Read the last snapshot that is whole, if there is one; those passed over are told of."""
    for folder in reversed(snapshots):
        try:
            return read(folder, config)
        except RunError as error:
            log.warning("a checkpoint is damaged (%s); using the one before", error)
    return None


def _remove(snapshot: Path) -> None:
    """Put a snapshot out of sight at once, so that a kill leaves no half of one, and remove it."""
    gone = snapshot.with_name(f".{snapshot.name}-{time.time_ns()}{GONE}")
    snapshot.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)  # a network's file system may hold files for a while


def _moment(snapshot: Path) -> tuple[int, int, str]:
    """Return by what snapshots are ordered: rounds, stages, and which of that moment."""
    return _round_of(snapshot), _stage_of(snapshot), snapshot.name


def _round_of(snapshot: Path) -> int:
    """Return how many rounds were finished when a snapshot was taken."""
    return int(snapshot.name.split("-")[1])


def _stage_of(snapshot: Path) -> int:
    """Return how many stages were finished when a snapshot was taken."""
    return int(snapshot.name.split("-")[3])


class Keeper(Watcher):
    """Saves a run after every round and stage, with what it has cost by then.

    Args:
        checkpoint: where to.
        state: of the run.
        accounts: whether what a round costs in privacy is to be written down before anybody
            sees its weights.
        clock: begun when this process began with the run.
    """

    def __init__(self, checkpoint: Checkpoint, state: State, accounts: bool, clock: Clock) -> None:
        self.checkpoint, self.state, self.accounts = checkpoint, state, accounts
        self._clock = clock

    def save(self) -> None:
        """Write a snapshot of the state as it is.

        Raises:
            RunError: see `Checkpoint.save`.
        """
        spent, self._clock = self._clock.effort(), Clock()
        ledger = self.state.ledger
        ledger.seconds["total"] += spent["seconds"]
        ledger.cpu["server"] += spent["cpu"]
        ledger.memory["server"] = max(ledger.memory["server"], spent["memory"])
        self.checkpoint.save(self.state)

    def failed(self, tries: int = 1) -> None:
        """Write down that a round has failed: the sites' next attempt at it is another one.

        All else stays as it was before the round, whatever part of it had been done.
        """
        before = self.checkpoint.load()
        if before is not None:
            before.tries += tries
            before.ledger = self.state.ledger
            self.checkpoint.save(before)

    def round_joined(self, state: State) -> None:
        """Write down what a round's weights cost in privacy."""
        if self.accounts:
            self.failed(tries=0)

    def round_done(self, done: Round, state: State) -> None:
        """Save."""
        self.save()

    def stage_done(self, config: Config, state: State) -> None:
        """Save."""
        self.save()


def _write(folder: Path, state: State) -> None:
    """Write a snapshot's files."""
    for kind in ARRAYS:
        if getattr(state, kind):
            arrays.save_file(folder / f"{kind}.safetensors", getattr(state, kind))
    numbers = {
        item.name: getattr(state, item.name) for item in fields(state) if item.name not in ARRAYS
    }
    numbers["format"] = FORMAT
    numbers["sha256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.safetensors")
    }
    write_atomically(folder / NUMBERS, json.dumps(numbers, default=asdict).encode())
