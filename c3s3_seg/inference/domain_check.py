"""Domain check: compare a scan with the scans that the model was trained on, and give reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from c3s3_seg.bundle.domain import Domain, sampled, sizes_of
from c3s3_seg.errors import C3S3Error, GeometryError, quantity
from c3s3_seg.geometry.box import Box
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io.image.nifti_forms import DIRECTIONS

AXES = ("left-right", "front-back", "foot-head")
# Factors by which a scan may lie outside of the training range before a warning, and before a refusal.
SPACING_WARN, SPACING_REFUSE = 1.25, 3.0
SMALL_WARN, SMALL_REFUSE = 0.75, 0.4
LARGE = 1.25
FEW_WARN, FEW_REFUSE = 0.5, 0.2
# A scan is refused if the product of the factors of its spacings and fields of view that are out of range
# exceeds this limit. Of the pairs of data and bundle in benchmarks/domain_check.py, the largest product that
# should pass is 2.7 (a phantom with a larger field of view), the smallest that should not 3.2 (a phantom).
TOGETHER_REFUSE = 3.0
# Factors by which a volume may lie outside of the training range before a warning.
VOLUME_SMALL, VOLUME_LARGE = 0.5, 2.0
OTHER_MODEL = "Choose another model"
GIVE_SCAN = "Give the scan in place of its mask"
MASK_VALUES = 3  # a file with at most so many values is taken for a mask
NOT_COMPARED = "the scan was not compared with the training scans, because the model has no domain"
NOT_OF_DOMAIN = "this is not a scan that the model was trained for"
NOTHING_FOUND = "nothing found: no voxel has a label"
# Distances in units of the training set's own spread, which 5 % of its scans exceed.
INTENSITY_WARN, INTENSITY_REFUSE = 2.0, 4.0


class DomainError(C3S3Error):
    """The error for a scan that the model was not trained for."""


@dataclass(frozen=True)
class CheckResult:
    """The objections to a scan.

    Parameters
    ----------
    refusals
        Reasons not to segment the scan.
    warnings
        Warnings for the reader of the result.
    larger
        Whether its field of view is larger than any in training, so that the organ has to be found first.
    factor
        Product of the factors by which the sizes with a warning lie outside of the training range.
    compared
        Whether the training scans are known, so that the scan was compared with them.
    advice
        What to do about a refusal, as a sentence without its full stop; "": choose another model.
    """

    refusals: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    larger: bool = False
    factor: float = 1.0
    compared: bool = True
    advice: str = ""

    def __add__(self, other: CheckResult) -> CheckResult:
        refusals, warnings = self.refusals + other.refusals, self.warnings + other.warnings
        larger, factor = self.larger or other.larger, self.factor * other.factor
        compared, advice = self.compared and other.compared, self.advice or other.advice
        return CheckResult(refusals, warnings, larger, factor, compared, advice)

    @property
    def level(self) -> str:
        """The verdict: `pass`, `warn`, `refuse`, or `unchecked` without knowledge of the training scans."""
        if self.refusals or self.warnings:
            return "refuse" if self.refusals else "warn"
        return "pass" if self.compared else "unchecked"

    @property
    def sentences(self) -> tuple[str, ...]:
        """The refusals, and the warnings that no refusal repeats."""
        return (*self.refusals, *(w for w in self.warnings if not any(w in r for r in self.refusals)))

    def settle(self, scan: Volume, *, allowed: bool) -> None:
        """Raise if there is a refusal, unless scans out of the domain are allowed.

        Raises
        ------
        DomainError
            If there is a refusal; the message has all reasons.
        """
        if self.refusals and not allowed:
            region = ", give the region of the organ with --roi" if self.larger else ""
            todo = self.advice or f"{OTHER_MODEL}{region}"
            todo += ", or take the result on your own responsibility with --allow-out-of-domain"
            what = f"{NOT_OF_DOMAIN}: {'; '.join(self.refusals)}"
            raise DomainError(what, where=scan.source.path, todo=todo)


@dataclass(frozen=True)
class DomainCheck:
    """The domain check of one scan, with the region that is segmented.

    Parameters
    ----------
    result
        Objections to the scan.
    region
        The part of the scan that is segmented; None: the whole scan.
    notes
        Sentences on how the region was found.
    """

    result: CheckResult = field(default_factory=CheckResult)
    region: Box | None = None
    notes: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether there were refusals, and the scan was segmented because the user allowed that."""
        return bool(self.result.refusals)

    @property
    def level(self) -> str:
        """The verdict: `pass`, `warn`, `refuse`, or `unchecked` without knowledge of the training scans."""
        return self.result.level

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for the reader of the result: refusals, warnings, notes."""
        return (*self.result.sentences, *self.notes)

    def record(self) -> dict[str, Any]:
        """Return the check for the JSON of the case."""
        return {
            "verdict": self.level,
            "refusals": list(self.result.refusals),
            "warnings": list(self.result.warnings),
            "allowed_out_of_domain": self.allowed,
            "region": str(self.region) if self.region else None,
            "notes": list(self.notes),
        }


def check_frame(
    scan: Volume, domain: Domain | None, modality: str, grid_mm: tuple[float, float, float]
) -> CheckResult:
    """Check the modality, the spacing, the field of view and the number of slices.

    Parameters
    ----------
    scan
        Scan on its own grid.
    domain
        Domain of the training scans; None: only the modality is known, and the verdict on a scan of the
        right one is `unchecked`.
    modality
        Modality of the training scans.
    grid_mm
        Spacing of the model's own grid along left, posterior, superior. A scan that is no coarser than
        this spacing is never too coarse.
    """
    found = scan.source.modality
    result = CheckResult()
    if found is not None and found.upper() != modality.upper():
        result += CheckResult((f"its modality is {found}, wanted {modality}",), advice=OTHER_MODEL)
    if domain is None:
        return result + CheckResult(compared=False)
    spacing, fov, shape = sizes_of(scan)
    for n, name in enumerate(AXES):
        known = domain.spacing_mm[n][0], max(domain.spacing_mm[n][1], grid_mm[n])
        result += _spacing(name, float(spacing[n]), known)
        result += _field(name, float(fov[n]), domain.fov_mm[n])
        result += _count(name, int(shape[n]), domain.shape[n])
    result += _together(result)
    if any("not known" in note for note in scan.source.notes):
        result += CheckResult((), ("left and right may be swapped: the file does not say which is which",))
    if any(DIRECTIONS in note for note in scan.source.notes):
        what = "sides of the patient may be swapped: sform and qform of the file name different ones"
        result += CheckResult((), (what,))
    return result


def refuse_shear(scan: Volume) -> None:
    """Raise if the axes of a scan are not perpendicular, as `c3s3_seg.load` does for a file.

    Preprocessing only permutes, flips and resamples axes: a network would see a sheared organ.

    Raises
    ------
    GeometryError
        If the grid is sheared, by a gantry tilt for example.
    """
    if scan.geometry.is_orthogonal:
        return
    raise GeometryError(
        f"the axes are not perpendicular: sheared by {scan.geometry.shear_degrees:.3g} degrees",
        where=scan.source.path,
        todo="Resample the scan to a grid of right angles, or load its file with --repair",
    )


def check_is_scan(scan: Volume) -> CheckResult:
    """Check that a scan is no mask: two or three whole numbers from 0 to 255, which no scan is limited to."""
    if len(np.unique(sampled(scan.array.T))) > MASK_VALUES:  # transposed: arrays of files are (z, y, x)
        return CheckResult()
    values = np.unique(scan.array)
    whole = np.array_equal(values, np.rint(values)) and values[0] >= 0 and values[-1] <= 255
    if not (1 < len(values) <= MASK_VALUES and whole):
        return CheckResult()
    found = ", ".join(f"{value:g}" for value in values)
    return CheckResult((f"it holds the values {found} and no others, as a mask does",), advice=GIVE_SCAN)


def check_intensities(scan: Volume, domain: Domain | None) -> CheckResult:
    """Check the intensities of a scan whose field of view is that of the training scans.

    Raises
    ------
    InputError
        If all voxels have the same value.
    """
    if domain is None:
        return CheckResult(compared=False)
    distance = domain.distance(scan)
    reason = (
        f"its intensities are distributed unlike those of the training scans (distance {distance:.1f},"
        f" where 95% of them are within 1)"
    )
    if distance > INTENSITY_REFUSE:
        return CheckResult((reason,))
    return CheckResult((), (reason,)) if distance > INTENSITY_WARN else CheckResult()


def check_volumes(volume_ml: Mapping[str, float], domain: Domain | None) -> tuple[str, ...]:
    """Return warnings about the volumes of a mask, a sentence each.

    Parameters
    ----------
    volume_ml
        Label name -> volume of the mask.
    domain
        Domain of the training scans; None: only missing labels are reported.
    """
    if not any(volume_ml.values()):
        return (NOTHING_FOUND,)
    known = (domain and domain.volume_ml) or {}
    notes = []
    for name, found in volume_ml.items():
        low, high = known.get(name, (0.0, math.inf))
        if not found:
            notes.append(f"nothing of the label '{name}' was found")
        elif not VOLUME_SMALL * low <= found <= VOLUME_LARGE * high:
            notes.append(f"the volume of '{name}' is {found:.3g} ml, in training {_range((low, high))} ml")
    return tuple(notes)


def _together(sizes: CheckResult) -> CheckResult:
    """Return a refusal if sizes that each cause a warning are together too far from training."""
    if sizes.refusals or sizes.factor <= TOGETHER_REFUSE:
        return CheckResult()
    several = len(sizes.warnings) > 1
    what, by = ("several of its sizes are", "together by") if several else ("one of its sizes is", "by")
    reason = (
        f"{what} out of range, {by} a factor of {sizes.factor:.1f}, where {TOGETHER_REFUSE:g} is the limit"
        f" ({'; '.join(sizes.warnings)})"
    )
    return CheckResult((reason,))


def _spacing(axis: str, found: float, known: tuple[float, float]) -> CheckResult:
    factor = max(found / known[1], known[0] / found)
    reason = f"its spacing is {found:.3g} mm {axis}; the model was made for {_range(known)} mm"
    if factor > SPACING_REFUSE:
        return CheckResult((reason,), advice=OTHER_MODEL)  # a region of the scan would have this spacing too
    return CheckResult((), (reason,), factor=factor) if factor > SPACING_WARN else CheckResult()


def _field(axis: str, found: float, known: tuple[float, float]) -> CheckResult:
    reason = f"its field of view is {found:.0f} mm {axis}; trained on {_range(known, '.0f')} mm"
    if found < SMALL_REFUSE * known[0]:
        return CheckResult((reason,))
    if found > LARGE * known[1]:
        return CheckResult((), (reason,), larger=True, factor=found / known[1])
    return (
        CheckResult((), (reason,), factor=known[0] / found)
        if found < SMALL_WARN * known[0]
        else CheckResult()
    )


def _count(axis: str, found: int, known: tuple[int, int]) -> CheckResult:
    reason = f"it has {quantity(found, 'slice')} {axis}; trained on {_range(known, '.0f')}"
    if found < FEW_REFUSE * known[0]:
        return CheckResult((reason,))
    return CheckResult((), (reason,)) if found < FEW_WARN * known[0] else CheckResult()


def _range(known: tuple[float, float], style: str = ".3g") -> str:
    low, high = (f"{value:{style}}" for value in known)
    return low if low == high else f"{low} to {high}"
