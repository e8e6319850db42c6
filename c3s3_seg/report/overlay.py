"""A picture of a scan with the contours of its masks: three planes, in millimetres, as radiologists look."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.report.planes import Panel, cut
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.ownership import PNG_CHUNK, PROGRAM

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 1200, 900  # of the picture, and of the planes at most
MARGIN, GAP, HEADER, FOOTER = 24, 16, 56, 48
SMOOTH = 4  # contours are drawn so many times larger and scaled down: Pillow draws without antialiasing
BACKGROUND, TEXT, FAINT = (14, 16, 20), (236, 238, 242), (150, 156, 166)

# Okabe and Ito, colours that are told apart with any colour vision; those that stand out from grey first.
COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0))


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
    from PIL.PngImagePlugin import PngInfo

    maker = PngInfo()
    maker.add(PNG_CHUNK, PROGRAM.encode())
    data = io.BytesIO()
    _overlay(scan, masks, title).save(data, format="PNG", pnginfo=maker)
    write_whole(path, data.getvalue())


def overlay_pixels(scan: Volume, masks: Mapping[str, Volume], *, title: str) -> NDArray[np.uint8]:
    """The picture of `overlay_png` as (row, column, 3) uint8.

    Raises
    ------
    GeometryError, InputError
        As `overlay_png`.
    """
    return np.asarray(_overlay(scan, masks, title), dtype=np.uint8)


def _overlay(scan: Volume, masks: Mapping[str, Volume], title: str) -> Image:
    if not masks:
        raise InputError("found no mask to draw, wanted at least one")
    for name, mask in masks.items():
        if not mask.geometry.matches(scan.geometry):
            raise GeometryError(
                f"the grid of the mask '{name}' is {mask.geometry}, the scan's {scan.geometry}"
            )
    panels = cut(scan, [mask.array != 0 for mask in masks.values()])
    return _compose(panels, list(masks), title)


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


def planes_webp(
    scan: Volume, masks: list[NDArray[np.bool_]], through: tuple[int, int, int] | None = None
) -> bytes:
    """The three planes alone, without title and legend, as a small WebP file of 1200 px width at most.

    Parameters
    ----------
    scan, masks, through
        As for `planes.cut`; `through` is marked by a ring.
    """
    image, _, height = _paint(cut(scan, masks, through))
    data = io.BytesIO()
    image.crop((0, HEADER - GAP, WIDTH, HEADER + height + GAP)).save(data, format="WEBP", quality=82)
    return data.getvalue()


def _paint(panels: list[Panel]) -> tuple[Image, ImageDraw, int]:
    """The picture with its planes and room for title and legend, and the height of the planes."""
    from PIL import Image, ImageDraw

    scale, corners, height = _layout([panel.size_mm for panel in panels])
    image = Image.new("RGB", (WIDTH, HEADER + height + FOOTER), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for panel, corner in zip(panels, corners, strict=True):
        _draw_panel(image, draw, panel, corner, scale)
    return image, draw, height


def _compose(panels: list[Panel], names: list[str], title: str) -> Image:
    image, draw, height = _paint(panels)
    draw.text(
        (MARGIN, HEADER / 2), _fitted(draw, title, WIDTH - 2 * MARGIN), fill=TEXT, font=_font(22), anchor="lm"
    )
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
    if panel.mark:
        x, y = left + panel.mark[0] * pixels[0], top + panel.mark[1] * pixels[1]
        for radius, colour, width in ((15, BACKGROUND, 5), (14, TEXT, 2)):
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, outline=colour, width=width)
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
