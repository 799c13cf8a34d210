"""Where the labelled organ lies in an image, and the regions around it."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SECTORS = 4  # below, left, above and right of the organ's centre
RIM, NEAR = 3 / 64, 8 / 64  # widths of the rings at its rim, as shares of the image
REGIONS = 5 * SECTORS  # rings: core, inner rim, outer rim, near, far


def grid(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates x and y of every pixel, in [-1, 1], shape (H, W)."""
    height, width = labels.shape[-2:]
    axes = [(torch.arange(n, device=labels.device) * 2 + 1) / n - 1 for n in (height, width)]
    y, x = torch.meshgrid(*axes, indexing="ij")
    return x, y


def places(labels: Tensor) -> Tensor:
    """Return the organs' centre x, y and log extent in x, y, shape (B, 4); 0s without one."""
    x, y = grid(labels)
    organ = (labels[:, 0] > 0).float()
    size = organ.sum(dim=(1, 2)).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return (organ * values).sum(dim=(1, 2)) / size

    centre = [mean(x), mean(y)]
    extent = [
        0.5 * torch.log(mean((axis - c[:, None, None]).square()) + 1e-4)
        for axis, c in zip((x, y), centre, strict=True)
    ]
    there = organ.flatten(1).any(dim=1, keepdim=True)
    return torch.stack([*centre, *extent], dim=1) * there


def reshape(
    images: Tensor, labels: Tensor, place: Tensor, known: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Move and scale images and labels so that organs lie as they may elsewhere.

    Args:
        images: shape (B, C, H, W).
        labels: shape (B, 1, H, W).
        place: deviation and mean of `places` there, shape (B, 2, 4).
        known: whether that is known; an image where it is not stays, shape (B,).
        rng: draws where every organ goes.
    """
    now = places(labels)
    std, mean = place.unbind(dim=1)
    wanted = mean + std * torch.randn(now.shape, generator=rng).to(now.device)
    there = (labels > 0).flatten(1).any(dim=1) & known
    wanted = torch.where(there[:, None], wanted, now)
    scale = (now - wanted)[:, 2:].exp().clamp(0.4, 2.5)
    shift = now[:, :2] - scale * wanted[:, :2]
    theta = torch.cat([torch.diag_embed(scale), shift[..., None]], dim=2)
    points = F.affine_grid(theta, list(images.shape), align_corners=False)
    # Both are continued beyond their border in the same way, so that labels stay exact.
    moved = F.grid_sample(images, points, "bilinear", "border", align_corners=False)
    marks = F.grid_sample(labels.float(), points, "nearest", "border", align_corners=False)
    return moved, marks.long()


def regions(labels: Tensor) -> Tensor:
    """Return the region of every pixel, ring * SECTORS + sector, int64, shape (B, H, W)."""
    organ = (labels > 0).float()
    x, y = grid(labels)
    centre = places(labels)[:, :2, None, None]
    turn = torch.atan2(y - centre[:, 1], x - centre[:, 0]) / (2 * math.pi)
    sector = torch.floor(turn * SECTORS + 0.5).long() % SECTORS
    near, rim = (max(1, round(share * labels.shape[-1])) for share in (NEAR, RIM))
    ring = sum(
        area[:, 0].long()
        for area in (-grown(-organ, rim), organ, grown(organ, rim), grown(organ, near))
    )
    return (4 - ring) * SECTORS + sector


def grown(area: Tensor, by: int) -> Tensor:
    """Return a 0/1 map whose ones have grown by some pixels."""
    return F.max_pool2d(area, 2 * by + 1, stride=1, padding=by)


def quantiles(images: Tensor, region: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return quantiles from 0 to 1 of every region, and its number of pixels.

    Args:
        images: shape (B, C, H, W).
        region: of every pixel, shape (B, H, W).
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
        indices of the pixels (B, C, H * W); per region its first place among them and its
        number of pixels, both (B, REGIONS).
    """
    values = images.flatten(2)
    where = region.flatten(1)[:, None].expand_as(values)
    order = values.argsort(dim=2, stable=True)
    order = order.gather(2, where.gather(2, order).argsort(dim=2, stable=True))
    pixels = F.one_hot(region.flatten(1), REGIONS).sum(dim=1)
    return order, pixels.cumsum(dim=1) - pixels, pixels
