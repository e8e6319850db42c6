"""Plan a data set: the name, patient and split of each scan of a folder, before anything is written."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from c3s3_seg.dataset.index import BACKGROUND, Splits
from c3s3_seg.dataset.labels import Labels, agreed
from c3s3_seg.dataset.layouts import read_layout
from c3s3_seg.dataset.prepare.convert import SUFFIX, source_hashes
from c3s3_seg.dataset.prepare.discover import Search, by_name, discover
from c3s3_seg.dataset.prepare.inventory import (
    Inventory,
    Mask,
    Part,
    RefusedFile,
    ScanMaskPair,
    reason_of,
)
from c3s3_seg.dataset.prepare.naming import Earlier, name_cases, name_patients, read_earlier
from c3s3_seg.dataset.prepare.pairing import KEPT
from c3s3_seg.dataset.prepare.scan_patients import with_patients
from c3s3_seg.dataset.splits import EarlierSplits, SplitCase, assign
from c3s3_seg.errors import C3S3Error, InputError, quantity
from c3s3_seg.system.names import PlainName, folded, printable
from c3s3_seg.system.process_pool import each
from c3s3_seg.system.progress import Progress, silent

UNREAD = {"image": ""}  # matches no earlier hash; a later read reports the reason


@dataclass(frozen=True)
class PrepareSettings:
    """The settings of `prepare`.

    Parameters
    ----------
    search
        Settings of the search.
    labels
        Names and values; None: those of the layout or the masks.
    patient
        Regular expression for the patient in the path of a scan; None: from DICOM, or found by `patients`.
    validation, seed
        Number of validation patients, and seed of the draw; None: about 1 in 10, or the layout's split.
    name, modality
        Name and modality of the data set; empty: the name of an earlier run, or else the folder's, and the
        modality in the headers, or else of an earlier run.
    empty_masks
        Whether to train on masks that hold nothing but background; None: as in the index of an earlier run.
    """

    search: Search = field(default_factory=Search)
    labels: Labels | None = None
    patient: str | None = None
    validation: int | None = None
    seed: int = 0
    name: str = ""
    modality: str = ""
    empty_masks: bool | None = None

    @property
    def choice(self) -> str:
        """A hash of the options that choose among the scans; not the options, as a pattern may be a name."""
        rule = self.search.rule.text if self.search.rule else ""
        chosen = [rule, sorted(self.search.leave_out), self.modality, self.patient]
        return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]


OWN_SPLITS = (
    "the splits are those of the lists in the source, such as its dataset.json; --validation N draws others"
)


@dataclass(frozen=True)
class PreparePlan:
    """A planned data set: pairs with their names and patients, and the splits.

    `drawn` are the patients of the earlier run by which the splits were drawn.
    """

    pairs: tuple[ScanMaskPair, ...]
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    hashes: tuple[Mapping[str, str], ...]
    splits: Splits
    labels: Labels
    earlier: Earlier
    drawn: EarlierSplits

    @property
    def wanted(self) -> list[int]:
        """The numbers of the cases that are in a split."""
        named = {*self.splits.cases, *self.splits.test}
        return [number for number, case in enumerate(self.cases) if case in named]


def find(source: Path, settings: PrepareSettings, progress: Progress = silent) -> Inventory:
    """Return the inventory of a folder in any layout, with the patients as requested.

    Raises
    ------
    InputError
        For the reasons of `discover`, `read_layout` and `by_name`.
    """
    search = replace(settings.search, labels=settings.labels)
    found = read_layout(source, search, progress)
    if found is None:
        found = discover(source, search, progress)
    found = _with_plain_names(found)
    if settings.validation is not None:
        found = replace(found, pairs=tuple(_unsplit(pair) for pair in found.pairs))
    elif any(pair.scan.split not in ("", "test") for pair in found.pairs):
        found = replace(found, assumed=(*found.assumed, OWN_SPLITS))
    if settings.patient is None:
        return with_patients(found)
    scans, refused = by_name([pair.scan for pair in found.pairs], settings.patient)
    renamed = {scan.part: scan for scan in scans}
    pairs = tuple(replace(p, scan=renamed[p.scan.part]) for p in found.pairs if p.scan.part in renamed)
    return with_patients(replace(found, pairs=pairs, refused=(*found.refused, *refused)))


def _with_plain_names(found: Inventory) -> Inventory:
    """Return the inventory, with scans refused whose names in the source are not valid for a case."""
    pairs, refused = [], []
    for pair in found.pairs:
        try:
            if pair.scan.part.kind != "dicom":
                PlainName(pair.scan.stem)
                PlainName(f"{pair.scan.stem}{SUFFIX}")
            pairs.append(pair)
        except ValueError as error:
            reason = f"its name cannot be that of a case: wanted {error}. Rename it."
            refused.append(RefusedFile(pair.scan.part.place, reason))
    return replace(found, pairs=tuple(pairs), refused=(*found.refused, *refused))


def _unsplit(pair: ScanMaskPair) -> ScanMaskPair:
    """Remove the layout's own split, as a draw was requested; test cases keep their split."""
    return pair if pair.scan.split == "test" else replace(pair, scan=replace(pair.scan, split=""))


def labels_of(inventory: Inventory, settings: PrepareSettings) -> Labels:
    """Return the labels of all masks: those given, else those of the layout, else those of the masks.

    Raises
    ------
    InputError
        If the masks do not agree, or a label's name is not valid for a file or is that of the background.
    """
    given = settings.labels or (Labels(inventory.labels) if inventory.labels else None)
    labels = agreed(given, [pair.mask for pair in inventory.pairs if pair.mask is not None])
    for name in labels.named:
        if folded(name) == BACKGROUND:
            what = f"a label has the name {printable(name)!r}, that of the value 0; wanted another name"
            raise InputError(what, todo="Name the labels to learn with --labels NAME=VALUE,... without it")
        try:
            PlainName(name)
        except ValueError as error:
            what = f"the label {printable(name)!r}: wanted {error}"
            todo = "Name it with --labels 'NAME=1,OTHER NAME=1': the first name of a value is the label's"
            raise InputError(what, todo=todo) from None
    return labels


def with_fitting_masks(inventory: Inventory, labels: Labels) -> Inventory:
    """Return the inventory without masks whose values or names have no label: refused, the scans are kept.

    Values of drawings on voxels are known only once they are drawn: `convert` looks again.
    """
    pairs, refused = [], list(inventory.refused)
    for pair in inventory.pairs:
        why = _unfit(pair.mask, labels) if pair.mask is not None else ""
        if why and pair.mask is not None:
            refused.append(RefusedFile(pair.mask.part.place, why + KEPT))
            pair = replace(pair, mask=None)
        pairs.append(pair)
    return replace(inventory, pairs=tuple(pairs), refused=tuple(refused))


def _unfit(mask: Mask, labels: Labels) -> str:
    """Return why a mask has no label for a value or a name in it; "" if it has."""
    part = mask.part
    names = part.names if part.drawing is None else part.drawing.names
    try:
        if names or part.drawing is not None:
            labels.of_names(names, part.files[0])
            return ""
        labels.check_values(mask.values or ())
    except C3S3Error as error:
        return reason_of(error)
    return ""


def modality_of(pairs: Sequence[ScanMaskPair], settings: PrepareSettings) -> str:
    """Return the modality of all scans; empty if unknown.

    Raises
    ------
    InputError
        If there are several modalities and none was chosen.
    """
    kinds = Counter(pair.scan.modality for pair in pairs if pair.scan.modality)
    if settings.modality or len(kinds) < 2:
        return settings.modality or next(iter(kinds), "")
    found = ", ".join(f"{count} of {name}" for name, count in kinds.most_common())
    raise InputError(f"a data set is of one modality; found {found}", todo="Choose one with --modality")


def arrange(
    inventory: Inventory, out: Path, labels: Labels, settings: PrepareSettings, progress: Progress
) -> PreparePlan:
    """Give each scan its name, its patient and its split; those from an earlier run are kept.

    Parameters
    ----------
    inventory
        Scans and masks that were found.
    out
        Folder of the data set, which need not exist.
    labels
        Labels of all masks.
    settings
        Settings of the run.
    progress
        Called with the number of sources that have been compared with the earlier run.

    Raises
    ------
    InputError
        If `out` holds a data set not made by `prepare`, or made from other scans alone, or the splits cannot
        be drawn as requested.
    """
    earlier = read_earlier(out)
    pairs = inventory.pairs
    # In a first run, the worker that reads a scan computes its hash.
    hashes = _hash_all(pairs, settings, progress) if earlier.records else ()
    cases = name_cases(pairs, hashes, earlier)
    _refuse_other_source(cases, hashes, earlier, settings, out)
    patients = name_patients([pair.scan for pair in pairs], cases, earlier)
    members = [
        SplitCase(case, patient, pair.mask is not None, pair.scan.split, pair.origin == "prediction")
        for case, patient, pair in zip(cases, patients, pairs, strict=True)
    ]
    drawn = earlier.drawn if earlier.draw == (settings.validation, settings.seed) else EarlierSplits()
    splits = assign(members, settings.validation, settings.seed, drawn)
    return PreparePlan(pairs, tuple(cases), tuple(patients), hashes, splits, labels, earlier, drawn)


def _refuse_other_source(
    cases: Sequence[str],
    hashes: Sequence[Mapping[str, str]],
    earlier: Earlier,
    settings: PrepareSettings,
    out: Path,
) -> None:
    """Raise if no scan is one of the data set in `out`, whose index would lose its cases.

    Names and places prove little, as every hospital has a `001`. Two cases are no other source: options that
    take other scans, and an export of the same files with other content.
    """
    known = {earlier.records[case].source_sha256["image"] for case in earlier.listed & earlier.records.keys()}
    same = known & {found["image"] for found in hashes}
    lost = earlier.listed - {*cases}
    if same or not lost or earlier.choice not in ("", settings.choice):
        return
    what = (
        f"holds a data set of {quantity(len(earlier.listed), 'case')}, and none of its scans is in the source"
    )
    todo = "Give another folder with -o; or put the scans of both sources below one folder, and give that"
    raise InputError(what, where=out, todo=todo)


def _hash_all(
    pairs: Sequence[ScanMaskPair], settings: PrepareSettings, progress: Progress
) -> tuple[Mapping[str, str], ...]:
    work = [(pair.scan.part, pair.mask) for pair in pairs]
    outcomes: dict[int, Mapping[str, str]] = {}
    for number, outcome in each(_hashes, work, settings.search.workers):
        outcomes[number] = outcome if isinstance(outcome, dict) else UNREAD
        progress("comparing with the earlier run", len(outcomes), len(work))
    return tuple(outcomes[number] for number in range(len(work)))


def _hashes(work: tuple[Part, Mask | None]) -> Mapping[str, str]:
    scan, mask = work
    try:
        return source_hashes(scan, mask.part if mask is not None else None)
    except C3S3Error:
        return UNREAD
