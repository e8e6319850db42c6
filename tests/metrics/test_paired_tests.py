"""Tests of two sets of predictions that are compared case by case."""

import json
import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers.command import run

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import save
from c3s3_seg.metrics.paired_tests import compare, paired
from c3s3_seg.metrics.results import CaseScore, PaperScore, Score
from c3s3_seg.report.paired_words import empty_of_both


def rows(dice: list[float], asd: list[float]) -> list[CaseScore]:
    return [
        CaseScore(f"case-{n}", "organ", PaperScore(d, d / (2 - d), 1.0, a, optimistic=False))
        for n, (d, a) in enumerate(zip(dice, asd, strict=True))
    ]


A = [0.90, 0.92, 0.85, 0.88, 0.95, 0.91]
B = [0.88, 0.91, 0.86, 0.80, 0.90, 0.90]


def test_differences_by_hand() -> None:
    results = {pair.metric: pair for pair in compare(rows(A, B), rows(B, A))}
    dice = results["dice"]
    assert dice.n == 6
    assert dice.difference == pytest.approx(np.mean(np.subtract(A, B)))
    assert dice.low < dice.difference < dice.high
    # The differences are 2, 1, -1, 8, 5, 1 hundredths: the three of size 1 have rank 2, one is negative.
    assert dice.p == brute_force([4, 2, -2, 6, 5, 2])
    assert results["hd95_vox"].p == 1  # equal in every case


def brute_force(signed_ranks: list[float]) -> float:
    """Return the two-sided p over all assignments of signs."""
    sizes = [abs(rank) for rank in signed_ranks]
    found = sum(rank for rank in signed_ranks if rank > 0)
    sums = [float(np.dot(sizes, signs)) for signs in product((0, 1), repeat=len(sizes))]
    low, high = (sum(s <= found for s in sums), sum(s >= found for s in sums))
    return min(1.0, 2 * min(low, high) / len(sums))


def p_of(differences: list[float]) -> float:
    """Return p of pairs of values near 1, whose differences are not exact in floating point."""
    first = [1.0 + n / 7 for n in range(len(differences))]
    pairs = [(a + d, a) for a, d in zip(first, differences, strict=True)]
    return paired("x", "dice", pairs).p


@pytest.mark.parametrize("seed", range(8))
def test_p_is_exact_with_ties(seed: int) -> None:
    from scipy.stats import rankdata

    drawn = np.random.default_rng(seed).integers(-3, 5, size=3 + seed) / 10
    kept = drawn[drawn != 0]
    wanted = brute_force((rankdata(np.abs(kept)) * np.sign(kept)).tolist()) if kept.size else 1.0
    assert p_of(drawn.tolist()) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("mm", [0.3, 0.625, 0.7, 1.25])
def test_p_is_the_same_in_voxels_and_in_mm(mm: float) -> None:
    """Means of three seeds differ in their last digit, so equal differences are only nearly equal."""
    drawn = np.random.default_rng(5)
    first = np.sqrt(drawn.integers(1, 9, size=(19, 3))).mean(axis=1)
    voxels = [(float(a + d), float(a)) for a, d in zip(first, drawn.integers(-2, 4, 19) / 3, strict=True)]
    in_mm = [(a * mm, b * mm) for a, b in voxels]
    assert paired("x", "d", in_mm).p == paired("x", "d", voxels).p


def test_many_pairs_are_near_the_exact_p() -> None:
    """Up to 50 pairs, p is exact; beyond that it is approximate; without ties it equals scipy's."""
    from scipy.stats import wilcoxon

    fifty = np.random.default_rng(1).normal(0.2, 1, 50)
    assert p_of(fifty.tolist()) == pytest.approx(wilcoxon(fifty, method="exact").pvalue, abs=1e-12)
    more = [*fifty, 0.37]
    wanted = wilcoxon(more, correction=True).pvalue
    assert p_of(more) == pytest.approx(wanted, abs=1e-12)
    assert p_of(more) == pytest.approx(wilcoxon(more, method="exact").pvalue, rel=0.05)


def test_empty_predictions_of_both_sides_are_counted() -> None:
    empty = PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=True)
    mine = [replace(row, score=empty) if n < 2 else row for n, row in enumerate(rows(A, A))]
    theirs = [replace(row, score=empty) if n == 5 else row for n, row in enumerate(rows(B, A))]
    assert {(pair.missed, pair.against_missed) for pair in compare(mine, theirs)} == {(2, 1)}


def test_predictions_that_are_empty_like_the_truth_are_counted_apart() -> None:
    nothing = PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=False)
    invented = PaperScore(0.0, 0.0, math.inf, math.inf, optimistic=False)
    mine = [replace(row, score=nothing) if n < 2 else row for n, row in enumerate(rows(A, A))]
    theirs = [
        replace(row, score=(nothing, invented)[n]) if n < 2 else row for n, row in enumerate(rows(B, A))
    ]
    pairs = compare(mine, theirs)
    assert {(pair.both_empty, pair.against_both_empty) for pair in pairs} == {(2, 1)}
    assert {(pair.missed, pair.against_missed) for pair in pairs} == {(0, 0)}


def test_misses_of_the_clinical_protocol_are_counted_and_told() -> None:
    """The set that misses the difficult cases has the better distances."""
    hit = Score(0.9, 0.8, *[2.0] * 6, ((1.0, 0.9),), 3.0, 3.2, -0.2)
    miss = Score(0.0, 0.0, *[math.inf] * 6, ((1.0, 0.0),), 0.0, 3.2, -3.2)
    mine = [CaseScore(str(n), "organ", miss if n < 2 else hit) for n in range(6)]
    theirs = [CaseScore(str(n), "organ", hit) for n in range(6)]
    pairs = compare(mine, theirs)
    assert {(pair.missed, pair.against_missed) for pair in pairs} == {(2, 0)}
    said = empty_of_both(pairs)
    assert said is not None
    assert said.startswith(
        "organ: 2 of these predictions and 0 of the others were empty where the truth is not"
    )
    assert empty_of_both(compare(theirs, theirs)) is None


def test_volume_errors_are_compared_by_their_size() -> None:
    low, high = (Score(0.9, 0.8, *[2.0] * 6, ((1.0, 0.9),), 3.2 + e, 3.2, e) for e in (-0.5, 0.3))
    pairs = {
        p.metric: p
        for p in compare(
            [CaseScore(str(n), "organ", low) for n in range(6)],
            [CaseScore(str(n), "organ", high) for n in range(6)],
        )
    }
    assert "volume_error_ml" not in pairs
    assert pairs["volume_ml"].difference == pytest.approx(-0.8)
    assert pairs["absolute_error_ml"].difference == pytest.approx(0.2)


def test_a_miss_is_left_out_and_counted() -> None:
    asd = {
        p.metric: p for p in compare(rows(A, [1, 1, math.inf, 1, 1, 1]), rows(B, [2, 2, 2, 2, 2, math.nan]))
    }["asd_vox"]
    assert (asd.n, asd.left_out, asd.difference) == (4, 2, -1)


def test_no_pairs_have_no_numbers() -> None:
    found = paired("all", "hd95_vox", [])
    assert (found.n, found.left_out) == (0, 0)
    assert all(math.isnan(value) for value in (found.mean, found.against, found.difference, found.p))


def test_cases_are_paired_by_name() -> None:
    one, two = rows(A, A), list(reversed(rows(A, A)))[:4]
    (dice, *_) = compare(one, two)
    assert (dice.n, dice.difference) == (4, 0)
    assert compare(one, []) == ()


def test_rounding_in_one_direction_is_no_evidence() -> None:
    """A DICOM SEG and a NIfTI of the same masks differ so: by 2e-7 of a distance in each of 10 cases."""
    asd = [1.0 + n / 10 for n in range(10)]
    dice = [0.9] * 10
    pairs = {p.metric: p for p in compare(rows(dice, asd), rows(dice, [a * (1 + 2e-7) for a in asd]))}
    assert pairs["asd_vox"].p == 1
    moved = {p.metric: p for p in compare(rows(dice, asd), rows(dice, [a * 1.0001 for a in asd]))}
    assert moved["asd_vox"].p < 0.01


def test_one_case_gives_no_p_value() -> None:
    assert math.isnan(compare(rows([0.9], [1]), rows([0.8], [1]))[0].p)
    assert compare(rows([0.9, 0.8], [1, 1]), rows([0.8, 0.6], [1, 1]))[0].p == 0.5  # 2 of 4 ways to sign


def test_the_command_compares(tmp_path: Path) -> None:
    geometry = Geometry.build((12, 12, 12))
    for folder in ("a", "b", "truth"):
        (tmp_path / folder).mkdir()
    for n in range(3):
        mask = np.zeros(geometry.shape, np.uint8)
        mask[2:8, 2:8, 2 : 6 + n] = 1
        save(geometry.volume(mask), tmp_path / "truth" / f"{n}.nii.gz")
        save(geometry.volume(mask), tmp_path / "a" / f"{n}.nii.gz")
        save(geometry.volume(np.roll(mask, 1, axis=0)), tmp_path / "b" / f"{n}.nii.gz")
    words = [tmp_path / "a", tmp_path / "truth", "-o", tmp_path / "report", "--against", tmp_path / "b"]
    answer = run("evaluate", *words)
    assert answer.returncode == 0, answer.stderr
    assert "Wilcoxon p" in answer.stdout
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    dice = next(pair for pair in report["comparison"] if pair["metric"] == "dice")
    assert dice["mean"] == 1
    assert dice["against"] == pytest.approx(5 / 6)


def test_a_single_case_that_cannot_be_measured_is_an_error(tmp_path: Path) -> None:
    save(Geometry.build((4, 4, 4)).volume(np.ones((4, 4, 4), np.uint8)), tmp_path / "a.nii.gz")
    save(Geometry.build((4, 4, 4), (2, 2, 2)).volume(np.ones((4, 4, 4), np.uint8)), tmp_path / "t.nii.gz")
    words = ["evaluate", tmp_path / "a.nii.gz", tmp_path / "t.nii.gz", "-o", tmp_path / "r"]
    answer = run(*words)
    assert answer.returncode == 2
    assert answer.stderr.startswith("error: ")
    assert "grid" in answer.stderr
    assert list((tmp_path / "r").iterdir()) == []
