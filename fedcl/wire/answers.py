"""What hospitals answer, and nothing else leaves them.

`pack` and `unpack` turn an answer into Flower records and back. What comes from the network is
checked here, once: `unpack` raises `MalformedError`.
"""

import math
from dataclasses import asdict, dataclass, field

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedcl.arrays import Arrays
from fedcl.data.source import Source
from fedcl.errors import one_line
from fedcl.timeline import can_name
from fedcl.wire.fields import MalformedError, checked, read
from fedcl.wire.limits import EFFORT, NOTES
from fedcl.wire.records import Forms, from_record, to_record

LARGEST = 2**24
"""Numbers in a sample, of which the server has its model take one: four channels of 128^3 fit."""


@dataclass(frozen=True)
class Hello:
    """Hospital to server, first of all: who it is and what it holds.

    Attributes:
        site: its name.
        error: why it cannot take part, in one line; empty if it can.
        digest: of its data.
        train, val, test: numbers of cases.
        samples: training samples.
        shape: of what the network is shown of one, (C, H, W) for an image.
        notes: what was left out, guessed or changed in reading its data.
        source: of a field, `Source.numbers`; empty where there is no source.
        measured: what the scenario's `measure` says, where that is asked for before all else; then
            it is all that is told.
    """

    site: str
    error: str = ""
    digest: str = ""
    train: int = 0
    val: int = 0
    test: int = 0
    samples: int = 0
    shape: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    source: list[float] = field(default_factory=list)
    measured: list[float] = field(default_factory=list)

    def pack(self) -> RecordDict:
        """Return the records; of errors and notes as much as may be sent."""
        said = {"error": one_line(self.error), "notes": [*map(one_line, self.notes[:NOTES])]}
        return RecordDict({"hello": ConfigRecord(asdict(self) | said)})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> "Hello":
        """Read the records."""
        values = read(cls, content)["hello"]
        said = {"error": one_line(values["error"]), "notes": [*map(one_line, values["notes"])]}
        hello = cls(**values | said)
        if not can_name(hello.site):
            raise ValueError(f"{hello.site!r} is the name of no site")
        Source.of(hello.source)
        if hello.measured or hello.error:
            return hello
        if not all((hello.train, hello.val, hello.test, hello.samples)):
            raise ValueError("impossible numbers of cases or samples: there is none of a kind")
        if not hello.shape or math.prod(hello.shape) > LARGEST:
            raise ValueError(f"impossible shape of a sample {hello.shape}")
        return hello


@dataclass(frozen=True)
class Missing:
    """Hospital to server, instead of an answer: what it was to have and has not.

    Attributes:
        records: some of `CACHED`.
    """

    records: list[str]

    def pack(self) -> RecordDict:
        """Return the records."""
        return RecordDict({"missing": ConfigRecord({"records": self.records})})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> "Missing":
        """Read the records."""
        return cls(**read(cls, content)["missing"])

    @classmethod
    def of(cls, content: RecordDict) -> "Missing | None":
        """Read the records, if they are of this kind."""
        try:
            return cls.unpack(content)
        except MalformedError:
            return None


@dataclass(frozen=True)
class Update:
    """Hospital to server: what training gave.

    Attributes:
        arrays: the weights that may leave the hospital.
        round: that it was asked for.
        samples: training samples, the update's weight in the average.
        losses: mean of each loss term.
        seconds, cpu: wall and processor time it took.
        memory: the most that the process has held, in bytes.
        kept: digest of what stays there; empty if nothing does.
        stored: how many training samples it keeps for later stages.
        holds: the digests among the call's that need not be sent again.
    """

    arrays: Arrays
    round: int
    samples: int
    losses: dict[str, float]
    seconds: float
    kept: str = ""
    stored: int = 0
    holds: list[str] = field(default_factory=list)
    cpu: float = 0.0
    memory: int = 0

    def pack(self) -> RecordDict:
        """Return the records."""
        names = ("round", "samples", "stored", *EFFORT)
        return RecordDict(
            {
                "arrays": to_record(self.arrays),
                "numbers": MetricRecord({name: getattr(self, name) for name in names}),
                "losses": MetricRecord({**self.losses}),
                "words": ConfigRecord({"kept": self.kept, "holds": self.holds}),
            }
        )

    @classmethod
    @checked
    def unpack(cls, content: RecordDict, expected: Forms | None = None) -> "Update":
        """Read the records.

        Args:
            content: the records.
            expected: what the arrays must be; None where that is not known.
        """
        values = read(cls, content)
        weights = from_record(content.array_records["arrays"], expected)
        return cls(weights, losses=values["losses"], **values["numbers"], **values["words"])


@dataclass(frozen=True)
class Report:
    """Hospital to server: what it tells of a stage besides weights.

    Attributes:
        arrays: as the strategy made them, float32 and finite.
        samples: training samples, the report's weight in an average.
        seconds, cpu, memory: see `Update`.
    """

    arrays: Arrays
    samples: int
    seconds: float
    cpu: float = 0.0
    memory: int = 0

    def pack(self) -> RecordDict:
        """Return the records."""
        numbers = MetricRecord({name: getattr(self, name) for name in ("samples", *EFFORT)})
        return RecordDict({"arrays": to_record(self.arrays), "numbers": numbers})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict, expected: Forms | None = None) -> "Report":
        """Read the records; for `expected` see `Update.unpack`."""
        values = read(cls, content)
        report = from_record(content.array_records["arrays"], expected)
        for key, array in report.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{key} is not finite float32")
        return cls(report, **values["numbers"])


@dataclass(frozen=True)
class Scored:
    """Hospital to server: scores, case by case.

    Attributes:
        cases: names of the cases.
        scores: per score, one number per case.
        seconds, cpu, memory: see `Update`.
        predicting: the seconds of the network's predictions alone.
    """

    cases: list[str]
    scores: dict[str, list[float]]
    seconds: float
    predicting: float
    cpu: float = 0.0
    memory: int = 0

    def pack(self) -> RecordDict:
        """Return the records."""
        numbers = {name: getattr(self, name) for name in ("predicting", *EFFORT)}
        return RecordDict(
            {
                "numbers": MetricRecord(numbers),
                "scores": MetricRecord({**self.scores}),
                "names": ConfigRecord({"cases": self.cases}),
            }
        )

    @classmethod
    @checked
    def unpack(cls, content: RecordDict, expected: Forms | None = None) -> "Scored":
        """Read the records; there are no arrays, of which anything could be `expected`."""
        values = read(cls, content)
        cases, scores = values["names"]["cases"], values["scores"]
        if any(len(found) != len(cases) for found in scores.values()):
            raise ValueError("not one score per case")
        if not scores or len(set(cases)) < len(cases):
            raise ValueError("no score, or a case twice")
        return cls(cases, scores, **values["numbers"])
