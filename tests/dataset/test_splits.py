"""Tests of splits: by patient, never by scan; earlier draws are kept."""

import pytest

from c3s3_seg.dataset.index import Splits
from c3s3_seg.dataset.splits import EarlierSplits, SplitCase, assign
from c3s3_seg.errors import InputError


def patients(count: int, scans: int = 1, masks: bool = True) -> list[SplitCase]:
    return [SplitCase(f"c{p}-{s}", f"p{p}", masks) for p in range(count) for s in range(scans)]


def of(splits: Splits, members: list[SplitCase]) -> dict[str, set[str]]:
    by_case = {m.case: m.patient for m in members}
    return {
        n: {by_case[c] for c in getattr(splits, n)} for n in ("labelled", "unlabelled", "validation", "test")
    }


@pytest.mark.parametrize(("count", "wanted"), [(0, 0), (1, 0), (2, 1), (10, 1), (14, 1), (16, 2), (60, 6)])
def test_about_one_in_ten_judges(count: int, wanted: int) -> None:
    members = patients(count, scans=3)
    found = of(assign(members, None, 0), members)
    assert len(found["validation"]) == wanted
    assert len(found["labelled"]) == count - wanted


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_is_on_both_sides(seed: int) -> None:
    """Each patient has three scans, some without a mask; those of validation patients stay unused."""
    members = [SplitCase(f"{p}-{s}", f"p{p}", (p + s) % 3 > 0) for p in range(12) for s in range(3)]
    splits = assign(members, 4, seed)
    found = of(splits, members)
    assert not found["validation"] & (found["labelled"] | found["unlabelled"])
    assert len(found["validation"]) == 4
    assert all(m.has_mask for m in members if m.case in splits.validation + splits.labelled)
    assert not any(m.has_mask for m in members if m.case in splits.unlabelled)
    idle = [m for m in members if m.case not in splits.cases]
    assert idle
    assert {m.patient for m in idle} <= found["validation"]


def test_the_seed_draws_and_who_was_drawn_stays() -> None:
    members = patients(20)
    first = assign(members, 3, 1)
    assert assign(members, 3, 1) == first
    assert len({assign(members, 3, seed).validation for seed in range(8)}) > 4
    kept = frozenset(of(first, members)["validation"])
    grown = [SplitCase("new-a", "new-a", True), *members, SplitCase("new-b", "new-b", True)]
    assert of(assign(grown, 4, 7, EarlierSplits(kept)), grown)["validation"] > kept
    fewer = [m for m in members if m.patient != sorted(kept)[0]]
    assert of(assign(fewer, 3, 1, EarlierSplits(kept)), fewer)["validation"] > kept - {sorted(kept)[0]}


def earlier(members: list[SplitCase], splits: Splits) -> EarlierSplits:
    found = of(splits, members)
    return EarlierSplits(frozenset(found["validation"]), frozenset(found["labelled"]))


@pytest.mark.parametrize("seed", range(20))
def test_a_training_patient_does_not_move_to_validation_when_the_folder_grows(seed: int) -> None:
    members = patients(14)
    first = assign(members, None, seed)
    grown = [*members, *(SplitCase(f"new{n}", f"new{n}", True) for n in range(5))]
    second = assign(grown, None, seed, earlier(members, first))
    assert len(second.validation) == 2
    assert not set(second.validation) & set(first.labelled)
    unlabelled = [*members, *(SplitCase(f"u{n}", f"u{n}", False) for n in range(5))]
    assert assign(unlabelled, None, seed, earlier(members, first)).validation == first.validation


def test_training_patients_are_drawn_if_there_is_no_other() -> None:
    members = patients(14)
    known = EarlierSplits(training=frozenset(m.patient for m in members))
    assert len(assign(members, None, 0, known).validation) == 1
    assert len(assign(members, 3, 0, known).validation) == 3
    assert assign([*members, SplitCase("new", "new", True)], 1, 0, known).validation == ("new",)


def test_a_held_out_patient_stays_when_a_prediction_of_another_scan_arrives() -> None:
    members = patients(10)
    first = assign(members, None, 0)
    patient = of(first, members)["validation"].pop()
    grown = [*members, SplitCase("follow-up", patient, True, predicted=True)]
    second = assign(grown, None, 0, earlier(members, first))
    assert second == first  # the prediction is neither learnt from nor compared with


def test_a_prediction_in_a_folder_for_validation_is_left_out() -> None:
    members = [
        *patients(2),
        SplitCase("a", "a", True, "validation"),
        SplitCase("b", "b", True, "validation", True),
    ]
    assert assign(members, None, 0).validation == ("a",)


def test_only_patients_with_masks_judge() -> None:
    members = patients(3) + [SplitCase(f"u{n}", f"u{n}", False) for n in range(50)]
    found = of(assign(members, None, 0), members)
    assert len(found["validation"]) == 1
    assert found["validation"] <= {"p0", "p1", "p2"}
    assert len(found["unlabelled"]) == 50


def test_one_has_to_be_left_to_learn_from() -> None:
    with pytest.raises(InputError, match="found 3 patients with masks, and 3 are wanted"):
        assign(patients(3), 3, 0)
    assert assign(patients(3), 0, 0).validation == ()


@pytest.mark.parametrize(
    ("corrected", "predicted", "wanted", "expected"),
    [(2, 30, 2, 2), (1, 30, None, 1), (1, 0, None, 0), (20, 30, None, 2), (0, 30, None, 0)],
)
def test_predictions_are_left_to_learn_from(
    corrected: int, predicted: int, wanted: int | None, expected: int
) -> None:
    members = patients(corrected)
    members += [SplitCase(f"u{n}", f"u{n}", True, predicted=True) for n in range(predicted)]
    found = of(assign(members, wanted, 0), members)
    assert len(found["validation"]) == expected
    assert found["validation"] <= {m.patient for m in members if not m.predicted}


def test_more_than_there_are_without_predictions_are_refused() -> None:
    members = [*patients(2), SplitCase("u", "u", True, predicted=True)]
    with pytest.raises(InputError, match="found 2 patients with masks that are no predictions, and 3 are"):
        assign(members, 3, 0)
    with pytest.raises(InputError, match="so that one is left to learn from"):
        assign(patients(2), 2, 0)


def test_training_patients_of_the_layout_are_left_to_learn_from() -> None:
    members = [*patients(1), SplitCase("t", "t", True, "labelled")]
    assert assign(members, None, 0) == Splits(("t",), (), ("c0-0",))


def test_a_layouts_own_splits_are_kept() -> None:
    members = [
        SplitCase("a", "a", True, "labelled"), SplitCase("b", "b", False, "unlabelled"),
        SplitCase("c", "c", True, "validation"), SplitCase("t", "t", True, "test"),
        SplitCase("x", "x", False, "validation"), SplitCase("y", "y", False, "labelled"),
        SplitCase("z", "z", True, "unlabelled"),
    ]  # fmt: skip
    assert assign(members, None, 0) == Splits(("a",), ("b", "y", "z"), ("c",), ("t",))


def test_test_patients_are_never_learnt_from() -> None:
    members = [*patients(10), SplitCase("t", "t", True, "test"), SplitCase("t-2", "t", True)]
    splits = assign(members, None, 0)
    assert splits.test == ("t",)
    assert "t-2" not in splits.cases
    assert len(splits.validation) == 1


def test_splits_that_tear_a_patient_are_refused() -> None:
    members = [SplitCase("a", "p", True, "labelled"), SplitCase("b", "p", True, "validation")]
    with pytest.raises(InputError, match="1 patient on both sides, such as p"):
        assign(members, None, 0)
