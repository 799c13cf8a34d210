"""What crosses between server and hospital, and nothing else does.

Each class is one kind of content; `pack` and `unpack` turn it into Flower records and back.
What comes from the network is checked here, once: `unpack` raises `MalformedError`.
"""

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import wraps
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedcl.arrays import Arrays
from fedcl.data.source import Source
from fedcl.errors import FedclError, one_line
from fedcl.wire.records import from_record, to_record

T = TypeVar("T")


class MalformedError(FedclError):
    """A message that is not what it should be."""


def _checked(unpack: Callable[[type[T], RecordDict], T]) -> Callable[[type[T], RecordDict], T]:
    """Turn whatever goes wrong in reading foreign records into `MalformedError`."""

    @wraps(unpack)
    def safe(cls: type[T], content: RecordDict) -> T:
        try:
            return unpack(cls, content)
        except Exception as error:  # foreign bytes can go wrong in any way
            raise MalformedError(f"malformed {cls.__name__.lower()} ({error!r})") from error

    return safe


RAISED, GONE, CRASHED = 2, 5, 8
"""Flower's codes for an app that raised, a node that is not connected, a process that died."""
LATE = 408
"""Ours for an answer that would come too late."""
RUN = r"(run-\d{1,20})?"
"""The name of a run: a hospital's folder is called so."""
RECORDS = ("arrays", "teacher", "memory")
"""What a call carries besides names and numbers."""
EFFORT = ("seconds", "cpu", "memory")
"""What every answer says of the work behind it."""
NOTES = 20
"""How many notes on its data a hospital may send."""
KEPT = ("teacher", "memory")
"""What a site may have been sent before, and then is sent the digest of."""


@dataclass(frozen=True)
class Call:
    """Server to hospital: train, evaluate or report.

    Attributes:
        job: the `Job`, as JSON.
        model: the architecture that the weights are of.
        arrays: the global weights.
        teacher: the teacher's weights, if there is one and the site does not have it yet.
        memory: what the server remembers of earlier stages, likewise.
        digests: of teacher and memory, where there are any, whether they are sent or not.
        keep: which of them will be asked for again.
        run: the name of the run, or empty; what the site keeps for itself lies under it.
        arrived: the sites that have, in order of arrival.
        sizes: how many of them arrived in each stage so far.
        lost: those of earlier stages that have never delivered anything.
        shares: the sites to train on, this one or those of a pool, each with the share of its
            training cases that it has by now.
        rehearsing: the sites to train on by what was kept of their samples.
        stage: counted from 0.
        round: counted from 1 over all stages.
        rounds: in every stage.
        attempt: at the round, by this site: counted from 1, two for every time the round was
            tried.
        state: version of the site's own state to start from; 0 for none.
        split: cases to evaluate, "val" or "test".
    """

    job: str
    model: str
    arrays: ArrayRecord
    teacher: ArrayRecord | None = None
    memory: ArrayRecord | None = None
    digests: dict[str, str] = field(default_factory=dict)
    keep: list[str] = field(default_factory=list)
    run: str = ""
    arrived: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    rehearsing: list[str] = field(default_factory=list)
    stage: int = 0
    round: int = 0
    rounds: int = 1
    attempt: int = 1
    state: int = 0
    split: str = "test"

    @property
    def stages(self) -> list[list[str]]:
        """The sites that arrived in each stage so far."""
        names = iter(self.arrived)
        return [[next(names) for _ in range(size)] for size in self.sizes]

    @property
    def done(self) -> float:
        """The share of the stage that is over when this round begins."""
        return (self.round - 1) % self.rounds / self.rounds

    def pack(self) -> RecordDict:
        """Return the records; the array records themselves, not copies."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in RECORDS}
        values |= {"learning": list(self.shares), "shares": list(self.shares.values())}
        values["digests"] = [self.digests.get(name, "") for name in KEPT]
        content = RecordDict({"call": ConfigRecord(values)})
        for name in RECORDS:
            if getattr(self, name) is not None:
                content[name] = getattr(self, name)
        return content

    @classmethod
    @_checked
    def unpack(cls, content: RecordDict) -> "Call":
        """Read the records."""
        call = content.config_records["call"]
        read = cls(
            job=str(call["job"]),
            model=str(call["model"]),
            arrays=content.array_records["arrays"],
            teacher=content.array_records.get("teacher"),
            memory=content.array_records.get("memory"),
            digests={
                name: digest
                for name, digest in zip(KEPT, _names(call["digests"]), strict=True)
                if digest
            },
            keep=_names(call["keep"]),
            run=str(call["run"]),
            arrived=_names(call["arrived"]),
            sizes=[_int(size) for size in _list(call["sizes"])],
            lost=_names(call["lost"]),
            shares=_shares(_list(call["learning"]), _list(call["shares"])),
            rehearsing=_names(call["rehearsing"]),
            stage=_int(call["stage"]),
            round=_int(call["round"]),
            rounds=_int(call["rounds"]),
            attempt=_int(call["attempt"]),
            state=_int(call["state"]),
            split=str(call["split"]),
        )
        if sum(read.sizes) != len(read.arrived) or read.rounds < 1:
            raise ValueError("stages that are none")
        if not re.fullmatch(RUN, read.run) or read.split not in ("val", "test"):
            raise ValueError("a run or cases that cannot be meant")
        return read


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

    def pack(self) -> RecordDict:
        """Return the records."""
        return RecordDict({"hello": ConfigRecord(asdict(self))})

    @classmethod
    @_checked
    def unpack(cls, content: RecordDict) -> "Hello":
        """Read the records."""
        record = content.config_records["hello"]
        hello = cls(
            site=str(record["site"]),
            error=str(record["error"]),
            digest=str(record["digest"]),
            train=_int(record["train"]),
            val=_int(record["val"]),
            test=_int(record["test"]),
            samples=_int(record["samples"]),
            shape=[_int(size) for size in _list(record["shape"])],
            notes=[one_line(note) for note in _names(record["notes"])[:NOTES]],
            source=[_float(number) for number in _list(record["source"])],
        )
        Source.of(hello.source)
        counts, samples = (hello.train, hello.val, hello.test), hello.samples
        likely = all(1 <= count <= 10**7 for count in counts) and 1 <= samples <= 10**10
        if not hello.error and not likely:
            raise ValueError(f"impossible numbers of cases {counts} or samples {samples}")
        fits = 1 <= len(hello.shape) <= 4 and all(1 <= size <= 8192 for size in hello.shape)
        fits = fits and math.prod(hello.shape) <= 2**22  # the server has its model take one
        if not hello.error and not fits:
            raise ValueError(f"impossible shape of a sample {hello.shape}")
        return hello


@dataclass(frozen=True)
class Missing:
    """Hospital to server, instead of an answer: what it was to have and has not.

    Attributes:
        records: some of `KEPT`.
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
        return cls([name for name in KEPT if isinstance(names, list) and name in names])


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
    @_checked
    def unpack(cls, content: RecordDict) -> "Update":
        """Read the records."""
        numbers = content.metric_records["numbers"]
        samples = _int(numbers["samples"])
        if samples < 1:
            raise ValueError(f"{samples} training samples")
        losses = {
            key.removeprefix("loss/"): _float(value)
            for key, value in numbers.items()
            if key.startswith("loss/")
        }
        if len(losses) > 50 or not all(re.fullmatch(r"[\w.-]{1,50}", name) for name in losses):
            raise ValueError("names of losses that no strategy gives")
        weights = from_record(content.array_records["arrays"])
        kept = str(content.config_records["words"]["kept"])
        stored = _int(numbers["stored"])
        if stored < 0:
            raise ValueError(f"{stored} samples stored")
        round_ = _int(numbers["round"])
        holds = _names(content.config_records["words"]["holds"])[: len(KEPT)]
        effort = _effort(numbers)
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
    @_checked
    def unpack(cls, content: RecordDict) -> "Report":
        """Read the records."""
        numbers = content.metric_records["numbers"]
        report = from_record(content.array_records["arrays"])
        for key, array in report.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{key} is not finite float32")
        samples = _int(numbers["samples"])
        if samples < 1:
            raise ValueError(f"{samples} training samples")
        return cls(report, samples, **_effort(numbers))


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
    @_checked
    def unpack(cls, content: RecordDict) -> "Scored":
        """Read the records."""
        numbers = content.metric_records["numbers"]
        cases = _names(content.config_records["names"]["cases"])
        scores = {
            key.removeprefix("score/"): [_float(number) for number in _list(values)]
            for key, values in numbers.items()
            if key.startswith("score/")
        }
        if not cases or any(len(values) != len(cases) for values in scores.values()):
            raise ValueError("not one score per case")
        if not scores or len(set(cases)) < len(cases):
            raise ValueError("no score, or a case twice")
        if not all(abs(score) <= 1e6 for score in chain.from_iterable(scores.values())):
            raise ValueError("a score is not finite, or too large for one")
        predicting = _seconds(numbers, "predicting")
        return cls(cases, scores, predicting=predicting, **_effort(numbers))


def _int(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _float(value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _seconds(numbers: MetricRecord, name: str = "seconds") -> float:
    seconds = _float(numbers[name])
    if not 0 <= seconds <= 1e8:
        raise ValueError(f"it took {seconds} s")
    return seconds


def _effort(numbers: MetricRecord) -> dict[str, Any]:
    """Return what an answer took: wall and processor time, memory."""
    memory = _int(numbers["memory"])
    if not 0 <= memory <= 2**50:
        raise ValueError(f"{memory} bytes of memory")
    return {"seconds": _seconds(numbers), "cpu": _seconds(numbers, "cpu"), "memory": memory}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def _shares(sites: list[Any], shares: list[Any]) -> dict[str, float]:
    found = {str(site): _float(share) for site, share in zip(sites, shares, strict=True)}
    if not all(0 < share <= 1 for share in found.values()):
        raise ValueError(f"shares of cases that are none: {shares}")
    return found


def _names(value: Any) -> list[str]:
    return [str(name) for name in _list(value)]
