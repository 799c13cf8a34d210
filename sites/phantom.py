"""Six imaginary hospitals: T2-weighted axial slices of the male pelvis, as each sees them.

Anatomy, made of ellipses, is drawn first and alone decides the labels; scanner and protocol
then decide what it looks like, by the spin-echo equation. A patient depends on the settings,
the seed, the hospital and the patient's number alone: further patients or hospitals change
none of the others.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from enum import IntEnum
from math import log2
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from fedcl.data.cases import Case
from fedcl.seeding import numpy_rng
from fedcl.settings import setting
from sites.parts.phantom import PhantomScenario

FIELD_OF_VIEW = 180.0  # mm, width and height of a slice at zoom 1
GLAND = 36.0  # mm from base to apex, shared out among the slices
COIL = 0.10  # reach of an endorectal coil's gain, as a fraction of the field of view
GRAIN = 0.02  # width of a tissue's texture, likewise

Array = NDArray[np.float64]

Tissue = IntEnum("Tissue", "GAS FAT MUSCLE BONE FLUID BOWEL PERIPHERAL TRANSITION", start=0)

# T1 and T2 at 3 T, T1 and T2 at 1.5 T, all in ms, and proton density. The times given to gas
# leave the protocol no say in its signal; bone is fatty marrow, hard bone is as dark as gas.
RELAXATION = np.array(
    [
        [1, 1e6, 1, 1e6, 0.02],  # gas
        [370, 75, 290, 85, 1.0],  # fat
        [1420, 35, 1010, 45, 0.75],  # muscle
        [370, 55, 290, 65, 0.45],  # bone
        [3800, 1200, 3500, 1400, 1.0],  # fluid: bladder, vessels
        [1300, 60, 1100, 70, 0.8],  # bowel, rectum
        [1700, 140, 1350, 160, 0.9],  # peripheral zone of the prostate
        [1500, 85, 1200, 95, 0.88],  # transition zone
    ]
)


@dataclass(frozen=True)
class Hospital:
    """What a hospital's scanner does and whom it scans; lengths as in `draw_anatomy`.

    Attributes:
        tesla: field strength.
        tr, te: repetition and echo time of the spin echo, in ms.
        fat_sat: share of the signal of fat and marrow that is suppressed.
        bias: largest logarithm of the receiving coil's smooth gain.
        blur: standard deviation of the point spread, in 64ths of the field of view.
        noise: standard deviation of each of the two channels, where fat's density is 1.
        gamma: exponent applied to the intensities.
        erc: gain that an endorectal coil adds at its centre; 0 where there is none.
        rectum: radius of the rectum relative to A's; the coil widens it.
        zoom: magnification of the anatomy.
        rx, ry: half width and half height of the prostate at its thickest.
        y: how far the prostate's centre lies behind the body's.
        tz: radius of the transition zone over that of the prostate.
        bladder: probability that the bladder reaches down to the middle of the gland.
    """

    tesla: float
    tr: float
    te: float
    fat_sat: float
    bias: float
    blur: float
    noise: float
    gamma: float
    erc: float
    rectum: float
    zoom: float
    rx: float
    ry: float
    y: float
    tz: float
    bladder: float

    def from_reference(self, reference: "Hospital", strength: float) -> "Hospital":
        """Move `reference` towards this hospital; at `strength` 1 it arrives.

        Positive values go by their ratio, others by their difference: beyond 1, an echo
        time still stays above 0.
        """
        pairs = zip(astuple(reference), astuple(self), strict=True)
        values = [
            a * (b / a) ** strength if min(a, b) > 0 else a + strength * (b - a) for a, b in pairs
        ]
        return Hospital(*values)


# fmt: off
TABLE = {
    #    T   TR    TE  fat-s bias blur noise gamma erc  rect. zoom  rx    ry     y     tz  bladder
    "A": (3, 4000, 100, 0, .15, .37, .020, 1.00, 0, 1, 1.00, .162, .132, .020, .60, .50),
    "B": (3, 6050, 120, 0, .22, .63, .033, 0.87, 0, 1, 1.13, .148, .118, -.006, .67, .50),
    "C": (1.5, 2750, 148, 0, .35, .50, .033, 1.00, 3.9, 1.35, 1.39, .175, .092, -.071, .47, .11),
    "D": (1.5, 3360, 169, .39, .41, .89, .046, 1.13, 5.2, 1.35, 1.26, .162, .092, -.071, .47, .11),
    "E": (1.5, 1215, 35, 0, .28, 1.15, .059, 1.52, 0, 1, 0.80, .201, .171, .059, .80, .89),
    "F": (3, 1625, 46, 0, .35, 1.41, .072, 1.65, 0, 1, 0.74, .201, .171, .059, .80, .89),
}
# fmt: on
HOSPITALS = {name: Hospital(*row) for name, row in TABLE.items()}


@dataclass
class Phantom(PhantomScenario):
    """Six hospitals or more; slices go from the base of the prostate to its apex.

    Attributes:
        hospitals: how many; null for the six. The seventh is A2, with A's scanner and protocol and
            patients of its own, then come B2 to F2, A3 and so on. Unless `stages` names them, they
            arrive with those whose scanners they have.
        slices: how many per patient.
        strength: how far the hospitals lie apart: at 0 all are like A, at 1 as in
            `HOSPITALS`, above 1 further. The default costs fine-tuning about a quarter of
            what it has learned, which leaves room below and above it.
    """

    scanners: ClassVar[Mapping[str, Any]] = HOSPITALS

    stages: list[list[str]] = setting(factory=lambda: [["A", "B"], ["C", "D"], ["E", "F"]])
    hospitals: int | None = setting(None, low=6, high=100_000)
    slices: int = setting(4, low=1)
    strength: float = setting(0.8, low=0, high=2)

    def sites(self) -> list[str]:
        """Return the names of the hospitals."""
        first = super().sites()
        places = (divmod(place, len(first)) for place in range(self.hospitals or len(first)))
        return [first[which] + (str(turn + 1) if turn else "") for turn, which in places]

    def arrivals(self) -> list[list[str]]:
        """See `Scenario.arrivals`."""
        stages = super().arrivals()
        stage_of = {site: number for number, stage in enumerate(stages) for site in stage}
        later: list[list[str]] = [[] for _ in stages]
        for site in self.sites():
            if site not in stage_of and site[0] in stage_of:
                later[stage_of[site[0]]].append(site)
        return [[*stage, *more] for stage, more in zip(stages, later, strict=True)]

    def make(self, site: str, number: int) -> Case:
        """See `PhantomScenario.make`."""
        hospital = HOSPITALS[site[0]].from_reference(HOSPITALS["A"], self.strength)
        pixel = FIELD_OF_VIEW / hospital.zoom / self.size
        rng = numpy_rng("phantom", self.seed, site, number)
        tissues, distance = draw_anatomy(hospital, self.size, self.slices, rng)
        images = scan(tissues, distance, hospital, rng)
        images -= images.mean((1, 2), keepdims=True)
        images /= images.std((1, 2), keepdims=True)
        return Case.of(
            f"{site}{number:03d}",
            torch.from_numpy(images[None].astype(np.float32)),
            torch.from_numpy((tissues >= Tissue.PERIPHERAL).astype(np.uint8)),
            spacing=(GLAND / self.slices, pixel, pixel),
        )


def draw_anatomy(
    hospital: Hospital, size: int, slices: int, rng: np.random.Generator, reach: float = 1.0
) -> tuple[NDArray[np.uint8], Array]:
    """Draw one patient, from base to apex or, with a `reach` of up to 1.3, from above to below.

    Lengths are fractions of the field of view at zoom 1; x points to the right of the
    picture, y down (to the patient's back). The prostate is an ellipsoid cut short of both
    ends: its cross-section is scaled by sqrt(1 - (c z)^2), -1 < z < 1 and c < 0.76.

    Returns:
        The `Tissue` of every pixel, shape (D, size, size), and its distance from the centre
        of the rectum as a fraction of the field of view, same shape.
    """
    z = reach * ((np.arange(slices) + 0.5) / slices * 2 - 1)[:, None, None]
    offset, drift = rng.normal(0, 0.012, 2), rng.normal(0, 0.008, 2)
    tilt = rng.normal(0, 0.06)
    axis = (np.arange(size) + 0.5) / size - 0.5
    across = axis / hospital.zoom - offset[0] - drift[0] * z
    down = axis[:, None] / hospital.zoom - offset[1] - drift[1] * z
    x = across * np.cos(tilt) + down * np.sin(tilt)
    y = down * np.cos(tilt) - across * np.sin(tilt)
    tissues = np.full(x.shape, Tissue.GAS, np.uint8)

    def paint(tissue: Tissue, cx: Any, cy: Any, rx: Any, ry: Any, rim: Any = 1.0) -> None:
        inside = ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < rim**2
        if tissue >= Tissue.PERIPHERAL:
            inside &= abs(z) <= 1
        tissues[inside] = tissue

    # What is painted later covers what came before; the prostate, last, is never covered.
    body, head, side = rng.normal(1, 0.04, 3)
    fat = rng.uniform(0.03, 0.07)
    paint(Tissue.FAT, 0, 0, 0.48 * body, 0.42 * body)
    paint(Tissue.MUSCLE, 0, 0, 0.48 * body - fat, 0.42 * body - fat)
    paint(Tissue.FAT, 0, 0, 0.28 * body, 0.28 * body)
    for way in (-1, 1):
        paint(Tissue.MUSCLE, 0.27 * way, 0.03, 0.055 * side, 0.19 * side)
        paint(Tissue.GAS, 0.35 * way, -0.05, 0.088 * head, 0.098 * head)
        paint(Tissue.BONE, 0.35 * way, -0.05, 0.070 * head, 0.080 * head)
    # Vessels and loops of bowel, each as bright as prostate under one protocol or another.
    for way, cx, cy, r, flat, kind in rng.random((3, 6))[: rng.integers(1, 4)]:
        cx, r = (0.12 + 0.14 * cx) * (1 if way < 0.5 else -1), 0.025 + 0.03 * r
        what = Tissue.FLUID if kind < 0.4 else Tissue.BOWEL
        paint(what, cx, 0.5 * cy - 0.25, r, r * (0.7 + 0.6 * flat))

    wide, tall, zone, gut, full = rng.normal(1, 0.1, 5).clip(0.75, 1.25)
    scale = np.sqrt(1 - (rng.uniform(0.5, 0.76) * z) ** 2)
    rx, ry = hospital.rx * wide, hospital.ry * tall
    cx, cy = rng.normal(0, 0.008), hospital.y + rng.normal(0, 0.01)
    # Towards the base the bladder is likelier, and wider.
    odds = hospital.bladder / max(1 - hospital.bladder, 1e-6) * np.exp(-1.5 * z)
    dome = np.sqrt((4 * (odds / (1 + odds) - rng.random())).clip(1e-6, 1))
    paint(Tissue.FLUID, 0, cy - ry * scale - 0.05, 0.14 * full * dome, 0.09 * full * dome)
    r = 0.078 * gut * hospital.rectum
    rectum = rng.normal(0, 0.01), min(cy + ry + 0.85 * r, 0.31)
    paint(Tissue.BOWEL, *rectum, r, r)
    if rng.random() < 0.5:
        paint(Tissue.GAS, rectum[0], rectum[1] - 0.2 * r, 0.65 * r, 0.55 * r)
    angle = np.arctan2(y - cy, x - cx)
    two, three = rng.uniform(0, 2 * np.pi, 2)
    rim = 1 + 0.04 * np.cos(2 * angle - two) + 0.04 * np.cos(3 * angle - three)
    paint(Tissue.PERIPHERAL, cx, cy, rx * scale, ry * scale, rim)
    share = min(hospital.tz * zone, 0.92)
    lifted = cy - 0.6 * (1 - share) * ry * scale
    paint(Tissue.TRANSITION, cx, lifted, share * rx * scale, share * ry * scale, rim)
    return tissues, hospital.zoom * np.hypot(x - rectum[0], y - rectum[1])


def scan(
    tissues: NDArray[np.uint8], distance: Array, hospital: Hospital, rng: np.random.Generator
) -> Array:
    """Return what `hospital` makes of a patient, intensities of shape (D, H, W).

    Args:
        tissues: the patient, as from `draw_anatomy`.
        distance: likewise, from the rectum, where a coil lies.
        hospital: the scanner and its protocol.
        rng: draws this patient's tissues (8 %), echo and repetition time (5 %), and noise.
    """
    size = tissues.shape[-1]
    tr, te = np.array([hospital.tr, hospital.te]) * rng.uniform(0.95, 1.05, 2)
    image = signals(hospital, tr, te, rng.normal(1, 0.08, (3, len(Tissue))).clip(0.7, 1.3))[tissues]

    grain = GRAIN * size
    texture = gaussian_filter(rng.standard_normal(image.shape), (0, grain, grain))
    image *= 1 + 0.1 * texture / texture.std()
    v, h = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    field = np.tensordot(rng.standard_normal(5), [h, v, h * v, h**2 - 0.5, v**2 - 0.5], 1)
    image *= np.exp(hospital.bias * field / abs(field).max())
    image *= 1 + hospital.erc * np.exp(-(distance**2) / (2 * COIL**2))

    blur = hospital.blur * size / 64
    image = gaussian_filter(image, (0, blur, blur))
    real, imaginary = hospital.noise * rng.standard_normal((2, *image.shape))
    brightness: Array = np.hypot(image + real, imaginary) ** hospital.gamma
    return brightness


def signals(hospital: Hospital, tr: float, te: float, jitter: ArrayLike = 1.0) -> Array:
    """Return the signal of every tissue, shape (8,).

    Args:
        hospital: gives field strength and fat saturation.
        tr: repetition time, in ms.
        te: echo time, in ms.
        jitter: factors on T1, T2 and proton density, shape (3, 8) or a number.
    """
    low = log2(3 / hospital.tesla)  # 0 at 3 T, 1 at 1.5 T
    relaxation = RELAXATION.T
    times = (1 - low) * relaxation[0:2] + low * relaxation[2:4]
    t1, t2, density = np.vstack([times, relaxation[4:]]) * jitter
    signal = spin_echo(density, t1, t2, tr, te)
    signal[[Tissue.FAT, Tissue.BONE]] *= 1 - hospital.fat_sat
    return signal


def spin_echo(density: Array, t1: Array, t2: Array, tr: float, te: float) -> Array:
    """Return density (1 - exp(-TR / T1)) exp(-TE / T2); all times in ms."""
    return density * (1 - np.exp(-tr / t1)) * np.exp(-te / t2)
