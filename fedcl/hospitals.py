"""The hospitals as the server sees them: by site name, over any Flower Grid."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcl.arrays import size_of
from fedcl.errors import DataError, FedclError, RunError
from fedcl.job import Job
from fedcl.messages import KEPT, LATE, Call, Hello, MalformedError, Missing, Report, Scored, Update
from fedcl.shelf import digest

log = logging.getLogger("fedcl")

Reply = TypeVar("Reply", Update, Scored, Report)


class Refusal(str):
    """Why an answer that came cannot be used; any other string says why none came."""


Parts = Mapping[str, Any]
"""Attributes of a `Call` that are not the same for all sites."""


@dataclass
class Ledger:
    """What a run cost and what went wrong; kept across a resume.

    Attributes:
        bytes: arrays sent `down` to the sites (of which `teacher` and `memory`) and `up` to
            the server (of which `report`).
        seconds: `setup` until the first round; `train` and `evaluate`, the sites' own
            computing, summed (and the server's, where a strategy trains there); `communicate`,
            the time of the exchanges in which no site computed, if sites shared the workers
            evenly; `total`, wall time.
        failures: one entry per answer that was lost or refused.
        reputation: per site, how many of its updates were `delivered`, `lost` on the way or
            `refused`, and how often it was asked `again`.
    """

    bytes: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("down", "up", "teacher", "memory", "report"), 0)
    )
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("total", "setup", "train", "evaluate", "communicate"), 0.0
        )
    )
    failures: list[dict[str, Any]] = field(default_factory=list)
    reputation: dict[str, dict[str, int]] = field(default_factory=dict)

    def judge(self, site: str, what: str) -> None:
        """Count what a site is known for; see `reputation`."""
        known = self.reputation.setdefault(site, {})
        known[what] = known.get(what, 0) + 1

    def fail(self, site: str, stage: int, round_: int, what: str, reason: str) -> None:
        """Record that `site` delivered nothing; `reason` may have details after line one."""
        first, _, details = reason.strip().partition("\n")
        log.warning("stage %d, round %d, %s: %s lost: %s", stage + 1, round_, site, what, first)
        if details:
            log.debug("%s", details)
        self.failures.append(
            {"site": site, "stage": stage + 1, "round": round_, "what": what, "reason": first}
        )


@dataclass
class Hospitals:
    """Sends calls to sites by name and takes their answers apart.

    Attributes:
        grid: Flower's Grid: in-process, on Ray or over the network.
        job: what every site is told.
        ledger: where bytes, seconds and failures are written down.
        lanes: sites that can compute at the same time, to share out waiting time.
        timeout: seconds to wait for the answers of one exchange.
        wait: seconds to wait for a site that is not connected.
        nodes: the node id of each site, once they have met.
        samples: how many training samples each site has.
        holds: the digests of what each site has been sent and keeps.
    """

    grid: Grid
    job: Job
    ledger: Ledger
    lanes: int
    timeout: float
    wait: float = 0.0
    nodes: dict[str, int] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    holds: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._text = self.job.to_json()
        self._sent = 0.0
        self._calls: list[Message] = []
        self._asked: set[tuple[int, str]] = set()
        self._gone: set[str] = set()
        self._whole: dict[int, Call] = {}
        self._digests: dict[int, tuple[ArrayRecord, str]] = {}

    def meet(self, sites: Iterable[str]) -> dict[str, Hello | FedclError]:
        """Ask every node that is new, or has been started again, who it is and what it holds.

        Args:
            sites: those that are needed now; they are waited for, but none a second time before
                it has come.

        Returns:
            What was answered, or why a site cannot take part, by its name.
        """
        needed, met = set(sites), dict[str, Hello | FedclError]()

        def missing() -> set[str]:
            met.update(self._greet())
            return needed - met.keys() - {*self.connected()}

        self._gone -= {*self.connected()}
        self._gone |= self._until_none(lambda: missing() - self._gone)
        return met

    def connected(self) -> list[str]:
        """Return the sites that have been met and are connected now."""
        there = set(self.grid.get_node_ids())
        return [site for site, node in self.nodes.items() if node in there]

    def _await(self, nodes: Collection[int]) -> None:
        """Wait for nodes that may just have been started again."""
        known = {site for site, node in self.nodes.items() if node in nodes}
        self._gone |= self._until_none(lambda: known - {*self.connected()} - self._gone)

    def _until_none(self, missing: Callable[[], set[str]]) -> set[str]:
        """Wait until no site is missing, up to `wait`; return those that still are."""
        until = time.monotonic() + self.wait
        while True:
            left, sites = until - time.monotonic(), missing()
            if not sites or left <= 0:
                return sites
            time.sleep(min(1.0, left))

    def _greet(self) -> dict[str, Hello | FedclError]:
        """Return what those nodes answer that have not been asked since they started."""
        there = list(self.grid.get_nodes())
        starts = {(one.node_id, one.last_activated_at): one.name for one in there}
        new = {start[0]: name for start, name in starts.items() if start not in self._asked}
        if not new:
            return {}
        self._asked |= starts.keys()
        ids = {one.node_id for one in there}
        content = RecordDict({"job": ConfigRecord({"json": self._text})})
        calls = [
            Message(content, dst_node_id=node, message_type="query.hello") for node in sorted(new)
        ]
        self._begin(calls)
        met: dict[str, Hello | FedclError] = {}
        timeout = min(self.timeout, self.wait or self.timeout)
        replies = self._complete(self.grid.send_and_receive(calls, timeout=timeout))
        for node, reply in replies.items():
            site, answer = _introduction(reply, new[node])
            if site and site not in self.job.roles:  # connected, and no part of this run
                continue
            if isinstance(answer, Hello) and self.nodes.get(site, node) in ids - {node}:
                answer = DataError(f"site {site}: two hospitals answer to that name")
            if isinstance(answer, Hello):
                self.nodes[site], self.samples[site] = node, answer.samples
            met[site or f"node {node}"] = answer
        return met

    def dismiss(self, site: str) -> None:
        """Forget a site that cannot take part, if it had been met."""
        self.nodes.pop(site, None)

    def calls(
        self,
        what: str,
        parts: Mapping[str, Parts],
        versions: Mapping[str, int],
        *,
        arrivals: Sequence[Sequence[str]],
        **others: Any,
    ) -> list[Message]:
        """Make one message per site; sites may share array records.

        Args:
            what: "train", "evaluate" or "query.report".
            parts: whom to call, and what each is to be sent: `model` and `arrays` at least.
            versions: the version of each site's own state to start from.
            arrivals: the sites that arrived in each stage so far.
            others: the other attributes of `Call`, the same for all.
        """
        messages, whole = [], {}
        used = {id(own[name]) for own in parts.values() for name in KEPT if name in own}
        self._digests = {mark: known for mark, known in self._digests.items() if mark in used}
        seen: Parts = {
            "arrived": [site for stage in arrivals for site in stage],
            "sizes": [len(stage) for stage in arrivals],
        }
        for site, own in parts.items():
            node, state = self.nodes[site], versions.get(site, 0)
            records = {name: own[name] for name in KEPT if own.get(name) is not None}
            digests = {name: self._digest(record) for name, record in records.items()}
            call = Call(self._text, **seen, **own, state=state, digests=digests, **others)
            held = self.holds.get(site, [])
            known: dict[str, Any] = {n: None for n, d in digests.items() if d in held}
            messages.append(Message(replace(call, **known).pack(), node, what))
            whole[node] = call
        self._begin(messages)
        self._whole = whole
        return messages

    def _digest(self, record: ArrayRecord) -> str:
        """Return the digest of a record; it is computed once while the record is in use."""
        if id(record) not in self._digests:
            self._digests[id(record)] = record, digest(record)
        return self._digests[id(record)][1]

    def _begin(self, calls: list[Message]) -> None:
        """Note what is sent, and when."""
        self._calls, self._sent = calls, time.perf_counter()
        self._count(calls)

    def _count(self, calls: Iterable[Message]) -> None:
        """Add what is sent to the ledger."""
        for call in calls:
            for name, record in call.content.array_records.items():
                size = size_of(record)
                self.ledger.bytes["down"] += size
                if name != "arrays":
                    self.ledger.bytes[name] += size

    def _complete(self, replies: Iterable[Message]) -> dict[int, Message]:
        """Return the replies by node, after a second try with some, in the time that is left.

        Who answered by an error is asked once more; who has lost what it was to keep is sent it.
        """
        by_node = _by_node(self._calls, replies)
        again = []
        for call in self._calls:
            node = call.metadata.dst_node_id
            content = self._second(node, call.content, by_node.get(node))
            if content is not None:
                again.append(Message(content, node, call.metadata.message_type))
        if again:
            self._await({call.metadata.dst_node_id for call in again})
        left = self._sent + self.timeout - time.perf_counter()
        if again and left > 0:
            self._count(again)
            by_node |= _by_node(again, self.grid.send_and_receive(again, timeout=left))
        return by_node

    def _second(self, node: int, sent: RecordDict, reply: Message | None) -> RecordDict | None:
        """Return what a site is sent in the second place, or None."""
        if reply is None or (reply.has_error() and reply.error.code == LATE):
            return None
        site = next((name for name, known in self.nodes.items() if known == node), f"node {node}")
        if reply.has_error():
            log.warning("%s: %s; asked once more", site, _first_line(reply))
            self.ledger.judge(site, "again")
            call = sent.config_records.get("call")
            if call is None:
                return sent
            attempt = int(str(call["attempt"])) + 1
            return RecordDict({**sent, "call": ConfigRecord({**call, "attempt": attempt})})
        if Missing.of(reply.content) is None or node not in self._whole:
            return None
        log.info("%s has lost what it was sent before; it is sent again", site)
        self.holds[site] = []
        return self._whole[node].pack()

    def answers(
        self, kind: type[Reply], sites: Sequence[str], replies: Iterable[Message]
    ) -> dict[str, Reply | str]:
        """Return, in the order of `sites`, each site's answer or why there is none.

        Args:
            kind: `Update` for training, `Scored` for evaluation, `Report` after a stage.
            sites: who was called.
            replies: what came back, in any order.
        """
        by_node = self._complete(replies)
        wall = time.perf_counter() - self._sent
        answers: dict[str, Reply | str] = {}
        busy = 0.0
        for site in sites:
            reply = by_node.get(self.nodes[site])
            if reply is None:
                answers[site] = f"no answer within {self.timeout:g} s"
            elif reply.has_error():
                answers[site] = reply.error.reason or f"error {reply.error.code}"
            else:
                try:
                    answer = kind.unpack(reply.content)
                except MalformedError as error:
                    answers[site] = Refusal(error)
                    continue
                used = 0 if isinstance(answer, Scored) else answer.samples
                kept = answer.stored if isinstance(answer, Update) else 0
                if max(used, kept) > self.samples[site]:
                    answers[site] = Refusal(
                        f"{max(used, kept)} samples, it has {self.samples[site]}"
                    )
                    continue
                answers[site] = answer
                if isinstance(answer, Update):
                    self.holds[site] = answer.holds
                busy += answer.seconds
                size = sum(map(size_of, reply.content.array_records.values()))
                self.ledger.bytes["up"] += size
                self.ledger.bytes["report"] += size if kind is Report else 0
        self.ledger.seconds["evaluate" if kind is Scored else "train"] += busy
        lanes = max(1, min(self.lanes, len(sites)))
        self.ledger.seconds["communicate"] += max(0.0, wall - busy / lanes)
        return answers


def _by_node(calls: Iterable[Message], replies: Iterable[Message]) -> dict[int, Message]:
    """Return the replies by whom they are from: of some errors the sender is the SuperLink."""
    asked = {call.metadata.message_id: call.metadata.dst_node_id for call in calls}
    known = [reply for reply in replies if reply.metadata.reply_to_message_id in asked]
    return {asked[reply.metadata.reply_to_message_id]: reply for reply in known}


def _introduction(reply: Message, name: str) -> tuple[str, Hello | FedclError]:
    """Return a hospital's name and what it says of itself, or why it cannot take part.

    Args:
        reply: to the question who it is.
        name: that it is registered under; empty if under none.
    """
    if reply.has_error():
        return name, RunError(f"{name or 'a hospital'} did not start: {_first_line(reply)}")
    try:
        hello = Hello.unpack(reply.content)
    except MalformedError as error:
        return name, error
    if name not in ("", hello.site):
        return name, DataError(f"site {name}: registered by this name, but says {hello.site!r}")
    return hello.site, DataError(hello.error) if hello.error else hello


def _first_line(reply: Message) -> str:
    first, _, details = str(reply.error.reason).partition("\n")
    log.debug("%s", details)
    return first
