"""The model card of a run: what its model is, who trained it on what, and how well it does."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fedcl.config.groups import DEPLOYED
from fedcl.data.intensities import CLIPPED, PERCENTILES
from fedcl.errors import ConfigError
from fedcl.learning.learner import Learner
from fedcl.learning.strategy import Strategy, Teaching
from fedcl.registry import STRATEGY
from fedcl.release.described import scenario_of
from fedcl.release.findings import ABSENT, WARNING, counted, failures, limits, privacy, scores
from fedcl.release.known import arrived, stage_of
from fedcl.release.markdown import listed, table, text
from fedcl.release.names import Names
from fedcl.server.begin import in_words
from fedcl.server.results import Results
from fedcl.settings import flat, without_effect
from fedcl.tasks.field import Field
from fedcl.tasks.segmentation import Segmentation

UNSTATED = "not stated"
WAYS = {
    "zscore": "any: every image is brought to mean 0 and standard deviation 1",
    "minmax": "any: the least and the greatest value of every image become 0 and 1",
    "minmax_clipped": "any: the least and the greatest value of every image become 0 and 1, then "
    "what lies beyond {} and {} is cut".format(*CLIPPED),
    "percentile": "any: the percentiles {} and {} of every image become 0 and 1".format(
        *PERCENTILES
    ),
    "none": "as the hospitals' images had them: nothing is done to intensities",
}
TEACHERS = {
    "stage": "the global model of the stage before",
    "round": "the global model of the round before",
    "ema": "a moving average of the global models of earlier rounds",
    "never": "a model trained before, the same in all stages",
}


def card(
    results: Results,
    values: Mapping[str, Any],
    *,
    hidden: bool = False,
    stage: int | None = None,
    model: str | None = None,
    command: Sequence[str] | None = None,
    sha256: str | None = None,
) -> str:
    """Return the card of a model, in Markdown.

    It tells what was known after the stage and nothing that came later; what was not measured is
    said to be so.

    Args:
        results: of the run.
        values: its configuration.
        hidden: whether hospitals are numbered in order of arrival, instead of named.
        stage: after which, counted from 1; None for the last one finished.
        model: which of several architectures; None for all of them.
        command: the overrides that the run can be made with again; see `fedcl.release.overrides`.
        sha256: digest of the stage's weights, where the caller has read them.

    Raises:
        ConfigError, DataError: there is no such stage or architecture, or a plug-in is missing.
    """
    number = stage_of(results, stage)
    names = Names(results.sites, hidden)
    there = list(results.architectures)
    if model is not None and model not in there:
        raise ConfigError(f"--model: there is no {model!r}; there are: {', '.join(there)}")
    chosen = there if model is None else [model]
    called = " and ".join(chosen) or results.model
    title = f"{called}, trained on {results.scenario} with {results.strategy}"
    sections = {
        "Intended use": _use(values, names),
        "What it is": _model(results, number, values, chosen, names),
        "Who trained it": _training(results, number, names),
        "Data": _data(results, number, names),
        "How it was trained": _learning(results, values, names),
        **scores(results, number, model, chosen, names),
        "What went wrong": failures(results, number, names),
        "Privacy": privacy(results, number, names),
        "Limits": limits(results, number, names),
        "How to reproduce it": _again(results, number, names, command, sha256),
    }
    parts = [f"# {names.text(title)}", WARNING]
    for heading, body in sections.items():
        parts += [f"## {heading}", body]
    return "\n\n".join(parts) + "\n"


def _use(values: Mapping[str, Any], names: Names) -> str:
    release = values.get("release") or {}
    return listed(
        [
            f"Intended use: {names.text(release.get('intended_use') or UNSTATED)}",
            f"Licence: {names.text(release.get('licence') or UNSTATED)}",
        ]
    )


def _model(
    results: Results, number: int, values: Mapping[str, Any], chosen: Sequence[str], names: Names
) -> str:
    """What the model takes and what it says."""
    scenario = scenario_of(values, results)
    task = scenario.task
    lines = [f"Task: {text(task.words)}, from scenario {text(results.scenario)}"]
    if isinstance(task, Segmentation):
        groups = getattr(scenario, "labels", None) or [*range(task.classes)]
        called = [" or ".join(map(str, g if isinstance(g, list) else [g])) for g in groups]
        classes = [text(one) if n else f"{text(one)} (background)" for n, one in enumerate(called)]
        lines += [
            f"Classes, by the values of masks: {', '.join(classes)}",
            f"Input: {task.dims}-D images of {counted(task.channels, 'channel')}",
            f"Spacing: {text(_spacing(scenario, results))}",
            f"Intensities: {text(_intensities(scenario))}",
        ]
        shapes = [results.samples.get(site) for site in arrived(results, number)]
        shown = {"x".join(map(str, shape)) for shape in shapes if shape is not None}
        lines += [f"Samples (channels first): {', '.join(sorted(shown))}"] if shown else []
    if isinstance(task, Field):
        lines.append(f"Outputs: {names.text(', '.join(task.names))}")
    for name in chosen:
        one = results.architectures.get(name)
        if one is not None and one.parameters:
            whose = (
                f", trained by {names.some(one.sites)}" if len(results.architectures) > 1 else ""
            )
            size = f"{one.parameters:,} parameters, {one.macs:,} multiply-accumulates per sample"
            lines.append(f"Network {text(name)}: {text(one.model)}, {size}{whose}")
    return listed(lines)


def _spacing(scenario: Any, results: Results) -> str:
    """To how large voxels images are brought."""
    given = getattr(scenario, "spacing", None)
    if given is None:
        size = getattr(scenario, "resize", None)
        stretched = f"images are stretched to {size} pixels, whatever their spacing"
        return stretched if size else "as the images have it: nothing is resampled"
    measured = ", the median over the hospitals of the first stage"
    return f"brought to {given} mm" + measured * ("scenario.spacing" in results.settled)


def _intensities(scenario: Any) -> str:
    """What is done to intensities, and so which are expected."""
    given = getattr(scenario, "normalise", None)
    if given is None:
        return "as the scenario makes them"
    low, high = scenario.window
    ways = WAYS | {
        "window": f"{low:g} to {high:g} become -1 and 1, beyond is clipped (of CT, in HU)",
        "auto": f"of channels that the data call CT, {low:g} to {high:g} become -1 and 1; of "
        "others, every image is brought to mean 0 and standard deviation 1",
    }
    several = given if isinstance(given, list) else [given]
    if len(several) == 1:
        return ways[several[0]]
    return "; ".join(f"channel {n}: {ways[one]}" for n, one in enumerate(several, 1))


def _training(results: Results, number: int, names: Names) -> str:
    """Which hospitals trained in which rounds."""
    per, rows = results.rounds_per_stage, []
    for stage, trained in enumerate(results.stages[:number]):
        new = results.arrivals[stage] if results.arrivals else []
        rounds = f"{stage * per + 1} to {(stage + 1) * per}" if per else "not recorded"
        ends = str(results.chosen[stage]) if stage < len(results.chosen) else "not recorded"
        rows.append([str(stage + 1), rounds, names.some(new), names.some(trained), ends])
    head = ["stage", "rounds", "arrived", "trained", "weights of round"]
    pooled = (
        "\n\nAll cases were pooled in one place: this was no federation."
        if results.centralised
        else ""
    )
    return table(head, rows) + pooled


def _data(results: Results, number: int, names: Names) -> str:
    """What each hospital held."""
    rows = []
    for site in arrived(results, number):
        digest = results.data_sha256.get(site)
        cases = str(len(results.cases.get(site, {}))) if results.cases.get(site) else ABSENT
        rows.append([names.cell(site), cases, f"`{digest}`" if digest else "not recorded"])
    told = [
        f"{names.cell(site)}: {names.text(_nameless(note))}"
        for site in arrived(results, number)
        for note in results.notes.get(site, [])
    ]
    parts = [table(["hospital", f"test {results.case}s", "SHA-256 of its data"], rows)]
    parts.append("Left out, guessed, clipped or changed in reading them:")
    parts.append(listed(told or ["nothing that was noted"]))
    if results.left_out:
        count = counted(len(results.left_out), "sentence")
        parts.append(f"Data of no hospital were left out; `left_out` in results.json has {count}.")
    return "\n\n".join(parts)


def _nameless(note: str) -> str:
    """Return a note without the names of files and cases, but with their number."""
    what = re.split(r"(?<!/): ", note)[0]
    count = re.search(r" \(\d+\)$", note)
    return what if count is None or what == note else what + count[0]


def _teacher(teaching: Teaching | None) -> str:
    """Who teaches."""
    if teaching is None:
        return "none"
    beside = f", beside it {TEACHERS['round']} (weight {teaching.drift:g})"
    return TEACHERS[teaching.changes] + beside * bool(teaching.drift)


def _learning(results: Results, values: Mapping[str, Any], names: Names) -> str:
    """By which method."""
    strategy: Strategy = STRATEGY.make(values["strategy"])
    teaching = strategy.teaching
    lines = [
        f"Strategy: {_settings(values, 'strategy', names)}",
        f"Teacher: {_teacher(teaching)}",
        f"Aggregation: {_settings(values, 'aggregation', names)}",
        f"Training at a hospital, per round: {_settings(values, 'learner', names)}",
        *(
            f"{key.capitalize()}: {_settings(values, key, names)}"
            for key in ("optimiser", "schedule", "augment", "privacy")
            if values.get(key)
        ),
    ]
    if results.teacher_sha256:
        lines.append(f"The teacher's weights: SHA-256 `{results.teacher_sha256}`")
    for name, told in results.begun.items():
        lines += [names.text(line) for line in in_words(name, told)]
        lines.append(f"These weights of {text(name)}: SHA-256 `{text(told['sha256'])}`")
    if not results.begun:
        lines.append("Begun from weights drawn at random")
    return listed(lines)


def _settings(values: Mapping[str, Any], group: str, names: Names) -> str:
    """Return a group's name and settings."""
    every = flat(values.get(group) or {})
    told = {key: value for key, value in every if not key.endswith(("file", "seed"))}
    name = told.pop("name", "")
    if group == "learner":
        idle = [*without_effect(Learner()), *(["epochs"] if told.get("steps") else [])]
        told = {key: value for key, value in told.items() if key not in idle}
    given = ", ".join(f"{key}={value}" for key, value in told.items() if value is not None)
    return names.text(f"{name} ({given})" if name and given else name or given or UNSTATED)


def _again(
    results: Results,
    number: int,
    names: Names,
    command: Sequence[str] | None,
    sha256: str | None,
) -> str:
    """With what the run can be made again, and how to know the weights."""
    whole = results.completed and number == len(results.matrix)
    digest = sha256 or (results.weights_sha256 if whole else "")
    kept = f"`{text(digest)}`" if digest else "not recorded for this stage"
    lines = [
        f"Weights, SHA-256 of the arrays in the order of their names: {kept}",
        f"Seed: {results.seed}; engine: {text(results.engine or UNSTATED)}",
        "Versions: " + (", ".join(f"{text(k)} {text(v)}" for k, v in results.versions.items()))
        if results.versions
        else "Versions: not recorded",
    ]
    if command is None:
        return listed([*lines, "Settings: `config.yaml` in the run's folder"])
    code = names.code(["python simulate.py", *command])
    parts = [listed(lines), code]
    if results.engine == DEPLOYED:
        parts.append(
            "Hospitals ran it, where the data lie; a simulation needs `scenario.root` as well."
        )
    for one in results.changed:
        parts.append(
            f"The command alone does not make these weights: `{text(one['setting'])}` was "
            f"{text(one['from'])} up to round {one['round']}, {text(one['to'])} from there on."
        )
    if any(one.endswith("=...") for one in command):
        parts.append("Where `...` stands, what is meant is its hospitals' alone.")
    if not whole:
        parts.append(f"The model is that after stage {number}.")
    return "\n\n".join(parts)
