"""The chest around the left atrium as a handful of solids whose distances can be evaluated anywhere.

Positions are millimetres from the middle of the left atrium, LPS (x to the patient's left, y to the
back, z to the head). Sizes and places were read off cropped late-enhancement scans: the aorta
descends behind the atrium, the pulmonary artery crosses its roof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from c3s3_seg.phantom.solids import Canvas, Field, Floats, smooth_field, smooth_union

Knots = tuple[tuple[float, float, float, float], ...]

# Middle lines of the tubes: (x, y, z, radius), mm.
AORTA_ROOT: Knots = (
    (16, -30, -16, 10),
    (5, -36, -6, 13.5),
    (-1, -38, 12, 14),
    (-4, -38, 34, 13),
    (0, -34, 80, 13),
)
AORTA_DESCENDING: Knots = ((8, 36, -90, 11), (13, 34, -20, 11), (17, 34, 20, 11.5), (20, 30, 80, 12))
PULMONARY_ARTERY: Knots = ((8, -58, -10, 13), (20, -54, 14, 13), (25, -40, 34, 12.5), (16, -22, 40, 11))
PULMONARY_RIGHT: Knots = ((16, -22, 40, 10), (-6, -13, 39, 10), (-32, -4, 35, 9), (-50, 4, 32, 7))
PULMONARY_LEFT: Knots = ((20, -26, 40, 10), (34, -2, 45, 9.5), (42, 18, 37, 8), (46, 27, 22, 6))
CAVA_SUPERIOR: Knots = ((-27, -20, 80, 9), (-28, -24, 30, 9), (-30, -26, 6, 10))
CAVA_INFERIOR: Knots = ((-32, -18, -24, 12), (-32, -8, -44, 12), (-30, -2, -80, 12))
TRICUSPID: Knots = ((-34, -34, -18, 15), (-22, -48, -22, 15), (-12, -56, -26, 15))
OESOPHAGUS: Knots = ((4, 27, -80, 5), (-3, 26, 0, 4.5), (-8, 26, 80, 5))
SPINE: Knots = ((-14, 46, -120, 15.5), (-14, 42, 0, 15.5), (-14, 44, 120, 15.5))
CANAL: Knots = ((-14, 70, -120, 7), (-14, 66, 0, 7), (-14, 68, 120, 7))
AIRWAYS: tuple[Knots, ...] = (
    ((-4, 4, 80, 8), (-4, 8, 52, 8)),
    ((-4, 8, 52, 7), (-22, 10, 42, 6), (-44, 14, 22, 4)),
    ((-4, 8, 52, 6.5), (14, 12, 40, 5.5), (38, 12, 20, 4)),
)
APPENDAGE: Knots = ((17, -10, 5, 8.5), (31, -17, 9, 7.5), (39, -15, 15, 7), (42, -24, 11, 3.5))
# Each vein up to its first fork: this part belongs to the truth.
VEINS: tuple[Knots, ...] = (
    ((-16, -2, 8, 9), (-32, -5, 14, 6.8), (-41, -8, 18, 5.5), (-47, -9, 21, 5)),
    ((-16, 5, -4, 9), (-32, 11, -6, 6.5), (-40, 16, -8, 5.5), (-45, 20, -10, 5)),
    ((14, 0, 9, 9), (28, 0, 17, 6.8), (37, -1, 23, 5.5), (44, -3, 30, 5)),
    ((16, 6, 0, 9), (29, 12, 0, 6.3), (37, 17, -1, 5.3), (44, 22, -3, 4.8)),
)
LEFT_AXIS = (0.68, -0.47, -0.56)  # from the atrium through the mitral plane to the apex


@dataclass(frozen=True)
class Variation:
    """The variation between hearts. Standard deviations unless a range is named."""

    knot_mm: float = 1.6  # course of a vessel: neighbouring tubes stay apart
    radius: float = 0.07  # calibre of a vessel, as a fraction
    chamber: float = 0.06  # each half axis of a chamber, as a fraction
    surface_mm: float = 0.9  # bumps on the atrium: below the scale of a vein
    fillet_mm: float = 5.0  # rounding where a vein or the appendage leaves the body
    septum_mm: float = 2.6  # least tissue between two blood pools: two voxels, as seen between the atria
    annulus_mm: tuple[float, float] = (17.5, 20.5)  # range: middle of the atrium to the mitral plane


@dataclass(frozen=True)
class Layer:
    """A tissue (a key of the brightness table) and where it is; a later layer covers an earlier one."""

    tissue: str
    field: Field


@dataclass(frozen=True)
class Anatomy:
    """The cavity that is the truth where it is positive, and all tissues in the order of painting."""

    cavity: Field
    layers: tuple[Layer, ...]


def course(rng: np.random.Generator, knots: Knots, variation: Variation) -> Floats:
    """Return a random, smooth variant of a vessel: (n, 4) from a few knots, corners cut twice."""
    path = np.array(knots, dtype=np.float64)
    path[:, :3] += rng.normal(0, variation.knot_mm, (len(path), 3))
    path[:, 3] *= np.exp(rng.normal(0, variation.radius))
    for _ in range(2):
        cut = np.stack([0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]], axis=1)
        path = np.concatenate([path[:1], cut.reshape(-1, 4), path[-1:]])
    return path


@dataclass(frozen=True)
class _Builder:
    """The canvas, random generator and variation that every organ needs."""

    canvas: Canvas
    rng: np.random.Generator
    variation: Variation

    def vessel(self, *vessels: Knots) -> Field:
        return self.canvas.tube(*(course(self.rng, knots, self.variation) for knots in vessels))

    def chamber(self, centre: ArrayLike, radii: ArrayLike, axes: ArrayLike | None = None) -> Field:
        spread = self.variation
        middle = np.asarray(centre) + self.rng.normal(0, spread.knot_mm, 3)
        half = np.asarray(radii) * np.exp(self.rng.normal(0, spread.chamber, 3))
        return self.canvas.ellipsoid(middle, half, axes)

    def forks(self, trunk: Floats) -> list[Floats]:
        """Return two branches (n, 4) from the end of a vein into the lung, narrower from the first mm on."""
        tip, ahead = trunk[-1], trunk[-1, :3] - trunk[-4, :3]
        ahead /= np.linalg.norm(ahead)
        side = np.cross(ahead, self.rng.standard_normal(3))
        side *= 0.7 / np.linalg.norm(side)
        branches = []
        for sign in (-1, 1):
            course_mm = np.outer([0, 14, 32], ahead + sign * side) + tip[:3]
            branches.append(np.column_stack([course_mm, tip[3] * np.array([0.62, 0.5, 0.3])]))
        return branches


@dataclass(frozen=True)
class _LeftHeart:
    """Atrium with and without its mitral cut, ventricle, leaflets, lung veins beyond the forks."""

    cavity: Field
    uncut: Field
    ventricle: Field
    myocardium: Field
    leaflets: Field
    branches: Field


def _atrium(build: _Builder, impressions: Field) -> tuple[Field, Field]:
    """Return the atrium before the mitral cut, and the branches of its veins."""
    spread = build.variation
    right = build.chamber((-10, 1, 0), (23, 17.5, 21))
    left = build.chamber((8, -1, -2), (23.5, 19.5, 24))
    trunks = [course(build.rng, vein, spread) for vein in VEINS]
    veins = build.canvas.tube(*trunks)
    body = smooth_union(smooth_union(right, left, 2 * spread.fillet_mm), veins, spread.fillet_mm)
    body = smooth_union(body, build.vessel(APPENDAGE), spread.fillet_mm)
    body += spread.surface_mm * smooth_field(build.rng, build.canvas.shape, 9)
    # The aorta presses into the atrium, as in the scans; so the two can never overlap.
    body = -smooth_union(-body, impressions + spread.septum_mm, spread.fillet_mm)
    return body, build.canvas.tube(*(branch for trunk in trunks for branch in build.forks(trunk)))


def _left_heart(build: _Builder, impressions: Field) -> _LeftHeart:
    uncut, branches = _atrium(build, impressions)
    axis = np.array(LEFT_AXIS) + build.rng.normal(0, 0.06, 3)
    axis /= np.linalg.norm(axis)
    depth = build.rng.uniform(*build.variation.annulus_mm)
    beyond = np.asarray(np.einsum("a...,a->...", build.canvas.points, axis.astype(np.float32)) - depth)
    sideways = np.cross(axis, (0.0, 0.0, 1.0))
    sideways /= np.linalg.norm(sideways)
    frame = np.stack([axis, sideways, np.cross(axis, sideways)], axis=1)
    pool = build.chamber(axis * (depth + 27), (36, 20.5, 20.5), frame)
    radial = np.linalg.norm(
        build.canvas.points - np.float32(beyond + depth) * axis.astype(np.float32)[:, None, None, None],
        axis=0,
    )
    # Only the orifice is cut: the appendage and a low vein may lie beyond the plane and stay whole.
    elsewhere = np.minimum(uncut, radial - 23)
    cavity = np.minimum(uncut, np.maximum(-beyond, radial - 23))
    # Past the plane the rest of the atrium's own solid is the inflow: the orifice is open.
    inflow = np.minimum(np.minimum(uncut, 15 - radial), 12 - beyond)
    ventricle = np.minimum(np.maximum(pool, inflow), beyond)
    ventricle = np.minimum(ventricle, -elsewhere - build.variation.septum_mm)
    myocardium = np.minimum(pool + np.float32(build.rng.uniform(7.5, 10)), beyond + 1)
    myocardium = np.minimum(myocardium, -elsewhere - 1)
    sheet = 0.8 - np.abs(beyond - 4 * (1 - (radial / 15) ** 2))
    leaflets = np.minimum(np.minimum(sheet, radial - 5), 16 - radial)
    return _LeftHeart(cavity, uncut, ventricle, myocardium, leaflets, branches)


def _right_heart(build: _Builder, keep_out: Field) -> dict[str, Field]:
    """Return the pools of the right side, open to each other and walled off from `keep_out`."""
    pools = {
        "right_atrium": np.maximum(
            build.chamber((-34, -29, -17), (22, 22, 27)),
            build.vessel(CAVA_SUPERIOR, CAVA_INFERIOR, TRICUSPID),
        ),
        "right_ventricle": build.chamber((0, -59, -28), (39, 23, 27)),
        "pulmonary_artery": build.vessel(PULMONARY_ARTERY, PULMONARY_RIGHT, PULMONARY_LEFT),
    }
    return {name: np.minimum(field, -keep_out) for name, field in pools.items()}


def _surroundings(build: _Builder, heart: Field, vessels: Field) -> list[Layer]:
    """Return all layers outside the heart: chest wall, lungs, spine, liver, in the order of painting."""
    x, y, z = build.canvas.points
    spine, canal = build.vessel(SPINE), build.vessel(CANAL)
    middle = 34 * (1 - np.sqrt((x + 3) ** 2 / 34**2 + (y + 22) ** 2 / 60**2))
    thorax = 75 * (1 - np.sqrt(x**2 / 125**2 + (y + 16) ** 2 / 78**2))
    liver = np.maximum(
        build.chamber((-45, -15, -100), (80, 75, 54)), build.chamber((55, -10, -108), (60, 60, 52))
    )
    mediastinum = np.maximum.reduce([heart + 5, vessels + 3, spine + 4, liver + 3, middle])
    lung = np.minimum(thorax, -mediastinum)
    twigs = []
    for _ in range(14):
        start = np.array([build.rng.choice([-1, 1]) * build.rng.uniform(42, 60), 8, 5])
        start += build.rng.normal(0, 16, 3)
        tip = start + build.rng.normal(0, 14, 3) + (np.sign(start[0]) * 12, 4, 0)
        twigs.append(np.array([[*start, 2.2], [*tip, 1.0]]))
    height = (z + build.rng.uniform(0, 26)) % 26 - 13
    gullet = build.vessel(OESOPHAGUS)
    return [
        Layer("muscle", -thorax),
        Layer("subcutaneous", -thorax - 14),
        Layer("lung", lung),
        Layer("lung_vessel", np.minimum(build.canvas.tube(*twigs), lung + 2)),
        Layer("liver", liver),
        Layer("cortex", spine + 1.2),
        Layer("marrow", spine - 0.8),
        Layer("disc", np.minimum(spine, 3 - np.abs(height))),
        Layer("canal", canal),
        Layer("muscle", gullet),
        Layer("lung", gullet - 3),
        *(Layer("muscle", build.vessel(knots) + 1.5) for knots in AIRWAYS),
    ]


def build_anatomy(canvas: Canvas, rng: np.random.Generator, variation: Variation) -> Anatomy:
    """Build one random chest on a canvas."""
    build = _Builder(canvas, rng, variation)
    septum = variation.septum_mm
    root, descending = build.vessel(AORTA_ROOT), build.vessel(AORTA_DESCENDING)
    left = _left_heart(build, np.maximum(root, descending))
    wall_off = np.maximum.reduce([left.uncut, left.ventricle, root, descending, left.branches]) + septum
    right = _right_heart(build, np.maximum(wall_off, left.myocardium))
    # The aorta opens into the ventricle and into nothing else.
    branches = np.minimum(left.branches, -np.maximum(root, descending) - septum)
    airways = canvas.tube(*(np.array(knots, dtype=np.float64) for knots in AIRWAYS))
    pools = {
        **right,
        "aorta": np.maximum(root, descending),
        "vein": branches,
        "left_ventricle": left.ventricle,
        "left_atrium": left.cavity,
    }
    right_side = np.maximum.reduce(list(right.values()))
    heart = np.maximum.reduce([left.uncut, left.myocardium, right_side, root])
    walls = np.maximum.reduce([right_side + 1.8, pools["aorta"] + 1.5, branches + 0.8, left.uncut + 1.8])
    # Scar lies in the wall, in patches: where a slow random field is high, and not across the valve.
    patches = 4 * (smooth_field(rng, canvas.shape, 10) - np.float32(rng.uniform(0.9, 1.8)))
    scar = np.minimum(1.1 - np.abs(left.cavity + 1.0), np.minimum(patches, -left.ventricle - 2))
    air = np.minimum(airways, -np.maximum(wall_off, right_side + septum))
    layers = [
        *_surroundings(build, heart, np.maximum(descending, branches)),
        Layer("lung", air),
        Layer("wall", walls),
        Layer("myocardium", left.myocardium),
        *(Layer(name, field) for name, field in pools.items()),
        Layer("leaflet", np.minimum(left.leaflets, left.ventricle + 1.5)),
        Layer("scar", scar),
    ]
    return Anatomy(left.cavity, tuple(layers))
