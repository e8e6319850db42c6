"""Tests of several volumes in one series: separated, listed and chosen; other objects are left out."""

import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit, values
from pydicom.uid import ImplicitVRLittleEndian, generate_uid

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import Reading, SeriesRule, load, read_case
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.studies import find_scans

Change = dict[str, object]


def phases(volume: Volume, folder: Path, changes: list[Change]) -> list[Volume]:
    """Write one series with a volume for each change, each volume 1 higher in value than the previous."""
    volumes = []
    for n, change in enumerate(changes):
        shifted = volume.geometry.volume(volume.array.astype(np.uint16) + n)
        volumes.append(shifted)
        for path in save_series(shifted, folder / str(n), description="", seed_uid="same"):
            edit(path, values(**change, SOPInstanceUID=generate_uid()))
    return volumes


@pytest.mark.parametrize(
    ("first", "second", "noted"),
    [
        ({"EchoNumbers": 1, "EchoTime": "2.5"}, {"EchoNumbers": 2, "EchoTime": "5"}, "EchoNumbers, EchoTime"),
        ({"DiffusionBValue": 0.0}, {"DiffusionBValue": 1000.0}, "DiffusionBValue"),
        ({"ComplexImageComponent": "MAGNITUDE"}, {"ComplexImageComponent": "PHASE"}, "ComplexImageComponent"),
        ({"FlipAngle": "5"}, {"FlipAngle": "26"}, "FlipAngle"),
        (
            {"ImageType": ["ORIGINAL", "PRIMARY", "M"]},
            {"ImageType": ["ORIGINAL", "PRIMARY", "P"]},
            "ImageType",
        ),
        ({"EchoTime": "2.46"}, {"EchoTime": "2.460001", "TriggerTime": "8", "AcquisitionNumber": "2"}, ""),
    ],
)
def test_slices_of_two_echoes_between_each_other_are_noted(
    oblique: Volume, tmp_path: Path, first: Change, second: Change, noted: str
) -> None:
    """No two slices share a place and the steps are even: only the attributes reveal two volumes."""
    for k, path in enumerate(save_series(oblique, tmp_path / "s", description="", seed_uid="a")):
        edit(path, values(**(first, second)[k % 2]))
    wanted = (f"the slices differ in {noted}: they may be of two volumes, one between the other",)
    assert load(tmp_path / "s").source.notes == (wanted if noted else ())


def test_image_types_of_two_halves_are_no_two_volumes(oblique: Volume, tmp_path: Path) -> None:
    paths = save_series(oblique, tmp_path / "s", description="", seed_uid="a")
    for k, path in enumerate(paths):
        edit(path, values(ImageType=["DERIVED", "PRIMARY", "M" if k < len(paths) // 2 else "P"]))
    assert load(tmp_path / "s").source.notes == ()


def test_the_b_values_of_siemens_between_each_other_are_noted(oblique: Volume, tmp_path: Path) -> None:
    for k, path in enumerate(save_series(oblique, tmp_path / "s", description="", seed_uid="a")):
        edit(path, lambda data, k=k: data.add_new(0x0019100C, "IS", str(k % 2 * 800)))
    (note,) = load(tmp_path / "s").source.notes
    assert note.startswith("the slices differ in the b-value: ")


CASES: list[tuple[list[Change], list[str]]] = [
    ([{"EchoNumbers": 1, "EchoTime": "2.5"}, {"EchoNumbers": 2, "EchoTime": "5"}], ["echo 1", "echo 2"]),
    ([{"EchoTime": "2.46"}, {"EchoTime": "10"}, {"EchoTime": "4.92"}], ["TE 2.46", "TE 4.92", "TE 10"]),
    ([{"DiffusionBValue": 1000.0}, {"DiffusionBValue": 0.0}], ["b 0.0", "b 1000.0"]),
    (
        [{"TemporalPositionIdentifier": "1"}, {"TemporalPositionIdentifier": "2"}],
        ["time point 1", "time point 2"],
    ),
    (
        [{"ImageType": ["ORIGINAL", "PRIMARY", "M"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "P"]}],
        ["type M", "type P"],
    ),
    ([{"InversionTime": "400"}, {"InversionTime": "150"}], ["TI 150", "TI 400"]),
    ([{"FlipAngle": "5"}, {"FlipAngle": "26"}], ["flip 5", "flip 26"]),
    ([{"AcquisitionNumber": "2"}, {"AcquisitionNumber": "1"}], ["acquisition 1", "acquisition 2"]),
    ([{"AcquisitionTime": "101010"}, {"AcquisitionTime": "101020"}], ["time 1", "time 2"]),
    (
        [
            {"EchoTime": "1", "TemporalPositionIdentifier": "1"},
            {"EchoTime": "2", "TemporalPositionIdentifier": "1"},
            {"EchoTime": "1", "TemporalPositionIdentifier": "2"},
            {"EchoTime": "2", "TemporalPositionIdentifier": "2"},
        ],
        ["TE 1, time point 1", "TE 1, time point 2", "TE 2, time point 1", "TE 2, time point 2"],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "labels"), CASES, ids=lambda c: str(len(c)))
def test_phases_are_split_listed_and_chosen(
    oblique: Volume, tmp_path: Path, changes: list[Change], labels: list[str]
) -> None:
    volumes = phases(oblique, tmp_path / "s", changes)
    with pytest.raises(InputError, match=f"found {len(labels)} series") as error:
        load(tmp_path / "s")
    listed = str(error.value).split(". Choose")[0].split("20 x 16, ")[1:]
    assert [re.sub(r"; \d+: .*", "", entry) for entry in listed] == labels
    seen = []
    for number in range(1, len(labels) + 1):
        back = load(tmp_path / "s", series=number)
        seen.append(int(back.array[0, 0, 0]))
        again = load(tmp_path / "s", series=back.source.series)
        assert np.array_equal(again.array, back.array)
        assert any(np.array_equal(back.array, volume.array) for volume in volumes)
    assert sorted(seen) == list(range(len(labels)))
    with pytest.raises(InputError, match="holds several volumes"):
        load(tmp_path / "s", series=back.source.series_uid)


@pytest.mark.parametrize(
    ("tag", "vr", "owner", "numbers"),
    [
        (0x0019100C, "IS", "SIEMENS MR HEADER", ("0", "800")),
        (0x20011003, "FL", "Philips Imaging DD 001", (0.0, 800.0)),
        (0x00431039, "IS", "GEMS_PARM_01", ("0\\8\\0\\0", "800\\8\\0\\0")),
    ],
    ids=["Siemens", "Philips", "GE"],
)
@pytest.mark.parametrize("way", ["explicit", "implicit", "unknown"])
def test_b_values_that_only_the_maker_writes(
    oblique: Volume, tmp_path: Path, tag: int, vr: str, owner: str, numbers: tuple[object, object], way: str
) -> None:
    """Implicit VR states no type, and a server that does not know a tag marks its type as unknown (UN)."""
    phases(oblique, tmp_path / "s", [{}, {}])
    for path in sorted((tmp_path / "s").rglob("*.dcm")):
        data = pydicom.dcmread(path)
        data.add_new((tag & 0xFFFF0000) + 0x10, "LO", owner)
        number = numbers[int(path.parent.name)]
        if way == "unknown":
            number = struct.pack("<f", number) if vr == "FL" else str(number).encode()
        if way == "implicit":
            data.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        data.add_new(tag, "UN" if way == "unknown" else vr, number)
        data.save_as(path)
    with pytest.raises(InputError, match=r"(?s)found 2 series.*\bb \S*0.*\bb \S*800"):
        load(tmp_path / "s")
    for number in (1, 2):
        assert np.array_equal(load(tmp_path / "s", series=number).array, oblique.array + (number - 1))


def test_gradients_of_one_b_value(oblique: Volume, tmp_path: Path) -> None:
    changes: list[Change] = [
        {"DiffusionBValue": 0.0},
        {"DiffusionBValue": 700.0, "DiffusionGradientOrientation": [1.0, 0.0, 0.0]},
        {"DiffusionBValue": 700.0, "DiffusionGradientOrientation": [0.0, 1.0, 0.0]},
    ]
    phases(oblique, tmp_path / "s", changes)
    with pytest.raises(InputError, match="found 3 series"):
        load(tmp_path / "s")
    seen = {int(load(tmp_path / "s", series=n).array[0, 0, 0]) for n in (1, 2, 3)}
    assert seen == {0, 1, 2}


def test_triggers_that_differ_from_place_to_place_go_by_their_order(oblique: Volume, tmp_path: Path) -> None:
    phases(oblique, tmp_path / "s", [{}, {}, {}])
    for path in sorted((tmp_path / "s").rglob("*.dcm")):
        place = int(pydicom.dcmread(path).InstanceNumber)
        edit(path, values(TriggerTime=str(100 * int(path.parent.name) + 3 * place)))
    for number in (1, 2, 3):
        assert np.array_equal(load(tmp_path / "s", series=number).array, oblique.array + (number - 1))


def timed(volume: Volume, folder: Path, count: int, change: Callable[[int, int], Change]) -> None:
    """Write `count` volumes as one series; `change` takes the volume and the place, each from 0."""
    phases(volume, folder, [{}] * count)
    for path in sorted(folder.rglob("*.dcm")):
        place = int(pydicom.dcmread(path).InstanceNumber) - 1
        edit(path, values(**change(int(path.parent.name), place)))


def odd(place: int) -> int:
    return place % 2


def above(place: int) -> int:
    return place // 6


PACKAGES: dict[str, tuple[Callable[[int, int], Change], str]] = {
    "a table that toggles": (
        lambda n, p: {
            "AcquisitionNumber": 1 + 2 * n + above(p),
            "AcquisitionTime": f"1010{2 * n + above(p):02}",
        },
        "AcquisitionTime",
    ),
    "a table that toggles back and forth": (
        lambda n, p: {"AcquisitionTime": f"1010{2 * n + (above(p) if n % 2 else 1 - above(p)):02}"},
        "AcquisitionTime",
    ),
    "odd and even slices": (
        lambda n, p: {"AcquisitionTime": f"1010{2 * n + odd(p):02}"},
        "AcquisitionTime",
    ),
    "numbered packages": (
        lambda n, p: {"AcquisitionNumber": 1 + n + 2 * odd(p), "AcquisitionTime": f"10{odd(p)}0{n:02}"},
        "AcquisitionTime",
    ),
    "two breath-holds": (
        lambda n, p: {"TriggerTime": str(10 + n * (31 - above(p)) + above(p))},
        "TriggerTime",
    ),
    "beats of odd and even slices": (
        lambda n, p: {"TriggerTime": str(10 + n * (31 - odd(p)) + odd(p))},
        "TriggerTime",
    ),
    "midnight within a volume": (
        lambda n, p: {
            "AcquisitionDate": "20200101" if 12 * n + p < 6 else "20200102",
            "AcquisitionTime": f"{235954 + p}" if 12 * n + p < 6 else f"{12 * n + p - 6:06}",
        },
        "AcquisitionTime",
    ),
    "midnight within a volume, in one attribute": (
        lambda n, p: {
            "AcquisitionDateTime": f"{(20200101235954, 20200101999994)[12 * n + p > 5] + 12 * n + p}-0500"
        },
        "AcquisitionTime",
    ),
}


@pytest.mark.parametrize(("change", "key"), PACKAGES.values(), ids=PACKAGES)
def test_parts_of_a_volume_that_share_a_value_are_no_volumes(
    oblique: Volume, tmp_path: Path, change: Callable[[int, int], Change], key: str
) -> None:
    """Each value is that of half a volume, or of half of it and half of the next: the order decides."""
    timed(oblique, tmp_path / "s", 2, change)
    for number in (1, 2):
        back = load(tmp_path / "s", series=number)
        assert back.geometry.matches(oblique.geometry)
        assert np.array_equal(back.array, oblique.array + (number - 1))
        assert f"the 2 slices at each place were assigned to volumes in the order of their {key}" in "".join(
            back.source.notes
        )


@pytest.mark.parametrize(
    ("count", "change", "left_out"),
    [
        # Three acquisitions, of which each place lacks another one: by their order they would be mixed.
        (
            3,
            lambda n, p: {"AcquisitionNumber": 1 + n, "AcquisitionTime": f"1010{n:02}"},
            lambda n, p: p % 3 == n,
        ),
        # The second acquisition is the first one above, and the last one below.
        (
            2,
            lambda n, p: {
                "AcquisitionNumber": (2, 3)[n] if above(p) else (1, 2)[n],
                "AcquisitionTime": f"1010{n + above(p):02}",
            },
            lambda n, p: False,
        ),
        # Midnight, and no date.
        (
            2,
            lambda n, p: {"AcquisitionTime": f"{235954 + p}" if 12 * n + p < 6 else f"{12 * n + p - 6:06}"},
            None,
        ),
    ],
    ids=["missing slices", "acquisitions of two places", "midnight"],
)
def test_slices_that_no_order_tells_apart_are_refused(
    oblique: Volume,
    tmp_path: Path,
    count: int,
    change: Callable[[int, int], Change],
    left_out: Callable[[int, int], bool] | None,
) -> None:
    timed(oblique, tmp_path / "s", count, change)
    for path in sorted((tmp_path / "s").rglob("*.dcm")):
        if left_out is not None and left_out(
            int(path.parent.name), int(pydicom.dcmread(path).InstanceNumber) - 1
        ):
            path.unlink()
    with pytest.raises(InputError, match="two different slices lie at the same position"):
        load(tmp_path / "s")


def test_a_volume_without_slices_at_every_place_of_its_series_says_so(
    oblique: Volume, tmp_path: Path
) -> None:
    phases(
        oblique, tmp_path / "s", [{"TemporalPositionIdentifier": "1"}, {"TemporalPositionIdentifier": "2"}]
    )
    for path in sorted((tmp_path / "s/1").iterdir())[8:]:
        path.unlink()
    whole, part = (load(tmp_path / "s", series=number) for number in (1, 2))
    assert (whole.array.shape[2], part.array.shape[2]) == (12, 8)
    assert not any("places" in note for note in whole.source.notes)
    assert any(
        "slices lie at 8 of the 12 places of the series: it may be a part" in n for n in part.source.notes
    )


def test_a_rest_is_not_a_phase(oblique: Volume, tmp_path: Path) -> None:
    files = save_series(oblique, tmp_path / "s", description="", seed_uid="a")
    extra = files[4].with_name("extra.dcm")
    extra.write_bytes(files[4].read_bytes())
    edit(extra, values(EchoTime="20", SOPInstanceUID=generate_uid(), PixelData=bytes(20 * 16 * 2)))
    with pytest.raises(InputError, match="two different slices lie at the same position"):
        load(tmp_path / "s")


def test_a_view_of_another_plane_is_left_out_by_its_orientation(oblique: Volume, tmp_path: Path) -> None:
    save_series(oblique, tmp_path / "s", description="", seed_uid="a")
    turned = oblique.geometry.direction[:, [2, 0, 1]]
    side = Geometry.build((9, 8, 1), (3, 3, 3), (0, 0, 0), turned)
    (scout,) = save_series(
        side.volume(np.ones((9, 8, 1), np.uint16)), tmp_path / "s/x", description="", seed_uid="a"
    )
    edit(scout, values(SOPInstanceUID=generate_uid()))
    back = load(tmp_path / "s")
    assert np.array_equal(back.array, oblique.array)
    assert back.source.notes == ("series 1 of 2 was taken: MR, 12 slices, 20 x 16, plane 1",)


def test_a_rule_takes_the_series_that_is_meant(oblique: Volume, tmp_path: Path) -> None:
    for n, name in enumerate(("T1 tse", "LGE 3D", "LGE 3D MIP")):
        other = oblique.geometry.volume(oblique.array + n)
        for path in save_series(other, tmp_path / str(n), description=name, seed_uid=name):
            edit(path, values(SeriesNumber=str(n)))
    rule = SeriesRule("modality=mr, description~lge|late, description!~mip")
    back = load(tmp_path, rule=rule)
    assert np.array_equal(back.array, oblique.array + 1)
    assert back.source.notes == ("series 2 of 3 was taken: MR, 12 slices, 20 x 16",)
    assert np.array_equal(load(tmp_path, series=rule).array, oblique.array + 1)
    for unclear in ("modality=MR,description~lge", "modality=CT", "description=nothing"):
        with pytest.raises(InputError, match=r"found [23] series"):
            load(tmp_path, rule=SeriesRule(unclear))
        with pytest.raises(InputError, match=rf"found [02] series that fit the rule '{unclear}'"):
            load(tmp_path, series=SeriesRule(unclear))
    assert np.array_equal(load(tmp_path, series=3, rule=rule).array, oblique.array + 2)


def test_a_mosaic_is_refused(oblique: Volume, tmp_path: Path) -> None:
    for path in save_series(oblique, tmp_path / "s", description="", seed_uid="a"):
        edit(path, values(ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]))
    with pytest.raises(InputError, match=r"is a mosaic.*dcm2niix"):
        load(tmp_path / "s")


TYPES = (["ORIGINAL", "PRIMARY", "M", "NORM"], ["DERIVED", "SECONDARY", "M", "NORM"])


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        (
            [{"ImageType": kind} for kind in TYPES],
            ["type DERIVED SECONDARY M NORM", "type ORIGINAL PRIMARY M NORM"],
        ),
        (
            [{"EchoTime": echo, "AcquisitionTime": time} for echo in "12" for time in ("101010", "101020")],
            ["TE 1, time 1", "TE 1, time 2", "TE 2, time 1", "TE 2, time 2"],
        ),
        (
            [
                {"ImageType": ["ORIGINAL", "PRIMARY", part], "AcquisitionTime": t}
                for part in "MP"
                for t in ("101010", "101020")
            ],
            ["type M, time 1", "type M, time 2", "type P, time 1", "type P, time 2"],
        ),
    ],
    ids=["types", "echoes and times", "types and times"],
)
def test_every_part_of_a_series_is_a_case_with_its_own_voxels(
    oblique: Volume, tmp_path: Path, changes: list[Change], labels: list[str]
) -> None:
    """Two parts got one key: one case was missing, and the other could be read from the wrong part."""
    phases(oblique, tmp_path / "parts", changes)
    (tmp_path / "s").mkdir()
    for path in (tmp_path / "parts").rglob("*.dcm"):
        path.rename(tmp_path / "s" / f"{path.parent.name}_{path.name}")
    cases = find_scans([tmp_path / "s"], Reading()).cases
    assert [case.series.partition("#")[2] for case in cases] == labels
    read = [int(read_case(case, Reading()).array[0, 0, 0]) - int(oblique.array[0, 0, 0]) for case in cases]
    assert sorted(read) == list(range(len(changes)))
    for number, value in enumerate(read, 1):
        back = load(tmp_path / "s", series=number)
        assert (int(back.array[0, 0, 0]) - int(oblique.array[0, 0, 0]), back.source.series) == (
            value,
            cases[number - 1].series,
        )
