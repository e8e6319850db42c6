"""Find the organ in a scan larger than those in training, so that only its surroundings are segmented.

A network that was trained on crops has never seen the rest of the body, and the intensities of a whole scan
are normalised to other values than those of a crop. So the network runs at low resolution on windows of the
size of a training scan, each normalised by itself. Their mean probability is thresholded into components;
the surroundings of the best component of a plausible size are segmented at full resolution. If a label may
have several components, as two kidneys are, those that are likely enough are taken together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.bundle.domain import Domain
from c3s3_seg.bundle.preprocessing import FlatScanError
from c3s3_seg.errors import quantity
from c3s3_seg.geometry.box import Box
from c3s3_seg.geometry.volume import Geometry, Volume, narrow
from c3s3_seg.inference.backends.execute import Backend
from c3s3_seg.inference.backends.select import notes
from c3s3_seg.inference.components import component_boxes, label_components
from c3s3_seg.inference.domain_check import DomainError
from c3s3_seg.inference.prediction import Prediction
from c3s3_seg.system.progress import Progress

Foreground = Callable[[Volume], NDArray[np.float32]]
# Spacing of the coarse pass, in units of the model's: training scales scans by up to about this factor.
COARSE = 1.2
# Step from window to window: half a window, so that the organ lies well within one of them.
STEP = 0.5
# Factors by which a component may be smaller or larger than any in training: the coarse pass is coarse.
PLAUSIBLE = (0.4, 2.0)
# Above this share of the best candidate's weight, the second candidate may be the organ as well.
RIVAL = 0.7
# Above this share of its weight, a component is a further piece of a label that may have several: of a pair
# of organs, one often has half the volume of the other.
PIECE = 0.25
MARGIN_MM = 15.0


class CoarsePredictor(Protocol):
    """The part of `Predictor` that the search uses; that module imports this one."""

    backends: tuple[Backend, ...]

    def __call__(self, scan: Volume, *, allow_out_of_domain: bool = False) -> Prediction:
        """Segment a scan."""
        ...


@dataclass(frozen=True)
class CoarsePass:
    """The coarse pass: a scan -> the probability of any label, (i, j, k) float32 on the scan's grid.

    Parameters
    ----------
    predictor
        Segments a scan at low resolution, whatever its domain, and keeps the probabilities.
    notes
        Sentences on how its network ran, each once: filled by the calls.
    """

    predictor: CoarsePredictor
    notes: list[str] = field(default_factory=list)

    def __call__(self, scan: Volume) -> NDArray[np.float32]:
        """Return the sum of the probabilities of all labels."""
        try:
            found = self.predictor(scan, allow_out_of_domain=True)
        except FlatScanError:  # air: all voxels of the network's input are the same
            return np.zeros(scan.geometry.shape, np.float32)
        # The notes of the runtime stand in the prediction as well.
        known = (*found.mask_warnings, *notes(self.predictor.backends[0]))
        told = (f"coarse search: {note}" for note in found.remarks if note not in known)
        self.notes.extend(note for note in told if note not in self.notes)
        each = [volume.array for volume in found.probabilities.values()]
        return np.asarray(np.sum(each, axis=0), dtype=np.float32)


def find_region(
    scan: Volume,
    spacing_mm: tuple[float, float, float],
    domain: Domain,
    foreground: Foreground,
    progress: Progress | None = None,
    *,
    pieces: bool = False,
) -> tuple[Box, tuple[str, ...]]:
    """Return the surroundings of the organ in a scan that is larger than those in training, and notes.

    Parameters
    ----------
    scan
        Scan on its own grid.
    spacing_mm
        Spacing of the model's grid along left, posterior, superior.
    domain
        The scans that the model was trained on.
    foreground
        The coarse pass: a window of the scan -> the probability of any label, on the window's grid. It
        resamples to `COARSE` times the model's spacing.
    progress
        Called after each window.
    pieces
        Whether a label may have several components.

    Raises
    ------
    DomainError
        If no component of a plausible size is found.
    """
    coarse, block = _shrunk(scan, spacing_mm)
    probability, windows = _coarse_pass(coarse, domain, foreground, progress)
    found = _candidates(probability, coarse.geometry.voxel_ml, domain, pieces)
    if not found:
        raise DomainError(
            "the scan is larger than those in training, and nothing like the organ was found in it",
            where=scan.source.path,
            todo="Say where it is with --roi",
        )
    low, high = _around(found[0].low, found[0].high, coarse.geometry, domain)
    # The last voxels of an axis, fewer than a block, belong to the last block.
    end = np.where(high == coarse.geometry.shape, scan.geometry.shape, high * block)
    box = Box.of(low * block, end)
    told = [
        f"region of interest: {box} of {scan.geometry.shape} voxels, found by"
        f" {quantity(windows, 'coarse window')} ({found[0].volume_ml:.0f} ml"
        + (f" in {found[0].pieces} pieces)" if found[0].pieces > 1 else ")")
    ]
    if len(found) > 1 and found[1].weight > RIVAL * found[0].weight:
        place = ", ".join(f"{p:.0f}" for p in coarse.geometry.to_mm((found[1].low + found[1].high - 1) / 2))
        told.append(f"something else was nearly as likely, of {found[1].volume_ml:.0f} ml at ({place}) mm")
    return box, tuple(told)


@dataclass(frozen=True)
class _Candidate:
    low: NDArray[np.int_]
    high: NDArray[np.int_]
    volume_ml: float
    weight: float
    pieces: int = 1


def cut_by_region(mask: NDArray[np.uint8], region: Box | None, shape: tuple[int, int, int]) -> str | None:
    """Return a warning if a mask reaches a face of its region where the scan goes on.

    Parameters
    ----------
    mask
        (i, j, k) label values of the region, 0 for background.
    region
        The part of the scan that was segmented; None: all of it, which nothing cuts.
    shape
        Voxels of the scan.
    """
    if region is None:
        return None
    for axis in range(3):
        faces = ((0, region.low[axis] > 0), (-1, region.high[axis] < shape[axis]))
        if any(inside and mask.take(face, axis).any() for face, inside in faces):
            return "the mask reaches the border of the region that was segmented: it may go on outside of it"
    return None


def _shrunk(scan: Volume, spacing_mm: tuple[float, float, float]) -> tuple[Volume, NDArray[np.int_]]:
    """Return averages over blocks of voxels, up to `COARSE` times the model's spacing, and the block."""
    wanted = np.empty(3)
    wanted[list(scan.geometry.patient_axes[0])] = spacing_mm
    block = np.maximum(1, np.floor(wanted * COARSE / scan.geometry.spacing_mm)).astype(int)
    block = np.minimum(block, scan.geometry.shape)
    shape = np.array(scan.geometry.shape) // block
    cut = narrow(scan.array[tuple(slice(0, int(n)) for n in shape * block)])
    for axis, (count, size) in enumerate(zip(shape, block, strict=True)):
        folded = (*cut.shape[:axis], int(count), int(size), *cut.shape[axis + 1 :])
        cut = cut.reshape(folded).mean(axis=axis + 1, dtype=cut.dtype)
    affine = scan.geometry.affine.copy()
    affine[:3, :3] *= block
    affine[:3, 3] = scan.geometry.to_mm((block - 1) / 2)
    grid = Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)
    return Volume(cut, grid, scan.source), block


def _coarse_pass(
    scan: Volume, domain: Domain, foreground: Foreground, progress: Progress | None
) -> tuple[NDArray[np.float32], int]:
    """Return the probability of any label, averaged over windows of training size, and how many there are."""
    shape = np.array(scan.geometry.shape)
    size = np.minimum(np.ceil(_usual_mm(domain, scan.geometry) / scan.geometry.spacing_mm).astype(int), shape)
    starts = [_starts(int(n), int(s)) for n, s in zip(shape, size, strict=True)]
    weight = _bump(size)
    total, weights = np.zeros(shape, np.float32), np.full(shape, 1e-6, np.float32)
    places = list(product(*starts))
    for number, place in enumerate(places, 1):
        box = Box.of(np.array(place), np.array(place) + size)
        part = box.crop(scan)
        if part.array.max() > part.array.min():  # otherwise it is air, without any label
            total[box.slices] += weight * foreground(part)
        weights[box.slices] += weight
        if progress is not None:
            progress("windows of the coarse search", number, len(places))
    return np.asarray(total / weights), len(places)


def _usual_mm(domain: Domain, grid: Geometry) -> NDArray[np.float64]:
    """Return the field of view of a usual training scan along i, j, k, in mm."""
    usual = np.empty(3)
    usual[list(grid.patient_axes[0])] = np.mean(domain.fov_mm, axis=1)
    return usual


def _starts(length: int, size: int) -> list[int]:
    count = 1 + int(np.ceil((length - size) / (STEP * size)))
    return sorted({round(v) for v in np.linspace(0, length - size, count)})


def _bump(size: NDArray[np.int_]) -> NDArray[np.float32]:
    """Return weights that are high in the middle of a window, nearly 0 at its edge, where organs are cut."""
    x, y, z = (np.hanning(n + 2)[1:-1] + 1e-3 for n in size)
    return np.asarray(x[:, None, None] * y[None, :, None] * z[None, None, :], dtype=np.float32)


def _candidates(
    probability: NDArray[np.float32], voxel_ml: float, domain: Domain, pieces: bool
) -> list[_Candidate]:
    """Return the components of a plausible size, the likeliest first; if there may be pieces, as one."""
    labels, count = label_components(probability > 0.5)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:] * voxel_ml
    sums = np.bincount(labels.ravel(), weights=probability.ravel(), minlength=count + 1)[1:] * voxel_ml
    ranges = (domain.volume_ml or {}).values()
    low = PLAUSIBLE[0] * sum(r[0] for r in ranges) if ranges else 0.0
    high = PLAUSIBLE[1] * sum(r[1] for r in ranges) if ranges else np.inf
    boxes = zip(*component_boxes(labels, count), strict=True)
    found = [
        _Candidate(first, end, float(size), float(total**2 / size))
        for (first, end), size, total in zip(boxes, sizes, sums, strict=True)
        if size <= high
    ]
    found.sort(key=lambda c: -c.weight)
    return [c for c in (_joined(found, high) if pieces else found) if c.volume_ml >= low]


def _joined(found: list[_Candidate], high: float) -> list[_Candidate]:
    """Return the likeliest component and its further pieces, up to a volume, as one; then the others."""
    taken: list[_Candidate] = []
    others: list[_Candidate] = []
    for piece in found:
        likely = piece.weight > PIECE * found[0].weight
        fits = sum(c.volume_ml for c in taken) + piece.volume_ml <= high
        (taken if likely and fits else others).append(piece)
    if len(taken) < 2:
        return found
    low, end = np.min([c.low for c in taken], axis=0), np.max([c.high for c in taken], axis=0)
    volume, weight = sum(c.volume_ml for c in taken), sum(c.weight for c in taken)
    return [_Candidate(low, end, volume, weight, len(taken)), *others]


def _around(
    low: NDArray[np.int_], high: NDArray[np.int_], grid: Geometry, domain: Domain
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Return a box around a component with a margin, at least a usual training scan, within the scan."""
    shape = np.array(grid.shape)
    size = np.maximum((high - low) * grid.spacing_mm + 2 * MARGIN_MM, _usual_mm(domain, grid))
    voxels = np.minimum(np.ceil(size / grid.spacing_mm).astype(int), shape)
    first = np.clip(np.rint((low + high - voxels) / 2).astype(int), 0, shape - voxels)
    return first, first + voxels
