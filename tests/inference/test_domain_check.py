"""The domain check: scans like those in training pass; differences are named and refused or warned of."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg import ModelBundle, open_predictor
from c3s3_seg.bundle import shipped_bundles
from c3s3_seg.bundle.domain import Domain, intensity_quantiles, measure
from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry, Source, Volume
from c3s3_seg.inference.domain_check import (
    CheckResult,
    DomainError,
    check_frame,
    check_intensities,
    check_volumes,
)
from c3s3_seg.io import load
from c3s3_seg.io.image.nifti_forms import DIRECTIONS
from c3s3_seg.training.bundles.domain import measure_domain, merge_domains

GRID = (1.5, 1.5, 1.5)


def scan(
    seed: int = 0, shape: tuple[int, int, int] = (60, 50, 40), spacing: float = 1.0, **source: object
) -> Volume:
    random = np.random.default_rng(seed)
    array = random.gamma(2.0 + 0.1 * seed, 100.0, shape).astype(np.float32)
    return Geometry.build(shape, (spacing,) * 3).volume(array, Source(**source))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def domain() -> Domain:
    return measure([scan(seed) for seed in range(5)], "scaled")


def reasons(found: Volume, domain: Domain) -> tuple[str, str]:
    verdict = check_frame(found, domain, "MR", GRID) + check_intensities(found, domain)
    return verdict.level, "; ".join((*verdict.refusals, *verdict.warnings))


def test_a_scan_like_the_others_passes(domain: Domain) -> None:
    assert reasons(scan(2), domain) == ("pass", "")
    assert reasons(scan(2, modality="MR"), domain) == ("pass", "")
    assert reasons(scan(2, shape=(40, 34, 27), spacing=1.5), domain)[0] == "pass"  # the model's own grid


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        (scan(2, modality="CT"), "refuse", "its modality is CT, wanted MR"),
        (scan(2, spacing=2.0, shape=(30, 25, 20)), "warn", "its spacing is 2 mm left-right"),
        (scan(2, spacing=5.0, shape=(12, 10, 8)), "refuse", "its spacing is 5 mm left-right"),
        (scan(2, shape=(40, 50, 40)), "warn", "its field of view is 40 mm left-right; trained on 60 mm"),
        (scan(2, shape=(20, 50, 40)), "refuse", "its field of view is 20 mm left-right"),
        (scan(2, shape=(60, 50, 60)), "warn", "its field of view is 60 mm foot-head"),
        (scan(2, notes=("left and right are not known",)), "warn", "may be swapped"),
        (
            scan(2, notes=(f"sform and qform disagree, also in {DIRECTIONS}",)),
            "warn",
            "sides of the patient may be swapped",
        ),
    ],
)
def test_what_is_unlike_them_is_named(domain: Domain, found: Volume, level: str, words: str) -> None:
    verdict = reasons(found, domain)
    assert verdict[0] == level
    assert words in verdict[1]


def test_few_slices_are_warned_of(domain: Domain) -> None:
    thick = Geometry.build((60, 50, 13), (1, 1, 3)).volume(scan(2, shape=(60, 50, 13)).array)
    assert "it has 13 slices foot-head; trained on 40" in reasons(thick, domain)[1]


def test_grey_values_of_another_kind(domain: Domain) -> None:
    flat = np.random.default_rng(0).uniform(0, 1000, (60, 50, 40)).astype(np.float32)
    two = np.where(flat > 500, 1000, 0).astype(np.float32)
    assert check_intensities(scan(2).geometry.volume(two), domain).level == "refuse"
    assert (
        check_intensities(scan(2).geometry.volume(scan(2).array * 7 + 300), domain).level == "pass"
    )  # without a unit
    absolute = measure([scan(seed) for seed in range(5)], "absolute")
    assert check_intensities(scan(2).geometry.volume(scan(2).array * 7 + 300), absolute).level == "refuse"
    with pytest.raises(InputError, match="the same value"):
        check_intensities(scan(2).geometry.volume(np.ones((60, 50, 40))), domain)


def test_the_spread_of_three_scans_by_hand() -> None:
    """The quantiles are 0, 1 and 5 above the first scan's: 3, 1.5 and 4.5 from the mean of the two others."""
    values = np.arange(1000.0).reshape(10, 10, 10)
    found = measure([Geometry.build(values.shape).volume(values + n) for n in (0, 1, 5)], "absolute")
    # The 95 % quantile of these distances, times Student's t (2 degrees of freedom) over the normal quantile.
    assert found.spread == pytest.approx((3 + 0.9 * 1.5) * 4.302653 / 1.959964, rel=1e-5)
    assert found.quantiles[9] == pytest.approx(499.5 + 2)
    away = Geometry.build(values.shape).volume(values + 2 - 3 * found.spread)
    assert found.distance(away) == pytest.approx(3)


@pytest.mark.parametrize(
    ("volume_ml", "notes"),
    [
        (24.0, ("the volume of 'ball' is 24 ml, in training 50 to 70 ml",)),
        (26.0, ()),
        (139.0, ()),
        (141.0, ("the volume of 'ball' is 141 ml, in training 50 to 70 ml",)),
    ],
)
def test_volumes_beyond_half_and_twice_those_in_training_are_warned_of(
    domain: Domain, volume_ml: float, notes: tuple[str, ...]
) -> None:
    known = replace(domain, volume_ml={"ball": (50.0, 70.0)})
    assert check_volumes({"ball": volume_ml}, known) == notes
    assert check_volumes({"ball": volume_ml}, domain) == ()  # no volumes were measured


def test_the_axes_are_the_patients(domain: Domain) -> None:
    turned = scan(2, shape=(40, 60, 50))
    axes = np.eye(3)[:, [2, 0, 1]] * [1, -1, 1]
    grid = Geometry.build(turned.geometry.shape, (1, 1, 1), (0, 0, 0), axes)
    assert check_frame(grid.volume(turned.array), domain, "MR", GRID).level == "pass"


def test_a_scan_that_cannot_be_compared_is_unchecked() -> None:
    assert check_frame(scan(2, spacing=9.0), None, "MR", GRID).level == "unchecked"
    assert check_intensities(scan(2), None).level == "unchecked"
    assert check_frame(scan(2, modality="CT"), None, "MR", GRID).level == "refuse"


def test_several_sizes_out_of_range_are_refused_together(domain: Domain) -> None:
    # Each size alone causes a warning: 1.6, 1.7 and 1.5 times the field of view.
    two = scan(2, shape=(96, 85, 40))
    verdict = check_frame(two, domain, "MR", GRID)
    assert verdict.factor == pytest.approx(1.6 * 1.7)
    assert verdict.level == "warn"
    three = scan(2, shape=(96, 85, 60))
    verdict = check_frame(three, domain, "MR", GRID)
    assert verdict.factor == pytest.approx(1.6 * 1.7 * 1.5)
    assert "several of its sizes are out of range, together by a factor of 4.1" in verdict.refusals[0]
    assert "its field of view is 96 mm left-right" in verdict.refusals[0]
    assert len(verdict.warnings) == 3
    assert verdict.sentences == verdict.refusals  # which hold the warnings
    assert (verdict + CheckResult((), ("other",))).sentences == (*verdict.refusals, "other")
    one = check_frame(scan(2, shape=(200, 50, 40)), domain, "MR", GRID)
    assert "one of its sizes is out of range, by a factor of 3.3, where 3 is the limit" in one.refusals[0]
    with pytest.raises(DomainError, match="give the region of the organ with roi="):
        verdict.settle(three, allowed=False)
    # 1.6 times the field of view along one axis, and 2 mm where the model was made for up to 1.5.
    mixed = check_frame(scan(2, shape=(48, 25, 20), spacing=2.0), domain, "MR", GRID)
    assert mixed.factor == pytest.approx(1.6 * (2 / 1.5) ** 3)
    assert "together by a factor of 3.8" in mixed.refusals[0]


@pytest.mark.parametrize("source", [{"modality": "CT"}, {"spacing": 9.0}])
def test_a_region_is_not_advised_where_it_would_be_refused_too(
    domain: Domain, source: dict[str, object]
) -> None:
    """A larger scan of another modality was told to give `--roi`, which cannot change the modality."""
    larger = scan(2, shape=(120, 50, 40), **source)  # type: ignore[arg-type]
    verdict = check_frame(larger, domain, "MR", GRID)
    assert verdict.larger
    with pytest.raises(DomainError) as caught:
        verdict.settle(larger, allowed=False)
    assert str(caught.value.todo).startswith("Choose another model, or take")


def test_a_refusal_can_be_forced_and_says_all_reasons() -> None:
    verdict = CheckResult(("a",)) + CheckResult(("b",), ("c",), True)
    assert verdict == CheckResult(("a", "b"), ("c",), True)
    with pytest.raises(DomainError, match=r"trained for: a; b\. .*allow_out_of_domain=True"):
        verdict.settle(scan(), allowed=False)
    verdict.settle(scan(), allowed=True)


def test_one_scan_is_no_training_set() -> None:
    with pytest.raises(InputError, match="wanted at least 2"):
        measure([scan()], "scaled")


def test_a_data_set_is_measured_without_its_validation_cases(toy_data: Path, tmp_path: Path) -> None:
    task = ModelBundle.find("phantom").task
    ball = replace(task, labels=(replace(task.labels[0], name="ball"),))
    data = DataSet.load(toy_data)
    found = measure_domain(ball, data, data.splits)
    assert (found.scans, found.intensities) == (4, "scaled")
    assert found.volume_ml is not None
    assert 1 < found.volume_ml["ball"][0] < found.volume_ml["ball"][1] < 10
    assert found.shape == ((40, 40), (36, 36), (34, 34))
    (tmp_path / "dataset.json").write_text(json.dumps({"labelled": []}))
    with pytest.raises(InputError, match="no labelled case"):
        measure_domain(ball, DataSet.load(tmp_path), Splits())


def test_the_domain_of_an_ensemble_spans_those_of_its_members(domain: Domain) -> None:
    other = measure([scan(seed, shape=(80, 50, 30), spacing=0.5) for seed in range(7)], "scaled")
    both = merge_domains([domain, replace(other, volume_ml={"ball": (1.0, 2.0)})])
    assert both is not None
    assert both.scans == 7
    assert both.spacing_mm == ((0.5, 1.0),) * 3
    assert both.fov_mm == ((40.0, 60.0), (25.0, 50.0), (15.0, 40.0))
    assert both.shape == ((60, 80), (50, 50), (30, 40))
    assert both.spread == max(domain.spread, other.spread)
    assert both.quantiles[9] == pytest.approx((domain.quantiles[9] + other.quantiles[9]) / 2, abs=1e-5)
    assert both.volume_ml == {"ball": (1.0, 2.0)}
    assert merge_domains([domain, None]) is None


def test_shipped_bundles_know_their_training_scans() -> None:
    for name in shipped_bundles():
        known = ModelBundle.find(name).task.domain
        assert known is not None
        assert known.volume_ml is not None
        assert known.scans >= 20


@pytest.mark.data
def test_left_atrium_takes_its_validation_scans_and_no_head(shared_data: Path) -> None:
    predictor = open_predictor(ModelBundle.find("left-atrium"))
    names = json.loads((shared_data / "la" / "dataset.json").read_text())["unlabelled"][-8:]
    for name in names:
        judged = predictor.check(load(shared_data / "la" / "imagesTr" / f"{name}.nii.gz"))
        assert judged.check.result == CheckResult()
    heads = ("philips-ct/S2010", "brain-study/12-T1post-05670", "brain-study/13_HCropVolume", "oblique-t1")
    for name in heads:
        with pytest.raises(DomainError):
            predictor.check(load(shared_data / "dicom" / name))
    hippocampus = shared_data / "hippocampus" / "imagesTr" / "hippocampus_023.nii.gz"
    with pytest.raises(DomainError):
        predictor.check(load(hippocampus))


@pytest.mark.data
def test_hippocampus_takes_its_own_kind_and_no_atrium(shared_data: Path) -> None:
    predictor = open_predictor(ModelBundle.find("hippocampus"))
    for path in sorted((shared_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[:10]:
        assert predictor.check(load(path)).check.result == CheckResult()
    atria = sorted((shared_data / "la" / "imagesTr").glob("*.nii.gz"))[:5]
    for path in (*atria, shared_data / "dicom" / "oblique-t1"):
        with pytest.raises(DomainError):
            predictor.check(load(path))


@pytest.mark.parametrize("shape", [(320, 320, 40), (448, 448, 12), (40, 320, 320)])
def test_voxels_of_all_slices_are_looked_at(shape: tuple[int, int, int]) -> None:
    """Every 40th of 320 x 320 x 40 voxels would lie in the first slice. Slice n has the grey value n."""
    slices = shape[2]
    array = np.broadcast_to(np.arange(slices, dtype=np.float32), shape)
    found = intensity_quantiles(Geometry.build(shape).volume(array), "absolute")
    np.testing.assert_allclose(found, np.linspace(0.05, 0.95, 19) * (slices - 1), atol=1.0)


def test_a_scan_that_is_nearly_all_air_is_not_said_to_be_all_one_value() -> None:
    array = np.zeros((100, 100, 20), np.int16)
    array[:10, :10, :10] = 100  # 0.5%
    scan = Geometry.build(array.shape).volume(array)
    with pytest.raises(InputError, match="98% or more of the voxels have the same value"):
        intensity_quantiles(scan, "scaled")
    assert not intensity_quantiles(scan, "absolute").any()


@pytest.mark.parametrize("dtype", ["i1", ">i2", "i8"])
def test_quantiles_between_whole_numbers_far_apart(dtype: str) -> None:
    """The difference of two whole numbers does not fit into their own type."""
    ends = np.iinfo(dtype)
    array = np.full((20, 20, 20), ends.max, dtype)
    array[:9] = ends.min
    found = intensity_quantiles(Geometry.build(array.shape).volume(array), "absolute")
    np.testing.assert_allclose(found, np.quantile(array.astype(float), np.linspace(0.05, 0.95, 19)))
    assert (np.diff(found) >= 0).all()
