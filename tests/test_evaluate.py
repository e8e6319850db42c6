"""A folder against a folder: pairs, failures that stay visible, both protocols."""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c3s3_seg import evaluate as evaluate_module
from c3s3_seg.errors import InputError
from c3s3_seg.evaluate import Settings, evaluate
from c3s3_seg.io import Case, save
from c3s3_seg.metrics import PaperScore, Score, score, scores
from c3s3_seg.report.rows import Failure
from c3s3_seg.volume import Geometry, Volume
from c3s3_seg.workers import Died

GEOMETRY = Geometry.build((12, 10, 8), (0.5, 1.0, 2.0), (3.0, -4.0, 5.0))


def cube(start: int, stop: int, value: int = 1) -> Volume:
    array = np.zeros(GEOMETRY.shape, dtype=np.uint8)
    array[start:stop, 2:6, 2:5] = value
    return GEOMETRY.volume(array)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Two good pairs; predictions lie beside the JSON and CSV that predicting writes."""
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
    import c3s3_seg.evaluate as module

    def broken(prediction: Volume, truth: Volume, labels: Sequence[int], **_: object) -> dict[int, Score]:
        if prediction.array.sum() != cube(2, 7).array.sum():
            raise MemoryError("out of memory")
        return scores(prediction, truth, labels)

    monkeypatch.setattr(module, "scores", broken)
    result = evaluate(*folders)
    assert [row.case for row in result.rows] == ["a"]
    assert result.failures == (Failure("b", "MemoryError: out of memory"),)


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
    result = evaluate(*folders, Settings(labels={"atrium": 1}))
    assert {row.label for row in result.rows} == {"atrium"}


def test_paper_protocol_flatters_a_miss_and_counts_it(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    save(cube(0, 0), predictions / "b.nii.gz")
    result = evaluate(predictions, truth, out, Settings(protocol="paper"))
    assert result.rows[1].score == PaperScore(0.0, 0.0, 0.0, 0.0, flattered=True)
    assert result.cohorts[0].flattered == 1
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
        evaluate(*folders, Settings(labels=labels))


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


# --- options


def test_tolerances_and_the_area_form_become_columns(folders: tuple[Path, Path, Path]) -> None:
    result = evaluate(*folders, Settings(tolerances_mm=(0.5, 3.0), area_nsd=True))
    columns = list(result.rows[0].score.flat())
    assert [c for c in columns if c.startswith("nsd")] == [
        "nsd_0.5mm", "nsd_3mm", "nsd_area_0.5mm", "nsd_area_3mm",
    ]  # fmt: skip
    assert {"nsd", "nsd_area"} < set(report_of(folders[2])["definitions"])


def shifted_grid(folders: tuple[Path, Path, Path]) -> None:
    """Case b once more, drawn on a grid that begins one voxel earlier along i."""
    predictions, _, _ = folders
    array = np.roll(cube(2, 9).array, 1, axis=0)
    origin = GEOMETRY.to_mm((-1, 0, 0))
    save(Geometry.build(GEOMETRY.shape, GEOMETRY.spacing_mm, origin).volume(array), predictions / "b.nii.gz")


def test_another_grid_is_refused_unless_resampling_was_asked_for(folders: tuple[Path, Path, Path]) -> None:
    shifted_grid(folders)
    refused = evaluate(*folders)
    assert [failure.case for failure in refused.failures] == ["b"]
    assert refused.failures[0].reason.count("origin") == 2  # both grids are shown
    result = evaluate(*folders, Settings(resample=True))
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
        predictions, truth, out, Settings(workers=2), progress=lambda _, done, __: told.append(done)
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
    assert [row.case for row in result.rows] == ["a", "b.seg"]
    assert result.failures == ()
    images = truth.parent / "images"
    images.mkdir()
    for name in ("a", "b", "c"):
        save(cube(1, 9), images / f"{name}.nii.gz")
    scans = evaluate_module._scans([Case(row.case, predictions) for row in result.rows], images)
    assert {name: scans[name].name for name in ("a", "b.seg")} == {"a": "a.nii.gz", "b.seg": "b.nii.gz"}


def test_a_process_that_dies_is_a_failure_with_its_reason(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import c3s3_seg.evaluate as module

    def deadly(task: Any, items: Any, workers: int) -> Any:
        for number, item in enumerate(items):
            last = number == len(items) - 1 and task is module._try
            yield number, Died("the process was ended by SIGKILL") if last else task(item)

    monkeypatch.setattr(module, "each", deadly)
    result = evaluate(*folders, Settings(workers=2))
    assert [row.case for row in result.rows] == ["a"]
    assert result.failures == (Failure("b", "the process was ended by SIGKILL"),)


def test_the_command_with_every_option(folders: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = folders
    shifted_grid(folders)
    words = ["evaluate", predictions, truth, "-o", out, "--workers", "2", "--resample", "--area-nsd"]
    words += ["--tolerance", "0.5", "--tolerance", "3", "--html"]
    command = [sys.executable, "-m", "c3s3_seg", *map(str, words)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "report.html" in answer.stdout
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "NSD by area, 0.5 mm" in text
    assert "was resampled" in text
