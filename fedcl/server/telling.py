"""What a run's log says of it."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from fedcl.config.schema import Config
from fedcl.server.events import Round, Watcher
from fedcl.server.outcome import outcome
from fedcl.server.state import State

log = logging.getLogger("fedcl")


class Log(Watcher):
    """Writes rounds and stages into the run's log."""

    def __init__(self, config: Config) -> None:
        self.task = config.job.task

    def round_done(self, done: Round, state: State) -> None:
        """Write the validation scores."""
        scores = {
            f"{site} {self.task.scored(site)[0]}": value for site, value in done.validation.items()
        }
        words = done.stage + 1, done.number, _in_words(scores)
        log.info("stage %d, round %d: validation %s", *words)

    def stage_done(self, config: Config, state: State) -> None:
        """Write the figures of the run so far."""
        log.info("stage %d done: %s", state.stage, _in_words(outcome(config, state).metrics))


def tell_notes(config: Config, state: State, sites: Iterable[str]) -> None:
    """Say what was left out, guessed or changed in reading the data of some sites."""
    for name, value in state.settled.items():
        told = "scenario.%s: %s, the median over the sites of the first stage"
        log.warning(told, name, value)
    state.left_out = config.job.scenario.left_out()
    state.from_data = config.job.scenario.from_data()
    for line in state.left_out:
        log.warning("%s", line)
    notes: dict[str, list[str]] = {}
    for site in sites:
        state.notes[site] += _padded_otherwise(state.samples, site)
        for note in state.notes[site]:
            notes.setdefault(note, []).append(site)
    for note, whose in notes.items():
        log.warning("site%s %s: %s", "s" * (len(whose) > 1), ", ".join(whose), note)


def _padded_otherwise(samples: Mapping[str, Sequence[int]], site: str) -> list[str]:
    """Return a note where others, or the pool, train on larger samples than a site."""
    shape = samples[site]
    # A hospital may claim samples of another kind, and must not end the run by it.
    comparable = [one for one in samples.values() if len(one) == len(shape)]
    largest = [max(sizes) for sizes in zip(*comparable, strict=True)]
    if list(shape) == largest:
        return []
    own, most = ("x".join(map(str, sizes[1:])) for sizes in (shape, largest))
    return [
        f"samples of {own}, elsewhere up to {most}: networks that normalise over an image see "
        "how much of it is padding; scenario.size makes them alike"
    ]


def tell_chosen(state: State) -> None:
    """Say which round's weights the stage ended with."""
    if state.best:
        words = state.stage, state.best_round, state.best_score
        log.info("stage %d ends with the weights of round %d (validation %.3f)", *words)
    else:
        log.warning(
            "stage %d ends with its last round: in none did the whole cohort validate, so that "
            "learner.keep=best_round could compare none",
            state.stage,
        )


def _in_words(values: Mapping[str, float | None]) -> str:
    return ", ".join(
        f"{name} {'-' if value is None else format(value, '.3f')}" for name, value in values.items()
    )
