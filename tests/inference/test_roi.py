"""A scan larger than those in training: the organ is found, and the mask covers the whole scan."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.threshold import Threshold, ball

from c3s3_seg import ModelBundle, Prediction, open_predictor
from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.domain import Domain, measure
from c3s3_seg.bundle.preprocessing import Intensity, Recipe
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.box import Box, parse_box
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference.domain_check import DomainError
from c3s3_seg.inference.memory import ASSUMED, costs_of
from c3s3_seg.inference.predictor import CheckedScan, Predictor
from c3s3_seg.inference.roi import find_region
from c3s3_seg.inference.settings import Settings
from c3s3_seg.phantom import Phantom, Simulator, simulate

COARSE_MM = (1.95, 1.95, 2.8)  # not (1.25, 1.25, 1.8): a quarter of the voxels


@pytest.fixture(scope="module")
def larger() -> Phantom:
    """Return a heart in a scan that is about half as long again along each axis."""
    return simulate(31_050, Simulator(shape=(170, 150, 76)))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return open_predictor(ModelBundle.find("phantom"))


def located(predictor: Predictor, scan: Volume, **options: Any) -> CheckedScan:
    return predictor.locate(predictor.check(scan, **options))


def segment(predictor: Predictor, checked: CheckedScan) -> Prediction:
    prepared = predictor.prepare(checked)
    return predictor.to_scan_grid(prepared, predictor.network(prepared))


def dice(one: Volume, other: Volume) -> float:
    a, b = one.array > 0, other.array > 0
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


@pytest.mark.slow
def test_the_organ_is_found_in_a_larger_scan(predictor: Predictor, larger: Phantom) -> None:
    phantom = larger
    checked = located(predictor, phantom.scan)
    assert checked.check.result.larger
    assert checked.check.region is not None
    assert "found by" in checked.check.record()["notes"][0]
    found = segment(predictor, checked)
    assert found.mask.geometry is phantom.scan.geometry
    assert dice(found.mask, phantom.truth) > 0.9
    assert found.check == checked.check
    everywhere = predictor(phantom.scan, roi="0:170,0:150,0:76", allow_out_of_domain=True)
    assert dice(found.mask, phantom.truth) > dice(everywhere.mask, phantom.truth)


@pytest.mark.slow
def test_the_verdict_does_not_depend_on_other_options(predictor: Predictor, larger: Phantom) -> None:
    bundle, scan = ModelBundle.find("phantom"), larger.scan
    plain = located(predictor, scan).check.record()
    others = (
        located(open_predictor(bundle, settings=settings, ensemble=ensemble), scan).check.record()
        for settings, ensemble in (
            (Settings(uncertainty=True), False),
            (Settings(), True),
            (Settings(overlap=0.25, mirroring=(0,), min_volume_ml=1000.0), False),
        )
    )
    assert plain["region"]
    assert all(facts == plain for facts in others)


@pytest.mark.slow
def test_the_sizes_of_a_given_region_are_checked(predictor: Predictor) -> None:
    scan = simulate(31_052, Simulator(shape=(144, 133, 72), spacing_mm=COARSE_MM)).scan
    with pytest.raises(DomainError, match=r"of its sizes.*roi="):
        located(predictor, scan)
    checked = located(predictor, scan, roi="36:108,33:100,18:54")
    assert not checked.check.result.larger
    with pytest.raises(DomainError, match="field of view"):
        located(predictor, scan, roi="64:77,33:100,18:54")


@pytest.mark.slow
def test_windows_of_air_in_which_nothing_varies_are_passed_over(predictor: Predictor) -> None:
    phantom = simulate(31_050)
    low = phantom.scan.array.min()
    wide = np.pad(phantom.scan.array, ((90, 0), (0, 0), (0, 0)), constant_values=low)
    affine = phantom.scan.geometry.affine.copy()
    affine[:3, 3] = phantom.scan.geometry.to_mm((-90, 0, 0))
    checked = located(predictor, Geometry(wide.shape, affine).volume(wide))
    assert checked.check.region is not None
    assert checked.check.region.low[0] > 40
    truth = np.pad(phantom.truth.array, ((90, 0), (0, 0), (0, 0)))
    assert dice(segment(predictor, checked).mask, checked.scan.geometry.volume(truth)) > 0.85


def test_nothing_to_find_is_refused_unless_forced(predictor: Predictor) -> None:
    noise = np.random.default_rng(0).gamma(2, 50, (160, 150, 80)).astype(np.float32)
    scan = Geometry.build(noise.shape, (1.25, 1.25, 1.8)).volume(noise)
    with pytest.raises(DomainError, match=r"nothing like the organ was found.*roi="):
        located(predictor, scan)
    forced = located(predictor, scan, allow_out_of_domain=True)
    assert forced.check.allowed
    assert forced.check.region is None
    assert forced.check.record()["verdict"] == "refuse"


def test_a_region_that_is_given_is_taken(predictor: Predictor) -> None:
    phantom = simulate(31_051)
    checked = located(predictor, phantom.scan, roi="4:108,2:102,1:55")
    assert checked.check.record()["region"] == "x4:108,y2:102,z1:55"
    found = segment(predictor, checked)
    assert dice(found.mask, phantom.truth) > 0.9
    assert not found.mask.array[:4].any()


def test_boxes() -> None:
    grid = Geometry.build((10, 20, 30), (1, 2, 3), (5, 5, 5))
    assert parse_box("1:4, 0:20,3:9", grid) == Box((1, 0, 3), (4, 20, 9))
    assert parse_box("-5:99,0:99,0:99", grid) == Box((0, 0, 0), (10, 20, 30))
    assert parse_box("6:8,5:9,5:11mm", grid) == Box((1, 0, 0), (4, 3, 3))
    thick = Geometry.build((10, 10, 8), (1, 1, 10), (0, 0, 0))
    for region, low, high in (("16:34", 2, 4), ("15:35", 2, 4), ("14.9:35.1", 1, 5), ("20:20", 2, 3)):
        assert parse_box(f"0:9,0:9,{region}mm", thick) == Box((0, 0, low), (10, 10, high))
    for text in ("1:2", "1:2,3:4", "a:b,c:d,e:f", "1:2,3:4,5:6cm"):
        with pytest.raises(InputError, match="wanted x0:x1"):
            parse_box(text, grid)
    for text in ("4:1,0:20,3:9", "6:8,5:9,11:-5mm"):
        with pytest.raises(InputError, match=r"begins after its end\. Give the lower end of an axis first"):
            parse_box(text, grid)
    for wrong in ((0, 10, 0, 10, 0, 10), 5, np.ones((10, 20, 30), bool)):
        with pytest.raises(InputError, match=r"found roi.*, wanted a text: x0:x1,y0:y1,z0:z1 in voxels"):
            parse_box(wrong, grid)  # type: ignore[arg-type]
    assert parse_box("5.6:6.4,5:9,-20:4mm", grid) == Box((1, 0, 0), (2, 3, 1))  # to the first voxel's edge
    outside = ("5:6,5:9,-20:3.4mm", "5:6,5:9,93.6:99mm", "0:4.4,5:9,5:11mm")
    for text in ("5:5,0:9,0:9", "20:30,0:9,0:9", *outside):
        with pytest.raises(InputError, match="holds no voxel"):
            parse_box(text, grid)


def test_crop_and_paste_are_inverse() -> None:
    grid = Geometry.build((10, 20, 30), (1, 2, 3), (5, 5, 5))
    scan = grid.volume(np.arange(6000).reshape(grid.shape))
    box = Box((1, 2, 3), (5, 9, 20))
    part = box.crop(scan)
    assert np.allclose(part.geometry.to_mm((0, 0, 0)), grid.to_mm((1, 2, 3)))
    whole = box.paste(part, grid)
    assert np.array_equal(whole.array[1:5, 2:9, 3:20], scan.array[1:5, 2:9, 3:20])
    assert whole.array.sum() == part.array.sum()


def ct(depth: int, seed: int = 0) -> Volume:
    """Return a bright ball in noisy air below the window of the recipe: (48, 48, depth) voxels of 2 mm."""
    shape, random = (48, 48, depth), np.random.default_rng(seed)
    array = random.normal(-1000, 5, shape)
    near = ball((48, 48, 48), 20) > 0
    array[:, :, :48][near] = random.normal(0, 10, near.sum())
    array[:, :, :48][ball((48, 48, 48), 12) > 0] = 200
    return Geometry.build(shape, (2, 2, 2)).volume(array.astype(np.int16))


def ct_task() -> Task:
    domain = measure([ct(48, seed) for seed in range(4)], "absolute")
    domain = replace(domain, volume_ml={"ball": (50.0, 70.0)})
    recipe = Recipe((2.0, 2.0, 2.0), Intensity("window", -100, 300))
    return Task("x", "CT", (Label("ball", 1),), recipe, (48, 48, 48), domain=domain)


def test_windows_of_air_outside_of_the_intensities_of_a_recipe_are_passed_over() -> None:
    predictor = Predictor(ct_task(), [Threshold(0.6)])
    found = predictor(ct(140))
    assert found.check.region is not None
    assert found.check.region.high[2] <= 60
    assert (found.mask.array[:, :, :48] == ball((48, 48, 48), 12)).all()


class FullAbove(Threshold):
    """A network for which memory is full with tiles of more than 32 voxels along an axis."""

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        if max(patches.shape) > 32:
            raise RuntimeError("std::bad_alloc")
        return super().__call__(patches)


def test_smaller_tiles_in_the_coarse_search_are_noted_once() -> None:
    task = replace(ct_task(), patch=(32, 32, 32))
    found = Predictor(task, [FullAbove(0.6)])(ct(140))
    told = "memory was full with tiles of 48 x 48 x 48 in threshold; went on with tiles of 32 x 32 x 32"
    assert found.check.notes[1:] == (f"coarse search: {told}",)
    assert (found.mask.array[:, :, :48] == ball((48, 48, 48), 12)).all()


def test_the_coarse_search_counts_on_the_memory_of_its_own_network() -> None:
    """With two networks of 32 filters, the single network that searches takes half of their memory."""
    network = replace(ASSUMED, filters=32)
    costs = costs_of("openvino", [network, network])
    predictor = Predictor(ct_task(), [Threshold(0.6)] * 2, costs=costs)
    assert predictor._foreground().predictor.costs == costs_of("openvino", [network])


def test_a_region_reaches_the_last_planes_of_a_scan() -> None:
    """404 voxels are 67 blocks of 6, and 2 voxels that no block holds."""
    domain = Domain(
        *(5, ((1.25, 1.25),) * 3, ((60.0, 60.0),) * 3, ((48, 48),) * 3, "scaled"),
        *(tuple(np.linspace(0, 1, 19)), 0.1, None),
    )
    array = np.zeros((404, 64, 64), np.uint8)
    array[300:, 20:50, 20:50] = 100
    scan = Geometry.build(array.shape, (0.25, 0.25, 0.25)).volume(array)
    box, _ = find_region(scan, (1.25,) * 3, domain, lambda part: (part.array > 50).astype(np.float32))
    assert box.high == array.shape
    left = Geometry.build(array.shape, (0.25, 0.25, 0.25)).volume(array[::-1].copy())
    box, _ = find_region(left, (1.25,) * 3, domain, lambda part: (part.array > 50).astype(np.float32))
    assert box.low[0] == 0
    assert box.high[0] < 300


# Planes of 10 x 10 voxels of 2 mm have 0.8 ml; plausible are 0.4 x 8 = 3.2 ml to 2 x 10 = 20 ml.
BALLS = Domain(
    *(5, ((2.0, 2.0),) * 3, ((60.0, 60.0),) * 3, ((30, 30),) * 3, "scaled"),
    *(tuple(np.linspace(0, 1, 19)), 0.1, {"ball": (8.0, 10.0)}),
)


def search(*blobs: tuple[float, int, int], pieces: bool = False) -> tuple[Box, tuple[str, ...]]:
    """Search blobs: the probability, the first plane and the number of planes of each."""
    array = np.zeros((40, 40, 120), np.float32)
    for probability, first, planes in blobs:
        array[15:25, 15:25, first : first + planes] = probability
    scan = Geometry.build(array.shape, (2.0,) * 3).volume(array)
    return find_region(scan, (2.0,) * 3, BALLS, lambda part: np.asarray(part.array), pieces=pieces)


def test_a_region_is_a_training_scan_or_the_organ_with_its_margin() -> None:
    box, (note,) = search((0.9, 40, 20))
    # Across, 60 mm are 30 voxels around 15 to 25. Along z, 40 mm and twice 15 mm are 35 around 40 to 60.
    assert box == Box((5, 5, 32), (35, 35, 67))
    assert note.endswith("found by 28 coarse windows (16 ml)")


def test_the_likeliest_component_is_taken_not_the_largest() -> None:
    """8 ml at 0.9 have the weight 6.48, and 9.6 ml at 0.6 have 3.46."""
    box, notes = search((0.6, 20, 12), (0.9, 80, 10))
    assert box == Box((5, 5, 70), (35, 35, 100))
    assert len(notes) == 1


@pytest.mark.parametrize(("probability", "told"), [(0.75, False), (0.76, True)])
def test_what_is_nearly_as_likely_is_told(probability: float, told: bool) -> None:
    """The limit is 0.7 x 0.9^2, the square of 0.753."""
    _, notes = search((probability, 20, 10), (0.9, 80, 10))
    assert notes[1:] == (("something else was nearly as likely, of 8 ml at (39, 39, 49) mm",) if told else ())


def test_the_pieces_of_a_label_are_taken_together() -> None:
    """Of a pair of organs, one was segmented, and nothing was said of the other."""
    pair = ((0.9, 20, 6), (0.8, 80, 4))  # 4.8 and 3.2 ml; each has 30 voxels around it, both 74
    box, (note,) = search(*pair, pieces=True)
    assert box == Box((5, 5, 12), (35, 35, 91))
    assert note.endswith("(8 ml in 2 pieces)")
    assert search(*pair)[0] == Box((5, 5, 8), (35, 35, 38))
    # 2.4 ml each are no plausible organ, and together they are.
    assert search((0.9, 20, 3), (0.9, 80, 3), pieces=True)[0].low[2] < 20
    with pytest.raises(DomainError, match="nothing like the organ"):
        search((0.9, 20, 3), pieces=True)


def test_what_is_unlikely_or_too_much_is_no_further_piece() -> None:
    """0.8 ml of 4.8 ml are 0.17 of the weight; 12 and 12 ml are more than twice 10 ml."""
    assert search((0.9, 20, 6), (0.9, 80, 1), pieces=True)[0] == Box((5, 5, 8), (35, 35, 38))
    box, notes = search((0.9, 20, 15), (0.9, 80, 15), pieces=True)
    assert box.high[2] < 80
    assert "something else was nearly as likely, of 12 ml" in notes[1]


@pytest.mark.parametrize(("region", "cut"), [("0:48,0:48,0:60", False), ("0:48,0:48,0:24", True)])
def test_a_mask_that_a_region_cuts_is_questioned(region: str, cut: bool) -> None:
    """The ball ends at plane 36; the scan's own border cuts nothing."""
    found = Predictor(ct_task(), [Threshold(0.6)])(ct(140), roi=region, allow_out_of_domain=True)
    assert any("reaches the border of the region" in warning for warning in found.warnings) == cut
    wanted = ball((48, 48, 48), 12)[:, :, : 24 if cut else 48]
    assert (found.mask.array[:, :, : wanted.shape[2]] == wanted).all()


@pytest.mark.parametrize(("planes", "plausible"), [(3, False), (5, True), (24, True), (26, False)])
def test_a_component_of_an_implausible_size_is_passed_over(planes: int, plausible: bool) -> None:
    if plausible:
        assert f"({planes * 0.8:.0f} ml)" in search((1.0, 10, planes))[1][0]
        return
    with pytest.raises(DomainError, match="nothing like the organ was found"):
        search((1.0, 10, planes))
    box, notes = search((1.0, 10, planes), (0.6, 80, 10))
    assert (box.low[2], len(notes)) == (70, 1)
