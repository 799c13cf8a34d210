"""What neural fields cost and keep: `python -m benchmarks.fields`.

Part `speed` compares milliseconds per step with a plain PyTorch loop of the same mathematics
(alternating, median of several), without and with distillation. The other parts run what
`RESULTS-fields.md` shows; a run that is complete is not repeated.
"""

import argparse
import statistics
import time

import fedcl  # noqa: F401  isort: skip  (sets the environment)

import torch
from torch import nn
from torch.nn import functional as F

from fedcl import learner
from fedcl.config import Learner
from fedcl.field import Field
from fedcl.models.base import FieldModel
from fedcl.plugins import MODEL, STRATEGY
from fedcl.seeding import seeded, torch_rng
from fedcl.space import Part, Space
from fedcl.step import Lesson, Rehearsal
from sites.base import Samples

MODELS = ("pe", "siren", "finer", "diner")
SHAPE = (12, 1, 64, 64)
STEPS, BATCH = 200, 1024


def speed(repeats: int) -> None:
    """Print milliseconds per step and ratios."""
    torch.set_num_threads(1)
    old, new = Part((0, 4), (0, 1), (0,)), Part((4, 8), (0, 1), (0,))
    task = Field(Space(SHAPE), {"old": old, "new": new}, ("signal",))
    print("model   plain ms   fedcl/plain   distilled/fitted   distilled plain/fitted plain")
    for name in MODELS:
        model: FieldModel = MODEL.make({"name": name})
        inputs = task.space.coordinates(new.positions(task.space))
        samples = Samples(inputs, torch.rand(len(inputs), 1))
        past = task.past(["old"], lambda at: torch.rand(len(at), 1), torch.device("cpu"))
        taught = Rehearsal(past, aligned=False, ratio=1.0)
        times: dict[str, list[float]] = {}
        for _ in range(repeats):
            for kind in ("plain", "fedcl", "plain, distilled", "fedcl, distilled"):
                with seeded("speed"):
                    network = task.build(model, ["old", "new"]).train()
                rehearsal = taught if "distilled" in kind else None
                work = plain if "plain" in kind else ours
                began = time.perf_counter()
                work(task, model, network, samples, rehearsal)
                times.setdefault(kind, []).append((time.perf_counter() - began) / STEPS * 1e3)

        def ratio(one: str, other: str, times: dict[str, list[float]] = times) -> float:
            pairs = zip(times[one], times[other], strict=True)
            return statistics.median(a / b for a, b in pairs)

        print(
            f"{name:6}  {statistics.median(times['plain']):8.2f}   {ratio('fedcl', 'plain'):11.3f}"
            f"   {ratio('fedcl, distilled', 'fedcl'):16.3f}"
            f"   {ratio('plain, distilled', 'plain'):16.3f}"
        )


def ours(
    task: Field, model: FieldModel, network: nn.Module, samples: Samples, past: Rehearsal | None
) -> None:
    """Train as a hospital does."""
    teacher = nn.Identity() if past is not None else None
    learner.train(
        Lesson(task=task, student=network, teacher=teacher, past=past, rate=model.rate),
        samples,
        Learner(steps=STEPS, batch_size=BATCH, decay=0.1, amp=False),
        STRATEGY.make({"name": "field_distillation"}),
        lambda share: 5e-4 * 0.1**share,
        torch_rng("speed"),
    )


def plain(
    task: Field, model: FieldModel, network: nn.Module, samples: Samples, past: Rehearsal | None
) -> None:
    """Do the same, and nothing else."""
    groups = [
        {"params": [parameter], "factor": model.rate(name)}
        for name, parameter in network.named_parameters()
    ]
    optimiser = torch.optim.Adam(groups, lr=5e-4, fused=True)
    rng = torch_rng("speed")
    for number in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * 5e-4 * 0.1 ** (number / STEPS)
        index = torch.randint(len(samples), (BATCH,), generator=rng)
        loss = F.mse_loss(network(samples.inputs[index]), samples.targets[index])
        if past is not None:
            index = torch.randint(len(past.samples), (BATCH,), generator=rng)
            outputs = network(past.samples.inputs[index])
            loss = loss + past.ratio * F.mse_loss(outputs, past.samples.targets[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    speed(parser.parse_args().repeats)


if __name__ == "__main__":
    main()
