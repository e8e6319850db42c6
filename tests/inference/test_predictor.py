import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.threshold import Threshold, ball

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, MemoryLimitError, MissingError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference import Predictor, Settings, arrays, open_predictor
from c3s3_seg.inference.backends import select
from c3s3_seg.inference.domain_check import NOT_COMPARED, DomainError, check_is_scan
from c3s3_seg.phantom import simulate

ANY: dict[str, Any] = {"allow_out_of_domain": True}


@pytest.fixture(scope="module")
def phantom():
    return simulate(20_261)


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.find("phantom")


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_a_predictor_without_a_network_is_refused(bundle: ModelBundle) -> None:
    with pytest.raises(InputError, match="found no network, wanted at least one backend"):
        Predictor(bundle.task, [])


def test_an_unseen_phantom_is_segmented_in_its_own_geometry(bundle, phantom) -> None:
    prediction = open_predictor(bundle, backend="openvino")(phantom.scan)
    assert prediction.mask.geometry is phantom.scan.geometry
    assert dice(prediction.mask.array > 0, phantom.truth.array > 0) >= 0.95
    count = int((prediction.mask.array == 1).sum())
    assert prediction.volume_ml["left_atrium"] == pytest.approx(count * phantom.scan.geometry.voxel_ml)


@pytest.mark.slow
def test_every_runtime_gives_the_same_mask(bundle, phantom) -> None:
    masks = {
        name: open_predictor(bundle, backend=name)(phantom.scan).mask.array
        for name in ("openvino", "onnx", "torch")
    }
    for name in ("onnx", "torch"):
        assert (masks[name] != masks["openvino"]).sum() <= 2, name


def test_tiles_ensemble_and_probabilities(bundle, phantom) -> None:
    settings = Settings(overlap=0.5, probabilities=True)
    prediction = open_predictor(bundle, settings=settings, ensemble=True)(phantom.scan)
    assert prediction.tiles > 1
    probability = prediction.probabilities["left_atrium"].array
    assert probability.shape == phantom.scan.array.shape
    assert 0 <= probability.min() <= probability.max() <= 1.0001
    inside = prediction.mask.array > 0
    assert (probability[inside] > 0.5).all()
    assert dice(inside, phantom.truth.array > 0) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 1, 1), (120, 110, 1), (3, 40, 40), (60, 70, 4), (4, 60, 70)])
def test_odd_shapes_work(bundle, shape: tuple[int, int, int]) -> None:
    scan = Geometry.build(shape, (1.5, 1.5, 1.5)).volume(np.random.default_rng(0).normal(size=shape))
    for settings in (Settings(), Settings(overlap=0.5, weighting="gaussian", fill_holes=True)):
        assert open_predictor(bundle, settings=settings)(scan, **ANY).mask.array.shape == shape


@pytest.mark.parametrize("values", [np.zeros((40, 40, 40), np.int16), np.full((40, 40, 40), 1e8)])
def test_a_scan_with_nothing_to_see_is_refused(bundle, values: np.ndarray) -> None:
    scan = Geometry.build((40, 40, 40), (1.5, 1.5, 1.5)).volume(values)
    with pytest.raises(InputError, match="the same value"):
        open_predictor(bundle)(scan, **ANY)


@pytest.mark.parametrize("kind", ["bool", "complex64", "U3", "object"])
def test_voxels_that_are_no_real_numbers_are_refused(bundle, kind: str) -> None:
    scan = Geometry.build((40, 40, 40)).volume(np.ones((40, 40, 40)).astype(kind))
    with pytest.raises(InputError, match=f"found voxels of type .*{kind}, wanted integers or floating"):
        open_predictor(bundle)(scan)


def test_settings_of_another_kind_are_refused(bundle) -> None:
    wrong: Any = {"overlap": 0.5}
    with pytest.raises(InputError, match="found settings of type dict, wanted Settings"):
        open_predictor(bundle, settings=wrong)


def test_only_true_and_false_allow_something(bundle) -> None:
    scan = Geometry.build((40, 40, 40)).volume(ball((40, 40, 40), 10))
    with pytest.raises(InputError, match="found ensemble='no', wanted True or False"):
        open_predictor(bundle, ensemble="no")  # type: ignore[arg-type]
    predictor = Predictor(bundle.task, [Threshold(0.5)])
    with pytest.raises(InputError, match="found allow_out_of_domain='no', wanted True or False"):
        predictor(scan, allow_out_of_domain="no")  # type: ignore[arg-type]


def test_a_mask_is_no_scan(bundle, phantom) -> None:
    """A mask and a scan whose sampled voxels are nearly all 0; the file of a mask may be of any type."""
    predictor = open_predictor(bundle)
    for kind in (np.uint8, np.float32):
        mask = phantom.truth.geometry.volume(phantom.truth.array.astype(kind))
        with pytest.raises(DomainError, match="it holds the values 0, 1 and no others, as a mask does"):
            predictor(mask)
    mask.array[0, 0, 0] = 2.5
    assert check_is_scan(mask).level == "pass"
    found = predictor.check(phantom.truth, allow_out_of_domain=True)
    assert found.check.level == "refuse"
    assert check_is_scan(phantom.scan).level == "pass"


@pytest.mark.parametrize("package", ["nibabel.nifti1", "SimpleITK.SimpleITK"])
def test_an_image_of_another_package_is_to_be_given_as_a_file(bundle, package: str) -> None:
    image: Any = type("Image", (), {"__module__": package})()
    with pytest.raises(InputError, match=r"wanted a Volume or the path of a scan\. Save the image to a file"):
        open_predictor(bundle)(image)
    array: Any = np.zeros((2, 2, 2))
    with pytest.raises(InputError, match=r"found ndarray, .*left, back and head \(LPS\)"):
        open_predictor(bundle)(array)


def test_a_prediction_knows_the_values_of_its_labels(bundle, phantom) -> None:
    assert open_predictor(bundle)(phantom.scan).labels == {"left_atrium": 1}


def test_a_model_may_be_given_by_its_name(bundle, phantom) -> None:
    by_name = open_predictor("phantom")
    assert np.array_equal(by_name(phantom.scan).mask.array, open_predictor(bundle)(phantom.scan).mask.array)
    with pytest.raises(InputError, match="there is no model phantoms"):
        open_predictor("phantoms")


def test_an_offset_of_all_grey_values_changes_no_mask(bundle) -> None:
    scan = simulate(2).scan
    predictor = open_predictor(bundle)
    wanted = predictor(scan).mask.array
    assert wanted.any()
    moved = scan.geometry.volume(scan.array.astype(np.float64) + 1e8)
    assert (predictor(moved).mask.array == wanted).mean() > 0.9999
    with pytest.raises(InputError, match="a range that float32 does not hold"):
        predictor(scan.geometry.volume(scan.array.astype(np.float64) * 1e300))


@pytest.mark.parametrize(("limit", "share"), [(1e9, 0.0), (-1e9, 1.0)])
@pytest.mark.parametrize("overlap", [None, 0.5])
def test_all_background_and_all_foreground(bundle, limit: float, share: float, overlap: float | None) -> None:
    scan = Geometry.build((70, 60, 50), (1.5, 1.2, 2.0)).volume(ball((70, 60, 50), 20))
    settings = Settings(overlap=overlap, fill_holes=True)
    prediction = Predictor(bundle.task, [Threshold(limit)], settings)(scan, **ANY)
    assert (prediction.mask.array == 1).mean() == share
    assert prediction.postprocessed == {}


def test_a_model_without_a_domain_says_that_nothing_was_compared(bundle, phantom) -> None:
    task = replace(bundle.task, domain=None)
    found = Predictor(task, [Threshold(0.5)]).check(phantom.scan).check
    assert (found.level, found.remarks) == ("unchecked", (NOT_COMPARED,))
    assert Predictor(bundle.task, [Threshold(0.5)]).check(phantom.scan).check.level == "pass"
    other = replace(phantom.scan, source=replace(phantom.scan.source, modality="CT"))
    with pytest.raises(DomainError, match="its modality is CT, wanted MR"):
        Predictor(task, [Threshold(0.5)]).check(other)


def test_a_region_that_is_too_small_is_blamed_itself(bundle, phantom) -> None:
    with pytest.raises(DomainError, match=r"field of view is .* Give another region \(roi=\)"):
        Predictor(bundle.task, [Threshold(0.5)]).check(phantom.scan, roi="0:1,0:40,0:40")


LARGE = """
import re, sys
from dataclasses import replace
import numpy as np
sys.path.insert(0, "tests")
from helpers.threshold import Threshold, ball
from c3s3_seg import Geometry, ModelBundle, Predictor, Settings
shape = (240, 240, 400)
task = replace(ModelBundle.find("phantom").task, domain=None)
scan = Geometry.build(shape, (1.8,) * 3).volume(ball(shape, 100))
settings = Settings(overlap=0.0, fill_holes=True)
prediction = Predictor(task, [Threshold(0.5)], settings)(scan)
same = (prediction.mask.array == scan.array).all()
# Not ru_maxrss: a process that was begun by a larger one takes over its peak.
peak_kb = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]
print(bool(same), prediction.tiles, int(peak_kb) // 1024)
"""


@pytest.mark.slow
def test_a_very_large_scan_fits() -> None:
    """For 23 million voxels, scan, network input and mask take 0.2 GB; everything else takes little."""
    answer = subprocess.run(
        [sys.executable, "-c", LARGE],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")},
    )
    same, tiles, peak_mb = answer.stdout.split()
    assert (same, int(tiles)) == ("True", 5 * 5 * 9)
    assert int(peak_mb) < 400


@pytest.mark.slow
def test_the_steps_can_be_run_apart_and_by_threads(bundle, phantom) -> None:
    from concurrent.futures import ThreadPoolExecutor

    predictor = open_predictor(bundle)
    expected = predictor(phantom.scan).mask.array
    with ThreadPoolExecutor(3) as pool:
        prepared = list(pool.map(predictor.prepare, [predictor.check(phantom.scan)] * 3))
        found = list(pool.map(lambda p: predictor.to_scan_grid(p, predictor.network(p)), prepared[:1]))
        found += [pool.submit(predictor.to_scan_grid, p, predictor.network(p)).result() for p in prepared[1:]]
    for prediction in found:
        assert (prediction.mask.array != expected).sum() <= 2
        assert set(prediction.seconds) == {"prepare", "network", "to_scan_grid"}


def test_flips_average_over_mirrored_views(bundle, phantom) -> None:
    """A scan and its mirror image have the same eight mirrored views, so their masks are mirrored too."""
    settings = Settings(mirroring=(0, 1, 2), keep_largest=False, overlap=0.0)
    predictor = open_predictor(bundle, settings=settings)
    shape = (48, 48, 48)
    middle = phantom.scan.array[20:68, 20:68, 4:52]
    grid = Geometry.build(shape, (1.8, 1.8, 1.8))
    here = predictor(grid.volume(np.ascontiguousarray(middle)), **ANY).mask.array
    there = predictor(grid.volume(np.ascontiguousarray(middle[::-1])), **ANY).mask.array
    assert here.any()
    assert (here[::-1] != there).sum() <= 2


def test_turning_the_voxels_does_not_move_the_mask(bundle, phantom) -> None:
    """The same scan stored with other axes gives the same mask in mm."""
    geometry = phantom.scan.geometry
    affine = geometry.affine @ np.array(
        [[0, 0, -1, geometry.shape[0] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]]
    )
    turned = np.flip(phantom.scan.array, 0).transpose(1, 2, 0)
    scan = Geometry(turned.shape, affine).volume(turned)
    predictor = open_predictor(bundle)
    here, there = predictor(phantom.scan).mask.array, predictor(scan).mask.array
    assert (np.flip(here, 0).transpose(1, 2, 0) != there).sum() <= 2


def test_what_cannot_be_had_is_an_error(bundle, monkeypatch) -> None:
    monkeypatch.setattr(select, "PACKAGES", {**select.PACKAGES, "onnx": ("no_such_package", "pip install x")})
    with pytest.raises(
        MissingError, match=r"backend 'onnx' needs no_such_package, which is not installed\. pip install x"
    ):
        open_predictor(bundle, backend="onnx")


def test_an_ensemble_of_one_is_refused() -> None:
    with pytest.raises(InputError, match="holds one network"):
        open_predictor(single(ModelBundle.find("phantom")), ensemble=True)


def single(bundle: ModelBundle) -> ModelBundle:
    from dataclasses import replace

    return replace(bundle, manifest=replace(bundle.manifest, networks=bundle.networks[:1]))


def modules_of(code: str) -> set[str]:
    """Return the top-level modules, and all modules of this package, that are loaded after this code."""
    answer = subprocess.run(
        [sys.executable, "-c", code + "\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = answer.stdout.splitlines()[-1].split()
    return {name if name.startswith("c3s3_seg") else name.split(".")[0] for name in names}


PREDICT = """
import sys
from c3s3_seg.cli import main
sys.argv = ["c3s3-seg", "predict", "{scan}", "-o", "{out}", "--model", "phantom"]
try:
    main()
except SystemExit as end:
    if end.code:
        raise
"""
UNUSED = {
    "torch", "onnx", "onnxruntime", "onnxscript", "pydicom", "safetensors", "tensorboard", "PIL", "contourpy",
    "matplotlib", "pandas", "monai", "c3s3_seg.training", "c3s3_seg.export", "c3s3_seg.models.blocks",
    "c3s3_seg.phantom", "scipy", "highdicom", "plotly", "h5py", "c3s3_seg.report.page",
    "c3s3_seg.report.mask_metadata", "c3s3_seg.io.dicom.load", "c3s3_seg.io.dicom.series",
    "c3s3_seg.io.dicom_objects.seg_write", "c3s3_seg.io.dicom_objects.rtstruct_write",
    "c3s3_seg.batch.verification", "c3s3_seg.batch.worker_pool", "c3s3_seg.system.process_pool",
    "absl",  # part of OpenVINO's conversion tools
}  # fmt: skip


@pytest.mark.slow
def test_predict_imports_nothing_that_it_does_not_use(phantom, tmp_path: Path) -> None:
    from c3s3_seg import save

    save(phantom.scan, tmp_path / "scan.nii.gz")
    loaded = modules_of(PREDICT.format(scan=tmp_path / "scan.nii.gz", out=tmp_path / "out"))
    assert loaded & UNUSED == set()
    assert {"openvino", "numpy"} <= loaded


def test_the_unused_modules_exist() -> None:
    # A module that was renamed could never be found among those that were imported.
    assert [name for name in sorted(UNUSED) if name.startswith("c3s3_seg") and not find_spec(name)] == []


def test_help_imports_next_to_nothing() -> None:
    code = "from c3s3_seg.cli import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass"
    loaded = modules_of(code)
    assert loaded & (UNUSED | {"numpy", "scipy", "openvino", "SimpleITK", "pydantic"}) == set()
    plain = (
        modules_of("import typer.main, typer.rich_utils") if "rich" in loaded else modules_of("import typer")
    )
    ours = {name for name in loaded - plain if not name.startswith("c3s3_seg")}
    assert len(ours) <= 26, sorted(ours)
    assert len({name for name in loaded if name.startswith("c3s3_seg")}) <= 26


def test_prediction_in_python_imports_only_what_it_needs() -> None:
    code = """
import numpy as np
from c3s3_seg import Geometry, ModelBundle, open_predictor
scan = Geometry.build((48, 48, 48), (2, 2, 2)).volume(np.indices((48, 48, 48)).sum(axis=0) % 2)
open_predictor(ModelBundle.find("phantom"), backend="openvino")(scan, allow_out_of_domain=True)
"""
    loaded = modules_of(code)
    # In a process not started by this program, OpenVINO imports all its modules.
    assert loaded & ((UNUSED - {"absl"}) | {"SimpleITK", "typer", "rich"}) == set()
    assert "scipy" not in loaded  # an empty mask has no components


def test_a_scan_larger_than_the_memory_at_the_models_spacing_is_refused(
    noise: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = open_predictor(ModelBundle.find("phantom"))
    checked = made.check(noise, **ANY)
    size = made.prepare(checked).array.size
    monkeypatch.setattr(arrays, "available_memory", lambda: 12 * size)
    made.prepare(checked)
    monkeypatch.setattr(arrays, "available_memory", lambda: 12 * size - 1)
    with pytest.raises(MemoryLimitError, match="at the model's spacing this scan takes"):
        made.prepare(checked)
    monkeypatch.setattr(arrays, "available_memory", lambda: 3 * 12 * size - 1)
    made.prepare(checked)
    shared = open_predictor(ModelBundle.find("phantom"), settings=Settings(processes=3))
    with pytest.raises(MemoryLimitError, match=r"GB are free for 3 workers. Give fewer --workers"):
        shared.prepare(checked)
