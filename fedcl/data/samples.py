"""What a site trains on: samples that lie ready, and samples that are drawn from its images."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate, islice

import numpy as np
import torch
from torch import Tensor

from fedcl.data.framing import at_once
from fedcl.errors import DataError
from fedcl.seeding import Key, numpy_rng

Sample = tuple[Tensor, Tensor]
"""An input and its target."""
Change = Callable[[Tensor, Tensor, np.random.Generator], Sample]
"""Makes another sample of one, as an augmentation does."""
AHEAD = 2
"""How many batches are loaded ahead of the one trained on."""


class Samples(ABC):
    """The training samples of one or several sites, numbered."""

    @property
    def fixed(self) -> bool:
        """Whether a sample is the same every time."""
        return True

    @property
    def ready(self) -> bool:
        """Whether all samples lie on the device as they are."""
        return False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of an input."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they are trained on."""

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def drawn(self, number: int, rng: np.random.Generator) -> Sample:
        """Return a sample, on the CPU or on the device."""

    def __getitem__(self, index: Tensor) -> "Stacked":
        """Return the samples of these numbers; those that are drawn always the same ones."""
        return _stacked(
            [self.drawn(i, numpy_rng("sample", i)) for i in index.tolist()], self.device
        )

    def parts(self) -> Iterator["Stacked"]:
        """Yield all samples in order, each once, as many images at a time as pass a network.

        The same parts whether samples lie ready or not, so that nothing summed over them, or
        computed of them, depends on that. Points, which have no extent, come at once.
        """
        several = at_once(self.shape[1:]) if self.shape[1:] else len(self)
        for index in torch.arange(len(self)).split(several):
            yield self[index]

    def batches(
        self,
        indices: Iterable[Tensor],
        keys: Sequence[Key] = (),
        change: Change | None = None,
        loaders: int = 0,
    ) -> Iterator["Stacked"]:
        """Yield the batches of some numbers, in their order.

        What is random of a sample depends on `keys`, the batch's number, counted from 1, and its
        place in the batch: not on who loads it, nor when.

        Args:
            indices: the numbers in each batch.
            keys: what randomness comes from.
            change: made to every sample; None for none.
            loaders: threads that load ahead; 0, and each sample is loaded when it is needed.
        """
        if self.ready and change is None:
            yield from (self[index.to(self.device)] for index in indices)
            return

        def one(number: int, place: int, sample: int) -> Sample:
            rng = numpy_rng("sample", *keys, number, place)
            inputs, targets = self.drawn(sample, rng)
            if change is None:
                return inputs, targets
            return change(inputs.to(self.device), targets.to(self.device), rng)

        numbered = enumerate(indices, start=1)
        if not loaders:
            for number, index in numbered:
                found = [one(number, *each) for each in enumerate(index.tolist())]
                yield _stacked(found, self.device)
            return
        pool = ThreadPoolExecutor(loaders)
        waiting: deque[list[Future[Sample]]] = deque()
        try:
            while True:
                for number, index in islice(numbered, AHEAD + 1 - len(waiting)):
                    waiting.append(
                        [pool.submit(one, number, *each) for each in enumerate(index.tolist())]
                    )
                if not waiting:
                    return
                yield _stacked([each.result() for each in waiting.popleft()], self.device)
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Stacked(Samples):
    """Samples that lie ready on one device; see the scenario's task.

    Attributes:
        inputs: what a network is shown, shape (N, ...).
        targets: what it should answer, shape (N, ...).
    """

    inputs: Tensor
    targets: Tensor

    @property
    def ready(self) -> bool:
        """See `Samples.ready`."""
        return True

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Samples.shape`."""
        return tuple(self.inputs.shape[1:])

    @property
    def device(self) -> torch.device:
        """See `Samples.device`."""
        return self.inputs.device

    def __len__(self) -> int:
        """See `Samples.__len__`."""
        return len(self.inputs)

    def drawn(self, number: int, rng: np.random.Generator) -> Sample:
        """See `Samples.drawn`."""
        return self.inputs[number], self.targets[number]

    def __getitem__(self, index: Tensor) -> "Stacked":
        """See `Samples.__getitem__`."""
        return Stacked(self.inputs[index], self.targets[index])


@dataclass(frozen=True)
class Joined(Samples):
    """Samples of several origins, in order; at least one of them is drawn."""

    origins: Sequence[Samples]

    @property
    def fixed(self) -> bool:
        """See `Samples.fixed`."""
        return all(part.fixed for part in self.origins)

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Samples.shape`."""
        return self.origins[0].shape

    @property
    def device(self) -> torch.device:
        """See `Samples.device`."""
        return self.origins[0].device

    def __len__(self) -> int:
        """See `Samples.__len__`."""
        return sum(map(len, self.origins))

    def drawn(self, number: int, rng: np.random.Generator) -> Sample:
        """See `Samples.drawn`."""
        ends = list(accumulate(map(len, self.origins)))
        which = next(i for i, end in enumerate(ends) if number < end)
        x, y = self.origins[which].drawn(number - ends[which] + len(self.origins[which]), rng)
        return x.to(self.device), y.to(self.device)  # some are drawn on the CPU, some lie ready


def joined(parts: Sequence[Samples]) -> Samples:
    """Return the samples of `parts`, in order.

    Raises:
        DataError: they are of several shapes.
    """
    if len(parts) == 1:
        return parts[0]
    shapes = {part.shape for part in parts}
    if len(shapes) > 1:
        raise DataError(
            f"samples of several shapes ({', '.join(map(str, sorted(shapes)))}) cannot be trained "
            "on together; give scenario.size or scenario.patch"
        )
    ready = [part for part in parts if isinstance(part, Stacked)]
    if len(ready) < len(parts):
        return Joined(tuple(parts))
    inputs, targets = zip(*((part.inputs, part.targets) for part in ready), strict=True)
    return Stacked(torch.cat(inputs), torch.cat(targets))


def _stacked(samples: Sequence[Sample], device: torch.device) -> Stacked:
    inputs, targets = zip(*samples, strict=True)
    return Stacked(torch.stack(inputs).to(device), torch.stack(targets).to(device))
