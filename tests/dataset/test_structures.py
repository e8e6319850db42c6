"""Tests of one mask file per structure: they are merged by the requested labels and by nothing else."""

import json
import time
from pathlib import Path, PurePath

import numpy as np
import pytest
from helpers.archive import scan_and_mask, study
from typer.testing import CliRunner

from c3s3_seg.cli import app
from c3s3_seg.dataset import DataSet
from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.prepare.assemble import PrepareSettings
from c3s3_seg.dataset.prepare.inventory import Mask, Part, Scan
from c3s3_seg.dataset.prepare.pairing import Shelf, trail
from c3s3_seg.dataset.prepare.pipeline import prepare
from c3s3_seg.dataset.prepare.result import PreparedDataSet
from c3s3_seg.dataset.prepare.structures import gather
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, load_mask, save


def body(*shape: slice, value: int = 1) -> np.ndarray:
    array = np.zeros((24, 20, 10), np.uint8)
    array[shape] = value
    return array


LIVER = body(slice(2, 10), slice(2, 12), slice(2, 8))
SPLEEN = body(slice(12, 20), slice(2, 12), slice(2, 8))
TUMOUR = body(slice(4, 7), slice(4, 8), slice(3, 6))


def case(root: Path, name: str, at: str, masks: dict[str, np.ndarray], *, origin: bool = True) -> Volume:
    """Write a scan, and a mask file for each structure at `at` with {case} and {name}; return the scan."""
    seed = int(name[1:])
    scan, _ = scan_and_mask(seed)
    if not origin:  # as if every case lay at the same place
        scan = Geometry.build(scan.geometry.shape).volume(scan.array)
    files = {f"{name}/ct": scan.array} if "{case}/" in at else {f"images/{name}": scan.array}
    files |= {at.format(case=name, name=mask): array for mask, array in masks.items()}
    for where, array in files.items():
        path = root / f"{where}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        save(scan.geometry.volume(array), path)
    return scan


def made(root: Path, labels: str) -> tuple[PreparedDataSet, DataSet]:
    result = prepare(root, root.parent / "data", PrepareSettings(labels=Labels.parse(labels), validation=0))
    return result, DataSet.load(root.parent / "data")


def truth(data: DataSet, scan: Volume) -> np.ndarray:
    """Return the mask of the case that was made from this scan."""
    names = (*data.splits.labelled, *data.splits.unlabelled)
    (name,) = [n for n in names if np.array_equal(load(data.scan(n)).array, scan.array)]
    return load_mask(data.mask(name)).array


@pytest.mark.parametrize("origin", [True, False])
@pytest.mark.parametrize(
    "at",
    ["{case}/segmentations/{name}", "{case}/{name}_seg", "masks/{case}_{name}", "labels/{name}/{case}",
     "masks/{name}_{case}_mask"],
)  # fmt: skip
def test_structures_are_merged_by_their_names(tmp_path: Path, at: str, origin: bool) -> None:
    root = tmp_path / "source"
    masks = {"liver": LIVER, "spleen": SPLEEN * 255, "aorta": TUMOUR}
    scans = [case(root, f"s{n}", at, masks, origin=origin) for n in (1, 2)]
    result, data = made(root, "spleen=2,liver=1")
    assert (result.refused, result.masks, result.overlaps) == ((), 2, ())
    assert result.passed == {"mask files of structures that --labels does not name": 2}
    assert data.labels == {"liver": 1, "spleen": 2}
    for scan in scans:
        assert np.array_equal(truth(data, scan), LIVER + 2 * SPLEEN)
    assert (
        prepare(
            root, tmp_path / "data", PrepareSettings(labels=Labels.parse("spleen=2,liver=1"), validation=0)
        ).kept
        == 2
    )


def test_a_structure_has_the_value_of_its_label_and_not_that_of_its_file(tmp_path: Path) -> None:
    root = tmp_path / "source"
    scan = case(root, "s1", "{case}/segmentations/{name}", {"liver": LIVER, "heart": SPLEEN})
    _, data = made(root, "liver=3")
    assert np.array_equal(truth(data, scan), 3 * LIVER)


def test_two_structures_of_one_label(tmp_path: Path) -> None:
    root = tmp_path / "source"
    scan = case(root, "s1", "{case}/segmentations/{name}", {"kidney_left": LIVER, "Kidney-Right": SPLEEN})
    result, data = made(root, "kidney_left=1,kidney_right=1")
    assert result.overlaps == ()
    assert np.array_equal(truth(data, scan), LIVER + SPLEEN)
    assert data.labels == {"kidney_left": 1}


def test_overlaps_are_reported_and_the_later_label_is_taken(tmp_path: Path) -> None:
    root = tmp_path / "source"
    scan = case(root, "s1", "{case}/segmentations/{name}", {"liver": LIVER, "tumour": TUMOUR})
    case(root, "s2", "{case}/segmentations/{name}", {"liver": LIVER, "tumour": SPLEEN})
    words = ["prepare", str(root), "-o", str(tmp_path / "data"), "--validation", "0", "--labels"]
    answer = CliRunner().invoke(app, [*words, "liver=1,tumour=2"])
    assert answer.exit_code == 0, answer.output
    assert "Structures overlap: 1 case (s1_ct)" in " ".join(answer.output.split())
    data = DataSet.load(tmp_path / "data")
    assert np.array_equal(truth(data, scan), np.where(TUMOUR, 2, LIVER))
    notes = [note for record in data.records.values() for note in record.notes]
    (note,) = notes
    assert note.endswith(f": {TUMOUR.sum()} voxels of 'tumour' had another label")
    answer = CliRunner().invoke(app, [*words, "tumour=2,liver=1", "--json"])
    assert json.loads(answer.stdout)["overlaps"] == ["s1_ct"]
    # The mask was made again, with the labels in the other order.
    assert np.array_equal(truth(DataSet.load(tmp_path / "data"), scan), LIVER)


def test_what_was_done_to_the_file_of_a_structure_is_noted(tmp_path: Path) -> None:
    masks = {"liver": LIVER * np.float32(0.9999847), "spleen": SPLEEN}
    scan = case(tmp_path / "source", "p0", "{case}/segmentations/{name}", masks)
    result, data = made(tmp_path / "source", "liver=1,spleen=2")
    assert result.masks == 1
    assert np.array_equal(truth(data, scan), LIVER + 2 * SPLEEN)
    notes = [note for record in data.records.values() for note in record.notes]
    assert any("labels were rounded" in note and note.endswith("('liver')") for note in notes)


def test_thousands_are_gathered_in_a_moment() -> None:
    """All scans are on one grid, as after a registration."""
    grid = Geometry.build((8, 8, 8), origin_mm=(1, 2, 3))

    def part(place: str) -> Part:
        return Part("image", f"{place}.nii.gz", (Path(place),))

    scans = [Scan(part(f"p{n}/ct"), grid=grid, trail=trail(PurePath(f"p{n}/ct"))) for n in range(2000)]
    places = [f"p{n}/segmentations/{name}" for n in range(2000) for name in ("liver", "spleen", "colon")]
    masks = [Mask(part(place), grid, (1,), trail(PurePath(place))) for place in places]
    started = time.process_time()
    found = gather(Shelf(scans), masks, Labels.parse("liver=1,spleen=2"))
    assert time.process_time() - started < 10
    assert {n: mask.part.names for n, mask in found.masks.items()} == dict.fromkeys(
        range(2000), ("liver", "spleen")
    )
    assert (found.rest, found.left_out) == ([], 2000)


def test_a_structure_without_a_file_refuses_the_mask(tmp_path: Path) -> None:
    root = tmp_path / "source"
    case(root, "s1", "{case}/segmentations/{name}", {"liver": LIVER, "spleen": SPLEEN})
    case(root, "s2", "{case}/segmentations/{name}", {"liver": LIVER})
    result, data = made(root, "liver=1,spleen=2")
    (refused,) = result.refused
    assert "nothing in it is named 'spleen'; it holds 'liver'" in refused.reason
    assert (len(data.splits.labelled), len(data.splits.unlabelled)) == (1, 1)


def test_a_structure_that_is_absent_is_an_empty_file(tmp_path: Path) -> None:
    root = tmp_path / "source"
    scan = case(root, "s1", "{case}/segmentations/{name}", {"liver": LIVER, "spleen": 0 * SPLEEN})
    result, data = made(root, "liver=1,spleen=2")
    assert result.refused == ()
    assert np.array_equal(truth(data, scan), LIVER)


def test_one_file_of_another_structure_is_never_taken_for_the_label(tmp_path: Path) -> None:
    """Each file has the value 1, which is the label of the kidney."""
    root = tmp_path / "source"
    case(root, "s1", "{case}/segmentations/{name}", {"kidney": LIVER, "liver": SPLEEN})
    case(root, "s2", "{case}/segmentations/{name}", {"spleen": SPLEEN})
    result, data = made(root, "kidney=1,liver=2")
    assert result.refused == ()
    assert len(data.splits.unlabelled) == 1


def test_two_files_of_one_structure(tmp_path: Path) -> None:
    root = tmp_path / "source"
    masks = {"liver": LIVER, "liver_seg": SPLEEN, "spleen": SPLEEN}
    case(root, "s1", "{case}/segmentations/{name}", masks)
    result, data = made(root, "liver=1,spleen=2")
    assert "2 files hold its structure 'liver'" in result.refused[0].reason
    assert data.splits.labelled == ()


def test_without_labels_nothing_is_merged_and_the_way_is_said(tmp_path: Path) -> None:
    root = tmp_path / "source"
    case(root, "s1", "{case}/segmentations/{name}", {f"organ{n}": LIVER for n in range(12)})
    result = prepare(root, tmp_path / "data", PrepareSettings())
    (refused,) = result.refused
    assert "12 masks fit this scan" in refused.reason
    assert "and 4 more" in refused.reason
    assert "--labels (liver=1,spleen=2)" in refused.reason


def test_plain_masks_stay_what_they_are(tmp_path: Path) -> None:
    """The masks are named after an organ, but one file holds both labels."""
    root = tmp_path / "source"
    both = LIVER + TUMOUR
    scan = case(root, "s1", "masks/{case}_{name}", {"liver": both})
    case(root, "s2", "masks/{case}_{name}", {"liver": LIVER})
    result, data = made(root, "liver=1,tumour=2")
    assert result.refused == ()
    assert np.array_equal(truth(data, scan), both)
    assert len(data.splits.labelled) == 2


def test_structures_beside_a_dicom_series(tmp_path: Path) -> None:
    root = tmp_path / "source"
    study(root / "p" / "series", 1)
    grid = load(root / "p" / "series").geometry
    for name, array in {"liver": LIVER, "spleen": SPLEEN}.items():
        (root / "p" / "masks").mkdir(exist_ok=True)
        save(grid.volume(array), root / "p" / "masks" / f"{name}.nii.gz")
    _, data = made(root, "liver=1,spleen=2")
    assert np.array_equal(load_mask(data.mask("case-0001")).array, LIVER + 2 * SPLEEN)
    assert data.records["case-0001"].source["label"] == "2 image files"


def test_a_structure_on_another_grid_is_not_one_that_no_label_names(tmp_path: Path) -> None:
    root = tmp_path / "source"
    for n in (1, 2):
        case(
            root, f"s{n}", "{case}/segmentations/{name}", {"liver": LIVER, "spleen": SPLEEN, "aorta": TUMOUR}
        )
    there = load_mask(root / "s1/segmentations/liver.nii.gz")
    away = Geometry.build(there.geometry.shape, (7.0, 7.0, 7.0))
    save(away.volume(there.array), root / "s1/segmentations/liver.nii.gz")
    result, _ = made(root, "liver=1,spleen=2")
    told = {item.place: item.reason for item in result.refused}
    assert "it is named like a label, and is on the grid of no scan" in told["s1/segmentations/liver.nii.gz"]
    assert "nothing in it is named 'liver'" in told["s1/segmentations/spleen.nii.gz"]
    assert result.passed == {"mask files of structures that --labels does not name": 2}
    assert result.masks == 1
