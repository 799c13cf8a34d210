"""What a person is shown of more sites than can be told apart."""

import io
from pathlib import Path

import numpy as np
from matplotlib.image import imread
from rich.console import Console

from fedcl.errors import some_of
from fedcl.reporting.figures import draw
from fedcl.reporting.terminal import report
from fedcl.server.results import Results

SITES = [f"S{number}" for number in range(1000)]
SCORES = np.linspace(0.9, 0.2, len(SITES)).tolist()
COHORTS = [SITES[:500], SITES[500:]]
RUN = Results(
    scenario="phantom", strategy="ted", seed=0, score="dice", sites=SITES, arrivals=COHORTS,
    stages=COHORTS, cohorts=COHORTS, rounds_per_stage=2,
    presence={site: [1.0 if n < 500 else None, 1.0] for n, site in enumerate(SITES)},
    matrix=[SCORES, SCORES], cases={},
    metrics=dict.fromkeys(("avg", "bwt", "fwt", "forgetting", "worst_site"), 0.5),
    seconds={}, bytes={},
)  # fmt: skip


def test_names_in_a_row_are_cut():
    assert some_of("ABC") == "A, B, C"
    assert some_of(SITES, most=2) == "S0, S1, and 998 more"


def test_a_terminal_shows_the_worst():
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(report(RUN))
    told = console.export_text()
    assert "S999" in told and "S980" in told and "S979 " not in told
    assert "the 20 worst of 1000 sites" in told and len(told.splitlines()) < 40


def test_figures_are_drawn_and_can_be_opened(tmp_path: Path):
    paths = draw(RUN, [], "", tmp_path)
    assert [path.name for path in paths] == ["timeline.png", "matrix.png", "forgetting.png"]
    assert all(max(imread(path).shape) < 1500 for path in paths)
