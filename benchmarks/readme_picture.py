"""The picture of the README: three planes of a scan with the contour of its mask, and the mask's surface.

    python benchmarks/readme_picture.py [--seed 20262] [--out docs/images/left-atrium.png]

The scan is simulated and the model is the phantom bundle, so the picture is not subject to the terms
of a data collection. Takes about 5 s.
"""

import argparse
import io
from pathlib import Path

import numpy as np
from contourpy import contour_generator
from PIL import Image, ImageDraw, ImageFont

from c3s3_seg import ModelBundle, open_predictor
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.phantom import simulate
from c3s3_seg.report.mesh import mesh_webp, surface_mesh
from c3s3_seg.report.planes import Panel, cut

WIDTH, GAP, MARGIN, HEAD, CAPTION = 1200, 12, 12, 34, 40
FINE = 4  # factor by which contours are drawn larger, then reduced: Pillow does not smooth lines
BACKGROUND, TEXT, FAINT, CONTOUR = (14, 16, 20), (236, 238, 242), (165, 171, 181), (230, 159, 0)
WORDS = "Simulated scan, model phantom, research use only"
NOTE = "R, L: the patient's right and left"
FRONT = "RLHF"  # left, right, top and bottom of the surface, as seen from the patient's front


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=20262)
    parser.add_argument("--out", type=Path, default=Path("docs/images/left-atrium.png"))
    args = parser.parse_args()
    scan = simulate(args.seed).scan
    mask = open_predictor(ModelBundle.find("phantom"))(scan).mask
    args.out.parent.mkdir(parents=True, exist_ok=True)
    # 256 colours are enough for grey planes with one contour, and halve the file.
    picture(scan, mask).quantize(256, dither=Image.Dither.NONE).save(args.out, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size / 1000:.0f} kB")


def picture(scan: Volume, mask: Volume) -> Image.Image:
    """Return three planes, the surface and a caption in one row, `WIDTH` pixels wide."""
    side = (WIDTH - 2 * MARGIN - 3 * GAP) // 4
    image = Image.new("RGB", (WIDTH, HEAD + side + CAPTION), BACKGROUND)
    draw = ImageDraw.Draw(image)
    inside = mask.array != 0
    views = [(panel.plane.name, panel.plane.letters, plane(panel, side)) for panel in cut(scan, [inside])]
    views.append(("Surface, from the front", FRONT, surface(mask, side)))
    for n, (name, letters, view) in enumerate(views):
        left = MARGIN + n * (side + GAP)
        image.paste(view, (left, HEAD))
        draw.text((left, HEAD / 2), name, fill=TEXT, font=font(20), anchor="lm")
        mark(draw, letters, (left, HEAD), side)
    low = HEAD + side + CAPTION / 2
    draw.line([(MARGIN, low), (MARGIN + 30, low)], fill=CONTOUR, width=4)
    draw.text((MARGIN + 40, low), WORDS, fill=TEXT, font=font(20), anchor="lm")
    draw.text((WIDTH - MARGIN, low), NOTE, fill=FAINT, font=font(18), anchor="rm")
    return image


def plane(panel: Panel, side: int) -> Image.Image:
    """Return a square of the plane around the mask's centre, with the contour."""
    scale = side / min(panel.size_mm)
    width, height = (round(mm * scale) for mm in panel.size_mm)
    grey = Image.fromarray(panel.grey).resize((width, height), Image.Resampling.BICUBIC).convert("RGB")
    layer = Image.new("L", (width * FINE, height * FINE))
    draw = ImageDraw.Draw(layer)
    voxel = np.array([width / panel.grey.shape[1], height / panel.grey.shape[0]])
    for line in contour_generator(z=np.pad(panel.masks[0].astype(float), 1)).lines(0.5):
        points = [tuple(point) for point in (np.asarray(line) - 0.5) * voxel * FINE]
        draw.line([*points, points[1]], fill=255, width=3 * FINE, joint="curve")
    grey.paste(CONTOUR, mask=layer.resize((width, height), Image.Resampling.BOX))
    rows, columns = np.nonzero(panel.masks[0])
    left = np.clip(columns.mean() * voxel[0] - side / 2, 0, width - side)
    top = np.clip(rows.mean() * voxel[1] - side / 2, 0, height - side)
    return grey.crop((int(left), int(top), int(left) + side, int(top) + side))


def surface(mask: Volume, side: int) -> Image.Image:
    """Return a picture of the mask's surface from the patient's front, on the background."""
    mesh = surface_mesh(mask.array != 0, mask.geometry)
    colours = np.tile(np.array(CONTOUR, dtype=np.uint8), (len(mesh.vertices_mm), 1))
    drawn = Image.open(io.BytesIO(mesh_webp(mesh, colours))).convert("RGBA")
    drawn = drawn.resize((side, side), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), (28, 31, 38))
    square.paste(drawn, mask=drawn.getchannel("A"))
    return square


def mark(draw: ImageDraw.ImageDraw, letters: str, corner: tuple[int, int], side: int) -> None:
    """Draw the letters of the patient's directions at the left, right, top and bottom edge."""
    left, top = corner
    middle_x, middle_y, edge = left + side / 2, top + side / 2, 8
    places = (
        (left + edge, middle_y, "lm"),
        (left + side - edge, middle_y, "rm"),
        (middle_x, top + edge, "mt"),
        (middle_x, top + side - edge, "mb"),
    )
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        draw.text(
            (x, y), letter, fill=TEXT, font=font(22), anchor=anchor, stroke_width=2, stroke_fill=BACKGROUND
        )


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font in this size."""
    return ImageFont.load_default(size=size)


if __name__ == "__main__":
    main()
