"""What a run's log says of it."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from fedcl.config.groups import DECIDING
from fedcl.config.schema import Config
from fedcl.errors import some_of
from fedcl.server.events import Round, Watcher
from fedcl.server.outcome import figures
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
        log.info(
            "stage %d done: %s", state.stage, _in_words(figures(config, state, self.task.scores[0]))
        )


def tell_changes(config: Config, state: State) -> None:
    """Write down what decides whose updates make a round, where that was changed on the way."""
    now = {name: getattr(config.engine, name) for name in DECIDING}
    for name, value in now.items():
        before = state.deciding.get(name, value)
        if before != value:
            log.warning("engine.%s: %s from here on, %s until now", name, value, before)
            change = {"setting": f"engine.{name}", "from": before, "to": value}
            state.changed.append({"round": state.round, **change})
    state.deciding = now


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
    padded = padded_otherwise(state.samples)
    for site in sites:
        state.notes[site] += padded[site]
        for note in state.notes[site]:
            notes.setdefault(note, []).append(site)
    for note, whose in notes.items():
        log.warning("%s %s: %s", "site" if len(whose) == 1 else "sites", some_of(whose), note)


def _largest(samples: Mapping[str, Sequence[int]]) -> dict[int, list[int]]:
    """Return the largest size of samples along each axis, by how many axes they have.

    A hospital may claim samples of another kind, and must not end the run by it.
    """
    largest: dict[int, list[int]] = {}
    for shape in samples.values():
        known = largest.get(len(shape), list(shape))
        largest[len(shape)] = [max(sizes) for sizes in zip(known, shape, strict=True)]
    return largest


def padded_otherwise(samples: Mapping[str, Sequence[int]]) -> dict[str, list[str]]:
    """Return, for every site, a note where others, or the pool, train on larger samples.

    Args:
        samples: of every site, the shape of what its network is shown.
    """
    largest, notes = _largest(samples), {}
    for site, shape in samples.items():
        own, most = ("x".join(map(str, sizes[1:])) for sizes in (shape, largest[len(shape)]))
        note = (
            f"samples of {own}, elsewhere up to {most}: networks that normalise over an image see "
            "how much of it is padding; scenario.size makes them alike"
        )
        notes[site] = [] if own == most else [note]
    return notes


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
    told = (f"{name} {'-' if one is None else format(one, '.3f')}" for name, one in values.items())
    return some_of(told, most=50)
