"""Do predictions and truths mean the same by their values? Asked of the whole set, never of a single case.

A case in which one organ is present and called another is a miss. A set in which no prediction shares a value
with any truth (0 and 255 against 0 and 1) was numbered otherwise, and its scores say nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.io.cases import scan_stem
from c3s3_seg.io.image.files import image_stem, image_suffix
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.scoring import labels_in
from c3s3_seg.report.rows import CaseFiles
from c3s3_seg.system.ownership import read_case
from c3s3_seg.system.process_pool import Died, each

Labels = tuple[tuple[str, int], ...]  # (name, value)
MOST = 8  # values and cases that a message lists
TODO = "Give both the same values, or say which names and values are meant: --labels NAME=VALUE,NAME=VALUE"


@dataclass(frozen=True)
class CaseLabels:
    """The values, without 0, that the masks of one case hold."""

    case: str
    prediction: tuple[int, ...]
    truth: tuple[int, ...]


class LabelCheck:
    """Looks at one pair of masks after the other until it is clear that the values are not mixed up.

    Parameters
    ----------
    labels
        Name -> value of what is to be measured.
    names
        Name -> value of what DICOM SEG and RTSTRUCT files hold, for the message.
    """

    def __init__(self, labels: Mapping[str, int], names: Mapping[str, int]) -> None:
        self._asked = set(labels.values())
        self._names = {value: name for name, value in (*names.items(), *labels.items())}
        self._predictions: set[int] = set()
        self._truths: set[int] = set()

    def add(self, predictions: Iterable[int] = (), truths: Iterable[int] = ()) -> bool:
        """Take the values of a mask; True once nothing can be mixed up any more."""
        self._predictions.update(predictions)
        self._truths.update(truths)
        return self._fault() is None and bool(self._predictions and self._truths)

    def refuse(self, where: Path) -> None:
        """Raise if over all that was added the values do not fit; `where` are the predictions.

        Raises
        ------
        InputError
            If predictions and truths have no value in common, or none that is to be measured.
        """
        fault = self._fault()
        if fault is not None:
            raise InputError(fault, where=where, todo=TODO)

    def _fault(self) -> str | None:
        found = [self._listed(values) for values in (self._predictions, self._truths)]
        held = "all predictions hold {}, all truths {}".format(*found)
        if self._predictions and self._truths and not self._predictions & self._truths:
            return f"no prediction has a label in common with any truth: {held}"
        there = self._predictions | self._truths
        if there and not there & self._asked:
            return f"asked for {self._listed(self._asked)}, which no mask holds: {held}"
        return None

    def _listed(self, values: Collection[int]) -> str:
        return listed_values(values, self._names)


def listed_values(values: Collection[int], names: Mapping[int, str]) -> str:
    """`1 (liver), 2`, rising; `nothing` for none."""
    ordered = sorted(values)
    texts = [f"{value} ({names[value]})" if value in names else str(value) for value in ordered[:MOST]]
    more = f" and {len(ordered) - MOST} more" if len(ordered) > MOST else ""
    return ", ".join(texts) + more if texts else "nothing"


def label_remarks(
    found: Sequence[CaseLabels], labels: Mapping[str, int], names: Mapping[str, int]
) -> tuple[str, ...]:
    """What has to be said of the labels of a whole set.

    Parameters
    ----------
    found
        What each case holds.
    labels, names
        As for `LabelCheck`.

    Returns
    -------
    tuple of str
        A sentence for each value that predictions hold and no truth does, and for each that was asked for
        and no truth holds.
    """
    by_value = {value: name for name, value in (*names.items(), *labels.items())}
    truths = {value for case in found for value in case.truth}
    predictions = {value for case in found for value in case.prediction}
    remarks = []
    for value in sorted(predictions - truths):
        cases = [case.case for case in found if value in case.prediction]
        measured = "Dice 0 there" if value in labels.values() else "not measured"
        label = listed_values([value], by_value)
        remarks.append(f"no truth has the label {label}, and the predictions of {_few(cases)} do: {measured}")
    absent = sorted(set(labels.values()) - truths - predictions)
    if absent and found:
        remarks.append(
            f"no mask has the label {listed_values(absent, by_value)}: both masks are empty in every case"
        )
    return tuple(remarks)


def uncompared(rows: Sequence[CaseScore], against: Sequence[CaseScore]) -> tuple[str, ...]:
    """What two sets of predictions do not have in common, by the names of labels and of cases.

    Returns
    -------
    tuple of str
        A sentence where no case was measured in both, else one on the labels that only one of them has.
    """
    if not {row.case for row in rows} & {row.case for row in against}:
        return ("no case was measured in both sets: nothing is compared",)
    first, second = ({row.label: None for row in side} for side in (rows, against))
    alone = [(name, "against") for name in first if name not in second]
    alone += [(name, "predictions") for name in second if name not in first]
    return tuple(f"the label {n} is not compared: the set '{s}' has no label of this name" for n, s in alone)


def _few(cases: Sequence[str]) -> str:
    more = f" and {len(cases) - MOST} more" if len(cases) > MOST else ""
    return ", ".join(cases[:MOST]) + more


def first_names(labels: Mapping[str, int] | None) -> Labels:
    """Each value once, by the first of its names."""
    first: dict[int, str] = {}
    for name, value in (labels or {}).items():
        first.setdefault(value, name)
    return tuple((name, value) for value, name in first.items())


def labels_of(files: Sequence[CaseFiles], workers: int) -> Labels:
    """Every label of any truth; where there is none, of any prediction."""
    named = {value: name for name, value in reversed(files[0].names)}
    for side in ("truth", "prediction"):
        found: list[tuple[int, ...]] = []
        for _, labels in each(_labels_in_file, [(getattr(f, side), dict(f.names)) for f in files], workers):
            found += [] if isinstance(labels, Died) else [labels]
        values = {value for labels in found for value in labels}
        # Of 0 and 255 among others of 0 and 1 the file is stored otherwise: its case fails.
        if len(values) > 1 and all(labels in ((), (255,)) for labels in found if 255 in labels):
            values -= {255}
        if values:
            return tuple((named.get(value, f"label_{value}"), value) for value in sorted(values))
    return (("label_1", 1),)


def named_beside(labels: Labels, files: Sequence[CaseFiles]) -> tuple[Labels, str]:
    """Names that values alone lack, and the model, from the JSON which `predict` writes beside each mask.

    Returns
    -------
    tuple
        The labels, of which `label_1` has its name if all such files agree on it; the name of the model, ""
        where they do not agree or there are none.
    """
    names: dict[int, set[str]] = {}
    models: set[str] = set()
    for case in files:
        metadata = case_metadata(case.prediction) or {}
        models.add(str(metadata.get("made_with", {}).get("bundle", "")))
        for name, value in metadata.get("labels", {}).items():
            names.setdefault(value, set()).add(name)
    agreed = {value: next(iter(found)) for value, found in names.items() if len(found) == 1}
    named = tuple((agreed.get(v, n) if n == f"label_{v}" else n, v) for n, v in labels)
    unique = len({name for name, _ in named}) == len(named)
    return named if unique else labels, models.pop() if len(models) == 1 else ""


def case_metadata(mask: Path) -> dict[str, Any] | None:
    """The JSON of the case beside a mask; None where there is none of ours that can be read."""
    if image_suffix(mask) is None:
        return None
    path = mask.with_name(f"{scan_stem(image_stem(mask))}.json")
    metadata = read_case(path)
    if metadata is None:
        return None
    labels, made_with = metadata.get("labels", {}), metadata.get("made_with", {})
    whole = isinstance(labels, dict) and isinstance(made_with, dict)
    return metadata if whole and all(isinstance(value, int) for value in labels.values()) else None


def _labels_in_file(work: tuple[Path, dict[str, int]]) -> tuple[int, ...]:
    from c3s3_seg.io.mask_pair import load_labels, values_named

    path, names = work
    try:
        named = values_named(path, names)
        return labels_in(load_labels(path)) if named is None else named
    except Exception:  # the case is read again when it is measured, and fails there with its reason
        return ()


def refuse_mixup(files: Sequence[CaseFiles], labels: Labels) -> None:
    """Look at pairs until the values are known to fit, which most often is after the first.

    Raises
    ------
    InputError
        As `LabelCheck.refuse` does.
    """
    check = LabelCheck(dict(labels), dict(files[0].names))
    for case in files:
        truths = _labels_in_file((case.truth, dict(case.names)))
        if check.add(_labels_in_file((case.prediction, dict(case.names))), truths):
            return
    first = files[0].prediction
    check.refuse(first.parent if len(files) > 1 else first)
