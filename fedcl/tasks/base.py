"""What is learned from a scenario's cases: how they are sampled, answered and scored."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from fedcl.data.cases import SiteData
from fedcl.data.samples import Samples, Stacked


@dataclass(frozen=True)
class Range:
    """What a score can be, both ends included.

    Attributes:
        low, high: the ends.
    """

    low: float
    high: float

    def problem(self, values: Sequence[float]) -> str | None:
        """Return what is wrong with scores, or None; rounding may lead a little beyond an end."""
        for value in values:
            if not self.low - ROUNDING <= value <= self.high + ROUNDING:
                return f"is {value:g}, outside of [{self.low:g}, {self.high:g}]"
        return None


ROUNDING = 1e-5
"""By how much sums in float32 can miss an end."""


@dataclass(frozen=True)
class Picture:
    """A test case as it is drawn: an image and the masks outlined on it, of shape (H, W).

    Attributes:
        title: which case it is.
        image: its grey values.
        label, prediction: classes that are there and that were found, 0 for none.
    """

    title: str
    image: Tensor
    label: Tensor
    prediction: Tensor


@dataclass(frozen=True)
class Look:
    """A case as a person looks at it who checks that it was understood.

    Attributes:
        title: which case it is.
        slices: by the plane's name, an image and its classes, both of shape (H, W), and how much
            higher than wide a pixel is.
        values: by class, intensities as networks are shown them.
    """

    title: str
    slices: Mapping[str, tuple[Tensor, Tensor, float]]
    values: Mapping[str, Tensor]


@dataclass(frozen=True)
class Labeller:
    """A network that answers for sites whose data are elsewhere.

    Attributes:
        answers: to any inputs.
        sites: for which.
    """

    answers: Callable[[Tensor], Tensor]
    sites: Sequence[str]


class KnownInputs(Protocol):
    """The inputs of sites where they are known without their data, as coordinates are."""

    def past(
        self, labellers: Sequence[Labeller], device: torch.device, own: Sequence[str] = ()
    ) -> Stacked | None:
        """Return inputs of other sites with answers, or None where there are none.

        Args:
            labellers: who answers for which sites; later ones where several could.
            device: where to.
            own: sites whose data are at hand: nothing is asked that these tell.
        """

    def answered(self, past: Stacked, inputs: Tensor) -> Tensor | None:
        """Return which answers of `past` are to some of `inputs`, shape (N, outputs), else NaN.

        None where there is none.
        """

    def count(self, sites: Sequence[str]) -> int:
        """Return how many inputs `sites` have, those of several once."""


class Drawing(Protocol):
    """How test cases are drawn.

    Attributes:
        legend: what the pictures show.
    """

    legend: ClassVar[str]

    def drawn(self, cases: Sequence[Any]) -> Sequence[Any]:
        """Return which of a site's test cases are drawn."""

    def picture(self, case: Any, prediction: Any) -> Picture:
        """Return how `case` and what `predict` made of it are drawn."""


def half(amp: bool, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which networks compute in bfloat16, where that is wanted, on a GPU."""
    on = amp and device.type == "cuda"
    return torch.autocast("cuda", torch.bfloat16) if on else contextlib.nullcontext()


class Task(ABC):
    """All that differs between one kind of learning and another.

    Attributes:
        words: what a network is shown, for messages.
        models: the models that can learn it.
        term: the name of the loss on a site's own samples.
        foresight: whether a site can be evaluated before it arrives.
        shared: whether one model can be right for all sites.
        varied: whether samples are images that can be augmented.
        dims: of an image, 2 or 3.
        held_out: whether validation cases are others than those trained on.
        mixed: whether sites may have different architectures.
        chunk: samples per forward pass without gradient.
        leaves: what leaves a site, in one sentence; written into every run's results.
        case: what a case is.
    """

    words: ClassVar[str]
    models: ClassVar[type]
    term: ClassVar[str]
    foresight: ClassVar[bool] = True
    shared: bool = True
    varied: ClassVar[bool] = False
    dims: int = 2
    held_out: ClassVar[bool] = True
    mixed: ClassVar[bool] = True
    chunk: ClassVar[int]
    leaves: ClassVar[str]
    case: ClassVar[str]

    @property
    @abstractmethod
    def ranges(self) -> Mapping[str, Range]:
        """What a case may be scored by, and what that can be; by the first, runs are judged."""

    @property
    def scores(self) -> tuple[str, ...]:
        """The names of `ranges`."""
        return tuple(self.ranges)

    @abstractmethod
    def build(self, model: Any, sites: Sequence[str]) -> nn.Module:
        """Make a stage's network, with weights drawn from torch's global generator.

        Args:
            model: one of `models`.
            sites: those that have arrived, in order of arrival.
        """

    def fitted(self, models: Sequence[Any]) -> Self:
        """Return the task with samples of sizes that all of `models` can take."""
        return self

    def sized(self, cases: Sequence[Any]) -> Self:
        """Return the task as a site has it whose training cases these are.

        What a network is shown of a case to test it is then as large as what it is trained on.
        """
        return self

    @abstractmethod
    def samples(self, cases: Sequence[Any], device: torch.device) -> Samples:
        """Return what is to be learned from `cases`, where a network on `device` gets it."""

    def describe(self, data: SiteData) -> dict[str, str]:
        """Return, for a person who checks it, what a site's data are like, by heading."""
        return {}

    def looks(self, data: SiteData) -> Sequence[Look]:
        """Return some of a site's cases for a person who checks them; none, and none are shown."""
        return []

    def problem(self, network: nn.Module, samples: Samples, least: int = 0) -> str | None:
        """Return why `network` cannot learn from `samples`, or None.

        Args:
            network: is left as it is.
            samples: of a site.
            least: the size of the smallest batch in training; 0 where it is not trained.
        """
        return None

    @abstractmethod
    def batches(self, count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield indices of batches out of `count` samples, without end."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return what is minimised on a site's own samples."""

    def reduced(self, targets: Tensor, outputs: Tensor) -> Tensor:
        """Return what outputs should be that a network gives on a coarser grid."""
        return targets

    @abstractmethod
    def answer(self, outputs: Tensor) -> Tensor:
        """Return what outputs say, in the form in which a teacher tells it."""

    def distance(self, outputs: Tensor, answers: Tensor) -> Tensor:
        """Return how far a student's outputs are from a teacher's answers to the same inputs."""
        return self.loss(outputs, answers)

    @abstractmethod
    def predict(self, network: nn.Module, case: Any, device: torch.device, amp: bool) -> Any:
        """Return what `network` makes of `case`, on the CPU, as `score` and `Drawing` take it."""

    @abstractmethod
    def score(self, prediction: Any, case: Any, names: Sequence[str]) -> dict[str, float]:
        """Return those of the scores `names` that `case` can have."""

    @property
    def drawing(self) -> Drawing | None:
        """How test cases are drawn; None, and they are not."""
        return None

    @property
    def known_inputs(self) -> KnownInputs | None:
        """The inputs of sites where they are known without their data; None where not."""
        return None

    def scored(self, site: str) -> tuple[str, ...]:
        """Return which of `scores` the cases of `site` have; the first validates it."""
        return self.scores

    def learned(self, site: str) -> tuple[str, ...]:
        """Return which of `scores` are of something that the training cases of `site` show."""
        return self.scored(site)

    def local(self, network: nn.Module) -> set[str]:
        """Return the weight arrays that are about a site's own data and stay there."""
        return set()

    def generator(self, rng: torch.Generator, device: torch.device) -> torch.Generator:
        """Return what draws batches and whatever a strategy draws."""
        return rng

    @torch.no_grad()
    def answers(self, network: nn.Module, inputs: Tensor, amp: bool = False) -> Tensor:
        """Return the answers to all `inputs`, in evaluation mode, chunk by chunk.

        Args:
            network: put into evaluation mode.
            inputs: shape (N, ...).
            amp: use bfloat16 on a GPU.
        """
        network.eval()
        with half(amp, inputs.device):
            return torch.cat([self.answer(network(part).float()) for part in self.chunks(inputs)])

    def chunks(self, inputs: Tensor) -> Sequence[Tensor]:
        """Return inputs in parts that may pass through a network at a time without gradient."""
        return inputs.split(self.chunk)
