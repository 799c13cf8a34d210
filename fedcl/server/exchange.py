"""Asking hospitals, by site name, and taking their answers apart."""

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedcl.config.schema import Config
from fedcl.server.claims import Claims
from fedcl.server.roster import Roster, first_line
from fedcl.server.state import State
from fedcl.wire.answers import Hello, Missing, Report, Scored, Update
from fedcl.wire.codes import GONE, TOO_LATE
from fedcl.wire.fields import MalformedError
from fedcl.wire.limits import CACHED, told
from fedcl.wire.records import digest, size_of
from fedcl.wire.requests import AnyRequest, EvaluateRequest, Request, TrainRequest
from fedcl.wire.retrying_grid import Retries, RetryingGrid

log = logging.getLogger("fedcl")

Answer = TypeVar("Answer", Update, Scored, Report)

LEAST = 180.0
"""Seconds that an answer may take at least: after a minute it is known that a process has died."""


@dataclass(frozen=True)
class Failure:
    """Why there is no answer that can be used.

    Attributes:
        reason: its first line says it all; details may follow.
        came: whether there was one.
        code: of an error instead of an answer; `TOO_LATE` where there was nothing at all.
    """

    reason: str
    came: bool = False
    code: int = 0

    @property
    def silent(self) -> bool:
        """Whether nothing came in time."""
        return self.code == TOO_LATE

    @property
    def tried(self) -> bool:
        """Whether the site was there, and could not do what it was asked for."""
        return self.code not in (TOO_LATE, GONE)


class Exchange(Retries):
    """Sends requests to sites by name and takes their answers apart.

    Who answers by an error is asked once more; who has lost what it was to keep is sent it.

    Args:
        grid: Flower's Grid: in-process, on Ray or over the network.
        config: of the run.
        state: what each site holds and the version of its own state; its ledger gets bytes,
            seconds and failures.
        run: its name at hospitals that keep something for several; empty in a simulation.
        admit: see `Roster`.

    Attributes:
        grid: the same with another try where that may help.
        roster: which hospitals are there.
    """

    def __init__(
        self,
        grid: Grid,
        config: Config,
        state: State,
        run: str,
        admit: Callable[[str, Hello], None],
    ) -> None:
        self.config, self.state, self.ledger = config, state, state.ledger
        self.run = run
        self.timeout = self._limit = config.engine.timeout
        self._sent = 0.0
        self._over, self.grid = grid, RetryingGrid(grid, self)
        self.roster = Roster(self.grid, config.job, self.timeout, config.wait, admit)
        self._job = config.job.to_json()
        self._arrived: list[list[str]] = []
        self.claims = Claims(config, state, self.roster)
        self._asked: dict[str, Request] = {}
        self._whole: dict[int, TrainRequest] = {}
        self._digests: dict[int, tuple[ArrayRecord, str]] = {}

    # --- asking ------------------------------------------------------------------------

    def request(self, kind: type[AnyRequest], site: str, stage: int, /, **parts: Any) -> AnyRequest:
        """Return a request to a site, in or after a stage; `parts` are its other attributes."""
        return kind(
            job=self._job,
            run=self.run,
            arrivals=self._arrivals(max(stage, 0)),
            state=self.state.versions.get(site, 0),
            data=self.state.digests.get(site, ""),
            **parts,
        )

    def _arrivals(self, stage: int) -> list[list[str]]:
        """Return who has arrived by a stage; one list for all the requests of it."""
        if len(self._arrived) != stage + 1:
            self._arrived = [list(one) for one in self.config.timeline.stages[: stage + 1]]
        return self._arrived

    def ask(
        self, kind: type[Answer], requests: Mapping[str, Request]
    ) -> dict[str, Answer | Failure]:
        """Send requests and return what comes of them; see `messages` and `answers`."""
        replies = self.grid.send_and_receive(self.messages(requests), timeout=self.timeout)
        return dict(self.answers(kind, list(requests), replies))

    def messages(self, requests: Mapping[str, Request]) -> list[Message]:
        """Return a message per site; sites may share array records.

        A site that keeps what it was sent once is sent the digest of it.
        """
        training = {s: one for s, one in requests.items() if isinstance(one, TrainRequest)}
        if training:
            used = {id(record) for one in training.values() for record in one.records.values()}
            self._digests = {mark: one for mark, one in self._digests.items() if mark in used}
        self._asked, self._whole = dict(requests), {}
        messages = []
        for site, request in requests.items():
            node, content = self.roster.nodes[site], request
            if site in training:
                self._whole[node] = whole = self._marked(training[site])
                content = self._shortened(site, whole)
            messages.append(Message(content.pack(), node, request.TYPE))
        return messages

    def _marked(self, request: TrainRequest) -> TrainRequest:
        """Return a request with the digests of what sites may keep."""
        records = {name: request.records[name] for name in CACHED}
        digests = {name: self._digest(one) for name, one in records.items() if one is not None}
        return replace(request, digests=digests)

    def _shortened(self, site: str, request: TrainRequest) -> TrainRequest:
        """Return a request without what the site holds already."""
        held = self.state.holds.get(site, [])
        known: dict[str, Any] = {n: None for n, mark in request.digests.items() if mark in held}
        return replace(request, **known)

    def _digest(self, record: ArrayRecord) -> str:
        """Return the digest of a record; it is computed once while the record is in use."""
        if id(record) not in self._digests:
            self._digests[id(record)] = record, digest(record)
        return self._digests[id(record)][1]

    # --- asking once more (`Retries`) ----------------------------------------------------

    def sending(self, messages: Sequence[Message]) -> None:
        """Add what is sent to the ledger."""
        self._sent = time.perf_counter()
        for message in messages:
            for name, record in message.content.array_records.items():
                size = size_of(record)
                self.ledger.bytes["down"] += size
                if name != "arrays":
                    self.ledger.bytes[name] += size

    def again(self, message: Message, reply: Message) -> RecordDict | None:
        """See `Retries.again`."""
        node, sent = message.metadata.dst_node_id, message.content
        site = self.roster.name(node)
        if reply.has_error():
            if reply.error.code == TOO_LATE:
                return None
            log.warning("%s: %s; asked once more", site, first_line(reply))
            self.ledger.judge(site, "again")
            values = sent.config_records.get("request", ConfigRecord())
            if "attempt" not in values:
                return sent
            attempt = int(str(values["attempt"])) + 1
            return RecordDict({**sent, "request": ConfigRecord({**values, "attempt": attempt})})
        trains = message.metadata.message_type == TrainRequest.TYPE
        if not trains or node not in self._whole or Missing.of(reply.content) is None:
            self._note_time(site, message)
            return None
        log.info("%s has lost what it was sent before; it is sent again", site)
        self.state.holds[site] = []
        return self._whole[node].pack()

    def to_score(
        self, models: Mapping[str, str], sent: Mapping[str, ArrayRecord], stage: int, split: str
    ) -> dict[str, Request]:
        """Return requests to score the cases of `split`, by site.

        Args:
            models: by site the architecture that is to be scored there.
            sent: by architecture the weights, one record for all its sites.
            stage: after which.
            split: "test" or "val".
        """
        return {
            site: self.request(
                EvaluateRequest, site, stage, model=name, arrays=sent[name], split=split
            )
            for site, name in models.items()
        }

    def patience(self, messages: Sequence[Message], timeout: float | None) -> float | None:
        """See `Retries.patience`: in a deployed run it follows from how long answers took so far.

        Who has neither answered the like before nor missed a round has all the time there is.
        """
        patience, limit = self.config.engine.patience, 0.0
        self._limit = most = self.timeout if timeout is None else timeout
        if patience is None or not self.config.deployed:
            return timeout
        for message in messages:
            taken = self.ledger.longest.get(_kind(message), {})
            site = self.roster.name(message.metadata.dst_node_id)
            if not taken or (site not in taken and site not in self.ledger.missed):
                return timeout
            limit = max(LEAST, patience * max(taken.values()))
        self._limit = min(most, limit)
        return self._limit

    def _note_time(self, site: str, message: Message) -> None:
        """Keep how long the answer to a request has taken, if that was longer than ever."""
        if "request" in message.content.config_records:
            taken = self.ledger.longest.setdefault(_kind(message), {})
            taken[site] = max(taken.get(site, 0.0), time.perf_counter() - self._sent)

    def heard(self, site: str, silent: bool, stage: int, round_: int) -> None:
        """Take note of whether a site of a deployed run has answered in a round of a stage.

        One that has been silent for `engine.silent_rounds` is left out, and nobody waits for it,
        until it says hello again.
        """
        missed, limit = self.ledger.missed, self.config.engine.silent_rounds
        if not silent or not self.config.deployed:
            missed.pop(site, None)
            return
        missed[site] = missed.get(site, 0) + 1
        if limit is not None and missed[site] >= limit:
            self.roster.drop(site)
            said = f"no answer in {missed[site]} rounds in a row"
            reason = f"{said}: it is left out until its SuperNode is started again"
            self.ledger.fail(site, stage, round_, "presence", reason)

    def wait_for(self, nodes: Collection[int]) -> None:
        """See `Retries.wait_for`."""
        self.roster.wait_for(nodes)

    # --- what comes of it ----------------------------------------------------------------

    def answers(
        self, kind: type[Answer], sites: Sequence[str], replies: Iterable[Message]
    ) -> Generator[tuple[str, Answer | Failure], None, None]:
        """Yield, in the order of `sites`, each site and its answer or why there is none.

        Only what comes before its turn is held. What it cost is in the ledger at the end.

        Args:
            kind: `Update` for training, `Scored` for evaluation, `Report` after a stage.
            sites: who was asked.
            replies: what comes back over `grid`, in any order; it may still be on its way.
        """
        busy = cpu = 0.0
        try:
            for site, reply in self._in_order(sites, replies):
                answer = self._answer(kind, site, reply)
                if not isinstance(answer, Failure):
                    busy, cpu = busy + answer.seconds, cpu + answer.cpu
                    self.ledger.memory["sites"] = max(self.ledger.memory["sites"], answer.memory)
                yield site, answer
        finally:
            what = "evaluate" if kind is Scored else "train"
            self.ledger.seconds[what] += busy
            self.ledger.cpu[what] += cpu
            lanes = max(1, min(self._lanes(len(sites)), len(sites)))
            self.ledger.seconds["communicate"] += max(0.0, self.grid.seconds - busy / lanes)

    def _in_order(
        self, sites: Sequence[str], replies: Iterable[Message]
    ) -> Iterator[tuple[str, Message | None]]:
        """Yield each site and its reply, None if there is none, as soon as those before it were."""
        early: dict[int, Message] = {}
        left = deque(sites)
        for reply in replies:
            early[reply.metadata.src_node_id] = reply
            while left and (node := self.roster.nodes[left[0]]) in early:
                yield left.popleft(), early.pop(node)
        for site in left:
            yield site, early.pop(self.roster.nodes[site], None)

    def _lanes(self, sites: int) -> int:
        """Return how many sites can compute at the same time: over the network, all of them."""
        return int(getattr(self._over, "lanes", sites))

    def _answer(self, kind: type[Answer], site: str, reply: Message | None) -> Answer | Failure:
        """Return what a site answers, or why that cannot be used."""
        if reply is None:
            return Failure(f"no answer within {self._limit:g} s", code=TOO_LATE)
        if reply.has_error():
            return Failure(told(reply.error), code=reply.error.code)
        request = self._asked[site]
        try:
            answer = kind.unpack(reply.content, request.answered)
        except MalformedError as error:
            return Failure(str(error), came=True)
        problem = self.claims.problem(site, request, answer)
        if problem is not None:
            return Failure(problem, came=True)
        if isinstance(answer, Update):
            self.state.holds[site] = answer.holds
        size = sum(map(size_of, reply.content.array_records.values()))
        self.ledger.bytes["up"] += size
        self.ledger.bytes["report"] += size if kind is Report else 0
        return answer


def _kind(message: Message) -> str:
    """Return what a request asks for, as far as it takes the same time again."""
    values = message.content.config_records.get("request", ConfigRecord())
    return " ".join((message.metadata.message_type, str(values.get("split", "")))).strip()
