"""An imaginary beating heart: short-axis slices through systole, frames arriving over time."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fedcl.errors import ConfigError
from fedcl.seeding import numpy_rng
from fedcl.settings import setting
from sites.parts.field import FieldScenario, Volume

Array = NDArray[np.float64]

TISSUES = {"lung": 0.08, "body": 0.35, "wall": 0.45, "blood": 0.85, "muscle": 0.30}


@dataclass
class CineDomain(FieldScenario):
    """Frames from end-diastole (the first) to end-systole (the last).

    The left ventricle shrinks to half its radius while its wall thickens at constant area,
    the right one follows, and both twist a little; texture moves with the muscle. One
    patient for all sites, or one each where they do not share a volume.

    Attributes:
        seed: of the anatomy; null for the run's.
        noise: standard deviation of what the scanner adds.
    """

    masks: list[str] = setting(factory=list)
    seed: int | None = setting(None, low=0)
    noise: float = setting(0.005, low=0, high=1)

    def __post_init__(self) -> None:
        """Check the masks."""
        if not {*self.masks} <= {"pool"}:
            raise ConfigError(f"scenario.masks: there is only pool, got {self.masks}")
        super().__post_init__()

    def volume(self, site: str, path: Path | None, seed: int) -> Volume:
        """Make the volume of the patient; see `FieldScenario.volume`."""
        whose = () if self.shared else (site,)
        rng = numpy_rng("heart", seed if self.seed is None else self.seed, *whose)
        return beat(self.frames, self.slices, self.size, self.noise, rng)


def beat(frames: int, slices: int, size: int, noise: float, rng: np.random.Generator) -> Volume:
    """Draw a heart in systole.

    Args:
        frames: number of frames.
        slices: number of slices.
        size: rows and columns of each.
        noise: standard deviation of the scanner's noise.
        rng: draws anatomy, texture and noise.
    """
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    tilt, offset = rng.uniform(-0.3, 0.3), rng.uniform(-0.05, 0.05, 2)
    wide, thick = rng.uniform(0.27, 0.33), rng.uniform(0.10, 0.14)
    grain = gaussian_filter(rng.standard_normal((size, size)), size / 24)
    grain *= 0.06 / grain.std()
    signal, pool = (np.zeros((frames, slices, size, size), np.float32) for _ in range(2))
    for t in range(frames):
        phase = t / max(frames - 1, 1)
        shrink = 1 - 0.5 * np.sin(0.5 * np.pi * phase) ** 2
        for d in range(slices):
            taper = 1 - 0.45 * (d / max(slices - 1, 1)) ** 2  # towards the apex
            turn = tilt + 0.3 * phase
            u = np.cos(turn) * (x - offset[0]) + np.sin(turn) * (y - offset[1])
            v = np.cos(turn) * (y - offset[1]) - np.sin(turn) * (x - offset[0])
            radius = np.hypot(u, 1.08 * v)
            inner = wide * taper * shrink
            outer = np.sqrt(inner**2 + ((wide + thick) ** 2 - wide**2) * taper**2)
            right = np.hypot((u + 1.35 * outer) / (0.9 * shrink**0.5), v / 1.25) - 0.75 * outer
            image = _over(0 * x, np.hypot(x / 0.95, y / 0.85) - 1, TISSUES["body"], size)
            image = _over(image, np.hypot((x - 0.55) / 0.38, y / 0.6) - 1, TISSUES["lung"], size)
            image = _over(image, np.hypot((x + 0.6) / 0.3, y / 0.55) - 1, TISSUES["lung"], size)
            image = _over(image, right, TISSUES["blood"] * 0.92, size)
            image = _over(image, radius - outer, TISSUES["wall"], size)
            image = _over(image, radius - inner, TISSUES["blood"], size)
            for angle in (0.7, 2.6):  # papillary muscles
                place = 0.62 * inner * np.array([np.cos(angle), np.sin(angle)])
                spot = np.hypot(u - place[0], v - place[1]) - 0.035 * taper
                image = _over(image, spot, TISSUES["muscle"], size)
            moved = np.clip(((1 + np.stack([v, u]) / shrink) / 2 * (size - 1)).round(), 0, size - 1)
            texture = grain[tuple(moved.astype(int))]
            signal[t, d] = image * (1 + texture)
            pool[t, d] = radius < inner
    signal += noise * rng.standard_normal(signal.shape).astype(np.float32)
    return Volume(signal.clip(0, 1), {"pool": pool})


def _over(image: Array, distance: Array, value: float, size: int) -> Array:
    """Return `image` with a region painted over, its edge about a pixel wide.

    Args:
        image: shape (H, W).
        distance: from the region, negative inside, in half widths of the image.
        value: of the region.
        size: of the image.
    """
    share: Array = 1 / (1 + np.exp(np.clip(distance * size, -30, 30)))
    return image + (value - image) * share
