"""Tests of which scans are of one patient, by paths and names: which are joined and which stay apart."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path, PurePath

import pytest

from c3s3_seg.dataset import CaseRecord, DataSet, Splits
from c3s3_seg.dataset.patients import (
    BIDS,
    COPY,
    FOLDER,
    GIVEN,
    OWN,
    SERIAL,
    STEM,
    counted,
    patients_by_path,
    patients_of,
)


def groups(*names: str) -> list[set[str]]:
    found: dict[str, set[str]] = {}
    for name, guess in zip(names, patients_by_path([PurePath(n) for n in names]), strict=True):
        found.setdefault(guess.patient, set()).add(name)
    return sorted(found.values(), key=sorted)


def scans(pattern: str, *visits: str, patients: int = 5) -> Iterator[str]:
    return (pattern.format(n, v) for n, v in product(range(1, patients + 1), visits))


@pytest.mark.parametrize(
    ("pattern", "visits", "rule"),
    [
        ("patient{0:03}/patient{0:03}_frame{1}", ("01", "12"), FOLDER),
        ("patient{:03}_frame{}", ("01", "12"), STEM),
        ("patient{:03}frame{}", ("01", "12"), STEM),
        ("Patient-{:03}-Frame-{}", ("01", "12"), STEM),
        ("p{}_{}", ("ED", "ES"), STEM),
        ("{:03}_{}", ("bl", "6m", "12m"), STEM),
        ("{:03}_{}", ("insp", "exp"), STEM),
        ("{:03}_{}", ("t0", "t1"), STEM),
        ("{:03}{}", ("a", "b"), SERIAL),
        ("{:03}{}", ("V01", "V02"), SERIAL),
        ("\u041f{:03}_\u0432\u0438\u0437\u0438\u0442{}", (1, 2), SERIAL),
        ("p{}_{}", ("pre", "post"), STEM),
        ("p{}_{}", ("preop", "post-op", "post_op_2"), STEM),
        ("p{}_{}", ("pre_treatment", "post_treatment"), STEM),
        ("{:03}_{}", ("baseline", "followup", "follow-up_2", "fu3"), STEM),
        ("{}_{}", ("ses-1", "ses-2"), STEM),
        ("subj{}_{}", ("visit1", "visit_2", "visit-3"), STEM),
        ("subj{}_{}", ("visitA", "visit-b"), STEM),
        ("MRN{}_{}", ("baseline", "12months", "month24", "2_years"), STEM),
        ("imagesTr/p{}_{}_0000", ("ed", "es"), STEM),
        ("{1}_patient{0}", ("pre", "post"), STEM),
        ("subj{}_{}", ("tp1", "tp2", "timepoint3", "time4"), STEM),
        ("imagesTr/subj{}_{}", ("t1", "t2"), STEM),
        ("{:04}_{}", ("t1", "t1ce", "flair"), STEM),
        ("h{}_{}", ("left", "right"), STEM),
        ("h{}_{}", ("20190101", "2020-02-28"), STEM),
        ("h{}_frame01_{}", ("ct", "pet"), STEM),
        ("p{}_{}", ("v1", "v2"), SERIAL),
        ("p{}_{}", ("1", "2"), SERIAL),
        ("p{}_{}", ("a", "b"), SERIAL),
        ("OAS1_{:04}_{}", ("MR1", "MR2"), STEM),
        ("sub-{0:02}/ses-{1}/anat/sub-{0:02}_ses-{1}_T1w", ("1", "2"), BIDS),
        ("imagesTr/sub-{:02}_ses-{}_T1w", ("pre", "post"), BIDS),
        ("s{:04}/{}", ("ct", "pet"), FOLDER),
        ("data/{:03}/{}", ("t1", "t2"), FOLDER),
        ("{0:03}/{0:03}_{1}", ("t1", "t2"), FOLDER),
        ("A{}/visit{}/scan", ("1", "2"), FOLDER),
        ("A{}/{}/ct", ("2019-01-01", "20200101"), FOLDER),
        ("A{}/{}", ("20190101", "20200101"), FOLDER),
        ("A{}/{}", ("1", "2", "3"), FOLDER),
        ("A{}_{}/ct", ("pre", "post"), FOLDER),
        ("A{}/{}/scan", ("2019", "2020"), FOLDER),
        ("MILLER{}/{}/ct", ("1", "2", "3"), FOLDER),
        ("p{}/v{}/img", ("1", "2"), FOLDER),
        ("{:03}/{}/img", ("T1w_MPRAGE_3", "T2_TSE_5"), FOLDER),
        ("data/{0:03}/{1}/IMG_{0}", ("heart_1", "heart_2"), FOLDER),
        ("LUNG1-{0:03}/study-{0}{1}/0.0-NA-{0}{1}/1-1", ("07", "08"), FOLDER),
        ("{1}/p{0}", ("baseline", "followup"), STEM),
        ("{1}/{0:03}", ("T1", "T2"), STEM),
    ],
)
def test_scans_of_one_patient(pattern: str, visits: tuple[str, ...], rule: str) -> None:
    names = list(scans(pattern, *visits))
    guesses = patients_by_path([PurePath(name) for name in names])
    assert counted(guesses) == {rule: (len(names), 5)}
    assert len({guess.patient for guess in guesses[: len(visits)]}) == 1


@pytest.mark.parametrize(
    "pattern",
    [
        "hippocampus_{:03}", "la_2018_{:03}", "case{}", "case_{:05}", "Case_{:05}_0000", "KQ7XZ{}", "{}",
        "1{}",
        "imagesTr/liver_{}", "volume-{}", "img{:04}", "BraTS20_Training_{:03}", "TCGA-01-{:04}", "scan_{}",
        "scan{}", "ct_{:02}", "lesion_scan{}", "brain_exam{}", "s{:04}/ct", "patient{:03}/patient{:03}_4d",
        "liver/liver_{:03}", "part1/case_{:03}", "{0}/{0}",
    ],
)  # fmt: skip
def test_running_numbers_are_patients(pattern: str) -> None:
    names = [pattern.format(n, n) for n in range(1, 31)]
    assert len(groups(*names)) == 30


@pytest.mark.parametrize(
    "pattern", ["{group}/{group}_{n:03}/t1", "{group}/{n}{group}/ct", "{group}/patient{n}{group}/v1/img"]
)
def test_groups_of_subjects_are_no_subjects(pattern: str) -> None:
    names = [pattern.format(group=group, n=n) for group in ("AD", "CN") for n in range(8)]
    assert len(groups(*names)) == 16


def test_a_patient_with_one_visit_beside_patients_with_several() -> None:
    names = ("DOE/2019/scan", "DOE/2020/scan", "ROE/scan", "ZED/2019/ct")
    assert groups(*names) == [{"DOE/2019/scan", "DOE/2020/scan"}, {"ROE/scan"}, {"ZED/2019/ct"}]


def test_the_public_names_of_the_atria_stay_apart() -> None:
    names = ("06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU", "38CWS74285MFGZZXR09Z", "9DQYTIU00I4JC0OEOKES")
    assert len(groups(*names)) == 4


def test_names_without_a_number() -> None:
    assert groups("MILLER_pre", "MILLER_post", "SMITH_pre") == [{"MILLER_post", "MILLER_pre"}, {"SMITH_pre"}]
    assert groups("MILLER/head", "MILLER/chest", "SMITH/foot") == [
        {"MILLER/chest", "MILLER/head"}, {"SMITH/foot"},
    ]  # fmt: skip


def test_frames_of_one_heart_are_one_patient_and_serial_names_of_a_data_set_are_not() -> None:
    assert len(groups(*(f"heart_frame{n:02}" for n in range(30)))) == 1
    years = [f"{year}_{n}" for year in (2018, 2019, 2020) for n in range(30)]
    assert len(groups(*years)) == 90


def test_hospitals_and_sets_that_begin_to_count_anew() -> None:
    assert len(groups("site1/p01_v1", "site1/p01_v2", "site2/p01_v1", "site2/p01_v2", "site1/p02_v1")) == 3
    assert len(groups("train/001", "train/002", "test/001", "test/002")) == 4
    assert groups("site1/p01", "T1/p02", "T2/p02") == [{"T1/p02", "T2/p02"}, {"site1/p01"}]


def test_copies_are_joined_and_are_no_proof() -> None:
    names = ["case-1", "case-1_aug", "Copy of case-1", "case-1 (1)", "case-2"]
    guesses = patients_by_path([PurePath(name) for name in names])
    assert len({guess.patient for guess in guesses}) == 2
    assert guesses[1].rule == COPY
    assert not guesses[1].is_sure


@pytest.mark.parametrize("name", ["frame01", "_", "...", "pre", "1_" * 100, "ct_" * 60, "(1)", "\u0661_ed"])
def test_names_that_hold_nothing_else(name: str) -> None:
    (guess,) = patients_by_path([PurePath(name)])
    assert guess.patient


def test_the_index_goes_before_the_names() -> None:
    records = {"p1_ed": CaseRecord("p-0001", {}, {}, {}), "p2_ed": CaseRecord("p-0001", {}, {}, {})}
    splits = Splits(("p1_ed", "p2_ed", "p3_ed", "p3_es", "p4_ed"))
    data = DataSet(Path("x"), splits=splits, records=records, patient_of={"p3_es": "another", "p2_ed": "2"})
    known = patients_of(data, ())
    assert len({known[case].patient for case in splits.labelled}) == 5
    assert [known[case].rule for case in splits.labelled] == [GIVEN, GIVEN, OWN, GIVEN, OWN]


@pytest.mark.data
def test_the_shared_data(shared_data: Path) -> None:
    def found(folder: str, images: str) -> dict[str, tuple[int, int]]:
        root = shared_data / folder
        paths = [p.relative_to(root) for p in sorted(root.glob(images)) if "_gt" not in p.name]
        return counted(patients_by_path([p.parent / p.name.removesuffix(".nii.gz") for p in paths]))

    assert found("cine", "*/*.nii.gz") == {FOLDER: (30, 15)}
    assert found("la", "imagesTr/*") == {OWN: (80, 80)}
    assert found("hippocampus", "imagesTr/*") == {OWN: (195, 195)}
