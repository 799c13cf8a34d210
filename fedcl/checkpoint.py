"""The state of a run, its snapshots on disk, and the lock on a run's folder."""

import hashlib
import json
import logging
import secrets
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fedcl import arrays
from fedcl.arrays import Arrays
from fedcl.errors import ConfigError, RunError, writing
from fedcl.files import sync, write_atomically
from fedcl.ledger import Ledger

log = logging.getLogger("fedcl")

FORMAT = 6
"""Of a snapshot and of what sites keep; another one cannot be read."""

ARRAYS = ("weights", "teacher", "memory", "momentum")
"""The parts of a state that are arrays: one file each."""

Scores = dict[str, dict[str, dict[str, float]]]
"""Per site, per score, per case: one number."""


@dataclass
class State:
    """All that a run needs to go on from a round.

    Attributes:
        weights: the global model; of several architectures, see `fedcl.architecture`.
        configuration: what the run was begun with, as `Config.fingerprint` gives it.
        teacher: what teaches in the current stage, if anything; likewise.
        memory: what the strategy remembers of earlier stages.
        momentum: what the aggregation carries from round to round, within a stage.
        round: rounds finished, over all stages.
        tries: how often the next one has failed.
        initial: scores of the untrained model, once it was evaluated.
        rows: scores after each finished stage, of every site's own architecture.
        elsewhere: likewise, per architecture, at the sites of others.
        costs: of every architecture, `parameters` and multiply-accumulates per sample, `macs`.
        predicting: seconds that an architecture took per case when last evaluated, by site.
        trained: the sites that trained, per stage.
        versions: the round of each site's own latest state.
        kept: digest of each site's own latest state.
        stored: training samples that each site keeps for later stages.
        holds: digests of what each site was sent and keeps.
        digests: digest of each site's data.
        notes: what was left out, guessed or changed in reading them, by site.
        left_out: what lies beside the sites' data and is of none.
        sources: of a field, where each site's values come from (`Source.numbers`).
        ledger: costs and failures so far.
        sent: the ledger's bytes at the end of each stage.
        tracking_run: the MLflow run.
        secret: what noise is drawn from that nobody else may know; a round repeated after a
            crash has the same again.
    """

    weights: Arrays
    configuration: dict[str, Any] = field(default_factory=dict)
    teacher: Arrays = field(default_factory=dict)
    memory: Arrays = field(default_factory=dict)
    momentum: Arrays = field(default_factory=dict)
    round: int = 0
    tries: int = 0
    initial: Scores | None = None
    rows: list[Scores] = field(default_factory=list)
    elsewhere: list[dict[str, Scores]] = field(default_factory=list)
    costs: dict[str, dict[str, int]] = field(default_factory=dict)
    predicting: dict[str, dict[str, float]] = field(default_factory=dict)
    trained: list[list[str]] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    holds: dict[str, list[str]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    sources: dict[str, list[float]] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    sent: list[dict[str, int]] = field(default_factory=list)
    tracking_run: str | None = None
    secret: int = field(default_factory=lambda: secrets.randbits(62))

    @property
    def stage(self) -> int:
        """The stage in progress, counted from 0."""
        return len(self.rows)

    def note_trained(self, sites: list[str]) -> None:
        """Record that `sites` trained in the current stage, in order of first training."""
        if len(self.trained) == self.stage:
            self.trained.append([])
        self.trained[-1] += [site for site in sites if site not in self.trained[-1]]


class Checkpoint:
    """Snapshots in a folder: each one complete or absent, the latest two kept."""

    KEPT = 2

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: State) -> None:
        """Write `state` as a new snapshot: built aside, then renamed into place.

        Of one moment there may be several, numbered; none is ever replaced.

        Raises:
            RunError: it cannot be written; those written before are as they were.
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
        for early in self._snapshots()[: -self.KEPT]:
            shutil.rmtree(early)

    def load(self) -> State | None:
        """Read the latest snapshot that is whole; None where none was ever finished.

        Raises:
            RunError: all are damaged.
        """
        if not self._snapshots():
            return None
        for folder in reversed(self._snapshots()):
            try:
                return self._read(folder)
            except (OSError, ValueError, LookupError, TypeError, AttributeError, RunError) as error:
                log.warning("checkpoint %s is damaged (%s); using the one before", folder, error)
        raise RunError(
            f"{self.folder}: no usable checkpoint; start the run anew in another run.dir"
        )

    def _read(self, folder: Path) -> State:
        numbers = json.loads((folder / "state.json").read_text())
        for name, digest in numbers.pop("sha256").items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise RunError(f"{name} is not what was written")
        if numbers.pop("format", 1) != FORMAT:
            raise ConfigError(
                f"{folder}: written by another version of fedcl; go on with that version"
            )
        files: dict[str, Any] = {
            path.stem: arrays.load_file(path) for path in folder.glob("*.safetensors")
        }
        return State(**files, ledger=Ledger(**numbers.pop("ledger")), **numbers)

    def _snapshots(self) -> list[Path]:
        return sorted(self.folder.glob("round-*-stage-*"))


def _write(folder: Path, state: State) -> None:
    """Write a snapshot's files."""
    for kind in ARRAYS:
        if getattr(state, kind):
            arrays.save_file(folder / f"{kind}.safetensors", getattr(state, kind))
    numbers = {
        item.name: getattr(state, item.name)
        for item in fields(state)
        if item.name not in (*ARRAYS, "ledger")
    }
    numbers["ledger"] = asdict(state.ledger)
    numbers["format"] = FORMAT
    numbers["sha256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.glob("*.safetensors")
    }
    write_atomically(folder / "state.json", json.dumps(numbers).encode())


def read_results(folder: Path) -> dict[str, Any] | None:
    """Return the results a run left in `folder`, or None where it left none yet."""
    path = folder / "results.json"
    try:
        return dict(json.loads(path.read_text())) if path.exists() else None
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); remove it to go on") from None
