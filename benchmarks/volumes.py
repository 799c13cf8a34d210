"""What volumes cost: `python -m benchmarks.volumes [speed|memory|startup]`, all three without.

- `speed`: seconds of a run on patches beside loops of MONAI's own parts that do the same steps and
  the same evaluations: one as tutorials have it, one tuned (voxels to centre patches at are found
  once, volumes are not copied, tensors carry no history). In turn, in one process.
- `memory`: the most that a process holds, with few volumes and ten times as many.
- `startup`: seconds until training begins, with prepared volumes to be made, and made before.
"""

import argparse
import cProfile
import itertools
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.running import ROOT, markdown, write_section

Effort = dict[str, Any]  # of `fedcl.effort.Clock`: "seconds" and "cpu"
COMMON = [
    "strategy=finetune", "engine=inprocess", "tracking.enabled=false", "run.figures=false",
    "scenario=folder", "scenario.spatial_dims=3", "scenario.patient='^(.+)$'",
    "scenario.labels=[0,1,2]", "model=unet", "model.channels=[8,16,32]", "learner.batch_size=4",
]  # fmt: skip
PATCH, CLASSES, BATCH, FOREGROUND, OVERLAP, ROUNDS, STEPS = (32, 32, 32), 3, 4, 0.5, 0.5, 4, 12
FILES, GRID = (1.0, 1.0, 2.0), (1.25, 1.25, 2.5)
"""Voxels of the files of `speed` and what they are brought to, in mm, (column, row, slice)."""
PARTS = ("training", "evaluating", "whole", "whole, MONAI testing once")
LOOPS = {"tuned": True, "as in tutorials": False}
CACHES = {"disk, cold": "disk", "disk, warm": "disk", "memory": "memory"}


def generate(folder: Path, count: int, shape: Sequence[int], files: Sequence[float]) -> None:
    """Write noisy volumes of a shape, voxels of `files` mm, and masks of two ellipsoids, NIfTI."""
    import nibabel as nib
    import numpy as np

    affine = np.diag([*files, 1.0])
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng([number, count])
        mask = np.zeros(tuple(shape), np.uint8)
        for value in (1, 2):
            centre, radii = rng.uniform(-0.4, 0.4, 3), rng.uniform(0.25, 0.45, 3)
            away = sum(((x - c) / r) ** 2 for x, c, r in zip(axes, centre, radii, strict=True))
            mask[away < 1] = value
        image = (100 * mask + rng.normal(200, 50, shape)).astype(np.int16)
        for kind, values in (("images", image), ("masks", mask)):
            volume = nib.Nifti1Image(values, affine)
            volume.header.set_xyzt_units("mm")
            nib.save(volume, folder / kind / f"{folder.name}{number}.nii.gz")


def in_fedcl(values: Mapping[str, Any]) -> dict[str, Effort]:
    """Run fedcl; return what training, evaluating and the whole took."""
    from fedcl.app import simulation
    from fedcl.effort import Clock

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        results = simulation.simulate(values, Path(folder) / "run")
    whole = clock.effort()
    train, evaluate = (
        {"seconds": results.seconds[key], "cpu": results.cpu_seconds[key]}
        for key in ("train", "evaluate")
    )
    return dict(zip(PARTS, (train, evaluate, whole, whole), strict=True))


def in_monai(config: Any, site: Path, tuned: bool) -> dict[str, Effort]:
    """Do with MONAI's parts what a run of this `Config` does; return what it took."""
    import torch
    from monai.data import DataLoader, set_track_meta
    from monai.losses import DiceCELoss

    from fedcl.effort import Clock

    whole, job = Clock(), config.job
    set_track_meta(True)  # the size of the files' voxels is needed
    data = {part: prepared(site / part, job.augment, tuned) for part in ("train", "val", "test")}
    set_track_meta(not tuned)
    loader = DataLoader(data["train"], batch_size=BATCH, shuffle=True, num_workers=0)
    batches: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(loader))
    network, loss = job.network("unet", [site.name]), DiceCELoss(to_onehot_y=True, softmax=True)

    def trained() -> None:
        network.train()
        optimiser = torch.optim.Adam(network.parameters(), job.learner.rate(0), fused=True)
        for batch in itertools.islice(batches, STEPS):
            optimiser.zero_grad()
            loss(network(batch["image"]), batch["label"]).backward()
            optimiser.step()

    spent: dict[str, Effort] = {}

    def timed(what: str, act: Callable[[], None]) -> None:
        clock = Clock()
        act()
        took, before = clock.effort(), spent.get(what, {})
        spent[what] = {key: took[key] + before.get(key, 0.0) for key in ("seconds", "cpu")}

    timed("again", lambda: scored(network, data["test"]))
    for _ in range(ROUNDS):
        timed("training", trained)
        timed("again", lambda: scored(network, data["val"], briefly=True))
    timed("last", lambda: scored(network, data["test"]))
    again, total = spent["again"], whole.effort()
    set_track_meta(True)
    every = {key: again[key] + value for key, value in spent["last"].items()}
    once = {key: total[key] - value for key, value in again.items()}
    return dict(zip(PARTS, (spent["training"], every, total, once), strict=True))


def prepared(folder: Path, augment: Any, tuned: bool) -> Any:
    """Return MONAI's data set of the volumes in a folder; those in `train` are cut and varied."""
    from monai import transforms as mt
    from monai.data import CacheDataset

    keys, sought = ["image", "label"], dict[str, Any]()
    steps: list[Any] = [
        mt.LoadImaged(keys), mt.EnsureChannelFirstd(keys), mt.CopyItemsd("label", names="own"),
        mt.Orientationd([*keys, "own"], "RAS", labels=None),
        mt.Spacingd(keys, GRID, mode=("bilinear", "nearest")), mt.NormalizeIntensityd("image"),
    ]  # fmt: skip
    if tuned:
        sought = {"fg_indices_key": "label_fg_indices", "bg_indices_key": "label_bg_indices"}
        steps += [mt.FgBgToIndicesd("label"), mt.EnsureTyped([*keys, "own"], track_meta=False)]
    if folder.name == "train":
        shares = FOREGROUND, 1 - FOREGROUND, 1
        steps.append(mt.RandCropByPosNegLabeld(keys, "label", PATCH, *shares, **sought))
        steps += [mt.SelectItemsd(keys), *augment.transforms(3)]
    images = sorted((folder / "images").iterdir())
    files = [{"image": one, "label": folder / "masks" / one.name} for one in images]
    return CacheDataset(files, steps, progress=False, copy_cache=not tuned)


def scored(network: Any, cases: Any, briefly: bool = False) -> None:
    """Score a network on prepared cases, on their own grid, by windows: Dice alone or all three."""
    import torch
    from monai.inferers import sliding_window_inference
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
    from monai.networks import one_hot

    network.eval()
    for case in cases:
        own = case["own"][None]
        with torch.no_grad():
            logits: Any = sliding_window_inference(
                case["image"][None], PATCH, 8, network, overlap=OVERLAP, mode="gaussian"
            )
            there = torch.nn.functional.interpolate(logits, own.shape[2:], mode="trilinear")
        found, wanted = (one_hot(x, CLASSES) for x in (there.argmax(1, keepdim=True), own))
        compute_dice(found, wanted, include_background=False)
        if not briefly:
            compute_iou(found, wanted, include_background=False)
            compute_hausdorff_distance(found, wanted, percentile=95, spacing=list(FILES))


def speed(place: Path, repeats: int) -> list[str]:
    """Return a table of fedcl's run beside both loops, without and with augmentation."""
    import torch

    from fedcl.config.hydra import compose
    from fedcl.config.schema import Config

    torch.set_num_threads(1)
    site = place / "sites" / "A"
    for part, count in (("train", 16), ("val", 2), ("test", 4)):
        generate(site / part, count, (80, 80, 50), FILES)
    own = [
        f"scenario.root={site.parent}", "scenario.image='{part}/images/{case}'",
        "scenario.mask='{part}/masks/{case}'", f"scenario.spacing={[*reversed(GRID)]}",
        f"scenario.patch={[*PATCH]}", f"scenario.foreground={FOREGROUND}",
        f"scenario.overlap={OVERLAP}", f"timeline.rounds={ROUNDS}", f"learner.steps={STEPS}",
    ]  # fmt: skip
    rows = []
    for augment in ("none", "light"):
        values = compose([*COMMON, *own, f"augment={augment}"])
        config, found = Config.parse(values), dict[str, list[dict[str, Effort]]]()
        for number in range(repeats + 1):  # the first warms up
            order = ["fedcl", *LOOPS]
            for name in order[number % 3 :] + order[: number % 3]:
                fedcl = name == "fedcl"
                took = in_fedcl(values) if fedcl else in_monai(config, site, LOOPS[name])
                found.setdefault(name, []).append(took)
        for name, what in itertools.product(LOOPS, PARTS):
            both = zip(found["fedcl"][1:], found[name][1:], strict=True)
            pairs = [(a[what], b[what]) for a, b in both]
            wall, cpu = ([a[key] / b[key] for a, b in pairs] for key in ("seconds", "cpu"))
            seconds = [f"{median(pair[side]['seconds'] for pair in pairs):.2f}" for side in (0, 1)]
            rows.append([augment, name, what, *seconds, spread(wall), spread(cpu)])
    about = (
        f"{ROUNDS} rounds of {STEPS} steps, batches of {BATCH} patches of 32x32x32 out of volumes "
        f"of 64x64x40, U-Net [8,16,32], one thread; medians of {repeats} pairs with their range."
    )
    heads = ["augment", "MONAI loop", "what", "fedcl s", "MONAI s", "ratio, wall", "ratio, cpu"]
    return [about, "", *markdown(heads, rows)]


def watched(about: Mapping[str, Any], arguments: Sequence[str]) -> int:
    """Simulate as `simulate.py` does, and write down when training begins and the memory held."""
    profile = cProfile.Profile()
    if about.get("profile"):
        profile.enable()
    from fedcl.app.simulate import main as simulate
    from fedcl.learning import loop

    seen, train = dict[str, Any](), loop.train

    def first(*given: Any, **named: Any) -> dict[str, float]:
        if not seen:
            profile.disable()
            met = (Path(about["run"]) / "config.yaml").stat().st_mtime  # once all data are read
            seen.update(met=met - about["began"], begins=time.time() - about["began"])
            seen["cpu"] = time.process_time()
            if about.get("stop"):
                raise KeyboardInterrupt
        return train(*given, **named)

    with patch.object(loop, "train", first):
        code = simulate(arguments)
    status = Path("/proc/self/status").read_text()  # `getrusage` may tell of the parent process
    seen["memory"] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    seen["profile"] = hottest(profile) if about.get("profile") else []
    Path(about["told"]).write_text(json.dumps(seen))
    return 0 if about.get("stop") else code


def watch(overrides: Sequence[str], cache: Path, **about: bool) -> dict[str, Any]:
    """Simulate in a process of its own; to `stop` where training begins, to `profile` till then."""
    with tempfile.TemporaryDirectory() as folder:
        run, told, place = f"{folder}/run", Path(folder) / "told", {"FEDCL_CACHE": str(cache)}
        known = {"run": run, "told": str(told), "began": time.time()} | about
        command = [sys.executable, "-m", "benchmarks.volumes", "watched", json.dumps(known)]
        command += [f"run.dir={run}", *COMMON, *overrides, "augment=none", "timeline.rounds=1"]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | place, capture_output=True)
        if done.returncode or not told.exists():
            raise RuntimeError(done.stderr.decode())
        found: dict[str, Any] = json.loads(told.read_text())
    return found


def memory(place: Path, repeats: int) -> list[str]:
    """Return a table of the most memory held, with 20 and with 200 volumes."""
    rows = []
    for count in (counts := (20, 200)):
        generate(place / str(count) / "A", count, (96, 96, 64), (1.0, 1.0, 1.0))
    for name in CACHES:
        found: dict[int, list[float]] = {count: [] for count in counts}
        for number, count in itertools.product(range(repeats), counts):
            own = [f"scenario.root={place / str(count)}", f"scenario.cache={CACHES[name]}"]
            own += ["scenario.patch=32", "scenario.overlap=0", "learner.epochs=1"]
            own += ["scenario.val=0.1", "scenario.test=0.1"]  # to be done in a minute
            found[count].append(watch(own, place / f"cache-{count}-{number}")["memory"])
        less, more = (median(found[count]) for count in counts)
        ratios = [many / few for few, many in zip(*found.values(), strict=True)]
        rows.append([name, f"{less:.0f}", f"{more:.0f}", f"{more - less:+.0f}", spread(ratios)])
    about = (
        "The most MiB that the process of a whole run holds, libraries included; volumes of "
        f"96x96x64, one patch of 32x32x32 of each; medians of {repeats} runs."
    )
    heads = ["scenario.cache", *(f"{count} volumes" for count in counts), "difference", "ratio"]
    return [about, "", *markdown(heads, rows)]


def startup(place: Path, repeats: int) -> list[str]:
    """Return a table of how long it takes until training begins, and of where the time goes."""
    rows = []
    for count in (10, 1000):
        generate(place / str(count) / "A", count, (32, 32, 16), (1.0, 1.0, 1.0))
        time.sleep(3)  # of files changed just now the cache takes no notice
        for name in CACHES:
            own = [f"scenario.root={place / str(count)}", "scenario.patch=16"]
            own.append(f"scenario.cache={CACHES[name]}")
            caches = [place / f"cache-{count}-{number}" for number in range(repeats)]
            found = [watch(own, cache, stop=True) for cache in caches]
            cells = [spread([one[key] for one in found]) for key in ("met", "begins", "cpu")]
            rows.append([str(count), name, *cells])
            if (count, name) == (1000, "disk, warm"):
                hot = watch(own, caches[0], stop=True, profile=True)["profile"]
    about = (
        "Seconds from the start of the process: until all volumes are read and checked, and until "
        "training begins (a quarter of the volumes, for testing, has been scored by then); "
        f"volumes of 32x32x16; medians of {repeats} with their range."
    )
    heads = ["volumes", "scenario.cache", "read, wall", "training begins, wall", "cpu"]
    return [about, "", *markdown(heads, rows), "The last but one, under cProfile:", "", *hot]


def hottest(profile: cProfile.Profile, most: int = 14) -> list[str]:
    """Return a table of what takes longest by itself, and of a hospital's with what it calls."""
    stats: dict[Any, Any] = vars(pstats.Stats(profile))["stats"]
    places = ("fedcl/data/", "fedcl/hospital/", "fedcl/tasks/", "sites/")
    ours = [key for key in stats if key[0].removeprefix(f"{ROOT}/").startswith(places)]
    ours += [key for key in stats if key[2] == "_find_and_load"]  # imports
    chosen = {*sorted(ours, key=lambda key: -stats[key][3])[: 2 * most]}
    chosen |= {*sorted(stats, key=lambda key: -stats[key][2])[:most]}
    rows = []
    for key in sorted(chosen, key=lambda key: -stats[key][3]):
        file, line, name = key
        short = file.rpartition("site-packages/")[2].removeprefix(f"{ROOT}/")
        _, calls, alone, whole, _ = stats[key]
        where = f"`{name if file == '~' else f'{short}:{line} {name}'}`"
        rows.append([where, str(calls), f"{alone:.2f}", f"{whole:.2f}"])
    return markdown(["function", "calls", "s alone", "s with what it calls"], rows)


def spread(values: Sequence[float]) -> str:
    """Return the median of values, and their range."""
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


CHOICES = {"speed": speed, "memory": memory, "startup": startup}


def main() -> int:
    """Read the command line and run what it asks for."""
    if sys.argv[1:2] == ["watched"]:
        return watched(json.loads(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=CHOICES, help="default: all")
    parser.add_argument("--repeats", type=int, help="default: 5 pairs for speed, else 3 runs")
    parser.add_argument("--write", action="store_true", help="also into RESULTS.md")
    given = parser.parse_args()
    for name in [given.part] if given.part else CHOICES:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["FEDCL_CACHE"] = f"{folder}/cache"
            repeats = given.repeats or (5 if name == "speed" else 3)
            text = "\n".join([f"## Volumes: {name}", "", *CHOICES[name](Path(folder), repeats)])
        print(text, flush=True)
        if given.write:
            write_section(f"volumes, {name}", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
