"""Where the labelled organ lies in an image, and the regions around it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcl.data.labels import IGNORED

SECTORS = 4  # below, left, above and right of the organ's centre
RIM, NEAR = 3 / 64, 8 / 64  # widths of the rings at its rim, as shares of the image
REGIONS = 5 * SECTORS  # rings: core, inner rim, outer rim, near, far


def grid(labels: Tensor) -> list[Tensor]:
    """Return the coordinates x, y and, of volumes, z of every voxel, in [-1, 1]."""
    lengths = labels.shape[2:]
    axes = [(torch.arange(n, device=labels.device) * 2 + 1) / n - 1 for n in lengths]
    return list(torch.meshgrid(*axes, indexing="ij"))[::-1]


def organs(labels: Tensor) -> Tensor:
    """Return where an organ is known to be; what counts nowhere is none."""
    return (labels > 0) & (labels != IGNORED)


def places(labels: Tensor) -> Tensor:
    """Return the organs' centres and log extents, shape (B, 2 * axes); 0s without one.

    Along x, y and, of volumes, z: first the centres, then the extents.
    """
    organ = organs(labels[:, 0]).float()
    space = tuple(range(1, organ.ndim))
    size = organ.sum(dim=space).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return (organ * values).sum(dim=space) / size

    axes = grid(labels)
    centre = [mean(axis) for axis in axes]
    extent = [
        0.5 * torch.log(mean((axis - c.view(-1, *(1,) * len(space))).square()) + 1e-4)
        for axis, c in zip(axes, centre, strict=True)
    ]
    there = organ.flatten(1).any(dim=1, keepdim=True)
    return torch.stack([*centre, *extent], dim=1) * there


def reshape(
    images: Tensor, labels: Tensor, place: Tensor, known: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Move and scale images and labels so that organs lie as they may elsewhere.

    Args:
        images: shape (B, C, ...).
        labels: shape (B, 1, ...).
        place: deviation and mean of `places` there, shape (B, 2, 2 * axes).
        known: whether that is known; an image where it is not stays, shape (B,).
        rng: draws where every organ goes.
    """
    now, axes = places(labels), images.ndim - 2
    std, mean = place.unbind(dim=1)
    wanted = mean + std * torch.randn(now.shape, generator=rng).to(now.device)
    there = organs(labels).flatten(1).any(dim=1) & known
    wanted = torch.where(there[:, None], wanted, now)
    scale = (now - wanted)[:, axes:].exp().clamp(0.4, 2.5)
    shift = now[:, :axes] - scale * wanted[:, :axes]
    theta = torch.cat([torch.diag_embed(scale), shift[..., None]], dim=2)
    with torch.autocast(images.device.type, enabled=False):  # half precision is off by whole pixels
        points = F.affine_grid(theta, list(images.shape), align_corners=False)
        # Both are continued beyond their border in the same way, so that labels stay exact.
        moved = F.grid_sample(images, points, "bilinear", "border", align_corners=False)
        marks = F.grid_sample(labels.float(), points, "nearest", "border", align_corners=False)
    return moved, marks.long()


def regions(labels: Tensor) -> Tensor:
    """Return the region of every voxel, ring * SECTORS + sector, int64, shape (B, ...).

    Rings go by distance in all directions, sectors by the direction in-plane.
    """
    organ = (labels > 0).float()
    lengths = labels.shape[2:]
    x, y, *_ = grid(labels)
    middle = places(labels)[:, :2].view(len(labels), 2, *(1,) * len(lengths))
    turn = torch.atan2(y - middle[:, 1], x - middle[:, 0]) / (2 * math.pi)
    sector = torch.floor(turn * SECTORS + 0.5).long() % SECTORS
    near, rim = ([max(1, round(share * n)) for n in lengths] for share in (NEAR, RIM))
    ring = sum(
        area[:, 0].long()
        for area in (-grown(-organ, rim), organ, grown(organ, rim), grown(organ, near))
    )
    return (4 - ring) * SECTORS + sector


def grown(area: Tensor, by: Sequence[int]) -> Tensor:
    """Return a 0/1 map whose ones have grown by some voxels along each axis.

    One axis after the other: the maximum over a box is that of maxima along its sides.
    """
    pool = F.max_pool2d if len(by) == 2 else F.max_pool3d
    for axis, n in enumerate(by):
        reach = [n if axis == other else 0 for other in range(len(by))]
        area = pool(area, [2 * n + 1 for n in reach], stride=1, padding=reach)
    return area


def quantiles(images: Tensor, region: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return quantiles from 0 to 1 of every region, and its number of pixels.

    Args:
        images: shape (B, C, ...).
        region: of every voxel, shape (B, ...).
        count: how many quantiles, K.

    Returns:
        shapes (B, C, REGIONS, K) and (B, REGIONS); 0 in a region without pixels.
    """
    order, start, pixels = by_region(images, region)
    ascending = images.flatten(2).gather(2, order)
    share = torch.linspace(0, 1, count, device=images.device)
    exact = (pixels[..., None] - 1).clamp_min(0) * share
    below = exact.floor().long()
    above = exact.ceil().long()

    def at(rank: Tensor) -> Tensor:
        index = (start[..., None] + rank).flatten(1).clamp(max=ascending.shape[2] - 1)
        index = index[:, None].expand(-1, ascending.shape[1], -1)
        return ascending.gather(2, index).unflatten(2, (REGIONS, count))

    values = torch.lerp(at(below), at(above), (exact - below)[:, None])
    return values * (pixels > 0)[:, None, :, None], pixels


def levels(images: Tensor, region: Tensor) -> Tensor:
    """Return where every pixel's value lies among those of its region, in (0, 1)."""
    order, start, pixels = by_region(images, region)
    rank = torch.empty_like(order)
    rank.scatter_(2, order, torch.arange(order.shape[2], device=order.device).expand_as(order))
    where = region.flatten(1)
    rank = rank - start.gather(1, where)[:, None]
    return ((rank + 0.5) / pixels.gather(1, where)[:, None]).view_as(images)


def by_region(images: Tensor, region: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Order the pixels by region, then value.

    Returns:
        indices of the voxels (B, C, N); per region its first place among them and its
        number of pixels, both (B, REGIONS).
    """
    values = images.flatten(2)
    where = region.flatten(1)[:, None].expand_as(values)
    order = values.argsort(dim=2, stable=True)
    order = order.gather(2, where.gather(2, order).argsort(dim=2, stable=True))
    pixels = F.one_hot(region.flatten(1), REGIONS).sum(dim=1)
    return order, pixels.cumsum(dim=1) - pixels, pixels
