"""Check that an installation works: versions, devices, bundles, and a phantom from end to end."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.batch import Job, Model, predict_cases, verify
from c3s3_seg.batch.provenance import surroundings
from c3s3_seg.bundle import WEIGHTS, ModelBundle, shipped_bundles
from c3s3_seg.errors import C3S3Error, quantity
from c3s3_seg.inference.tuning.profile import Machine, existing_profile, read_profile
from c3s3_seg.phantom import save, simulate
from c3s3_seg.system.hardware import check_onnx_wheels, cuda_devices, installed, openvino_devices

SEED = 20_261  # no shipped bundle was trained on this seed
LEAST_DICE = 0.9


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Parameters
    ----------
    name
        Name of the checked item.
    good
        Whether the item is as it should be.
    found
        The finding in one line.
    """

    name: str
    good: bool
    found: str


def check_installation() -> Iterator[Check]:
    """Yield the result of each check, one after the other; a failure is a result, not an error."""
    yield from _versions()
    yield _attempt("OpenVINO devices", _openvino)
    yield _attempt("CUDA devices", lambda: f"{cuda_devices()} seen by the driver")
    yield _attempt("ONNX Runtime", _onnxruntime)
    yield _attempt("profile", _profile)
    for name in shipped_bundles():
        yield _attempt(f"bundle {name}", lambda name=name: _bundle(name))  # type: ignore[misc]
    yield _attempt("phantom from end to end", _round_trip)


def _versions() -> Iterator[Check]:
    parts = surroundings()
    for part in ("versions", "machine"):
        found = ", ".join(f"{name} {value}" for name, value in parts[part].items() if name != "name")
        yield Check(part, True, found)


def _attempt(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except C3S3Error as error:
        return Check(name, False, str(error))
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}")


def _openvino() -> str:
    return ", ".join(openvino_devices()) or "OpenVINO is not installed"


def _onnxruntime() -> str:
    clash = check_onnx_wheels("auto")
    if clash is not None:
        raise RuntimeError(clash)
    return ", ".join(installed("onnxruntime", "onnxruntime-gpu")) or "not installed"


def _profile() -> str:
    path = existing_profile(os.environ)
    if path is None:
        return "none: predict chooses runtime and threads by itself"
    profile = read_profile(path)
    where = "this machine" if profile.machine == Machine.here() else "another machine, which predict ignores"
    return f"{path} of {where}: {', '.join(profile.networks) or 'no network'}"


def _bundle(name: str) -> str:
    bundle = ModelBundle.load(WEIGHTS / name)  # checks every hash
    hashes = ", ".join(f"{n.weights} {bundle.manifest.files[n.weights][:12]}" for n in bundle.networks)
    return f"{quantity(len(bundle.manifest.files), 'file')} with the right sha256; {hashes}"


def _round_trip() -> str:
    """Simulate, write, read and predict a phantom; write, read back, score and verify its mask."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scan, truth = save(simulate(SEED), folder, seed=SEED, file_format="dicom")
        started = time.perf_counter()
        result = predict_cases([scan], Model(WEIGHTS / "phantom"), Job(folder / "out", truth=truth))
        seconds_s = time.perf_counter() - started
        dice = next(iter(result.rows[0].scores)).score.dice
        if dice < LEAST_DICE or not verify(folder / "out").holds:
            raise RuntimeError(
                f"Dice {dice:.3f}, wanted at least {LEAST_DICE}, and files as they were written"
            )
    return f"Dice {dice:.3f}, {seconds_s:.1f} s, every hash holds"
