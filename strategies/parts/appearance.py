"""How bright images are, cell by cell and class by class, and the maps between two hospitals'."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fedcl.data.labels import IGNORED
from fedcl.data.samples import Samples
from fedcl.learning.hooks import SiteSummary
from strategies.parts.anatomy import NEAR, RIM, grid, grown, organs

CELLS = 6  # of background, along each axis
KNOTS = 11  # of a curve
ENDS = 0.2, 99.8  # percentiles of an image's intensities between which curves bend
BEND, FIELD, PULL = 2e-4, 3e-5, 1e-4  # weights: smooth curves, the same everywhere, no change
BATCH, RATE = 4, 0.02  # images in a step that corrects maps, and Adam's rate in units of `ends`


def count(axes: int, classes: int) -> int:
    """Return how many regions an image of so many axes and classes has."""
    return CELLS**axes + classes + 1


def regions(labels: Tensor, classes: int) -> Tensor:
    """Return the region of every voxel, int64, shape (B, ...); `count` where nobody knows.

    Background lies in a cell of a regular grid or, near what is labelled, in one of two bands
    around that, wherever it lies. Every other class is a region.

    Args:
        labels: shape (B, 1, ...); below 0 where a voxel may have several classes, or `IGNORED`.
        classes: how many there are, with background.
    """
    lengths = labels.shape[2:]
    cell = torch.zeros(lengths, dtype=torch.int64, device=labels.device)
    for axis, length in enumerate(lengths):
        along = torch.arange(length, device=labels.device) * CELLS // length
        cell = cell * CELLS + along.view(-1, *(1,) * (len(lengths) - 1 - axis))
    organ, cells = organs(labels).float(), CELLS ** len(lengths)
    rim, near = ([max(1, round(share * n)) for n in lengths] for share in (RIM, NEAR))
    found = torch.where(grown(organ, near) > 0, cells, cell)
    found = torch.where(grown(organ, rim) > 0, cells + 1, found)
    found = torch.where(labels > 0, cells + 1 + labels, found)
    unknown = (labels < 0) | (labels == IGNORED)
    return torch.where(unknown, count(len(lengths), classes), found)[:, 0]


def fields(images: Tensor) -> Tensor:
    """Return the polynomials of position up to degree 2, shape (M, ...); the first is 1."""
    axes = grid(images)
    squares = [a * b for number, a in enumerate(axes) for b in axes[number:]]
    return torch.stack([torch.ones_like(axes[0]), *axes, *squares])


def between(images: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return the knot below every value, and how far that is on the way to the next.

    Args:
        images: shape (B, C, ...).
        ends: where curves begin and end, shape (2, C); what lies beyond counts as there.
    """
    low, high = (end.view(-1, *(1,) * (images.ndim - 2)) for end in ends)
    place = ((images - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * (KNOTS - 1)
    below = place.long().clamp(max=KNOTS - 2)
    return below, place - below


def parts(samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and labels, some at a time, on the CPU: sums there have one order."""
    for part in samples.parts():
        yield part.inputs.float().cpu(), part.targets.cpu()


def ends(samples: Samples) -> Tensor:
    """Return the mean over images of two percentiles, `ENDS`, per channel, shape (2, C)."""
    found = [
        np.percentile(images.flatten(2).numpy(), ENDS, axis=2).sum(axis=1)
        for images, _ in parts(samples)
    ]
    return torch.from_numpy(np.sum(found, axis=0) / len(samples)).float()


def distributions(samples: Samples, classes: int, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Return how intensities are distributed in every region, by position, and its size.

    Returns:
        per channel, region, knot and polynomial the mean of the knot's hat function times the
        polynomial, shape (C, R, K, M), and the regions' shares of all voxels, shape (R,).
    """
    channels, *lengths = samples.shape
    size = count(len(lengths), classes)
    powers = fields(torch.empty(1, 1, *lengths)).flatten(1).t().double()
    sums = torch.zeros(channels, (size + 1) * KNOTS, powers.shape[1], dtype=torch.float64)
    voxels = torch.zeros(size + 1, dtype=torch.float64)
    for images, labels in parts(samples):
        where = regions(labels, classes).flatten()
        voxels += torch.bincount(where, minlength=size + 1)
        below, beyond = between(images, ends)
        power = powers.repeat(len(images), 1)
        for channel, own in enumerate(sums):
            place = where * KNOTS + below[:, channel].flatten()
            share = beyond[:, channel].reshape(-1, 1)
            own.index_add_(0, place, power * (1 - share))
            own.index_add_(0, place + 1, power * share)
    means = sums.view(channels, size + 1, KNOTS, -1) / voxels.clamp_min(1)[:, None, None]
    return means[:, :size], voxels[:size] / voxels[:size].sum().clamp_min(1)


def means(shares: Tensor, ends: Tensor) -> Tensor:
    """Return the mean intensity of every region, (C, R), by `distributions`."""
    knots = torch.linspace(0, 1, KNOTS, dtype=torch.float64)
    knots = ends[0, :, None] + knots * (ends[1] - ends[0])[:, None]
    return torch.einsum("crk,ck->cr", shares[..., 0], knots)


def curves(own: Tensor, ends: Tensor, level: Tensor, weight: Tensor) -> Tensor:
    """Return the map of intensities under which every region has another hospital's mean.

    The value of a voxel becomes sum_km theta_km h_k(value) p_m(position), h being hat functions
    and p polynomials. theta is the least-squares solution over regions, in closed form: as smooth
    in the value, as constant in space and as near to no change as goes.

    Args:
        own: the means of h_k p_m in every region, one channel of `distributions`, (R, K, M).
        ends: of the curves, shape (2,).
        level: the means that are wanted, shape (R,).
        weight: how much every region counts, shape (R,).

    Returns:
        theta, float32, shape (K, M).
    """
    knots, powers = own.shape[1:]
    start = torch.zeros(knots, powers, dtype=torch.float64)
    start[:, 0] = torch.linspace(float(ends[0]), float(ends[1]), knots)
    bend = torch.diff(torch.eye(knots, dtype=torch.float64), n=2, dim=0)
    varies = torch.ones(powers, dtype=torch.float64)
    varies[0] = 0
    penalty = BEND * torch.kron(bend.t() @ bend, torch.eye(powers, dtype=torch.float64))
    penalty += FIELD * torch.diag(varies.repeat(knots))
    penalty += PULL * torch.eye(knots * powers, dtype=torch.float64)
    design = own.flatten(1)
    moments = design.t() @ (weight[:, None] * design)
    wanted = design.t() @ (weight * level.double()) + PULL * start.flatten()
    return torch.linalg.solve(moments + penalty, wanted).view(knots, powers).float()


def fitted(own: Tensor, share: Tensor, ends: Tensor, level: Tensor, there: Tensor) -> Tensor:
    """Return the map to another hospital, (C, K, M); see `curves`.

    Args:
        own: what `distributions` gives here, shape (C, R, K, M).
        share: of every region here, shape (R,).
        ends: of the curves, shape (2, C).
        level: mean of every region at the other hospital, shape (C, R).
        there: share of every region there; it counts by the harmonic mean of both shares.
    """
    weight = 2 * share * there / (share + there).clamp_min(1e-12)
    channels = zip(own, ends.t(), level, strict=True)
    return torch.stack([curves(*channel, weight) for channel in channels])


def mapped(images: Tensor, theta: Tensor, ends: Tensor, bounds: Tensor) -> Tensor:
    """Return images with their intensities mapped; see `curves`.

    Args:
        images: shape (B, C, ...).
        theta: of every image, shape (B, C, K, M).
        ends: of the curves, shape (2, C).
        bounds: what values are clipped to, of every image, shape (B, 2, C); noise on a report may
            have exchanged them.
    """
    below, beyond = between(images, ends)
    place = below.flatten(2)
    found = torch.zeros_like(images)
    for number, power in enumerate(fields(images)):
        left, right = (theta[..., number].gather(2, place + step) for step in (0, 1))
        found = found + power * torch.lerp(left, right, beyond.flatten(2)).view_as(images)
    bounds = bounds.sort(dim=1).values
    low, high = bounds.view(*bounds.shape, *(1,) * (images.ndim - 2)).unbind(dim=1)
    return found.clamp(low, high)


def corrected(
    theta: Tensor, ends: Tensor, bounds: Tensor, steps: int, summary: SiteSummary
) -> Tensor:
    """Return maps under which the teacher is as right as it can be on a site's own images.

    Args:
        theta: of every earlier hospital, shape (S, C, K, M).
        ends: of the curves, shape (2, C).
        bounds: of every earlier hospital's values, shape (S, 2, C).
        steps: of Adam, each with some images of the site, mapped to hospitals that are drawn.
        summary: has the site's samples, and the teacher, which stays as it is.
    """
    if summary.teacher is None or not steps:
        return theta
    samples, rng = summary.samples, summary.rng
    # What no site marks that the teacher has learned from it cannot find, however an image looks.
    task = replace(summary.task, naive=False)
    unknown = torch.tensor(task.unknown(summary.taught), device=samples.device)
    span = (ends[1] - ends[0]).clamp_min(1e-6)[:, None, None]
    change = torch.zeros_like(theta, requires_grad=True)
    optimiser = torch.optim.Adam([change], RATE)
    for _ in range(steps):
        index = torch.randint(len(samples), (BATCH,), generator=rng)
        chosen = torch.randint(len(theta), (BATCH,), generator=rng)
        part = samples[index]
        images = mapped(part.inputs, (theta + span * change)[chosen], ends, bounds[chosen])
        targets = part.targets.masked_fill(torch.isin(part.targets, unknown), IGNORED)
        loss = task.loss(summary.teacher(images), targets)
        (change.grad,) = torch.autograd.grad(loss, [change])
        optimiser.step()
    return (theta + span * change).detach()
