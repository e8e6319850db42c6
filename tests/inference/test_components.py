"""Connected components equal to those of scipy, which `predict` does not import."""

import numpy as np
import pytest
from scipy import ndimage

from c3s3_seg.inference.components import component_boxes, label_components


@pytest.mark.parametrize("shape", [(9, 7, 5), (1, 4, 3), (5, 1, 1), (30, 24, 17)])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
def test_labels_and_boxes_are_those_of_scipy(shape: tuple[int, ...], share: float) -> None:
    mask = np.random.default_rng(int(100 * share) + shape[0]).random(shape) < share
    expected, count = ndimage.label(mask)
    labels, found = label_components(mask)
    assert found == count
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, expected)
    boxes = ndimage.find_objects(expected)
    low, high = component_boxes(labels, found)
    assert low.tolist() == [[s.start for s in box] for box in boxes]
    assert high.tolist() == [[s.stop for s in box] for box in boxes]


def test_corners_and_edges_do_not_connect_and_memory_order_does_not_matter() -> None:
    mask = np.zeros((3, 4, 5), dtype=np.bool_)
    mask[0, 0, 0] = mask[1, 1, 0] = mask[2, 2, 1] = True
    assert label_components(mask)[1] == 3
    noise = np.random.default_rng(3).random((8, 9, 10)) < 0.4
    for view in (noise.transpose(2, 0, 1), noise[::-1, ::2], np.asfortranarray(noise)):
        np.testing.assert_array_equal(label_components(view)[0], ndimage.label(view)[0])
