"""Assign cases to training and validation by patient, never by scan."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from c3s3_seg.dataset.index import Splits
from c3s3_seg.dataset.prepare.inventory import Split
from c3s3_seg.errors import InputError, quantity

SHARE = 10  # one patient in this many is used for validation


@dataclass(frozen=True)
class SplitCase:
    """A case to be assigned: its patient, whether it has a mask, and its split in the layout.

    `predicted`: whether its mask is an uncorrected prediction, good for training but not for validation.
    """

    case: str
    patient: str
    has_mask: bool
    split: Split = ""
    predicted: bool = False


@dataclass(frozen=True)
class EarlierSplits:
    """Patients of an earlier run with the same settings of the draw.

    Parameters
    ----------
    validation
        Patients who were drawn for validation, and stay there.
    training
        Patients with labelled cases. A model may have learnt from them, so others are drawn before them.
    """

    validation: frozenset[str] = field(default_factory=frozenset)
    training: frozenset[str] = field(default_factory=frozenset)


def assign(
    members: Sequence[SplitCase], wanted: int | None, seed: int, earlier: EarlierSplits = EarlierSplits()
) -> Splits:
    """Assign each case to a split.

    Parameters
    ----------
    members
        All cases, in their order.
    wanted
        Number of validation patients, drawn from those with a mask that is no prediction. None: about 1 in
        10 of them, at least 1, but 0 if no other patient with a mask would be left; a training patient of an
        earlier run is drawn only if there would be none else.
    seed
        Seed of the draw.
    earlier
        Patients of an earlier run.

    Returns
    -------
    Splits
        Splits without the unmasked scans of validation and test patients: such a scan may not be trained
        on, and there is nothing to compare its prediction with.

    Raises
    ------
    InputError
        If there are fewer such patients than wanted, or none with a mask would be left for training, or the
        layout's own splits have a patient on both sides.
    """
    _refuse_torn(members)
    fixed = {m.patient for m in members if m.split in ("validation", "test")}
    has_own = any(m.split == "validation" for m in members)
    free = [m for m in members if m.split == "" and m.patient not in fixed]
    others = {m.patient for m in members if m.split == "labelled" and m.has_mask}
    drawn = set() if has_own else _draw(free, wanted, seed, earlier, others)
    sorted_in: dict[str, list[str]] = {"labelled": [], "unlabelled": [], "validation": [], "test": []}
    for member in members:
        split = _split(member, drawn, fixed)
        if split:
            sorted_in[split].append(member.case)
    return Splits(**{name: tuple(cases) for name, cases in sorted_in.items()})


def _split(member: SplitCase, drawn: set[str], fixed: set[str]) -> str:
    is_truth = member.has_mask and not member.predicted
    if member.split in ("validation", "test"):
        return member.split if is_truth else ""
    if member.split:
        return member.split if member.has_mask else "unlabelled"
    if member.patient in drawn:
        return "validation" if is_truth else ""
    if member.patient in fixed:
        return ""
    return "labelled" if member.has_mask else "unlabelled"


def _draw(
    free: Sequence[SplitCase], wanted: int | None, seed: int, earlier: EarlierSplits, others: set[str]
) -> set[str]:
    """Draw the validation patients: those drawn before, then others at random, training patients last.

    `others` are the patients that the layout gives for training, who are left to learn from in any case.
    """
    predicted = {m.patient for m in free if m.predicted}
    able = _able(free, predicted, earlier)
    learnt_from = {m.patient for m in free if m.has_mask} | others
    most = max(0, min(len(able), len(learnt_from) - 1))
    unseen = [patient for patient in able if patient not in earlier.training]
    count = wanted if wanted is not None else min(round(len(able) / SHARE), len(unseen), most) or min(1, most)
    if count > most:
        left = ", so that one is left to learn from" if most < len(able) else ""
        raise InputError(
            f"found {quantity(len(able), 'patient')} with masks"
            f"{' that are no predictions' if predicted else ''}, and {count} are wanted for validation",
            todo=f"Give a smaller number with --validation{left}",
        )
    before = [patient for patient in able if patient in earlier.validation][:count]
    new = [patient for patient in able if patient not in before]
    random.Random(seed).shuffle(new)
    new.sort(key=lambda patient: patient in earlier.training)
    return {*before, *new[: count - len(before)]}


def _able(free: Sequence[SplitCase], predicted: set[str], earlier: EarlierSplits) -> list[str]:
    """Return the patients who can be drawn: with a mask that is no prediction.

    A patient with predictions too is not drawn anew, as they would be lost for training, but stays.
    """
    own = dict.fromkeys(m.patient for m in free if m.has_mask and not m.predicted)
    return [patient for patient in own if patient in earlier.validation or patient not in predicted]


def _refuse_torn(members: Sequence[SplitCase]) -> None:
    trained_on = {m.patient for m in members if m.split in ("labelled", "unlabelled")}
    torn = sorted(trained_on & {m.patient for m in members if m.split in ("validation", "test")})
    if torn:
        cases = ", ".join([m.case for m in members if m.patient == torn[0] and m.split][:5])
        raise InputError(
            f"the splits that the data came with have {quantity(len(torn), 'patient')} on both sides, such as"
            f" {torn[0]} ({cases})",
            todo="Give --validation to draw them anew, or --patient if they are different patients",
        )
