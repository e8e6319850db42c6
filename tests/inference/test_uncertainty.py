import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.organ import organ
from scipy import ndimage

from c3s3_seg.bundle import Calibration, ModelBundle
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference import Settings, open_predictor, uncertainty
from c3s3_seg.inference.uncertainty import Disagreement, near_boundary
from c3s3_seg.metrics.scoring import score
from c3s3_seg.phantom import simulate


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.find("phantom")


@pytest.fixture(scope="module")
def scan():
    """Return the middle of a phantom."""
    whole = simulate(20_261)
    return organ(whole.scan, whole.truth, margin=12)[0]


def single(bundle: ModelBundle, place: int) -> ModelBundle:
    return replace(bundle, manifest=replace(bundle.manifest, networks=bundle.networks[place : place + 1]))


@pytest.mark.slow
def test_it_is_what_the_two_networks_say_apart(bundle, scan) -> None:
    keep = Settings(probabilities=True)
    a, b = (open_predictor(single(bundle, n), settings=keep)(scan) for n in (0, 1))
    found = open_predictor(bundle, settings=Settings(uncertainty=True))(scan)
    assert found.uncertainty is not None
    np.testing.assert_array_equal(found.mask.array, a.mask.array)  # the winner's mask, unchanged
    expected = score(a.mask, b.mask).hd95_mm
    assert found.uncertainty.hd95_mm == {"left_atrium": pytest.approx(expected)}
    assert 0 < expected < 10
    p, q = (x.probabilities["left_atrium"].array for x in (a, b))
    inside = found.uncertainty.map.array > 0
    np.testing.assert_allclose(found.uncertainty.map.array[inside], np.abs(p - q)[inside], atol=1e-5)
    differ = (p > 0.5) != (q > 0.5)
    assert differ.sum() > 100
    assert inside[differ].all()
    assert inside.mean() < 0.3  # a band, not the whole scan


@pytest.mark.slow
def test_an_ensemble_may_make_the_mask(bundle, scan) -> None:
    mean = open_predictor(bundle, ensemble=True)(scan)
    found = open_predictor(bundle, ensemble=True, settings=Settings(uncertainty=True, probabilities=True))(
        scan
    )
    assert (found.mask.array != mean.mask.array).sum() <= 2
    assert found.probabilities["left_atrium"].array.max() <= 1.0001


def test_one_network_cannot_doubt(bundle) -> None:
    with pytest.raises(InputError, match="an uncertainty estimate needs two networks"):
        open_predictor(single(bundle, 0), settings=Settings(uncertainty=True))


@pytest.mark.parametrize(
    ("between", "threshold", "flagged", "words"),
    [
        ({"a": 3.0, "b": 9.0}, 8.0, True, r"differ by 9\.00 mm \(95HD\); the limit is 8\.00 mm"),
        ({"a": 3.0}, 8.0, False, None),
        ({"a": 8.0}, 8.0, False, None),
        ({"a": math.inf}, 8.0, True, "do not both find every label"),
        ({"a": math.nan}, 8.0, False, None),  # both find no such label
        ({"a": math.nan, "b": 3.0}, 8.0, False, None),
        ({"a": math.nan, "b": 9.0}, 8.0, True, r"differ by 9\.00 mm"),
        ({"a": 99.0}, None, None, None),
    ],
)
def test_what_is_flagged(between, threshold, flagged, words) -> None:
    uncertainty = Disagreement(Geometry.build((1, 1, 1)).volume(np.zeros((1, 1, 1))), between, threshold)
    assert uncertainty.flagged is flagged
    note = uncertainty.note()
    if words is None:
        assert note is None
    else:
        assert note is not None

        assert re.search(words, note)


def test_the_band_follows_millimetres() -> None:
    mask = np.zeros((20, 20, 20), np.uint8)
    mask[:10] = 1
    near = near_boundary(mask, mask, Geometry.build((20, 20, 20), (1, 2, 3)), 2.5)
    assert np.flatnonzero(near[:, 0, 0]).tolist() == list(range(7, 13))
    assert near[9].all()
    empty = np.zeros_like(mask)
    assert not near_boundary(empty, empty, Geometry.build((20, 20, 20)), 2.5).any()


def test_a_large_mask_is_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result has the same voxels, and only a few planes are processed at a time."""
    random = np.random.default_rng(0)
    a = (random.random((40, 9, 7)) < 0.02).astype(np.uint8)
    a[12:28] = 0
    grid, largest = Geometry.build(a.shape, (0.8, 1.5, 2)), []
    whole = near_boundary(a, a, grid, 2.5)
    plain = ndimage.distance_transform_edt

    def transform(part: np.ndarray, **options: object) -> np.ndarray:
        largest.append(len(part))
        return np.asarray(plain(part, **options))

    monkeypatch.setattr(ndimage, "distance_transform_edt", transform)
    monkeypatch.setattr(uncertainty, "PART", 1)
    np.testing.assert_array_equal(near_boundary(a, a, grid, 2.5), whole)
    assert 0 < whole.mean() < 1
    assert max(largest) == 5 + 4 + 4  # the wanted planes, and a reach of 2.5 mm on either side


@pytest.mark.slow
def test_the_threshold_lives_in_the_bundle(bundle, scan, tmp_path: Path) -> None:

    shutil.copytree(bundle.folder, tmp_path / "copy")
    copy = ModelBundle.load(tmp_path / "copy")
    assert copy.manifest.uncertainty is None
    found = open_predictor(copy, settings=Settings(uncertainty=True))(scan)
    assert found.uncertainty is not None
    assert found.uncertainty.flagged is None
    copy.calibrated(uncertainty=Calibration(0.5, 2.0, 0.8, 0.9, 40, "phantoms"))
    again = ModelBundle.load(tmp_path / "copy")
    assert again.manifest.uncertainty == Calibration(0.5, 2.0, 0.8, 0.9, 40, "phantoms")
    found = open_predictor(again, settings=Settings(uncertainty=True))(scan)
    assert found.uncertainty is not None
    assert found.uncertainty.flagged is True
    assert any("uncertain" in note for note in found.notes)
    manifest = tmp_path / "copy" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"threshold_mm": 0.5', '"threshold_mm": "high"'))
    with pytest.raises(ConfigError, match="threshold_mm"):
        ModelBundle.load(tmp_path / "copy")
