"""The order of the packages: every module imports only from the lines below its own."""

import ast
from pathlib import Path

import pytest

from tests.conftest import ROOT

ORDER = [
    ("app",),
    ("analysis",),
    ("reporting",),
    ("release",),
    ("server", "hospital"),
    ("config",),
    ("privacy",),
    ("aggregations",),
    ("learning",),
    ("tasks",),
    ("wire",),
    ("models", "augment", "optimisers", "schedules"),
    ("data",),
    ("tracking",),
    (
        "arrays", "registry", "contracts", "timeline", "files", "settings", "seeding",
        "interruption", "effort", "errors",
    ),
]  # fmt: skip
"""From the ways in down to the ground; two packages of one line do not know each other."""
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
PLUGINS = ("sites", "strategies")


def modules(root: Path) -> dict[str, Path]:
    """Return every module of the program by its dotted name."""
    found = {}
    for top in ("fedcl", *PLUGINS):
        for path in sorted((root / top).rglob("*.py")):
            name = ".".join(path.relative_to(root).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: set[str]) -> set[str]:
    """Return the modules among `known` that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in known else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & known


def wrong(root: Path) -> list[str]:
    """Return the imports that run against the order, and the circles, in words."""
    files = modules(root)
    edges = {name: imports(path, set(files)) - {name} for name, path in files.items()}
    return [
        f"{name} imports {other}"
        for name, others in edges.items()
        for other in sorted(others)
        if not allowed(name, other)
    ] + [f"a circle: {' > '.join(circle)}" for circle in circles(edges)]


def allowed(name: str, other: str) -> bool:
    """Return whether one module may import another."""
    top, _, rest = name.partition(".")
    other_top, _, other_rest = other.partition(".")
    if top in PLUGINS:
        return other_top in ("fedcl", top)
    if other_top in PLUGINS:
        return False
    if "." not in name:  # fedcl itself
        return True
    part, other_part = rest.split(".")[0], other_rest.split(".")[0]
    if part == "__main__":
        return True
    return (
        part == other_part
        or LEVEL[part] < LEVEL.get(other_part, len(ORDER))
        or (LEVEL[part] == LEVEL.get(other_part) == len(ORDER) - 1)
    )


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return one circle of imports through every module that is in one."""
    found = []
    for start in edges:
        trail, seen = [[start]], {start}
        while trail:
            path = trail.pop()
            for other in sorted(edges[path[-1]]):
                if other == start:
                    found.append([*path, start])
                    trail = []
                    break
                if other not in seen:
                    seen.add(other)
                    trail.append([*path, other])
    return found


def test_every_module_imports_from_below():
    assert wrong(ROOT) == []


def test_every_module_has_its_place_in_the_order():
    parts = {name.split(".")[1] for name in modules(ROOT) if name.startswith("fedcl.")}
    assert parts - {"__main__"} == set(LEVEL)


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("fedcl/data/grid.py", "from fedcl.tasks import base", "fedcl.data.grid imports"),
        ("fedcl/hospital/site.py", "import fedcl.server.run", "fedcl.hospital.site imports"),
        ("fedcl/tasks/base.py", "from sites import phantom", "fedcl.tasks.base imports"),
        ("strategies/ted.py", "from sites import phantom", "strategies.ted imports"),
        ("fedcl/errors.py", "from fedcl import files", "a circle: fedcl.errors > fedcl.files"),
    ],
)  # fmt: skip
def test_an_arrow_back_is_found(tmp_path: Path, file: str, line: str, said: str):
    for path in modules(ROOT).values():
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    place = tmp_path / file
    place.write_text(f"{place.read_text()}\n{line}\n")
    assert any(one.startswith(said) for one in wrong(tmp_path))


def test_every_file_reads_in_one_sitting():
    folders = ("fedcl", *PLUGINS, "tests", "benchmarks", "examples", "docs")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lengths = {path: len(path.read_text().splitlines()) for path in files}
    assert {path: count for path, count in lengths.items() if count > 400} == {}


def test_a_strategy_has_fourteen_hooks():
    contract = ast.parse((ROOT / "fedcl" / "learning" / "strategy.py").read_text())
    (strategy,) = (n for n in contract.body if isinstance(n, ast.ClassDef) and n.name == "Strategy")
    defined = [node.name for node in strategy.body if isinstance(node, ast.FunctionDef)]
    hooks = [name for name in defined if not name.startswith("_")]
    assert len(hooks) == 14
