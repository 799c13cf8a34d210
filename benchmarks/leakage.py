"""What a hospital's report and the model's weights give away: attacks on every method.

`python -m benchmarks.leakage` runs what has not been run yet, keeps in `benchmarks/leakage.json`
what every attack on every run gave, and writes a section of `benchmarks/RESULTS.md` from that;
`--report` only writes.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fedcl  # noqa: F401  isort: skip  (sets the environment)

import numpy as np
import torch
import yaml
from torch import nn

from benchmarks.attacks import auc, exposure, homer, likeness, retrieved
from benchmarks.running import completed, markdown, options, slug, write_section
from fedcl import arrays
from fedcl.app.simulation import simulate
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.data.cases import Case
from fedcl.files import write_atomically
from fedcl.learning.hooks import StageSummary
from fedcl.privacy.base import Privacy
from fedcl.privacy.report_dp import ReportDP
from fedcl.registry import SCENARIO
from fedcl.seeding import numpy_rng, torch_rng

SEEDS = range(5)
METHODS: dict[str, list[str]] = {
    **{name: [] for name in ("finetune", "lwf", "ted", "cauaug", "tkrl", "ewc", "souvenir")},
    "harmony": ["strategy.correct=40"],
}
"""What is attacked, with its settings."""
COMMON = ["scenario=canaries", "learner.steps=10"]
FRESH = 255  # canaries that were never planted
AVERAGED = (1, 4, 10, 40)  # images whose spectrum is told
CPU = torch.device("cpu")
KEPT = Path(__file__).parent / "leakage.json"
HEADS = {
    "weights": "by weights", "canary": "canary, bits", "report": "by report",
    "noisy report": "with noise", "probes": "by probes",
}  # fmt: skip
"""Every attack, and what it is called in the table."""
TEXT = f"""## leakage

`{" ".join(COMMON)}`, otherwise the defaults (`harmony` with `strategy.correct=40`): six
hospitals in three stages, seeds {", ".join(map(str, SEEDS))}; mean over seeds (range).
Patients of hospital A, who came first.

- **By weights**: how well the final model's loss tells patients that it was trained on from others
  (area under the ROC curve, .5 is chance; Yeom et al., CSF 2018).
- **Canary**: one patient of A carries a pattern labelled as organ; by how many bits the final model
  prefers it to {FRESH} patterns that nobody carries (Carlini et al., 2019): 1.4 is chance, 8 the
  most.
- **By report**: how well A's report tells the patients that it averages from others, by Homer's
  test (2008) with seven other patients as the population. **With noise**: by the same report under
  `privacy=report_dp`, whose clipping the attacker does as well.
- **By probes**: likewise the largest correlation of a patient's slices with a probe image.

Regenerate with `python -m benchmarks.leakage`.

"""


def overrides(method: str, seed: int) -> list[str]:
    """Return what a run is made of."""
    quiet = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
    patients = SCENARIO.make({"name": "phantom", "seed": seed}).load("A", None, seed).train
    canary = [f"scenario.canary={seed}", f"scenario.patient={int(patients[0].name[1:])}"]
    return [*COMMON, *quiet, f"strategy={method}", *METHODS[method], f"seed={seed}", *canary]


class Attacked:
    """A completed run, as an attacker has it, and the patients of hospital A."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = Config.parse(yaml.safe_load((folder / "config.yaml").read_text()))
        self.job = self.config.job
        data = self.job.scenario.load("A", None, self.job.seed)
        others = [*data.val, *data.test]
        self.patient, *self.members = data.train
        self.others, self.known = others[::2], others[1::2]

    def network(self, stage: int) -> nn.Module:
        """Return the model after a stage, counted from 1."""
        (model,) = self.job.models
        network = self.job.network(model, self.config.timeline.sites)
        weights = arrays.load_file(self.folder / "checkpoint" / f"stage-{stage}.safetensors")
        arrays.into_network(network, weights)
        return network.eval()

    def answering(self) -> nn.Module:
        """Return what answers at the end of the run."""
        last = len(self.config.timeline.stages)
        return self.job.strategy.answering(self.network(last), self.job.task)

    def by_weights(self) -> float:
        """Return the area under the curve of the loss."""
        network = self.answering()

        @torch.no_grad()
        def score(case: Case) -> float:
            samples = self.job.task.samples([case], CPU)
            batch = samples[torch.arange(len(samples))]
            return -float(self.job.task.loss(network(batch.inputs), batch.targets))

        return auc([score(case) for case in self.members], [score(case) for case in self.others])

    def canary(self) -> float:
        """Return the exposure of the canary, in bits."""
        network, scenario = self.answering(), self.job.scenario

        @torch.no_grad()
        def loss(number: int) -> float:
            edge = scenario.edge
            logits = network(scenario.planted(self.patient, number).images)[..., :edge, :edge]
            return -float(torch.log_softmax(logits, dim=1)[:, 1].mean())

        fresh = numpy_rng("fresh", scenario.canary).integers(1000, 2**31, FRESH).tolist()
        return exposure(loss(scenario.canary), [loss(number) for number in fresh])

    def told(
        self, network: nn.Module, cases: Sequence[Case], rule: Privacy | None = None
    ) -> np.ndarray:
        """Return A's report if these were its patients, as one vector."""
        task, strategy = self.job.task, self.job.strategy
        reporting = strategy.reporting(network, task, task.samples(cases, CPU).shape)
        assert reporting is not None
        if rule is None:
            record = reporting.tell(network, task.samples(cases, CPU))
        else:
            parts = [reporting.tell(network, task.samples([case], CPU)) for case in cases]
            record = rule.told(parts, reporting.forms, (cases[0].name, len(cases)))
        return np.concatenate([value.ravel() for _, value in sorted(record.items())])

    def by_report(self, rule: Privacy | None = None, exact: Privacy | None = None) -> float:
        """Return the area under the curve of Homer's test.

        Args:
            rule: of the report.
            exact: the same with next to no noise, for what the attacker computes.
        """
        network = self.network(1)
        report = self.told(network, self.members, rule)
        known = np.stack([self.told(network, [case], exact) for case in self.known])
        scores = [
            [homer(self.told(network, [case], exact), report, known) for case in cases]
            for cases in (self.members, self.others)
        ]
        return auc(*scores)

    def by_probes(self) -> float:
        """Return the area under the curve of the largest correlation with a probe."""
        network = self.network(1).requires_grad_(False)
        summary = StageSummary(
            stage=0, network=network, shape=self.job.task.samples(self.members, CPU).shape,
            memory={}, reports={}, samples={}, rng=torch_rng("probes", self.job.seed),
        )  # fmt: skip
        probes = np.concatenate([*self.job.strategy.remember(summary).values()])
        scores = [
            [_closest(case.images.numpy(), probes) for case in cases]
            for cases in (self.members, self.others)
        ]
        return auc(*scores)


def _closest(images: np.ndarray, probes: np.ndarray) -> float:
    """Return the largest correlation of an image with a probe."""
    one, other = (x.reshape(len(x), -1) for x in (images, probes))
    one, other = (x - x.mean(axis=1, keepdims=True) for x in (one, other))
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    return float((one @ other.T).max())


def rebuilt(count: int, seed: int) -> tuple[float, float]:
    """Return how like an image rebuilt from a mean spectrum is to any of those it is the mean of.

    Args:
        count: of the images that the spectrum is the mean of.
        seed: of patients, and of where the search begins.

    Returns:
        The correlation with the nearest of them, and with the nearest of as many others.
    """
    data = SCENARIO.make({"name": "phantom", "seed": seed}).load("A", None, seed)
    members, others = (
        torch.cat([case.images for case in cases])[:count, 0].numpy()
        for cases in (data.train, data.test)
    )
    low = members.min(axis=(1, 2), keepdims=True)
    magnitude = np.abs(np.fft.rfft2(members - low)).mean(axis=0)
    found = retrieved(magnitude, members.shape[1:], numpy_rng("retrieval", seed))
    near, far = (max(likeness(found, one) for one in images) for images in (members, others))
    return near, far


def attack(folders: Iterable[Path]) -> dict[str, list[float]]:
    """Return what every attack that a method is open to gave, run by run."""
    found = defaultdict(list)
    for folder in folders:
        run = Attacked(folder)
        found["weights"].append(run.by_weights())
        found["canary"].append(run.canary())
        if run.job.strategy.leaves:
            found["report"].append(run.by_report())
            exact = ReportDP(noise=1e-3)
            found["noisy report"].append(run.by_report(ReportDP(), exact))
        elif "probes" in vars(run.job.strategy):
            found["probes"].append(run.by_probes())
    return found


def measured(out: Path) -> dict[str, Any]:
    """Run what is missing and return what every attack gave, by method and by run."""
    sys.path.insert(0, str(Path(__file__).parent / "plugins"))
    found: dict[str, Any] = {"methods": {}, "spectra": {}}
    for method in METHODS:
        folders = [out / slug(method, str(seed)) for seed in SEEDS]
        for seed, folder in zip(SEEDS, folders, strict=True):
            if completed(folder) is None:
                simulate(compose(overrides(method, seed)), folder)
        found["methods"][method] = attack(folders)
    for count in AVERAGED:
        near, far = zip(*(rebuilt(count, seed) for seed in SEEDS), strict=True)
        found["spectra"][str(count)] = {"these": near, "others": far}
    return found


def section(found: Mapping[str, Any]) -> str:
    """Return the section, given what `measured` found."""
    rows: list[list[str | list[float]]] = [
        [method, *(values.get(name) or "-" for name in HEADS)]
        for method, values in found["methods"].items()
    ]
    spectra = [[count, *values.values()] for count, values in found["spectra"].items()]
    lines = [
        *markdown(["", *HEADS.values()], rows),
        "Rebuilding an image from the mean magnitude of so many spectra (`cauaug`), by Fienup's "
        "algorithm: correlation, shifted and turned at its best, with the nearest of these images, "
        "and with the nearest of as many others.",
        "",
        *markdown(["images", "these", "others"], spectra),
    ]
    return TEXT + "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing; keep what the attacks gave, and write the section."""
    given = options(__doc__, arguments, "leakage")
    if not given.report:
        write_atomically(KEPT, json.dumps(measured(given.out), indent=1).encode())
    write_section("leakage", section(json.loads(KEPT.read_text())))


if __name__ == "__main__":
    main()
