"""Tests of reading the first case while the networks are opened: the same result, the same errors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c3s3_seg import load_mask, save
from c3s3_seg.batch.case import Steps
from c3s3_seg.batch.early import EarlyRead
from c3s3_seg.batch.job import CaseTask, Job, Model
from c3s3_seg.batch.predict import predict_cases
from c3s3_seg.batch.records import Loaded, Outcome
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import C3S3Error
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference import Settings, open_predictor
from c3s3_seg.inference.backends.select import BackendRequest
from c3s3_seg.inference.place import HostPlace
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.io import Case, read_case
from c3s3_seg.phantom import Simulator, simulate


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("early") / "scan.nii.gz"
    save(simulate(3, Simulator()).scan, path)
    return path


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return open_predictor(ModelBundle.find("phantom"))


def early(path: Path, predictor: Predictor, out: Path) -> tuple[EarlyRead, Steps, CaseTask]:
    task, job = CaseTask(Case(path.name, path)), Job(out)
    # Uncertainty needs two networks, but reading a scan needs none.
    return EarlyRead(task, predictor.task, Settings(uncertainty=True), job), Steps(predictor, job), task


def test_what_is_read_early_is_what_would_be_read_later(
    scan: Path, predictor: Predictor, tmp_path: Path
) -> None:
    read, steps, task = early(scan, predictor, tmp_path)
    found, expected = read.take(task), steps.read(task)
    assert isinstance(found, Loaded)
    assert isinstance(expected, Loaded)
    assert found.inputs == expected.inputs
    assert found.checked is not None
    assert expected.checked is not None
    assert found.checked.check == expected.checked.check
    assert found.prepared is not None
    assert expected.prepared is not None
    np.testing.assert_array_equal(found.prepared.array, expected.prepared.array)
    assert read.take(task) is None  # it is given once and not kept
    read.close()


def test_a_scan_that_is_refused_is_refused_as_ever(predictor: Predictor, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.nii.gz"
    damaged.write_bytes(b"\x1f\x8b no scan")
    read, steps, task = early(damaged, predictor, tmp_path)
    found, expected = read.take(task), steps.read(task)
    assert isinstance(found, Outcome)
    assert isinstance(expected, Outcome)
    assert found.refusal == expected.refusal
    assert found.inputs == expected.inputs
    read.close()


def test_another_case_is_not_mixed_up_with_it(scan: Path, predictor: Predictor, tmp_path: Path) -> None:
    read, _, _ = early(scan, predictor, tmp_path)
    assert read.take(CaseTask(Case("other", scan))) is None
    read.close()


def test_the_networks_are_compiled_for_its_tiles(scan: Path, tmp_path: Path) -> None:
    predictor = open_predictor(ModelBundle.find("phantom"))
    read, _, task = early(scan, predictor, tmp_path)
    read.compile_in(predictor)
    loaded = read.take(task)
    read._thread.join()
    assert isinstance(loaded, Loaded)
    assert loaded.prepared is not None
    tile = predictor.network(loaded.prepared).tiling.tile
    assert list(predictor.backends[0]._compiled) == [(1, 1, *tile)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("wanted", [True, None])
def test_what_a_device_prepares_is_read_and_checked_only(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool | None
) -> None:
    """With `None` and a GPU, only the opened networks decide where scans are prepared."""
    monkeypatch.setattr("c3s3_seg.batch.early.cuda_devices", lambda: 1)
    monkeypatch.setattr(HostPlace, "prepare", None)
    predictor = open_predictor(
        ModelBundle.find("phantom"),
        backend=BackendRequest("torch", threads=1),
        settings=Settings(on_device=True),
    )
    task, job = CaseTask(Case(scan.name, scan)), Job(tmp_path)
    read, steps = EarlyRead(task, predictor.task, Settings(on_device=wanted), job), Steps(predictor, job)
    read.compile_in(predictor)
    read._thread.join()
    found, expected = read.take(task), steps.check(steps.load(task))
    assert isinstance(found, Loaded)
    assert isinstance(expected, Loaded)
    assert found.prepared is None
    assert found.checked is not None
    assert expected.checked is not None
    assert found.checked.check == expected.checked.check
    prepared = steps.prepare(found)
    assert isinstance(prepared, Loaded)
    assert prepared.prepared is not None
    assert steps.prepare(prepared) is prepared
    assert read.take(task) is None
    assert read._checked is read._found is None


def test_what_was_prepared_on_the_host_is_not_given_to_a_device(scan: Path, tmp_path: Path) -> None:
    predictor = open_predictor(
        ModelBundle.find("phantom"),
        backend=BackendRequest("torch", threads=1),
        settings=Settings(on_device=True),
    )
    task = CaseTask(Case(scan.name, scan))
    read = EarlyRead(task, predictor.task, Settings(on_device=False), Job(tmp_path))
    read._read.wait()
    assert isinstance(read._found, Loaded)
    assert read._found.prepared is not None
    read.compile_in(predictor)
    found = read.take(task)
    assert isinstance(found, Loaded)
    assert found.prepared is None
    read.close()


def test_a_network_that_prepares_scans_itself_takes_what_was_read(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = ModelBundle.find("phantom")
    masks, reads = [], []

    def counted(*arguments: Any, **named: Any) -> Volume:
        reads.append(arguments)
        return read_case(*arguments, **named)

    monkeypatch.setattr("c3s3_seg.batch.case.read_case", counted)
    for on_device in (False, True):
        settings = Settings(on_device=on_device)
        model = Model(bundle.folder, BackendRequest("torch", threads=1), settings)
        result = predict_cases([scan], model, Job(tmp_path / str(on_device)))
        assert (len(result.rows), result.failures) == (1, ())
        masks.append(load_mask(tmp_path / str(on_device) / scan.name).array)
    assert len(reads) == 2
    # numpy and torch differ in the last bits of the softmax: see helpers.both_ways.
    assert np.mean(masks[0] != masks[1]) < 1e-4


def test_a_network_that_cannot_be_opened_is_the_error_that_is_told(tmp_path: Path) -> None:
    scan = tmp_path / "damaged.nii.gz"
    scan.write_bytes(b"\x1f\x8b no scan")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with pytest.raises(C3S3Error, match="there is no manifest"):
        predict_cases([scan], Model(bundle), Job(tmp_path / "out"))
