"""What came of a run, as its card tells it: scores, failures, privacy, limits. Markdown."""

from collections import Counter
from collections.abc import Sequence

from fedcl.release.known import Known, Mark, arrived, known
from fedcl.release.markdown import listed, table, text
from fedcl.release.names import Names
from fedcl.server.metrics import title_of
from fedcl.server.results import Results

ABSENT = "not evaluated"
MOST = 20
"""How many failures are told one by one."""
WARNING = (
    "**Not a medical device.** It is for research; nobody may be diagnosed or treated by what it "
    "says."
)
READING = (
    "The interval (Student's t over the cases) tells what other cases of the same hospital might "
    "do, not what another hospital's would. Forgotten is the best mean after an earlier stage less "
    "the mean now."
)
WHAT = {
    "update": "its update",
    "validation": "its validation",
    "test": "its test",
    "report": "what it was to report",
    "arrival": "its arrival",
}
"""What was lost, by the words of `failures`."""


def scores(
    results: Results, number: int, model: str | None, chosen: Sequence[str], names: Names
) -> dict[str, str]:
    """Return a section of scores of the run, or one of every architecture."""
    several = [name for name in chosen if results.architectures[name].matrix is not None]
    found: dict[str, str] = {}
    if model is None or not several:
        found["How well it does"] = _scored(results, known(results, number), names)
    for name in several:
        title = f"How well {text(name)} does, at all hospitals"
        found[title] = _scored(results, known(results, number, name), names)
    first = next(iter(found))
    return {**found, first: f"{found[first]}\n\n{READING}"}


def _scored(results: Results, now: Known, names: Names) -> str:
    """Return tables of every hospital's scores."""
    score, frames = title_of(results.score), results.case == "frame"
    head = [
        "hospital", f"{score} (95 % interval)", f"test {results.case}s", "last trained in stage",
        "best after an earlier stage", "forgotten",
    ]  # fmt: skip
    rows = [[names.cell(site), *_marked(mark, now.stage)] for site, mark in now.marks.items()]
    figures = now.figures
    worst = [s for s, m in now.marks.items() if m.mean is not None]
    worst.sort(key=lambda site: now.marks[site].mean or 0.0)
    which = f" ({names.cell(worst[0])})" if worst and figures.get("worst_site") is not None else ""
    parts = [
        f"After stage {now.stage}, on "
        + ("the very frames that were trained on." if frames else "test cases never trained on")
        + ("" if frames else " in this run." if results.begun else "."),
        table(head, rows),
        listed(
            [
                f"AVG, the mean over hospitals: {_number(figures.get('avg'))}",
                f"BWT, how much better earlier hospitals are served now than when they trained: "
                f"{_number(figures.get('bwt'), '+')}",
                f"Forgetting, mean over earlier hospitals: {_number(figures.get('forgetting'))}",
                f"Worst hospital: {_number(figures.get('worst_site'))}{which}",
            ]
        ),
    ]
    shown = [name for name in now.others if not name.rpartition("_")[2].isdigit()]
    if shown:
        rows = [
            [names.cell(site), *(_number(now.others[name][site]) for name in shown)]
            for site in now.sites
        ]
        parts.append(table(["hospital", *map(text, shown)], rows))
    return "\n\n".join(parts)


def _marked(mark: Mark, stage: int) -> list[str]:
    """Return the cells of one hospital's scores."""
    within = ""
    if mark.mean is not None:
        ends = mark.interval
        within = f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else " (one case, no interval)"
    lost = _number(mark.forgotten, "+")
    if not mark.trained or mark.trained[0] == stage:
        lost = "new in this stage" if mark.trained else "it has not trained"
    return [
        f"{_number(mark.mean)}{within}",
        str(mark.cases),
        str(mark.trained[-1]) if mark.trained else "never",
        _number(mark.best) if stage > 1 else "there is none",
        lost,
    ]


def failures(results: Results, number: int, names: Names) -> str:
    """Which answers were lost or refused."""
    lines, done = [], len(results.matrix)
    if not results.completed and number == done:
        why = f" ({names.text(results.reason)})" if results.reason else ""
        ended = f"{text(results.status)} after {counted(done, 'finished stage')}{why}"
        lines.append(f"The run is not complete: it ended as {ended}")
    for stage, verdict in enumerate(results.release[:number], 1):
        if not verdict.released:
            lines.append(
                f"The model that stage {stage} had taught was refused by the release gate: "
                f"{names.text(verdict.reason)}"
            )
    lost = [one for one in results.failures if one["stage"] <= number]
    for one in lost[:MOST]:
        what = WHAT.get(one["what"], text(one["what"]))
        when = f"stage {one['stage']}, round {one['round']}"
        said = names.text(one["reason"])
        lines.append(f"{names.cell(one['site'])}, {when}: {what} was lost or refused ({said})")
    if len(lost) > MOST:
        rest = Counter(one["site"] for one in lost[MOST:])
        told = ", ".join(f"{names.cell(site)} {count}" for site, count in rest.items())
        lines.append(f"and {len(lost) - MOST} more: {told}")
    return listed(lines or ["Nothing: every answer that was asked for came."])


GUARANTEES = {
    "updates": ("a hospital took part", "the model", "It protects hospitals as wholes"),
    "reports": (
        "a patient is among those of a report",
        "what hospitals report besides weights",
        "From weights and scores, which bear no noise, something may be learned of patients",
    ),
}
"""By what a rule covers: what neighbours differ in, of what little is seen, and what that means."""


def privacy(results: Results, number: int, names: Names) -> str:
    """What is guaranteed, if anything."""
    rule = results.privacy
    lines = [f"What left a hospital: {text(rule.get('leaves') or 'not recorded')}"]
    if "epsilon" not in rule:
        lines.append(
            "There is **no guarantee** of privacy: from weights and scores something may be "
            "learned of the patients that they were trained on"
        )
        return listed(lines)
    who, seen, protected = GUARANTEES[rule.get("covers", "updates")]
    lines.append(
        f"Guarantee ({text(rule['name'])}, {text(rule['neighbours'])}): whether or not {who} "
        f"changes the probability of whatever is seen of {seen} by a factor of at "
        f"most e to the power of epsilon, but for a probability of {rule['delta']:g}. {protected}; "
        "an epsilon of more than about 10 promises little"
    )
    whole = " (after the whole run; after this stage it was no more)"
    later = whole * (number < len(results.arrivals or results.matrix))
    lines += [
        f"{names.cell(site)}: epsilon {rule['epsilon'][site]:.3g}{later}"
        for site in arrived(results, number)
        if site in rule["epsilon"]
    ]
    return listed(lines)


def limits(results: Results, number: int, names: Names) -> str:
    """What nobody knows of the model."""
    marks = known(results, number).marks
    bare = [site for site, mark in marks.items() if mark.mean is None]
    tested = [site for site in marks if site not in bare]
    lines = [
        f"It was tested at {counted(len(tested), 'hospital')} alone, all listed above. How it does "
        "at any other, on other scanners, protocols, patients or diseases, is not known",
        "It is one run with one seed: training again would give another model",
    ]
    if results.begun:
        lines.append(
            "What the weights that it began from had been trained on is not known here: test cases "
            "may be among it"
        )
    if bare:
        lines.append(f"Not evaluated at all on images of {names.some(bare)}")
    if results.case != "frame":
        lines.append("Scores are against the hospitals' own labels, whose errors are not known")
    else:
        lines.append("The weights of a field are a picture of the patient: who has them has it")
    return listed([*lines, WARNING])


def counted(number: int, word: str) -> str:
    """Return how many of something there are."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _number(value: float | None, sign: str = "") -> str:
    return ABSENT if value is None else format(value, f"{sign}.3f")
