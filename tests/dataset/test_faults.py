"""Tests of the faults that make a case unfit for training, and that training refuses such a case."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Intensity, Recipe
from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.dataset.check.case_faults import mask_defect, refuse_defects, scan_defect, values_in
from c3s3_seg.errors import C3S3Error, InputError
from c3s3_seg.geometry.volume import Array, Geometry, Volume
from c3s3_seg.io import save

GRID = Geometry.build((8, 7, 6))
TASK = Task("balls", "MR", (Label("ball", 1),), Recipe((1.0, 1.0, 1.0)), (8, 8, 8))


def mask(*values: int, dtype: type = np.uint8) -> Volume:
    array = np.zeros(GRID.shape, dtype)
    array.flat[: len(values)] = values
    return GRID.volume(array)


def noise() -> Array:
    return np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)


def test_a_good_case_has_no_fault() -> None:
    assert scan_defect(GRID.volume(noise())) is None
    assert mask_defect(mask(1, 3), {"a": 1, "b": 3}) is None
    assert mask_defect(mask(5), {}) is None  # without named labels, any value is allowed
    assert mask_defect(mask(), {"a": 1}, required=False) is None


@pytest.mark.parametrize(
    ("found", "labels", "check", "words"),
    [
        (mask(), {"a": 1}, "mask-empty", "empty"),
        (mask(), {}, "mask-empty", "empty"),
        (mask(1, 4, 9), {"a": 1}, "mask-values", "values 4, 9"),
        (mask(2), {"a": 1}, "mask-values", "the value 2"),
        (mask(*range(2, 9)), {"a": 1}, "mask-values", "2, 3, 4, 5, 6 and 2 more"),
        (mask(70_000, dtype=np.int32), {"a": 1}, "mask-values", "70000"),
    ],
)
def test_a_bad_mask(found: Volume, labels: dict[str, int], check: str, words: str) -> None:
    defect = mask_defect(found, labels)
    assert defect is not None
    assert defect.check == check
    assert words in defect.found


def test_a_mask_of_0_and_255_is_told_how_to_be_mended() -> None:
    defect = mask_defect(mask(255), {"a": 1})
    assert defect is not None
    assert "write 1 for 255" in defect.todo


def test_values() -> None:
    for dtype in (np.uint8, np.uint16, np.int32):
        assert values_in(mask(3, 1, 3, dtype=dtype).array) == [1, 3]
    assert values_in(mask().array) == []


def test_a_constant_scan_is_refused() -> None:
    with pytest.raises(InputError, match="all voxels are 3"):
        refuse_defects(GRID.volume(np.full(GRID.shape, 3, np.int16)), None, {})


def cases(folder: Path, image: Array, truth: Array, grid: Geometry = GRID) -> DataSet:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    save(GRID.volume(image), folder / "imagesTr" / "one.mha")
    save(grid.volume(truth), folder / "labelsTr" / "one.mha")
    return DataSet(folder, labels={"ball": 1}, splits=Splits(labelled=("one",)))


@pytest.mark.parametrize(
    ("image", "truth", "grid", "file", "words"),
    [
        (noise(), mask(2).array, GRID, "labelsTr/one.mha", "holds the value 2"),
        (noise(), mask().array, GRID, "labelsTr/one.mha", "the mask is empty"),
        (
            noise(),
            mask(1).array,
            Geometry.build(GRID.shape, (2, 2, 2)),
            "labelsTr/one.mha",
            "not on the grid",
        ),
        (noise(), noise(), GRID, "labelsTr/one.mha", "whole numbers"),
        (np.zeros_like(noise()), mask(1).array, GRID, "imagesTr/one.mha", "all voxels are 0"),
        (
            noise().astype(np.float64) * 1e300,
            mask(1).array,
            GRID,
            "imagesTr/one.mha",
            "a range that float32 does not hold",
        ),
    ],
)
def test_training_refuses_what_the_doctor_calls_an_error(
    image: Array, truth: Array, grid: Geometry, file: str, words: str, tmp_path: Path
) -> None:
    from c3s3_seg.training.cases import read_case

    data = cases(tmp_path, image, truth, grid)
    with pytest.raises(C3S3Error, match=words) as refused:
        read_case(data, "one", TASK, labelled=True)
    assert Path(str(refused.value.where)) == tmp_path / file


def test_training_sees_a_scan_with_an_offset_as_one_without(tmp_path: Path) -> None:
    from c3s3_seg.training.cases import read_case

    seen = []
    for n, offset in enumerate((0.0, 1e8)):
        (tmp_path / str(n)).mkdir()
        data = cases(tmp_path / str(n), noise().astype(np.float64) + offset, mask(1).array)
        seen.append(read_case(data, "one", TASK, labelled=True).stack.numpy())
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-5)


def test_training_takes_a_validation_case_without_the_organ_but_no_unknown_value(tmp_path: Path) -> None:
    from c3s3_seg.training.cases import read_validation

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert len(read_validation(cases(tmp_path / "a", noise(), mask().array), ("one",), TASK)) == 1
    with pytest.raises(InputError, match="holds the value 2"):
        read_validation(cases(tmp_path / "b", noise(), mask(2).array), ("one",), TASK)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe((1.0, 1.0, 1.0), Intensity("window", -1000.0, -900.0)), "no spread left"),
        (Recipe((1e-4, 1.0, 1.0)), "wanted at most"),
    ],
)
def test_a_validation_scan_that_predict_cannot_prepare_is_refused_before_the_first_step(
    recipe: Recipe, words: str, tmp_path: Path
) -> None:
    from c3s3_seg.training.cases import read_validation

    with pytest.raises(C3S3Error, match=words) as refused:
        read_validation(cases(tmp_path, noise(), mask(1).array), ("one",), replace(TASK, recipe=recipe))
    assert Path(str(refused.value.where)) == tmp_path / "imagesTr" / "one.mha"


def test_a_scan_in_place_of_a_mask_is_called_one_whatever_the_labels(tmp_path: Path) -> None:
    """Without named labels any value is allowed, so all intensities would be taken for labels."""
    from c3s3_seg.training.cases import read_case, read_validation

    values = np.random.default_rng(0).integers(0, 255, GRID.shape)
    data = cases(tmp_path, noise(), values.astype(np.uint8))
    nameless = DataSet(data.folder, data.name, data.modality, {}, data.splits)
    for found in (data, nameless):
        with pytest.raises(InputError, match=r"labelsTr/one\.mha: this looks like a scan"):
            read_case(found, "one", TASK, labelled=True)
        with pytest.raises(InputError, match="this looks like a scan"):
            read_validation(found, ("one",), TASK)
    defect = mask_defect(GRID.volume(values), {})
    assert defect is not None
    assert defect.check == "mask-values"
