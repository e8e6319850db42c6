import pytest

from c3s3_seg.batch import self_check as doctor
from c3s3_seg.bundle import shipped_bundles


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
