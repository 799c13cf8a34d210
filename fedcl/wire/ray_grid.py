"""Flower's Grid on Ray: hospitals answer on actors of this machine or of a cluster."""

import itertools
import logging
import math
import socket
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from flwr.app import ArrayRecord, Error, Message, RecordDict

from fedcl.errors import ConfigError, RunError, one_line
from fedcl.interruption import keeping_handlers
from fedcl.wire import flower
from fedcl.wire.codes import CRASHED
from fedcl.wire.local_grid import LocalGrid, NodeConfig
from fedcl.wire.ray_worker import Worker
from fedcl.wire.records import size_of

log = logging.getLogger("fedcl")

SPARE = 1.1
"""How much more of a GPU a worker is given than it was seen to take."""


@dataclass
class _Call:
    """A message on its way to a worker, its arrays already in the object store.

    Attributes:
        message: without its arrays.
        refs: those, by their names.
        place: among those that were sent together.
    """

    message: Message
    refs: dict[str, Any]
    place: int

    @property
    def node(self) -> int:
        """Whom it is to."""
        return self.message.metadata.dst_node_id


@dataclass
class _Seat:
    """A worker as the grid sees it.

    Attributes:
        actor: the Ray actor.
        busy: whether it is starting or answering.
        calls: what it is answering.
        waiting: calls to the nodes that it answers for: it has their data at hand.
    """

    actor: Any
    busy: bool = False
    calls: list[_Call] = field(default_factory=list)
    waiting: deque[_Call] = field(default_factory=deque)


class RayGrid(LocalGrid):
    """Nodes answer on Ray actors, of this machine or of a cluster.

    Weights and teacher are put into the object store once per set of messages; replies are taken
    as they finish. A site goes to the worker that has served it before, since that one has its
    data at hand, unless another is free and it is not, or it lags behind (`AHEAD`). An actor that
    dies is replaced, and the messages it held get an error for an answer.

    Args:
        app, nodes, on_reply: see `LocalGrid`.
        workers: how many actors; None for as many as fit, at most one per node.
        num_cpus, num_gpus: the share of a CPU or GPU each takes; None, of a GPU, for one each until
            their first round has shown how much of its memory they need, and then for as many as
            it has room for.
        address: an existing cluster; None starts one on this machine.
        threads: torch threads per actor.

    Raises:
        ConfigError: the cluster cannot be reached or is too small; names the key.
    """

    WORKER = Worker
    GRAIN = 0.05  # seconds: calls shorter than this are sent to a worker several at once
    AHEAD = 2**28  # bytes: no answer comes before its turn by more of others' than that
    BULK = 2**25  # bytes: but not more of them than carry so much, since all answer together

    def __init__(
        self,
        app: str,
        nodes: Sequence[NodeConfig],
        on_reply: Callable[[Message], None] = lambda reply: None,
        *,
        workers: int | None = None,
        num_cpus: float = 1.0,
        num_gpus: float | None = 0.0,
        address: str | None = None,
        threads: int = 1,
    ) -> None:
        super().__init__(app, nodes, on_reply)
        self._served: dict[int, _Seat] = {}
        self._running: dict[Any, _Seat] = {}
        self._store: dict[int, tuple[ArrayRecord, Any]] = {}
        self._pace = math.inf  # seconds per call, as measured
        self._size = 1  # bytes of the largest array record of the calls
        self._wanted, self._cpus, self._threads = workers, num_cpus, threads
        self._packs = num_gpus is None
        self._packed = False

        import ray

        self.ray = ray
        try:
            start_ray(address)
            self._open(1.0 if num_gpus is None else num_gpus)
        except BaseException:
            self.close()
            raise

    def _open(self, num_gpus: float) -> None:
        """Start as many workers as fit.

        Raises:
            ConfigError: not as many as are asked for.
        """
        count = self._count(num_gpus)
        # Actors are replaced here when they die: one that Ray restarts turns calls away
        # until it is there again.
        kind = self.ray.remote(self.WORKER).options(num_cpus=self._cpus, num_gpus=num_gpus)
        places = {str(one.node_config.get("data-path", "")) for one in self.contexts.values()}
        folders = sorted(place for place in places if place and Path(place).exists())
        self._hire = lambda: kind.remote(self.app, self._threads, folders)
        # Nobody waits for them here: while they import what they need, so can the server.
        self._seats = [self._start(_Seat(self._hire())) for _ in range(count)]
        self._starting = list(self._running)
        self._turns = itertools.cycle(self._seats)
        self._served.clear()

    def _pack(self) -> None:
        """Put as many workers on a GPU as its memory has room for, once one has trained."""
        asked = [seat.actor.share.remote() for seat in self._seats if not seat.busy]
        known = [share for share in self.ray.get(asked) if share is not None]
        if not known:
            return
        self._packed = True
        share = math.ceil(100 * SPARE * max(known)) / 100
        if share <= 0.5:
            for seat in self._seats:
                self.ray.kill(seat.actor)
            self._running.clear()
            self._open(share)
        taken = 100 * max(known)
        log.info("a worker takes %.0f %% of a GPU's memory: %d workers", taken, self.lanes)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """See `LocalGrid`; the time that workers take to start is not the hospitals'.

        Raises:
            RunError: a worker cannot start.
        """
        if self._packs and not self._packed and not self._starting:
            self._pack()
        starting, self._starting = self._starting, []
        try:
            self.ray.get(starting)
        except self.ray.exceptions.RayError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[-1]
            raise RunError(f"engine: a worker cannot start ({one_line(reason)})") from error
        return super().send_and_receive(messages, timeout=timeout)

    def _start(self, seat: _Seat) -> _Seat:
        """Note that a worker is busy until it is ready."""
        seat.busy = True
        self._running[seat.actor.ready.remote()] = seat
        return seat

    @property
    def lanes(self) -> int:
        """How many nodes can answer at the same time."""
        return len(self._seats)

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        self.ray.shutdown()

    def _count(self, num_gpus: float) -> int:
        there = self.ray.cluster_resources()
        fits = [
            int(there.get(kind, 0) / share + 1e-9)
            for kind, share in (("CPU", self._cpus), ("GPU", num_gpus))
            if share > 0
        ]
        nodes = len(self.contexts)
        room = min(fits, default=nodes)
        wanted = self._wanted or max(1, min(room, nodes))
        if self._packs and room:
            return min(wanted, room)
        if wanted > room:
            raise ConfigError(
                f"engine.workers: {wanted} workers with num_cpus={self._cpus:g} and "
                f"num_gpus={num_gpus:g} do not fit on {there.get('CPU', 0):g} CPUs and "
                f"{there.get('GPU', 0):g} GPUs; lower one of the three"
            )
        return wanted

    def _send(self, messages: list[Message]) -> None:
        store: dict[int, tuple[ArrayRecord, Any]] = {}
        for place, message in enumerate(messages):
            refs = {}
            for name, record in message.content.array_records.items():
                mark = id(record)
                store[mark] = (
                    store.get(mark) or self._store.get(mark) or (record, self.ray.put(record))
                )
                refs[name] = store[mark][1]
            # Messages may share their content: the original must keep its arrays.
            rest = RecordDict({k: v for k, v in message.content.items() if k not in refs})
            bare = flower.same_with(message, rest)
            call = _Call(bare, refs, place)
            if call.node not in self._served:
                self._served[call.node] = next(self._turns)
            self._served[call.node].waiting.append(call)
        self._size = max([1, *(size_of(record) for record, _ in store.values())])
        if store:
            self._store = store  # holding the records keeps their ids from being reused
        self._assign()

    def _assign(self) -> None:
        """Hand queued calls to idle workers."""
        for seat in self._seats:
            waiting = sum(len(one.waiting) for one in self._seats)
            if not waiting:
                return
            if seat.busy:
                continue
            fair = waiting / (2 * len(self._seats))
            most = min(fair, self.GRAIN / self._pace, self.BULK / self._size)
            seat.calls = self._take(seat, max(1, int(most)))
            items = [(call.message, call.refs, self.contexts[call.node]) for call in seat.calls]
            seat.busy = True
            self._running[seat.actor.handle.remote(items)] = seat

    def _take(self, seat: _Seat, count: int) -> list[_Call]:
        """Take calls that wait: those of the seat's own nodes, or else what is most urgent."""
        taken: list[_Call] = []
        while len(taken) < count:
            queues = [other.waiting for other in self._seats if other.waiting]
            if not queues:
                break
            calls = first = min(queues, key=lambda queue: queue[0].place)
            own = seat.waiting
            if own and (own[0].place - first[0].place) * self._size <= self.AHEAD:
                calls = own
            taken.append(calls.popleft())
            self._served[taken[-1].node] = seat
        return taken

    def _advance(self, seconds: float) -> None:
        self._assign()
        if not self._running:
            return
        # Wake up now and then, so that Ctrl-C is never far away.
        done, _ = self.ray.wait(list(self._running), timeout=max(0.0, min(seconds, 1.0)))
        for ref in done:
            seat = self._running.pop(ref)
            calls, seat.calls, seat.busy = seat.calls, [], False
            try:
                replies = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                if not calls:
                    reason = one_line(str(error).strip().splitlines()[-1])
                    raise RunError(f"a worker does not start again ({reason})") from error
                self._replace(seat)
                self._pace = math.inf  # if they are sent again, then one by one
                reason = f"its worker died ({type(error).__name__})"
                for call in calls:
                    self._keep(Message(Error(CRASHED, reason), reply_to=call.message))
                continue
            if calls:
                self._pace = max(1e-6, fmean(seconds for _, seconds in replies))
                for reply, _ in replies:
                    self._keep(reply)
        self._assign()

    def _replace(self, seat: _Seat) -> None:
        """Put a new worker into the seat of one that is lost; it is busy until it is ready."""
        self.ray.kill(seat.actor)
        seat.actor, seat.calls = self._hire(), []
        self._start(seat)

    def _drop(self, message_ids: Collection[str]) -> None:
        for seat in self._seats:
            calls, seat.waiting = seat.waiting, deque()
            for call in calls:
                if call.message.metadata.message_id not in message_ids:
                    seat.waiting.append(call)

    def _give_up(self, message_ids: Collection[str]) -> None:
        """Replace the workers that are stuck."""
        for ref, seat in list(self._running.items()):
            if any(call.message.metadata.message_id in message_ids for call in seat.calls):
                del self._running[ref]
                self._replace(seat)


def start_ray(address: str | None) -> None:
    """Start Ray on this machine, or join the cluster at `address`.

    Raises:
        ConfigError: there is no cluster at that address, or Ray cannot start here.
    """
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        try:
            with keeping_handlers():  # Ray's own would end the process on SIGTERM
                ray.init(address="local", include_dashboard=False, **quiet)
        except Exception as error:  # processes, sockets, folders: Ray raises many kinds
            ray.shutdown()
            raise ConfigError(
                f"engine: Ray cannot start here ({one_line(str(error)) or type(error).__name__}); "
                "its sockets and logs lie in a folder of TMPDIR, whose path must be short and "
                "writable; engine=inprocess does without Ray"
            ) from error
        return
    top = Path(__file__).parents[2]
    code = {"py_modules": [str(top / package) for package in ("fedcl", "sites", "strategies")]}
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself would go on trying for many minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        with keeping_handlers():
            ray.init(address=address, runtime_env=code, **quiet)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"engine.address: no Ray cluster at {address} ({reason})") from None
