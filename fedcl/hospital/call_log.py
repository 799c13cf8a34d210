"""What a hospital writes down of every call: what it was asked, what it made of it, what it sent.

Numbers and names of the run alone: no case is named.
"""

from dataclasses import dataclass
from statistics import fmean

from flwr.app import ConfigRecord, Message, MetricRecord

from fedcl.wire.fields import MalformedError
from fedcl.wire.forgetting import ForgetRequest
from fedcl.wire.records import size_of
from fedcl.wire.requests import EvaluateRequest, Greeting, ReportRequest, Request, TrainRequest

KINDS: dict[str, type[Request] | type[ForgetRequest]] = {
    kind.TYPE: kind for kind in (TrainRequest, EvaluateRequest, ReportRequest, ForgetRequest)
}


@dataclass(frozen=True)
class Call:
    """What a message asks.

    Attributes:
        words: the run and what it asks for.
        job: the run's job, as JSON; empty where none is sent.
        round: to be trained, over all stages; 0 where none is.
    """

    words: str
    job: str
    round: int = 0


def read(message: Message) -> Call:
    """Return what a message asks.

    Raises:
        MalformedError: nothing that a hospital is asked.
    """
    kind, run = message.metadata.message_type, f"run-{message.metadata.run_id}"
    if kind == Greeting.TYPE:
        job = Greeting.unpack(message.content).job
        return Call(f"{run}: who are you, and what do you hold", job)
    if kind not in KINDS:
        raise MalformedError(f"{kind[:50]!r} is nothing that a hospital is asked")
    call = KINDS[kind].unpack(message.content)
    return Call(
        f"{call.run or run}: {_words(call)}",
        call.job if isinstance(call, Request) else "",
        call.round if isinstance(call, TrainRequest) else 0,
    )


def _words(call: Request | ForgetRequest) -> str:
    if isinstance(call, TrainRequest):
        again = f" (attempt {call.attempt})" if call.attempt > 1 else ""
        return f"train, stage {call.stage + 1}, round {call.round}{again}"
    if isinstance(call, EvaluateRequest):
        what = "validate" if call.split == "val" else "test"
        return f"{what}, stage {len(call.arrivals)}"
    if isinstance(call, Request):
        return f"report, stage {len(call.arrivals)}"
    return "forget a hospital" + (", and delete what is kept of the run" if call.delete else "")


def answered(reply: Message, seconds: float) -> str:
    """Return what came of a call, in words: in the hospital's own numbers, and the bytes sent."""
    took = f"{seconds:.1f} s"
    if reply.has_error():
        return f"failed after {took}: {reply.error.reason}"
    content, parts = reply.content, [took]
    refused = str(content.config_records.get("hello", ConfigRecord()).get("error", ""))
    if refused:
        parts.append(f"takes no part: {refused}")
    if "missing" in content.config_records:
        parts.append("asked for what was sent before and is not here any more")
    empty = MetricRecord()
    losses, scores, numbers = (
        content.metric_records.get(name, empty) for name in ("losses", "scores", "numbers")
    )
    if losses:
        parts.append(f"loss {', '.join(f'{name} {value:.4g}' for name, value in losses.items())}")
    if scores:
        found = {name: values for name, values in scores.items() if isinstance(values, list)}
        count = max(map(len, found.values()))
        means = ", ".join(f"{name} {fmean(values):.4g}" for name, values in found.items())
        parts.append(f"mean of {count} cases {means}")
    if "samples" in numbers:
        parts.append(f"{numbers['samples']} samples")
    size = sum(map(size_of, content.array_records.values()))
    parts.append(f"sent {size:,} bytes of arrays")
    return "; ".join(parts)
