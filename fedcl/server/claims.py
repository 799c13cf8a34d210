"""What a hospital has once said of itself, and what its answers must agree with."""

from collections.abc import Sequence

from fedcl.config.schema import Config
from fedcl.server.roster import Roster
from fedcl.server.state import State
from fedcl.wire.answers import Report, Scored, Update
from fedcl.wire.requests import EvaluateRequest, Request

SPLITS = {"val": "validation", "test": "test"}


class Claims:
    """Compares answers with what is declared, and with what their site has said before.

    Args:
        config: says which losses and scores there are, and what they can be.
        state: has the names of the cases that were tested before.
        roster: has the numbers of samples and cases that sites came with.
    """

    def __init__(self, config: Config, state: State, roster: Roster) -> None:
        self.job, self.roster = config.job, roster
        self._tested: dict[str, list[str]] = {}
        for scores in (state.initial or {}, *state.rows):
            for site, by_score in scores.items():
                self._tested.setdefault(site, list(next(iter(by_score.values()))))

    def problem(self, site: str, request: Request, answer: Update | Report | Scored) -> str | None:
        """Return why an answer cannot be believed, or None."""
        if isinstance(request, EvaluateRequest) and isinstance(answer, Scored):
            return self._of_scores(site, request.split, answer)
        if isinstance(answer, Scored):
            return "it sent scores that nobody has asked for"
        used = answer.samples
        if isinstance(answer, Update):
            used = max(used, answer.stored)
            foreign = sorted(answer.losses.keys() - self.job.losses(request.model))
            if foreign:
                return f"it sent the loss {foreign[0]}, which neither task nor strategy has"
        there = self.roster.samples[site]
        return f"{used} samples, it has {there}" if used > there else None

    def _of_scores(self, site: str, split: str, answer: Scored) -> str | None:
        """Return why scores cannot be believed, or None; names of new test cases are kept."""
        task = self.job.task
        names = task.scored(site)[: 1 if split == "val" else None]
        count, there = len(answer.cases), self.roster.cases[site][split]
        if answer.scores.keys() != {*names} or count != there:
            return (
                f"it sent scores of {count} {SPLITS[split]} cases, it has {there}, or other scores "
                f"than {', '.join(names)}"
            )
        for name in names:
            problem = task.ranges[name].problem(answer.scores[name])
            if problem is not None:
                return f"its {name} {problem}"
        known = self._known(site, split, answer.cases)
        if answer.cases != known:
            return f"its {SPLITS[split]} cases are not those that it came with"
        return None

    def _known(self, site: str, split: str, cases: Sequence[str]) -> Sequence[str]:
        """Return the names that cases must have: validation cases are numbered."""
        if split == "val":
            return list(map(str, range(len(cases))))
        return self._tested.setdefault(site, list(cases))
