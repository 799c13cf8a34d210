"""The hospitals as the server sees them: by site name, over any Flower Grid."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcl.config.job import Job
from fedcl.errors import DataError, FedclError, RunError, one_line
from fedcl.server.ledger import Ledger
from fedcl.wire.messages import (
    KEPT,
    LATE,
    Call,
    Hello,
    MalformedError,
    Missing,
    Report,
    Scored,
    Update,
)
from fedcl.wire.records import digest, size_of

log = logging.getLogger("fedcl")

Reply = TypeVar("Reply", Update, Scored, Report)


class Refusal(str):
    """Why an answer that came cannot be used; any other string says why none came."""


Start = tuple[int, str]
"""A node, and when it was last started."""
Parts = Mapping[str, Any]
"""Attributes of a `Call` that are not the same for all sites."""


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
        run: its name at hospitals that keep something for several; empty in a simulation.
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
    run: str = ""

    def __post_init__(self) -> None:
        self._text = self.job.to_json()
        self._sent = self._until = 0.0
        self._calls: list[Message] = []
        self._asked: set[Start] = set()
        self._silent: set[Start] = set()
        self._twice: set[Start] = set()
        self._refused: dict[str, tuple[Start, FedclError]] = {}
        self._starts: dict[int, Start] = {}
        self._gone: set[str] = set()
        self._whole: dict[int, Call] = {}
        self._digests: dict[int, tuple[ArrayRecord, str]] = {}

    def meet(self, sites: Iterable[str] = ()) -> dict[str, Hello]:
        """Ask every node that is new, or has been started again, who it is and what it holds.

        Args:
            sites: those that are needed now; they are waited for, but none a second time before
                it has come.

        Returns:
            What those said that can take part; of the others see `refused`.
        """
        needed, met = set(sites), dict[str, Hello]()
        if needed:  # who has said nothing, once, may be able to now
            self._asked -= self._silent

        def missing() -> set[str]:
            met.update(self._greet())
            return needed - self.refused.keys()

        self._wait_for(missing)
        return {site: hello for site, hello in met.items() if site in self.nodes}

    @property
    def refused(self) -> dict[str, FedclError]:
        """Why nodes that are connected cannot take part, by the site's name where it is known."""
        return {site: error for site, (_, error) in self._refused.items()}

    def connected(self) -> list[str]:
        """Return the sites that have been met and are connected now."""
        there = set(self.grid.get_node_ids())
        return [site for site, node in self.nodes.items() if node in there]

    def _await(self, nodes: Collection[int]) -> None:
        """Wait for nodes that may just have been started again."""
        known = {site for site, node in self.nodes.items() if node in nodes}
        self._wait_for(lambda: known)

    def _wait_for(self, needed: Callable[[], set[str]]) -> None:
        """Wait until sites are connected, up to `wait`, and for none twice before it has come."""
        until, said = time.monotonic() + self.wait, False
        self._gone -= {*self.connected()}
        while True:
            left = until - time.monotonic()
            missing = needed() - {*self.connected()} - self._gone
            if not missing or left <= 0:
                self._gone |= missing
                return
            if not said:
                there = ", ".join(self.connected()) or "nobody"
                names = ", ".join(sorted(missing))
                log.warning("waiting up to %g s for %s; connected: %s", self.wait, names, there)
                said = True
            time.sleep(min(1.0, left))

    def _greet(self) -> dict[str, Hello]:
        """Return what those nodes say that have not been asked since they started."""
        there = list(self.grid.get_nodes())
        starts = {(one.node_id, one.last_activated_at): one.name for one in there}
        self._refused = {site: one for site, one in self._refused.items() if one[0] in starts}
        new = {start: name for start, name in starts.items() if start not in self._asked}
        if not new:
            return {}
        named = any(one.name for one in there)
        content = RecordDict({"job": ConfigRecord({"json": self._text})})
        calls = [
            Message(content, dst_node_id=node, message_type="query.hello")
            for node, _ in sorted(new)
        ]
        timeout = min(self.timeout, self.wait or self.timeout)
        self._begin(calls, timeout)
        replies = self._complete(self.grid.send_and_receive(calls, timeout=timeout))
        self._asked |= new.keys()
        silent = {start for start in new if start[0] not in replies}
        self._silent = self._silent - new.keys() | silent - self._twice
        self._twice |= silent
        met: dict[str, Hello] = {}
        for start, name in new.items():
            if start in silent:
                continue
            node = start[0]
            site, answer = _introduction(replies[node], name, named)
            if site and site not in self.job.roles:  # connected, and no part of this run
                continue
            other = self.nodes.get(site, node)
            if isinstance(answer, Hello) and any(other == one.node_id != node for one in there):
                answer = DataError(f"site {site}: two hospitals answer to that name")
            if isinstance(answer, Hello):
                self.nodes[site], self.samples[site] = node, answer.samples
                self._refused.pop(site, None)
                met[site] = answer
            elif other == node and site and (name == site or not named):
                self.nodes.pop(site, None)
                self._refused[site] = start, answer
            else:  # it may not speak for the site
                self._refused[f"node {node}"] = start, answer
        self._starts = {start[0]: start for start in starts}
        return met

    def refuse(self, site: str, error: FedclError) -> None:
        """Have nothing more to do with a site that has been met and does not fit."""
        node = self.nodes.pop(site)
        self._refused[site] = self._starts[node], error

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
            call = Call(
                self._text, **seen, **own, run=self.run, state=state, digests=digests, **others
            )
            held = self.holds.get(site, [])
            known: dict[str, Any] = {n: None for n, d in digests.items() if d in held}
            messages.append(Message(replace(call, **known).pack(), node, what))
            whole[node] = call
        self._begin(messages, self.timeout)
        self._whole = whole
        return messages

    def _digest(self, record: ArrayRecord) -> str:
        """Return the digest of a record; it is computed once while the record is in use."""
        if id(record) not in self._digests:
            self._digests[id(record)] = record, digest(record)
        return self._digests[id(record)][1]

    def _begin(self, calls: list[Message], timeout: float) -> None:
        """Note what is sent, when, and until when it is to be answered."""
        self._calls, self._whole, self._sent = calls, {}, time.perf_counter()
        self._until = self._sent + timeout
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
        """Return the replies by node, after another try with some, in the time that is left.

        Who answered by an error is asked once more; who has lost what it was to keep is sent it.
        """
        by_node = _by_node(self._calls, replies)
        calls, tried = self._calls, set[tuple[int, bool]]()
        while True:
            again = []
            for call in calls:
                node = call.metadata.dst_node_id
                reply = by_node.get(node)
                if reply is None or (node, reply.has_error()) in tried:
                    continue
                tried.add((node, reply.has_error()))
                content = self._next(node, call.content, reply)
                if content is not None:
                    again.append(Message(content, node, call.metadata.message_type))
            if again:
                self._await({call.metadata.dst_node_id for call in again})
            left = self._until - time.perf_counter()
            if not again or left <= 0:
                return by_node
            self._count(again)
            by_node |= _by_node(again, self.grid.send_and_receive(again, timeout=left))
            calls = again

    def _next(self, node: int, sent: RecordDict, reply: Message) -> RecordDict | None:
        """Return what a site is sent after such a reply, or None if that is to be taken."""
        site = next((name for name, known in self.nodes.items() if known == node), f"node {node}")
        if reply.has_error():
            if reply.error.code == LATE:
                return None
            log.warning("%s: %s; asked once more", site, _first_line(reply))
            self.ledger.judge(site, "again")
            call = sent.config_records.get("call")
            if call is None:
                return sent
            attempt = int(str(call["attempt"])) + 1
            return RecordDict({**sent, "call": ConfigRecord({**call, "attempt": attempt})})
        if node not in self._whole or Missing.of(reply.content) is None:
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
        busy = cpu = 0.0
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
                busy, cpu = busy + answer.seconds, cpu + answer.cpu
                self.ledger.memory["sites"] = max(self.ledger.memory["sites"], answer.memory)
                size = sum(map(size_of, reply.content.array_records.values()))
                self.ledger.bytes["up"] += size
                self.ledger.bytes["report"] += size if kind is Report else 0
        what = "evaluate" if kind is Scored else "train"
        self.ledger.seconds[what] += busy
        self.ledger.cpu[what] += cpu
        lanes = max(1, min(self.lanes, len(sites)))
        self.ledger.seconds["communicate"] += max(0.0, wall - busy / lanes)
        return answers


def _by_node(calls: Iterable[Message], replies: Iterable[Message]) -> dict[int, Message]:
    """Return the replies by whom they are from: of some errors the sender is the SuperLink."""
    asked = {call.metadata.message_id: call.metadata.dst_node_id for call in calls}
    known = [reply for reply in replies if reply.metadata.reply_to_message_id in asked]
    return {asked[reply.metadata.reply_to_message_id]: reply for reply in known}


def _introduction(reply: Message, name: str, named: bool) -> tuple[str, Hello | FedclError]:
    """Return a hospital's name and what it says of itself, or why it cannot take part.

    Args:
        reply: to the question who it is.
        name: that it is registered under; empty if under none.
        named: whether any is registered under a name.
    """
    if reply.has_error():
        return name, RunError(f"{name or 'a hospital'} did not start: {_first_line(reply)}")
    try:
        hello = Hello.unpack(reply.content)
    except MalformedError as error:
        return name, error
    if name not in ("", hello.site):
        return name, DataError(f"site {name}: registered by this name, but says {hello.site!r}")
    if named and not name:
        return hello.site, DataError(f"site {hello.site}: registered without a name; give --name")
    return hello.site, DataError(one_line(hello.error)) if hello.error else hello


def _first_line(reply: Message) -> str:
    details = str(reply.error.reason).partition("\n")[2]
    if details:
        log.debug("%s", details)
    return one_line(str(reply.error.reason))
