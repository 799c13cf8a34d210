"""What the documentation claims can be traced: figures to the results, names to tests."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.comparison_tables import LACKING
from benchmarks.comparison_tables import README as SHORT
from fedcl.config.hydra import CONF
from fedcl.registry import STRATEGY
from tests.conftest import ROOT, read

SHORT_NAMES = {short: stream for stream, short in SHORT.items()}
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "benchmarks" / "RESULTS.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COPIES = [page for page in PAGES if page.name != "privacy.md"]
"""Pages whose figures are those of the results; that on privacy has measurements of its own."""
NUMBER = r"[+-]?\d+\.\d+"
SPREAD = rf"{NUMBER} ± {NUMBER}|{NUMBER} \[{NUMBER}, {NUMBER}\]|{NUMBER} \({NUMBER} to {NUMBER}\)"


def joined(text: str) -> str:
    """Return a text as one line."""
    return " ".join(text.split())


def rows(text: str) -> Iterator[dict[str, str]]:
    """Yield the rows of every table, cells by the heads of their columns."""
    head: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            head = []
        elif not head:
            head = cells
        elif not set(line) <= set("|- :"):
            yield dict(zip(head, cells, strict=True))


def method(row: dict[str, str]) -> str:
    """Return a row's method, whether written ted or `ted` (with a remark)."""
    return re.sub(r" \(.*\)", "", row["strategy"].replace("`", ""))


def compared(stream: str) -> dict[str, dict[str, str]]:
    """Return the first table of a stream in the comparison, row by method."""
    section = RESULTS.partition(f"\n### {stream}\n")[2]
    section = section.partition("\n#### Everybody")[0]
    return {method(row): row for row in rows(section) if "AVG" in row}


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial.md"])
def test_a_table_of_methods_is_that_of_the_results(page: str):
    told = [row for row in rows((ROOT / page).read_text()) if "strategy" in row]
    assert len(told) > 3
    for row in told:
        for head in row.keys() - {"strategy"}:
            short, _, figure = head.rpartition(": ")
            source = compared(SHORT_NAMES.get(short, short or "phantom"))
            known = source.get(method(row), {}).get(figure, LACKING)
            assert row[head] == known, (method(row), head)


@pytest.mark.parametrize("page", COPIES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_has_a_spread_stands_in_the_results(page: Path):
    """Means ± deviations, differences with intervals, means with ranges, and p-values."""
    text, results = joined(page.read_text()), joined(RESULTS)
    missing = [figure for figure in re.findall(SPREAD, text) if figure not in results]
    values = re.findall(r"\bp = (\d[\w.-]*\w)", text)
    missing += [f"p = {value}" for value in values if f"| {value} |" not in results]
    assert not missing


def test_other_numbers_of_the_readme_stand_in_the_documentation():
    """Sizes, shares and versions in its sentences; its tables are traced above."""
    sentences = re.sub(r"```.*?```|^\|.*?$", "", README, flags=re.DOTALL | re.MULTILINE)
    sources = joined(RESULTS) + "".join(joined(page.read_text()) for page in PAGES[1:])
    numbers = re.findall(r"\d+\.\d+(?:e-\d+)?(?: GB)?|\d+ %|\d+ pairs?", joined(sentences))
    assert len(numbers) > 5
    assert not [number for number in numbers if number not in sources]


def example(text: str) -> str:
    """Return the table that a page shows as what a run prints."""
    found = re.search(r"```\n(Dice after each stage.*?)\n```", text, flags=re.DOTALL)
    assert found
    return found[1]


def test_the_readme_and_the_tutorial_show_the_same_run():
    assert example(README) == example((ROOT / "docs" / "tutorial.md").read_text())


@pytest.mark.exhaustive
def test_what_the_readme_shows_is_what_its_command_prints(cli, tmp_path: Path):
    """Within 0.05: other processors round differently, which grows from stage to stage."""
    quiet = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
    assert cli("seed=1", *quiet, f"run.dir={tmp_path / 'run'}") == 0
    shown = [re.findall(r"\d\.\d{3}", line) for line in example(README).splitlines()]
    matrix = [[float(score) for score in row] for row in shown if len(row) == 6]
    found = read(tmp_path / "run")
    for row, wanted in zip(found["matrix"], matrix, strict=True):
        assert row == pytest.approx(wanted, abs=0.05)


def test_tests_that_are_named_are_there():
    files = (ROOT / "tests").rglob("*.py")
    there = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())}
    for page in PAGES:
        assert not set(re.findall(r"`(test_\w+)`", page.read_text())) - there, page


@pytest.fixture(scope="module")
def evidence() -> str:
    return (ROOT / "docs" / "reproducibility.md").read_text()


def test_every_method_and_every_published_table_has_a_row(evidence: str):
    lines = [line for line in evidence.splitlines() if line.startswith("|")]
    for name in STRATEGY.available():
        assert any(f"](methods/{name}.md)" in line for line in lines), name
    for file in (Path(CONF) / "tables").glob("*.yaml"):
        assert any(re.search(rf"fedcl reproduce [^|]*\b{file.stem}\b", line) for line in lines), (
            file.stem
        )


def test_every_section_of_the_results_has_a_row(evidence: str):
    told = {row["section"].partition(":")[0] for row in rows(evidence) if "section" in row}
    sections = {name for name in re.findall(r"<!-- (.+?) -->", RESULTS) if name[:6] != "end of"}
    outside = re.sub(r"<!-- (.+?) -->.*?<!-- end of \1 -->", "", RESULTS, flags=re.DOTALL)
    sections |= {name.lower() for name in re.findall(r"^## (\w+)", outside, flags=re.MULTILINE)}
    assert len(sections) > 10 and not sections - told
