"""Rows of docs/inputs.md that need the whole program: `predict` on unusual but undamaged scans."""

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from helpers.command import run
from helpers.dicom_files import edit, values

from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.phantom import Phantom, Simulator, simulate


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return simulate(31_060)


@pytest.fixture(scope="module")
def coarse() -> Phantom:
    """Return a phantom with a quarter of the voxels; the domain check accepts it with a warning (spacing)."""
    return simulate(31_060, Simulator(shape=(72, 66, 36), spacing_mm=(1.95, 1.95, 2.8)))


def predict(*words: object) -> "CompletedProcess[str]":
    return run("predict", *words, "--model", "phantom")


def facts(path: Path) -> Any:
    return json.loads(path.read_text())


def part(scan: Volume, step: tuple[slice, slice, slice]) -> Volume:
    """Return some voxels of a scan at their physical positions."""
    low = [s.start or 0 for s in step]
    affine = scan.geometry.affine.copy()
    affine[:3, 3] = scan.geometry.to_mm(low)
    affine[:3, :3] *= [s.step or 1 for s in step]
    array = np.ascontiguousarray(scan.array[step])
    return Geometry(array.shape, affine).volume(array)


def test_flat_tiny_small_and_thick_scans(phantom: Phantom, tmp_path: Path) -> None:
    scan, scans = phantom.scan, tmp_path / "scans"
    scans.mkdir()
    every = slice(None)
    save(scan.geometry.volume(np.full(scan.array.shape, 7, np.int16)), scans / "flat.nii.gz")
    save(part(scan, (slice(50, 51), slice(50, 51), slice(28, 29))), scans / "voxel.nii.gz")
    save(part(scan, (slice(30, 54), slice(30, 50), slice(20, 36))), scans / "smaller-than-a-patch.nii.gz")
    save(part(scan, (every, every, slice(None, None, 13))), scans / "one-to-twenty.nii.gz")
    refused = predict(scans, "-o", tmp_path / "out", "--json")
    assert refused.returncode == 1
    events = [json.loads(line) for line in refused.stdout.splitlines()]
    said = {event["case"]: event["reason"] for event in events if event["event"] == "case"}
    assert "all voxels have the same value" in said["flat"]
    assert "its field of view is 1 mm left-right" in said["voxel"]
    assert "it has 20 slices front-back; trained on 104;" in said["smaller-than-a-patch"]
    assert "mm foot-head; the model was made for" in said["one-to-twenty"]
    assert list((tmp_path / "out").glob("*.nii.gz")) == []
    forced = predict(scans, "-o", tmp_path / "allowed_out_of_domain", "--allow-out-of-domain")
    assert forced.returncode == 1
    assert " ".join(forced.stdout.split()).count("all voxels have the same value") == 2
    for name in ("smaller-than-a-patch", "one-to-twenty"):
        mask = load_mask(tmp_path / "allowed_out_of_domain" / f"{name}.nii.gz")
        assert mask.geometry.matches(load(scans / f"{name}.nii.gz").geometry)
        assert facts(tmp_path / "allowed_out_of_domain" / f"{name}.json")["domain_check"][
            "allowed_out_of_domain"
        ]


@pytest.mark.slow
def test_grey_values_far_from_zero_and_beyond_float32(coarse: Phantom, tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    values = coarse.scan.array.astype(np.float64)
    for name, array in {
        "plain": values,
        "moved": values + 1e8,
        "far-moved": values - 1e11,
        "huge": values * 1e300,
        "tiny": values * 1e-300,
    }.items():
        save(coarse.scan.geometry.volume(array), scans / f"{name}.nii.gz")
    answer = predict(scans, "-o", tmp_path / "out", "--json")
    assert answer.returncode == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    assert "RuntimeWarning" not in answer.stderr
    events = [json.loads(line) for line in answer.stdout.splitlines()]
    said = {event["case"]: event.get("reason") for event in events if event["event"] == "case"}
    plain = load_mask(tmp_path / "out" / "plain.nii.gz").array
    assert plain.any()
    for name in ("moved", "far-moved"):
        assert said[name] is None
        assert (load_mask(tmp_path / "out" / f"{name}.nii.gz").array == plain).mean() > 0.999
    for name in ("huge", "tiny"):
        assert "a range that float32 does not hold" in said[name]
        assert not (tmp_path / "out" / f"{name}.nii.gz").exists()


@pytest.mark.slow
def test_blank_uids_are_segmented_but_nothing_can_refer_to_them(coarse: Phantom, tmp_path: Path) -> None:
    for path in save_series(coarse.scan, tmp_path / "case", description="", seed_uid="a"):
        edit(path, values(SeriesInstanceUID="", StudyInstanceUID="", FrameOfReferenceUID=""))
    answer = predict(tmp_path / "case", "-o", tmp_path / "out")
    assert answer.returncode == 0, answer.stderr
    mask = load_mask(tmp_path / "out" / "case.nii.gz")
    inside, truth = mask.array > 0, coarse.truth.array > 0
    assert 2 * (inside & truth).sum() / (inside.sum() + truth.sum()) > 0.9
    for words in (["--format", "dicom-seg"], ["--format", "rtstruct"], ["--report", "sc"]):
        answer = predict(tmp_path / "case", "-o", tmp_path / "none", *words)
        assert answer.returncode == 2
        assert "has no StudyInstanceUID, SeriesInstanceUID" in " ".join(answer.stderr.split())
    assert list((tmp_path / "none").glob("case*")) == []


@pytest.mark.slow
def test_a_larger_scan_a_region_and_force_are_in_the_report(tmp_path: Path) -> None:
    large = simulate(31_050, Simulator(shape=(150, 134, 68)))
    save(large.scan, tmp_path / "large.nii.gz")
    answer = predict(tmp_path / "large.nii.gz", "-o", tmp_path / "found")
    assert answer.returncode == 0, answer.stderr
    gate = facts(tmp_path / "found" / "large.json")["domain_check"]
    assert gate["verdict"] == "warn"
    assert gate["region"]
    assert "found by" in gate["notes"][0]
    assert "region of interest: x" in " ".join(answer.stdout.split())
    middle = np.argwhere(large.truth.array > 0).mean(axis=0).astype(int)
    sides = [f"{c - r}:{c + r}" for c, r in zip(middle, (56, 52, 28), strict=True)]
    answer = predict(tmp_path / "large.nii.gz", "-o", tmp_path / "given", "--roi", ",".join(sides))
    assert answer.returncode == 0, answer.stderr
    gate = facts(tmp_path / "given" / "large.json")["domain_check"]
    assert gate["notes"] == ["region of interest: as it was given"]
    for name in ("found", "given"):
        inside, truth = load_mask(tmp_path / name / "large.nii.gz").array > 0, large.truth.array > 0
        assert 2 * (inside & truth).sum() / (inside.sum() + truth.sum()) > 0.85
    thick = part(simulate(31_061).scan, (slice(None), slice(None), slice(None, None, 5)))
    save(thick, tmp_path / "thick.nii.gz")
    answer = predict(tmp_path / "thick.nii.gz", "-o", tmp_path / "allowed_out_of_domain")
    assert answer.returncode == 2
    assert "--allow-out-of-domain" in answer.stderr
    answer = predict(
        tmp_path / "thick.nii.gz", "-o", tmp_path / "allowed_out_of_domain", "--allow-out-of-domain"
    )
    assert answer.returncode == 0, answer.stderr
    gate = facts(tmp_path / "allowed_out_of_domain" / "thick.json")["domain_check"]
    assert (gate["allowed_out_of_domain"], gate["verdict"]) == (True, "refuse")
    assert gate["refusals"]
