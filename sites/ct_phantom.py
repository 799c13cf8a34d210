"""Four imaginary hospitals: CT slices of the upper abdomen, with the spleen to be found.

As in `phantom`, anatomy alone decides the labels; scanner, dose and contrast medium then decide
what it looks like, in Hounsfield units (HU). A patient depends on the settings, the seed, the
hospital and the patient's number alone.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from fedcl.data.cases import Case
from fedcl.seeding import numpy_rng
from fedcl.settings import setting
from sites.parts.phantom import PhantomScenario

FIELD_OF_VIEW = 360.0  # mm, width and height of a slice at zoom 1
SPAN = 100.0  # mm from the uppermost slice's upper side to the lowest one's lower side
FINE = 2.5  # mm between the layers a slice is averaged from

Array = NDArray[np.float64]

Tissue = IntEnum(
    "Tissue", "AIR FAT MUSCLE BONE FLUID BOWEL LIVER KIDNEY VESSEL SPLEEN", start=0
)  # fmt: skip

# HU without contrast medium, in the arterial and in the portal venous phase: rounded from what
# radiology textbooks give as typical.
ATTENUATION = np.array(
    [
        [-950, -950, -950],  # air
        [-100, -100, -100],  # fat
        [55, 60, 65],  # muscle
        [350, 360, 370],  # bone
        [10, 10, 15],  # fluid: the stomach's content
        [30, 45, 70],  # bowel
        [60, 75, 110],  # liver
        [32, 130, 180],  # kidney
        [42, 280, 150],  # vessel
        [48, 115, 122],  # spleen
    ]
)


@dataclass(frozen=True)
class Scanner:
    """How a hospital scans.

    Attributes:
        phase: of the contrast medium: 0 none, 1 arterial, 2 portal venous, or between.
        noise: standard deviation in HU, where the dose is what it is.
        kernel: standard deviation of the reconstruction's blur, in mm; small is sharp, and
            leaves the noise fine-grained.
        thickness: of a slice, in mm.
        zoom: magnification of the anatomy.
        spleen: size of the spleen relative to A's: whom the hospital sees.
    """

    phase: float
    noise: float
    kernel: float
    thickness: float
    zoom: float
    spleen: float


HOSPITALS = {
    #            phase noise kernel thick zoom  spleen
    "A": Scanner(2.0, 12.0, 2.5, 2.5, 1.00, 1.00),
    "B": Scanner(1.5, 18.0, 2.0, 5.0, 1.10, 1.10),
    "C": Scanner(1.0, 30.0, 1.5, 5.0, 0.90, 0.85),
    "D": Scanner(0.0, 45.0, 4.0, 10.0, 1.00, 1.25),
}


@dataclass
class CTPhantom(PhantomScenario):
    """Four hospitals; slices lie evenly over 100 mm, from top to bottom.

    Attributes:
        slices: how many per patient.
        strength: how far the hospitals lie apart: at 0 all are like A, at 1 as in `HOSPITALS`.
        level, width: of the window, in HU: what lies in it becomes -1 to 1.
    """

    scanners: ClassVar[Mapping[str, Any]] = HOSPITALS

    stages: list[list[str]] = setting(factory=lambda: [["A", "C"], ["B", "D"]])
    slices: int = setting(4, low=1)
    strength: float = setting(1.0, low=0, high=1)
    level: float = 60.0
    width: float = setting(400.0, above=0)

    def make(self, site: str, number: int) -> Case:
        """See `PhantomScenario.make`."""
        pairs = zip(astuple(HOSPITALS["A"]), astuple(HOSPITALS[site]), strict=True)
        scanner = Scanner(*((1 - self.strength) * a + self.strength * b for a, b in pairs))
        pixel = FIELD_OF_VIEW / scanner.zoom / self.size
        rng = numpy_rng("ct phantom", self.seed, site, number)
        tissues = draw_anatomy(scanner, self.size, self.slices, rng)
        image = window(scan(tissues, scanner, pixel, rng), self.level, self.width)
        labels = (tissues == Tissue.SPLEEN).mean(axis=1) > 0.5
        return Case.of(
            f"{site}{number:03d}",
            torch.from_numpy(image[None].astype(np.float32)),
            torch.from_numpy(labels.astype(np.uint8)),
            spacing=(SPAN / self.slices, pixel, pixel),
        )


def draw_anatomy(
    scanner: Scanner, size: int, slices: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Draw one patient, from top to bottom.

    Lengths are fractions of the field of view at zoom 1; x points to the right of the picture
    (the patient's left), y down (to the back), z from -1 to 1.

    Returns:
        The `Tissue` of every pixel of the layers that each slice averages, shape
        (slices, layers, size, size).
    """
    layers = max(1, round(scanner.thickness / FINE))
    middle = ((np.arange(slices) + 0.5) / slices - 0.5) * SPAN
    offset = ((np.arange(layers) + 0.5) / layers - 0.5) * scanner.thickness
    z = ((middle[:, None] + offset) / (SPAN / 2))[:, :, None, None]
    shift, lean = rng.normal(0, 0.01, 2), rng.normal(0, 0.006, 2)
    axis = (np.arange(size) + 0.5) / size - 0.5
    x = axis / scanner.zoom - shift[0] - lean[0] * z
    y = axis[:, None] / scanner.zoom - shift[1] - lean[1] * z
    tissues = np.full(np.broadcast_shapes(x.shape, y.shape), Tissue.AIR, np.uint8)

    def ball(cx: Any, cy: Any, rx: Any, ry: Any, turn: float = 0.0) -> Array:
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        inside: Array = (u / rx) ** 2 + (v / ry) ** 2
        return inside

    def paint(tissue: Tissue, *place: Any) -> None:
        tissues[ball(*place) < 1] = tissue

    # What is painted later covers what came before; the spleen, last, is never covered.
    body, fat = rng.normal(1, 0.05), rng.uniform(0.02, 0.06)
    wide, high = 0.46 * body, 0.35 * body
    paint(Tissue.FAT, 0, 0, wide, high)
    paint(Tissue.MUSCLE, 0, 0, wide - fat, high - fat)
    paint(Tissue.FAT, 0, -0.01, wide - fat - 0.025, high - fat - 0.03)
    for angle in np.linspace(0.15, 0.85, 5) * np.pi:  # ribs
        for way in (-1, 1):
            cx, cy = way * (wide - fat - 0.012) * np.sin(angle), -(high - fat - 0.015)
            paint(Tissue.BONE, cx, cy * np.cos(angle), 0.014, 0.010)
    paint(Tissue.MUSCLE, 0, 0.22 * body, 0.14, 0.07)
    paint(Tissue.BONE, 0, 0.17 * body, 0.058, 0.048)
    paint(Tissue.BONE, 0, 0.245 * body, 0.018, 0.05)
    paint(Tissue.VESSEL, 0.02, 0.095 * body, 0.022, 0.022)
    paint(Tissue.VESSEL, -0.05, 0.09 * body, 0.026, 0.020)
    for cx, cy, r, gas in rng.random((4, 4)):  # loops of bowel, further down
        cx, cy, r = 0.36 * cx - 0.12, -0.2 + 0.2 * cy + 0.02, (0.03 + 0.03 * r) * (z > -0.2)
        paint(Tissue.BOWEL, cx, cy, r + 1e-6, 0.8 * r + 1e-6)
        paint(Tissue.AIR, cx, cy - 0.2 * r, 0.5 * r * (gas > 0.6) + 1e-6, 0.4 * r + 1e-6)
    big, long_, full, dome, low = rng.normal(1, 0.1, 5).clip(0.75, 1.3)
    shrink = np.sqrt((1 - (0.75 * (z + 0.2)) ** 2).clip(0.05, 1))
    paint(Tissue.LIVER, -0.19, -0.04, 0.19 * big * shrink, 0.21 * shrink, 0.3)
    paint(Tissue.LIVER, -0.02, -0.14, 0.15 * big * shrink, 0.07 * shrink, 0.1)
    upper = np.sqrt((1 - (0.8 * (z + 0.4)) ** 2).clip(0, 1)) + 1e-6
    paint(Tissue.FLUID, 0.13, -0.10, 0.11 * full * upper, 0.09 * full * upper, -0.4)
    paint(Tissue.AIR, 0.13, -0.15, 0.07 * full * upper * dome, 0.035 * upper)
    kidney = np.sqrt((1 - (0.9 * (z - 0.5)) ** 2).clip(0, 1)) + 1e-6
    for way in (-1, 1):
        paint(Tissue.KIDNEY, 0.155 * way, 0.16, 0.045 * low * kidney, 0.06 * kidney, 0.4 * way)
        paint(Tissue.FAT, 0.13 * way, 0.15, 0.018 * kidney, 0.022 * kidney)

    # A crescent between the ribs and what lies inwards of it, thickest above the middle.
    scale = np.sqrt((1 - ((z + rng.normal(0.1, 0.08)) / (1.05 * long_)) ** 2).clip(0, 1)) + 1e-6
    spleen = scanner.spleen ** (1 / 3) * rng.normal(1, 0.08)
    turn, cx, cy = rng.normal(0.35, 0.12), 0.275 * body, 0.05 + rng.normal(0, 0.012)
    outside = ball(cx, cy, 0.075 * spleen * scale, 0.145 * spleen * scale, turn)
    hollow = ball(cx - 0.085 * spleen, cy - 0.01, 0.06, 0.12 * spleen, turn)
    tissues[(outside < 1) & (hollow > 1)] = Tissue.SPLEEN
    return tissues


def scan(
    tissues: NDArray[np.uint8], scanner: Scanner, pixel: float, rng: np.random.Generator
) -> Array:
    """Return what a scanner makes of a patient, in HU, shape (slices, size, size).

    Args:
        tissues: as from `draw_anatomy`.
        scanner: the hospital's.
        pixel: width of a pixel, in mm.
        rng: draws this patient's tissues (5 HU), circulation (15 %), texture and noise.
    """
    phase = float(np.clip(scanner.phase * rng.normal(1, 0.15), 0, 2))
    early, late = int(min(phase, 1)), int(min(phase, 1)) + 1
    share = phase - early
    values = (1 - share) * ATTENUATION[:, early] + share * ATTENUATION[:, late]
    image = (values + rng.normal(0, 5, len(values)))[tissues].mean(axis=1)
    texture = gaussian_filter(rng.standard_normal(image.shape), (0, 8 / pixel, 8 / pixel))
    image += 6 * texture / texture.std()
    blur = scanner.kernel / pixel
    image = gaussian_filter(image, (0, blur, blur))
    # Thin slices get fewer photons; the kernel decides how coarse the noise is.
    grain = gaussian_filter(rng.standard_normal(image.shape), (0, blur, blur))
    noise: Array = image + scanner.noise * grain / grain.std()
    return noise


def window(image: Array, level: float, width: float) -> Array:
    """Return HU between level - width / 2 and level + width / 2 as -1 to 1, others clipped."""
    inside: Array = ((image - level) / (width / 2)).clip(-1, 1)
    return inside
