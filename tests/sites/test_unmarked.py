"""Sites whose masks leave classes unmarked: what they hold, are trained on and are scored by."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import simulate
from fedcl.app.cli import main
from fedcl.augment.light import Light
from fedcl.data.cases import SiteData
from fedcl.data.hidden import hidden
from fedcl.data.labels import IGNORED
from fedcl.data.scans import Scan
from fedcl.errors import ConfigError
from fedcl.models.base import Model
from fedcl.registry import STRATEGY
from fedcl.reporting.console import console
from fedcl.reporting.terminal import report
from fedcl.seeding import numpy_rng
from fedcl.server.results import Results
from sites.folder import Folder
from tests.conftest import NEEDS, TINY, base, read
from tests.images import folder, nifti, picture

CLASSES = {"labels": [0, 1, 2], "resize": None, "size": 24, "unmarked": {"A": [2], "B": [1]}}
TWO = [
    "engine=inprocess", "tracking.enabled=false", "run.figures=false", "scenario=folder",
    "scenario.patient='^(.+)$'", "scenario.labels=[0,1,2]", "scenario.size=16",
    "timeline.stages=[[A],[B]]", "timeline.rounds=1", "learner.steps=1", "model.channels=[4,8]",
    "+scenario.unmarked.A=[2]", "+scenario.unmarked.B=[1]",
]  # fmt: skip
"""A marks class 1, B marks class 2."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two sites of pictures with two discs, both of which are in all masks."""
    root, rng = tmp_path_factory.mktemp("discs"), np.random.default_rng(0)
    rows, columns = np.mgrid[:16, :16]
    for site in "AB":
        for number in range(7):
            y, x = rng.integers(4, 6, 2)
            one = (rows - y) ** 2 + (columns - x) ** 2 < 8
            two = (rows - y - 6) ** 2 + (columns - x - 5) ** 2 < 6
            image = one * 100 + two * 180 + rng.integers(0, 30, one.shape)
            picture(root / site / "images" / f"p{number}.png", image.astype(np.uint8))
            picture(root / site / "masks" / f"p{number}.png", (one + 2 * two).astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Run the two sites with overrides, each run once; returns its folder."""
    done: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in done:
            done[overrides] = tmp_path_factory.mktemp("runs") / "run"
            given = [*TWO, f"scenario.root={root}", *overrides, f"run.dir={done[overrides]}"]
            assert simulate.main(given) == 0
        return done[overrides]

    return run


def loaded(root: Path, **values: Any) -> tuple[Folder, SiteData, SiteData]:
    """Return a scenario, what site A holds, and what it holds where it marks all classes."""
    scenario = folder(**CLASSES | values)
    every = folder(**CLASSES | values | {"unmarked": {}})
    return scenario, scenario.load("A", root / "A", 0), every.load("A", root / "A", 0)


# --- what they hold --------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_what_is_not_marked_is_background_in_masks(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
):
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path))
    _, data, full = loaded(root, cache=cache)
    for part in ("train", "val", "test"):
        for case, whole in zip(getattr(data, part), getattr(full, part), strict=True):
            (scan,), (own,) = case.scans, whole.scans
            labels = own.content.labels()
            assert (labels == 2).any() and case.unmarked == (2,)
            for found in (scan.content.labels(), scan.content.truth()):
                assert found.equal(labels.masked_fill(labels == 2, 0))
            count = torch.bincount(labels.flatten().long()).tolist()
            assert scan.counts.classes == scan.kept.classes == (count[0] + count[2], count[1])
            places = own.content.places()
            assert scan.content.places().equal(places[places[:, 0] == 1])
            assert scan.content.image().equal(own.content.image())
            assert scan.digest != own.digest
    hidden = sum(s.counts[2] for part in (full.train, full.val, full.test)
                 for case in part for s in case.scans)  # fmt: skip
    told = list(map(str, data.notes))
    assert told[0] == "background may be the label 2, not marked (scenario.unmarked)"
    assert told[1].startswith(f"{hidden} voxels of the label 2 hidden (scenario.unmarked): p")


def test_digests_do_not_tell_where_images_are_held(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FEDCL_CACHE", str(tmp_path))
    memory, disk = (loaded(root, cache=cache)[1] for cache in ("memory", "disk"))
    assert memory.digest() == disk.digest()


def test_a_mask_that_does_not_show_the_class_stays_as_it_is(root: Path):
    _, _, full = loaded(root)
    (scan,) = full.train[0].scans
    assert hidden(scan, (2,)).counts[2] == 0 < scan.counts[2]
    assert hidden(hidden(scan, (2,)), (2,)).digest == hidden(scan, (2,)).digest
    bare = Scan.of(scan.content.image(), torch.full_like(scan.content.labels(), IGNORED))
    assert hidden(bare, (2,)) is bare
    assert hidden(Scan.of(scan.content.image(), torch.full_like(scan.content.labels(), 2)),
                  (2,)).counts.classes == (256,)  # fmt: skip


def test_full_test_masks_stay(root: Path):
    _, data, full = loaded(root, full_tests=True)
    digests = [[[*case.digests()] for case in one.test] for one in (data, full)]
    assert digests[0] == digests[1] and data.digest() != full.digest()
    assert [case.unmarked for case in data.test] == [()] * len(data.test)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"A": [0]}, r"scenario\.unmarked\.A: give different classes from 1 to 2, got \[0\]"),
        ({"A": [3]}, r"from 1 to 2, got \[3\]"),
        ({"A": [2, 2]}, r"different classes"),
        ({"A": [1, 2]}, r"scenario\.unmarked\.A: its masks would mark no class"),
    ],
)
def test_what_cannot_be_unmarked_is_refused(given: dict[str, list[int]], said: str):
    with pytest.raises(ConfigError, match=said):
        folder(**CLASSES | {"unmarked": given})


def test_a_site_that_is_not_there_is_refused(root: Path):
    scenario = folder(**CLASSES | {"unmarked": {"C": [1]}, "root": str(root)})
    with pytest.raises(ConfigError, match=r"scenario\.unmarked\.C: no such site"):
        scenario.sites()


def test_inspect_says_what_is_not_marked(root: Path, capsys: pytest.CaptureFixture[str]):
    asked = [one for one in TWO if "run." not in one]
    assert main(["inspect", *asked, f"scenario.root={root}"]) == 0
    said = capsys.readouterr().out
    assert "not marked" in next(line for line in said.splitlines() if "labelled" in line)
    for site, number in (("A", 2), ("B", 1)):
        assert f"note: site {site}: background may be the label {number}, not marked" in said
        assert f"voxels of the label {number} hidden (scenario.unmarked): p" in said


# --- what they are trained on ----------------------------------------------------------------


def test_targets_say_what_background_may_be(root: Path):
    scenario, data, _ = loaded(root)
    task = scenario.task
    assert task.candidates == ((0, 1), (0, 2))
    targets = task.samples(data.train, torch.device("cpu"))[torch.arange(2)].targets
    for target, case in zip(targets, data.train[:2], strict=True):
        labels = case.scans[0].content.labels()
        assert target[0, 4:20, 4:20].equal(torch.where(labels[0] == 1, 1, -2))
        outside = torch.ones(24, 24, dtype=torch.bool)
        outside[4:20, 4:20] = False
        assert (target[0, outside] == 0).all(), "there is nothing beyond an image"
    other = scenario.load("B", root / "B", 0)
    both = task.samples([data.train[0], other.train[0]], torch.device("cpu"))
    assert sorted(both[torch.arange(2)].targets.unique().tolist()) == [-2, -1, 0, 1, 2]


def test_patches_of_volumes_are_centred_on_what_is_marked(tmp_path: Path):
    rng = np.random.default_rng(0)
    for number in range(3):
        mask = np.zeros((12, 12, 12), np.uint8)
        mask[1:3, 1:3, 1:3], mask[9:11, 9:11, 9:11] = 1, 2
        image = mask * 50.0 + rng.normal(size=mask.shape)
        nifti(tmp_path / "A" / "images" / f"p{number}.nii", image)
        nifti(tmp_path / "A" / "masks" / f"p{number}.nii", mask)
    more = {"spatial_dims": 3, "size": None, "patch": 4, "foreground": 1.0}
    scenario, data, _ = loaded(tmp_path, **more)
    samples = scenario.task.samples(data.train, torch.device("cpu"))
    for draw in range(8):
        _, target = samples.drawn(0, numpy_rng(draw))
        assert set(target.unique().tolist()) == {-2, 1}
        assert target.shape == (1, 4, 4, 4)


def test_candidates_pass_through_augmentation_and_coarser_grids(root: Path):
    scenario, data, _ = loaded(root)
    change = Light(flip=0.5).change(2)
    sample = scenario.task.samples(data.train, torch.device("cpu"))[torch.arange(1)]
    assert change is not None
    for draw in range(4):
        _, labels = change(sample.inputs[0], sample.targets[0], numpy_rng(draw))
        assert {-2, 1} <= set(labels.unique().tolist()) <= {-2, 0, 1}
    coarse = scenario.task.reduced(sample.targets, sample.targets[..., ::2, ::2])
    assert coarse.equal(sample.targets[..., 1::2, 1::2])


def test_what_hospitals_keep_stays_right_without_a_site(root: Path):
    settings = CLASSES | {"unmarked": {"A": [2], "B": [1]}, "root": str(root)}
    scenario = folder(**settings)
    assert scenario.task.candidates == ((0, 1), (0, 2))
    left = scenario.without("B")
    assert left["unmarked"] == {"A": [2]}
    assert folder(**settings | left).task.candidates == ((0, 1), (0, 2))


# --- what they are scored by -----------------------------------------------------------------


def test_what_is_not_marked_is_not_scored(root: Path):
    scenario, data, full = loaded(root)
    task = scenario.task
    assert task.scored("A") == ("dice", "iou", "hd95", "dice_1", "iou_1", "hd95_1")
    case, whole = data.test[0], full.test[0]
    labels = whole.scans[0].content.labels().long()
    found = torch.nn.functional.one_hot(labels, 3).movedim(-1, 0).float()
    found[1, :, :4], found[0, :, :4] = 1, 0  # wrong about class 1, right about class 2
    scores = task.score([found], case, task.scored("A"))
    alone = task.score([found], whole, ("dice", "dice_1", "dice_2"))
    assert scores["dice"] == scores["dice_1"] == alone["dice_1"] < 1
    assert alone["dice_2"] == 1 and alone["dice"] == (alone["dice_1"] + 1) / 2
    assert replace(task, full_tests=True).scored("A") == task.scores
    assert replace(task, full_tests=True).learned("A") == task.scored("A")


def test_results_have_scores_of_what_is_marked_alone(ran: Callable[..., Path]):
    run = ran("strategy=finetune")
    found = read(run)
    known = {
        name: [[value is not None for value in row] for row in found["secondary"][name]["matrix"]]
        for name in ("dice_1", "dice_2")
    }
    assert known == {"dice_1": [[True, False]] * 2, "dice_2": [[False, True]] * 2}
    assert found["matrix"] == [
        [one[0], two[1]]
        for one, two in zip(*(found["secondary"][name]["matrix"] for name in known), strict=True)
    ]
    one, two = (found["metrics_by_class"][name] for name in known)
    assert one["avg"] == found["matrix"][1][0] and two["avg"] == found["matrix"][1][1]
    assert one["bwt"] == found["matrix"][1][0] - found["matrix"][0][0] and two["bwt"] is None
    with console.capture() as shown:
        console.print(report(Results.of((run / "results.json").read_bytes())))
    rows = [line.split("│") for line in shown.get().splitlines() if line.startswith("│")]
    cells = [f"{found['matrix'][1][0]:.3f}", "-", f"{one['avg']:.3f}", f"{one['bwt']:+.3f}"]
    assert ["1", *cells] in [[cell.strip() for cell in row[1:-1]] for row in rows]


def test_full_tests_have_all_scores(ran: Callable[..., Path]):
    found = read(ran("strategy=finetune", "scenario.full_tests=true"))
    one, two = (found["secondary"][name]["matrix"] for name in ("dice_1", "dice_2"))
    np.testing.assert_allclose(found["matrix"], (np.array(one) + np.array(two)) / 2)
    figures = found["metrics_by_class"]
    assert figures["dice_1"]["avg"] == pytest.approx(np.mean(one[1]))
    assert figures["dice_1"]["bwt"] == one[1][0] - one[0][0], "of the site that has taught it"
    assert figures["dice_2"]["bwt"] is None


def test_the_naive_reading_trains_on_background(ran: Callable[..., Path]):
    naive = "scenario.unmarked_as=background"
    runs = ["strategy=finetune"], ["strategy=finetune", naive], ["strategy=mib", naive]
    unknown, background, mib = (read(ran(*run)) for run in runs)
    assert len({one["weights_sha256"] for one in (unknown, background, mib)}) == 3
    assert background["matrix"][0] == mib["matrix"][0] != unknown["matrix"][0], "no teacher yet"
    assert background["data_sha256"] == unknown["data_sha256"]


def test_souvenir_which_takes_all_that_is_marked_for_one_organ_refuses():
    task = folder(**CLASSES | {"unmarked": {"A": [2]}}).task
    with pytest.raises(ConfigError, match=r"^scenario\.unmarked: souvenir needs the class"):
        STRATEGY.make({"name": "souvenir"}).check(task, Model())


@pytest.mark.parametrize(
    "strategy",
    [one for one in STRATEGY.available() if base(one) is TINY and one != "souvenir"],
)
def test_every_method_trains_where_sites_mark_other_classes(
    ran: Callable[..., Path], strategy: str
):
    elsewhere = tuple(f"sites.{site}." for site in "CDEF")
    needs = [one for one in NEEDS.get(strategy, []) if not one.startswith(elsewhere)]
    found = read(ran(f"strategy={strategy}", *needs))
    assert len(found["matrix"]) == 2 and not found["failures"]


def test_comparisons_have_a_table_of_classes(ran: Callable[..., Path], tmp_path: Path):
    readings = [], ["scenario.unmarked_as=background"]
    runs = [str(ran("strategy=finetune", *reading)) for reading in readings]
    assert main(["compare", *runs, "--out", str(tmp_path / "out")]) == 0
    rows = [line.split(",")[:3] for line in (tmp_path / "out" / "classes.csv").open()][1:]
    assert sorted(rows) == [
        [number, name, "1"]
        for number in "12"
        for name in ("finetune", "finetune unmarked_as=background")
    ]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Class by class" in page and '"Dice of class 2"' in page
