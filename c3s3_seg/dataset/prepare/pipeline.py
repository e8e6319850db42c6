"""Build a data set from a folder of scans and masks: find, pair, split by patient, write, record.

The index is written last, and set aside before any file that it names is changed: if there is an index, all
its files are whole. A run that was killed is resumed from the records that it left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from c3s3_seg.dataset.index import IMAGES, MASKS, TEST_FOLDERS, DataSet
from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.prepare.assemble import (
    PreparePlan,
    PrepareSettings,
    arrange,
    find,
    labels_of,
    modality_of,
    with_fitting_masks,
)
from c3s3_seg.dataset.prepare.convert import STATE, SUFFIX, ConvertJob, Made, convert
from c3s3_seg.dataset.prepare.copies import copy_reason, find_copies, one_patient
from c3s3_seg.dataset.prepare.inventory import Part, RefusedFile
from c3s3_seg.dataset.prepare.left_out import NAMED, count_left_out, patterns_within
from c3s3_seg.dataset.prepare.naming import UNLISTED, Earlier
from c3s3_seg.dataset.prepare.out_folder import (
    clear,
    clear_left_out,
    clear_moved,
    put_back,
    set_aside,
    spare_others,
    unlisted,
)
from c3s3_seg.dataset.prepare.pairing import KEPT
from c3s3_seg.dataset.prepare.result import PreparedDataSet, index_entry, moved, written_result
from c3s3_seg.dataset.splits import EarlierSplits, SplitCase, assign
from c3s3_seg.errors import InputError
from c3s3_seg.system.files import check_folder, make_folder
from c3s3_seg.system.lock import hold
from c3s3_seg.system.names import plain_name
from c3s3_seg.system.process_pool import Died, each
from c3s3_seg.system.progress import Progress, silent
from c3s3_seg.system.schema import dump

FORMAT = "2"  # version of the written files: those of another version are written anew
HELD_OUT = "scans that are left out, as their patients are for validation or test"


def prepare(
    source: Path, out: Path, settings: PrepareSettings, progress: Progress = silent, *, dry: bool = False
) -> PreparedDataSet:
    """Build a data set.

    Parameters
    ----------
    source
        Folder to search.
    out
        Folder of the data set; unchanged results of an earlier run are kept.
    settings
        Settings of the run.
    progress
        Called with the current step or case.
    dry
        Whether only to report the plan: no case is converted, and nothing is written.

    Returns
    -------
    PreparedDataSet
        Result of the run; its refusals hold the scans that cannot be used, the others are processed.

    Raises
    ------
    InputError
        If there is no such folder, one lies in the other, masks do not agree in their labels, scans have
        several modalities, another process writes into `out`, or `out` holds another data set.
    """
    _check_folders(source, out)
    if not dry:
        check_folder(out)
    patterns = patterns_within(source, settings.search.leave_out)
    left_out = count_left_out(source, patterns)
    settings = replace(settings, search=replace(settings.search, leave_out=patterns))
    inventory = find(source, settings, progress)
    labels, modality = labels_of(inventory, settings), modality_of(inventory.pairs, settings)
    inventory = with_fitting_masks(inventory, labels)
    before = PreparedDataSet(
        len(inventory.pairs),
        DataSet(out, settings.name or out.resolve().name, modality, labels.named),
        {},
        inventory.refused,
        {**inventory.passed, **({NAMED: left_out} if left_out else {})},
        assumed=inventory.assumed,
        patients_by=inventory.patients_by,
    )
    if not inventory.pairs:
        return before
    if dry:
        plan = arrange(inventory, out, labels, settings, progress)
        return _planned(plan, _with_stated(before, plan.earlier, settings))
    make_folder(out)
    with hold(out):
        plan = arrange(inventory, out, labels, settings, progress)
        return _carry_out(plan, source, settings, _with_stated(before, plan.earlier, settings), progress)


def _with_stated(before: PreparedDataSet, earlier: Earlier, settings: PrepareSettings) -> PreparedDataSet:
    """Return the result with what neither settings nor scans say as the earlier index has it."""
    name = settings.name or earlier.name or before.data.name
    modality = before.data.modality or earlier.modality
    empty_masks = earlier.empty_masks if settings.empty_masks is None else settings.empty_masks
    return replace(before, data=replace(before.data, name=name, modality=modality, empty_masks=empty_masks))


def _check_folders(source: Path, out: Path) -> None:
    if not source.is_dir():
        raise InputError("there is no such folder", where=source)
    here, there = source.resolve(), out.resolve()
    if here.is_relative_to(there) or there.is_relative_to(here):
        todo = "Give a folder beside it with -o"
        raise InputError("the data set and its source lie in one another", where=out, todo=todo)
    _check_out(out)


def _check_out(out: Path) -> None:
    """Check, before an hour of reading, that `out` is writable and its sub-folders are no links."""
    check_folder(out)
    for name in (STATE, IMAGES, MASKS, *TEST_FOLDERS.values()):
        if (out / name).is_symlink():
            what = "is a link, and files would be written to where it leads"
            raise InputError(what, where=out / name, todo="Give another folder with -o")


def _planned(plan: PreparePlan, before: PreparedDataSet) -> PreparedDataSet:
    """Return the result of a dry run: the data set as it would be, if every case can be read."""
    passed = _passed(before, len(plan.cases) - len(plan.wanted))
    patients = {plan.cases[n]: plan.patients[n] for n in plan.wanted}
    masks = sum(plan.pairs[n].mask is not None for n in plan.wanted)
    data = replace(before.data, splits=plan.splits)
    origins = {plan.cases[n]: plan.pairs[n].origin for n in plan.wanted}
    return replace(
        before,
        data=data,
        patients=patients,
        passed=passed,
        masks=masks,
        moved=moved(plan, plan.splits),
        corrected=tuple(case for case, origin in origins.items() if origin == "correction"),
        uncorrected=tuple(case for case, origin in origins.items() if origin == "prediction"),
    )


def _passed(before: PreparedDataSet, idle: int) -> dict[str, int]:
    return {**before.passed, **({HELD_OUT: idle} if idle else {})}


def _carry_out(
    plan: PreparePlan, source: Path, settings: PrepareSettings, before: PreparedDataSet, progress: Progress
) -> PreparedDataSet:
    data = replace(before.data, splits=plan.splits)
    work = [_job(plan, number, source, data, settings) for number in plan.wanted]
    spare_others(data.folder, work)
    set_aside(data.folder)
    outcomes: dict[int, Made | str | Died] = {}
    for number, outcome in each(convert, work, settings.search.workers):
        outcomes[number] = outcome
        progress(work[number].case, len(outcomes), len(work))
    made = {work[n].case: outcome for n in range(len(work)) if isinstance(outcome := outcomes[n], Made)}
    copies = find_copies(
        made, {case: pair.scan.split for case, pair in zip(plan.cases, plan.pairs, strict=True)}
    )
    refused = [r for n, item in enumerate(work) if (r := _refusal(item, outcomes[n])) is not None]
    places = {item.case: item.scan.place for item in work}
    refused += [RefusedFile(places[c], copy_reason(made[c], places[first])) for c, first in copies.items()]
    result = replace(before, data=data, refused=(*before.refused, *refused))
    return _finish(plan, made, copies, settings, result)


def _refusal(work: ConvertJob, outcome: Made | str | Died) -> RefusedFile | None:
    if not isinstance(outcome, Made):
        return RefusedFile(work.scan.place, outcome.reason if isinstance(outcome, Died) else outcome)
    if outcome.mask_refused and work.mask is not None:
        return RefusedFile(work.mask.place, outcome.mask_refused + KEPT)
    return None


def _job(
    plan: PreparePlan, number: int, source: Path, data: DataSet, settings: PrepareSettings
) -> ConvertJob:
    pair, case = plan.pairs[number], plan.cases[number]
    mask = pair.mask.part if pair.mask is not None else None
    name = plain_name(f"{case}{SUFFIX}", "the case's file", source)
    known = [FORMAT, sorted(settings.search.repair), _meaning(plan.labels, mask)]
    return ConvertJob(
        case=case,
        patient=plan.patients[number],
        scan=pair.scan.part,
        mask=mask,
        note=pair.note,
        labels=plan.labels,
        root=source,
        image=data.place(IMAGES, case) / name,
        label=data.place(MASKS, case) / name,
        state=data.folder / STATE,
        settings=hashlib.sha256(json.dumps(known).encode()).hexdigest(),
        sources=plan.hashes[number] if plan.hashes and plan.hashes[number]["image"] else {},
        known=plan.earlier.records.get(case),
        repair=settings.search.repair,
    )


def _meaning(labels: Labels, mask: Part | None) -> list[Any]:
    """Return the labels that a mask's file depends on: names and values of drawings, values of images."""
    if mask is None:
        return []
    if mask.kind == "structures":  # where two overlap, the order counts
        return list(labels.values.items())
    return sorted(labels.values.items()) if mask.drawing is not None else sorted(set(labels.values.values()))


def _finish(
    plan: PreparePlan,
    made: Mapping[str, Made],
    copies: Mapping[str, str],
    settings: PrepareSettings,
    before: PreparedDataSet,
) -> PreparedDataSet:
    """Split the cases that were converted, write the index, and remove files that are not in it."""
    pairs = dict(zip(plan.cases, plan.pairs, strict=True))
    same = one_patient(made, copies)
    records = {
        case: replace(item.record, patient=same.get(item.record.patient, item.record.patient))
        for case, item in made.items()
        if case not in copies
    }
    members = [
        SplitCase(c, r.patient, "label" in r.sha256, pairs[c].scan.split, pairs[c].origin == "prediction")
        for c, r in records.items()
    ]
    patients = dict(zip(plan.cases, plan.patients, strict=True))
    drawn = EarlierSplits(
        frozenset(same.get(p, p) for p in (patients[case] for case in plan.splits.validation)),
        frozenset(same.get(p, p) for p in plan.drawn.training),
    )
    try:
        splits = assign(members, settings.validation, settings.seed, drawn)
    except InputError:  # fewer cases could be converted than were planned
        put_back(before.data.folder)
        raise
    taken = {*splits.cases, *splits.test}
    idle = len(plan.cases) - len(plan.wanted) + len(records) - len(taken)
    records = {case: record for case, record in records.items() if case in taken}
    stated = {c: same.get(p, p) for c, p in plan.earlier.patient_of.items() if c in patients}
    data = replace(before.data, splits=splits, records=records, patient_of=stated)
    result = written_result(plan, made, replace(before, data=data, passed=_passed(before, idle)))
    if taken:
        clear(before.data, {case: item.record for case, item in made.items() if case not in taken})
        clear_moved(data, plan.earlier.records)
        clear_left_out(data, plan.earlier.records, {*plan.cases} - {*plan.splits.cases, *plan.splits.test})
        others = {case: dump(record) for case, record in unlisted(data, plan.earlier.records).items()}
        data.save(prepared=index_entry(result, settings) | ({UNLISTED: others} if others else {}))
        shutil.rmtree(data.folder / STATE)
    else:
        put_back(data.folder)
    return result
