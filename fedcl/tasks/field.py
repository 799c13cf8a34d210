"""Fitting neural fields: networks from coordinates to the values found there."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fedcl.data.cases import SiteData
from fedcl.data.samples import Samples, Stacked
from fedcl.data.space import Part, Room, Space
from fedcl.models.base import OWN, FieldModel
from fedcl.tasks.base import Drawing, KnownInputs, Labeller, Picture, Range, Task
from fedcl.tasks.metrics import RANGES, dice

WINDOW = 11  # pixels, of SSIM; less in smaller images
WRITTEN = {"psnr": "{:.1f} dB", "ssim": "SSIM {:.3f}", "dice": "Dice {:.3f}"}


@dataclass(frozen=True)
class Frame:
    """One frame of a cine volume, or the part of it that a site holds.

    Attributes:
        name: unique within the site.
        outputs: which of the field's outputs it gives the values of.
        values: of these, float32 in [0, 1], shape (outputs, D, H, W).
        positions: in the space, int64, shape (D, H, W).
        spacing: distance between voxels (slice, row, column), in mm or pixels.
    """

    name: str
    outputs: tuple[int, ...]
    values: Tensor
    positions: Tensor
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def digests(self) -> Iterable[str]:
        """Return what tells it from others: its name and the digest of its arrays."""
        sha = hashlib.sha256()
        for tensor in (self.values, self.positions):
            sha.update(np.ascontiguousarray(tensor.numpy()).data)
        return self.name, sha.hexdigest()


@dataclass(frozen=True)
class Field(Task):
    """Samples are points: inputs are coordinates (N, A), targets values (N, outputs).

    A target that the site does not know is NaN. The loss is the mean square over those known.

    Attributes:
        space: the planned extent.
        parts: what each site holds of it.
        names: of the outputs: "signal", scored by PSNR in dB and SSIM, then masks, by Dice.
        shared: whether all sites hold parts of one volume; otherwise each has its own, and
            what a model learns of single volumes (tables, latents) stays at the site.
    """

    words: ClassVar[str] = "a field of coordinates"
    models: ClassVar[type] = FieldModel
    term: ClassVar[str] = "fit"
    ranges: ClassVar[Mapping[str, Range]] = {
        "psnr": Range(-1000.0, 100.0),  # of the largest error that float32 can hold, and of none
        "ssim": Range(-1.0, 1.0),
        "dice": RANGES["dice"],
    }
    foresight: ClassVar[bool] = False
    held_out: ClassVar[bool] = False
    mixed: ClassVar[bool] = False
    chunk: ClassVar[int] = 2**16
    case: ClassVar[str] = "frame"
    legend: ClassVar[str] = (
        "what is there, the field, five times the error; masks: true (outlined) and the field's "
        "(filled)"
    )
    leaves: ClassVar[str] = (
        "a field's weights are a picture of the patient: whoever receives them has the image"
    )

    space: Space
    parts: Mapping[str, Part]
    names: tuple[str, ...]
    shared: bool = True

    def build(self, model: FieldModel, sites: Sequence[str]) -> nn.Module:
        """Make a network with room for the coordinates and outputs of `sites`."""
        return model.build(self.room(sites))

    def room(self, sites: Sequence[str]) -> Room:
        """Return what a network must have room for once `sites` have arrived."""
        return Room(self.space, tuple(self.parts[site] for site in sites))

    def samples(self, cases: Sequence[Frame], device: torch.device) -> Samples:
        """Return every point of the frames, in order."""
        coordinates, values = [], []
        for case in cases:
            points = case.positions.flatten()
            known = torch.full((len(points), len(self.names)), math.nan)
            known[:, list(case.outputs)] = case.values.flatten(1).T
            coordinates.append(self.space.coordinates(points))
            values.append(known)
        return Stacked(torch.cat(coordinates).to(device), torch.cat(values).to(device))

    def describe(self, data: SiteData) -> dict[str, str]:
        """Return frames, size, outputs and points."""
        frames: Sequence[Frame] = data.train
        values = torch.stack([frame.values for frame in frames])
        return {
            "frames": f"{frames[0].name} to {frames[-1].name}",
            "size": "x".join(map(str, frames[0].values.shape[1:])),
            "voxel": "x".join(f"{s:.3g}" for s in frames[0].spacing),
            "outputs": ", ".join(self.names[output] for output in frames[0].outputs),
            "points": str(sum(frame.positions.numel() for frame in frames)),
            "values": f"{values.min():.3g} to {values.max():.3g}",
        }

    def batches(self, count: int, size: int, rng: torch.Generator) -> Iterator[Tensor]:
        """Yield points drawn with replacement, on the generator's device."""
        while True:
            yield torch.randint(count, (size,), generator=rng, device=rng.device)

    def generator(self, rng: torch.Generator, device: torch.device) -> torch.Generator:
        """Return a generator on the device, so that nothing has to be brought there."""
        if device.type == "cpu":
            return rng
        return torch.Generator(device).manual_seed(rng.initial_seed())

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean square of what is known to be wrong."""
        if len(self.names) == 1:
            return F.mse_loss(outputs, targets)
        targets = targets[:, : outputs.shape[1]]
        known = ~targets.isnan()
        apart = torch.where(known, outputs - targets, 0.0)
        return apart.square().sum() / known.sum().clamp(min=1)

    def answer(self, outputs: Tensor) -> Tensor:
        """Return the values themselves."""
        return outputs

    @property
    def known_inputs(self) -> KnownInputs:
        """See `KnownInputs`: the coordinates."""
        return self

    def past(
        self, labellers: Sequence[Labeller], device: torch.device, own: Sequence[str] = ()
    ) -> Stacked | None:
        """Return the sites' points, each once, with answers for the outputs they know.

        None where there are none, or where every site has a volume of its own, whose coordinates
        are not those of others.
        """
        unknown = ~self.known(own)
        known = [self.known(one.sites) & unknown for one in labellers]
        points = torch.stack(known).any(dim=0).any(dim=1).nonzero().squeeze(1)
        if not self.shared or not len(points):
            return None
        inputs = self.space.coordinates(points).to(device)
        targets = torch.full((len(points), len(self.names)), math.nan, device=device)
        for labeller, there in zip(labellers, known, strict=True):
            asked = there[points].any(dim=1).to(device)
            given = labeller.answers(inputs[asked])
            width = given.shape[1]
            told = there[points][:, :width].to(device)[asked]
            targets[asked, :width] = torch.where(told, given, targets[asked, :width])
        return Stacked(inputs, targets)

    def answered(self, past: Stacked, inputs: Tensor) -> Tensor | None:
        """Return which answers of `past` are to some of `inputs`; see `KnownInputs.answered`."""
        place = torch.full((self.space.size,), -1)
        place[self.space.positions(past.inputs.cpu())] = torch.arange(len(past))
        found = place[self.space.positions(inputs.cpu())].to(inputs.device)
        if not bool((found >= 0).any()):
            return None
        targets = past.targets[found.clamp(min=0)]
        return targets.masked_fill(found[:, None] < 0, math.nan)

    def known(self, sites: Sequence[str]) -> Tensor:
        """Return which outputs `sites` know where, bool, shape (positions, outputs)."""
        known = torch.zeros(self.space.size, len(self.names), dtype=torch.bool)
        for part in (self.parts[site] for site in sites):
            for output in part.outputs:
                known[part.positions(self.space), output] = True
        return known

    def count(self, sites: Sequence[str]) -> int:
        """Return how many points `sites` hold, those of several once."""
        return len(self.room(sites).positions())

    def predict(self, network: nn.Module, case: Frame, device: torch.device, amp: bool) -> Tensor:
        """Return all that the field says of the frame's points, shape (outputs, D, H, W)."""
        inputs = self.space.coordinates(case.positions.flatten()).to(device)
        values = self.answers(network, inputs, amp)
        return values.T.reshape(-1, *case.positions.shape).cpu()

    @property
    def drawing(self) -> Drawing:
        """See `Drawing`."""
        return self

    def picture(self, case: Frame, prediction: Tensor) -> Picture:
        """Return the middle slice: truth, field and error side by side, masks on the field.

        Where the site does not know the signal, there is the field alone.
        """
        middle = case.positions.shape[0] // 2
        signal, *masks = prediction[:, middle]
        true = dict(zip(case.outputs, case.values[:, middle], strict=True))
        none, half = torch.zeros_like(signal), torch.full_like(signal, 0.5)
        label = torch.stack([half, *(true[o] for o in true if o > 0)]).argmax(dim=0)
        found = torch.stack([half, *(masks[o - 1] for o in true if o > 0)]).argmax(dim=0)
        scores = self.score(prediction, case, self.names_of(case.outputs))
        title = f"{case.name}: " + ", ".join(WRITTEN[name].format(scores[name]) for name in scores)
        if 0 not in true:
            return Picture(title, signal.clamp(0, 1), label, found)
        panels = torch.cat([true[0], signal, 5 * (true[0] - signal).abs()], dim=1).clamp(0, 1)
        label, found = (torch.cat([none, mask, none], dim=1) for mask in (label, found))
        return Picture(title, panels, label, found)

    def drawn(self, cases: Sequence[Frame]) -> Sequence[Frame]:
        """Return the first and the last frame."""
        return [cases[0], cases[-1]] if len(cases) > 1 else cases

    def score(self, prediction: Tensor, case: Frame, names: Sequence[str]) -> dict[str, float]:
        """Return PSNR and SSIM of the signal, Dice of the masks, where the frame has them."""
        found: dict[str, list[float]] = {}
        for output, true in zip(case.outputs, case.values, strict=True):
            got = prediction[output]
            if self.names[output] == "signal":
                found.setdefault("psnr", []).append(psnr(got, true))
                found.setdefault("ssim", []).append(ssim(got, true))
            else:
                inside, label = ((mask > 0.5).numpy() for mask in (got, true))
                found.setdefault("dice", []).append(dice(inside, label, case.spacing))
        return {name: fmean(found[name]) for name in names}

    def scored(self, site: str) -> tuple[str, ...]:
        """Return the scores that the outputs known to `site` have."""
        return self.names_of(self.parts[site].outputs)

    def names_of(self, outputs: Sequence[int]) -> tuple[str, ...]:
        """Return the scores that frames with these outputs have."""
        signal = ("psnr", "ssim") if 0 in outputs else ()
        masks = ("dice",) if any(outputs) else ()
        return signal + masks

    def local(self, network: nn.Module) -> set[str]:
        """Return the arrays about one volume alone, where sites do not share theirs."""
        return set() if self.shared else OWN & set(network.state_dict())


def psnr(values: Tensor, truth: Tensor) -> float:
    """Return 10 log10(1 / mean square error) in dB, of values in [0, 1]; at most 100."""
    error = float((values.double() - truth.double()).square().mean())
    return -10 * math.log10(max(error, 1e-10))


def ssim(values: Tensor, truth: Tensor) -> float:
    """Return the structural similarity (Wang et al., TIP 2004), mean over slices.

    Args:
        values: in [0, 1], shape (D, H, W).
        truth: likewise.
    """
    from monai.metrics import SSIMMetric  # takes seconds

    window = min(WINDOW, *(size - 1 + size % 2 for size in truth.shape[-2:]))
    metric = SSIMMetric(spatial_dims=2, data_range=1.0, win_size=window)
    return float(torch.as_tensor(metric(values[:, None], truth[:, None])).mean())
