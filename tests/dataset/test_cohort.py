"""Tests of cases that differ from the others, and of cases that differ too little to be reported."""

from dataclasses import replace

import numpy as np
import pytest

from c3s3_seg.dataset.check.case_summary import CaseSummary, CheckedCase
from c3s3_seg.dataset.check.mask_statistics import MaskStatistics
from c3s3_seg.dataset.check.outliers import odd_ones
from c3s3_seg.dataset.check.thumbnail import Thumbnail

THUMB = Thumbnail(np.zeros((4, 4, 4), np.float16), None, np.ones(3))
CURVE = np.linspace(0, 1, 19)


def cases(count: int, label: str = "organ") -> list[CheckedCase]:
    random = np.random.default_rng(3)
    found = []
    for n in range(count):
        mask = MaskStatistics({label: float(10 * random.uniform(0.8, 1.25))}, {label: (0.0, None)}, 0.0)
        intensities = CURVE + random.uniform(-0.03, 0.03)
        facts = CaseSummary(
            np.ones(3), (40, 40, 40), "LPS", str(n), intensities, intensities, 0.0, False, THUMB, mask
        )
        found.append(CheckedCase(f"c{n}", "labelled", (), facts))
    return found


def change(case: CheckedCase, **what: object) -> CheckedCase:
    assert case.summary is not None
    return replace(case, summary=replace(case.summary, **what))


def found(group: list[CheckedCase], modality: str = "MR") -> list[tuple[str, str, tuple[str, ...]]]:
    return [(f.severity, f.check, f.cases) for f in odd_ones(group, modality)]


def first(group: list[CheckedCase], **what: object) -> list[CheckedCase]:
    return [change(group[0], **what), *group[1:]]


def mask(volume: float = 10.0, second: float = 0.0, cut: float = 0.0) -> MaskStatistics:
    return MaskStatistics({"organ": volume}, {"organ": (second, (1, 2, 3) if second else None)}, cut)


def test_nothing_is_odd() -> None:
    assert found(cases(12)) == []
    assert found([]) == []


def test_ten_thick_slices_are_not_small() -> None:
    """The networks halve an axis of 10 mm slices twice, so 4 slices are enough."""
    for slices, expected in ((10, set()), (3, {"small"})):
        group = [
            change(case, shape=(64, 64, slices), spacing_mm=np.array([1.7, 1.7, 10])) for case in cases(12)
        ]
        assert {check for _, check, _ in found(group)} == expected


@pytest.mark.parametrize(
    ("what", "check"),
    [
        ({"spacing_mm": np.array([1, 1, 1.6])}, "spacing"),
        ({"intensities": CURVE + 0.5, "scaled_intensities": CURVE + 0.5}, "intensities"),
        ({"at_top": 0.02}, "clipped"),
        ({"few_values": True}, "image-is-mask"),
        ({"shape": (40, 15, 40)}, "small"),
        ({"mask": mask(volume=28)}, "volume"),
        ({"mask": mask(volume=0)}, "label-missing"),
        ({"mask": mask(second=0.06)}, "fragmented"),
        ({"mask": mask(cut=0.13)}, "cut-off"),
    ],
)
def test_an_odd_one_is_found_and_all_alike_are_not_one(what: dict[str, object], check: str) -> None:
    group = cases(12)
    assert found(first(group, **what)) == [("warning", check, ("c0",))]
    everyone = {
        name for severity, name, _ in found([change(case, **what) for case in group]) if severity == "warning"
    }
    assert everyone <= {"small", "label-missing", "image-is-mask"}  # faults even if all cases have them


@pytest.mark.parametrize(
    "what",
    [
        {"spacing_mm": np.array([1, 1, 1.45])},
        {"at_top": 0.009},
        {"shape": (40, 16, 40)},
        {"mask": mask(volume=19)},
        {"mask": mask(second=0.04)},
        {"mask": mask(cut=0.11)},
    ],
)
def test_a_little_odd_is_not_odd(what: dict[str, object]) -> None:
    assert found(first(cases(12), **what)) == []


def test_flat_voxels() -> None:
    group = [change(case, spacing_mm=np.array([1, 1, 6.5])) for case in cases(5)]
    assert {name for _, name, _ in found(group)} == {"anisotropic"}


def test_with_few_cases_only_the_grossest_is_said() -> None:
    group = cases(4)
    assert found(first(group, mask=mask(volume=30))) == []
    assert found(first(group, mask=mask(volume=60))) == [("warning", "volume", ("c0",))]
    assert found(first(cases(2), mask=mask(volume=60, second=0.5))) == []


def test_ct_that_is_not_in_hounsfield_units() -> None:
    assert found(cases(6), "CT") == [("warning", "unit", ())]
    assert (
        found(
            [
                change(case, intensities=case.summary.intensities * 1000 - 900)
                for case in cases(6)
                if case.summary
            ],
            "CT",
        )
        == []
    )


def test_the_odd_ct_scan_is_compared_as_it_is() -> None:
    odd = [case for case in cases(8) if case.summary]
    group = [change(case, intensities=case.summary.intensities * 1000 - 900) for case in odd]
    assert found(first(group, intensities=CURVE * 1000 + 124), "CT") == [("warning", "intensities", ("c0",))]


def test_a_label_that_few_have_is_only_noted() -> None:
    group = [change(case, mask=mask(volume=0 if n < 6 else 10)) for n, case in enumerate(cases(12))]
    assert found(group) == [("info", "label-missing", ())]
    assert found([change(case, mask=mask(volume=0)) for case in group]) == [("warning", "label-missing", ())]


def test_values_without_names_need_not_be_in_every_mask() -> None:
    """If the index names no label, each mask may hold its own; a label in one mask alone is noted."""
    group = cases(4, "1")
    assert group[0].mask is not None
    rare = replace(group[0].mask, volumes_ml={"1": 10.0, "2": 1.0}, second={"1": (0, None), "2": (0, None)})
    assert found(first(group, mask=rare)) == [("info", "label-missing", ())]
