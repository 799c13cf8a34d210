"""What a run leaves in results.json, as it is written and read."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from fedcl.errors import ConfigError

Number = Annotated[float, Field(allow_inf_nan=False)]
Matrix = list[list[Number | None]]
"""A score per stage and site; None where it was not evaluated."""
Cases = dict[str, dict[str, list[Number | None]]]
"""Per site and case, a score after every stage."""
Figures = dict[str, Number | None]
"""The figures of `fedcl.server.metrics.summary`."""
FILE = "results.json"
Text = bytes
"""Of a file: in the class below `bytes` are those sent."""


@dataclass(frozen=True)
class ScoreResults:
    """One of the scores that runs are not judged by."""

    matrix: Matrix
    cases: Cases


@dataclass(frozen=True, kw_only=True)
class ArchitectureResults:
    """What an architecture costs and, where there are several, its scores at all sites.

    Attributes:
        model: the model that it is one of.
        sites: that train it.
        parameters, macs: of the network; multiply-accumulates are per sample; 0 where no
            hospital has said yet what a sample is.
        seconds_per_case: that predicting took, by site.
        matrix, cases, metrics, secondary: as those of a run; None where there is one architecture.
    """

    model: str
    sites: list[str]
    parameters: int = 0
    macs: int = 0
    seconds_per_case: dict[str, Number] = field(default_factory=dict)
    matrix: Matrix | None = None
    cases: Cases = field(default_factory=dict)
    metrics: Figures = field(default_factory=dict)
    secondary: dict[str, ScoreResults] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What two models do on one hospital's validation cases.

    Attributes:
        cases: how many there are.
        released: mean score of the model in use.
        candidate: that of the stage's model.
        p: of the test that the candidate is not worse by more than the margin, corrected for the
            number of hospitals; None where there is no test.
        worse: whether it is.
        note: why there is no test, or no score.
    """

    cases: int = 0
    released: Number | None = None
    candidate: Number | None = None
    p: Number | None = None
    worse: bool = False
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """What became of a stage's model.

    Attributes:
        released: whether it is the one in use from now on.
        model: the stage, counted from 1, whose model is in use from now on; 0 for the model that
            the run began with.
        against: that of the model it was compared with; None where there was none.
        reason: why it was refused, or released without a comparison, in words.
        hospitals: what each says that was asked; those of earlier stages, or all seen so far where
            none was released yet.
    """

    released: bool
    model: int
    against: int | None = None
    reason: str = ""
    hospitals: dict[str, Judged] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Results:
    """The contents of results.json; `docs/reference/results.md` says what each means.

    What an earlier version did not write has a default.
    """

    scenario: str = ""
    strategy: str
    model: str = ""
    seed: int
    engine: str = ""
    status: str = "completed"
    reason: str | None = None
    arrivals: list[list[str]] = field(default_factory=list)
    stages: list[list[str]] = field(default_factory=list)
    sites: list[str]
    presence: dict[str, list[Number | None]] = field(default_factory=dict)
    cohorts: list[list[str]] = field(default_factory=list)
    away: dict[str, list[int]] = field(default_factory=dict)
    rounds_per_stage: int = 0
    chosen: list[int] = field(default_factory=list)
    release: list[Verdict] = field(default_factory=list)
    score: str = "dice"
    case: str = "patient"
    matrix: Matrix
    cases: Cases
    metrics: Figures
    metrics_by_class: dict[str, Figures] = field(default_factory=dict)
    rounds: int = 0
    weights_sha256: str = ""
    seconds: dict[str, Number]
    cpu_seconds: dict[str, Number] = field(default_factory=dict)
    peak_memory: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int]
    bytes_by_stage: list[dict[str, int]] = field(default_factory=list)
    stored: dict[str, int] = field(default_factory=dict)
    centralised: bool = False
    aggregation: str = "fedavg"
    tracking: dict[str, str | None] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    reputation: dict[str, dict[str, int]] = field(default_factory=dict)
    shares: dict[str, dict[str, Number]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    initial: list[Number | None] = field(default_factory=list)
    secondary: dict[str, ScoreResults] = field(default_factory=dict)
    architectures: dict[str, ArchitectureResults] = field(default_factory=dict)
    data_sha256: dict[str, str] = field(default_factory=dict)
    begun: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[str, list[int]] = field(default_factory=dict)
    settled: dict[str, list[Number]] = field(default_factory=dict)
    from_data: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    source: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher_sha256: str | None = None
    privacy: dict[str, Any] = field(default_factory=dict)
    forgot: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, text: Text) -> "Results":
        """Read the contents of results.json.

        Raises:
            ValueError: a value is missing, of another type, or not finite; in one line.
        """
        try:
            return _ADAPTER.validate_json(text, strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None

    @classmethod
    def read(cls, folder: Path) -> "Results | None":
        """Return what a run left in its folder, or None where it left nothing yet.

        Raises:
            ConfigError: it cannot be read.
        """
        path = folder / FILE
        try:
            return cls.of(path.read_bytes()) if path.exists() else None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); remove it to go on") from None

    @property
    def avg(self) -> float:
        """AVG, of a run that has one."""
        value = self.metrics["avg"]
        assert value is not None, "runs without AVG are left out of comparisons"
        return value

    @property
    def completed(self) -> bool:
        """Whether the run has come to its end."""
        return self.status == "completed"

    def values(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        values = asdict(self)
        if self.reason is None:
            del values["reason"]
        for name, one in self.architectures.items():
            absent = ["matrix", "cases", "metrics", "secondary"] if one.matrix is None else []
            absent += [] if one.parameters else ["parameters", "macs"]
            for key in absent:  # those of the run; and what is not known is not written as 0
                del values["architectures"][name][key]
        return values


_ADAPTER = TypeAdapter(Results)
