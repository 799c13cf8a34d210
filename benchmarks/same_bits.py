"""Does a change leave every number as it was? `python benchmarks/same_bits.py FILE`.

Runs the smallest experiment of every strategy, aggregation, privacy rule, model and scenario
without files in one process, and writes their digests, scores and bytes to FILE. With a second
file, written before a change on the same machine, it compares:

    git stash; python benchmarks/same_bits.py before.json; git stash pop
    python benchmarks/same_bits.py after.json before.json
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMON = ["engine=inprocess", "tracking.enabled=false", "run.figures=false", "timeline.rounds=2"]
SLICES = [
    *COMMON, "scenario.size=32", "scenario.patients=6", "scenario.slices=2",
    "scenario.strength=1.0", "learner.steps=3",
]  # fmt: skip
IMAGES = [*SLICES, "model.channels=[4,8]"]
FIELD = [
    *COMMON, "scenario=cine_domain", "scenario.size=16", "learner.batch_size=128",
    "learner.steps=40",
]  # fmt: skip
SMALL_FIELD = [*FIELD, "model=siren", "model.width=24"]
MIXED = [
    "models.large.name=multitask_unet", "models.large.channels=[8,16]",
    "models.large.convolutions=1", "models.small.name=plain_unet", "models.small.channels=[4,8]",
    "models.large.norm=instance", "models.small.norm=instance",
    *(f"sites.{site}.model={'large' if site in 'ACE' else 'small'}" for site in "ABCDEF"),
]  # fmt: skip
SWEEPS = {
    "strategy": [
        *IMAGES,
        "strategy=cauaug,ewc,fedprox,finetune,individual,joint,lwf,mas,mib,plop,replay,souvenir,"
        "ted,tkrl",
    ],
    "batch norm": [*IMAGES, "model.norm=batch", "strategy=fedbn,ted"],
    "two models": [*IMAGES, *MIXED, "strategy=contrastive,finetune"],
    "fields": [
        *SMALL_FIELD,
        "strategy=field_distillation,field_server_distillation,finetune,individual",
    ],
    "field models": [*FIELD, "strategy=field_distillation", "model=siren,finer,pe,diner"],
    "models": [
        *SLICES, "strategy=lwf",
        "model=unet,plain_unet,multitask_unet,segresnet",
    ],
    "aggregations": [
        *IMAGES, "strategy=lwf", "timeline.stages=[[A,B,C,D,E],[F]]",
        "timeline.participation=cumulative",
        "aggregation=fedadam,fedavgm,krum,median,multikrum,trimmedmean",
    ],
    "privacy": [
        *IMAGES, "strategy=lwf", "privacy=central_dp", "timeline.stages=[[A,B,C,D],[E,F]]",
        "privacy.noise=0.001", "privacy.seed=1",
    ],
    "fault plans": [
        *IMAGES, "strategy=ted", "faults.crash=0.2", "faults.flip=0.2", "timeline.dropout=0.2",
        "timeline.stragglers=0.1", "engine.quorum=1", "timeline.participation=cumulative",
    ],
    "pool": [*IMAGES, "strategy=ted,replay", "timeline.centralised=true"],
    "ct": [*IMAGES, "scenario=ct_phantom", "model=unet", "strategy=ted"],
}  # fmt: skip
KEPT = ("weights_sha256", "matrix", "cases", "metrics", "bytes", "stored", "data_sha256", "stages")


def main(out: Path, before: Path | None = None) -> int:
    """Write what all experiments give; return how many differ from those before."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, overrides in SWEEPS.items():
            place = Path(folder) / name.replace(" ", "-")
            varied = [part.partition("=")[0] for part in overrides if _several(part)]
            command = [sys.executable, "simulate.py", "-m", f"run.dir={place}", *overrides]
            subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
            for run in sorted(place.glob("*/results.json")):
                results = json.loads(run.read_text())
                key = f"{name}: {results[varied[0]] if varied else results['strategy']}"
                found[key] = {part: results[part] for part in KEPT}
    out.write_text(json.dumps(found, indent=1))
    known = json.loads(before.read_text()) if before else found
    differ = 0
    for key in sorted(found.keys() | known.keys()):
        apart = [p for p in KEPT if found.get(key, {}).get(p) != known.get(key, {}).get(p)]
        differ += bool(apart)
        sha = found.get(key, {}).get("weights_sha256", "none")[:16]
        print(f"{key:45} {sha:18} {'differs in ' + ', '.join(apart) if apart else 'equal'}")
    return differ


def _several(override: str) -> bool:
    key, _, value = override.partition("=")
    return "," in value and "[" not in value and "." not in key


if __name__ == "__main__":
    sys.exit(min(main(*map(Path, sys.argv[1:])), 1))
