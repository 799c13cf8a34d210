"""What strategies with a teacher share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcl.arrays import Arrays
from fedcl.errors import ConfigError
from fedcl.learning.strategy import Requirements, StageSummary, Strategy, Teaching
from fedcl.settings import setting
from fedcl.tasks.segmentation import Segmentation
from fedcl.timeline import POOL


@dataclass
class Teacher:
    """Which model teaches; from the second stage on.

    Attributes:
        refresh: "stage", the global model at the end of the previous stage; "round", that
            of the previous round; "ema", an exponential moving average over rounds; "both", that of
            the stage in the method's own terms, and that of the round, from the second on, against
            drift between unequal hospitals: drift * CE(q_round, p) (FedGKD, Yao et al., 2021).
        decay: share of the old average kept per round ("ema").
        drift: weight of the round's model ("both").
    """

    refresh: str = setting("stage", choices=("stage", "round", "ema", "both"))
    decay: float = setting(0.9, low=0, high=1)
    drift: float = setting(0.1, low=0)

    def __post_init__(self) -> None:
        """Raise `ConfigError` where a weight is given that nothing would use."""
        for key, user in (("decay", "ema"), ("drift", "both")):
            given, unset = getattr(self, key), getattr(type(self), key)
            if given != unset and self.refresh != user:
                raise ConfigError(
                    f"strategy.teacher.{key}: only teacher.refresh={user} uses it, not "
                    f"{self.refresh}"
                )
        if self.refresh == "ema" and self.decay == 1:
            raise ConfigError(
                "strategy.teacher.decay: with 1 the average never moves; take refresh=stage"
            )

    @property
    def teaching(self) -> Teaching:
        """See `Strategy.teaching`."""
        if self.refresh == "both":
            return Teaching("stage", drift=self.drift)
        return Teaching(self.refresh, self.decay)


@dataclass
class Distilling(Strategy):
    """A strategy taught by the global model of an earlier time, in terms of segmentation.

    Attributes:
        teacher: which model teaches.
        corrects: whether it makes good for classes that a site does not mark.
    """

    corrects: ClassVar[bool] = False

    teacher: Teacher = setting(factory=Teacher)

    @property
    def requirements(self) -> Requirements:
        """See `Strategy.requirements`."""
        return Requirements(task=Segmentation)

    @property
    def teaching(self) -> Teaching:
        """See `Strategy.teaching`."""
        return self.teacher.teaching

    def check(self, task: Any, model: Any) -> None:
        """See `Strategy.check`."""
        # Corrected labels and answers are of the last outputs alone: coarser ones, judged by the
        # labels as they are, would go on unlearning what a site does not mark.
        if self.corrects and task.candidates and model.judged:
            raise ConfigError(
                "model.supervised: what sites do not mark is made good for the last outputs alone, "
                "coarser ones would unlearn it; take 0"
            )


@dataclass
class Archiving(Distilling):
    """A distilling strategy whose hospitals leave a record of what their images are like."""

    def remember(self, summary: StageSummary) -> Arrays:
        """Return the archive with the hospitals' newest records in it, "STAGE/SITE/...".

        A pool reports about other hospitals in every stage: all its records stay.
        """
        reports = summary.reports
        again = reports.keys() - {POOL}
        old = {k: v for k, v in summary.memory.items() if k.split("/")[1] not in again}
        new = {
            f"{summary.stage}/{site}/{name}": value
            for site, record in reports.items()
            for name, value in record.items()
        }
        return old | new


def hospitals(archive: Mapping[str, Tensor]) -> list[str]:
    """Return whose records an archive holds, "STAGE/SITE" each, in order."""
    return sorted({key.rpartition("/")[0] for key in archive})


def drawn(archive: Mapping[str, Tensor], count: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Draw hospitals from an archive; return their records, stacked, shapes (count, ...)."""
    places = hospitals(archive)
    names = {key.rpartition("/")[2] for key in archive}
    chosen = torch.randint(len(places), (count,), generator=rng).tolist()
    return {n: torch.stack([archive[f"{places[i]}/{n}"] for i in chosen]) for n in sorted(names)}


def check_terms(terms: str, known: Sequence[str]) -> None:
    """Raise `ConfigError` where `strategy.terms`, joined by "+", are not some of `known`."""
    for term in terms.split("+"):
        if term not in known:
            raise ConfigError(
                f"strategy.terms: there is no {term!r}; join some of {', '.join(known)} by '+'"
            )


def used(term: str, terms: str, weights: Any) -> bool:
    """Return whether a term is among `strategy.terms` and has a weight, one of `weights`."""
    return term in terms.split("+") and getattr(weights, term) > 0


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """CE(q, p) = -sum_c q_c log p_c, mean over batch and pixels.

    Args:
        logits: shape (B, K, H, W); p = softmax over K.
        target: the probabilities q, same shape.
    """
    return F.cross_entropy(logits, target)


def unbiased_cross_entropy(logits: Tensor, target: Tensor, unknown: Sequence[int]) -> Tensor:
    """CE(q, p) with what the teacher does not know counted as background (Cermelli et al., 2020).

    What it calls background may be one of these classes: else learning them would be held back.

    Args:
        logits: see `soft_cross_entropy`.
        target: likewise.
        unknown: classes that the teacher has never been taught, without 0.
    """
    return soft_cross_entropy(as_background(logits, unknown), merged(target, unknown))


def as_background(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """Return logits by which background has taken over the probability of `classes`.

    Args:
        logits: shape (B, K, H, W), background first.
        classes: of them, without 0.
    """
    if not classes:
        return logits
    merged = logits.clone()
    merged[:, 0] = torch.logsumexp(logits[:, [0, *classes]], dim=1)
    merged[:, classes] = -1e4  # probability 0, and finite where it is multiplied by 0
    return merged


def merged(q: Tensor, classes: Sequence[int]) -> Tensor:
    """Return probabilities, those of `classes` background's; see `as_background`."""
    if not classes:
        return q
    answers = q.clone()
    answers[:, 0] += answers[:, classes].sum(dim=1)
    answers[:, classes] = 0
    return answers
