from pathlib import Path

import pytest

from c3s3_seg.batch import self_check as doctor
from c3s3_seg.bundle import WEIGHTS, ModelBundle, shipped_bundles
from c3s3_seg.inference.tuning.profile import VARIABLE, Best, write_profile


def test_a_profile_that_predict_would_refuse_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each `predict` ended with an error, and `doctor` found everything in order."""
    path = tmp_path / "profile.json"
    monkeypatch.setenv(VARIABLE, str(path))
    missing = doctor._attempt("profile", doctor._profile)
    assert (missing.good, "names a profile that is not there" in missing.found) == (False, True)
    path.write_text("{}")
    broken = doctor._attempt("profile", doctor._profile)
    assert (broken.good, "this is no profile" in broken.found) == (False, True)
    network = ModelBundle.load(WEIGHTS / "phantom").networks[0]
    write_profile(path, network, Best("openvino", 1, 1.0, 1.0, 1.0, 1, 1.0))
    assert doctor._profile().endswith(f"of this machine: {network.architecture}-{network.filters}")


@pytest.mark.slow
def test_a_good_installation() -> None:
    checks = {check.name: check for check in doctor.check_installation()}
    assert all(check.good for check in checks.values()), checks
    assert "numpy" in checks["versions"].found
    assert "CPU" in checks["OpenVINO devices"].found
    assert {f"bundle {name}" for name in shipped_bundles()} <= set(checks)
    assert "Dice 0.9" in checks["phantom from end to end"].found


@pytest.mark.slow
def test_what_is_bad_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_DICE", 1.1)
    monkeypatch.setattr(doctor, "shipped_bundles", lambda: ["no-such"])
    checks = {check.name: check for check in doctor.check_installation()}
    assert not checks["phantom from end to end"].good
    assert "wanted at least 1.1" in checks["phantom from end to end"].found
    assert "no manifest.json" in checks["bundle no-such"].found
    assert not checks["bundle no-such"].good
