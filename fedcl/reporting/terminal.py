"""What a person at a terminal sees: progress while it runs, a table at the end."""

from statistics import fmean

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedcl.reporting.figures import title_of
from fedcl.server.results import Results
from fedcl.tasks.metrics import class_of

FEW = 5
"""Validation cases below which a test of a loss has little power."""
MOST = 12
"""How many sites a table in a terminal has room for side by side."""
ROWS = 60
"""How many rows it may have."""
WORST = 20
"""How many sites are shown where there are more."""


def report(results: Results) -> Group:
    """Return the stage-by-site matrix and the figures of a run."""
    table = _matrix(results) if len(results.sites) <= MOST else _ends(results)
    title = (
        f"{title_of(results.score)} after each stage (* trained in it): "
        f"{results.strategy} on {results.scenario}, seed {results.seed}"
    )
    lines = [_figures(results.metrics, results)]
    if results.case == "frame":
        ends = extremes(results)
        lines += [
            f"{word} frame {number_(psnr)} dB, SSIM {number_(ssim)} ({frame})"
            for word, (frame, psnr, ssim) in ends.items()
            if word == "first" or len(set(ends.values())) > 1
        ]
    for name, one in results.architectures.items():
        if one.matrix is not None:
            seconds = fmean(one.seconds_per_case.values())
            lines.append(
                f"{name} ({', '.join(one.sites) or 'teacher only'}): "
                f"{one.parameters:,} parameters, {1000 * seconds:.1f} ms per case, "
                f"AVG at all sites {number_(one.metrics['avg'])}"
            )
    lines += released(results)
    guarantee = results.privacy
    if "epsilon" in guarantee:
        worst = max(guarantee["epsilon"].values())
        lines.append(
            f"privacy {guarantee['name']}: epsilon at most {worst:.3g} at delta "
            f"{guarantee['delta']:g} ({guarantee['neighbours']})"
        )
    single = [_classes(results)] if results.metrics_by_class and results.matrix else []
    return Group(escape(title), table, *single, *map(escape, lines))


def released(results: Results) -> list[str]:
    """Return which models were refused and which one is in use; nothing where none was judged."""
    refused = [
        f"the model of stage {stage} was refused: {verdict.reason}"
        for stage, verdict in enumerate(results.release, start=1)
        if not verdict.released
    ]
    names = [f"of stage {one.model}" if one.model else "it began with" for one in results.release]
    few = {
        site: judged.cases
        for verdict in results.release
        for site, judged in verdict.hospitals.items()
        if judged.p is not None and judged.cases < FEW
    }
    told = ", ".join(f"{site} {cases}" for site, cases in few.items())
    notes = [f"few validation cases ({told}): only large losses could be seen"] if few else []
    return refused + [f"in use: the model {name}" for name in names[-1:]] + notes


def extremes(results: Results) -> dict[str, tuple[str, float, float | None]]:
    """Return how well the first, the last and the worst frame are kept at the end of a run.

    Args:
        results: of a run that has finished a stage, as in results.json.

    Returns:
        Per word the frame, "SITE/FRAME", its PSNR and its SSIM; empty if none has a signal.
    """
    ssims = results.secondary["ssim"].cases
    frames = [
        (f"{site}/{name}", values[-1], ssims[site][name][-1])
        for site in results.sites
        for name, values in results.cases[site].items()
        if values[-1] is not None
    ]
    if not frames:
        return {}
    worst = min(frames, key=lambda frame: frame[1])
    return {"first": frames[0], "last": frames[-1], "worst": worst}


def _matrix(results: Results) -> Table:
    """Return the score of every site after every stage."""
    sites = results.sites
    table = Table()
    table.add_column("after stage")
    for site in sites:
        table.add_column(escape(site), justify="right")
    for stage, trained in enumerate(results.stages):
        cells = [_cell(results, stage, column) for column in range(len(sites))]
        table.add_row(
            str(stage + 1),
            *(
                Text(f"{cell}*", style="bold green") if site in trained else cell
                for site, cell in zip(sites, cells, strict=True)
            ),
        )
    return table


def _classes(results: Results) -> Table:
    """Return the score of each class at the end, at the sites that have one, and its figures."""
    few = results.sites if len(results.sites) <= MOST else []
    table = Table("class", title="of each class, at the end", title_justify="left")
    for name in (*few, "AVG", "BWT"):
        table.add_column(escape(name), justify="right")
    for score, figures in results.metrics_by_class.items():
        last = results.secondary[score].matrix[-1][: len(few)]
        cells = [*map(number_, last), number_(figures["avg"]), number_(figures["bwt"], "+")]
        table.add_row(str(class_of(score)), *cells)
    return table


def _ends(results: Results) -> Table:
    """Return, for more sites than fit a terminal, a row each: when last trained, and at the end."""
    table = Table("site", "last trained in", "score then*", "at the end")
    last, cohorts = len(results.matrix) - 1, [set(trained) for trained in results.stages]
    shown = list(enumerate(results.sites))
    if len(shown) > ROWS:
        final = results.matrix[-1]
        order = sorted((v, column) for column, v in enumerate(final) if v is not None)
        shown = [(column, results.sites[column]) for _, column in order[:WORST]]
        table.caption = f"the {WORST} worst of {len(final)} sites; results.json has all"
    for column, site in shown:
        stages = [t for t, trained in enumerate(cohorts) if site in trained]
        then = (str(stages[-1] + 1), _cell(results, stages[-1], column)) if stages else ("-", "-")
        table.add_row(escape(site), *then, _cell(results, last, column))
    return table


def _cell(results: Results, stage: int, column: int) -> str:
    """Return a site's score after a stage: by which runs are judged, or else the one it has."""
    value = results.matrix[stage][column]
    if value is None:
        for score, other in results.secondary.items():
            if other.matrix[stage][column] is not None:
                return f"{title_of(score)} {number_(other.matrix[stage][column])}"
    return number_(value)


def _figures(metrics: dict[str, float | None], results: Results) -> str:
    final = [
        (v, s) for s, v in zip(results.sites, results.matrix[-1], strict=True) if v is not None
    ]
    worst = f" ({min(final)[1]})" if final else ""
    return (
        f"AVG {number_(metrics['avg'])}   BWT {number_(metrics['bwt'], '+')}   "
        f"FWT {number_(metrics['fwt'], '+')}   forgetting {number_(metrics['forgetting'])}   "
        f"worst site {number_(metrics['worst_site'])}{worst}"
    )


def number_(value: float | None, sign: str = "") -> str:
    """Return `value` with three decimals, or a dash."""
    return "-" if value is None else format(value, f"{sign}.3f")
