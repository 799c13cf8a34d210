"""What hospitals that send rubbish cost, by aggregation: one table.

`python -m benchmarks.robustness` runs what has not been run yet and writes a section of
`benchmarks/RESULTS.md`; `--report` only writes.
"""

from collections.abc import Sequence

import fedcl  # noqa: F401  isort: skip  (sets the environment)

from benchmarks.running import completed, markdown, options, run_all, slug, write_section

SEEDS = (0, 1)
COMMON = (
    "scenario=phantom", "strategy=finetune", "timeline.stages=[[A,B,C,D,E,F]]",
    "learner.epochs=1", "run.figures=false",
)  # fmt: skip
FAULTS: dict[str, tuple[str, ...]] = {
    "none": (),
    "F not finite": ("faults.nan={F:1}",),
    "F the other way": ("faults.flip={F:1}",),
    "F 10 times too far": ("faults.scale={F:1}",),
    "E, F the other way, 5 times too far": ("faults.scale={E:1,F:1}", "faults.factor=-5"),
}
RULES: dict[str, tuple[str, ...]] = {
    "fedavg": (),
    "fedavg, norm_bound=2": ("engine.norm_bound=2",),
    "median": ("aggregation=median",),
    "trimmedmean": ("aggregation=trimmedmean",),
    "krum, malicious=1": ("aggregation=krum", "aggregation.malicious=1"),
    "multikrum, malicious=1, select=3": (
        "aggregation=multikrum", "aggregation.malicious=1", "aggregation.select=3",
    ),
}  # fmt: skip
TEXT = f"""## robustness

Six hospitals in one stage, `{" ".join(COMMON)}`, seeds {", ".join(map(str, SEEDS))}; what E or F
sends in every round is spoilt after its training. Dice at the hospitals that are honest in all
columns, A to D: mean over cases, sites and seeds (range over seeds). The trimmed mean leaves
out one of six at each end. Regenerate with `python -m benchmarks.robustness`.

"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the section."""
    given = options(__doc__, arguments, "robustness")
    planned = {
        (rule, fault): [
            (
                given.out / slug(rule, fault, str(seed)),
                [*COMMON, *RULES[rule], *FAULTS[fault], f"seed={seed}"],
            )
            for seed in SEEDS
        ]
        for rule in RULES
        for fault in FAULTS
    }
    if not given.report:
        run_all([run for runs in planned.values() for run in runs], given.lanes, "robustness")
    rows = []
    for rule in RULES:
        cells: list[str | list[float]] = [rule]
        for fault in FAULTS:
            done = [completed(folder) for folder, _ in planned[rule, fault]]
            known = [one for one in done if one is not None]
            cells.append([sum(one["matrix"][-1][:4]) / 4 for one in known] if known else "-")
        rows.append(cells)
    write_section("robustness", TEXT + "\n".join(markdown(["", *FAULTS], rows)))


if __name__ == "__main__":
    main()
