"""Imaginary scanners: what other machines and other sequences would have made of an image."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace

import numpy as np
from scipy.ndimage import gaussian_filter

from fedcl.data.grid import Array, Shape, Spacing
from fedcl.data.intensities import PERCENTILES
from fedcl.data.resampling import scaled

REACH = 0.7
"""How far a surface coil's gain reaches: its standard deviation in halves of the image's extent."""
AWAY = 1 / 3
"""How far ghosts lie from what moves, as a share of the rows."""


@dataclass(frozen=True)
class Scanner:
    """What a scanner does to an image; the defaults change nothing.

    Intensities are shares of the image's own range: 0 and 1 are its 0.5 % and 99.5 % percentiles,
    and what lies beyond is clipped.

    Attributes:
        peak: the intensity that comes out brightest, the others by how far they are from it:
            1 leaves all as they are, 0 inverts them, as T2 weighting does what T1 weighting shows.
        gamma: exponent applied to them afterwards.
        bias: largest logarithm of the receiving coil's smooth gain.
        coil: gain that a surface coil adds where it lies, below the last row.
        blur: standard deviation of the point spread, in mm (or pixels, where no file says how
            large they are).
        thick: thickness of slices, or of the rows of a single slice, likewise; 0 for the image's.
        noise: standard deviation of each of the two channels, which makes noise Rician.
        ghost: what periodic motion adds of the image, half of it on either side along the rows.
    """

    peak: float = 1.0
    gamma: float = 1.0
    bias: float = 0.0
    coil: float = 0.0
    blur: float = 0.0
    thick: float = 0.0
    noise: float = 0.0
    ghost: float = 0.0

    def at(self, amounts: Iterable[float]) -> "Scanner":
        """Go the way from no change to this scanner; at 1 one arrives, beyond it goes on.

        Positive values go by their ratio, others by their difference.

        Args:
            amounts: how far, for every parameter.
        """
        ways = zip(astuple(Scanner()), astuple(self), amounts, strict=True)
        values = [a * (b / a) ** s if min(a, b) > 0 else a + s * (b - a) for a, b, s in ways]
        found = Scanner(*map(float, values))
        return replace(found, peak=max(found.peak, 0.0))


# fmt: off
TABLE = {
    #               peak gamma  bias  coil  blur thick noise ghost
    "reference":    (1.0,  1.0,  0.0,  0.0,  0.0,  0.0, 0.00, 0.0),
    "t2_weighted":  (0.0,  1.3,  0.2,  0.0,  0.4,  0.0, 0.03, 0.0),
    "low_field":    (1.0,  0.7,  0.3,  0.0,  0.8,  0.0, 0.06, 0.0),
    "surface_coil": (1.0,  1.8,  0.2,  3.0,  0.0,  0.0, 0.04, 0.0),
    "thick_slices": (0.3,  1.0,  0.1,  0.0,  0.4,  3.0, 0.03, 0.0),
    "restless":     (0.0,  0.7,  0.4,  0.0,  0.5,  0.0, 0.04, 0.3),
}
# fmt: on
SCANNERS = {name: Scanner(*row) for name, row in TABLE.items()}


def scanned(
    image: Array,
    spacing: Spacing,
    scanner: Scanner,
    patient: np.random.Generator,
    noise: np.random.Generator,
    counts: Array | None = None,
) -> Array:
    """Return what a scanner would have made of an image, in the image's own range.

    Args:
        image: float32, shape (C, D, H, W), as it was read.
        spacing: distance between its voxels (slice, row, column).
        scanner: whose parameters are those of the patient.
        patient: draws where the coils lie, the same for all images of a patient.
        noise: draws the noise of this image.
        counts: where voxels are looked at, bool, of the image's shape; the others stay as they
            are, and have no say. None for everywhere.

    Returns:
        float32, of the same shape; the very image where the scanner changes nothing.
    """
    if scanner == Scanner():
        return image
    gain = sensitivity(image.shape[1:], scanner.bias, scanner.coil, patient)
    everywhere = np.ones(image.shape, bool) if counts is None else counts
    parts = zip(image, everywhere, strict=True)
    return np.stack([_channel(one, spacing, scanner, gain, noise, own) for one, own in parts])


def _channel(
    image: Array,
    spacing: Spacing,
    scanner: Scanner,
    gain: Array,
    noise: np.random.Generator,
    counts: Array,
) -> Array:
    """Return one channel, (D, H, W); one that is constant stays so. Arguments as of `scanned`."""
    values = image[counts]
    if not values.size or values.min() == values.max():
        return image
    low, high = np.percentile(values, PERCENTILES)
    if low == high:  # all but a few voxels are alike
        low, high = values.min(), values.max()
    low, width = np.float32(low), np.float32(high - low)
    signal = curve(((image - low) / width).clip(0, 1), scanner.peak, scanner.gamma)
    # What lies outside must not shine in when voxels are averaged.
    signal = gain * np.where(counts, signal, signal[counts].mean())
    signal = thickened(signal, spacing, scanner.thick)
    signal = gaussian_filter(signal, [scanner.blur / step for step in spacing], mode="nearest")
    signal = with_noise(with_ghosts(signal, scanner.ghost), scanner.noise, noise)
    return np.where(counts, low + width * signal, image).astype(np.float32)


def curve(share: Array, peak: float, gamma: float) -> Array:
    """Return how bright intensities from 0 to 1 come out, from 0 to 1; see `Scanner`."""
    found: Array = (1 - np.abs(share - np.float32(peak))) ** np.float32(gamma)
    return found


def sensitivity(shape: Shape, bias: float, coil: float, rng: np.random.Generator) -> Array:
    """Return the gain of the receiving coils, float32.

    The smooth one is exp(bias f / max|f|), f being a sum of Legendre polynomials of degree 1 and 2
    with normal coefficients; the surface coil's is 1 + coil exp(-d^2 / 2 REACH^2), d being the
    distance from where it lies, all extents being 2.

    Args:
        shape: slices, rows and columns.
        bias: see `Scanner`.
        coil: likewise.
        rng: draws both fields.
    """
    axes = [(2 * np.arange(n, dtype=np.float32) + 1) / n - 1 for n in shape]
    degree = sum(np.ogrid[:3, :3, :3])
    weights = rng.standard_normal((3, 3, 3)) * ((degree > 0) & (degree < 3))
    terms = [np.polynomial.legendre.legvander(axis, 2) for axis in axes]
    field = np.einsum("ijk,ai,bj,ck->abc", weights, *terms, optimize=True)
    gain = np.exp(bias * field / np.abs(field).max())
    centre = rng.normal((0.0, 1.0, 0.0), 0.15)
    away = [(axis - at) ** 2 for axis, at in zip(axes, centre, strict=True)]
    distance = away[0][:, None, None] + away[1][:, None] + away[2]
    found: Array = gain * (1 + coil * np.exp(-distance / (2 * REACH**2)))
    return found.astype(np.float32)


def thickened(image: Array, spacing: Spacing, thick: float) -> Array:
    """Return an image, (D, H, W), of which slices, or a single one's rows, are so thick.

    They are averaged, and brought back to where they were by linear interpolation.
    """
    axis = 0 if len(image) > 1 else 1
    size = list(image.shape)
    size[axis] = max(1, round(size[axis] * spacing[axis] / max(thick, spacing[axis])))
    slices, rows, columns = size
    means = scaled(image[None], (slices, rows, columns)).numpy()
    found: Array = scaled(means, image.shape).numpy()[0]
    return found


def with_ghosts(image: Array, share: float) -> Array:
    """Return an image, (D, H, W), with copies of it on either side along its rows.

    Where motion of a fixed period scales the lines of k-space by 1 + share cos(2 pi k AWAY), the
    image appears again, a `share` / 2 of it, as far as AWAY of the rows before and behind it.
    """
    away = round(image.shape[1] * AWAY)
    copies = np.roll(image, away, axis=1) + np.roll(image, -away, axis=1)
    return image + np.float32(share / 2) * copies


def with_noise(image: Array, deviation: float, rng: np.random.Generator) -> Array:
    """Return the magnitude of an image with normal noise in both of its channels."""
    real, imaginary = rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.hypot(image + np.float32(deviation) * real, np.float32(deviation) * imaginary)
