"""Draw a scan with the contours of its masks: three planes to scale in mm, in radiological view."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.report.outlines import Colour, LabelOutline, layers, outlines
from c3s3_seg.report.planes import Panel, cut, largest_plane
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.ownership import PNG_CHUNK, PROGRAM

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, HEIGHT = 1200, 900  # pixels: width of the picture, largest height of the planes
MARGIN, GAP, HEADER, FOOTER, LINE = 24, 16, 56, 44, 28
SMOOTH = 4  # factor by which contours are drawn larger and scaled down: Pillow draws without antialiasing
BACKGROUND, TEXT, FAINT = (14, 16, 20), (236, 238, 242), (150, 156, 166)


@dataclass(frozen=True, eq=False)
class Overlay:
    """The contents of a picture.

    Parameters
    ----------
    scan
        Scan (i, j, k). Oblique axes are drawn as the nearest patient axes.
    mask
        Predicted labels on the scan's grid. The planes are those in which the labels together have their
        largest area; without any label, the middle ones.
    labels
        Name -> value; each is drawn in its own colour.
    truth
        True labels on the same grid, all in one colour; None: not known.
    title
        Line above the planes.
    footer
        Origin of the mask, for the line below the legend; slices and "Research use only" come after it.

    Title and footer are written unchanged: no patient's name.
    """

    scan: Volume
    mask: Volume
    labels: Mapping[str, int]
    truth: Volume | None = None
    title: str = ""
    footer: str = ""


def overlay_png(overlay: Overlay, path: Path) -> None:
    """Write one PNG, 1200 px wide: axial, coronal and sagittal plane with the contour of each label.

    Parameters
    ----------
    overlay
        Contents to draw.
    path
        PNG to write or replace.

    Patient left is at the right of the axial and coronal plane, the back at the right of the
    sagittal one, the head up. Grey runs from the 1st to the 99.5th percentile of the scan. The
    field is the box around all masks with a margin of 30 mm or half of the box, whichever is larger.
    Slices are counted from 1 in the order of the file.

    Raises
    ------
    GeometryError
        If a mask is not on the scan's grid.
    InputError
        If there is no label, or the file cannot be written.
    """
    from PIL.PngImagePlugin import PngInfo

    maker = PngInfo()
    maker.add(PNG_CHUNK, PROGRAM.encode())
    data = io.BytesIO()
    _overlay(overlay).save(data, format="PNG", pnginfo=maker)
    write_whole(path, data.getvalue())


def overlay_pixels(overlay: Overlay) -> NDArray[np.uint8]:
    """Return the picture of `overlay_png` as (row, column, 3) uint8.

    Raises
    ------
    GeometryError, InputError
        Same as in `overlay_png`.
    """
    return np.asarray(_overlay(overlay), dtype=np.uint8)


def _overlay(overlay: Overlay) -> Image:
    if not overlay.labels:
        raise InputError("found no label to draw, wanted at least one")
    given = {"prediction": overlay.mask} | ({"truth": overlay.truth} if overlay.truth is not None else {})
    for name, mask in given.items():
        if not mask.geometry.matches(overlay.scan.geometry):
            what = f"the grid of the mask '{name}' is {mask.geometry}, the scan's {overlay.scan.geometry}"
            what += mask.geometry.distance_note(overlay.scan.geometry)
            raise GeometryError(what)
    shown = outlines(overlay.mask, overlay.labels, overlay.truth)
    panels = _cut(overlay.scan, shown, _middle(overlay))
    return _compose([replace(panel, mark=None) for panel in panels], shown, overlay)


def _middle(overlay: Overlay) -> tuple[int, int, int] | None:
    """Return the voxel where the labels together have their largest areas."""
    mask = np.isin(overlay.mask.array, list(overlay.labels.values()))
    i, j, k = (largest_plane(mask, axis) for axis in range(3))
    return i, j, k


def _layout(sizes_mm: list[tuple[float, float]]) -> tuple[float, list[tuple[int, int]], int]:
    """Return one scale in pixels per mm, the top left corner of each panel, and their total height.

    Flat volumes fit best with the axial plane at the left and the two others stacked beside it, tall
    volumes with all three in a row; the arrangement with the larger scale is chosen.
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
    scan: Volume,
    shown: Sequence[LabelOutline],
    through: tuple[int, int, int] | None = None,
    *,
    ring: bool = True,
) -> bytes:
    """Return the three planes without title and legend as a small WebP file, 1200 px wide.

    Parameters
    ----------
    scan, through
        Same as in `planes.cut`.
    shown
        Outlines; the field is the box around all of them with a margin.
    ring
        Whether `through` is marked, as the place of an error.
    """
    panels = _cut(scan, shown, through)
    panels = panels if ring else [replace(panel, mark=None) for panel in panels]
    image, _, height = _paint(panels, [outline.colour for outline in shown], GAP)
    data = io.BytesIO()
    image.crop((0, HEADER - GAP, WIDTH, HEADER + height + GAP)).save(data, format="WEBP", quality=82)
    return data.getvalue()


def _cut(scan: Volume, shown: Sequence[LabelOutline], through: tuple[int, int, int] | None) -> list[Panel]:
    """Cut planes with `planes.cut`, through a non-empty array if any; return a mask for each outline."""
    found = sorted(layers(shown), key=lambda layer: not layer[0].any())
    arrays = [array for array, _ in found]
    layer = {place: n for n, (_, places) in enumerate(found) for place in places}

    def masks(panel: Panel) -> tuple[NDArray[np.bool_], ...]:
        return tuple(panel.masks[layer[n]] == outline.value for n, outline in enumerate(shown))

    return [replace(panel, masks=masks(panel)) for panel in cut(scan, arrays, through)]


def _paint(panels: list[Panel], colours: Sequence[Colour], footer: int) -> tuple[Image, ImageDraw, int]:
    """Return the picture with its planes and room for title and footer, and the height of the planes."""
    from PIL import Image, ImageDraw

    scale, corners, height = _layout([panel.size_mm for panel in panels])
    image = Image.new("RGB", (WIDTH, HEADER + height + footer), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for panel, corner in zip(panels, corners, strict=True):
        _draw_panel(image, draw, panel, colours, (*corner, scale))
    return image, draw, height


def _compose(panels: list[Panel], shown: Sequence[LabelOutline], overlay: Overlay) -> Image:
    legend = _legend(list(dict.fromkeys((outline.name, outline.colour) for outline in shown)))
    image, draw, height = _paint(
        panels, [outline.colour for outline in shown], FOOTER + LINE * (legend[-1].row + 1)
    )
    width = WIDTH - 2 * MARGIN
    draw.text((MARGIN, HEADER / 2), _fitted(overlay.title, width, 22), fill=TEXT, font=_font(22), anchor="lm")
    top = HEADER + height + LINE
    for entry in legend:
        y = top + entry.row * LINE
        draw.line([(entry.x, y), (entry.x + 28, y)], fill=entry.colour, width=4)
        draw.text((entry.x + 38, y), entry.name, fill=TEXT, font=_font(18), anchor="lm")
    slices = ", ".join(f"{panel.plane.name.lower()} {panel.slice}" for panel in panels)
    parts = [overlay.footer, f"slices {slices}", "L is the patient's left"]
    line = _fitted(" \u00b7 ".join(part for part in parts if part), width - 170, 16)
    y = top + (legend[-1].row + 1) * LINE
    draw.text((MARGIN, y), line, fill=FAINT, font=_font(16), anchor="lm")
    draw.text((WIDTH - MARGIN, y), "Research use only", fill=TEXT, font=_font(16), anchor="rm")
    return image


@dataclass(frozen=True)
class _LegendEntry:
    """A name in the legend, with its colour and place."""

    name: str
    colour: Colour
    x: float
    row: int


def _legend(names: Sequence[tuple[str, Colour]]) -> list[_LegendEntry]:
    """Return the names side by side, in as many rows as they need."""
    entries, x, row = [], float(MARGIN), 0
    for name, colour in names:
        fitted = _fitted(name, WIDTH - 2 * MARGIN - 38, 18)
        width = 38 + _font(18).getlength(fitted)
        if x > MARGIN and x + width > WIDTH - MARGIN:
            x, row = float(MARGIN), row + 1
        entries.append(_LegendEntry(fitted, colour, x, row))
        x += width + 32
    return entries


def _fitted(text: str, width: float, size: int) -> str:
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + " ...") > width:
        text = text[:-1]
    return text + " ..."


def _draw_panel(
    image: Image, draw: ImageDraw, panel: Panel, colours: Sequence[Colour], place: tuple[int, int, float]
) -> None:
    """Draw a panel at `place`: left, top, and pixels per mm."""
    from PIL import Image

    left, top, scale = place
    width, height = (max(1, round(mm * scale)) for mm in panel.size_mm)
    picture = Image.fromarray(panel.grey).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    # The voxel's size in pixels comes from the rounded width, so that contour and picture agree.
    pixels = (width / panel.grey.shape[1], height / panel.grey.shape[0])
    lines = _contours(panel.masks, colours, (width, height), pixels)
    picture.paste(lines.convert("RGB"), mask=lines.getchannel("A"))
    image.paste(picture, (left, top))
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
    draw.text(
        (left + 8, top + 6),
        f"{panel.plane.name} {panel.slice}",
        fill=TEXT,
        font=_font(16),
        anchor="lt",
        **style,
    )


def _contours(
    masks: Sequence[NDArray[np.bool_]],
    colours: Sequence[Colour],
    size: tuple[int, int],
    pixels: tuple[float, float],
) -> Image:
    """Return an RGBA picture of the contours; the first mask is drawn last, on top."""
    from contourpy import contour_generator
    from PIL import Image, ImageDraw

    # Premultiplied alpha: lines are opaque, so colours are the same, and Pillow scales without conversions.
    layer = Image.new("RGBa", (size[0] * SMOOTH, size[1] * SMOOTH))
    draw = ImageDraw.Draw(layer)
    there = [(mask, colour) for mask, colour in zip(masks, colours, strict=True) if mask.any()]
    for mask, colour in reversed(there):
        # A frame of background closes the contours of masks that touch the edge.
        lines = contour_generator(z=np.pad(mask.astype(np.float64), 1)).lines(0.5)
        for line in lines:
            # Index 0 of the framed mask is the centre of a voxel before the first: at -0.5 voxels.
            points = [tuple(point) for point in (np.asarray(line) - 0.5) * pixels * SMOOTH]
            draw.line([*points, points[1]], fill=(*colour, 255), width=2 * SMOOTH + 2, joint="curve")
    return layer.reduce(SMOOTH).convert("RGBA")


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)
