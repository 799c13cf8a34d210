"""The methods that are compared, their parts, and the values of their weights that are tried."""

from dataclasses import dataclass

Values = tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """What is run under one name.

    Attributes:
        overrides: what makes it.
        grid: the values tried when tuning, each a list of overrides; none to take none.
        beyond: those below and above the grid, tried as well where the best lies at that edge.
        like: the method whose tuned values it takes.
        part: the section of the report: "methods", or "parts" of them, which are run without
            augmentation.
    """

    overrides: Values
    grid: tuple[Values, ...] = ()
    beyond: tuple[Values, ...] = ()
    like: str | None = None
    part: str = "methods"

    @property
    def strategy(self) -> str:
        """The strategy's name, which is that of the page on it."""
        return self.overrides[0].removeprefix("strategy=")


def weighed(name: str, keys: str, *values: float) -> Method:
    """Return a method with a weight, or several that are one.

    Args:
        name: of the strategy.
        keys: of the weights.
        values: those tried, with one below and one above them that are where the best is next to
            them.
    """
    below, *grid, above = (
        tuple(f"strategy.{key}={value}" for key in keys.split()) for value in values
    )
    return Method((f"strategy={name}",), tuple(grid), (below, above))


def weights(keys: str, *tried: tuple[float, ...]) -> tuple[Values, ...]:
    """Return a grid of several weights."""
    names = [f"strategy.{key}" for key in keys.split()]
    return tuple(
        tuple(f"{key}={value}" for key, value in zip(names, one, strict=True)) for one in tried
    )


def part(name: str, *overrides: str) -> Method:
    """Return a method with something left out, or otherwise; its weights stay those tuned."""
    return Method((f"strategy={name}", *overrides), like=name, part="parts")


CORRECTED = "strategy.correct=40"

METHODS: dict[str, Method] = {
    "finetune": Method(("strategy=finetune",)),
    "joint": Method(("strategy=joint",)),
    "joint, pooled": Method(("strategy=joint", "timeline.centralised=true")),
    "individual": Method(("strategy=individual",)),
    "replay": Method(("strategy=replay",)),
    "lwf": weighed("lwf", "kd", 0.1, 0.3, 1, 3, 10, 30),
    "mib": weighed("mib", "kd", 0.1, 0.3, 1, 3, 10, 30),
    "plop": weighed("plop", "pod", 0.01, 0.03, 0.1, 0.3, 1, 3),
    "ewc": weighed("ewc", "weight", 0.03, 0.1, 0.3, 1, 3, 10),
    "mas": weighed("mas", "weight", 0.003, 0.01, 0.03, 0.1, 0.3, 1),
    "fedprox": weighed("fedprox", "mu", 0.0001, 0.001, 0.01, 0.1, 1, 10),
    "ted": Method(
        ("strategy=ted",),
        weights(
            "weight.kd weight.ska weight.akt",
            *((0.25, 0.25, 0.1), (1, 1, 0.1), (0.25, 0.25, 0.4), (3, 3, 0.1)),
        ),
        weights("weight.kd weight.ska weight.akt", (0.08, 0.08, 0.03), (10, 10, 0.3)),
    ),
    "cauaug": weighed("cauaug", "kd dom", 0.03, 0.1, 0.3, 1, 3, 10),
    "tkrl": weighed("tkrl", "pcd vma", 0.003, 0.01, 0.03, 0.1, 0.3, 1),
    "souvenir": weighed("souvenir", "seg", 0.1, 0.3, 0.5, 1, 2, 4),
    "harmony": Method(
        ("strategy=harmony",),
        weights("kd seg", (2, 0), (4, 0), (2, 0.2), (2, 0.5)),
        weights("kd seg", (1, 0), (2, 1)),
    ),
    "harmony, corrected": Method(("strategy=harmony", CORRECTED), like="harmony"),
    **{
        f"ted: {terms}": part("ted", f"strategy.terms={terms}")
        for terms in ("kd", "kd+ska", "kd+akt", "kd+akt+gugf", "kd+ska+akt")
    },
    "cauaug: DomAug alone": part("cauaug", "strategy.ana=false"),
    "cauaug: AnaAug alone": part("cauaug", "strategy.kd=0", "strategy.dom=0"),
    "tkrl: PCD alone": part("tkrl", "strategy.vma=0"),
    "tkrl: VMA alone": part("tkrl", "strategy.pcd=0"),
    "souvenir: teacher alone": part("souvenir", "strategy.seg=0"),
    "souvenir: labels alone": part("souvenir", "strategy.kd=0"),
    "souvenir: shapes alone": part("souvenir", "strategy.look=false"),
    "souvenir: looks alone": part("souvenir", "strategy.shape=false"),
    "harmony: shapes alone": part("harmony", "strategy.look=false"),
    "harmony, corrected: teacher alone": part("harmony", CORRECTED, "strategy.seg=0"),
    "harmony, corrected: labels alone": part(
        "harmony", CORRECTED, "strategy.kd=0", "strategy.seg=0.5"
    ),
    "harmony, corrected: looks alone": part("harmony", CORRECTED, "strategy.shape=false"),
    "harmony, corrected, pooled": part("harmony", CORRECTED, "timeline.centralised=true"),
    "ted, both teachers": part("ted", "strategy.teacher.refresh=both"),
    "ted, pooled": part("ted", "timeline.centralised=true"),
    "finetune, pooled": Method(("strategy=finetune", "timeline.centralised=true"), part="parts"),
    **{
        f"{name}, batch norm": Method((f"strategy={name}", "model.norm=batch"), part="parts")
        for name in ("finetune", "fedbn")
    },
}
