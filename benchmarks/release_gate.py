"""Does the release gate refuse what it should, and nothing else?

For every seed two stages of three hospitals that are alike, A and B and then C, judged with
release.on_refusal=keep: once as they are, so that nothing is to be refused, and once with the
labels of C the wrong way round.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.running import completed, markdown, options, slug, write_section
from fedcl.app.simulation import simulate
from fedcl.config.hydra import compose

SEEDS = range(20)
COMMON = [
    "scenario=mislabelled", "strategy=finetune", "timeline.stages=[[A,B],[C]]", "timeline.rounds=8",
    "learner.steps=20", "model.channels=[8,16]", "release.on_refusal=keep",
]  # fmt: skip
KINDS = {"as they are": "scenario.wrong=[]", "labels of C flipped": "scenario.wrong=[C]"}
TEXT = f"""## release gate

Three hospitals that are alike, `{" ".join(COMMON)}`, seeds 0 to {max(SEEDS)}; four validation cases
each. How often the model of stage 2 was refused; Dice of the model in use after it at A and B, and
what that of stage 2 had on their validation cases: mean over seeds (range). Regenerate with
`python -m benchmarks.release_gate`.

"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the section."""
    given = options(__doc__, arguments, "gate")
    sys.path.insert(0, str(Path(__file__).parent / "plugins"))
    rows: list[list[str | list[float]]] = []
    for kind, wrong in KINDS.items():
        runs = []
        for seed in SEEDS:
            folder = given.out / slug(kind, str(seed))
            if not given.report and completed(folder) is None:
                quiet = ["engine=inprocess", "tracking.enabled=false", "run.figures=false"]
                simulate(compose([*COMMON, *quiet, wrong, f"seed={seed}"]), folder)
            runs.append(completed(folder))
        known = [one for one in runs if one is not None]
        refused = sum(not one["release"][1]["released"] for one in known)
        judged = [one["release"][1]["hospitals"] for one in known]
        rows.append(
            [
                kind,
                f"{refused} of {len(known)}",
                [one["matrix"][-1][at] for one in known for at in (0, 1)],
                [site["released"] for one in judged for site in one.values()],
                [site["candidate"] for one in judged for site in one.values()],
            ]
        )
    heads = ["", "refused", "Dice in use, test", "in use, validation", "stage 2, validation"]
    write_section("release gate", TEXT + "\n".join(markdown(heads, rows)))


if __name__ == "__main__":
    main()
