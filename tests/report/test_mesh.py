"""Meshes of solids whose area, volume and position are known."""

import io

import numpy as np
import pytest
from conftest import rotation
from PIL import Image

from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.report.mesh import CELLS, QUADS, Mesh, _block, mesh_webp, surface_mesh


def ball(geometry: Geometry, radius_mm: float) -> np.ndarray:
    points = geometry.to_mm(np.moveaxis(np.indices(geometry.shape), 0, -1))
    middle = geometry.to_mm((np.array(geometry.shape) - 1) / 2)
    return np.asarray(np.linalg.norm(points - middle, axis=-1) < radius_mm)


def volume_ml(mesh: Mesh) -> float:
    """Return the signed volume of a mesh: negative if its triangles face inwards."""
    a, b, c = np.moveaxis(mesh.vertices_mm[mesh.triangles] - mesh.vertices_mm.mean(axis=0), 1, 0)
    return float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6000)


GRIDS = [
    Geometry.build((80, 80, 80), (1, 1, 1)),
    Geometry.build((100, 96, 40), (0.8, 0.8, 2.0), (-7, 30, 5), rotation(10, -20, 30)),
    Geometry.build((80, 80, 80), (1, 1, 1), direction=np.diag([-1.0, 1, 1])),
]


@pytest.mark.parametrize("geometry", GRIDS, ids=str)
@pytest.mark.parametrize("radius_mm", [6.0, 30.0])
def test_a_ball_keeps_its_place_and_volume(geometry: Geometry, radius_mm: float) -> None:
    mask = ball(geometry, radius_mm)
    mesh = surface_mesh(mask, geometry)
    middle = geometry.to_mm((np.array(geometry.shape) - 1) / 2)
    distances = np.linalg.norm(mesh.vertices_mm - middle, axis=1)
    assert distances == pytest.approx(radius_mm, abs=1.5)
    assert volume_ml(mesh) == pytest.approx(np.count_nonzero(mask) * geometry.voxel_ml, rel=0.08)
    assert len(mesh.triangles) < 4.5 * QUADS  # a block is a whole number of voxels


def test_the_mesh_is_closed() -> None:
    mesh = surface_mesh(ball(GRIDS[1], 20), GRIDS[1])
    sides = np.concatenate([mesh.triangles[:, [a, b]] for a, b in ((0, 1), (1, 2), (2, 0))])
    assert {tuple(side) for side in sides.tolist()} == {tuple(side[::-1]) for side in sides.tolist()}


def test_one_voxel_and_a_full_volume_have_surfaces() -> None:
    geometry = Geometry.build((6, 7, 8), (1, 2, 3))
    one = np.zeros(geometry.shape, bool)
    one[2, 3, 4] = True
    mesh = surface_mesh(one, geometry)
    assert mesh.vertices_mm.mean(axis=0) == pytest.approx([2, 6, 12])
    assert volume_ml(surface_mesh(np.ones(geometry.shape, bool), geometry)) > 0


def test_the_picture_shows_the_colours_and_nothing_around() -> None:
    mesh = surface_mesh(ball(GRIDS[0], 30), GRIDS[0])
    colours = np.tile(np.array([[200, 30, 30]], dtype=np.uint8), (len(mesh.vertices_mm), 1))
    with Image.open(io.BytesIO(mesh_webp(mesh, colours))) as image:
        pixels = np.asarray(image.convert("RGBA"))
    assert pixels[0, 0, 3] == 0
    assert pixels[280, 280, 3] == 255
    assert pixels[280, 280, 0] > 2 * pixels[280, 280, 1]


def test_a_thin_wall_and_thin_vessels_keep_their_surface() -> None:
    """The plate is one voxel thick and the blocks are 8, so only an eighth of each block is inside."""
    geometry = Geometry.build((300, 300, 10))
    plate = np.zeros(geometry.shape, bool)
    plate[:, :, 5] = True
    mesh = surface_mesh(plate, geometry)
    assert np.ptp(mesh.vertices_mm, axis=0)[:2] == pytest.approx([300, 300], abs=8)
    assert mesh.vertices_mm[:, 2] == pytest.approx(5, abs=8)
    mesh_webp(mesh, np.zeros((len(mesh.vertices_mm), 3), np.uint8))
    geometry = Geometry.build((80, 80, 80))
    vessels = ball(geometry, 10)
    vessels[40, 40, :] = vessels[40, :, 40] = True
    mesh = surface_mesh(vessels, geometry)
    assert np.ptp(mesh.vertices_mm, axis=0) == pytest.approx([20, 80, 80], abs=2)


def test_small_parts_that_lie_far_apart_need_little_memory() -> None:
    """Two specks in the corners of a scan: the box around both has 18 times as many voxels as `CELLS`."""
    mask = np.zeros((300, 300, 400), dtype=np.bool_)
    mask[2:5, 2:5, 2:5] = mask[-5:-2, -5:-2, -5:-2] = True
    geometry = Geometry.build(mask.shape, (0.5, 0.5, 0.5))
    assert np.prod(np.ceil(mask.shape / _block(mask, geometry.spacing_mm))) <= CELLS
    ends = surface_mesh(mask, geometry).vertices_mm
    far = geometry.to_mm(np.array([[3.0, 3, 3], [296, 296, 396]]))
    for speck in far:  # both are there, within a cell
        assert np.linalg.norm(ends - speck, axis=1).min() < 5
