"""Connected components of a mask, and the boxes around them.

SimpleITK labels the components, because it is loaded to write the mask anyway; scipy.ndimage gives the same
numbers, but takes 0.24 s to import.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numpy.typing import NDArray


def load_library() -> None:
    """Import SimpleITK ahead of its use (0.1 s); called in a thread while a network is compiled."""
    with suppress(ImportError):  # its first user reports that it is missing
        import SimpleITK  # noqa: F401


def label_components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Return numbered 6-connected components (neighbours share a face), as `scipy.ndimage.label` does.

    Parameters
    ----------
    mask
        Mask (i, j, k).

    Returns
    -------
    tuple
        (i, j, k) int32: 0 outside of the mask, components numbered from 1 in the order of their first voxel;
        and the number of components, 0 for an empty mask.
    """
    import SimpleITK

    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(mask).view(np.uint8))
    found = SimpleITK.ConnectedComponent(image)  # type: ignore[no-untyped-call]
    del image
    labels = SimpleITK.GetArrayFromImage(found).view(np.int32)
    return labels, int(labels.max(initial=0))


def component_boxes(labels: NDArray[np.int32], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first voxel of each component along each axis, and the voxel after its last.

    Parameters
    ----------
    labels, count
        Result of `label_components`.

    Returns
    -------
    tuple
        Two int64 arrays (count, 3).
    """
    index = np.nonzero(labels)
    number = labels[index] - 1
    low, high = np.full((count, 3), np.iinfo(np.int64).max), np.zeros((count, 3), np.int64)
    for axis, place in enumerate(index):
        np.minimum.at(low[:, axis], number, place)
        np.maximum.at(high[:, axis], number, place + 1)
    return low, high
