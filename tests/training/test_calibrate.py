"""The domain of a bundle's training scans and the limit of its networks' disagreement are measured."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.organ import organ
from typer.testing import CliRunner

from c3s3_seg import Geometry, ModelBundle, load, open_predictor, save
from c3s3_seg.bundle import WEIGHTS, Calibration
from c3s3_seg.bundle.manifest_file import manifest_text
from c3s3_seg.cli import app
from c3s3_seg.commands.calibrate import _without_limit
from c3s3_seg.errors import InputError
from c3s3_seg.inference.domain_check import DomainError
from c3s3_seg.io import load_mask
from c3s3_seg.phantom import Simulator, simulate
from c3s3_seg.training.bundles.calibrate import (
    CalibrationRow,
    ReferenceCase,
    auroc,
    best_threshold,
    calibrate_uncertainty,
    degraded,
    limit_of,
    worst,
)
from c3s3_seg.training.bundles.domain import trained_splits
from c3s3_seg.training.bundles.learnt_cases import learnt_hashes, name_hash
from c3s3_seg.training.config import load_config
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.settings import DataConfig
from c3s3_seg.training.train import train

pytestmark = pytest.mark.slow
COARSE = Simulator(shape=(72, 66, 36), spacing_mm=(1.95, 1.95, 2.8))


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a data set of two labelled and two validation cases; return its folder."""
    folder = tmp_path_factory.mktemp("phantoms")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir()
    for seed in range(4):
        made = simulate(40_000 + seed, COARSE)
        scan, truth = organ(made.scan, made.truth)
        save(scan, folder / "imagesTr" / f"p{seed}.nii.gz")
        save(truth, folder / "labelsTr" / f"p{seed}.nii.gz")
    splits = {"labelled": ["p0", "p1"], "validation": ["p2", "p3"]}
    (folder / "dataset.json").write_text(json.dumps(splits))
    return folder


def test_the_command_writes_domain_and_limit(phantoms: Path, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    before = ModelBundle.load(tmp_path / "bundle")
    found = CliRunner().invoke(app, ["calibrate", str(tmp_path / "bundle"), str(phantoms)])
    assert found.exit_code == 0, found.output
    after = ModelBundle.load(tmp_path / "bundle")
    assert after.task.domain is not None
    assert after.task.domain.scans == 2
    limit = after.manifest.uncertainty
    assert limit is not None
    assert limit.cases == 2 * 9
    assert limit.threshold_mm > 0
    assert f"Uncertainty limit {limit.threshold_mm:.2f} mm" in found.output
    assert after.manifest.files == before.manifest.files


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (
            {"labels": {"hippocampus": 1}},
            "calls the value 1 'left_atrium', and the data call it",
        ),
        ({"labels": {"left_atrium": 2}}, "has left_atrium = 1, and the data have left_atrium = 2"),
        ({"modality": "CT"}, "the data's modality is CT, and task.modality is MR"),
    ],
)
def test_data_of_another_task_are_refused_and_nothing_is_written(
    tmp_path: Path, more: dict[str, object], told: str
) -> None:
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    before = (tmp_path / "bundle/manifest.json").read_bytes()
    (tmp_path / "dataset.json").write_text(json.dumps({"labelled": ["a", "b"], **more}))
    words = ["calibrate", str(tmp_path / "bundle"), str(tmp_path)]
    with pytest.raises(InputError, match=told):
        raise CliRunner().invoke(app, words).exception  # type: ignore[misc]
    assert (tmp_path / "bundle/manifest.json").read_bytes() == before


ALONE = {"training": {"cases": {"unlabelled": 0}}}  # an ensemble's member that learnt from labels alone


@pytest.mark.parametrize(
    ("record", "labelled", "unlabelled", "validation"),
    [
        ({}, "abcd", "efgh", ""),
        ({"config": {"data": {"validation_from_unlabelled": 2}}}, "abcd", "ef", "gh"),
        ({"config": {"data": {"fully_supervised": True}}}, "abcdefgh", "", ""),
        ({"config": {"data": {"labelled": 1, "key_of_later": 1}}}, "a", "efghbcd", ""),
        ({"config": {"data": {}}, "cases": {"unlabelled": 0}}, "abcd", "", ""),
        ({"config": {"data": {"fold": "1/4"}}}, "abc", "efgh", "d"),
        ({"config": {"data": {"fold": "1/4"}}, "ensemble": []}, "abcd", "efgh", ""),
        ({"ensemble": [ALONE, ALONE]}, "abcd", "", ""),
        ({"ensemble": [ALONE, {"training": {"cases": {"unlabelled": 4}}}]}, "abcd", "efgh", ""),
    ],
    ids=[
        "nothing recorded",
        "held out",
        "all labels",
        "fewer labels",
        "labels alone",
        "fold",
        "folds",
        "folds of labels alone",
        "mixed folds",
    ],
)
def test_the_domain_is_of_the_training_cases(
    record: dict[str, Any], labelled: str, unlabelled: str, validation: str, tmp_path: Path
) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labelled": [*"abcd"], "unlabelled": [*"efgh"]}))
    phantom = ModelBundle.find("phantom")
    bundle = replace(phantom, manifest=replace(phantom.manifest, training=record))
    _, splits = trained_splits(bundle, tmp_path)
    assert "".join(splits.labelled) == labelled
    assert sorted(splits.unlabelled) == sorted(unlabelled)
    assert "".join(splits.validation) == validation


def _trained(record: dict[str, Any]) -> ModelBundle:
    phantom = ModelBundle.find("phantom")
    return replace(phantom, manifest=replace(phantom.manifest, training=record))


def _index(folder: Path, labelled: str, validation: str = "") -> None:
    index = {"labelled": [*labelled], "validation": [*validation], "patient_of": {c: c for c in labelled}}
    (folder / "dataset.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("data", "before", "after", "other"),
    [
        ({"fold": "1/4"}, ("abcdefgh",), ("abcdefghij",), ("ijklmnop",)),
        ({}, ("abcd", "yz"), ("abcd", "xyz"), ("ijkl", "uv")),
        ({}, ("abcd", "yz"), ("abcde", "yz"), ("ijkl", "uv")),
        ({}, ("abcd", "yz"), ("abyz", "cd"), ("ijkl", "uv")),
    ],
    ids=["fold", "more validation cases", "more labelled cases", "drawn anew"],
)
def test_a_data_set_that_is_divided_anew_is_refused(
    data: dict[str, Any],
    before: tuple[str, ...],
    after: tuple[str, ...],
    other: tuple[str, ...],
    tmp_path: Path,
) -> None:
    """The limit would be measured on cases that were trained on."""
    _index(tmp_path, *before)
    _, splits = read_splits(DataConfig(str(tmp_path), **data))
    counts = {"labelled": len(splits.labelled), "unlabelled": 0, "validation": len(splits.validation)}
    validated = {"vnet": {case: {} for case in splits.validation}}
    bundle = _trained({"config": {"data": data}, "cases": counts, "validation_cases": validated})
    assert trained_splits(bundle, tmp_path)[1] == splits
    _index(tmp_path, *after)
    with pytest.raises(InputError, match=r"labelled and \d validation cases; the model was trained on \d"):
        trained_splits(bundle, tmp_path)
    _index(tmp_path, *other)  # another data set
    assert trained_splits(bundle, tmp_path)[1].validation


def test_the_domain_of_an_ensemble_is_of_the_cases_of_all_members(tmp_path: Path) -> None:
    """Members with few labels have others of the labelled cases each; the rest was not learnt from."""
    cases = [f"c{n:02}" for n in range(12)]
    index = {"labelled": cases, "patient_of": {case: case for case in cases}}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    data = {"labelled": 2, "fold": "1/4"}
    members, learnt = [], set()
    for n in (1, 2, 3, 4):
        _, run = read_splits(DataConfig(str(tmp_path), fold=f"{n}/4", labelled=2))
        learnt |= set(run.labelled)
        config = {"data": {**data, "fold": f"{n}/4"}}
        members.append({"training": {"config": config, "cases": {"labelled": 2, "unlabelled": 0}}})
    _, splits = trained_splits(_trained({"config": {"data": data}, "ensemble": members}), tmp_path)
    assert set(splits.labelled) == learnt
    assert len(learnt) > 2
    assert splits.unlabelled == ()


def test_one_network_gets_a_domain_and_no_limit(phantoms: Path, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    facts = json.loads(path.read_text())
    facts["networks"] = facts["networks"][:1]
    path.write_text(json.dumps(facts))
    found = CliRunner().invoke(app, ["calibrate", str(tmp_path / "bundle"), str(phantoms)])
    assert found.exit_code == 0, found.output
    assert "No uncertainty limit: the bundle holds one network." in found.output
    assert ModelBundle.load(tmp_path / "bundle").manifest.uncertainty is None


def test_a_limit_that_stays_is_told(phantoms: Path, tmp_path: Path) -> None:
    """A later calibration with too few validation cases said that there is no limit, and kept the earlier."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    limit = Calibration(1.25, 5.0, 0.5, 0.9, 18, "2 validation cases of phantoms")
    ModelBundle.load(tmp_path / "bundle").calibrated(uncertainty=limit)
    shutil.copytree(phantoms, tmp_path / "data")
    splits = {"labelled": ["p0", "p1"], "validation": ["p2"]}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(splits))
    found = CliRunner().invoke(app, ["calibrate", str(tmp_path / "bundle"), str(tmp_path / "data")])
    text = " ".join(found.output.split())
    assert "No uncertainty limit: the data set has 1 validation cases, wanted 2 or more." in text
    assert "The limit of 1.25 mm that it has (2 validation cases of phantoms) stays." in text
    assert ModelBundle.load(tmp_path / "bundle").manifest.uncertainty == limit


def corners(phantoms: Path, folder: Path) -> Path:
    """Copy the data set, cut to the first 24 x 24 x 24 voxels of each file: one patch."""
    shutil.copytree(phantoms, folder)
    for path in folder.glob("*Tr/*.nii.gz"):
        whole = load(path)
        cut = np.ascontiguousarray(whole.array[:24, :24, :24])
        save(Geometry(cut.shape, whole.geometry.affine).volume(cut), path)
    return folder


def test_a_limit_that_divides_nothing_is_refused_and_the_domain_is_kept(
    phantoms: Path, tmp_path: Path
) -> None:
    """Without a limit the measured domain was lost, so a bundle of two networks could not get one."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    before = ModelBundle.load(tmp_path / "bundle").manifest
    small = corners(phantoms, tmp_path / "corners")
    words = ["calibrate", str(tmp_path / "bundle"), str(small), "--bad-mm", "0.001"]
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, InputError)
    assert "18 of 18 scans have a 95HD above 0.00 mm: no limit divides them" in str(found.exception)
    assert "domain of 2 training scans. It was written; the uncertainty limit was not." in " ".join(
        found.output.split()
    )
    after = ModelBundle.load(tmp_path / "bundle").manifest
    assert after.task.domain != before.task.domain
    assert after.task.domain is not None
    assert after.task.domain.shape == ((24, 24),) * 3
    assert after.uncertainty == before.uncertainty


def test_a_calibration_that_is_interrupted_leaves_the_bundle_as_it_was(
    phantoms: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The domain had been written by then, and the message said that the command begins anew."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("c3s3_seg.training.bundles.calibrate.calibrate_uncertainty", interrupt)
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    found = CliRunner().invoke(app, ["calibrate", str(tmp_path / "bundle"), str(phantoms)])
    assert found.exit_code != 0
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before


def test_one_case_is_too_few() -> None:
    made = simulate(40_000, COARSE)
    with pytest.raises(InputError, match="found 1 validation cases, wanted 2"):
        calibrate_uncertainty(ModelBundle.find("phantom"), [ReferenceCase("a", made.scan, made.truth)], "one")


def test_degraded_scans_keep_their_masks_in_place() -> None:
    made = simulate(40_000, COARSE)
    versions = list(degraded(made.scan, made.truth))
    assert len(versions) == 9
    for name, scan, truth in versions:
        assert scan.geometry.matches(truth.geometry)
        if name.startswith("crop"):
            first = int(float(name.split()[1]) / 100 * made.scan.geometry.shape[0])
            assert np.array_equal(scan.array, made.scan.array[first:].astype(np.float32))
            assert np.allclose(scan.geometry.origin_mm, made.scan.geometry.to_mm((first, 0, 0)))
        elif name != "none":
            assert not np.array_equal(scan.array, made.scan.array)


def test_threshold_and_area_by_hand() -> None:
    value, bad = np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True])
    assert best_threshold(value, bad) == 2.5
    assert auroc(value, bad) == 1.0
    assert auroc(value, ~bad) == 0.0
    assert auroc(np.ones(4), bad) == 0.5
    infinite = np.array([1.0, 2.0, np.inf, np.inf])
    assert best_threshold(infinite, bad) == 2.0  # 1.5 would also flag the good mask of 2
    assert best_threshold(value, ~bad) == 4.0  # a limit that flags the good masks is worse than none


def made_rows(between: list[float], true: list[float]) -> list[CalibrationRow]:
    names = ["none", "noise 1"] * len(between)
    pairs = zip(between, true, strict=True)
    return [CalibrationRow(f"case-{n // 2}", names[n], b, t) for n, (b, t) in enumerate(pairs)]


def test_a_limit_of_0_is_refused() -> None:
    """With such a limit the manifest could not be loaded again."""
    found = limit_of(made_rows([0.5, 4.0, 0.5, 4.0], [1.0, 9.0, 1.0, 9.0]), "four")
    assert (found.calibration.threshold_mm, found.calibration.bad_mm) == (2.25, 2.0)
    with pytest.raises(InputError, match="found a limit of 0 mm between the networks"):
        limit_of(made_rows([0.0, math.inf, 0.0, math.inf], [1.0, 9.0, 1.0, 9.0]), "four")
    with pytest.raises(InputError, match="of 0 mm to the reference"):
        limit_of(made_rows([0.5, 4.0, 0.5, 4.0], [0.0, 9.0, 0.0, 9.0]), "four")


def test_each_case_is_judged_by_the_limit_of_the_others() -> None:
    """The limits without case 0, 1 and 2 are 2.5, 2 and 3 mm; that of all, 2.5 mm, catches all three."""
    found = limit_of(made_rows([1.0, 4.0, 2.0, 5.0, 6.0, 3.0], [1.0, 9.0] * 3), "six")
    assert found.calibration.threshold_mm == 2.5
    assert found.caught == pytest.approx(2 / 3)  # not the 3 mm of case 2
    assert found.false_alarms == pytest.approx(1 / 3)  # the 6 mm of case 2


@pytest.mark.parametrize("bad_mm", ["0", "-1", "0.0004", "nan", "inf"])
def test_a_bad_distance_of_0_is_refused_before_anything_is_read(bad_mm: str, tmp_path: Path) -> None:
    words = ["calibrate", "phantom", str(tmp_path), "--bad-mm", bad_mm]
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, InputError)
    assert "wanted a 95HD in mm of 0.001 or more" in str(found.exception)


def test_a_label_that_both_masks_lack_is_no_error() -> None:
    assert worst([1.5, math.nan]) == 1.5
    assert worst([math.inf, math.nan]) == math.inf
    assert worst([math.nan]) == 0.0


def test_a_trained_bundle_knows_its_domain(toy_config: Path, tmp_path: Path) -> None:
    config = load_config(toy_config, ["run.iterations=4"])
    bundle = train(config, tmp_path / "run", Silent())
    domain = bundle.task.domain
    assert domain is not None
    assert domain.scans == 4
    assert domain.volume_ml is not None
    assert set(domain.volume_ml) == {"ball"}
    predictor = open_predictor(bundle, backend="torch")
    coarse = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    with pytest.raises(DomainError, match="its spacing"):
        predictor(Geometry.build((40, 40, 40), (8.0,) * 3).volume(coarse))
    own = load(Path(config.data.folder) / "imagesTr" / "ball-4.nii.gz")
    assert predictor.check(own).check.level == "pass"


WATCHED = """
import sys
from c3s3_seg.cli import main
try:
    main()
finally:
    print("torch was loaded:", "torch" in sys.modules)
"""


def test_the_command_is_part_of_the_base_installation(phantoms: Path, tmp_path: Path) -> None:
    """docs/installation.md states this, but without torch the command used to end with a defect message."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    command = [sys.executable, "-c", WATCHED, "calibrate", tmp_path / "bundle", phantoms]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "domain of 2 training scans" in found.stdout
    assert "torch was loaded: False" in found.stdout


def test_a_mask_of_0_and_255_is_refused_before_scans_are_read(phantoms: Path, tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    shutil.copytree(phantoms, tmp_path / "data")
    path = tmp_path / "data" / "labelsTr" / "p3.nii.gz"
    mask = load_mask(path)
    save(mask.geometry.volume(mask.array * np.uint8(255)), path)
    words = ["calibrate", str(tmp_path / "bundle"), str(tmp_path / "data")]
    with pytest.raises(InputError, match=r"p3.nii.gz: the mask holds the value 255 alone"):
        raise CliRunner().invoke(app, words).exception  # type: ignore[misc]
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before


def test_a_training_mask_of_0_and_255_is_no_empty_one(phantoms: Path, tmp_path: Path) -> None:
    """Its volume counted as 0 ml, so that the range of the volumes began there."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "bundle")
    before = (tmp_path / "bundle" / "manifest.json").read_bytes()
    shutil.copytree(phantoms, tmp_path / "data")
    path = tmp_path / "data" / "labelsTr" / "p1.nii.gz"
    mask = load_mask(path)
    save(mask.geometry.volume(mask.array * np.uint8(255)), path)
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({"labelled": ["p0", "p1"]}))
    words = ["calibrate", str(tmp_path / "bundle"), str(tmp_path / "data")]
    with pytest.raises(InputError, match=r"p1.nii.gz: the mask holds the value 255 alone"):
        raise CliRunner().invoke(app, words).exception  # type: ignore[misc]
    assert (tmp_path / "bundle" / "manifest.json").read_bytes() == before


def test_cases_of_a_linked_bundle_decide_on_no_limit(phantoms: Path, tmp_path: Path) -> None:
    """The limit compares networks of both bundles, so it needs cases that neither was trained on."""
    for name in ("first", "linked"):
        shutil.copytree(WEIGHTS / "phantom", tmp_path / name)
    first = ModelBundle.load(tmp_path / "first")

    def with_record(**training: object) -> None:
        linked = replace(first.manifest, training={**first.manifest.training, **training})
        (tmp_path / "linked" / "manifest.json").write_bytes(manifest_text(linked))

    (tmp_path / "first" / "manifest.json").write_bytes(
        manifest_text(replace(first.manifest, networks=first.networks[:1], linked_bundle="linked"))
    )
    first = ModelBundle.load(tmp_path / "first")
    with_record()
    _, splits = trained_splits(first, phantoms)
    assert _without_limit(first, splits) == ""
    for kind in ("inherited", "training"):
        with_record(**{f"{kind}_case_hashes": [name_hash("p3")]})
        assert _without_limit(first, splits).startswith("1 validation cases have the names of cases that its")
        assert trained_splits(first, phantoms)[1] == splits  # the domain can be measured all the same
    member = {"training": {"training_case_hashes": [name_hash("p3")]}}
    with_record(ensemble=[member, {}])
    assert learnt_hashes(first) == {name_hash("p3")}  # which `train --from` and a teacher hand on


def test_a_case_that_was_trained_on_decides_on_no_limit(small_crops: Path, tmp_path: Path) -> None:
    """A run without validation cases checked nothing: its training cases could be named for validation."""
    config = load_config(small_crops)
    data = Path(shutil.copytree(config.data.folder, tmp_path / "data"))
    names = [f"ball-{n}" for n in range(5)]

    def divide(**splits: list[str]) -> None:
        (data / "dataset.json").write_text(json.dumps(splits))

    divide(labelled=names[:3], unlabelled=names[3:4])
    changes = [f"data.folder={data}", "method=supervised", "run.iterations=1"]
    bundle = train(load_config(small_crops, changes), tmp_path / "run", Silent())
    assert trained_splits(bundle, data)[1].labelled == tuple(names[:3])
    divide(labelled=names[:2], unlabelled=names[3:4], validation=names[2:3])
    with pytest.raises(InputError, match="'ball-2' among the validation cases, and the model was trained on"):
        trained_splits(bundle, data)
    member = {"training": bundle.manifest.training}
    with pytest.raises(InputError, match="'ball-2' among the validation cases, and the model was trained on"):
        trained_splits(_trained({"config": {}, "ensemble": [member, member]}), data)
    divide(labelled=names[:2], validation=names[3:])  # not drawn from by a supervised run
    assert trained_splits(bundle, data)[1].validation == tuple(names[3:])
    older = {k: v for k, v in bundle.manifest.training.items() if k != "training_case_hashes"}
    with pytest.raises(InputError, match="the model was trained on 3 and validated on 0"):
        trained_splits(_trained(older), data)
