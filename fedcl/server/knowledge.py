"""What hospitals are sent along with the global weights: a teacher, and what is remembered."""

from collections.abc import Mapping

from flwr.app import ArrayRecord

from fedcl import arrays
from fedcl.config.job import Role
from fedcl.learning.strategy import Teaching
from fedcl.server.architecture import Architecture
from fedcl.server.state import State
from fedcl.wire import records


class Knowledge:
    """What is known from before, in one stage; grids share records that are the same.

    Args:
        teaching: which model teaches, if any.
        state: of the run; its teacher moves on by `advance`.
        architectures: by name.
        stage: counted from 0.
    """

    def __init__(
        self,
        teaching: Teaching | None,
        state: State,
        architectures: Mapping[str, Architecture],
        stage: int,
    ) -> None:
        self.teaching, self.state, self.architectures = teaching, state, architectures
        self.stage = stage
        self._sent: dict[tuple[str, str], tuple[arrays.Arrays, ArrayRecord | None]] = {}

    def memory(self, model: str) -> ArrayRecord | None:
        """Return what the server remembers of earlier stages for an architecture."""
        return self._record("memory", model, self.state.memory)

    def teacher(self, role: Role) -> ArrayRecord | None:
        """Return who teaches a site, or None where there is no teacher yet.

        That is somebody trained: before the run, in an earlier stage, or, of another
        architecture than the site's and not kept for a stage, in an earlier round.
        """
        teaching = self.teaching
        if teaching is None or role.teacher is None or teaching.at_server:
            return None
        if teaching.changes == "never":
            return self._record("teacher", role.teacher, self.state.teacher)
        this = role.teacher != role.model and teaching.refresh != "stage"
        trained = self._has_trained(role.teacher, self.stage if this else self.stage - 1)
        if not trained and not self.state.begun.get(role.teacher, {}).get("teaches"):
            return None
        source = self.state.weights if teaching.refresh == "round" else self.state.teacher
        return self._record("teacher", role.teacher, source)

    @property
    def staying(self) -> list[str]:
        """What is the same in all rounds of a stage, so that sites may keep it."""
        stays = self.teaching is not None and self.teaching.changes in ("stage", "never")
        return ["memory"] + ["teacher"] * stays

    def advance(self) -> None:
        """Move the teacher on after a round, where it is an average over rounds."""
        if self.teaching is None or self.teaching.changes != "ema":
            return
        old, self.state.teacher = self.state.teacher, {}
        for one in self.architectures.values():
            if self._has_trained(one.name, self.stage):
                now = one.part(self.state.weights)
                mean = _moving_average(one.part(old), now, self.teaching.decay)
                self.state.teacher |= one.whole(mean)
            else:  # what it began with, where that teaches
                self.state.teacher |= one.whole(one.part(old))

    def _has_trained(self, architecture: str, stage: int) -> bool:
        """Return whether a site has trained an architecture by `stage`."""
        sites = self.architectures[architecture].sites
        return any(site in sites for known in self.state.trained[: stage + 1] for site in known)

    def _record(self, what: str, architecture: str, source: arrays.Arrays) -> ArrayRecord | None:
        """Return a part of `source`, the same record while that is the same."""
        key = what, architecture
        if key not in self._sent or self._sent[key][0] is not source:
            part = self.architectures[architecture].part(source)
            self._sent[key] = source, records.to_record(part) if part else None
        return self._sent[key][1]


def _moving_average(old: arrays.Arrays, new: arrays.Arrays, decay: float) -> arrays.Arrays:
    """Return decay * old + (1 - decay) * new, or `new` where there is no old one."""
    if not old or decay == 0:
        return new
    return arrays.weighted_mean([old, new], [decay, 1 - decay])
