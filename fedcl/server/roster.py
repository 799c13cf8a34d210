"""Which hospitals are there: by site name, over any Flower Grid."""

import logging
import time
from collections.abc import Callable, Collection, Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from fedcl.config.job import Job
from fedcl.errors import DataError, FedclError, RunError, one_line, some_of
from fedcl.wire.answers import Hello
from fedcl.wire.codes import GONE
from fedcl.wire.fields import MalformedError
from fedcl.wire.limits import told
from fedcl.wire.requests import Greeting

log = logging.getLogger("fedcl")

Start = tuple[int, str]
"""A node, and when it was last started."""


class Roster:
    """The hospitals that have been met, those that are connected, and those refused.

    Args:
        grid: over which they are asked.
        job: what they are told of the run.
        timeout: seconds to wait for answers.
        wait: seconds to wait for a site that is not connected.
        admit: takes note of what a hospital holds, or raises why it does not fit the others.

    Attributes:
        nodes: the node id of each site that has been met and takes part.
        samples: how many training samples each of them has.
        cases: how many cases, by split: "val" and "test".
    """

    def __init__(
        self,
        grid: Grid,
        job: Job,
        timeout: float,
        wait: float,
        admit: Callable[[str, Hello], None],
    ) -> None:
        self.grid, self.job = grid, job
        self.timeout, self.wait, self.admit = timeout, wait, admit
        self.nodes: dict[str, int] = {}
        self.samples: dict[str, int] = {}
        self.cases: dict[str, dict[str, int]] = {}
        self._asked: set[Start] = set()
        self._silent: set[Start] = set()
        self._silent_before: set[Start] = set()
        self._refused: dict[str, tuple[Start, FedclError]] = {}
        self._since: dict[str, Start] = {}
        self._gone: set[str] = set()

    def meet(self, sites: Iterable[str] = ()) -> dict[str, Hello]:
        """Ask every node that is new, or has been started again, who it is and what it holds.

        Args:
            sites: those that are needed now; they are waited for, but none a second time before
                it has come.

        Returns:
            What those said that take part; of the others see `refused`.
        """
        needed, met = set(sites), dict[str, Hello]()
        if needed:  # who has said nothing, once, may be able to now
            self._asked -= self._silent

        def missing() -> set[str]:
            met.update(self._greet())
            return needed - self.refused.keys()

        self._wait_for(missing)
        for site in self.job.roles:
            if site in met and site in self.nodes:
                try:
                    self.admit(site, met[site])
                except FedclError as error:
                    self._refused[site] = self._since[site], error
                    self.nodes.pop(site)
        return {site: met[site] for site in self.job.roles if site in met and site in self.nodes}

    @property
    def refused(self) -> dict[str, FedclError]:
        """Why nodes that are connected cannot take part, by the site's name where it is known."""
        return {site: error for site, (_, error) in self._refused.items()}

    def connected(self) -> list[str]:
        """Return the sites that have been met and are connected now."""
        there = set(self.grid.get_node_ids())
        return [site for site, node in self.nodes.items() if node in there]

    def name(self, node: int) -> str:
        """Return the site of a node, or in words which node it is."""
        return next((site for site, known in self.nodes.items() if known == node), f"node {node}")

    def drop(self, site: str) -> None:
        """Leave out a site, and wait for it no more, until its node is started again."""
        self.nodes.pop(site, None)
        self._gone.add(site)

    def wait_for(self, nodes: Collection[int]) -> None:
        """Wait for nodes that may just have been started again.

        One that has come back with another key is another node: it is met before the next call.
        """
        known = {site: node for site, node in self.nodes.items() if node in nodes}

        def missing() -> set[str]:
            there = {one_line(one.name): one.node_id for one in self.grid.get_nodes()}
            return {site for site, node in known.items() if there.get(site, node) == node}

        self._wait_for(missing)

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
                there = some_of(self.connected()) or "nobody"
                names = some_of(sorted(missing))
                log.warning("waiting up to %g s for %s; connected: %s", self.wait, names, there)
                said = True
            time.sleep(min(1.0, left))

    def _greet(self) -> dict[str, Hello]:
        """Return what those nodes say that have not been asked since they started."""
        there = list(self.grid.get_nodes())
        starts = {(one.node_id, one.last_activated_at): one_line(one.name) for one in there}
        self._refused = {site: one for site, one in self._refused.items() if one[0] in starts}
        new = {start: name for start, name in starts.items() if start not in self._asked}
        if not new:
            return {}
        replies = self._ask([node for node, _ in sorted(new)])
        lost = {start for start in new if start[0] in replies and _is_lost(replies[start[0]])}
        # One that has died a moment ago is listed still; it is asked again until it is back.
        new = {start: name for start, name in new.items() if start not in lost}
        silent = {start for start in new if start[0] not in replies}
        self._asked |= new.keys()
        self._silent = self._silent - new.keys() | silent - self._silent_before
        self._silent_before |= silent
        met: dict[str, Hello] = {}
        ids, named = {one.node_id for one in there}, any(one.name for one in there)
        for start, name in new.items():
            if start not in silent:
                met |= self._introduced(start, name, replies[start[0]], ids, named)
        return met

    def _introduced(
        self, start: Start, name: str, reply: Message, there: Collection[int], named: bool
    ) -> dict[str, Hello]:
        """Return what a node says, by the site that it speaks for; nothing if it may not.

        Args:
            start: the node.
            name: that it is registered under; empty if under none.
            reply: to the question who it is.
            there: the nodes that are connected.
            named: whether any of them is registered under a name.
        """
        node = start[0]
        site, answer = _introduction(reply, name, named)
        if site and site not in self.job.roles:  # connected, and no part of this run
            return {}
        other = self.nodes.get(site, node)
        if isinstance(answer, Hello) and other != node and other in there:
            answer = DataError(f"site {site}: two hospitals answer to that name")
        if isinstance(answer, Hello):
            self.nodes[site], self.samples[site] = node, answer.samples
            self.cases[site] = {"val": answer.val, "test": answer.test}
            self._since[site] = start
            self._refused.pop(site, None)
            return {site: answer}
        if other == node and site and (name == site or not named):
            self.nodes.pop(site, None)
            self._refused[site] = start, answer
        else:  # it may not speak for the site
            self._refused[f"node {node}"] = start, answer
        return {}

    def _ask(self, nodes: Collection[int]) -> dict[int, Message]:
        """Return what nodes answer to the question who they are."""
        content = Greeting(self.job.to_json()).pack()
        messages = [Message(content, node, Greeting.TYPE) for node in nodes]
        timeout = min(self.timeout, self.wait or self.timeout)
        replies = self.grid.send_and_receive(messages, timeout=timeout)
        return {reply.metadata.src_node_id: reply for reply in replies}


def _is_lost(reply: Message) -> bool:
    """Return whether a node was not connected any more."""
    return reply.has_error() and reply.error.code == GONE


def _introduction(reply: Message, name: str, named: bool) -> tuple[str, Hello | FedclError]:
    """Return a hospital's name and what it says of itself, or why it cannot take part.

    Args:
        reply: to the question who it is.
        name: that it is registered under; empty if under none.
        named: whether any is registered under a name.
    """
    if reply.has_error():
        return name, RunError(f"{name or 'a hospital'} did not start: {first_line(reply)}")
    try:
        hello = Hello.unpack(reply.content)
    except MalformedError as error:
        return name, error
    if name not in ("", hello.site):
        return name, DataError(f"site {name}: registered by this name, but says {hello.site!r}")
    if named and not name:
        return hello.site, DataError(f"site {hello.site}: registered without a name; give --name")
    return hello.site, DataError(one_line(hello.error)) if hello.error else hello


def first_line(reply: Message) -> str:
    """Return what an error says in one line; details go into the log."""
    first, _, details = told(reply.error).partition("\n")
    if details:
        log.debug("%s", details)
    return first
