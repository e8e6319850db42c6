"""Check a data set before anything is trained on it: every case is read once, then all are compared."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.dataset.check.case_summary import CheckedCase, SummaryJob, look
from c3s3_seg.dataset.check.duplicates import duplicates, same_scans, same_voxels
from c3s3_seg.dataset.check.index_checks import check_files, kinds
from c3s3_seg.dataset.check.mask_alignment import fits, ill_fitting
from c3s3_seg.dataset.check.orientation import likeness, misoriented_cases
from c3s3_seg.dataset.check.outliers import odd_ones
from c3s3_seg.dataset.index import DataSet
from c3s3_seg.errors import quantity
from c3s3_seg.report.findings import Finding, by_severity
from c3s3_seg.system.process_pool import Died, each
from c3s3_seg.system.progress import Progress


@dataclass(frozen=True, eq=False)
class DataSetCheck:
    """The result of the check of a data set.

    Parameters
    ----------
    data
        The data set.
    findings
        Findings, errors first; empty if all is well.
    cases
        Findings and summary of each case.
    """

    data: DataSet
    findings: tuple[Finding, ...]
    cases: tuple[CheckedCase, ...]

    @property
    def has_errors(self) -> bool:
        """Whether a finding is an error, which prevents training."""
        return any(finding.severity == "error" for finding in self.findings)


def check_data_set(folder: Path, *, workers: int = 1, progress: Progress | None = None) -> DataSetCheck:
    """Check a data set.

    Parameters
    ----------
    folder
        Folder with `dataset.json`, `imagesTr` and `labelsTr`.
    workers
        Number of processes that read cases.
    progress
        Called with (case, number done, total) after each case.

    Raises
    ------
    InputError
        If there is no index, or the index is invalid.
    """
    data = DataSet.load(folder)
    listed = check_files(data)
    work = _work(data)
    cases: dict[int, CheckedCase] = {}
    for number, result in each(look, work, workers):
        cases[number] = _died(work[number], result) if isinstance(result, Died) else result
        if progress:
            progress(work[number].name, len(cases), len(work))
    looked = tuple(cases[number] for number in range(len(work)))
    alone = [finding for case in looked for finding in case.findings]
    findings = by_severity([*listed, *alone, *_together(looked, data)])
    return DataSetCheck(data, tuple(findings), looked)


def _work(data: DataSet) -> list[SummaryJob]:
    """Return the cases whose scan is there; `check_files` reports missing files."""
    work = []
    for name, kind in kinds(data.splits).items():
        scans, masks = data.candidates(name)
        if len(scans) != 1:
            continue
        mask = masks[0] if len(masks) == 1 else None
        record = data.records.get(name)
        hashes = record.sha256 if record else {}
        work.append(SummaryJob(name, kind, scans[0], mask, dict(data.labels), hashes, data.empty_masks))
    return work


def _together(cases: tuple[CheckedCase, ...], data: DataSet) -> list[Finding]:
    """Return the findings that only a comparison of cases shows."""
    summary = {case.name: case.summary for case in cases if case.summary is not None}
    thumbnails = {name: one.thumbnail for name, one in summary.items() if not one.few_values}
    erroneous = {case.name for case in cases if any(f.severity == "error" for f in case.findings)}
    strange = misoriented_cases(likeness(thumbnails), erroneous)
    reported = {finding.cases[0] for finding in strange}
    exact = same_voxels({name: one.voxels for name, one in summary.items()})
    pairs = [*exact, *same_scans(thumbnails, exact)]
    ill = ill_fitting(fits(thumbnails), reported)
    odd = [
        f for f in odd_ones(cases, data.modality) if not (f.check == "intensities" and f.cases[0] in reported)
    ]
    headers = _headers({name: one.axes for name, one in summary.items()})
    scaled = [] if data.labels else _scaled(cases)
    return [*scaled, *odd, *strange, *ill, *headers, *duplicates(pairs, kinds(data.splits))]


def _scaled(cases: tuple[CheckedCase, ...]) -> list[Finding]:
    """Report masks of 0 and 255 beside others without 255: 0/1 masks that were scaled; training refuses them.

    If all masks hold 255 alone, it is the value of their label.
    """
    used = {case.name: set(case.mask.volumes_ml) for case in cases if case.mask and case.kind != "unlabelled"}
    names = tuple(name for name, values in used.items() if values == {"255"})
    others = set().union(*(values for values in used.values() if values != {"255"}))
    if not others or "255" in others:
        return []
    todo = "Write the value of their label for 255, or name the labels in dataset.json"
    what = "the mask holds the value 255 alone"
    return [
        Finding("error", "mask-values", (name,), what, "the values of other masks", todo) for name in names
    ]


def _headers(axes: dict[str, str]) -> list[Finding]:
    """Report files whose axes differ from most; scans are reoriented by headers, so this is no fault."""
    plain = {name: text.split()[0] for name, text in axes.items()}
    counts = Counter(plain.values()).most_common()
    if len(counts) < 2:
        return []
    odd = tuple(name for name, text in plain.items() if text != counts[0][0])
    found = "axes run along " + ", ".join(f"{text} ({quantity(count, 'case')})" for text, count in counts)
    return [
        Finding("info", "axes", odd, found, "", "Nothing, if the headers are true: scans are turned by them")
    ]


def _died(work: SummaryJob, result: Died) -> CheckedCase:
    found = f"{work.scan.parent.name}/{work.scan.name}: {result.reason}"
    todo = "Look at the file alone with c3s3-seg inspect"
    finding = Finding("error", "unreadable", (work.name,), found, "a whole file", todo)
    return CheckedCase(work.name, work.kind, (finding,))
