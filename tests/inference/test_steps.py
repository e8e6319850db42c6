"""What the steps of a `Predictor` refuse when they are run separately; with the real network of `phantom`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c3s3_seg.bundle import Label
from c3s3_seg.bundle.preprocessing import Intensity
from c3s3_seg.errors import GeometryError, InputError, MemoryLimitError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference import BackendRequest, Predictor, open_predictor
from c3s3_seg.inference.domain_check import DomainError
from c3s3_seg.inference.settings import Settings
from c3s3_seg.inference.steps import PreparedScan
from c3s3_seg.inference.streaming import Slab
from c3s3_seg.io import load
from c3s3_seg.phantom import Simulator, simulate

LARGER = Simulator(shape=(140, 124, 62), spacing_mm=(1.5, 1.5, 2.2))


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return open_predictor("phantom", backend=BackendRequest(threads=1))


@pytest.fixture(scope="module")
def scan() -> Volume:
    return simulate(31_050).scan


@pytest.fixture(scope="module")
def larger() -> Volume:
    return simulate(31_050, LARGER).scan


@pytest.fixture(scope="module")
def prepared(predictor: Predictor, scan: Volume) -> PreparedScan:
    return predictor.prepare(predictor.locate(predictor.check(scan)))


def test_probabilities_make_one_mask(predictor: Predictor, prepared: PreparedScan) -> None:
    probabilities = predictor.network(prepared)
    assert predictor.to_scan_grid(prepared, probabilities).volume_ml["left_atrium"] > 50
    with pytest.raises(
        InputError, match=r"were already taken.*found 0 planes, wanted .*Run the network again"
    ):
        predictor.to_scan_grid(prepared, probabilities)


def test_probabilities_of_which_some_were_taken_make_no_mask(
    predictor: Predictor, prepared: PreparedScan
) -> None:
    probabilities = predictor.network(prepared)
    taken = next(probabilities.slabs)
    wanted = rf"were already taken.*found planes from {taken.stop} on, wanted those from 0 on"
    with pytest.raises(InputError, match=wanted):
        predictor.to_scan_grid(prepared, probabilities)


def test_a_larger_scan_is_not_prepared_before_the_organ_is_located(
    predictor: Predictor, larger: Volume
) -> None:
    """Its intensities, unlike those of the training scans, are compared by `locate`."""
    values = np.exp(larger.array / larger.array.max() * 6).astype(np.float32)
    bright = larger.geometry.volume(values)
    with pytest.raises(DomainError):
        predictor(bright)
    checked = predictor.check(bright)
    with pytest.raises(InputError, match=r"has not been located in this scan.*Call locate first"):
        predictor.prepare(checked)
    allowed = predictor.check(bright, allow_out_of_domain=True)
    with pytest.raises(InputError, match="has not been located"):
        predictor.prepare(allowed)


def test_a_sheared_scan_is_refused_as_its_file_is(predictor: Predictor, scan: Volume, tmp_path: Path) -> None:
    """Each step along k, of one mm for a header that is easy to write, also moves 0.36 mm along j."""
    affine = np.eye(4)
    affine[1, 2] = 0.36
    sheared = Geometry(scan.geometry.shape, affine).volume(scan.array)
    sides = " ".join(str(n) for n in sheared.geometry.shape)
    path = tmp_path / "scan.mhd"
    path.write_text(
        f"ObjectType = Image\nNDims = 3\nDimSize = {sides}\nElementType = MET_FLOAT\n"
        "TransformMatrix = 1 0 0 0 1 0 0 0.338717 0.940882\nElementSpacing = 1 1 1.062826\n"
        "Offset = 0 0 0\nBinaryData = True\nElementDataFile = scan.raw\n"
    )
    (tmp_path / "scan.raw").write_bytes(scan.array.T.astype("<f4").tobytes())
    for refuse in (lambda: load(path), lambda: predictor(sheared, allow_out_of_domain=True)):
        with pytest.raises(GeometryError, match=r"the axes are not perpendicular: sheared by 19\.8 degrees"):
            refuse()


def full(*_: Any, **__: Any) -> None:
    """Raise numpy's own error: no address space has a petabyte."""
    np.empty(1 << 50, np.uint8)


@pytest.mark.parametrize(
    ("function", "aim"),
    [
        ("predictor.check_is_scan", "check the scan"),
        ("predictor.find_region", "search for the organ"),
        ("place.refuse_flat", "bring the scan to the model's grid"),
        ("mask_builder.postprocess_all", "make the mask"),
    ],
)
def test_full_memory_is_an_error_of_this_package_in_every_step(
    predictor: Predictor, scan: Volume, larger: Volume, monkeypatch: Any, function: str, aim: str
) -> None:
    monkeypatch.setattr(f"c3s3_seg.inference.{function}", full)
    given = larger if function.endswith("find_region") else scan
    named = replace(given, source=replace(given.source, path=Path("case.nii.gz")))
    with pytest.raises(MemoryLimitError, match=f"^case.nii.gz: the memory did not suffice to {aim}") as told:
        predictor(named)
    assert isinstance(told.value.__cause__, MemoryError)


def test_values_of_the_other_byte_order_are_segmented(predictor: Predictor, scan: Volume) -> None:
    values = (scan.array / scan.array.max() * 1000).astype(np.uint32) + np.uint32(1 << 31)
    masks = [predictor(scan.geometry.volume(values.astype(kind))).mask.array for kind in ("<u4", ">u4")]
    assert masks[0].any()
    np.testing.assert_array_equal(*masks)


class FirstFails:
    """The network of a bundle, whose first tiles fill the memory: in OpenVINO's words."""

    def __init__(self, network: Callable[[np.ndarray], np.ndarray], failures: int) -> None:
        self.network, self.failures, self.name = network, failures, "openvino"

    def __call__(self, patches: np.ndarray) -> np.ndarray:
        self.failures -= 1
        if self.failures >= 0:
            raise RuntimeError("Exception from src/inference: std::bad_alloc")
        return self.network(patches)


def test_tiles_are_never_smaller_than_in_training(predictor: Predictor, scan: Volume) -> None:
    """With tiles of 16 x 48 x 48, this network finds an eighth of the organ."""
    assert predictor(scan).tile == predictor.task.patch
    failing = Predictor(predictor.task, [FirstFails(predictor.backends[0], 1)])
    with pytest.raises(MemoryLimitError, match="48 x 48 x 48 in openvino, and tiles are never smaller than"):
        failing(scan)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_voxel_that_is_no_number_is_refused_before_the_organ_is_searched(
    predictor: Predictor, larger: Volume, value: float
) -> None:
    """One such voxel in a scan larger than in training moved the region and changed the mask."""
    values = larger.array.astype(np.float32)
    values[0, 0, 0] = value
    broken = larger.geometry.volume(values)
    for allowed in (False, True):
        with pytest.raises(InputError, match=r"found NaN or infinite intensities; wanted numbers"):
            predictor.check(broken, allow_out_of_domain=allowed)
    x, y, z = (n // 4 for n in values.shape)
    region = f"{x}:{3 * x},{y}:{3 * y},{z}:{3 * z}"  # the voxel is outside of it
    assert predictor.check(broken, roi=region, allow_out_of_domain=True).check.region is not None
    with pytest.raises(InputError, match="found NaN or infinite"):
        predictor.check(broken, roi=f"0:{x},0:{y},0:{z}", allow_out_of_domain=True)


@pytest.mark.parametrize("wrong", [None, "scan.nii.gz", 5])
def test_a_step_that_is_given_something_else_says_what_it_takes(predictor: Predictor, wrong: Any) -> None:
    with pytest.raises(InputError, match="wanted a Volume"):
        predictor.check(wrong)
    for step in (predictor.locate, predictor.prepare):
        with pytest.raises(InputError, match=r"found checked.*, wanted what Predictor\.check or"):
            step(wrong)
    for step in (predictor.network, predictor.compile_for, lambda p: predictor.to_scan_grid(p, wrong)):
        with pytest.raises(InputError, match=r"found prepared.*, wanted what Predictor\.prepare has"):
            step(wrong)


def test_a_progress_that_cannot_be_called_is_refused(predictor: Predictor, scan: Volume) -> None:
    """The network had run by then, and a TypeError named no argument."""
    with pytest.raises(InputError, match=r"found progress=5, wanted a function \(what, done, total\)"):
        predictor(scan, progress=5)  # type: ignore[arg-type]


def test_probabilities_of_another_scan_make_no_mask(
    predictor: Predictor, scan: Volume, prepared: PreparedScan
) -> None:
    """Two scans of the same grid gave the one's mask in the geometry of the other."""
    other = predictor.prepare(predictor.check(scan.geometry.volume(scan.array[::-1].copy())))
    with pytest.raises(InputError, match=r"not those of this prepared scan\. Give both: to_scan_grid"):
        predictor.to_scan_grid(prepared, predictor.network(other))
    with pytest.raises(InputError, match=r"found probabilities.*, wanted what Predictor\.network has"):
        predictor.to_scan_grid(prepared, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("differs", ["domain", "recipe", "labels", "modality"])
def test_a_scan_of_another_model_is_refused_at_every_step(
    predictor: Predictor, scan: Volume, prepared: PreparedScan, differs: str
) -> None:
    """A model segmented a scan that only another one had compared with its training scans."""
    recipe = replace(predictor.task.recipe, intensity=Intensity("window", 0.0, 100.0))
    other = {
        "domain": replace(predictor.task, domain=None),
        "recipe": replace(predictor.task, recipe=recipe),
        "labels": replace(predictor.task, labels=(Label("atria", 2),), domain=None),
        "modality": replace(predictor.task, modality="CT"),
    }[differs]
    model = Predictor(other, predictor.backends)
    checked, refused = predictor.check(scan), r"another model has checked or prepared .* Call all steps of"
    for step in (model.locate, model.prepare):
        with pytest.raises(InputError, match=refused):
            step(checked)
    for last in (model.network, lambda given: model.to_scan_grid(given, predictor.network(given))):
        with pytest.raises(InputError, match=refused):
            last(prepared)


def test_steps_of_two_predictors_of_one_model_fit(
    predictor: Predictor, scan: Volume, prepared: PreparedScan
) -> None:
    """A pipeline may have a predictor of its own in each thread."""
    same = Predictor(replace(predictor.task), predictor.backends)
    mask = same.to_scan_grid(prepared, same.network(prepared)).mask
    np.testing.assert_array_equal(mask.array, predictor(scan).mask.array)


def test_probabilities_of_more_networks_or_another_grid_make_no_mask(
    predictor: Predictor, prepared: PreparedScan
) -> None:
    """Of two networks that were kept apart, the mask was that of the first."""
    network = predictor.backends[0]
    both = Predictor(predictor.task, [network, network], Settings(uncertainty=True))
    x, y, z = prepared.shape
    with pytest.raises(InputError, match=r"found probabilities of shape \(4, .*, wanted \(2, "):
        predictor.to_scan_grid(prepared, both.network(prepared))
    with pytest.raises(InputError, match=r"found .* \(2, .*, wanted \(4, "):
        both.to_scan_grid(prepared, predictor.network(prepared))
    probabilities = predictor.network(prepared)
    probabilities.slabs = iter([Slab(0, 0, np.zeros((2, x, y + 1, z), np.float32))])
    wanted = rf"shape \(2, {x}, {y + 1}, {z}\), wanted \(2, {x}, {y}, {z}\)"
    with pytest.raises(InputError, match=wanted):
        predictor.to_scan_grid(prepared, probabilities)
