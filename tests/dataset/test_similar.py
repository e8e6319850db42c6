"""Tests of duplicate scans, found despite noise, brightness and cropping; other scans do not match."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.archive import image_case, scan_and_mask
from helpers.planted import SMALL

from c3s3_seg.dataset.check.check import check_data_set
from c3s3_seg.dataset.check.duplicates import CasePair, duplicates, same_scans, same_voxels
from c3s3_seg.dataset.check.thumbnail import Thumbnail, make_thumbnail
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, save
from c3s3_seg.phantom import simulate


@pytest.fixture(scope="module")
def scans() -> list[Volume]:
    return [simulate(700 + n, SMALL).scan for n in range(4)]


def thumbnails(scans: list[Volume]) -> dict[str, Thumbnail]:
    return {str(n): make_thumbnail(scan, None) for n, scan in enumerate(scans)}


def other(scan: Volume, array: np.ndarray) -> Volume:
    return Geometry.build(array.shape, scan.geometry.spacing_mm).volume(np.ascontiguousarray(array))


def test_four_patients_are_four(scans: list[Volume]) -> None:
    assert same_scans(thumbnails(scans)) == []
    assert same_scans({}) == []
    assert same_scans(thumbnails(scans[:1])) == []


@pytest.mark.parametrize("how", ["noise", "brightness", "cropped", "gamma"])
def test_the_same_scan_is_found(how: str, scans: list[Volume]) -> None:
    array = scans[2].array.astype(np.float32)
    again = {
        "noise": array + np.random.default_rng(0).normal(0, 0.1 * array.std(), array.shape),
        "brightness": 0.3 * array + 100,
        "cropped": array[3:-2, 1:-4, 1:-1],
        "gamma": array**0.8,
    }[how]
    base = [other(scan, scan.array) for scan in scans]
    (pair,) = same_scans(thumbnails([*base, other(scans[2], again)]))
    assert (pair.first, pair.second, pair.exact) == ("2", "4", False)


def test_the_same_voxels() -> None:
    pairs = same_voxels({"a": "x", "b": "y", "c": "x", "d": "x"})
    assert [(p.first, p.second) for p in pairs] == [("a", "c"), ("a", "d"), ("c", "d")]


@pytest.mark.parametrize(
    ("kinds", "exact", "severity"),
    [
        (("labelled", "validation"), True, "error"),
        (("validation", "unlabelled"), True, "error"),
        (("labelled", "validation"), False, "warning"),
        (("validation", "validation"), True, "warning"),
        (("labelled", "unlabelled"), True, "info"),
        (("labelled", "labelled"), False, "info"),
    ],
)
def test_how_serious_it_is(kinds: tuple[str, str], exact: bool, severity: str) -> None:
    (found,) = duplicates([CasePair("a", "b", 1.0, exact)], dict(zip("ab", kinds, strict=True)))
    assert (found.severity, found.cases) == (severity, ("a", "b"))


def test_known_pairs_are_not_compared(scans: list[Volume]) -> None:
    twice = [*scans, scans[0]]
    assert len(same_scans(thumbnails(twice))) == 1
    assert same_scans(thumbnails(twice), [CasePair("0", "4", 1.0, True)]) == []


@pytest.mark.data
def test_before_and_after_an_operation_are_two_scans(shared_data: Path) -> None:
    """The scans are of one patient of the public atria; their likeness is 0.93."""
    from c3s3_seg.dataset import DataSet
    from c3s3_seg.io import load

    data = DataSet.load(shared_data / "la")
    names = ["1D7CUD1955YZPGK8XHJX", "Q7J0WYM695R9MA285ZW0", "06SR5RBREL16DQ6M8LWS"]
    assert same_scans({name: make_thumbnail(load(data.scan(name)), None) for name in names}) == []


def test_a_scan_of_the_test_that_is_learnt_from_is_an_error(tmp_path: Path) -> None:
    for folder in ("imagesTr", "imagesTs", "labelsTr", "labelsTs"):
        image_case(tmp_path, 0, f"{folder}/{'a' if folder.endswith('Tr') else 'b'}")
    _, mask = scan_and_mask(0)
    for path in (tmp_path / "labelsTr/a.nii.gz", tmp_path / "labelsTs/b.nii.gz"):
        save(load(path).geometry.volume(mask), path)
    index = {"labels": {"organ": 1, "lump": 2}, "labelled": ["a"], "test": ["b"]}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    found = check_data_set(tmp_path)
    assert [case.kind for case in found.cases] == ["labelled", "test"]
    (twice,) = [finding for finding in found.findings if finding.check == "duplicate"]
    assert (twice.severity, twice.cases) == ("error", ("a", "b"))
