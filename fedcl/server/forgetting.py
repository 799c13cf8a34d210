"""Asking hospitals for what they have kept of a run that one of them is to be forgotten in."""

from collections.abc import Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedcl.config.schema import Config
from fedcl.errors import RunError, one_line
from fedcl.server.roster import Roster
from fedcl.server.state import State
from fedcl.wire import limits
from fedcl.wire.fields import MalformedError
from fedcl.wire.forgetting import ForgetRequest, Kept


class Hospitals:
    """Those of a deployed run.

    Args:
        grid: over which they are asked.
        config: of the run without the hospital.
        run: name of the run that had it.
        successor: name of the one without it.
    """

    def __init__(self, grid: Grid, config: Config, run: str, successor: str) -> None:
        self.grid, self.config, self.run, self.successor = grid, config, run, successor
        self.roster = Roster(grid, config.job, config.engine.timeout, config.wait, _anybody)

    def check(self, state: State) -> None:
        """Raise `RunError` where a hospital has not what it had kept by then."""
        self._holding(state, "")

    def hand_over(self, state: State) -> None:
        """Let hospitals take over what they kept; raises `RunError` where one cannot."""
        self._holding(state, self.successor)

    def _holding(self, state: State, successor: str) -> None:
        if not state.versions:
            return
        self.roster.meet(state.versions)
        nodes = {site: node for site, node in self.roster.nodes.items() if site in state.versions}
        told = self._ask(
            {
                node: ForgetRequest(self.run, successor, state.versions_at_ends(site))
                for site, node in nodes.items()
            }
        )
        for site, version in state.versions.items():
            answer = told.get(nodes.get(site, 0))
            if isinstance(answer, str):
                raise RunError(f"site {site} cannot say what it had kept of {self.run}: {answer}")
            if answer is None or answer.digests.get(version) != state.kept[site]:
                there = "is not there to say" if answer is None else "has lost"
                raise RunError(f"site {site} {there} what it had kept of {self.run}")

    def delete(self, sites: Sequence[str]) -> list[str]:
        """Let every hospital that is there delete what it has of the run; say who has, and what.

        Args:
            sites: those that took part in it.
        """
        call = ForgetRequest(self.run, delete=True)
        answers = self._ask(dict.fromkeys(self.grid.get_node_ids(), call))
        told = {one.site: one for one in answers.values() if isinstance(one, Kept)}
        lines = [
            f"{one.site} has deleted {one.deleted} files of {self.run}" for one in told.values()
        ]
        # The name of a node that cannot answer as it should may not be known.
        failed = [f"node {node}: {why}" for node, why in answers.items() if isinstance(why, str)]
        return [
            *lines,
            *failed,
            *(
                f"{site} has not said that it did: it must delete by itself what there is of "
                f"{self.run} and of received in its state folder"
                for site in sites
                if site not in told
            ),
        ]

    def _ask(self, calls: Mapping[int, ForgetRequest]) -> dict[int, Kept | str]:
        """Return what nodes answer, or why that is nothing; the silent ones are left out."""
        messages = [Message(call.pack(), node, call.TYPE) for node, call in calls.items()]
        replies = self.grid.send_and_receive(messages, timeout=self.config.engine.timeout)
        found: dict[int, Kept | str] = {}
        for reply in replies:
            try:
                answer: Kept | str = (
                    one_line(limits.told(reply.error))
                    if reply.has_error()
                    else Kept.unpack(reply.content)
                )
            except MalformedError as error:
                answer = str(error)
            found[reply.metadata.src_node_id] = answer
        return found


def _anybody(*_: object) -> None:
    """Admit whoever answers: the run will look at them."""
