"""Taking a round back that one site has spoilt for all."""

from statistics import fmean

from fedcl.server.checkpoint import Checkpoint
from fedcl.server.collapse import CollapseError
from fedcl.server.state import Scores, State
from fedcl.tasks.base import Task

MOVED = (
    "weights", "teacher", "momentum", "round", "trained", "versions", "kept", "stored", "changes",
    "validation",
)  # fmt: skip
"""What of a state is another one after a round."""


def take_back(state: State, checkpoint: Checkpoint, spoilt: CollapseError) -> bool:
    """Bring a run back to before a round, and leave out who spoilt it for the rest of the stage.

    What the run has cost and what went wrong stays written down; what a site weighed in a round
    that does not count does not.

    Returns:
        Whether it could be done: not where the round is of an earlier stage, or the snapshot before
        it is not there any more.
    """
    before = checkpoint.before(spoilt.round)
    if before is None or before.stage != state.stage:
        return False
    for name in MOVED:
        setattr(state, name, getattr(before, name))
    state.ledger.shares = before.ledger.shares
    state.tries = before.tries + 1
    state.best, state.best_score = {}, None  # of other sites than those that are left
    if spoilt.site not in state.shut_out:
        state.shut_out.append(spoilt.site)
    reason = f"taken back, and the site left out for the rest of the stage: {spoilt}"
    state.ledger.fail(spoilt.site, state.stage, spoilt.round, "round", reason)
    return True


def means(task: Task, scores: Scores) -> dict[str, float]:
    """Return each site's mean over cases of the score that it is judged by."""
    return {site: fmean(own[task.scored(site)[0]].values()) for site, own in scores.items()}
