"""Simulate a late-enhancement MRI of the heart with ground truth, to save as NIfTI or DICOM series.

The truth is the continuous shape sampled at voxel centres; the scan shows the same shape with partial
volume, a coil's brightness field and Rician noise. A seed alone determines every byte. A CT of the same
anatomy has Hounsfield units in place of brightness, an even field and Gaussian noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Array, Geometry, Source, Volume
from c3s3_seg.phantom.anatomy import Variation, build_anatomy
from c3s3_seg.phantom.solids import Canvas, Field, Floats, smooth_field
from c3s3_seg.system.choices import PhantomModality

# Brightness as a fraction of the blood in the atrium: (lowest, highest) over all scans. Myocardium
# is nulled by the inversion pulse and fat is suppressed; every blood pool is as bright as the atrium.
BRIGHTNESS: dict[str, tuple[float, float]] = {
    "fat": (0.16, 0.32),
    "muscle": (0.22, 0.38),
    "subcutaneous": (0.20, 0.50),
    "lung": (0.03, 0.08),
    "lung_vessel": (0.45, 0.80),
    "liver": (0.45, 0.80),
    "cortex": (0.30, 0.60),
    "marrow": (0.08, 0.20),
    "disc": (0.20, 0.40),
    "canal": (0.15, 0.45),
    "wall": (0.25, 0.42),
    "myocardium": (0.28, 0.45),
    "right_atrium": (0.88, 1.08),
    "right_ventricle": (0.88, 1.08),
    "pulmonary_artery": (0.90, 1.10),
    "aorta": (0.92, 1.10),
    "vein": (0.95, 1.05),
    "left_ventricle": (0.92, 1.06),
    "left_atrium": (1.00, 1.00),
    "leaflet": (0.50, 0.68),
    "scar": (1.05, 1.35),
}

# Hounsfield units in an early venous phase, (lowest, highest) over all scans; the blood pools are alike.
HOUNSFIELD: dict[str, tuple[float, float]] = {
    "fat": (-115, -85),
    "muscle": (45, 70),
    "subcutaneous": (-110, -80),
    "lung": (-880, -780),
    "lung_vessel": (100, 160),
    "liver": (90, 125),
    "cortex": (450, 800),
    "marrow": (120, 260),
    "disc": (60, 100),
    "canal": (15, 40),
    "wall": (40, 70),
    "myocardium": (80, 110),
    "right_atrium": (130, 190),
    "right_ventricle": (130, 190),
    "pulmonary_artery": (130, 190),
    "aorta": (150, 190),
    "vein": (150, 190),
    "left_ventricle": (150, 190),
    "left_atrium": (150, 190),
    "leaflet": (60, 100),
    "scar": (60, 110),
}


@dataclass(frozen=True)
class Simulator:
    """The settings of the simulation, with the ranges in which scans differ."""

    shape: tuple[int, int, int] = (112, 104, 56)  # the heart region in a grid that trains on a CPU
    spacing_mm: tuple[float, float, float] = (1.25, 1.25, 1.8)  # as acquired in the public benchmark
    spacing_spread: float = 0.04  # relative, for each axis, so that a swapped axis shows
    tilt_rad: float = 0.2  # largest turn of the grid (11.5 degrees), so that identity directions show
    origin_mm: float = 120.0  # largest distance of the grid's middle from the scanner's, per axis
    pose_rad: float = 0.12  # largest turn of the heart within the chest
    offset_mm: float = 4.0  # largest shift of the heart within the grid, per axis
    below_mm: float = (
        5.0  # the atrium sits below the grid's middle: its veins rise higher than its floor sinks
    )
    scale: float = 0.12  # relative size of a heart: 1 plus or minus
    warp_mm: float = 2.2  # SD of the elastic warp; its shortest half wave is 28 mm, so nothing folds
    warp_order: int = 4
    blood: tuple[float, float] = (350.0, 1400.0)  # grey level of atrial blood
    blend_mm: float = 1.4  # width over which one tissue gives way to the next: one voxel
    psf_vox: tuple[float, float, float] = (0.4, 0.4, 0.55)  # SD of the point spread; slices are blurrier
    bias: float = 0.3  # largest deviation of the coil's brightness from 1
    texture: float = 0.08  # strands and twigs in tissues other than blood, as a fraction of blood
    noise: tuple[float, float] = (0.06, 0.13)  # SD of either noise channel, as a fraction of blood
    noise_hu: tuple[float, float] = (10.0, 25.0)  # range of the SD of a CT's noise
    variation: Variation = field(default_factory=Variation)


@dataclass(frozen=True)
class Phantom:
    """A scan, (i, j, k) uint16 grey levels or int16 HU, and its left atrium, (i, j, k) uint8, 1 inside."""

    scan: Volume
    truth: Volume


def simulate(seed: int, simulator: Simulator | None = None, modality: PhantomModality = "MR") -> Phantom:
    """Simulate a heart region from a seed (an integer from 0 on): the same seed gives the same bytes.

    In MR and CT, a seed gives the same patient in the same place.

    Raises
    ------
    InputError
        If the seed is negative.
    """
    if seed < 0:
        raise InputError(f"found a seed of {seed}, wanted an integer from 0 on")
    setup = simulator or Simulator()
    rng = np.random.default_rng(seed)
    geometry = _random_geometry(rng, setup)
    anatomy = build_anatomy(Canvas(_anatomy_points(rng, setup, geometry)), rng, setup.variation)
    layers = [(layer.tissue, layer.field) for layer in anatomy.layers]
    image = _paint(rng, setup, layers, BRIGHTNESS if modality == "MR" else HOUNSFIELD)
    source = Source(modality=modality, notes=(f"simulated, seed {seed}",))
    acquire = _acquire if modality == "MR" else _acquire_ct
    scan = geometry.volume(acquire(rng, setup, image), source)
    truth = geometry.volume((anatomy.cavity > 0).astype(np.uint8), source)
    return Phantom(scan, truth)


def rotation(vector_rad: Floats) -> Floats:
    """Return the (3, 3) rotation about a vector by its length in radians (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector_rad))
    x, y, z = vector_rad / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross))


def _turn(rng: np.random.Generator, largest_rad: float) -> Floats:
    """Return a random rotation: any axis, at least a third of the largest angle."""
    vector = rng.standard_normal(3)
    return rotation(vector / np.linalg.norm(vector) * rng.uniform(largest_rad / 3, largest_rad))


def _random_geometry(rng: np.random.Generator, setup: Simulator) -> Geometry:
    spacing = np.array(setup.spacing_mm) * rng.uniform(1 - setup.spacing_spread, 1 + setup.spacing_spread, 3)
    direction = _turn(rng, setup.tilt_rad)
    middle = rng.uniform(-setup.origin_mm, setup.origin_mm, 3)
    half = direction @ (spacing * (np.array(setup.shape) - 1) / 2)
    # Whole micrometres, which the text fields of a DICOM header hold without loss.
    return Geometry.build(setup.shape, spacing.round(3), (middle - half).round(3), direction)


def _anatomy_points(rng: np.random.Generator, setup: Simulator, geometry: Geometry) -> Field:
    """Return each voxel's place in the anatomy: (3, i, j, k) float32, mm from the middle of the atrium."""
    scale = rng.uniform(1 - setup.scale, 1 + setup.scale)
    back = _turn(rng, setup.pose_rad).T / scale
    middle = geometry.to_mm((np.array(geometry.shape) - 1) / 2)
    middle = middle + rng.uniform(-setup.offset_mm, setup.offset_mm, 3) - (0, 0, setup.below_mm)
    linear = back @ geometry.affine[:3, :3]
    shift = back @ (geometry.origin_mm - middle)
    i, j, k = (np.arange(n, dtype=np.float64) for n in geometry.shape)
    points = np.empty((3, *geometry.shape), np.float32)
    for axis in range(3):
        row = linear[axis]
        points[axis] = (i * row[0])[:, None, None] + (j * row[1])[:, None] + k * row[2] + shift[axis]
        points[axis] += setup.warp_mm * smooth_field(rng, geometry.shape, setup.warp_order)
    return points


def _paint(
    rng: np.random.Generator,
    setup: Simulator,
    layers: list[tuple[str, Field]],
    table: dict[str, tuple[float, float]],
) -> Field:
    """Paint the tissues over each other, with partial volume at surfaces: (i, j, k), the table's unit."""
    brightness = {tissue: rng.uniform(low, high) for tissue, (low, high) in table.items()}
    image = np.full(layers[0][1].shape, brightness["fat"], np.float32)
    for tissue, distance in layers:
        share = np.clip(distance / setup.blend_mm + 0.5, 0, 1)
        image += share * (np.float32(brightness[tissue]) - image)
    return image


def _acquire(rng: np.random.Generator, setup: Simulator, image: Field) -> Array:
    """Apply texture, point spread, coil and noise; return (i, j, k) uint16 grey levels."""
    from scipy import ndimage

    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.8)
    grain /= grain.std()
    # Squared: few bright strands on a dark ground, as in lung and in fat; blood stays even.
    strands = setup.texture * grain**2 * np.clip(1.1 - image, 0, 1)
    signal = ndimage.gaussian_filter(image + strands, setup.psf_vox)
    coil = smooth_field(rng, image.shape, 2)
    signal *= 1 + setup.bias * coil / np.abs(coil).max()
    sigma = np.float32(rng.uniform(*setup.noise))
    real, imaginary = sigma * rng.standard_normal((2, *image.shape), dtype=np.float32)
    magnitude = np.hypot(signal + real, imaginary)
    return np.asarray(np.rint(magnitude * rng.uniform(*setup.blood)), dtype=np.uint16)


def _acquire_ct(rng: np.random.Generator, setup: Simulator, image: Field) -> Array:
    """Apply point spread and noise as smooth as a soft kernel's; return (i, j, k) int16 Hounsfield units."""
    from scipy import ndimage

    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.6)
    noise = np.float32(rng.uniform(*setup.noise_hu)) * grain / grain.std()
    signal = ndimage.gaussian_filter(image, setup.psf_vox) + noise
    return np.asarray(np.rint(signal).clip(-1024, 3071), dtype=np.int16)
