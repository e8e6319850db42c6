"""Check over the whole set, never a single case, that predictions and truths number their labels alike.

A case in which one organ is present and called another is a miss. A set in which no prediction shares a value
with any truth (0 and 255 against 0 and 1) was numbered in another way, and its scores are meaningless.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.errors import InputError
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.scoring import labels_in
from c3s3_seg.report.rows import CaseFiles
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
    """A check that takes one pair of masks after another until the values are known not to be mixed up.

    Parameters
    ----------
    labels
        Name -> value of the labels to be measured.
    names
        Name -> value of the labels in DICOM SEG and RTSTRUCT files, for the message.
    """

    def __init__(self, labels: Mapping[str, int], names: Mapping[str, int]) -> None:
        self._asked = set(labels.values())
        self._names = {value: name for name, value in (*names.items(), *labels.items())}
        self._predictions: set[int] = set()
        self._truths: set[int] = set()

    def add(self, predictions: Iterable[int] = (), truths: Iterable[int] = ()) -> bool:
        """Add the values of a mask; return True once the values cannot be mixed up any more."""
        self._predictions.update(predictions)
        self._truths.update(truths)
        return self._fault() is None and bool(self._predictions and self._truths)

    def refuse(self, where: Path) -> None:
        """Raise if the values added so far do not fit; `where` is the path of the predictions.

        Raises
        ------
        InputError
            If predictions and truths have no value in common, or no value that is to be measured.
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
    """Return a text such as `1 (liver), 2`, rising, of `MOST` values at most; `nothing` for none."""
    ordered = sorted(values)
    texts = [f"{value} ({names[value]})" if value in names else str(value) for value in ordered[:MOST]]
    more = f" and {len(ordered) - MOST} more" if len(ordered) > MOST else ""
    return ", ".join(texts) + more if texts else "nothing"


def label_remarks(
    found: Sequence[CaseLabels], labels: Mapping[str, int], names: Mapping[str, int]
) -> tuple[str, ...]:
    """Return the remarks on the labels of a whole set.

    Parameters
    ----------
    found
        Values that each case holds.
    labels, names
        Same as in `LabelCheck`.

    Returns
    -------
    tuple of str
        Sentence for each value that predictions hold and no truth does, and one for all requested values
        that no mask holds.
    """
    by_value = {value: name for name, value in (*names.items(), *labels.items())}
    truths = {value for case in found for value in case.truth}
    predictions = {value for case in found for value in case.prediction}
    remarks = []
    for value in sorted(predictions - truths):
        cases = [case.case for case in found if value in case.prediction]
        measured = "Dice 0 there" if value in labels.values() else "not measured"
        label = listed_values([value], by_value)
        remarks.append(f"no truth has the label {label}, and the predictions of {few(cases)} do: {measured}")
    absent = sorted(set(labels.values()) - truths - predictions)
    if absent and found:
        remarks.append(
            f"no mask has the label {listed_values(absent, by_value)}: both masks are empty in every case"
        )
    return tuple(remarks)


def uncompared(rows: Sequence[CaseScore], against: Sequence[CaseScore]) -> tuple[str, ...]:
    """Return remarks on cases and labels, by name, that two sets of predictions do not have in common.

    Returns
    -------
    tuple of str
        Sentence if no case was measured in both, else one on the cases, and one on each label, that only
        one of the sets has.
    """
    if not {row.case for row in rows} & {row.case for row in against}:
        return ("no case was measured in both sets: nothing is compared",)
    remarks = []
    for name, side, other in (("predictions", rows, against), ("against", against, rows)):
        there = {row.case for row in other}
        alone = list(dict.fromkeys(row.case for row in side if row.case not in there))
        if alone:
            remarks.append(f"measured in the set '{name}' alone, and not compared: {few(alone)}")
    first, second = ({row.label: None for row in side} for side in (rows, against))
    labels = [(name, "against") for name in first if name not in second]
    labels += [(name, "predictions") for name in second if name not in first]
    remarks += [f"the label {n} is not compared: the set '{s}' has no label of this name" for n, s in labels]
    return tuple(remarks)


def few(cases: Sequence[str]) -> str:
    """Return a list of names, of `MOST` at most."""
    more = f" and {len(cases) - MOST} more" if len(cases) > MOST else ""
    return ", ".join(cases[:MOST]) + more


def first_names(labels: Mapping[str, int] | None) -> Labels:
    """Return each value once, under the first of its names."""
    first: dict[int, str] = {}
    for name, value in (labels or {}).items():
        first.setdefault(value, name)
    return tuple((name, value) for value, name in first.items())


def labels_of(files: Sequence[CaseFiles], workers: int) -> Labels:
    """Return every label of any truth; else of any prediction; else `label_1` with value 1."""
    named = {value: name for name, value in reversed(files[0].names)}
    for side in ("truth", "prediction"):
        found: list[tuple[int, ...]] = []
        for _, labels in each(_labels_in_file, [(getattr(f, side), dict(f.names)) for f in files], workers):
            found += [] if isinstance(labels, Died) else [labels]
        values = {value for labels in found for value in labels}
        # A file of 0 and 255 among files of 0 and 1 is stored in another way; its case fails later.
        if len(values) > 1 and all(labels in ((), (255,)) for labels in found if 255 in labels):
            values -= {255}
        if values:
            return tuple((named.get(value, f"label_{value}"), value) for value in sorted(values))
    return (("label_1", 1),)


def _labels_in_file(work: tuple[Path, dict[str, int]]) -> tuple[int, ...]:
    from c3s3_seg.io.mask_pair import load_labels, values_named

    path, names = work
    try:
        named = values_named(path, names)
        return labels_in(load_labels(path)) if named is None else named
    except Exception:  # the case is read again when it is measured, and fails there with its reason
        return ()


def refuse_mixup(files: Sequence[CaseFiles], labels: Labels) -> None:
    """Read pairs until the values are known to fit, which is mostly after the first pair.

    Raises
    ------
    InputError
        Same as in `LabelCheck.refuse`.
    """
    check = LabelCheck(dict(labels), dict(files[0].names))
    for case in files:
        truths = _labels_in_file((case.truth, dict(case.names)))
        if check.add(_labels_in_file((case.prediction, dict(case.names))), truths):
            return
    first = files[0].prediction
    check.refuse(first.parent if len(files) > 1 else first)
