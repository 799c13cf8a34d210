"""The streams of hospitals on which methods are compared, real and imaginary."""

from dataclasses import dataclass
from os.path import relpath

from benchmarks.running import ROOT, SUNNYBROOK

HIPPOCAMPUS = SUNNYBROOK.parent / "Task04_Hippocampus"
FEW = ("finetune", "joint", "ted", "harmony")
"""The methods that are run where nothing is forgotten, so that there is little to compare."""
MAIN = (
    "finetune", "joint", "joint, pooled", "lwf", "ewc", "ted", "cauaug", "tkrl", "souvenir",
    "harmony", "harmony, corrected",
)  # fmt: skip
"""Those that are run where a run takes longer."""
LABELS = ("finetune", "joint", "individual", "lwf", "mib", "plop", "ewc", "ted", "harmony")
"""Those that are run where sites mark other classes, which others cannot or are not made for."""


@dataclass(frozen=True)
class Stream:
    """Hospitals that arrive, with the repetitions of every run.

    Attributes:
        overrides: what it is run with.
        orders: name and stages of every order of arrival.
        title: a line about it for the report.
        seeds: those reported.
        tuning: the seed that weights are tuned on, in the first order; in no table.
        only: the methods that are run; None for all.
        parts: the methods whose parts are run as well; None for all.
        varied: the methods that are run with augmentation for everybody as well; None for all.
        needs: the folder of its data; None for what is made on the spot.
    """

    overrides: tuple[str, ...]
    orders: dict[str, str]
    title: str
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tuning: int = 10
    only: tuple[str, ...] | None = MAIN
    parts: tuple[str, ...] | None = ()
    varied: tuple[str, ...] | None = None
    needs: str | None = None

    @property
    def partial(self) -> bool:
        """Whether sites mark different classes."""
        return any("scenario.unmarked." in one for one in self.overrides)

    @property
    def there(self) -> bool:
        """Whether its data are there."""
        return self.needs is None or (ROOT / self.needs).is_dir()


SMALL = ("learner.steps=10", "timeline.rounds=6", "run.figures=false")
LONGER = ("learner.steps=20", "timeline.rounds=6", "run.figures=false")
CARDIAC = (
    "scenario=folder", f"scenario.root={relpath(SUNNYBROOK, ROOT)}", "scenario.resize=[64,64]",
    "scenario.cache=disk",
    *LONGER,
)  # fmt: skip
REAL = (
    "scenario=decathlon", f"scenario.root={relpath(HIPPOCAMPUS, ROOT)}",
    "scenario.cache=disk",
    "scenario.spatial_dims=3", "scenario.labels=[0,1,2]", "scenario.spacing=2",
    "scenario.size=[24,32,24]", "learner.batch_size=4",
)  # fmt: skip
VOLUMES = (*REAL, "model.channels=[16,32,64]", *LONGER)
COHORTS = {"listed": "[[HF-I],[HF-NI],[HYP],[N]]", "reversed": "[[N],[HYP],[HF-NI],[HF-I]]"}
FOUR = {"ABCD": "[[A],[B],[C],[D]]", "DCBA": "[[D],[C],[B],[A]]"}

STREAMS = {
    "phantom": Stream(
        ("scenario=phantom", *SMALL),
        {"ABCDEF": "[[A,B],[C,D],[E,F]]", "EFCDAB": "[[E,F],[C,D],[A,B]]"},
        "Six imaginary hospitals in three stages of two, slices, 10 test patients each.",
        only=None,
        parts=None,
    ),
    "phantom3d": Stream(
        ("scenario=phantom3d", "model.channels=[16,32,64]", "learner.batch_size=4", *SMALL),
        {"ABCDEF": "[[A,B],[C,D],[E,F]]", "EFCDAB": "[[E,F],[C,D],[A,B]]"},
        "The same in three dimensions: two zones of the prostate, voxels that differ by hospital.",
    ),
    "sunnybrook, shifted": Stream(
        (*CARDIAC, "shift=scanners", "scenario.shift.strength=1"),
        COHORTS,
        "Real cardiac MRI, slices of four cohorts, each through another imaginary scanner.",
        parts=("harmony",),
        needs=relpath(SUNNYBROOK, ROOT),
    ),
    "hippocampus, shifted": Stream(
        (*VOLUMES, "shift=scanners"),
        FOUR,
        "Real volumes, two parts of the hippocampus; four groups of 50, each through another "
        "imaginary scanner.",
        parts=("harmony",),
        needs=relpath(HIPPOCAMPUS, ROOT),
    ),
    "hippocampus, partial labels": Stream(
        (
            *VOLUMES, "+scenario.unmarked.A=[2]", "+scenario.unmarked.B=[1]",
            "+scenario.unmarked.C=[2]", "+scenario.unmarked.D=[1]", "scenario.full_tests=true",
        ),
        FOUR,
        "The same volumes as they came; A and C mark the anterior part alone, B and D the "
        "posterior. Tested on both, everywhere.",
        only=LABELS,
        varied=FEW,
        needs=relpath(HIPPOCAMPUS, ROOT),
    ),
    "sunnybrook": Stream(
        CARDIAC, COHORTS, "The same slices as they came.", only=FEW,
        varied=(), needs=relpath(SUNNYBROOK, ROOT),
    ),
    "hippocampus": Stream(
        VOLUMES, FOUR, "The same volumes as they came.", only=FEW,
        varied=(), needs=relpath(HIPPOCAMPUS, ROOT),
    ),
}  # fmt: skip
