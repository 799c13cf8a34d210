"""What hospitals answer, and nothing else leaves them.

`pack` and `unpack` turn an answer into Flower records and back. What comes from the network is
checked here, once: `unpack` raises `MalformedError`.
"""

import math
import re
from dataclasses import asdict, dataclass, field
from itertools import chain

import numpy as np
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from fedcl.arrays import Arrays
from fedcl.data.source import Source
from fedcl.errors import one_line
from fedcl.wire import fields
from fedcl.wire.fields import checked
from fedcl.wire.records import from_record, to_record
from fedcl.wire.requests import CACHED

EFFORT = ("seconds", "cpu", "memory")
"""What every answer says of the work behind it."""
LARGEST = 2**24
"""Numbers in a sample, of which the server has its model take one: four channels of 128^3 fit."""
MEASURES = 8
"""Numbers that a scenario setting can be made of."""
LIMIT = 1e9
"""What any such number is below."""
NOTES = 20
"""How many notes on its data a hospital may send."""


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
        """Return the records."""
        return RecordDict({"hello": ConfigRecord(asdict(self))})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> "Hello":
        """Read the records."""
        record = content.config_records["hello"]
        hello = cls(
            site=str(record["site"]),
            error=str(record["error"]),
            digest=str(record["digest"]),
            train=fields.whole(record["train"]),
            val=fields.whole(record["val"]),
            test=fields.whole(record["test"]),
            samples=fields.whole(record["samples"]),
            shape=[fields.whole(size) for size in fields.several(record["shape"])],
            notes=[one_line(note) for note in fields.names(record["notes"])[:NOTES]],
            source=[fields.number(number) for number in fields.several(record["source"])],
            measured=[fields.number(number) for number in fields.several(record["measured"])],
        )
        Source.of(hello.source)
        told = hello.measured
        if len(told) > MEASURES or not all(abs(number) < LIMIT for number in told):
            raise ValueError(f"impossible measures {told[:MEASURES]}")
        if told:
            return hello
        counts, samples = (hello.train, hello.val, hello.test), hello.samples
        likely = all(1 <= count <= 10**7 for count in counts) and 1 <= samples <= 10**10
        if not hello.error and not likely:
            raise ValueError(f"impossible numbers of cases {counts} or samples {samples}")
        fits = 1 <= len(hello.shape) <= 4 and all(1 <= size <= 8192 for size in hello.shape)
        fits = fits and math.prod(hello.shape) <= LARGEST
        if not hello.error and not fits:
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
    def of(cls, content: RecordDict) -> "Missing | None":
        """Read the records, if they are of this kind."""
        if "missing" not in content.config_records:
            return None
        names = content.config_records["missing"].get("records")
        return cls([name for name in CACHED if isinstance(names, list) and name in names])


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
        numbers = MetricRecord({f"loss/{name}": value for name, value in self.losses.items()})
        for name in ("round", "samples", "stored", *EFFORT):
            numbers[name] = getattr(self, name)
        words = ConfigRecord({"kept": self.kept, "holds": self.holds})
        return RecordDict({"arrays": to_record(self.arrays), "numbers": numbers, "words": words})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> "Update":
        """Read the records."""
        numbers = content.metric_records["numbers"]
        samples = fields.whole(numbers["samples"])
        if samples < 1:
            raise ValueError(f"{samples} training samples")
        losses = {
            key.removeprefix("loss/"): fields.number(value)
            for key, value in numbers.items()
            if key.startswith("loss/")
        }
        if len(losses) > 50 or not all(re.fullmatch(r"[\w.-]{1,50}", name) for name in losses):
            raise ValueError("names of losses that no strategy gives")
        weights = from_record(content.array_records["arrays"])
        kept = str(content.config_records["words"]["kept"])
        stored = fields.whole(numbers["stored"])
        if stored < 0:
            raise ValueError(f"{stored} samples stored")
        round_ = fields.whole(numbers["round"])
        holds = fields.names(content.config_records["words"]["holds"])[: len(CACHED)]
        effort = fields.effort(numbers)
        return cls(
            weights, round_, samples, losses, kept=kept, stored=stored, holds=holds, **effort
        )


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
    def unpack(cls, content: RecordDict) -> "Report":
        """Read the records."""
        numbers = content.metric_records["numbers"]
        report = from_record(content.array_records["arrays"])
        for key, array in report.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{key} is not finite float32")
        samples = fields.whole(numbers["samples"])
        if samples < 1:
            raise ValueError(f"{samples} training samples")
        return cls(report, samples, **fields.effort(numbers))


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
        numbers = MetricRecord({f"score/{name}": values for name, values in self.scores.items()})
        for name in ("predicting", *EFFORT):
            numbers[name] = getattr(self, name)
        names = ConfigRecord({"cases": self.cases})
        return RecordDict({"numbers": numbers, "names": names})

    @classmethod
    @checked
    def unpack(cls, content: RecordDict) -> "Scored":
        """Read the records."""
        numbers = content.metric_records["numbers"]
        cases = fields.names(content.config_records["names"]["cases"])
        scores = {
            key.removeprefix("score/"): [fields.number(number) for number in fields.several(values)]
            for key, values in numbers.items()
            if key.startswith("score/")
        }
        if not cases or any(len(values) != len(cases) for values in scores.values()):
            raise ValueError("not one score per case")
        if not scores or len(set(cases)) < len(cases):
            raise ValueError("no score, or a case twice")
        if not all(abs(score) <= 1e6 for score in chain.from_iterable(scores.values())):
            raise ValueError("a score is not finite, or too large for one")
        predicting = fields.seconds(numbers, "predicting")
        return cls(cases, scores, predicting=predicting, **fields.effort(numbers))
