"""The report: one HTML page with everything in it, drawn by plotly in the reader's browser."""

import base64
import json
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from fedcl.analysis import architectures, classes
from fedcl.analysis.architectures import Row
from fedcl.analysis.runs import METHOD, Group, Run
from fedcl.analysis.statistics import Line, by_seed, cases
from fedcl.analysis.tables import COLUMNS
from fedcl.reporting.figures import COLOURS, title_of
from fedcl.reporting.terminal import released
from fedcl.server.results import Results
from fedcl.tasks.metrics import class_of

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagram")


def report(
    lines: Sequence[Line],
    groups: Sequence[Group],
    reference: str,
    notes: Sequence[str],
    models: Sequence[Row] = (),
    alone: str = "",
    single: Sequence[classes.Row] = (),
) -> str:
    """Return the page.

    Args:
        lines: the table, best first.
        groups: the runs behind it.
        reference: the method that others were tested against.
        notes: what a reader should know of the runs.
        models: the table of architectures, where there are several.
        alone: what they are tested against.
        single: the table of classes, where there are several.
    """
    by_name = {group.name: group for group in groups}
    ranked = [by_name[line.name] for line in lines]
    first = ranked[0].runs[0].results
    looks = {group.name: _look(number) for number, group in enumerate(ranked)}
    figures = {
        "ranking": _ranking(lines, looks),
        "curves": _curves(ranked, looks),
        "sites": _sites(ranked, looks),
        "costs": _costs(lines, looks),
    }
    environment = Environment(
        loader=PackageLoader("fedcl.analysis", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the ranking's order
    return environment.get_template("report.html").render(
        plotly=get_plotlyjs(),
        scenario=first.scenario,
        score=title_of(first.score),
        case=first.case,
        reference=reference,
        notes=notes,
        columns=COLUMNS,
        lines=lines,
        model_columns=architectures.COLUMNS,
        models=models,
        alone=alone,
        class_columns=classes.COLUMNS,
        single=single,
        figures={name: json.loads(figure.to_json()) for name, figure in figures.items()},
        matrices={title_of(first.score): _matrices(ranked)}
        | {
            f"{title_of(first.score)} of class {class_of(name)}": _matrices(
                classes.by(ranked, name)
            )
            for name in classes.names(ranked)
        },
        cases=_cases(ranked),
        symbols=SYMBOLS,
        colours=COLOURS,
        settings=_settings(ranked),
        releases=[
            (f"{group.name}, seed {run.results.seed}", line)
            for group in ranked
            for run in group.runs
            for line in released(run.results)
        ],
        overlays=[
            (f"{group.name}, seed {run.results.seed}", base64.b64encode(run.overlay).decode())
            for group in ranked
            for run in group.runs[:1]
            if run.overlay is not None
        ],
    )


def _look(number: int) -> dict[str, str]:
    """Return colour, dash and symbol of a method: told apart by shape as well as by colour."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "dash": DASHES[number % len(DASHES)],
        "symbol": SYMBOLS[number % len(SYMBOLS)],
    }


def _marker(look: dict[str, str], size: int = 11) -> dict[str, Any]:
    return {"color": look["color"], "symbol": look["symbol"], "size": size}


def _ranking(lines: Sequence[Line], looks: dict[str, dict[str, str]]) -> go.Figure:
    """AVG with its interval, or with the standard deviation where there is none."""
    figure = go.Figure()
    for line in lines:
        avg = line.mean["avg"] or 0.0
        low, high = line.interval or (avg - (line.std["avg"] or 0), avg + (line.std["avg"] or 0))
        figure.add_scatter(
            x=[avg],
            y=[line.name],
            name=line.name,
            mode="markers",
            marker=_marker(looks[line.name]),
            error_x={"type": "data", "array": [high - avg], "arrayminus": [avg - low]},
            showlegend=False,
        )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(title="AVG")
    return _sized(figure, 140 + 28 * len(lines))


def _curves(groups: Sequence[Group], looks: dict[str, dict[str, str]]) -> go.Figure:
    """Mean score over stages: of the sites seen so far, and of the first stage's sites."""
    titles = ("sites seen so far", "sites of the first stage")
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, subplot_titles=titles)
    for group in groups:
        look = looks[group.name]
        for column in (1, 2):
            series = [_series(run, only_first=column == 2) for run in group.runs]
            stages = range(1, min(map(len, series)) + 1)
            known = [_known(group.runs, [s[t - 1] for s in series]) for t in stages]
            x = [t for t, (_, values) in zip(stages, known, strict=True) if values]
            mean = [by_seed(runs, values) for runs, values in known if values]
            spread = [_spread(values) for _, values in known if values]
            common: dict[str, Any] = {"legendgroup": group.name, "row": 1, "col": column}
            figure.add_scatter(
                x=x + x[::-1],
                y=[m + s for m, s in zip(mean, spread, strict=True)]
                + [m - s for m, s in zip(mean, spread, strict=True)][::-1],
                fill="toself",
                fillcolor=look["color"],
                opacity=0.12,
                mode="lines",
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **common,
            )
            figure.add_scatter(
                x=x,
                y=mean,
                name=group.name,
                mode="lines+markers",
                line={"color": look["color"], "dash": look["dash"]},
                marker=_marker(look, 8),
                showlegend=column == 1,
                **common,
            )
    figure.update_xaxes(title="after stage", dtick=1)
    return _sized(figure, 420)


def _series(run: Run, only_first: bool) -> list[float | None]:
    """Return, after every stage, the mean score of the sites seen or of the first ones."""
    arrivals, sites = run.results.arrivals, run.results.sites
    means: list[float | None] = []
    for stage, row in enumerate(run.results.matrix):
        last = 1 if only_first else stage + 1
        seen = {site for cohort in arrivals[:last] for site in cohort}
        values = [v for site, v in zip(sites, row, strict=True) if site in seen and v is not None]
        means.append(fmean(values) if values else None)
    return means


def _known(runs: Sequence[Run], values: Sequence[float | None]) -> tuple[list[Run], list[float]]:
    """Return the runs that have a value, and these."""
    found = [(run, v) for run, v in zip(runs, values, strict=True) if v is not None]
    return [run for run, _ in found], [v for _, v in found]


def _sites(groups: Sequence[Group], looks: dict[str, dict[str, str]]) -> go.Figure:
    """The last row site by site, and how fair it is."""
    figure = make_subplots(rows=1, cols=2, subplot_titles=("last row, by site", "fairness"))
    every = sorted({site for group in groups for site in group.runs[0].results.sites})
    for number, group in enumerate(groups):
        aside = 0.6 * ((number + 0.5) / len(groups) - 0.5)  # else whiskers hide one another
        last = [
            dict(zip(run.results.sites, run.results.matrix[-1], strict=True)) for run in group.runs
        ]
        scores = {site: _known(group.runs, [row.get(site) for row in last]) for site in every}
        names = [site for site, (_, values) in scores.items() if values]
        marker = _marker(looks[group.name], 9)
        common: dict[str, Any] = {"legendgroup": group.name, "name": group.name, "row": 1}
        figure.add_scatter(
            x=[every.index(site) + aside for site in names],
            y=[by_seed(*scores[site]) for site in names],
            text=names,
            hovertemplate="%{text}: %{y:.4f}",
            error_y={"type": "data", "array": [_spread(scores[site][1]) for site in names]},
            mode="markers",
            marker=marker,
            col=1,
            **common,
        )
        spread, worst = (
            _known(group.runs, [run.results.metrics.get(name) for run in group.runs])
            for name in ("std_site", "worst_site")
        )
        if spread[0] == worst[0] == group.runs:
            figure.add_scatter(
                x=[by_seed(*spread)],
                y=[by_seed(*worst)],
                mode="markers",
                marker=marker,
                showlegend=False,
                col=2,
                **common,
            )
    ticks = list(range(len(every)))
    figure.update_xaxes(title="site", tickvals=ticks, ticktext=every, row=1, col=1)
    figure.update_xaxes(title="standard deviation between sites", row=1, col=2)
    figure.update_yaxes(title="score", row=1, col=1)
    figure.update_yaxes(title="worst site", row=1, col=2)
    return _sized(figure, 420)


def _costs(lines: Sequence[Line], looks: dict[str, dict[str, str]]) -> go.Figure:
    """AVG against what was sent and how long was trained."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True)
    for line in lines:
        for column, value in ((1, line.bytes / 1e6), (2, line.seconds)):
            figure.add_scatter(
                x=[value],
                y=[line.mean["avg"]],
                name=line.name,
                legendgroup=line.name,
                mode="markers",
                marker=_marker(looks[line.name]),
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(title="MB sent, both ways", row=1, col=1)
    figure.update_xaxes(title="seconds of training", row=1, col=2)
    figure.update_yaxes(title="AVG", row=1, col=1)
    return _sized(figure, 420)


def _spread(values: Sequence[float]) -> float:
    """Return the sample standard deviation, as in the table; 0 for one value."""
    return stdev(values) if len(values) > 1 else 0.0


def _sized(figure: go.Figure, height: int) -> go.Figure:
    return figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 50, "r": 10, "t": 60, "b": 50},
        legend={"orientation": "h", "y": -0.25},
    )


def _matrices(groups: Sequence[Group]) -> dict[str, dict[str, Any]]:
    """Return, per order of arrival, the sites, and per method the mean matrix and who trained."""
    orders: dict[str, dict[str, Any]] = {}
    for group in groups:
        for order in sorted({run.order for run in group.runs}):
            runs = [run.results for run in group.runs if run.order == order]
            entry = orders.setdefault(order, {"sites": runs[0].sites, "methods": {}})
            sites = entry["sites"]  # sites of one stage come in any order
            rows = zip(*(_by_site(run, sites) for run in runs), strict=True)
            mean = [
                [fmean(v) if None not in v else None for v in zip(*row, strict=True)]
                for row in rows
            ]
            trained = [[site in stage for site in sites] for stage in runs[0].stages]
            entry["methods"][group.name] = {"mean": mean, "trained": trained}
    return orders


def _by_site(run: Results, sites: Sequence[str]) -> list[list[float | None]]:
    """Return a run's matrix with its columns in the order of `sites`."""
    columns = [run.sites.index(site) for site in sites]
    return [[row[column] for column in columns] for row in run.matrix]


def _cases(groups: Sequence[Group]) -> dict[str, Any]:
    """Return the test cases (site, and words for the reader) and every method's scores."""
    scores = {group.name: cases(group.runs) for group in groups}
    keys = sorted({key for own in scores.values() for key in own})
    return {
        "keys": [(site, f"{site}, {case}, seed {seed}") for seed, site, case in keys],
        "scores": {
            name: [round(own[key], 4) if key in own else None for key in keys]
            for name, own in scores.items()
        },
    }


def _settings(groups: Sequence[Group]) -> dict[str, dict[str, str]]:
    """Return the settings in which methods differ: per key, each method's value."""
    parts = {group.name: group.runs[0].part(METHOD) for group in groups}
    keys = sorted({key for part in parts.values() for key in part} - {"strategy.name"})
    table = {key: {name: str(part.get(key, "")) for name, part in parts.items()} for key in keys}
    return {key: row for key, row in table.items() if len(set(row.values())) > 1}
