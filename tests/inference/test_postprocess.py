import numpy as np
import pytest
from scipy import ndimage

from c3s3_seg.inference.postprocess import Postprocessing, postprocess, postprocess_all

LARGEST = Postprocessing(keep_largest=True)


@pytest.fixture(params=[8_000_000, 40])
def part(request, monkeypatch) -> int:
    """Process masks in one piece or plane by plane: the result is the same."""
    monkeypatch.setattr("c3s3_seg.inference.postprocess.PART", request.param)
    return request.param


def test_the_largest_component_stays(part: int) -> None:
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[1:4, 1:4, 1:4] = 2
    mask[4, 4, 4] = 2  # touches at a corner only: another component
    mask[6:8, 6:8, 6:8] = 1
    assert postprocess(mask, 2, LARGEST, 0.5) == {"removed_ml": 0.5}
    assert (mask == 2).sum() == 27
    assert (mask == 1).sum() == 8
    assert postprocess(mask, 5, LARGEST, 0.5) == {}  # an absent label changes nothing
    assert postprocess(mask, 2, LARGEST, 0.5) == {}


def test_small_components_go_even_the_last(part: int) -> None:
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[:2, :2, :2] = mask[5, 5, 5] = 1
    assert postprocess(mask, 1, Postprocessing(min_volume_ml=0.002), 0.001) == {"removed_ml": 0.001}
    assert mask.sum() == 8
    assert postprocess(mask, 1, Postprocessing(min_volume_ml=4), 0.5) == {}  # 4 ml are not less than 4
    postprocess(mask, 1, Postprocessing(min_volume_ml=1), 0.001)
    assert not mask.any()


def test_holes_are_filled_and_other_labels_are_not(part: int) -> None:
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[1:11, 1:11, 1:11] = 1
    mask[3:5, 3:5, 3:5] = 0
    mask[7, 7, 7] = 2  # enclosed too, but of another label
    mask[5, 5, 1:6] = 0  # open to the outside: no hole
    assert postprocess(mask, 1, Postprocessing(fill_holes=True), 1.0) == {"filled_ml": 8.0}
    assert (mask[3:5, 3:5, 3:5] == 1).all()
    assert mask[7, 7, 7] == 2
    assert not mask[5, 5, 1:6].any()


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_tidied_as_scipy_does(seed: int, part: int) -> None:
    here = np.random.default_rng(seed).random((14, 13, 12)) < 0.35
    mask = here.astype(np.uint8)
    postprocess(mask, 1, LARGEST, 1.0)
    labels, _ = ndimage.label(here)
    np.testing.assert_array_equal(mask > 0, labels == np.bincount(labels.ravel())[1:].argmax() + 1)
    dense = ~here
    mask = dense.astype(np.uint8)
    postprocess(mask, 1, Postprocessing(fill_holes=True), 1.0)
    np.testing.assert_array_equal(mask > 0, ndimage.binary_fill_holes(dense))


def test_a_full_mask_and_a_flat_one() -> None:
    mask = np.ones((4, 1, 3), np.uint8)
    assert postprocess(mask, 1, Postprocessing(True, 0.0, True), 1.0) == {}
    assert mask.all()


@pytest.mark.parametrize(("inside", "around"), [(1, 2), (2, 1)])
def test_what_is_removed_of_one_label_leaves_no_hole_in_another(inside: int, around: int) -> None:
    mask = np.zeros((30, 12, 12), np.uint8)
    mask[2:10, 2:10, 2:10] = around
    mask[5, 5, 5] = inside  # an island
    mask[15:25, 2:10, 2:10] = inside
    done = postprocess_all(mask, (1, 2), Postprocessing(True, 0.0, True), 0.001)
    assert (mask[2:10, 2:10, 2:10] == around).all()
    assert done == {inside: {"removed_ml": 0.001}, around: {"filled_ml": 0.001}}


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_hole_in_nested_labels_goes_to_the_label_around_it(order: tuple[int, int], part: int) -> None:
    mask = np.zeros((13, 13, 13), np.uint8)
    mask[1:12, 1:12, 1:12] = 1
    mask[3:10, 3:10, 3:10] = 2
    mask[6, 6, 6] = 0  # 2 around it, and 1 around 2
    mask[2, 5, 5:7] = 0  # within 1
    mask[3, 8, 8] = 0  # between both: the first one around it is 1
    fill = Postprocessing(fill_holes=True)
    assert postprocess_all(mask, order, fill, 0.5) == {1: {"filled_ml": 1.5}, 2: {"filled_ml": 0.5}}
    assert mask[6, 6, 6] == 2
    assert (mask[2, 5, 5:7] == 1).all()
    assert mask[3, 8, 8] == 1
    assert postprocess_all(mask, order, fill, 0.5) == {}
