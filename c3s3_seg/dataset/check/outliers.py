"""Find cases that are unlike the others: in spacing, volume, pieces, intensities, cut by the border.

The cohort defines what is usual. A case must exceed a robust distance (from the median, in units of the
median distance) and a plain factor, so that neither a narrow nor a wide cohort raises a false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from c3s3_seg.bundle.domain import Floats
from c3s3_seg.dataset.check.case_summary import FEW_VALUES, CaseSummary, CheckedCase
from c3s3_seg.models.strides import multiple_of, strides_of
from c3s3_seg.report.findings import Finding, Severity

FAR = 5.0  # robust standard deviations; clean: 3.5 (volumes of 80 atria), 2.9 (195 hippocampi)
SPACING_FACTOR, SPACING_LEAST = 1.5, 4  # clean: 1.0 (atria, hippocampi), 1.04 (phantoms)
VOLUME_FACTOR, VOLUME_LEAST = 2.0, 8  # clean, at 3.5 deviations: 2.7 (atria); 1.6 (hippocampi)
VOLUME_FACTOR_FEW = 4.0  # for fewer than VOLUME_LEAST cases, and at least 3
SECOND_PIECE = 0.05  # share of the largest; clean: 0.001 (atria), 0.002 (hippocampi)
CUT = 0.12  # share of the surface on one side of the scan; clean: 0.058 (atria), 0 (hippocampi)
USUAL = 0.5  # a property of more than this share of the cases is usual, not a fault of one
PRESENT = 0.8  # a label that this share of the cases has is reported as missing in the others
INTENSITY_FAR, INTENSITY_LEAST = 8.0, 5  # clean: 6.0 (atria), 4.3 (hippocampi), 2.5 (phantoms)
CLIPPED = 0.01  # share of the voxels at the largest value; clean: 2e-6 (atria), 3e-4 (hippocampi)
FLAT = 6.0  # largest spacing over smallest
AIR_HU = -100.0  # a CT scan shows air or fat somewhere


def odd_ones(cases: Sequence[CheckedCase], modality: str) -> list[Finding]:
    """Return findings on readable cases that are unlike the others, or unfit in themselves."""
    known = [(case.name, case.summary) for case in cases if case.summary is not None]
    if not known:
        return []
    masked = [case for case in cases if case.mask is not None]
    findings = _spacing(known) + _sizes(known) + _intensities(known, modality) + _values(known, modality)
    return findings + _volumes(masked) + _missing(masked) + _pieces(masked) + _cut(masked)


def _deviations(values: Floats, floor: float) -> Floats:
    """Return the distance from the median in robust standard deviations (1.4826 x median distance)."""
    away = np.abs(values - np.median(values))
    return np.asarray(away / max(1.4826 * float(np.median(away)), floor))


def _spacing(known: list[tuple[str, CaseSummary]]) -> list[Finding]:
    if len(known) < SPACING_LEAST:
        return []
    logs = np.log([summary.spacing_mm for _, summary in known])
    usual = np.median(logs, axis=0)
    findings = []
    for axis in range(3):
        far = (_deviations(logs[:, axis], 0.02) > FAR) & (
            np.abs(logs[:, axis] - usual[axis]) > np.log(SPACING_FACTOR)
        )
        findings += [(int(n), axis) for n in np.flatnonzero(far)]
    rows = sorted({n for n, _ in findings})
    return [
        Finding(
            "warning",
            "spacing",
            (known[n][0],),
            f"voxels of {_times(known[n][1].spacing_mm)} mm",
            f"about {_times(np.exp(usual))} mm, as the others have",
            "Look whether the header is true; if it is, the scan is from another protocol",
        )
        for n in rows
    ]


def _sizes(known: list[tuple[str, CaseSummary]]) -> list[Finding]:
    findings = []
    for name, summary in known:
        least = multiple_of(strides_of(summary.spacing_mm.tolist()))
        if any(side < n for side, n in zip(summary.shape, least, strict=True)):
            what = f"{' x '.join(map(str, summary.shape))} voxels"
            todo = "Choose a finer grid for training, or leave the case out"
            wanted = f"at least {' x '.join(map(str, least))}, which the networks halve to one voxel"
            findings.append(Finding("warning", "small", (name,), what, wanted, todo))
        ratio = float(summary.spacing_mm.max() / summary.spacing_mm.min())
        if ratio > FLAT:
            what = f"voxels of {_times(summary.spacing_mm)} mm: {ratio:.1f} times as thick as wide"
            todo = "Choose a grid for training that is coarser in the plane"
            findings.append(Finding("warning", "anisotropic", (name,), what, f"at most {FLAT:g} times", todo))
    return findings


def _intensities(known: list[tuple[str, CaseSummary]], modality: str) -> list[Finding]:
    known = [(name, summary) for name, summary in known if not summary.few_values]
    if len(known) < INTENSITY_LEAST:
        return []
    curves = np.array(
        [summary.intensities if modality == "CT" else summary.scaled_intensities for _, summary in known]
    )
    away = np.abs(curves - np.median(curves, axis=0)).mean(axis=1)
    usual = max(float(np.median(away)), 1e-3)
    todo = "Look whether it is of the same modality, sequence and unit"
    return [
        Finding(
            "warning",
            "intensities",
            (known[n][0],),
            f"intensities are distributed unlike the others' ({away[n] / usual:.1f} times as far as usual)",
            f"at most {INTENSITY_FAR:g} times",
            todo,
            (known[n][0],),
        )
        for n in np.flatnonzero(away > INTENSITY_FAR * usual).tolist()
    ]


def _values(known: list[tuple[str, CaseSummary]], modality: str) -> list[Finding]:
    findings = []
    clipped = [
        n for n, (_, summary) in enumerate(known) if summary.at_top > CLIPPED and not summary.few_values
    ]
    severity: Severity = "info" if len(clipped) > USUAL * len(known) else "warning"
    for name, summary in (known[n] for n in clipped):
        what = f"{summary.at_top:.1%} of the voxels have the largest value: they were clipped"
        todo = "Export it without a window, or with the same one for all"
        wanted = f"at most {CLIPPED:.0%}"
        findings.append(Finding(severity, "clipped", (name,), what, wanted, todo, (name,)))
    for name in (name for name, summary in known if summary.few_values):
        what, todo = (
            f"the image has at most {FEW_VALUES} different values: is it a mask?",
            "Put the scan in its place",
        )
        findings.append(Finding("warning", "image-is-mask", (name,), what, "intensities", todo, (name,)))
    return findings + _one_value(known, modality) + _unit(known, modality)


def _one_value(known: list[tuple[str, CaseSummary]], modality: str) -> list[Finding]:
    """Report scans that are nearly all background, as an organ cut out; those of CT are never scaled."""
    found = "98% or more of the voxels have the same value"
    todo = "Crop it to what it shows: trained on as it is, the bundle has no domain to compare scans with"
    return [
        Finding("warning", "one-value", (name,), found, "intensities that vary", todo, (name,))
        for name, summary in known
        if summary.one_value and not summary.few_values and modality != "CT"
    ]


def _unit(known: list[tuple[str, CaseSummary]], modality: str) -> list[Finding]:
    """Report a whole cohort of CT without voxels below fat, as it is not in Hounsfield units."""
    lowest = [float(summary.intensities[0]) for _, summary in known]
    if modality != "CT" or np.median(lowest) < AIR_HU:
        return []
    what = f"half of the scans have 95% of their voxels above {np.median(lowest):.0f}"
    todo = "Export them in Hounsfield units; cut out of the body's middle they may be right"
    return [Finding("warning", "unit", (), what, f"air or fat below {AIR_HU:g} HU", todo)]


def _volumes(masked: list[CheckedCase]) -> list[Finding]:
    findings = []
    for label in _labels(masked):
        volumes = [(c.name, c.mask.volumes_ml.get(label, 0.0)) for c in masked if c.mask]
        there = [(name, volume) for name, volume in volumes if volume]
        if len(there) < 3:
            continue
        logs = np.log([volume for _, volume in there])
        factor = np.exp(np.abs(logs - np.median(logs)))
        far = factor > VOLUME_FACTOR_FEW
        if len(there) >= VOLUME_LEAST:
            far = (factor > VOLUME_FACTOR) & (_deviations(logs, 0.1) > FAR)
        usual = float(np.exp(np.median(logs)))
        for name, volume in (there[n] for n in np.flatnonzero(far)):
            what, wanted = f"{label} has {volume:.3g} ml", f"about {usual:.3g} ml, as in the others"
            todo = "Look whether the mask is whole, and nothing else is in it"
            findings.append(Finding("warning", "volume", (name,), what, wanted, todo, (name,)))
    return findings


def _missing(masked: list[CheckedCase]) -> list[Finding]:
    findings = []
    for label in _labels(masked):
        without = [c.name for c in masked if c.mask and not c.mask.volumes_ml.get(label)]
        if not without:
            continue
        rare = len(masked) - len(without) < PRESENT * len(masked)
        todo = "Draw it if it is there"
        for name in () if rare else without:
            found, wanted = f"{label} is missing", f"{label}, which {len(masked) - len(without)} others have"
            findings.append(Finding("warning", "label-missing", (name,), found, wanted, todo, (name,)))
        if len(without) == len(masked):
            what, todo = f"no mask holds {label}", "Take it out of dataset.json, or draw it"
            findings.append(Finding("warning", "label-missing", (), what, "masks that hold it", todo))
        elif rare:
            what = f"{len(without)} of {len(masked)} masks do not hold {label}"
            findings.append(Finding("info", "label-missing", (), what, "", "Nothing, if it is not there"))
    return findings


def _pieces(masked: list[CheckedCase]) -> list[Finding]:
    findings = []
    for label in _labels(masked):
        rows = [(c.name, *c.mask.second.get(label, (0.0, None))) for c in masked if c.mask]
        split = [row for row in rows if row[1] > SECOND_PIECE]
        if len(split) > USUAL * len(rows) or len(rows) < 3:
            continue  # two kidneys, or too few cases to judge
        for name, share, at in split:
            found, wanted = (
                f"{label} has a second piece, {share:.0%} of the first",
                "one piece, as the others",
            )
            todo = "Look at the ring in the picture; erase it if it does not belong to it"
            findings.append(Finding("warning", "fragmented", (name,), found, wanted, todo, (name,), at))
    return findings


def _cut(masked: list[CheckedCase]) -> list[Finding]:
    cut = [(c.name, c.mask.cut) for c in masked if c.mask and c.mask.cut > CUT]
    if len(cut) > USUAL * len(masked):
        what = f"{len(cut)} of {len(masked)} masks end at the border of their scan"
        return [Finding("info", "cut-off", (), what, "", "Nothing, if the organ is longer than the scans")]
    todo = "Look whether the scan was cropped too tightly; what is cut off is learnt as a boundary"
    return [
        Finding(
            "warning",
            "cut-off",
            (name,),
            f"{share:.0%} of the mask's surface lies on one side of the scan",
            f"at most {CUT:.0%}",
            todo,
            (name,),
        )
        for name, share in cut
    ]


def _labels(masked: list[CheckedCase]) -> list[str]:
    """Return the labels of all masks; if the index names none, those that the masks hold."""
    return list(dict.fromkeys(name for case in masked if case.mask for name in case.mask.volumes_ml))


def _times(numbers: Floats) -> str:
    return " x ".join(f"{number:.3g}" for number in numbers)
