"""What neural fields keep, and what they cost: `python -m benchmarks.fields`.

It runs what has not been run yet, however often it is stopped, and writes its section of
`benchmarks/RESULTS.md`. `--lanes 2` runs so many at a time, `--report` only writes, `--speed`
compares milliseconds per step with a plain PyTorch loop of the same mathematics (alternating,
median of several) and nothing else.
"""

import argparse
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from os.path import relpath
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from benchmarks import field_figures, field_speed
from benchmarks.running import (
    ROOT,
    SUNNYBROOK,
    Planned,
    check_whole,
    completed,
    markdown,
    run_all,
    slug,
    write_section,
)
from fedcl.config.hydra import compose
from fedcl.config.schema import Config
from fedcl.reporting.terminal import extremes
from fedcl.server.results import Results
from sites.parts.field import Volume

K = TypeVar("K")

MODELS = ("pe", "siren", "finer", "diner")
SEEDS = (0, 1)
DOCS = ROOT / "docs"
ENDS = ("first", "last", "worst")
SIGNALS = {
    "phantom": ["scenario=cine_signal"],
    "sunnybrook": ["scenario=folder_signal", f"scenario.root={relpath(SUNNYBROOK, ROOT)}"],
}
LOCAL = 300  # steps of every hospital in all, however many the rounds
POOL = ["strategy=finetune", "timeline.centralised=true"]
FEDERATED = {  # method: rounds, steps in all per trainer, overrides
    "pooled, 300 steps": ([1], LOCAL, POOL),
    "pooled, 900 steps": ([1], 3 * LOCAL, POOL),  # as many as the hospitals take together
    "pooled, 2700 steps": ([1], 9 * LOCAL, POOL),  # and the server in three rounds
    "FedAvg": ([1, 3, 10, 30, 60], LOCAL, ["strategy=finetune"]),
    "server distillation": ([1, 3, 10], LOCAL, ["strategy=field_server_distillation"]),
}


def domain(folder: Path) -> dict[tuple[str, str], list[Planned]]:
    """Return the runs of domain expansion, by model and strategy."""
    return {
        (model, strategy): [
            (
                folder / "domain" / f"{model}-{strategy}-{seed}",
                ["scenario=cine_domain", f"model={model}", *overrides, f"seed={seed}"],
            )
            for seed in SEEDS
        ]
        for model in MODELS
        for strategy, overrides in {
            "finetune": ["strategy=finetune"],
            "field_distillation": ["strategy=field_distillation"],
            "joint": ["strategy=joint", "timeline.centralised=true"],
        }.items()
    }


def signal(folder: Path) -> dict[tuple[str, str, str], list[Planned]]:
    """Return the runs of signal expansion, by data, model and strategy."""
    return {
        (data, model, strategy): [
            (
                folder / "signal" / f"{data}-{model}-{strategy}-{seed}",
                [*overrides, f"model={model}", f"strategy={strategy}", f"seed={seed}"],
            )
            for seed in SEEDS
        ]
        for data, overrides in SIGNALS.items()
        if data != "sunnybrook" or SUNNYBROOK.is_dir()
        for model in MODELS
        for strategy in ("finetune", "field_distillation")
    }


def federated(folder: Path) -> dict[tuple[str, int], list[Planned]]:
    """Return the runs of one volume that three hospitals hold, by method and rounds."""
    return {
        (method, rounds): [
            (
                folder / "federated" / slug(method, str(rounds), str(seed)),
                [
                    "scenario=cine_domain",
                    "model=siren",
                    "timeline.stages=[[early,middle,late]]",
                    *overrides,
                    f"timeline.rounds={rounds}",
                    f"learner.steps={steps // rounds}",
                    f"seed={seed}",
                ],
            )
            for seed in SEEDS
        ]
        for method, (several, steps, overrides) in FEDERATED.items()
        for rounds in several
    }


TOGETHER = ["timeline.stages=[[early,middle,late]]", "timeline.rounds=20", "learner.steps=100"]
FIXED = ["model=diner", "strategy=field_distillation", "strategy.frozen=true", "strategy.weight=0"]
OWN = {
    "DINER, one volume over time, network fixed after stage 1": FIXED,
    "DINER, a patient per site over time, network fixed after stage 1": [
        *FIXED,
        "scenario.shared=false",
    ],
    "DINER, a patient per site at once, network averaged": [
        "model=diner",
        "strategy=finetune",
        "scenario.shared=false",
        *TOGETHER,
    ],
    "SIREN, a patient per site at once, 16 numbers of latent": [
        "model=siren",
        "model.latent=16",
        "strategy=finetune",
        "scenario.shared=false",
        *TOGETHER,
    ],
}


def own(folder: Path) -> dict[str, list[Planned]]:
    """Return the runs in which something stays at each site, or does not change."""
    return {
        what: [
            (
                folder / "own" / f"{number}-{seed}",
                ["scenario=cine_domain", *overrides, f"seed={seed}"],
            )
            for seed in SEEDS
        ]
        for number, (what, overrides) in enumerate(OWN.items())
    }


def report(folder: Path, lines: list[str]) -> None:
    """Add the tables of what is complete."""
    rows, single = [], []
    for (model, strategy), found in complete(domain(folder)).items():
        learned, first, last = (
            [r["matrix"][t][s] for r in found] for t, s in ((0, 0), (-1, 0), (-1, -1))
        )
        rows.append([model, strategy, learned, first, last, seconds(found)])
        ends = [extremes(Results.of(json.dumps(results).encode())) for results in found]
        scores = [[end[word][n] for end in ends] for word in ends[0] for n in (1, 2)]
        single.append([model, strategy, *scores])
    lines += [
        "### Frames over time",
        "",
        "Phantom, 12 frames of 64 x 64 in three stages of four; PSNR, mean over a stage's frames.",
        "`joint` is pooled and cumulative: the same steps per stage, over all frames seen.",
        "",
    ]
    heads = ("model", "strategy", "first frames when learned", "at the end", "last frames", "s")
    lines += markdown(heads, rows)
    lines += ["Single frames at the end:", ""]
    heads = ("model", "strategy", *(f"{w} {s}" for w in ENDS for s in ("PSNR", "SSIM")))
    lines += markdown(heads, single)
    rows = []
    for (data, model, strategy), found in complete(signal(folder)).items():
        before, after = ([r["matrix"][t][0] for r in found] for t in (0, 1))
        dice = [r["secondary"]["dice"]["matrix"][1][1] for r in found]
        rows.append([data, model, strategy, before, after, dice])
    lines += [
        *picture("frame by frame, and the first frames over stages", "fields_curves"),
        *picture("first and last frame at the end", "fields_domain"),
        "### First the image, then its mask",
        "",
    ]
    lines += markdown(["data", "model", "strategy", "image before", "image after", "Dice"], rows)
    rows = []
    for (method, rounds), found in complete(federated(folder)).items():
        avg = [r["metrics"]["avg"] for r in found]
        sent = [fmean(field_figures.megabytes(r) for r in found)]
        rows.append([method, str(rounds), avg, sent, seconds(found)])
    lines += [
        *picture("the image alone, then with its mask", "fields_signal"),
        "### One volume, three hospitals",
        "",
        f"Each holds four frames and takes {LOCAL} steps in all (SIREN), however many the rounds.",
        "The server of server distillation takes 600 more per round.",
        "",
    ]
    lines += markdown(["method", "rounds", "PSNR", "MB sent", "s"], rows)
    lines += picture("PSNR against rounds and bytes", "fields_federated")
    rows = []
    for what, found in complete(own(folder)).items():
        rows.append([what, *([r["matrix"][-1][site] for r in found] for site in range(3))])
    lines += [
        "### Tables and latents",
        "",
        "A DINER whose network is fixed learns rows of its table alone, which is close to a",
        "look-up table: nothing is forgotten, and only rows are learned. PSNR at the end.",
        "",
    ]
    lines += markdown(["what", "early", "middle", "late"], rows)


def picture(title: str, name: str) -> list[str]:
    """Return lines that show a figure of `docs/`."""
    return [f"![{title}](../docs/{name}.png)", ""]


def draw(folder: Path) -> None:
    """Draw into `docs/` what is complete, of the phantom alone; fields need their weights."""
    frames, masks = domain(folder), signal(folder)
    phantom = {key[1:]: runs[0][0] for key, runs in masks.items() if key[0] == "phantom"}
    if found := whole(federated(folder)):
        field_figures.federation(found, DOCS / "fields_federated.png")
    if found := whole(frames):
        field_figures.curves(found, DOCS / "fields_curves.png")
        runs = {key: planned[0][0] for key, planned in frames.items()}
        if all((run / "checkpoint").is_dir() for run in runs.values()):
            field_figures.reconstructions(runs, heart("cine_domain"), DOCS / "fields_domain.png")
    if whole(masks) and all((run / "checkpoint").is_dir() for run in phantom.values()):
        field_figures.masks(phantom, heart("cine_signal"), DOCS / "fields_signal.png")


def heart(scenario: str) -> Volume:
    """Return what was learned with the first seed."""
    config = Config.parse(compose([f"scenario={scenario}", "model=siren", "strategy=finetune"]))
    volume: Volume = config.job.scenario.volume("", None, SEEDS[0])
    return volume


def whole(plan: Mapping[K, Sequence[Planned]]) -> dict[K, list[dict[str, Any]]]:
    """Return the results of a plan, or none where part of it was not run."""
    found = complete(plan)
    return found if found.keys() == plan.keys() else {}


def complete(plan: Mapping[K, Sequence[Planned]]) -> dict[K, list[dict[str, Any]]]:
    """Return the results of what was run with every seed."""
    found = {key: [completed(folder) for folder, _ in runs] for key, runs in plan.items()}
    return {key: [r for r in several if r] for key, several in found.items() if None not in several}


def seconds(found: Iterable[dict[str, Any]]) -> list[float]:
    """Return the mean seconds of training."""
    return [fmean(results["seconds"]["train"] for results in found)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "fields")
    parser.add_argument("--lanes", type=int, default=max(1, (os.cpu_count() or 2)))
    parser.add_argument("--report", action="store_true", help="run nothing, only write")
    parser.add_argument("--speed", action="store_true", help="only compare speeds")
    parser.add_argument("--repeats", type=int, default=9, help="pairs of the comparison")
    given = parser.parse_args()
    if given.speed:
        field_speed.measure(MODELS, given.repeats)
        return
    plans: dict[str, Mapping[Any, Sequence[Planned]]] = {
        "frames": domain(given.out),
        "masks": signal(given.out),
        "federation": federated(given.out),
        "tables": own(given.out),
    }
    if not given.report:
        for what, plan in plans.items():
            run_all([run for several in plan.values() for run in several], given.lanes, what)
    check_whole(given.out, ROOT / "benchmarks" / "fields.tar.xz")
    lines = [
        "# What neural fields keep",
        "",
        f"Written by `python -m benchmarks.fields`. PSNR in dB; mean over seeds "
        f"{', '.join(map(str, SEEDS))} and range. Seconds are of training, with two runs at a time",
        "on two cores. `benchmarks/fields.tar.xz` holds what every run left, as that of comparison",
        "does. The server's steps were chosen on seed 10.",
        "",
    ]
    report(given.out, lines)
    write_section("fields", "\n".join(lines))
    draw(given.out)


if __name__ == "__main__":
    main()
