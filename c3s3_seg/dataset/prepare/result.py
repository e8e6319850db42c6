"""The result of building a data set: for the terminal, for scripts, and for the index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from c3s3_seg.dataset.index import CaseRecord, DataSet, Splits
from c3s3_seg.dataset.prepare.assemble import PreparePlan, PrepareSettings
from c3s3_seg.dataset.prepare.convert import Made
from c3s3_seg.dataset.prepare.inventory import OVERLAP, RefusedFile, ScanMaskPair
from c3s3_seg.dataset.prepare.predictions import MaskOrigin
from c3s3_seg.version import __version__


@dataclass(frozen=True)
class PreparedDataSet:
    """The result of a run of `prepare`.

    Parameters
    ----------
    found
        Number of scans found, including those refused later.
    data
        The data set, as written or planned; without cases if nothing is usable.
    patients
        Case -> pseudonym.
    refused
        Files that were not taken, with a reason. For the terminal alone: places may name patients.
    passed
        Reason -> number of files passed over.
    masks
        Number of cases with a mask.
    kept
        Number of cases that were there already, made from the same source.
    again
        Cases of an earlier run that were converted again, as source, settings or files had changed.
    gone
        Cases of an earlier run whose source no longer exists; they are left out of the index.
    moved
        Validation cases that were labelled cases of an earlier run.
    assumed
        Assumptions: sentences without their full stop.
    patients_by
        Rule that identified patients -> (number of scans found, number of patients).
    overlaps
        Cases with overlapping structures, see the notes of each.
    empty
        Labelled and validation cases whose mask holds nothing but background.
    corrected, uncorrected
        Cases whose mask is the correction of a prediction of this program, or such a prediction.
    """

    found: int
    data: DataSet
    patients: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[RefusedFile, ...] = ()
    passed: Mapping[str, int] = field(default_factory=dict)
    masks: int = 0
    kept: int = 0
    again: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    patients_by: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    overlaps: tuple[str, ...] = ()
    empty: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    uncorrected: tuple[str, ...] = ()


def written_result(plan: PreparePlan, made: Mapping[str, Made], written: PreparedDataSet) -> PreparedDataSet:
    """Return the result that describes the data set as written."""
    splits, records = written.data.splits, written.data.records
    pairs = dict(zip(plan.cases, plan.pairs, strict=True))
    again = (case for case in sorted(records) if case in plan.earlier.records and not made[case].kept)
    return replace(
        written,
        patients={case: record.patient for case, record in records.items()},
        masks=sum("label" in record.sha256 for record in records.values()),
        kept=sum(made[case].kept for case in records),
        again=tuple(again),
        gone=tuple(sorted({*plan.earlier.records} - plan.earlier.unlisted - {*plan.cases})),
        moved=moved(plan, splits),
        overlaps=tuple(c for c, r in records.items() if any(n.startswith(OVERLAP) for n in r.notes)),
        empty=tuple(c for c in (*splits.labelled, *splits.validation) if not records[c].values),
        corrected=tuple(c for c, r in records.items() if _is_from(pairs[c], r, "correction")),
        uncorrected=tuple(c for c, r in records.items() if _is_from(pairs[c], r, "prediction")),
    )


def moved(plan: PreparePlan, splits: Splits) -> tuple[str, ...]:
    """Return the validation cases that were labelled cases of the earlier run."""
    return tuple(case for case in splits.validation if case in plan.earlier.labelled)


def _is_from(pair: ScanMaskPair, record: CaseRecord, origin: MaskOrigin) -> bool:
    return pair.origin == origin and "label" in record.sha256


def index_entry(result: PreparedDataSet, settings: PrepareSettings) -> dict[str, Any]:
    """Return the run's entry in the index. Refusals are only counted, as a place may name a patient."""
    return {
        "program": f"c3s3-seg {__version__}",
        "validation": settings.validation,
        "seed": settings.seed,
        "choice": settings.choice,
        "patients_by": {rule: scans for rule, (scans, _) in result.patients_by.items()},
        "refused": len(result.refused),
        "passed_over": dict(result.passed),
        "corrected": list(result.corrected),
        "uncorrected": list(result.uncorrected),
    }
