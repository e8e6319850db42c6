"""Statistics of data sets with known content."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.dataset import DataSet
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.training.planning import statistics
from c3s3_seg.training.planning.statistics import _spread, measure


def box_data(folder: Path, *, pieces: int = 1, direction: np.ndarray | None = None) -> DataSet:
    """Write one case of 40 x 30 x 20 voxels of 1 x 2 x 3 mm with a bright box of 10 x 8 x 6 voxels."""
    (folder / "imagesTr").mkdir()
    (folder / "labelsTr").mkdir()
    geometry = Geometry.build((40, 30, 20), (1.0, 2.0, 3.0), (0, 0, 0), direction)
    mask = np.zeros(geometry.shape, np.uint8)
    mask[5:15, 10:18, 4:10] = 1
    if pieces == 2:
        mask[30:34, 10:14, 4:8] = 1
    image = np.where(mask == 1, np.arange(20) * 10, -500).astype(np.int16)
    save(geometry.volume(image), folder / "imagesTr" / "a.nii.gz")
    save(geometry.volume(mask), folder / "labelsTr" / "a.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labelled": ["a"]}))
    return DataSet.load(folder)


def test_a_box_by_hand(tmp_path: Path) -> None:
    data = box_data(tmp_path)
    facts = measure(data, data.splits)
    assert facts.spacing_mm == pytest.approx((1, 2, 3))
    assert facts.fov_mm == pytest.approx((40, 60, 60))
    assert facts.organ_mm == pytest.approx((10, 16, 18))
    assert facts.diameter_mm == pytest.approx((6 * 480 * 6 / np.pi) ** (1 / 3))
    assert facts.one_piece
    assert facts.grey == (40, 90)  # planes 4 to 9
    assert (facts.labels, facts.modality, facts.read) == ({"label-1": 1}, "", 1)


def test_many_labels_take_no_more_passes_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each label is inspected within its own box, so 64 labels take one pass over the volume, not 64."""
    blocks = np.arange(1, 65, dtype=np.uint8).reshape(4, 4, 4)
    mask = blocks.repeat(5, 0).repeat(5, 1).repeat(5, 2)
    geometry = Geometry.build(mask.shape, (1.0, 2.0, 3.0))
    seen: list[int] = []
    whole = statistics._one_piece
    monkeypatch.setattr(statistics, "_one_piece", lambda organ: seen.append(organ.size) or whole(organ))
    found = statistics._look(
        geometry.volume(mask.astype(np.float32)), geometry.volume(mask), [*range(1, 65), 200]
    )
    assert sum(seen) == mask.size
    assert found.diameters_mm == pytest.approx([(6 * 125 * 6 / np.pi) ** (1 / 3)] * 64)
    assert found.one_piece


def test_a_field_of_view_beyond_what_fits_at_1_mm() -> None:
    """The scan is of a whole body, for which the plan chooses a coarser grid."""
    geometry = Geometry.build((20, 20, 30), (35.0, 36.0, 70.0))
    mask = np.zeros(geometry.shape, np.uint8)
    mask[5:8, 5:8, 5:8] = 1
    found = statistics._look(geometry.volume(mask.astype(np.float32)), geometry.volume(mask), [1])
    assert found.fov_mm == pytest.approx((700, 720, 2100))
    assert found.organ_mm == pytest.approx((105, 108, 210))


def test_axes_are_the_patients(tmp_path: Path) -> None:
    """A scan that is stored with its axes permuted has the same facts."""
    permuted = np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])  # i runs along y, j along z, k along x
    data = box_data(tmp_path, direction=permuted)
    facts = measure(data, data.splits)
    assert facts.spacing_mm == pytest.approx((3, 1, 2))
    assert facts.organ_mm == pytest.approx((18, 10, 16))


def test_pieces_and_labels_of_the_index(tmp_path: Path, layers_data: Path) -> None:
    data = box_data(tmp_path, pieces=2)
    assert not measure(data, data.splits).one_piece
    layers = DataSet.load(layers_data)
    told: list[str] = []
    facts = measure(layers, layers.splits, told.append)
    assert facts.labels == {"core": 1, "middle": 2, "shell": 5}
    assert facts.modality == "CT"
    assert facts.diameter_mm == pytest.approx(10 * 1.1, rel=0.1)  # the core
    assert 15 < facts.grey[0] < 45 < 190 < facts.grey[1] < 230
    assert len(told) == facts.read == 4


def test_where_time_is_short_a_few_cases_are_read(layers_data: Path) -> None:
    layers = DataSet.load(layers_data)
    facts = measure(layers, layers.splits, limit_s=0.0)
    assert (facts.read, facts.skipped) == (1, 3)
    assert measure(layers, layers.splits).skipped == 0


@pytest.mark.parametrize("count", [1, 2, 7, 24, 100])
def test_the_first_cases_are_spread_over_the_list(count: int) -> None:
    names = tuple(f"{number:03d}" for number in range(count))
    order = _spread(names)
    assert len(order) == len(set(order)) == min(24, count)
    if count == 100:
        assert [int(name) for name in order[:3]] == [0, 34, 69]


def test_labels_are_those_of_all_masks(tmp_path: Path) -> None:
    """The index does not name the labels, and the first mask holds only one of two."""
    data = box_data(tmp_path)
    mask = load_mask(data.mask("a"))
    save(load(data.scan("a")), tmp_path / "imagesTr" / "b.nii.gz")
    save(mask.geometry.volume(mask.array * np.uint8(3)), tmp_path / "labelsTr" / "b.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labelled": ["a", "b"]}))
    both = DataSet.load(tmp_path)
    assert measure(both, both.splits).labels == {"label-1": 1, "label-3": 3}


def test_masks_without_a_label_are_refused(tmp_path: Path) -> None:
    data = box_data(tmp_path)
    other = DataSet(data.folder, labels={"x": 7}, splits=data.splits)
    with pytest.raises(InputError, match=r"the mask holds the value 1; wanted 0 and 7 \(x\)"):
        measure(other, data.splits)
    mask = load_mask(data.mask("a"))
    save(mask.geometry.volume(np.zeros_like(mask.array)), data.mask("a"))
    with pytest.raises(InputError, match="wanted"):  # `train` refuses it too, and a plan left it out
        measure(data, data.splits)
    with pytest.raises(InputError, match="no mask that was read holds a label"):
        measure(replace(data, empty_masks=True), data.splits)
