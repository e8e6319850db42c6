"""A picture of a scan with the contours of its masks: three planes, in millimetres, as radiologists look."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.files import write_whole
from c3s3_seg.volume import Array, Geometry, Volume

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 1200, 900  # of the picture, and of the planes at most
MARGIN, GAP, HEADER, FOOTER = 24, 16, 56, 48
SMOOTH = 4  # contours are drawn so many times larger and scaled down: Pillow draws without antialiasing
FIELD_MARGIN_MM = 30.0
BACKGROUND, TEXT, FAINT = (14, 16, 20), (236, 238, 242), (150, 156, 166)

# Okabe and Ito, colours that are told apart with any colour vision; those that stand out from grey first.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0))


@dataclass(frozen=True)
class Plane:
    """One of the three planes: its name, the axis it is cut across, what runs right and what runs down.

    Axes 0, 1, 2 are x to the left, y to the back, z to the head; the letters stand at the left, right,
    top and bottom edge.
    """

    name: str
    across: int
    right: int
    down: int
    letters: str


PLANES = (
    Plane("Axial", 2, 0, 1, "RLAP"),
    Plane("Coronal", 1, 0, 2, "RLHF"),
    Plane("Sagittal", 0, 1, 2, "APHF"),
)


@dataclass(frozen=True, eq=False)
class Panel:
    """One plane cut out: grey values (rows, columns) uint8, masks alike bool, and a voxel's size in mm."""

    plane: Plane
    grey: NDArray[np.uint8]
    masks: tuple[NDArray[np.bool_], ...]
    row_mm: float
    column_mm: float

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        return self.grey.shape[1] * self.column_mm, self.grey.shape[0] * self.row_mm


def overlay_png(scan: Volume, masks: Mapping[str, Volume], path: Path, *, title: str) -> None:
    """One PNG, 1200 px wide: axial, coronal and sagittal plane with the contour of each mask.

    Parameters
    ----------
    scan
        The scan (i, j, k). Oblique axes are drawn as the nearest patient axes.
    masks
        Name for the legend -> mask on the scan's grid; everything but 0 is inside. The planes are
        those in which the first mask has its largest area; where it is empty, the middle ones.
    path
        The PNG; it is replaced if it is there.
    title
        A line above the planes. It is written as it stands: no patient's name.

    Patient left is at the right of the axial and coronal plane, the back at the right of the
    sagittal one, the head up. Grey runs from the 1st to the 99.5th percentile of the scan. The
    field is the box around all masks with 30 mm, or half of the box, around it.

    Raises
    ------
    GeometryError
        If a mask is not on the scan's grid.
    InputError
        If no mask was given, or the file cannot be written.
    """
    if not masks:
        raise InputError("found no mask to draw, wanted at least one", where=path)
    for name, mask in masks.items():
        if not mask.geometry.matches(scan.geometry):
            raise GeometryError(
                f"the grid of the mask '{name}' is {mask.geometry}, the scan's {scan.geometry}"
            )
    panels = _cut(scan, [mask.array != 0 for mask in masks.values()])
    image = _compose(panels, list(masks), title)
    data = io.BytesIO()
    image.save(data, format="PNG")
    write_whole(path, data.getvalue())


def _patient_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[bool, ...]]:
    """Which voxel axis runs along x, y and z most, and whether it runs backwards."""
    direction = geometry.direction
    # All six pairings are compared: the nearest axis of each alone could name one axis twice.
    axes = max(permutations(range(3)), key=lambda p: sum(abs(direction[n, p[n]]) for n in range(3)))
    return (axes[0], axes[1], axes[2]), tuple(bool(direction[n, axes[n]] < 0) for n in range(3))


def _cut(scan: Volume, masks: list[NDArray[np.bool_]]) -> list[Panel]:
    axes, backwards = _patient_axes(scan.geometry)
    turn = tuple(slice(None, None, -1) if flip else slice(None) for flip in backwards)
    array, *turned = (item.transpose(axes)[turn] for item in (scan.array, *masks))
    spacing = scan.geometry.spacing_mm[list(axes)]
    field = _field(turned, spacing)
    low, high = _window(scan.array)
    panels = []
    for plane in PLANES:
        where: list[slice | int] = list(field)
        where[plane.across] = _largest(turned[0], plane.across)
        index = tuple(where)
        grey = np.clip((_upright(array[index], plane).astype(np.float64) - low) / (high - low), 0, 1)
        panels.append(
            Panel(
                plane=plane,
                grey=np.nan_to_num(grey * 255).round().astype(np.uint8),
                masks=tuple(_upright(mask[index], plane) for mask in turned),
                row_mm=float(spacing[plane.down]),
                column_mm=float(spacing[plane.right]),
            )
        )
    return panels


def _upright(section: Array, plane: Plane) -> Array:
    """A section with its axes in rising order -> (rows, columns), the head up."""
    picture = section.T  # the axis that runs right comes first in all three planes
    return picture[::-1] if plane.down == 2 else picture


def _largest(mask: NDArray[np.bool_], axis: int) -> int:
    others = tuple(n for n in range(3) if n != axis)
    areas = np.count_nonzero(mask, axis=others)
    return int(areas.argmax()) if areas.any() else mask.shape[axis] // 2


def _field(masks: list[NDArray[np.bool_]], spacing: NDArray[np.float64]) -> list[slice]:
    """What is shown: the box around all masks with a margin; where all are empty, everything."""
    field = []
    for axis in range(3):
        others = tuple(n for n in range(3) if n != axis)
        used = np.flatnonzero(np.any([mask.any(axis=others) for mask in masks], axis=0))
        if not used.size:
            return [slice(None)] * 3
        extent = int(used[-1] - used[0]) + 1
        margin = int(np.ceil(max(FIELD_MARGIN_MM / spacing[axis], extent / 2)))
        field.append(slice(max(0, int(used[0]) - margin), int(used[-1]) + 1 + margin))
    return field


def _window(array: Array) -> tuple[float, float]:
    """1st and 99.5th percentile of the finite values, from at most some two million voxels."""
    step = max(1, round((array.size / 2e6) ** (1 / 3)))
    sample = array[::step, ::step, ::step].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 1.0
    low, high = np.percentile(sample, (1, 99.5))
    return float(low), float(high if high > low else low + 1)


def _layout(sizes_mm: list[tuple[float, float]]) -> tuple[float, list[tuple[int, int]], int]:
    """Pixels per mm, the top left corner of each panel and the height of all: one scale for the three.

    Flat volumes are best with the axial plane at the left and the two others stacked beside it, tall
    ones with all three in a row; the arrangement that shows more wins.
    """
    (axial_w, axial_h), (coronal_w, upper), (sagittal_w, lower) = sizes_mm
    beside = max(coronal_w, sagittal_w)
    stacked = min(
        (WIDTH - 2 * MARGIN - GAP) / (axial_w + beside), HEIGHT / axial_h, (HEIGHT - GAP) / (upper + lower)
    )
    in_row = min(
        (WIDTH - 2 * MARGIN - 2 * GAP) / (axial_w + coronal_w + sagittal_w),
        HEIGHT / max(axial_h, upper, lower),
    )
    scale = max(stacked, in_row)
    widths = [round(width * scale) for width, _ in sizes_mm]
    heights = [round(height * scale) for _, height in sizes_mm]
    if stacked >= in_row:
        column = heights[1] + GAP + heights[2]
        total = max(heights[0], column)
        left = (WIDTH - widths[0] - GAP - max(widths[1:])) // 2
        top, right = HEADER + (total - column) // 2, left + widths[0] + GAP
        corners = [
            (left, HEADER + (total - heights[0]) // 2),
            (right, top),
            (right, top + heights[1] + GAP),
        ]
        return scale, corners, total
    total = max(heights)
    left = (WIDTH - sum(widths) - 2 * GAP) // 2
    corners = []
    for width, height in zip(widths, heights, strict=True):
        corners.append((left, HEADER + (total - height) // 2))
        left += width + GAP
    return scale, corners, total


def _compose(panels: list[Panel], names: list[str], title: str) -> Image:
    from PIL import Image, ImageDraw

    scale, corners, height = _layout([panel.size_mm for panel in panels])
    image = Image.new("RGB", (WIDTH, HEADER + height + FOOTER), BACKGROUND)
    draw = ImageDraw.Draw(image)
    draw.text(
        (MARGIN, HEADER / 2), _fitted(draw, title, WIDTH - 2 * MARGIN), fill=TEXT, font=_font(22), anchor="lm"
    )
    for panel, corner in zip(panels, corners, strict=True):
        _draw_panel(image, draw, panel, corner, scale)
    _draw_legend(draw, names, HEADER + height + FOOTER / 2)
    return image


def _fitted(draw: ImageDraw, text: str, width: float) -> str:
    font = _font(22)
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + " ...", font=font) > width:
        text = text[:-1]
    return text + " ..."


def _draw_panel(image: Image, draw: ImageDraw, panel: Panel, corner: tuple[int, int], scale: float) -> None:
    from PIL import Image

    width, height = (max(1, round(mm * scale)) for mm in panel.size_mm)
    picture = Image.fromarray(panel.grey).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    # The voxel's size in pixels comes from the rounded width, so that contour and picture agree.
    pixels = (width / panel.grey.shape[1], height / panel.grey.shape[0])
    lines = _contours(panel.masks, (width, height), pixels)
    picture.paste(lines.convert("RGB"), mask=lines.getchannel("A"))
    image.paste(picture, corner)
    left, top = corner
    middle_x, middle_y = left + width / 2, top + height / 2
    spots = (
        (left + 8, middle_y, "lm"),
        (left + width - 8, middle_y, "rm"),
        (middle_x, top + 6, "mt"),
        (middle_x, top + height - 6, "mb"),
    )
    style: dict[str, Any] = {"stroke_width": 2, "stroke_fill": BACKGROUND}
    for letter, (x, y, anchor) in zip(panel.plane.letters, spots, strict=True):
        draw.text((x, y), letter, fill=TEXT, font=_font(20), anchor=anchor, **style)
    draw.text((left + 8, top + 6), panel.plane.name, fill=TEXT, font=_font(16), anchor="lt", **style)


def _contours(
    masks: tuple[NDArray[np.bool_], ...], size: tuple[int, int], pixels: tuple[float, float]
) -> Image:
    """RGBA picture of the contours; the first mask is drawn last, on top."""
    from contourpy import contour_generator
    from PIL import Image, ImageDraw

    layer = Image.new("RGBA", (size[0] * SMOOTH, size[1] * SMOOTH))
    draw = ImageDraw.Draw(layer)
    for number, mask in reversed(list(enumerate(masks))):
        # A frame of background closes the contours of masks that touch the edge.
        lines = contour_generator(z=np.pad(mask.astype(np.float64), 1)).lines(0.5)
        for line in lines:
            # Index 0 of the framed mask is the centre of a voxel before the first: at -0.5 voxels.
            points = [tuple(point) for point in (np.asarray(line) - 0.5) * pixels * SMOOTH]
            draw.line([*points, points[1]], fill=(*_colour(number), 255), width=2 * SMOOTH + 2, joint="curve")
    return layer.resize(size, Image.Resampling.BOX)


def _draw_legend(draw: ImageDraw, names: list[str], middle_y: float) -> None:
    x = float(MARGIN)
    for number, name in enumerate(names):
        draw.line([(x, middle_y), (x + 28, middle_y)], fill=_colour(number), width=4)
        draw.text((x + 38, middle_y), name, fill=TEXT, font=_font(18), anchor="lm")
        x += 38 + draw.textlength(name, font=_font(18)) + 32
    note, font = "L is the patient's left", _font(16)
    if x + draw.textlength(note, font=font) <= WIDTH - MARGIN:
        draw.text((WIDTH - MARGIN, middle_y), note, fill=FAINT, font=font, anchor="rm")


def _colour(number: int) -> tuple[int, int, int]:
    return COLOURS[number % len(COLOURS)]


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
