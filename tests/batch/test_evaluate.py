"""Tests of a folder evaluated against a folder: pairs, failures that stay visible, both protocols."""

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from helpers.command import run

from c3s3_seg.batch import measure as measure_module
from c3s3_seg.batch.evaluate import EvaluationSettings, evaluate
from c3s3_seg.batch.measure import _without
from c3s3_seg.errors import MORE_MEMORY, NO_MEMORY, GeometryError, InputError, Told
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load_mask, save
from c3s3_seg.metrics.results import PaperScore, Score
from c3s3_seg.metrics.scoring import score, scores
from c3s3_seg.report.rows import Failure
from c3s3_seg.system.process_pool import Died

GEOMETRY = Geometry.build((12, 10, 8), (0.5, 1.0, 2.0), (3.0, -4.0, 5.0))


def test_quiet_prints_the_failures_alone(tmp_path: Path) -> None:
    for folder, name in (("masks", "a"), ("masks", "b"), ("truth", "a"), ("truth", "b")):
        (tmp_path / folder).mkdir(exist_ok=True)
        save(cube(2, 6), tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "masks" / "b.nii.gz").write_bytes(b"no mask")
    answer = run("evaluate", tmp_path / "masks", tmp_path / "truth", "-o", tmp_path / "out", "--quiet")
    assert (answer.returncode, answer.stdout) == (1, "")
    head, reason = answer.stderr.splitlines()
    assert head == "1 failed:"
    assert reason.startswith("  b: ")


def cube(start: int, stop: int, value: int = 1) -> Volume:
    array = np.zeros(GEOMETRY.shape, dtype=np.uint8)
    array[start:stop, 2:6, 2:5] = value
    return GEOMETRY.volume(array)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Write two good pairs, with the JSON and CSV of `predict` beside the predictions; return the folders."""
    predictions, truth = tmp_path / "predictions", tmp_path / "truth"
    for folder in (predictions, truth):
        folder.mkdir()
    for name, stop in (("a", 7), ("b", 9)):
        save(cube(2, stop), predictions / f"{name}.nii.gz")
        save(cube(2, 7), truth / f"{name}.nii.gz")
    for name in ("a.json", "summary.csv", "a.png"):
        (predictions / name).write_text("{}")
    return predictions, truth, tmp_path / "out" / "deep"


def report_of(out: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def test_two_good_pairs(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    lines: list[tuple[str, int, int]] = []
    result = evaluate(predictions, truth, out, progress=lambda *told: lines.append(told))
    assert [row.case for row in result.rows] == ["a", "b"]
    assert result.labels == (("label_1", 1),)
    assert result.failures == ()
    assert result.rows[0].score == score(cube(2, 7), cube(2, 7))
    assert result.rows[1].score == score(cube(2, 9), cube(2, 7))
    assert result.rows[0].diagonal_mm == pytest.approx(np.linalg.norm([5.5, 9, 14]))
    assert lines == [("a", 1, 2), ("b", 2, 2)]
    with result.csv_path.open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["a", "b"]
    report = report_of(out)
    assert report["failures"] == []
    assert report["cohorts"][0]["cases"] == 2


def test_bad_cases_fail_by_name_and_the_others_go_on(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    whole = (predictions / "a.nii.gz").read_bytes()
    (predictions / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    save(cube(2, 7), truth / "cut.nii.gz")
    save(Geometry.build((12, 10, 8)).volume(cube(2, 7).array), predictions / "grid.nii.gz")
    save(cube(2, 7), truth / "grid.nii.gz")
    save(cube(2, 7, 255), predictions / "white.nii.gz")
    save(cube(2, 7), truth / "white.nii.gz")
    save(cube(2, 7), predictions / "alone.nii.gz")
    save(cube(2, 7), truth / "missed.nii.gz")
    result = evaluate(predictions, truth, out)
    assert [row.case for row in result.rows] == ["a", "b"]
    reasons = {failure.case: failure.reason for failure in result.failures}
    assert set(reasons) == {"cut", "grid", "white", "alone", "missed"}
    assert "no truth" in reasons["alone"]
    assert "no prediction" in reasons["missed"]
    assert "255" in reasons["white"]
    assert "grid" in reasons["grid"]
    assert "cut.nii.gz" in reasons["cut"]
    assert {f["case"] for f in report_of(out)["failures"]} == set(reasons)


def test_an_error_nobody_thought_of_is_a_failure_too(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import c3s3_seg.batch.measure as module

    def broken(prediction: Volume, truth: Volume, labels: Sequence[int], **_: object) -> dict[int, Score]:
        if prediction.array.sum() != cube(2, 7).array.sum():
            raise MemoryError("out of memory")
        return scores(prediction, truth, labels)

    monkeypatch.setattr(module, "scores", broken)
    result = evaluate(*folders)
    assert [row.case for row in result.rows] == ["a"]
    assert result.failures == (Failure("b", f"{NO_MEMORY}: out of memory. {MORE_MEMORY}."),)


def test_all_labels_of_any_truth_are_measured_in_every_case(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    both = GEOMETRY.volume(cube(2, 5).array + cube(8, 10, 3).array)
    save(both, predictions / "b.nii.gz")
    save(both, truth / "b.nii.gz")
    result = evaluate(predictions, truth, out)
    found = {(row.case, row.label): row.score.dice for row in result.rows}
    assert found == {("a", "label_1"): 1, ("a", "label_3"): 1, ("b", "label_1"): 1, ("b", "label_3"): 1}
    assert [(c.label, c.of("hd95_mm").undefined) for c in result.cohorts] == [("label_1", 0), ("label_3", 1)]


def test_labels_by_name(folders: tuple[Path, Path, Path]) -> None:
    result = evaluate(*folders, EvaluationSettings(labels={"atrium": 1}))
    assert {row.label for row in result.rows} == {"atrium"}


def test_paper_protocol_flatters_a_miss_and_counts_it(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    save(cube(0, 0), predictions / "b.nii.gz")
    result = evaluate(predictions, truth, out, EvaluationSettings(protocol="paper"))
    assert result.rows[1].score == PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=True)
    assert result.cohorts[0].optimistic == 1
    assert result.cohorts[0].of("hd95_vox").mean == 0
    clinical = evaluate(predictions, truth, out)
    assert clinical.cohorts[0].of("hd95_mm").infinite == 1
    assert report_of(out)["protocol"]["name"] == "clinical"


def test_all_truths_empty_measures_label_1(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    for name in "ab":
        save(cube(0, 0), truth / f"{name}.nii.gz")
    result = evaluate(predictions, truth, out)
    assert result.labels == (("label_1", 1),)
    assert result.cohorts[0].of("hd95_mm").infinite == 2


def test_two_files(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    result = evaluate(predictions / "a.nii.gz", truth / "b.nii.gz", out)
    assert [row.score.dice for row in result.rows] == [1.0]
    assert result.failures == ()


def test_two_files_against_a_third_are_compared_whatever_their_names(
    folders: tuple[Path, Path, Path],
) -> None:
    """They were paired by name, so that nothing was compared."""
    predictions, truth, out = folders
    one, two = predictions / "a.nii.gz", predictions / "b.nii.gz"
    result = evaluate(one, truth / "a.nii.gz", out, against=two)
    dice = next(pair for pair in result.comparison if pair.metric == "dice")
    wanted = score(cube(2, 9), cube(2, 7)).dice
    assert (dice.n, dice.mean, dice.against, result.remarks) == (1, 1.0, wanted, ())


def test_predictions_of_one_truth_are_compared_whatever_their_names(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    predictions, truth, out = folders
    other = Path(shutil.copytree(predictions, tmp_path / "other"))
    for folder in (truth, other):
        (folder / "b.nii.gz").rename(folder / "b_gt.nii.gz")
    result = evaluate(predictions, truth, out, against=other)
    assert {(pair.n, pair.difference) for pair in result.comparison} == {(2, 0)}
    # Two predictions of one truth in a set: only equal names are a pair.
    save(cube(2, 7), other / "b.nii.gz")
    doubled = evaluate(predictions, truth, out, against=other)
    dice = next(pair for pair in doubled.comparison if pair.metric == "dice")
    assert (dice.n, dice.against) == (2, 1.0)


def test_the_report_may_go_beside_the_predictions_and_twice(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, _ = folders
    for _ in range(2):
        result = evaluate(predictions, truth, predictions)
        assert len(result.rows) == 2
        assert result.failures == ()


@pytest.mark.parametrize("labels", [{}, {"background": 0}])
def test_labels_that_make_no_sense_are_refused(
    folders: tuple[Path, Path, Path], labels: dict[str, int]
) -> None:
    with pytest.raises(InputError, match="labels"):
        evaluate(*folders, EvaluationSettings(labels=labels))


def test_an_output_folder_that_cannot_be_made_is_refused(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, _ = folders
    with pytest.raises(InputError, match="cannot be made"):
        evaluate(predictions, truth, predictions / "a.json")


def test_nothing_in_common_is_refused(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predictions, _, out = folders
    (tmp_path / "other").mkdir()
    save(cube(2, 7), tmp_path / "other" / "z.nii.gz")
    with pytest.raises(InputError, match="found no truth"):
        evaluate(predictions, tmp_path / "other", out)


def test_names_need_not_be_unicode(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    for folder in (predictions, truth):
        (folder / "a.nii.gz").rename(folder / os.fsdecode(b"\xff.nii.gz"))
    result = evaluate(predictions, truth, out, EvaluationSettings(html=True))
    names = [row.case for row in result.rows]
    assert [os.fsencode(name) for name in names] == [b"b", b"\xff"]
    assert [case["case"] for case in report_of(out)["cases"]] == names
    for name in ("cases.csv", "report.html"):
        assert "\\udcff" in (out / name).read_text(encoding="utf-8")


# --- options


def test_tolerances_and_the_area_form_become_columns(folders: tuple[Path, Path, Path]) -> None:
    result = evaluate(*folders, EvaluationSettings(tolerances_mm=(0.5, 3.0), area_nsd=True))
    columns = list(result.rows[0].score.flat())
    assert [c for c in columns if c.startswith("nsd")] == [
        "nsd_0.5mm", "nsd_3mm", "nsd_area_0.5mm", "nsd_area_3mm",
    ]  # fmt: skip
    assert {"nsd", "nsd_area"} < set(report_of(folders[2])["definitions"])


def shifted_grid(folders: tuple[Path, Path, Path]) -> None:
    """Write the prediction of case b again, on a grid that begins one voxel earlier along i."""
    predictions, _, _ = folders
    array = np.roll(cube(2, 9).array, 1, axis=0)
    origin = GEOMETRY.to_mm((-1, 0, 0))
    save(Geometry.build(GEOMETRY.shape, GEOMETRY.spacing_mm, origin).volume(array), predictions / "b.nii.gz")


def test_another_grid_is_refused_unless_resampling_was_asked_for(folders: tuple[Path, Path, Path]) -> None:
    shifted_grid(folders)
    refused = evaluate(*folders)
    assert [failure.case for failure in refused.failures] == ["b"]
    assert refused.failures[0].reason.count("origin") == 2  # both grids are shown
    result = evaluate(*folders, EvaluationSettings(resample=True))
    assert result.failures == ()
    assert result.rows[1].score == score(cube(2, 9), cube(2, 7))
    (note,) = report_of(folders[2])["notes"]
    assert note["case"] == "b"
    assert "resampled" in note["note"]


def test_two_processes_answer_as_one_does(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    (predictions / "bad.nii.gz").write_bytes(b"no image")
    save(cube(2, 7), truth / "bad.nii.gz")
    alone = evaluate(predictions, truth, out)
    told: list[int] = []
    together = evaluate(
        predictions, truth, out, EvaluationSettings(workers=2), progress=lambda _, done, __: told.append(done)
    )
    assert together.rows == alone.rows
    assert together.failures == alone.failures
    assert told == [1, 2, 3]


def test_labels_that_were_rounded_are_told(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    save(GEOMETRY.volume(cube(2, 7).array * np.float64(1.0000153)), truth / "a.nii.gz")
    result = evaluate(predictions, truth, out)
    assert result.rows[0].score == score(cube(2, 7), cube(2, 7))
    assert [note["case"] for note in report_of(out)["notes"]] == ["a"]
    assert result.rows[0].notes[0].startswith("truth: labels were rounded to whole numbers")
    save(GEOMETRY.volume(cube(2, 7).array * 0.8), predictions / "b.nii.gz")
    (failure,) = evaluate(predictions, truth, out).failures
    assert "all lie between 0 and 1, as in a map of probabilities" in failure.reason


def test_a_segmentation_of_3d_slicer_is_paired(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    save(cube(2, 7), truth / "a.seg.nrrd")
    (truth / "a.nii.gz").unlink()
    save(cube(2, 9), predictions / "b.seg.nrrd")
    (predictions / "b.nii.gz").unlink()
    result = evaluate(predictions, truth, out)
    assert [row.case for row in result.rows] == ["a", "b"]
    assert result.failures == ()
    images = truth.parent / "images"
    images.mkdir()
    for name in ("a", "b", "c"):
        save(cube(1, 9), images / f"{name}.nii.gz")
    scans = measure_module._scans([row.case for row in result.rows], images)
    assert {name: scans[name].name for name in ("a", "b")} == {"a": "a.nii.gz", "b": "b.nii.gz"}


def test_a_process_that_dies_is_a_failure_with_its_reason(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import c3s3_seg.batch.measure as module

    def deadly(task: Any, items: Any, workers: int) -> Any:
        for number, item in enumerate(items):
            last = number == len(items) - 1 and task is module._try
            yield number, Died("the process was ended by SIGKILL") if last else task(item)

    monkeypatch.setattr(module, "each", deadly)
    result = evaluate(*folders, EvaluationSettings(workers=2))
    assert [row.case for row in result.rows] == ["a"]
    assert result.failures == (Failure("b", "the process was ended by SIGKILL"),)


@pytest.mark.slow
def test_the_command_with_every_option(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    shifted_grid(folders)
    words = ["evaluate", predictions, truth, "-o", out, "--workers", "2", "--resample", "--area-nsd"]
    words += ["--tolerance", "0.5", "--tolerance", "3", "--html"]
    answer = run(*words)
    assert answer.returncode == 0, answer.stderr
    assert "report.html" in answer.stdout
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "NSD by area, 0.5 mm" in text
    assert "was resampled" in text
    assert "was removed" not in run(*words).stdout
    words.remove("--html")
    for said in (True, False):  # the second time there is no page any more
        answer = run(*words)
        assert ("report.html of an earlier evaluation was removed" in answer.stdout) is said
        assert not (out / "report.html").exists()


# --- labels over the whole set


def two_organs(one: int, two: int) -> Volume:
    return GEOMETRY.volume(cube(1, 5, one).array + cube(6, 10, two).array)


def test_a_case_without_a_label_in_common_is_dice_0_and_stays_in_the_means(
    folders: tuple[Path, Path, Path],
) -> None:
    """Three cases are right; in the fourth, one organ has the other's label: the mean is 0.75, not 1."""
    predictions, truth, out = folders
    for name, value, said in (("a", 1, 1), ("b", 2, 2), ("c", 1, 1), ("swapped", 1, 2)):
        save(cube(2, 7, value), truth / f"{name}.nii.gz")
        save(cube(2, 7, said), predictions / f"{name}.nii.gz")
    result = evaluate(predictions, truth, out, EvaluationSettings(labels={"one": 1}))
    assert result.failures == ()
    (cohort,) = result.cohorts
    assert (cohort.cases, cohort.of("dice").mean) == (4, 0.75)
    assert (cohort.of("hd95_mm").infinite, cohort.of("hd95_mm").undefined) == (1, 1)
    assert cohort.worst_cases[0] == "swapped"
    one, two = evaluate(predictions, truth, out).cohorts
    assert (one.of("dice").mean, two.of("dice").mean) == (0.75, 0.75)
    assert (two.of("hd95_mm").infinite, two.of("hd95_mm").undefined) == (1, 2)


@pytest.mark.parametrize("values", [(255, 1), (1, 255), (2, 1)])
@pytest.mark.parametrize(
    "settings",
    [EvaluationSettings(), EvaluationSettings(labels={"organ": 1}), EvaluationSettings(protocol="paper")],
)
def test_a_set_without_a_label_in_common_is_mixed_up(
    folders: tuple[Path, Path, Path], values: tuple[int, int], settings: EvaluationSettings
) -> None:
    predictions, truth, out = folders
    for name in "ab":
        save(cube(2, 7, values[0]), predictions / f"{name}.nii.gz")
        save(cube(2, 7, values[1]), truth / f"{name}.nii.gz")
    with pytest.raises(InputError, match=rf"no prediction has a label in common .* hold {values[0]}"):
        evaluate(predictions, truth, out, settings)
    with pytest.raises(InputError, match="no prediction has a label in common"):
        evaluate(predictions / "a.nii.gz", truth / "a.nii.gz", out, settings)


def test_labels_that_no_mask_holds_are_refused(folders: tuple[Path, Path, Path]) -> None:
    with pytest.raises(InputError, match=r"asked for 3 \(liver\), which no mask holds"):
        evaluate(*folders, EvaluationSettings(labels={"liver": 3}))


def test_empty_predictions_are_a_miss_and_no_mixup(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    for name in "ab":
        save(cube(0, 0), predictions / f"{name}.nii.gz")
    result = evaluate(predictions, truth, out)
    assert result.cohorts[0].of("dice").mean == 0
    assert result.cohorts[0].of("hd95_mm").infinite == 2


def test_all_truths_empty_measures_what_was_predicted(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    for name in "ab":
        save(cube(2, 7, 4), predictions / f"{name}.nii.gz")
        save(cube(0, 0), truth / f"{name}.nii.gz")
    result = evaluate(predictions, truth, out)
    assert result.labels == (("label_4", 4),)
    assert result.cohorts[0].of("dice").mean == 0


def test_a_label_that_no_truth_has_is_reported(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    save(two_organs(1, 7), predictions / "b.nii.gz")
    result = evaluate(predictions, truth, out, against=predictions)
    assert result.labels == (("label_1", 1),)
    assert result.remarks[0] == "no truth has the label 7, and the predictions of b do: not measured"
    assert result.remarks[1].endswith("(against)")
    assert report_of(out)["remarks"] == list(result.remarks)
    asked = evaluate(predictions, truth, out, EvaluationSettings(labels={"one": 1, "seven": 7, "nine": 9}))
    assert asked.remarks == (
        "no truth has the label 7 (seven), and the predictions of b do: Dice 0 there",
        "no mask has the label 9 (nine): both masks are empty in every case",
    )
    assert evaluate(truth, predictions, out).remarks == ()


def test_a_label_that_no_truth_has_is_said_in_the_terminal(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    save(two_organs(1, 7), predictions / "b.nii.gz")
    answer = command(predictions, truth, "-o", out, "--html")
    assert answer.returncode == 0, answer.stderr
    assert "Note: no truth has the label 7" in answer.stdout
    assert "no truth has the label 7" in (out / "report.html").read_text(encoding="utf-8")
    named = command(predictions, truth, "-o", out, "--labels", "organ=1,other=7")
    assert named.returncode == 0, named.stderr
    assert "organ" in named.stdout
    assert "Dice 0 there" in named.stdout
    refused = command(predictions, truth, "-o", out, "--labels", "organ=x")
    assert refused.returncode == 2
    assert "NAME=VALUE" in refused.stderr


def test_a_truth_of_0_and_255_among_others_fails_and_adds_no_label(
    folders: tuple[Path, Path, Path],
) -> None:
    predictions, truth, out = folders
    save(cube(2, 7, 255), truth / "b.nii.gz")
    result = evaluate(predictions, truth, out)
    assert result.labels == (("label_1", 1),)
    assert [row.case for row in result.rows] == ["a"]
    assert "255" in result.failures[0].reason
    for name in "ab":  # 255 as one of the labels is a label
        save(two_organs(1, 255), truth / f"{name}.nii.gz")
    assert evaluate(predictions, truth, out).labels == (("label_1", 1), ("label_255", 255))


# --- aggregates by hand


def box(*ends: tuple[int, int], value: int = 1) -> np.ndarray:
    array = np.zeros((10, 10, 10), dtype=np.uint8)
    array[tuple(slice(a, b) for a, b in ends)] = value
    return array


def test_aggregates_by_hand(tmp_path: Path) -> None:
    """Two labels occur in four cases on 1 x 1 x 2 mm voxels; the diagonal is the root of 9² + 9² + 18².

    Label 1: equal in `hit`; 2 x 2 x 2 voxels in 4 x 2 x 2 in `half`, Dice 2 * 8 / 24; else not predicted.
    Label 2: equal in `hit` and `missed`; absent from both in `half`; predicted but absent in `swapped`.
    """
    grid = Geometry.build((10, 10, 10), (1, 1, 2))
    small, long, other = box((2, 4), (2, 4), (2, 4)), box((2, 6), (2, 4), (2, 4)), box((7, 9), (7, 9), (7, 9))
    cases = {
        "hit": (small + 2 * other, small + 2 * other),
        "half": (small, long),
        "swapped": (2 * small, small),
        "missed": (2 * other, small + 2 * other),
    }
    for name, pair in cases.items():
        for side, array in zip(("p", "t"), pair, strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            save(grid.volume(array), tmp_path / side / f"{name}.nii.gz")
    diagonal = 486**0.5
    result = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out")
    one, two = result.cohorts
    assert one.of("dice").mean == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    assert one.of("jaccard").mean == pytest.approx((1 + 1 / 2 + 0 + 0) / 4)
    assert one.of("dice").median == pytest.approx(1 / 3)
    # The far end of the long box is 2 mm from the small one, its third plane 1 mm: of the 8 + 16 distances
    # 4 are 2, 4 are 1 and 16 are 0, so the 95th percentile is 2; from the prediction's side all are 0.
    hd95, asd, assd = (one.of(f"{name}_mm") for name in ("hd95", "asd", "assd"))
    assert [(s.n, s.infinite, s.undefined) for s in (hd95, asd, assd)] == [(4, 2, 0)] * 3
    assert hd95.mean == pytest.approx((0 + 2) / 2)
    assert asd.mean == 0
    assert assd.mean == pytest.approx((0 + (4 * 2 + 4 * 1) / 24) / 2)
    assert hd95.mean_penalised == pytest.approx((0 + 2 + 2 * diagonal) / 4)
    assert one.of("nsd_1mm").mean == pytest.approx((1 + 20 / 24 + 0 + 0) / 4)
    assert one.of("volume_error_ml").mean == pytest.approx(-(0 + 8 + 8 + 8) * 0.002 / 4)
    assert two.of("dice").mean == pytest.approx((1 + 1 + 0 + 1) / 4)
    far = two.of("hd95_mm")
    assert (far.n, far.infinite, far.undefined, far.mean) == (4, 1, 1, 0)
    assert far.mean_penalised == pytest.approx((0 + diagonal + 0) / 3)
    assert (two.of("nsd_1mm").mean, two.of("nsd_1mm").undefined) == (pytest.approx((1 + 0 + 1) / 3), 1)

    paper = evaluate(tmp_path / "p", tmp_path / "t", tmp_path / "out", EvaluationSettings(protocol="paper"))
    one, two = paper.cohorts
    # Distances are in voxels. An empty prediction counts as 0 in every column: `swapped` and `missed` of
    # label 1, and `half` of label 2, where the truth is empty too and nothing was missed.
    assert [(c.optimistic, c.both_empty) for c in (one, two)] == [(2, 0), (0, 1)]
    assert one.of("dice").mean == pytest.approx((1 + 2 / 3 + 0 + 0) / 4)
    assert one.of("hd95_vox").mean == pytest.approx((0 + 2 + 0 + 0) / 4)
    assert (one.of("hd95_vox").infinite, one.of("asd_vox").mean) == (0, 0)
    assert two.of("dice").mean == pytest.approx((1 + 0 + 0 + 1) / 4)
    far = two.of("hd95_vox")
    assert (far.infinite, far.mean) == (1, 0)
    voxels = math.dist((0, 0, 0), [n - 1 for n in load_mask(tmp_path / "t" / "half.nii.gz").geometry.shape])
    assert far.mean_penalised == pytest.approx((0 + voxels + 0 + 0) / 4)
    assert one.of("hd95_vox").mean_penalised == pytest.approx((0 + 2 + voxels + voxels) / 4)  # misses
    assert one.of("dice").mean_penalised == one.of("dice").mean

    written = report_of(tmp_path / "out")["cohorts"]
    assert [(c["optimistic"], c["both_empty"]) for c in written] == [(2, 0), (0, 1)]
    assert written[1]["metrics"]["hd95_vox"]["infinite"] == 1

    answer = command(tmp_path / "p", tmp_path / "t", "-o", tmp_path / "out")
    means = [line.split() for line in answer.stdout.splitlines() if "mean of 4" in line]
    assert [line[3:5] for line in means] == [["label_1", "0.4167"], ["label_2", "0.7500"]]
    assert "(2 inf)" in answer.stdout
    assert "(1 inf, 1 nan)" in answer.stdout


def command(*words: object) -> "CompletedProcess[str]":
    return run("evaluate", *words, COLUMNS="200")


# --- scans in place of masks, and files without a partner


def test_scans_in_either_argument_are_refused_early(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predictions, truth, out = folders
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in "ab":
        noise = np.random.default_rng(0).integers(0, 255, GEOMETRY.shape).astype(np.uint8)
        save(GEOMETRY.volume(noise), scans / f"{name}.nii.gz")
    single = (predictions / "a.nii.gz", scans / "b.nii.gz")
    for one, other in ((predictions, scans), (scans, truth), single):
        with pytest.raises(InputError, match=r"[ab]\.nii\.gz: this looks like a scan"):
            evaluate(one, other, out)
    with pytest.raises(InputError, match="this looks like a scan"):
        evaluate(predictions, truth, out, against=scans)
    (scans / "a.nii.gz").rename(scans / "a_0000.nii.gz")
    (scans / "b.nii.gz").rename(scans / "b_0000.nii.gz")
    with pytest.raises(InputError, match=r"_0000\.nii\.gz: this looks like a scan"):
        evaluate(predictions, scans, out)
    (scans / "a_0000.nii.gz").rename(scans / "a.nii.gz")
    (scans / "b_0000.nii.gz").rename(scans / "b.nii.gz")
    answer = command(predictions, scans, "-o", out)
    assert answer.returncode == 2
    assert "looks like a scan" in answer.stderr


def test_one_scan_among_the_truths_is_a_case_that_fails(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    noise = np.random.default_rng(0).normal(0, 100, GEOMETRY.shape).astype(np.float32)
    save(GEOMETRY.volume(noise), truth / "a.nii.gz")
    result = evaluate(predictions, truth, out)
    assert [row.case for row in result.rows] == ["b"]
    assert "looks like a scan" in result.failures[0].reason


def test_104_structures_are_measured(tmp_path: Path) -> None:
    grid = Geometry.build((24, 24, 12))
    array = np.zeros(grid.shape, dtype=np.uint8)
    for n in range(104):
        i, j, k = n % 6, n // 6 % 6, n // 36
        array[i * 4 : i * 4 + 3, j * 4 : j * 4 + 3, k * 4 : k * 4 + 3] = n + 1
    for side in "pt":
        save(grid.volume(array), tmp_path / f"{side}.nii.gz")
    result = evaluate(tmp_path / "p.nii.gz", tmp_path / "t.nii.gz", tmp_path / "out")
    assert len(result.rows) == 104
    assert all(row.score.dice == 1 for row in result.rows)


def test_a_folder_against_itself_is_called_that(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    with pytest.raises(InputError, match=r"\(--against\) and the truth are the same\. Give other pred"):
        evaluate(predictions, truth, out, against=truth)
    assert not out.exists()
    with pytest.raises(InputError, match="predictions and truth are the same folder"):
        evaluate(predictions, predictions, out)
    with pytest.raises(InputError, match="the prediction and the truth are the same file"):
        evaluate(predictions / "a.nii.gz", predictions / "a.nii.gz", out)


def test_a_truth_that_is_a_link_to_the_prediction_is_named(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    (truth / "a.nii.gz").unlink()
    (truth / "a.nii.gz").symlink_to(predictions / "a.nii.gz")
    (failure,) = evaluate(predictions, truth, out).failures
    assert (failure.case, "is the prediction itself" in failure.reason) == ("a", True)


def test_two_masks_of_one_case_are_called_that(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    save(cube(2, 7), predictions / "a.nrrd")
    with pytest.raises(InputError, match=r"found 2 masks for the case 'a': a\.nii\.gz, a\.nrrd; wanted one"):
        evaluate(predictions, truth, out)
    (predictions / "a.nrrd").rename(truth / "a_gt.nrrd")
    with pytest.raises(InputError, match=r"case 'a' has several truths: a\.nii\.gz, a_gt\.nrrd; wanted one"):
        evaluate(predictions, truth, out)


def test_names_that_pair_with_nothing_are_listed(folders: tuple[Path, Path, Path], tmp_path: Path) -> None:
    predictions, _, out = folders
    (tmp_path / "other").mkdir()
    save(cube(2, 7), tmp_path / "other" / "z.nii.gz")
    words = rf"found no truth for any of 2 predictions in {predictions} \(a, b\) among the masks z"
    with pytest.raises(InputError, match=words):
        evaluate(predictions, tmp_path / "other", out)


def test_truths_may_lie_beside_their_predictions(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    for name in ("a", "a_gt", "b", "b_gt", "c"):
        save(cube(2, 7), tmp_path / "masks" / f"{name}.nii.gz")
    result = evaluate(tmp_path / "masks", tmp_path / "masks", tmp_path / "out")
    assert [row.case for row in result.rows] == ["a", "b"]
    assert [failure.case for failure in result.failures] == ["c"]


def test_what_3d_slicer_calls_a_mask_pairs(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    (truth / "a.nii.gz").unlink()
    save(cube(2, 7), truth / "a.seg.nrrd")
    assert evaluate(predictions, truth, out).failures == ()


def test_a_scan_beside_its_truth_is_passed_over(folders: tuple[Path, Path, Path]) -> None:
    """3D Slicer stores x.seg.nrrd beside x.nii.gz; public data sets store y_gt.nii.gz beside y.nii.gz."""
    predictions, truth, out = folders
    noise = np.random.default_rng(0).integers(0, 999, GEOMETRY.shape).astype(np.int16)
    for name, mask in (("a", "a.seg.nrrd"), ("b", "b_gt.nii.gz")):
        save(GEOMETRY.volume(noise), truth / f"{name}.nii.gz")
        save(cube(2, 7), truth / mask)
    result = evaluate(predictions, truth, out)
    assert [row.case for row in result.rows] == ["a", "b"]
    assert result.rows[0].score.dice == 1
    assert [failure.case for failure in result.failures] == ["b"]


def beside(
    folder: Path, case: str, labels: dict[str, int], model: str = "hippocampus", **made_with: Any
) -> None:
    """Write the JSON that `predict` writes beside a mask."""
    facts = {"c3s3_seg": "0", "case": case, "labels": labels, "made_with": {"bundle": model, **made_with}}
    (folder / f"{case}.json").write_text(json.dumps(facts))


def test_labels_and_model_are_named_as_the_json_beside_the_masks(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    for name in "ab":
        save(two_organs(1, 2), predictions / f"{name}.nii.gz")
        save(two_organs(1, 2), truth / f"{name}.nii.gz")
        beside(predictions, name, {"anterior": 1, "posterior": 2})
    result = evaluate(predictions, truth, out)
    assert result.labels == (("anterior", 1), ("posterior", 2))
    assert result.remarks == ("the predictions are those of the model hippocampus",)
    answer = command(predictions, truth, "-o", out)
    assert "Labels: anterior = 1, posterior = 2." in answer.stdout
    assert "model hippocampus" in answer.stdout
    assert command(predictions, truth, "-o", out, "--labels", "head=1").stdout.count("head = 1.") == 1
    beside(predictions, "b", {"head": 1, "posterior": 2}, "another")  # two models in one folder
    result = evaluate(predictions, truth, out)
    assert result.labels == (("label_1", 1), ("posterior", 2))
    several = "the predictions are those of several models, or of one with several settings"
    assert result.remarks == (f"{several}: hippocampus (1), another (1)",)
    beside(predictions, "b", {"anterior": 1, "posterior": 2}, weights_sha256={"model.safetensors": "other"})
    assert evaluate(predictions, truth, out).remarks == (f"{several}: hippocampus (1), hippocampus (1)",)
    (predictions / "b.json").unlink()
    remark = "1 of the 2 predictions are those of the model hippocampus"
    assert evaluate(predictions, truth, out).remarks == (remark,)


def test_predictions_given_as_references_are_named(folders: tuple[Path, Path, Path]) -> None:
    """The scores of the two sides are alike, but volume errors have the other sign."""
    predictions, truth, out = folders
    for name in "ab":
        save(cube(2, 7), predictions / f"{name}.nii.gz")
        save(cube(2, 7), truth / f"{name}.nii.gz")
        beside(predictions, name, {"heart": 1})
    swapped = "the references are predictions of the model hippocampus, or corrections of them"
    remarks = evaluate(truth, predictions, out).remarks
    assert remarks == (f"{swapped}; predictions are given first, references second",)
    for name in "ab":
        beside(truth, name, {"heart": 1}, "another")
    remarks = evaluate(truth, predictions, out).remarks
    assert remarks == ("the predictions are those of the model another", swapped)


def test_the_only_pair_that_fails_does_not_hide_missing_predictions(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    (predictions / "b.nii.gz").unlink()
    save(Geometry.build((5, 5, 5), (1, 1, 1)).volume(np.ones((5, 5, 5), np.uint8)), predictions / "a.nii.gz")
    result = evaluate(predictions, truth, out)
    assert sorted(failure.case for failure in result.failures) == ["a", "b"]
    (truth / "b.nii.gz").unlink()
    with pytest.raises(GeometryError):
        evaluate(predictions, truth, out)


def test_a_reference_that_neither_set_predicts_is_told_once(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    other = predictions.with_name("other")
    other.mkdir()
    for name in "abcd":
        save(cube(2, 7), truth / f"{name}.nii.gz")
    for name in "ab":
        save(cube(2, 7), predictions / f"{name}.nii.gz")
    save(cube(2, 7), other / "a.nii.gz")
    for folder in (predictions, other):  # two files, each without a reference
        save(cube(2, 7), folder / "z.nii.gz")
    result = evaluate(predictions, truth, out, against=other)
    assert [f.case for f in result.failures] == ["z", "c", "d", "z (against)", "b (against)"]


@pytest.mark.parametrize(
    "content",
    ["{}", "[]", "{", '{"c3s3_seg": "0", "labels": ["a"]}', '{"c3s3_seg": "0", "labels": {"a": []}}'],
)
def test_a_json_that_is_none_of_ours_names_nothing(folders: tuple[Path, Path, Path], content: str) -> None:
    predictions, truth, out = folders
    (predictions / "a.json").write_text(content)
    result = evaluate(predictions, truth, out)
    assert (result.labels, result.remarks) == ((("label_1", 1),), ())


def test_json_lines_and_quiet(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    (predictions / "b.nii.gz").write_bytes(b"no mask")
    answer = command(predictions, truth, "-o", out, "--json", "--labels", "atrium=1")
    assert answer.returncode == 1
    start, score_line, failed, mean, end = map(json.loads, answer.stdout.splitlines())
    assert (start["event"], start["protocol"]) == ("start", "clinical")
    assert (end["event"], end["cases"], end["failed"], end["exit_code"]) == ("end", 1, 1, 1)
    assert all(line["time"].endswith("Z") for line in (start, score_line, failed, mean, end))
    assert (score_line["event"], score_line["case"], score_line["label"]) == ("score", "a", "atrium")
    assert score_line["dice"] == 1.0
    assert (failed["event"], failed["case"]) == ("failed", "b")
    assert failed["reason"]
    assert (mean["event"], mean["label"], mean["cases"], mean["dice"]) == ("mean", "atrium", 1, 1.0)
    assert [mean[key] for key in ("infinite", "optimistic", "both_empty")] == [0, 0, 0]
    paper = command(predictions, truth, "-o", out, "--json", "--labels", "atrium=1", "--protocol", "paper")
    assert json.loads(paper.stdout.splitlines()[3])["hd95_vox"] == 0.0
    save(cube(2, 2), predictions / "b.nii.gz")  # a miss
    missed = command(predictions, truth, "-o", out, "--json", "--labels", "atrium=1")
    mean = json.loads(missed.stdout.splitlines()[3])
    assert (mean["cases"], mean["infinite"], mean["dice"], mean["hd95_mm"]) == (2, 1, 0.5, 0.0)
    (predictions / "b.nii.gz").write_bytes(b"no mask")
    quiet = command(predictions, truth, "-o", out, "--quiet")
    assert (quiet.returncode, quiet.stdout) == (1, "")
    assert (out / "report.json").is_file()


def test_a_protocol_that_is_none_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(InputError, match="there is no protocol 'x'; wanted clinical, paper"):
        EvaluationSettings(protocol="x")  # type: ignore[arg-type]


def test_the_name_of_a_dicom_file_is_left_out_and_those_that_begin_like_it_stay(tmp_path: Path) -> None:
    """Of the files 1 and 10 of a folder, the second was recorded as the folder's name and a 0."""
    one, ten = tmp_path / "a" / "1", tmp_path / "b" / "10"
    reason = Told(f"{tmp_path}/a/1: found 2, see {tmp_path}/a/10 and {tmp_path}/a/1.x, {tmp_path}/b/10.")
    assert _without(reason, (one, ten)) == (
        f"{tmp_path}/a: found 2, see {tmp_path}/a/10 and {tmp_path}/a/1.x, {tmp_path}/b."
    )


def test_masks_whose_json_numbers_the_labels_differently_are_refused(
    folders: tuple[Path, Path, Path],
) -> None:
    predictions, truth, out = folders
    other = predictions.with_name("other")
    other.mkdir()
    for folder in (predictions, truth, other):
        for name in "ab":
            save(two_organs(1, 2), folder / f"{name}.nii.gz")
            beside(folder, name, {"anterior": 1, "posterior": 2})
    assert evaluate(predictions, truth, out, against=other).failures == ()
    for wrong, against in ((predictions, None), (truth, None), (other, other)):
        beside(wrong, "b", {"Anterior": 2, "posterior": 1})
        with pytest.raises(InputError, match=r"has the value 2 here and 1 in .*Give both the same values"):
            evaluate(predictions, truth, out, against=against)
        assert evaluate(
            predictions, truth, out, EvaluationSettings(labels={"x": 1}), against=against
        ).labels == (("x", 1),)
        beside(wrong, "b", {"anterior": 1, "posterior": 2})
