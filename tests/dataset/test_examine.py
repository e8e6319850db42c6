"""Tests of the data doctor: each planted fault is found and nothing else; clean data are reported clean."""

import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from helpers.planted import (
    CASE,
    LABELLED,
    PLANTS,
    UNLABELLED,
    VALIDATION,
    Plant,
    clean_set,
    copy_of,
    edit_index,
    mask_of,
)

from c3s3_seg.dataset import DataSet
from c3s3_seg.dataset.check.case_summary import SummaryJob, look
from c3s3_seg.dataset.check.check import check_data_set
from c3s3_seg.errors import InputError
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.report.findings import Finding

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clean_set(tmp_path_factory.mktemp("doctor") / "clean")


def serious(findings: tuple[Finding, ...]) -> set[tuple[str, str, tuple[str, ...]]]:
    return {(f.severity, f.check, f.cases) for f in findings if f.severity != "info"}


def test_a_clean_set_is_clean_and_every_case_is_looked_at(clean: Path) -> None:
    told: list[tuple[str, int, int]] = []
    found = check_data_set(clean, progress=lambda *step: told.append(step))
    assert found.findings == ()
    assert not found.has_errors
    assert [case.name for case in found.cases] == LABELLED + UNLABELLED + VALIDATION
    assert [step[1:] for step in told] == [(n, 12) for n in range(1, 13)]
    assert [case.mask is None for case in found.cases] == [case.kind == "unlabelled" for case in found.cases]


# One set holds up to three faults in as many cases, none hiding another, because a check takes a second.
SPOTS = (CASE, LABELLED[4], LABELLED[5])
TOGETHER = [PLANTS[first::11] for first in range(11)]


@pytest.mark.parametrize("plants", TOGETHER, ids=lambda plants: ", ".join(plant.name for plant in plants))
def test_planted_faults_are_found_and_nothing_else(
    plants: tuple[Plant, ...], clean: Path, tmp_path: Path
) -> None:
    folder = copy_of(clean, tmp_path / "set")
    planted = list(zip(plants, SPOTS, strict=False))
    for plant, case in planted:
        plant.do(folder, case)
    found = check_data_set(folder)
    assert serious(found.findings) == {plant.finding(case) for plant, case in planted}
    assert found.has_errors == any(plant.severity == "error" for plant in plants)


def test_two_processes_find_the_same(clean: Path, tmp_path: Path) -> None:
    folder = copy_of(clean, tmp_path / "set")
    plants = list(zip(PLANTS[:3], SPOTS, strict=True))
    for plant, case in plants:
        plant.do(folder, case)
    together = check_data_set(folder, workers=2)
    # One process finds the same: the test above plants each of these faults, alone or with others.
    assert serious(together.findings) == {plant.finding(case) for plant, case in plants}
    assert [case.name for case in together.cases] == LABELLED + UNLABELLED + VALIDATION


def test_a_bad_mask_of_an_unlabelled_case_is_a_warning(clean: Path, tmp_path: Path) -> None:
    folder = copy_of(clean, tmp_path / "set")
    mask = load(mask_of(folder))
    mask.array[mask.array == 2] = 9
    save(mask, mask_of(folder))

    def spare(index: dict) -> None:
        index["labelled"].remove(CASE)
        index["unlabelled"].append(CASE)

    edit_index(folder, spare)
    found = check_data_set(folder)
    assert serious(found.findings) == {("warning", "mask-values", (CASE,))}
    assert "not used as long as the case is unlabelled" in found.findings[0].todo


def test_axes_that_run_otherwise_are_no_fault(clean: Path, tmp_path: Path) -> None:
    """If array and header are turned together, they show the same patient."""
    import SimpleITK

    folder = copy_of(clean, tmp_path / "set")
    for kind in ("imagesTr", "labelsTr"):
        path = folder / kind / f"{CASE}.nii.gz"
        image = SimpleITK.Flip(SimpleITK.ReadImage(str(path)), [True, True, False])
        path.unlink()
        SimpleITK.WriteImage(image, str(path))
    found = check_data_set(folder).findings
    assert [(f.severity, f.check, f.cases) for f in found] == [("info", "axes", (CASE,))]


@pytest.mark.parametrize(
    ("part", "error"),
    [
        ("sha256", InputError("the file cannot be read: Permission denied")),
        ("_summarize", PermissionError(13, "Permission denied")),
    ],
)
def test_what_nobody_thought_of_is_a_finding_of_its_case(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception
) -> None:
    """The file may not be read for its hash, or a step raises an unforeseen error: the check still ends."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(f"c3s3_seg.dataset.check.case_summary.{part}", fail)
    scan = toy_data / "imagesTr" / "ball-0.nii.gz"
    case = look(SummaryJob("ball-0", "labelled", scan, None, {}, {"image": "0" * 64}))
    assert [finding.check for finding in case.findings] == ["unreadable"] * (part == "_summarize")


def test_a_scan_that_is_nearly_all_background_is_a_warning(toy_data: Path, tmp_path: Path) -> None:
    """An organ cut out of its scan: nothing said that a bundle trained on it would have no domain."""
    folder = Path(shutil.copytree(toy_data, tmp_path / "set"))
    path = folder / "imagesTr" / "ball-1.nii.gz"
    scan = load(path)
    inside = scan.array[16:22, 14:20, 14:20].copy()
    scan.array[:] = 0
    scan.array[16:22, 14:20, 14:20] = inside  # 0.4 % of the voxels
    save(scan, path)
    for modality, expected in (("MR", [("ball-1",)]), ("CT", [])):
        edit_index(folder, lambda index, modality=modality: index.update(modality=modality))
        found = check_data_set(folder).findings
        assert [f.cases for f in found if f.check == "one-value"] == expected


def test_without_an_index_nothing_is_examined(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prepare"):
        check_data_set(tmp_path)


def test_few_cases_are_not_compared(clean: Path, tmp_path: Path) -> None:
    """With one labelled and one validation case, nobody can know which of them is turned."""
    folder = copy_of(clean, tmp_path / "set")
    PLANTS[11].do(folder)
    few = {"labelled": [CASE], "unlabelled": [], "validation": VALIDATION[:1]}
    edit_index(folder, lambda index: index.update(few))
    for path in [*(folder / "imagesTr").iterdir(), *(folder / "labelsTr").iterdir()]:
        if path.name.split(".")[0] not in (CASE, VALIDATION[0]):
            path.unlink()
    assert {check for _, check, _ in serious(check_data_set(folder).findings)} == {"few-cases"}


def sample(source: Path, folder: Path, step: int, also: tuple[str, ...]) -> DataSet:
    """Write a data set of every `step`-th case of each part, and of the cases `also`, and return it."""
    data = DataSet.load(source)
    parts = {
        part: [name for n, name in enumerate(getattr(data.splits, part)) if n % step == 0 or name in also]
        for part in ("labelled", "unlabelled", "validation")
    }
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for name in chain(*parts.values()):
        shutil.copy(data.scan(name), folder / "imagesTr")
        if data.has_mask(name):
            shutil.copy(data.mask(name), folder / "labelsTr")
    index = json.loads((source / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**index, **parts}))
    return DataSet.load(folder)


# The public atria hold one scan twice, cropped differently; both are training cases.
TWICE = ("0RZDK210BSMWAA6467LU", "CMPXO4J23G58J53Q98SZ")


@pytest.mark.data
@pytest.mark.parametrize(("name", "step", "twice"), [("la", 6, TWICE), ("hippocampus", 8, ())])
def test_the_real_data_are_clean(
    name: str, step: int, twice: tuple[str, ...], shared_data: Path, tmp_path: Path
) -> None:
    data = sample(shared_data / name, tmp_path / "set", step, twice)
    found = check_data_set(data.folder)
    assert serious(found.findings) == set()
    assert [f.cases for f in found.findings if f.check == "duplicate"] == ([twice] if twice else [])
    assert [case.name for case in found.cases] == list(data.splits.cases)
    assert len(found.cases) >= {"la": 15, "hippocampus": 23}[name]


def test_a_mask_of_0_and_255_beside_others_is_an_error(toy_data: Path, tmp_path: Path) -> None:
    """Without labels in the index any value is allowed; if all masks hold 255, it is their label's value."""
    shutil.copytree(toy_data, tmp_path / "data")
    for number, wrong in ((4, ["ball-4"]), (0, ["ball-0", "ball-4"]), (1, [])):
        path = tmp_path / "data" / "labelsTr" / f"ball-{number}.nii.gz"
        mask = load_mask(path)
        save(mask.geometry.volume((255 * (mask.array > 0)).astype(np.uint8)), path)
        checked = check_data_set(tmp_path / "data")
        assert [f.cases[0] for f in checked.findings if f.check == "mask-values"] == wrong
        assert checked.has_errors == bool(wrong)
