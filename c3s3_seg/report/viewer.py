"""Pack the volume that a page's three planes scroll through: 8 bits, unpacked by the page.

The script is `page/viewer.js`. Without it, or in a browser too old for it, the still planes remain.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.volume import Array, Volume
from c3s3_seg.report.outlines import TRUTH, label_colours
from c3s3_seg.report.planes import PLANES, PatientOrder, Plane, field_around, intensity_window, largest_plane

VIEWER = '<section class="viewer"'  # start of a viewer; a page without a viewer needs no script for it
VOXELS = 16_000_000  # limit for all scans of a page; beyond it blocks of voxels are averaged, masks are not
LAYERS = ("Prediction", "Truth")
MODES = ("outline", "fill", "off")

Voxel = tuple[int, int, int]


@dataclass(frozen=True)
class Spot:
    """A voxel (i, j, k) of the scan that a button leads to, and the button's words."""

    words: str
    at: Voxel


@dataclass(frozen=True, eq=False)
class Contents:
    """The contents of a viewer.

    Parameters
    ----------
    scan
        Intensities (i, j, k).
    mask, truth
        Label values on the same grid; truth: None if unknown.
    labels
        Name -> value.
    """

    scan: Volume
    mask: Volume
    labels: Mapping[str, int]
    truth: Volume | None = None


@dataclass(frozen=True)
class Packed:
    """A volume as stored in a page.

    Parameters
    ----------
    html
        Script element with the data.
    name
        Id of the element in the page.
    layers
        Names of the masks: the prediction, and the truth if known.
    order, corner, shape
        Axes of the scan in patient order; first voxel of the field along them, and size of the field.
    middle
        Place (x, y, z) in the field where the labels have their largest areas.
    """

    html: str
    name: str
    layers: tuple[str, ...]
    order: PatientOrder
    corner: Voxel
    shape: Voxel
    middle: Voxel

    def place(self, at: Voxel) -> Voxel:
        """Return the place (x, y, z) in the field, or the nearest, of a voxel (i, j, k) of the scan."""
        ends = zip(self.order.voxel(at), self.corner, self.shape, strict=True)
        x, y, z = (min(max(place - low, 0), count - 1) for place, low, count in ends)
        return x, y, z


def pack(contents: Contents, name: str, voxels: int = VOXELS) -> Packed:
    """Return the field around the masks, in 8 bits, gzip and base64.

    Parameters
    ----------
    contents
        Contents to pack.
    name
        Id of the element.
    voxels
        Largest number of the scan's voxels to keep.
    """
    order = PatientOrder.of(contents.scan.geometry)
    given = [contents.mask, *([contents.truth] if contents.truth is not None else [])]
    masks = [_numbered(order.turned(mask.array), contents.labels) for mask in given]
    field = tuple(field_around([mask > 0 for mask in masks], order.spacing_mm))
    scan, masks = order.turned(contents.scan.array)[field], [mask[field] for mask in masks]
    low, step = _scale(scan)
    grey, block = _averaged(scan, order.spacing_mm, voxels)
    eight = np.clip(np.rint((np.nan_to_num(grey, nan=low) - low) / step), 0, 255).astype(np.uint8)
    first, second, third = (part.indices(n)[0] for part, n in zip(field, order.counts, strict=True))
    colours = [list(colour) for colour in label_colours(contents.labels).values()]
    metadata = {
        "shape": scan.shape,
        "block": block,
        "grey": eight.shape,
        "spacing": [round(mm, 6) for mm in order.spacing_mm],
        "low": low,
        "step": step,
        "window": intensity_window(contents.scan.array),
        "slices": [_slices(order, axis, start) for axis, start in enumerate((first, second, third))],
        "planes": [
            {"across": p.across, "right": p.right, "down": p.down, "letters": p.letters} for p in PLANES
        ],
        "colours": [colours, [list(TRUTH)] * len(colours)][: len(masks)],
        "data": _packed([eight, *masks]),
    }
    html = f'<script type="application/json" class="volume" id="{name}">{json.dumps(metadata)}</script>'
    x, y, z = (largest_plane(masks[0] > 0, axis) for axis in range(3))
    corner, shape = (first, second, third), (scan.shape[0], scan.shape[1], scan.shape[2])
    return Packed(html, name, LAYERS[: len(masks)], order, corner, shape, (x, y, z))


def viewer_html(
    packed: Packed, still: str, cells: str, spots: Sequence[Spot], name: str, start: Voxel | None = None
) -> str:
    """Return three scrollable planes as HTML, beside the other figures of the same view.

    Parameters
    ----------
    packed
        Volume; its element stands elsewhere in the page, once for all viewers of a case.
    still
        Figure with the still planes: for print, and where the script does not run.
    cells
        Further figures of the view: surfaces.
    spots
        Voxels that a button leads to.
    name
        Name of the case, for screen readers.
    start
        Voxel (i, j, k) in which the planes meet at first; None: where the labels have their largest areas.
    """
    switches = "".join(
        f'<label>{layer} <select data-layer="{n}">'
        + "".join(f"<option>{mode}</option>" for mode in MODES)
        + "</select></label>"
        for n, layer in enumerate(packed.layers)
    )
    jumps = "".join(
        f'<button type="button" data-at="{_listed(packed.place(spot.at))}">{escape(spot.words)}</button>'
        for spot in spots
    )
    planes = "".join(
        f'<figure class="plane{"" if n else " large"}" data-plane="{n}">'
        f'<canvas tabindex="0" role="application" '
        f'aria-label="{plane.name} plane of {escape(name, quote=True)}" '
        f'style="aspect-ratio: {_ratio(packed, plane):.3f}"></canvas><figcaption><label>'
        f'<span>{plane.name}</span><input type="range" min="0" max="{packed.shape[plane.across] - 1}">'
        f"</label><output></output></figcaption></figure>"
        for n, plane in enumerate(PLANES)
    )
    first = _listed(packed.place(start) if start else packed.middle)
    keys = "M and T: prediction and truth" if len(packed.layers) > 1 else "M: prediction"
    return (
        f'{VIEWER} data-volume="{packed.name}" data-at="{first}"><div class="tools">{switches}'
        f'{jumps}<button type="button" class="reset">Reset window</button><output class="level"></output>'
        "<p>Wheel or arrow keys: slice. Drag: window and level. Click: crosshair. Double click: enlarge. "
        f'{keys}.</p></div><div class="cells">{still}{planes}{cells}</div></section>'
    )


def _ratio(packed: Packed, plane: Plane) -> float:
    """Return width by height of a canvas: that of the field, clipped to between 1 and 2."""
    sizes = [n * mm for n, mm in zip(packed.shape, packed.order.spacing_mm, strict=True)]
    return min(2.0, max(1.0, sizes[plane.right] / sizes[plane.down]))


def _listed(place: Voxel) -> str:
    return ",".join(map(str, place))


def _numbered(mask: Array, labels: Mapping[str, int]) -> NDArray[np.uint8]:
    """Renumber label values as 1, 2, ... in the order of the labels; labels after 255 are left out."""
    out = np.zeros(mask.shape, dtype=np.uint8)
    for number, value in enumerate(list(labels.values())[:255], start=1):
        out[mask == value] = number
    return out


def _scale(scan: Array) -> tuple[float, float]:
    """Return the value of 0 and the step of the 8 bits: exact for integers that span at most 255."""
    if np.issubdtype(scan.dtype, np.integer) and int(scan.max()) - int(scan.min()) <= 255:
        return float(scan.min()), 1.0
    low, high = intensity_window(scan, (0.1, 99.9))
    return low, (high - low) / 255


def _averaged(scan: Array, spacing_mm: tuple[float, float, float], voxels: int) -> tuple[Array, list[int]]:
    """Return means of blocks of voxels, and the block size: as large as needed, the finest axis first."""
    block, limit = [1, 1, 1], max(voxels, 1)
    while np.prod([-(-n // b) for n, b in zip(scan.shape, block, strict=True)]) > limit:
        axis = min((n for n in range(3) if block[n] < scan.shape[n]), key=lambda n: block[n] * spacing_mm[n])
        block[axis] += 1
    if block == [1, 1, 1]:
        return scan, block
    means = scan.astype(np.float32)
    for axis, size in enumerate(block):
        starts = np.arange(0, scan.shape[axis], size)
        counts = np.diff(starts, append=scan.shape[axis]).astype(np.float32)
        means = np.add.reduceat(means, starts, axis=axis)
        means /= counts.reshape([-1 if n == axis else 1 for n in range(3)])
    return means, block


def _slices(order: PatientOrder, axis: int, start: int) -> list[int]:
    """Return the number of the first slice in the file's order, the step to the next, and the count."""
    first, second = (order.slice_number(axis, start + n) for n in range(2))
    return [first.number, second.number - first.number, first.count]


def _packed(arrays: Sequence[NDArray[np.uint8]]) -> str:
    """Return (x, y, z) arrays one after another, x running fastest, as gzip in base64."""
    raw = b"".join(np.ascontiguousarray(array.T).tobytes() for array in arrays)
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()
