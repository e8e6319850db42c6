"""What `evaluate` says of masks without a scan, without a partner, resampled, or alone; and what it keeps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import run

from c3s3_seg.batch import evaluate as evaluate_module
from c3s3_seg.batch import measure as measure_module
from c3s3_seg.batch.evaluate import EvaluationSettings, evaluate
from c3s3_seg.commands.console import Stopped
from c3s3_seg.errors import DefectError, InputError, MemoryLimitError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import save

GEOMETRY = Geometry.build((12, 10, 8), (0.5, 1.0, 2.0), (3.0, -4.0, 5.0))


def cube(stop: int, geometry: Geometry = GEOMETRY) -> Volume:
    array = np.zeros(geometry.shape, dtype=np.uint8)
    array[2:stop, 2:6, 2:5] = 1
    return geometry.volume(array)


def masks(folder: Path, *names: str, stop: int = 7) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        save(cube(stop), folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Write the masks and references of three cases; return their folders and one for the report."""
    names = ("a", "b", "c")
    return masks(tmp_path / "masks", *names, stop=8), masks(tmp_path / "truth", *names), tmp_path / "out"


def scans(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        save(
            GEOMETRY.volume(np.arange(960, dtype=np.int16).reshape(GEOMETRY.shape)), folder / f"{name}.nii.gz"
        )
    return folder


def scans_of(sets: tuple[Path, Path, Path], images: Path) -> dict[str, str | None]:
    found = measure_module.measure_set(*sets[:2], EvaluationSettings(images=images), None)
    return {case.case: case.scan and case.scan.name for case in found.files}


def test_scans_may_have_the_names_of_nnunet(sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    images = scans(tmp_path / "images", "a_0000", "b_0000", "b", "c_0000")
    expected = {"a": "a_0000.nii.gz", "b": "b.nii.gz", "c": "c_0000.nii.gz"}  # an equal name comes first
    assert scans_of(sets, images) == expected


def test_masks_without_a_scan_are_listed(sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    images = scans(tmp_path / "images", "b", "other")
    remarks = evaluate(*sets, EvaluationSettings(images=images)).remarks
    assert "no scan among the images has the name of these masks: a, c" in remarks


def test_images_that_fit_no_mask_are_refused(sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    images = scans(tmp_path / "images", "x", "y")
    with pytest.raises(InputError, match="no scan here has the name of a mask; the masks are a, b, c"):
        evaluate(*sets, EvaluationSettings(images=images))


def test_masks_of_the_second_set_have_the_scan_of_their_reference(
    sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    predictions, truth, _ = sets
    for name in ("a", "b", "c"):
        (truth / f"{name}.nii.gz").rename(truth / f"{name}_seg.nii.gz")
    settings = EvaluationSettings(images=scans(tmp_path / "images", "a", "b", "c"))
    first = measure_module.measure_set(predictions, truth, settings, None)
    other = masks(tmp_path / "other", "a_seg", "b_seg", "c_seg")
    found = measure_module.measure_set(other, truth, settings, None, first)
    assert [case.scan and case.scan.name for case in found.files] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert [case.case for case in found.files] == ["a_seg", "b_seg", "c_seg"]


def test_one_bad_mask_of_the_second_set_costs_its_case_alone(
    sets: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.nii.gz").write_bytes(b"no mask")
    result = evaluate(*sets, against=other)
    assert len(result.rows) == 3
    assert "a (against)" in {failure.case for failure in result.failures}
    assert "no case was measured in both sets: nothing is compared" in result.remarks


def test_cases_of_one_set_alone_are_listed(sets: tuple[Path, Path, Path], tmp_path: Path) -> None:
    other = masks(tmp_path / "other", "b")
    remarks = evaluate(*sets, against=other).remarks
    assert "measured in the set 'predictions' alone, and not compared: a, c" in remarks


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [(ValueError("odd"), DefectError, 4), (MemoryError("Unable to allocate"), MemoryLimitError, 2)],
)
def test_the_only_case_decides_the_exit_code(
    sets: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(measure_module, "_scores", fail)
    predictions, truth, out = sets
    one = (predictions / "a.nii.gz", truth / "a.nii.gz", out)
    with pytest.raises(kind):
        evaluate(*one)
    assert not (out / "cases.csv").exists()
    answer = run("evaluate", *one[:2], "-o", out)
    assert answer.returncode == code, answer.stderr
    several = evaluate(*sets)
    assert [failure.case for failure in several.failures] == ["a", "b", "c"]


def test_scores_are_kept_if_the_page_is_not_finished(
    sets: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(*sets, EvaluationSettings(html=True))
    out = sets[2]
    (out / "cases.csv").unlink()

    def stop(*_: Any) -> None:
        raise Stopped(15)

    monkeypatch.setattr(evaluate_module, "_write_page", stop)
    with pytest.raises(Stopped, match="stopped by SIGTERM") as stopped:
        evaluate(*sets, EvaluationSettings(html=True))
    assert stopped.value.todo == "the same command begins anew"
    assert json.loads((out / "report.json").read_text())["cases"]
    assert (out / "cases.csv").read_text().count("\n") == 4
    assert not (out / "report.html").exists()  # that of the earlier run


def test_the_terminal_says_what_resampling_lost(sets: tuple[Path, Path, Path]) -> None:
    predictions, truth, out = sets
    far = Geometry.build(GEOMETRY.shape, (0.5, 1.0, 2.0), (303.0, -4.0, 5.0))
    for name in ("a", "b"):
        save(cube(8, far), predictions / f"{name}.nii.gz")
    answer = run("evaluate", predictions, truth, "-o", out, "--resample", COLUMNS="200")
    assert answer.returncode == 0, answer.stderr
    said = [line for line in answer.stdout.splitlines() if line.startswith("Note: ")]
    assert len(said) == 2
    assert all("72 of its 72 labelled voxels lie outside and are left out" in line for line in said)
    lines = run("evaluate", predictions, truth, "-o", out, "--resample", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert [event["case"] for event in events if event["event"] == "note"] == ["a", "b"]


def test_a_miss_of_the_only_case_is_marked_in_the_protocol_of_the_paper(
    sets: tuple[Path, Path, Path],
) -> None:
    predictions, truth, out = sets
    save(GEOMETRY.volume(np.zeros(GEOMETRY.shape, dtype=np.uint8)), predictions / "a.nii.gz")
    one = (predictions / "a.nii.gz", truth / "a.nii.gz", "-o", out)
    assert "label_1: 1 empty, counted as 0" in run("evaluate", *one, "--protocol", "paper").stdout
    assert "counted as 0" not in run("evaluate", *one).stdout


def test_the_page_counts_labels_apart_from_cases(tmp_path: Path) -> None:
    array = np.arange(960, dtype=np.uint16).reshape(GEOMETRY.shape) // 40  # labels 1 to 23
    for name in ("masks", "truth"):
        (tmp_path / name).mkdir()
        save(GEOMETRY.volume(array), tmp_path / name / "a.nii.gz")
    evaluate(tmp_path / "masks", tmp_path / "truth", tmp_path / "out", EvaluationSettings(html=True))
    assert "The 20 worst of 23 labels in 1 case, one by one" in (tmp_path / "out" / "report.html").read_text()


def test_a_value_of_a_label_has_16_bits(sets: tuple[Path, Path, Path]) -> None:
    answer = run("evaluate", *sets[:2], "-o", sets[2], "--labels", "a=70000")
    assert answer.returncode == 2
    assert "wanted NAME=VALUE, VALUE from 1 to 65535" in answer.stderr
