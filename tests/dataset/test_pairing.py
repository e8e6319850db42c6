"""Tests of which mask belongs to which scan: each way to know it, and each doubt, which is a refusal."""

import time
from pathlib import Path, PurePath

import numpy as np
import pytest

from c3s3_seg.dataset.prepare.inventory import Mask, Part, Scan
from c3s3_seg.dataset.prepare.pairing import Grids, pair, says, trail
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io.dicom_objects.segmentation import Drawing

GRID = Geometry.build((8, 8, 8), origin_mm=(1, 2, 3))
OTHER = Geometry.build((8, 8, 8), origin_mm=(9, 2, 3))
NOWHERE = Geometry.build((8, 8, 8))


def scan(name: str, grid: Geometry | None = GRID, *, series: str = "", slices: str = "") -> Scan:
    part = Part("image", name, (Path(name),))
    return Scan(part, grid=grid, series=series, slices=frozenset(slices.split()), trail=trail(PurePath(name)))


def mask(name: str, grid: Geometry = GRID) -> Mask:
    return Mask(Part("image", name, (Path(name),)), grid, (1,), trail(PurePath(name)))


def drawing(series: str = "", slices: str = "") -> Mask:
    names = frozenset(series.split()), frozenset(slices.split())
    return Mask(
        Part("drawing", "seg", (Path("seg"),), drawing=Drawing(Path("seg"), "dicom-seg", *names, ("a",)))
    )


@pytest.mark.parametrize(
    "path",
    [
        "p1",
        "imagesTr/p1_0000",
        "labelsTr/p1",
        "p1/image",
        "p1/label",
        "masks/P1_seg",
        "Images/p1",
        "p1/scan_mask",
    ],
)
def test_what_a_path_is_called(path: str) -> None:
    assert trail(PurePath(path)) == ("p_1",)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("labelsTr/p1", "mask"),
        ("masks/p1_image", "scan"),
        ("images/p1_gt", "mask"),
        ("images/2019/p1", "scan"),
        ("p1/t1", ""),
        ("label001", "mask"),
        ("masked/p1", ""),
    ],
)
def test_what_a_path_says(path: str, said: str) -> None:
    assert says(PurePath(path)) == said


def test_names_decide_among_scans_on_one_grid() -> None:
    scans = [scan("images/a", NOWHERE), scan("images/b", NOWHERE)]
    pairs, refused = pair(scans, [mask("labels/b", NOWHERE), mask("labels/a", NOWHERE)])
    assert [p.mask.part.place for p in pairs if p.mask] == ["labels/a", "labels/b"]
    assert [p.note for p in pairs] == ["", ""]
    assert refused == []


def test_the_grid_alone_will_do_where_it_has_a_place_and_is_noted() -> None:
    pairs, refused = pair([scan("ct"), scan("other", OTHER)], [mask("drawn_seg")])
    assert pairs[0].mask is not None
    assert "by the grid alone" in pairs[0].note
    assert pairs[1].mask is None
    assert refused == []


def test_grids_are_looked_up_by_what_they_cover() -> None:
    turned = np.diag([-1.0, 1, 1, 1])
    turned[:3, 3] = GRID.to_mm((7, 0, 0))
    moved = GRID.affine.copy()
    moved[:3, 3] += 0.006  # along each axis, hence by more than the tolerance of 0.01 mm
    edge = Geometry.build((2, 2, 2), origin_mm=(0.5, 0.5, 0.5))  # its middle is at a whole millimetre
    nearly = Geometry.build((2, 2, 2), origin_mm=(0.499, 0.5, 0.501))
    grids = Grids([GRID, None, OTHER, GRID, edge])
    found = {n for group in grids.same(Geometry(GRID.shape, turned)) for n in grids.members[group]}
    assert found == {0, 3}
    assert grids.same(Geometry(GRID.shape, moved)) == []
    assert [grids.members[n] for n in grids.same(nearly)] == [[4]]
    assert [grids.members[n] for n in grids.same(OTHER)] == [[2]]
    assert grids.same(NOWHERE) == []


@pytest.mark.parametrize("one_grid", [True, False])
def test_thousands_are_paired_in_a_moment(one_grid: bool) -> None:
    count = 4000
    grids = [GRID if one_grid else Geometry.build((8, 8, 8), origin_mm=(3 * n, 1, 1)) for n in range(count)]
    scans = [scan(f"images/p{n}", grid) for n, grid in enumerate(grids)]
    masks = [mask(f"masks/p{n}", grid) for n, grid in enumerate(grids)]
    masks[7] = mask("masks/strange", grids[7])
    started = time.process_time()
    pairs, refused = pair(scans, masks)
    assert time.process_time() - started < 20
    assert sum(p.mask is not None for p in pairs) == count - one_grid
    assert all(p.mask is None or p.mask.trail == p.scan.trail or p.note for p in pairs)
    assert len(refused) == one_grid  # if all scans share a grid, its scan is unknown


@pytest.mark.parametrize("ending", ["_T1w_dseg", "_dseg"])
def test_thousands_of_bids_derivatives_are_paired_in_a_moment(ending: str) -> None:
    scans = [scan(f"sub-{n}/anat/sub-{n}_T1w") for n in range(3000)]
    masks = [mask(f"derivatives/x/sub-{n}/anat/sub-{n}{ending}") for n in range(3000)]
    started = time.process_time()
    pairs, refused = pair(scans, masks)
    assert time.process_time() - started < 10
    assert refused == []
    assert all(p.mask is masks[n] for n, p in enumerate(pairs))


def test_a_bids_mask_without_entities_is_nobodys() -> None:
    pairs, refused = pair([scan("a/sub-01"), scan("b/sub-03")], [mask("derivatives/sub-02")])
    assert all(p.mask is None for p in pairs)
    assert "their names do not say which" in refused[0].reason


def test_a_grid_at_the_origin_says_nothing() -> None:
    pairs, refused = pair([scan("ct", NOWHERE)], [mask("drawn_seg", NOWHERE)])
    assert pairs[0].mask is None
    assert "the size of ct, but another name" in refused[0].reason


@pytest.mark.parametrize(
    ("scans", "reason"),
    [
        ([scan("a"), scan("b")], "fits 2 scans (a, b): their names do not say which"),
        ([scan("p/t1"), scan("p/t2")], "fits 2 scans (p/t1, p/t2)"),
        ([scan("p", OTHER)], "is named like p and lies on another grid"),
        ([scan("x", OTHER)], "lies on the grid of no scan, and is named like none"),
        ([], "lies on the grid of no scan"),
    ],
)
def test_a_mask_of_no_scan_or_of_several(scans: list[Scan], reason: str) -> None:
    pairs, refused = pair(scans, [mask("p/seg")])
    assert all(p.mask is None for p in pairs)
    assert [r.place for r in refused] == ["p/seg"]
    assert reason in refused[0].reason


def test_two_masks_of_one_scan_are_refused_and_the_scan_stays() -> None:
    pairs, refused = pair([scan("p")], [mask("p_seg"), mask("p_gt")])
    assert [p.mask for p in pairs] == [None]
    assert refused[0].place == "p"
    assert "2 masks fit this scan: p_seg, p_gt" in refused[0].reason
    assert "--leave-out" in refused[0].reason


def test_a_drawing_goes_to_the_slices_or_the_series_that_it_names() -> None:
    scans = [scan("a", series="1", slices="s1 s2"), scan("b", series="1", slices="s3"), scan("c", series="2")]
    for given, number in ((drawing("1", "s3"), 1), (drawing("2", "unknown"), 2), (drawing("", "s1"), 0)):
        pairs, refused = pair(scans, [given])
        assert [n for n, p in enumerate(pairs) if p.mask] == [number]
        assert refused == []
    for given, reason in (
        (drawing("1"), "fits 2 scans (a, b)"),
        (drawing("3"), "a series that is not among the scans"),
        (drawing(), "names no series"),
    ):
        _, refused = pair(scans, [given])
        assert reason in refused[0].reason
