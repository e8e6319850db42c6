"""The packed volume: voxels where the script expects them, 8 bits, and no more than a page may hold."""

import base64
import gzip
import json
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.report.outlines import LABELS, TRUTH
from c3s3_seg.report.viewer import Contents, Packed, Spot, pack, viewer_html

TURNS = [
    np.eye(3)[list(order)] * signs
    for order in permutations(range(3))
    for signs in list(product((-1, 1), repeat=3))[1::3]
]


def unpacked(packed: Packed) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Return the facts that the script gets, and the arrays (x, y, z): the scan, then the masks."""
    text = packed.html.split(">", 1)[1].removesuffix("</script>")
    facts = json.loads(text)
    raw = np.frombuffer(gzip.decompress(base64.b64decode(facts["data"])), dtype=np.uint8)
    shapes = [facts["grey"], *[facts["shape"]] * len(facts["colours"])]
    ends = np.cumsum([np.prod(shape) for shape in shapes])
    assert ends[-1] == raw.size
    parts = np.split(raw, ends[:-1])
    return facts, [part.reshape(shape[::-1]).T for part, shape in zip(parts, shapes, strict=True)]


def contents(direction: np.ndarray | None = None, dtype: type = np.int16) -> Contents:
    geometry = Geometry.build((30, 28, 26), (1, 1.2, 2), direction=direction)
    array = np.random.default_rng(0).integers(10, 200, geometry.shape).astype(dtype)
    mask = np.zeros(geometry.shape, np.int16)
    mask[10:15, 9:13, 8:12] = 7
    mask[15:18, 9:13, 8:12] = 300
    truth = np.roll(mask, 2, axis=0)
    volume = geometry.volume
    return Contents(volume(array), volume(mask), {"a": 7, "b": 300}, volume(truth))


@pytest.mark.parametrize("direction", TURNS, ids=str)
def test_a_voxel_is_found_again_whatever_way_the_grid_is_turned(direction: np.ndarray) -> None:
    shown = contents(direction)
    packed = pack(shown, "v")
    facts, (scan, mask, truth) = unpacked(packed)
    for at in ((12, 10, 9), (16, 12, 11), (0, 0, 0), (29, 27, 25)):
        place = packed.place(at)
        assert scan[place] * facts["step"] + facts["low"] == shown.scan.array[at]
        assert mask[place] == {0: 0, 7: 1, 300: 2}[int(shown.mask.array[at])]
        assert shown.truth is not None
        assert truth[place] == {0: 0, 7: 1, 300: 2}[int(shown.truth.array[at])]
        axes, _ = shown.scan.geometry.patient_axes
        numbers = [first + step * n for (first, step, _), n in zip(facts["slices"], place, strict=True)]
        assert numbers == [at[axis] + 1 for axis in axes]
    assert facts["colours"] == [[list(LABELS[0]), list(LABELS[1])], [list(TRUTH)] * 2]


def test_fractions_keep_all_but_the_last_share_of_their_range() -> None:
    shown = contents(dtype=np.float32)
    shown.scan.array[0, 0, 0], shown.scan.array[1, 1, 1] = np.nan, 1e9
    facts, (scan, *_) = unpacked(pack(shown, "v"))
    assert scan.min() == 0
    assert scan.max() == 255
    back = scan * facts["step"] + facts["low"]
    usual = np.isfinite(shown.scan.array) & (shown.scan.array < 1e6)
    assert np.abs(back - shown.scan.array)[usual].max() <= 2


@pytest.mark.parametrize("voxels", [0, 500, 5000])
def test_beyond_the_limit_blocks_are_averaged_and_masks_stay(voxels: int) -> None:
    shown = contents(dtype=np.float32)
    whole, (fine, mask, _) = unpacked(pack(shown, "v"))
    facts, (coarse, same, _) = unpacked(pack(shown, "v", voxels))
    assert coarse.size <= max(voxels, 1)
    assert np.array_equal(mask, same)
    expected = [-(-n // block) for n, block in zip(whole["shape"], facts["block"], strict=True)]
    assert list(coarse.shape) == expected
    x, y, z = facts["block"]
    assert coarse[0, 0, 0] == pytest.approx(fine[:x, :y, :z].mean(), abs=1.5)


def test_a_viewer_begins_where_the_labels_are_largest_or_where_it_is_told() -> None:
    packed = pack(contents(), "v")
    spots = [Spot("Largest <error>", (16, 12, 11))]
    text = viewer_html(packed, "", "", spots, "case")
    assert 'data-at="10,9,8"' in text.split("<button")[0]
    assert 'data-at="16,12,11">Largest &lt;error&gt;' in text
    told = viewer_html(packed, "", "", spots, "case", (16, 12, 11))
    assert 'data-at="16,12,11"' in told.split("<button")[0]


def test_nothing_found_and_no_truth_still_make_a_volume() -> None:
    shown = contents()
    empty = shown.mask.geometry.volume(np.zeros_like(shown.mask.array))
    packed = pack(Contents(empty, empty, {"a": 1}), "v")
    facts, (scan, mask) = unpacked(packed)
    assert packed.layers == ("Prediction",)
    assert facts["shape"] == [30, 28, 26]
    assert not scan.any()
    assert not mask.any()
