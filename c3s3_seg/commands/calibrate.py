"""`c3s3-seg calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from c3s3_seg.commands import options
from c3s3_seg.commands.console import Status, say

if TYPE_CHECKING:
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.dataset import DataSet, Splits
    from c3s3_seg.training.bundles.calibrate import Limit


def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Folder of a bundle. Its manifest is rewritten.")
    ],
    data: Annotated[
        Path, typer.Argument(metavar="DATASET", help="Folder of the data set that it was trained on.")
    ],
    bad_mm: Annotated[
        float | None,
        typer.Option(
            metavar="MM",
            help="95HD above which a case counts as bad, above 0. Default: twice the median of the cases.",
            rich_help_panel=options.SETTINGS,
        ),
    ] = None,
) -> None:
    """Measure the domain and the uncertainty limit of a model on its training data.

    predict compares scans with the domain. predict --uncertainty flags cases above the limit, which needs a
    bundle of two networks and at least two validation cases.
    """
    from c3s3_seg.bundle import ModelBundle
    from c3s3_seg.errors import InputError
    from c3s3_seg.system.files import check_folder
    from c3s3_seg.training.bundles.calibrate import check_bad_mm
    from c3s3_seg.training.bundles.domain import measure_domain, trained_splits
    from c3s3_seg.training.checks import check_data

    check_bad_mm(bad_mm)
    found = ModelBundle.find_to_change(model)
    check_folder(found.folder)
    index, splits = trained_splits(found, data)
    check_data(found.task, index, "Give the data set that the bundle was trained on")
    why = _without_limit(found, splits)
    with Status() as status:
        if not why:
            _check_masks(found, index, splits, status)
        domain = measure_domain(found.task, index, splits, status)
    measured_domain = f"{found.folder}: domain of {domain.scans} training scans."
    if why:
        found.calibrated(domain)
        say(measured_domain)
        say(f"No uncertainty limit: {why}.{_earlier_limit(found)}")
        return
    try:
        with Status() as status:
            limit = _limit(found.with_domain(domain), index, splits, bad_mm, status)
    except InputError:  # the domain is good without a limit
        found.calibrated(domain)
        say(f"{measured_domain} It was written; the uncertainty limit was not.{_earlier_limit(found)}")
        raise
    measured = limit.calibration
    found.calibrated(domain, measured)  # both at once: whoever interrupts the search has the bundle as it was
    say(measured_domain)
    say(
        f"Uncertainty limit {measured.threshold_mm:.2f} mm (95HD between the networks), from {measured.cases}"
        f" scans: AUROC {measured.auroc:.2f}, Spearman {measured.spearman:.2f} for a 95HD above"
        f" {measured.bad_mm:.2f} mm."
    )
    say(
        f"Each case left out in turn: {limit.caught:.0%} of the bad flagged, {limit.false_alarms:.0%} of the"
        " others."
    )


def _without_limit(bundle: ModelBundle, splits: Splits) -> str:
    from c3s3_seg.training.bundles.calibrate import LEAST_CASES
    from c3s3_seg.training.bundles.learnt_cases import among, learnt_hashes

    if len(bundle.members()) < 2:
        return "the bundle holds one network"
    if len(splits.validation) < LEAST_CASES:
        return f"the data set has {len(splits.validation)} validation cases, wanted {LEAST_CASES} or more"
    if seen := among(splits.validation, learnt_hashes(bundle)):
        return (
            f"{len(seen)} validation cases have the names of cases that its linked bundle, the bundle"
            " which it began from, or its teacher was trained on"
        )
    return ""


def _earlier_limit(bundle: ModelBundle) -> str:
    """Return a sentence on the limit that the bundle has already, which stays; else ""."""
    earlier = bundle.manifest.uncertainty
    if earlier is None:
        return ""
    return f" The limit of {earlier.threshold_mm:.2f} mm that it has ({earlier.found_on}) stays."


def _check_masks(bundle: ModelBundle, index: DataSet, splits: Splits, status: Status) -> None:
    """Read the reference masks before all scans are: the search for a limit would stop at a scaled mask."""
    from c3s3_seg.dataset.check.case_faults import refuse_scaled
    from c3s3_seg.io import load_mask

    for name in splits.validation:
        status(name)
        refuse_scaled(load_mask(index.mask(name)), bundle.task, index)


def _limit(
    bundle: ModelBundle, index: DataSet, splits: Splits, bad_mm: float | None, status: Status
) -> Limit:
    from c3s3_seg.dataset.check.case_faults import own_labels
    from c3s3_seg.io import load, load_mask
    from c3s3_seg.training.bundles.calibrate import ReferenceCase, calibrate_uncertainty

    def read(name: str) -> ReferenceCase:
        scan = load(index.scan(name))
        mask = load_mask(index.mask(name), grid=scan.geometry)
        return ReferenceCase(name, scan, own_labels(mask, bundle.task))

    names = splits.validation
    found_on = f"{len(names)} validation cases of {index.folder.resolve().name}, as they are and degraded"
    return calibrate_uncertainty(bundle, map(read, names), found_on, bad_mm, status)
