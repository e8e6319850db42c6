"""Find masks that do not fit their image because they are mirrored or moved.

Edges alone do not decide: the wall of an atrium is often as bright as its surroundings. So two gains are
added. The cohort's gain: how much better the corrected mask agrees with the place and shape of the other
masks in similar images. The case's gain: how much better the mask, mirrored or moved back, explains the
intensities around its boundary than it does now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.dataset.check.correlation import Cube, correlation, cube, mean_of_others, moved
from c3s3_seg.dataset.check.orientation import AXES
from c3s3_seg.dataset.check.thumbnail import Floats, Thumbnail
from c3s3_seg.report.findings import Finding

LEAST = 5
SIZE, ACROSS, REACH = 20, 10, 5  # in voxels: side of a cube, width of a usual organ, largest move
PARTS = 3  # number of the largest labels that are compared
SMALLEST = 6  # voxels of a thumbnail along an organ's axis: smaller organs are not judged
BAND = 3  # voxels on either side of the boundary that are inspected
# Summed gains of a mirrored mask. Clean: at most 0.07 (80 atria), 0.10 (195 hippocampi), -0.27 (phantoms);
# mirrored along any axes, half of them gain 0.26 to 0.89, and 5 % less than 0.05, 0.17, 0.32.
MIRRORED = 0.15
# Gains of a moved mask. Clean: at most 0.09 (80 atria), 0.31 (195 hippocampi), 0.00 (phantoms); moved by
# 0.4 of the organ, half gain 0.40 to 1.05.
MOVED = 0.4
HOPELESS = 0.2  # a mirroring that loses so much likeness to the others' masks is dropped
FLIPS = tuple(product((False, True), repeat=3))


@dataclass(frozen=True)
class Fit:
    """The gain of a mask by a mirroring, and by a move (mm, along left, back and head)."""

    mirrored: float
    flips: tuple[bool, ...]
    moved: float
    move_mm: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class _Part:
    """A case to compare: its intensities (x, y, z), masks (labels, x, y, z) and the mask's centre."""

    name: str
    thumbnail: Thumbnail
    grey: Floats
    masks: Floats
    centre: NDArray[np.float64]
    extent_mm: NDArray[np.float64]


def fits(thumbnails: Mapping[str, Thumbnail]) -> dict[str, Fit]:
    """Judge each mask that is not empty; return nothing for fewer than `LEAST`, or for small organs."""
    labelled = {n: t for n, t in thumbnails.items() if t.labels is not None and (t.labels > 0).any()}
    if len(labelled) < LEAST:
        return {}
    values = _largest_labels(labelled)
    parts = [_part(name, thumbnail, values) for name, thumbnail in labelled.items()]
    extent_mm = np.median([part.extent_mm for part in parts], axis=0)
    step_mm = float(np.prod(extent_mm) ** (1 / 3)) / ACROSS
    if (extent_mm / np.median([p.thumbnail.spacing_mm for p in parts], axis=0)).min() < SMALLEST:
        return {}
    parts = [_part(p.name, p.thumbnail, values, 0.4 * step_mm) for p in parts]
    cubes = [cube(p.grey, p.thumbnail.spacing_mm, p.centre, step_mm, SIZE) for p in parts]
    shapes = [_shape(p, p.masks, p.centre, step_mm) for p in parts]
    total = np.sum(shapes, axis=0)
    found = {}
    for part, own, mean, shape in zip(parts, cubes, mean_of_others(cubes), shapes, strict=True):
        found[part.name] = _fit(part, own, mean, (total - shape) / (len(parts) - 1), step_mm)
    return found


def ill_fitting(found: Mapping[str, Fit], reported: set[str]) -> list[Finding]:
    """Return a finding for each mask that would fit better mirrored or elsewhere.

    Parameters
    ----------
    found
        Result of `fits`.
    reported
        Cases whose scan is already reported as turned or strange.
    """
    findings = []
    for name, fit in found.items():
        if name in reported or max(fit.mirrored - MIRRORED, fit.moved - MOVED) <= 0:
            continue
        if fit.mirrored - MIRRORED > fit.moved - MOVED:
            sides = " and ".join(AXES[axis] for axis in range(3) if fit.flips[axis])
            check, what = "mask-mirrored", f"the mask would fit better if it were flipped {sides}"
        else:
            away = ", ".join(f"{abs(m):.0f} mm {_side(axis, m)}" for axis, m in enumerate(fit.move_mm) if m)
            check, what = "mask-moved", f"the mask would fit better about {away}"
        todo = "Look at the picture; if it is so, export the mask again or leave the case out"
        wanted = "a mask whose boundary follows the image"
        findings.append(Finding("warning", check, (name,), what, wanted, todo, (name,)))
    return findings


def _side(axis: int, move_mm: float) -> str:
    return (("to the right", "to the left"), ("forward", "back"), ("down", "up"))[axis][move_mm > 0]


def _largest_labels(thumbnails: Mapping[str, Thumbnail]) -> list[int]:
    counts: dict[int, int] = {}
    for thumbnail in thumbnails.values():
        if thumbnail.labels is None:
            continue
        for value, count in zip(*np.unique(thumbnail.labels, return_counts=True), strict=True):
            counts[int(value)] = counts.get(int(value), 0) + int(count)
    counts.pop(0, None)
    return sorted(counts, key=lambda value: -counts[value])[:PARTS]


def _part(name: str, thumbnail: Thumbnail, values: list[int], blur_mm: float = 0.0) -> _Part:
    labels = thumbnail.labels if thumbnail.labels is not None else np.zeros(thumbnail.grey.shape, np.int32)
    masks = np.stack([labels == value for value in values]).astype(np.float32)
    places = np.argwhere(labels > 0)
    extent = np.ptp(places, axis=0) + 1
    grey = thumbnail.blurred(blur_mm)
    return _Part(name, thumbnail, grey, masks, places.mean(axis=0), extent * thumbnail.spacing_mm)


def _shape(part: _Part, masks: Floats, centre: NDArray[np.float64], step_mm: float) -> Floats:
    """Return the masks (labels, n, n, n) around a place; outside of the scan they are 0."""
    cut = [cube(mask, part.thumbnail.spacing_mm, centre, step_mm, SIZE) for mask in masks]
    return np.stack([np.where(one.inside, one.values, 0) for one in cut])


def _fit(part: _Part, own: Cube, mean: Cube, usual: Floats, step_mm: float) -> Fit:
    move, best, now = moved(own, mean, REACH)
    # A point at +move in the mean lies at the centre here: the mask's place is the other way.
    back = -move * step_mm / part.thumbnail.spacing_mm
    place = part.centre + back
    likes, explained = [], []
    for flips in FLIPS:
        masks = np.flip(part.masks, tuple(axis + 1 for axis in range(3) if flips[axis]))
        likes.append(correlation(_shape(part, masks, place, step_mm), usual))
        hopeless = likes[-1] < likes[0] - HOPELESS
        explained.append(0.0 if hopeless else _explained(part, masks))
    gains = np.array(likes) - likes[0] + np.array(explained) - explained[0]
    n = int(gains[1:].argmax()) + 1
    there = _shifted(part.masks, np.rint(back).astype(int))
    gain = best - now + _explained(part, there) - explained[0] if move.any() else 0.0
    return Fit(float(gains[n]), FLIPS[n], float(gain), tuple(float(m) for m in -move * step_mm))


def _explained(part: _Part, masks: Floats) -> float:
    """Return the share of the variance around the masks' boundary that labels explain: 0 to 1."""
    from scipy import ndimage

    inside = np.asarray(masks.any(axis=0))
    if not inside.any():
        return 0.0
    box = tuple(slice(max(0, int(n.min()) - BAND - 1), int(n.max()) + BAND + 2) for n in np.nonzero(inside))
    body, grey = inside[box], part.thumbnail.grey[box].astype(np.float32)
    band = ndimage.binary_dilation(body, iterations=BAND)
    band &= ~ndimage.binary_erosion(body, iterations=BAND)
    kinds = np.where(body, masks[(slice(None), *box)].argmax(axis=0) + 1, 0)[band]
    values = grey[band]
    within = sum(values[kinds == kind].var() * (kinds == kind).mean() for kind in np.unique(kinds))
    whole = float(values.var())
    return float(1 - within / whole) if whole > 0 else 0.0


def _shifted(masks: Floats, by: NDArray[np.int64]) -> Floats:
    """Return masks (labels, x, y, z) moved by whole voxels; voxels that leave are lost."""
    moved = np.zeros_like(masks)
    into, out = [slice(None)], [slice(None)]
    for step, size in zip(by.tolist(), masks.shape[1:], strict=True):
        into.append(slice(max(0, step), max(0, min(size, size + step))))
        out.append(slice(max(0, -step), max(0, min(size, size - step))))
    moved[tuple(into)] = masks[tuple(out)]
    return moved
