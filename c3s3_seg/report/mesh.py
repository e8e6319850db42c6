"""Make a small mesh of a mask's surface, for display only, never for measurement.

Surface nets (Gibson 1998): a vertex in each cell of eight voxels that the surface runs through, at the mean
of the points where it crosses the cell's edges. Compared with marching cubes, they give half the triangles
without slivers, and take a page of numpy instead of scikit-image and its dependencies (some 60 MB).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.metrics.surface_distance import union_box

Floats = NDArray[np.float64]
CELLS = 2_000_000  # at most in the grid of a mesh, of some 35 bytes each: small parts may lie far apart
QUADS = 3000  # squares of a mesh, about: 3,000 vertices and 6,000 triangles are some 100 kB in a page
SIZE = 560  # pixels of a picture's sides


@dataclass(frozen=True, eq=False)
class Mesh:
    """A closed surface.

    Parameters
    ----------
    vertices_mm
        (n, 3) float64: positions in the patient, LPS.
    triangles
        (m, 3): indices of their vertices, counterclockwise as seen from outside.
    """

    vertices_mm: Floats
    triangles: NDArray[np.intp]


def surface_mesh(mask: NDArray[np.bool_], geometry: Geometry) -> Mesh:
    """Return the surface of a mask, on a grid coarse enough for about `QUADS` squares.

    Parameters
    ----------
    mask
        (i, j, k) bool, not empty.
    geometry
        Grid of the mask.
    """
    box = union_box(mask, mask)
    low = np.array([part.start for part in box])
    block = _block(mask[box], geometry.spacing_mm)
    share = _shares(mask[box], block)
    cells, triangles = _net(_with_thin_parts(_smoothed(share), share))
    # Cell (0, 0, 0) of the framed grid lies between blocks -1 and 0; a block's centre is at (block - 1) / 2.
    index = (cells - 1) * block + (block - 1) / 2 + low
    if np.linalg.det(geometry.affine[:3, :3]) < 0:  # mirrored axes turn every triangle inside out
        triangles = triangles[:, ::-1]
    return Mesh(geometry.to_mm(index), triangles)


def mesh_webp(mesh: Mesh, colours: NDArray[np.uint8]) -> bytes:
    """Return a WebP picture from the patient's front, transparent around it, for print and until turned.

    Parameters
    ----------
    mesh
        Surface to draw.
    colours
        (n, 3) uint8: colours of the vertices.
    """
    from PIL import Image, ImageDraw

    points = mesh.vertices_mm[:, [0, 2]] * (1, -1)  # patient left at the right, head up
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    span = max(float(np.ptp(points, axis=0).max()), 1e-6)
    flat = (points - middle) * (2 * SIZE * 0.9 / span) + SIZE
    corners = mesh.vertices_mm[mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    seen = np.flatnonzero(normals[:, 1] < 0)
    order = seen[np.argsort(-corners[seen, :, 1].mean(axis=1))]  # the back first
    smooth = np.zeros_like(mesh.vertices_mm)
    np.add.at(smooth, mesh.triangles.ravel(), np.repeat(normals, 3, axis=0))
    smooth /= np.maximum(np.linalg.norm(smooth, axis=1, keepdims=True), 1e-12)
    light = 0.45 + 0.55 * np.clip(smooth @ (-0.3, -0.85, 0.43), 0, 1)
    shades = (colours * light[:, None])[mesh.triangles].mean(axis=1).astype(np.uint8)
    image = Image.new("RGBA", (2 * SIZE, 2 * SIZE))
    draw = ImageDraw.Draw(image)
    for n in order.tolist():
        fill = (*shades[n].tolist(), 255)
        draw.polygon([tuple(point) for point in flat[mesh.triangles[n]].tolist()], fill=fill, outline=fill)
    data = io.BytesIO()
    image.resize((SIZE, SIZE), Image.Resampling.BOX).save(data, format="WEBP", quality=80)
    return data.getvalue()


def _block(mask: NDArray[np.bool_], spacing_mm: Floats) -> NDArray[np.intp]:
    """Return how many voxels along each axis become one, so that the surface has about `QUADS` squares."""
    area_mm2 = 0.0
    for axis in range(3):
        faces = np.count_nonzero(np.diff(mask, axis=axis, prepend=False, append=False))
        area_mm2 += faces * float(np.prod(spacing_mm)) / spacing_mm[axis]
    blocks = np.rint(np.sqrt(area_mm2 / QUADS) / spacing_mm)
    block: NDArray[np.intp] = np.maximum(1, blocks).astype(np.intp)
    while np.prod(np.ceil(mask.shape / block)) > CELLS:
        block[np.argmin(block * spacing_mm)] += 1
    return block


def _shares(mask: NDArray[np.bool_], block: NDArray[np.intp]) -> Floats:
    """Return the share of each block inside the mask, with a frame of two empty blocks around."""
    counts: NDArray[Any] = mask
    for axis, size in enumerate(block):
        starts = np.arange(0, counts.shape[axis], size)
        counts = np.add.reduceat(counts, starts, axis=axis, dtype=np.float32)
    return np.pad(counts / float(block.prod()), 2).astype(np.float64)


def _smoothed(share: Floats) -> Floats:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(share, 0.6))


def _with_thin_parts(smooth: Floats, share: Floats) -> Floats:
    """Fill each block with some mask where smoothing lost it, as for parts thinner than a block or two."""
    from scipy.ndimage import binary_dilation

    near = binary_dilation(smooth > 0.5, np.ones((3, 3, 3), dtype=np.bool_))
    return np.where((share > 0) & ~near, 1.0, smooth)


def _net(share: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Return the surface at share 0.5: vertices (n, 3) in blocks from the inner frame, triangles (m, 3)."""
    inside = share > 0.5
    cells = tuple(n - 1 for n in share.shape)
    total, count = np.zeros((*cells, 3)), np.zeros(cells)
    quads = []
    for axis in range(3):
        here = np.moveaxis(inside, axis, 0)
        at = np.argwhere(np.moveaxis(here[1:] != here[:-1], 0, axis))  # edges that the surface crosses
        next_to = at + np.eye(3, dtype=np.intp)[axis]
        start, end = share[tuple(at.T)], share[tuple(next_to.T)]
        crossing = at + np.outer((0.5 - start) / (end - start), np.eye(3)[axis])
        one, other = (axis + 1) % 3, (axis + 2) % 3
        ring = []
        for a, b in ((0, 0), (-1, 0), (-1, -1), (0, -1)):
            cell = at.copy()
            cell[:, one] += a
            cell[:, other] += b
            np.add.at(total, tuple(cell.T), crossing)
            np.add.at(count, tuple(cell.T), 1)
            ring.append(np.ravel_multi_index(tuple(cell.T), cells))
        quad = np.stack(ring, axis=1)
        # Seen from outside the ring runs counterclockwise where the surface leaves along the axis.
        leaving = inside[tuple(at.T)]
        quads.append(np.where(leaving[:, None], quad, quad[:, ::-1]))
    used = np.flatnonzero(count)
    number = np.zeros(count.size, dtype=np.intp)
    number[used] = np.arange(used.size)
    corners = number[np.concatenate(quads)]
    vertices = total.reshape(-1, 3)[used] / count.ravel()[used, None]
    return vertices - 1, np.concatenate((corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]))
