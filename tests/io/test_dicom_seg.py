"""Tests of written DICOM SEG: another program reads the same voxels at the same places; files are valid."""

import copy
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit, values
from helpers.dicom_seg import MAKER, SEGMENTS, differing, drawn, errors
from helpers.raw_dicom import raw
from helpers.seg_read import read
from highdicom.color import CIELabColor
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless, generate_uid

from c3s3_seg.batch.output import segments as bundle_segments
from c3s3_seg.bundle import Code, Label, ModelBundle
from c3s3_seg.bundle.manifest import Qualifier
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects import seg_write as dicom_seg
from c3s3_seg.io.dicom_objects.codes import LABEL_CIELAB, LABEL_COLOURS, Maker, Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.secondary_capture import write_capture
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.dicom_objects.segmentation import look_at_drawing
from c3s3_seg.io.formats import check_format
from c3s3_seg.system.choices import MaskFormat

PARTS = (("255549009", "SCT", "Anterior"), ("255551008", "SCT", "Posterior"))


@pytest.mark.slow
@pytest.mark.parametrize("change", ["as it is", "shuffled", "compressed"])
def test_dcmqi_reads_the_same_voxels(files: list[Path], tmp_path: Path, change: str) -> None:
    folder = files[0].parent
    for n, path in enumerate(files):
        if change == "shuffled":
            edit(path, values(InstanceNumber=str(n * 5 % 12)))
            path.rename(folder / f"x{n * 7 % 12:02d}")
        if change == "compressed":
            data = pydicom.dcmread(path)
            data.compress(JPEG2000Lossless, generate_instance_uid=False)
            data.save_as(path)
    mask = drawn(load(folder))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert differing(tmp_path / "a.dcm", mask, tmp_path / "q") == 0
    assert errors(tmp_path / "a.dcm") == []
    broken = mask.array.copy()
    broken[20, 20, 8] ^= 1
    assert differing(tmp_path / "a.dcm", mask.geometry.volume(broken), tmp_path / "q") == 1


def test_each_frame_refers_to_the_slice_it_lies_on(files: list[Path], tmp_path: Path) -> None:
    for n, path in enumerate(files):
        path.rename(path.with_name(f"x{n * 7 % 12:02d}"))
    mask = drawn(load(files[0].parent))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    places = {
        str(d.SOPInstanceUID): list(d.ImagePositionPatient)
        for d in map(pydicom.dcmread, files[0].parent.iterdir())
    }
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(places[source.ReferencedSOPInstanceUID], place)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["left_atrium", "wall"]
    code = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == (
        "82471001",
        "SCT",
        "Left atrium",
    )
    assert (seg.SegmentationType, seg.PatientID) == ("BINARY", "PHANTOM")
    assert seg.FrameOfReferenceUID == mask.geometry.frame_uid


def written(folder: Path, mask: Volume, maker: Maker = MAKER) -> dict[str, pydicom.FileDataset]:
    """Write one object of each kind and return them by file stem."""
    folder.mkdir()
    write_seg(mask, folder / "seg.dcm", SEGMENTS, maker)
    write_seg(mask, folder / "labelmap.dcm", SEGMENTS, maker, labelmap=True)
    write_rtstruct(mask, folder / "rtstruct.dcm", SEGMENTS, maker)
    write_capture(np.zeros((9, 8, 3), np.uint8), mask.source, folder / "capture.dcm", maker)
    return {path.stem: pydicom.dcmread(path) for path in sorted(folder.iterdir())}


def test_series_are_told_apart(files: list[Path], tmp_path: Path) -> None:
    """A viewer lists series by description and by number, so both must differ."""
    made = written(tmp_path / "one", drawn(load(files[0].parent)))
    assert {name: data.SeriesDescription for name, data in made.items()} == {
        "capture": "left-atrium: picture (c3s3-seg)",
        "labelmap": "left-atrium: label map (c3s3-seg)",
        "rtstruct": "left-atrium: contours (c3s3-seg)",
        "seg": "left-atrium: segmentation (c3s3-seg)",
    }
    assert {name: data.SeriesNumber for name, data in made.items()} == {
        "seg": 90_011, "labelmap": 90_012, "rtstruct": 90_013, "capture": 90_014
    }  # fmt: skip
    assert len({data.SeriesInstanceUID for data in made.values()}) == 4
    for path in files:
        edit(path, values(SeriesNumber="7"))
    other = written(tmp_path / "other", drawn(load(files[0].parent)), Maker("x" * 99))
    numbers = {data.SeriesNumber for data in [*made.values(), *other.values()]}
    assert len(numbers) == 8
    assert {len(data.SeriesDescription) for data in other.values()} == {64}


def test_objects_say_when_they_were_made(files: list[Path], tmp_path: Path) -> None:
    """Creation times are in the time zone of the scan; the dates of the study stay unchanged."""
    for path in files:
        edit(path, values(StudyDate="20200102", StudyTime="235959", TimezoneOffsetFromUTC="+1400"))
    mask = drawn(load(files[0].parent))
    today = datetime.now(timezone(timedelta(hours=14)))
    days = {day.strftime("%Y%m%d") for day in (today, today + timedelta(minutes=5))}
    for name, data in written(tmp_path / "dated", mask).items():
        keywords = ["InstanceCreationDate", "SeriesDate"]
        keywords += ["StructureSetDate"] if name == "rtstruct" else ["ContentDate"]
        keywords += ["DateOfSecondaryCapture"] if name == "capture" else []
        for keyword in keywords:
            assert data[keyword].value in days, (name, keyword)
            assert len(data[keyword.replace("Date", "Time")].value) == 6, (name, keyword)
        assert (data.StudyDate, data.StudyTime) == ("20200102", "235959")
        assert data.TimezoneOffsetFromUTC == "+1400"
        assert errors(tmp_path / "dated" / f"{name}.dcm") == []


@pytest.mark.parametrize("thickness", ["2,5", "thin", "-1", "inf"])
def test_a_thickness_that_is_none_is_the_distance(files: list[Path], tmp_path: Path, thickness: str) -> None:
    for path in files:
        edit(path, raw(SliceThickness=thickness))
    for name, data in written(tmp_path / "made", drawn(load(files[0].parent))).items():
        if "SharedFunctionalGroupsSequence" in data:
            (measures,) = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
            assert float(measures.SliceThickness) == pytest.approx(2.5)
            assert errors(tmp_path / "made" / f"{name}.dcm") == []


def test_a_sex_that_dicom_does_not_know_is_left_blank(files: list[Path], tmp_path: Path) -> None:
    for path in files:
        edit(path, values(PatientSex="U"))
    for name, data in written(tmp_path / "made", drawn(load(files[0].parent))).items():
        assert (data.PatientSex, errors(tmp_path / "made" / f"{name}.dcm")) == ("", []), name


def test_slices_of_several_studies_are_called_so(files: list[Path], tmp_path: Path) -> None:
    for path in files:
        edit(path, values(StudyInstanceUID=generate_uid()))
    with pytest.raises(InputError, match="the slices are of 12 studies by their StudyInstanceUID"):
        write_seg(drawn(load(files[0].parent)), tmp_path / "a.dcm", SEGMENTS, MAKER)


def test_without_dates_a_second_run_writes_the_same_bytes(files: list[Path], tmp_path: Path) -> None:
    mask = drawn(load(files[0].parent))
    maker = replace(MAKER, dated=False)
    for date in ("20200102", ""):
        for path in files:
            edit(path, values(StudyDate=date))
        kept, _ = (written(tmp_path / f"{n}{date}", mask, maker) for n in (1, 2))
        for name, data in kept.items():
            assert "SeriesDate" not in data
            assert "InstanceCreationDate" not in data
            first, second = ((tmp_path / f"{n}{date}" / f"{name}.dcm").read_bytes() for n in (1, 2))
            assert first == second, name
            assert errors(tmp_path / f"1{date}" / f"{name}.dcm") == []
        assert kept["seg"].ContentDate == (date or "19700101")


def test_parts_of_the_hippocampus_have_codes_and_colours(files: list[Path], tmp_path: Path) -> None:
    """The shipped bundle's codes name the hippocampus and its part; colours are those of pictures, pages."""
    segments = bundle_segments(ModelBundle.find("hippocampus").task)
    scan = load(files[0].parent)
    mask = scan.geometry.volume(np.minimum(drawn(scan).array, 2), scan.source)
    for labelmap in (False, True):
        write_seg(mask, tmp_path / "a.dcm", segments, MAKER, labelmap=labelmap)
        assert errors(tmp_path / "a.dcm") == []
        seg = pydicom.dcmread(tmp_path / "a.dcm")
        for item, part, label in zip(seg.SegmentSequence[-2:], PARTS, ("anterior", "posterior"), strict=True):
            (code,) = item.SegmentedPropertyTypeCodeSequence
            (modifier,) = code.SegmentedPropertyTypeModifierCodeSequence
            found = [(c.CodeValue, c.CodingSchemeDesignator, c.CodeMeaning) for c in (code, modifier)]
            assert (item.SegmentLabel, found) == (label, [("5366008", "SCT", "Hippocampus"), part])
    for item, colour in zip(seg.SegmentSequence[-2:], LABEL_COLOURS, strict=False):
        shown = CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue).to_rgb()
        assert np.abs(np.array(shown) - colour).max() <= 2
    write_rtstruct(mask, tmp_path / "r.dcm", segments, MAKER)
    assert errors(tmp_path / "r.dcm") == []
    contours = pydicom.dcmread(tmp_path / "r.dcm").ROIContourSequence
    assert [tuple(item.ROIDisplayColor) for item in contours] == list(LABEL_COLOURS[:2])


def test_the_two_lists_of_colours_are_the_same_colours() -> None:
    for rgb, lab in zip(LABEL_COLOURS, LABEL_CIELAB, strict=True):
        assert np.abs(np.array(CIELabColor(*map(float, lab)).to_rgb()) - rgb).max() <= 2


def test_labelmap_on_request(files: list[Path], tmp_path: Path) -> None:
    mask = drawn(load(files[0].parent))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER, labelmap=True)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert (seg.SegmentationType, seg.file_meta.TransferSyntaxUID.name) == ("LABELMAP", "RLE Lossless")
    assert errors(tmp_path / "a.dcm") == []


@pytest.mark.parametrize("character_set", [None, "ISO_IR 100", "ISO_IR 192"])
def test_labels_of_any_script_keep_their_names(
    files: list[Path], tmp_path: Path, character_set: str | None
) -> None:
    """In the slices' character set, both labels would be `??`; the patient's name is encoded anew."""
    patient = "Phantom^S" if character_set is None else "Müller^Jörg"
    for path in files:
        edit(path, values(SpecificCharacterSet=character_set or "", PatientName=patient))
    mask = drawn(load(files[0].parent))
    segments = (Segment("心房", 1), Segment("心室", 3))
    write_seg(mask, tmp_path / "a.dcm", segments, MAKER)
    write_rtstruct(mask, tmp_path / "b.dcm", segments, MAKER)
    write_seg(mask, tmp_path / "plain.dcm", SEGMENTS, MAKER)
    for name in ("a.dcm", "b.dcm"):
        made = pydicom.dcmread(tmp_path / name)
        assert made.SpecificCharacterSet == "ISO_IR 192"
        assert made.PatientName == patient
        back = read(tmp_path / name, mask.geometry, {"心房": 1, "心室": 3})
        assert np.array_equal(back.array, mask.array)
    assert (pydicom.dcmread(tmp_path / "plain.dcm").get("SpecificCharacterSet") or None) == character_set


@pytest.mark.parametrize("label", ["left_atrium", "心房"])
def test_texts_that_are_not_of_their_character_set_pass_unchanged(
    files: list[Path], tmp_path: Path, label: str
) -> None:
    """The files state UTF-8 but hold Latin-1: when decoded, each umlaut would become U+FFFD."""
    texts = {
        "PatientName": "Müller^Jörg",
        "PatientID": "Nr. 1 ü",
        "ReferringPhysicianName": "Dr. Größe",
        "StudyDescription": "Schädel",
    }
    for path in files:
        edit(path, raw(**texts))
    mask = drawn(load(files[0].parent))
    segments = (Segment(label, 1), Segment("wall", 3))
    write_seg(mask, tmp_path / "a.dcm", segments, MAKER)
    write_seg(mask, tmp_path / "b.dcm", segments, MAKER, labelmap=True)
    write_rtstruct(mask, tmp_path / "c.dcm", segments, MAKER)
    write_capture(np.zeros((9, 8, 3), np.uint8), mask.source, tmp_path / "d.dcm", MAKER)
    for name in ("a.dcm", "b.dcm", "c.dcm", "d.dcm"):
        made = pydicom.dcmread(tmp_path / name)
        assert made.SpecificCharacterSet == "ISO_IR 192"
        found = {keyword: made.get_item(keyword).value.rstrip().decode("latin-1") for keyword in texts}
        assert found == texts, name
    back = read(tmp_path / "a.dcm", mask.geometry, {label: 1, "wall": 3})
    assert np.array_equal(back.array, mask.array)


def test_private_codes_of_long_names_differ() -> None:
    """Within one coding scheme, a code value has one meaning (PS3.3, 8.1)."""
    codes = [Segment(f"left_ventricle_{side}", 1).coded for side in ("myocardium", "blood_pool")]
    assert len({value for value, *_ in codes}) == 2
    assert all(len(value) <= 16 for value, *_ in codes)
    assert Segment("wall", 1).coded == ("wall", "99C3S3", "wall")


def test_labels_that_differ_after_64_characters_stay_two(files: list[Path], tmp_path: Path) -> None:
    """A SegmentLabel and an ROIName have up to 64 characters (PS3.5, 6.2, LO); one name was one label."""
    mask = drawn(load(files[0].parent))
    segments = tuple(Segment("x" * 64 + side, value) for value, side in ((1, "left"), (2, "right")))
    assert Segment("x" * 64, 1).stored_name == "x" * 64
    for write in (write_seg, write_rtstruct):
        write(mask, tmp_path / "a.dcm", segments, MAKER)
        found = look_at_drawing(tmp_path / "a.dcm")
        assert found is not None
        assert len(found.names) == 2
        assert max(map(len, found.names)) == 64


def test_the_same_mask_is_the_same_instance_and_another_is_not(files: list[Path], tmp_path: Path) -> None:
    mask = drawn(load(files[0].parent))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    write_seg(mask, tmp_path / "b.dcm", SEGMENTS, MAKER)
    mask.array[20, 20, 8] ^= 1
    write_seg(mask, tmp_path / "c.dcm", SEGMENTS, MAKER)
    a, b, c = (pydicom.dcmread(tmp_path / f"{n}.dcm").SOPInstanceUID for n in "abc")
    assert a == b != c


def test_an_object_of_another_patient_or_study_is_another_instance(files: list[Path], tmp_path: Path) -> None:
    """Objects with corrected data or places had the UIDs of the wrong ones, which a PACS keeps."""
    changes: list[dict[str, Any]] = [
        {}, {"PatientName": "RIGHT^NAME"}, {"PatientID": "7"}, {"PatientBirthDate": "19500102"},
        {"IssuerOfPatientID": "HERE"}, {"PatientSex": "F"}, {"StudyInstanceUID": "1.2.3.4"},
        {"AccessionNumber": "A-2"}, {"StudyDate": "20200102"}, {"FrameOfReferenceUID": "1.2.3.5"},
        {"PixelSpacing": [1.5, 1.5]},
    ]  # fmt: skip
    last = str(pydicom.dcmread(files[-1]).SOPInstanceUID)
    for write in (write_seg, write_rtstruct):
        uids = []
        for number, change in enumerate((*changes, {})):
            folder = tmp_path / f"{write.__name__}-{number}"
            shutil.copytree(files[0].parent, folder)
            for path in folder.iterdir():
                edit(path, values(**change))
            write(drawn(load(folder)), tmp_path / "a.dcm", SEGMENTS, MAKER)
            made = pydicom.dcmread(tmp_path / "a.dcm")
            uids += [made.SOPInstanceUID, made.SeriesInstanceUID]
        edit(files[-1], values(SOPInstanceUID="1.2.3.6"))  # of one slice, which is not the first
        write(drawn(load(files[0].parent)), tmp_path / "a.dcm", SEGMENTS, MAKER)
        assert pydicom.dcmread(tmp_path / "a.dcm").SOPInstanceUID not in uids
        edit(files[-1], values(SOPInstanceUID=last))
        assert uids[:2] == uids[-2:]
        assert len(set(uids)) == 2 * len(changes)


def test_a_moved_scan_gives_another_instance(files: list[Path], tmp_path: Path) -> None:
    uids = set()
    for write in (write_seg, write_rtstruct):
        for _ in range(2):
            write(drawn(load(files[0].parent)), tmp_path / "a.dcm", SEGMENTS, MAKER)
            uids.add(pydicom.dcmread(tmp_path / "a.dcm").SOPInstanceUID)
            for path in files:
                edit(path, moved_by_50_mm)
    assert len(uids) == 4


def moved_by_50_mm(data: pydicom.Dataset) -> None:
    x, *rest = data.ImagePositionPatient
    data.ImagePositionPatient = [f"{float(x) + 50:.6f}", *rest]


def test_remarks_on_the_patient_are_not_repeated(files: list[Path], tmp_path: Path) -> None:
    """highdicom repeats the whole modules of patient and study."""
    told = {"PatientComments": "secret", "Allergies": "nuts", "PatientAge": "040Y"}
    for path in files:
        edit(path, values(**told, PatientIdentityRemoved="YES", DeidentificationMethod="by hand"))
        edit(path, values(ClinicalTrialSponsorName="X", ClinicalTrialProtocolID="P-1"))
        edit(path, values(ClinicalTrialProtocolName="", ClinicalTrialSiteID="", ClinicalTrialSiteName=""))
        edit(path, values(ClinicalTrialSubjectID="S-1"))
    for write in (write_seg, write_rtstruct):
        write(drawn(load(files[0].parent)), tmp_path / "a.dcm", SEGMENTS, MAKER)
        made = pydicom.dcmread(tmp_path / "a.dcm")
        assert not [keyword for keyword in told if keyword in made]
        assert (made.PatientIdentityRemoved, made.DeidentificationMethod) == ("YES", "by hand")
        assert made.ClinicalTrialSubjectID == "S-1"
        assert errors(tmp_path / "a.dcm") == []
    for path in files:
        edit(path, values(PatientIdentityRemoved="DOE^JANE"))
    for write in (write_seg, write_rtstruct):
        write(drawn(load(files[0].parent)), tmp_path / "a.dcm", SEGMENTS, MAKER)
        assert "PatientIdentityRemoved" not in pydicom.dcmread(tmp_path / "a.dcm")


@pytest.mark.parametrize(("stated", "wanted"), [({"NO"}, "NO"), ({"NO", "YES"}, "YES"), ({"NO", None}, None)])
def test_a_capture_has_the_text_that_is_burned_into_the_slices(
    files: list[Path], tmp_path: Path, stated: set[str | None], wanted: str | None
) -> None:
    for path in files:
        edit(path, values(BurnedInAnnotation="NO"))
    for word in stated - {"NO"}:
        edit(files[3], values(BurnedInAnnotation=word or ""))
    write_capture(np.zeros((9, 8, 3), np.uint8), load(files[0].parent).source, tmp_path / "a.dcm")
    assert pydicom.dcmread(tmp_path / "a.dcm").get("BurnedInAnnotation") == wanted


def test_labels_of_other_names_or_codes_are_another_instance(files: list[Path], tmp_path: Path) -> None:
    """A bundle with renamed labels used to write other content under the UIDs of the earlier objects."""
    mask, first = drawn(load(files[0].parent)), SEGMENTS[0]
    renamed = (replace(first, name="chamber"), *SEGMENTS[1:])
    recoded = (replace(first, code=("80891009", "SCT", "Heart")), *SEGMENTS[1:])
    for write in (write_seg, write_rtstruct):
        uids = set()
        for segments in (SEGMENTS, renamed, recoded, SEGMENTS[:1]):
            write(mask, tmp_path / "a.dcm", segments, MAKER)
            made = pydicom.dcmread(tmp_path / "a.dcm")
            uids |= {made.SOPInstanceUID, made.SeriesInstanceUID}
        assert len(uids) == 8


def test_an_empty_mask_is_written(files: list[Path], tmp_path: Path) -> None:
    scan = load(files[0].parent)
    write_seg(
        scan.geometry.volume(np.zeros(scan.array.shape, np.uint8), scan.source), tmp_path / "a.dcm", SEGMENTS
    )
    assert not pydicom.dcmread(tmp_path / "a.dcm").pixel_array.any()
    assert errors(tmp_path / "a.dcm") == []


def test_a_mask_of_a_repaired_scan_goes_back_to_the_slices(files: list[Path], tmp_path: Path) -> None:
    scan = load(files[0].parent)
    whole = drawn(scan)
    for n, path in enumerate(files):
        where = scan.geometry.to_mm((0, 0, n)) + n * 0.41 * scan.geometry.direction[:, 1]
        edit(path, values(ImagePositionPatient=[f"{v:.6f}" for v in where]))
    files[5].unlink()
    scan = load(files[0].parent, repair=("tilt", "gaps"))
    # The mask on the repaired grid has the value that the untilted slices' mask has at the same place.
    ball = np.linalg.norm(
        scan.geometry.to_mm(np.moveaxis(np.indices(scan.array.shape), 0, -1))
        - whole.geometry.to_mm((18, 20, 6)),
        axis=-1,
    )
    mask = scan.geometry.volume((ball < 8).astype(np.uint8), scan.source)
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS[:1], MAKER)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    spacing = whole.geometry.affine[:3, :2]
    seen = 0
    for pixels, frame in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(pixels)
        places = origin + np.stack([columns, rows], 1) @ spacing.T
        assert np.linalg.norm(places - whole.geometry.to_mm((18, 20, 6)), axis=1).max() < 8 + 1.5
        seen += len(rows)
    lost = np.pi * (8**2 - 2.5**2) / (0.7 * 0.9)  # voxels on the missing slice
    assert seen == pytest.approx(4 / 3 * np.pi * 8**3 / (0.7 * 0.9 * 2.5) - lost, rel=0.03)


def as_enhanced(files: list[Path], path: Path) -> Path:
    legacy = pytest.importorskip("highdicom.legacy")
    sources = [pydicom.dcmread(files[n * 5 % 12]) for n in range(12)]
    for source in sources:
        source.AccessionNumber = "1"
    legacy.LegacyConvertedEnhancedMRImage(sources, generate_uid(), 1, generate_uid(), 1).save_as(path)
    return path


@pytest.mark.parametrize(
    ("apart", "thick", "enhanced"),
    [("-2.5", "2.5", False), ("0.5", "2", False), (None, None, False), ("0", "", True), ("0.5", "2", True)],
)
def test_the_distance_of_slices_is_that_of_their_places(
    files: list[Path], tmp_path: Path, apart: str | None, thick: str | None, enhanced: bool
) -> None:
    """Headers state the gap, a negative number or nothing; the stated distance is not copied."""
    path = [as_enhanced(files, tmp_path / "enhanced.dcm")] if enhanced else files

    def change(data: pydicom.Dataset) -> None:
        item = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0] if enhanced else data
        for keyword, value in {"SpacingBetweenSlices": apart, "SliceThickness": thick}.items():
            item.pop(keyword, None)
            if value is not None:
                setattr(item, keyword, value)

    for file in path:
        edit(file, change)
    mask = drawn(load(path[0] if enhanced else path[0].parent))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    measures = pydicom.dcmread(tmp_path / "a.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SpacingBetweenSlices == pytest.approx(2.5, abs=1e-6)
    assert measures.SliceThickness == pytest.approx(float(thick or 2.5), abs=1e-6)
    assert np.array_equal(read(tmp_path / "a.dcm", mask.geometry).array, mask.array)


@pytest.mark.parametrize("wanted", ["dicom-seg", "dicom-labelmap"])
def test_a_seg_of_several_enhanced_files_is_refused_before_the_network_runs(
    files: list[Path], tmp_path: Path, wanted: MaskFormat
) -> None:
    legacy = pytest.importorskip("highdicom.legacy")
    (tmp_path / "e").mkdir()
    series_uid = generate_uid()
    for n in (0, 6):
        sources = [pydicom.dcmread(path) for path in files[n : n + 6]]
        for source in sources:
            source.AccessionNumber = "1"
        made = legacy.LegacyConvertedEnhancedMRImage(sources, series_uid, 1, generate_uid(), 1)
        made.save_as(tmp_path / "e" / f"{n}.dcm")
    scan = load(tmp_path / "e")
    with pytest.raises(InputError, match=r"several enhanced files.*--format rtstruct"):
        check_format(scan, wanted)
    check_format(scan, "rtstruct")
    with pytest.raises(InputError, match="several enhanced files"):
        write_seg(drawn(scan), tmp_path / "a.dcm", SEGMENTS, MAKER)


def test_an_enhanced_file_is_referred_to_by_its_frames(files: list[Path], tmp_path: Path) -> None:
    mask = drawn(load(as_enhanced(files, tmp_path / "one.dcm")))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert differing(tmp_path / "a.dcm", mask, tmp_path / "q") == 0


@pytest.mark.parametrize(
    "groups",
    [
        ("PixelMeasuresSequence",),
        ("PlaneOrientationSequence",),
        ("PixelMeasuresSequence", "PlaneOrientationSequence"),
    ],
)
def test_frames_may_state_pixel_size_and_directions_themselves(
    files: list[Path], tmp_path: Path, groups: tuple[str, ...]
) -> None:
    """Both groups may be in each frame (PS3.3, C.7.6.16.2), with values that differ by rounding."""
    path = as_enhanced(files, tmp_path / "one.dcm")

    def move(data: pydicom.Dataset) -> None:
        (shared,) = data.SharedFunctionalGroupsSequence
        for group in groups:
            for n, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
                setattr(frame, group, copy.deepcopy(shared[group].value))
                if group == "PixelMeasuresSequence":
                    frame[group].value[0].PixelSpacing = [f"{0.9 + n * 1e-5:.5f}", "0.7"]
            del shared[group]

    edit(path, move)
    mask = drawn(load(path))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert np.array_equal(read(tmp_path / "a.dcm", mask.geometry).array, mask.array)
    assert errors(tmp_path / "a.dcm") == []
    (measures,) = pydicom.dcmread(tmp_path / "a.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    middle = 0.9 + 5.5e-5 if groups[0] == "PixelMeasuresSequence" else 0.9
    assert measures.PixelSpacing[0] == pytest.approx(middle, abs=1e-7)


def with_two_echoes(data: pydicom.Dataset) -> None:
    both = []
    for echo in (2.5, 7.5):
        for frame in copy.deepcopy(list(data.PerFrameFunctionalGroupsSequence)):
            item = pydicom.Dataset()
            item.EffectiveEchoTime = echo
            frame.MREchoSequence = [item]
            both.append(frame)
    data.PerFrameFunctionalGroupsSequence, data.NumberOfFrames = both, 24
    data.PixelData = data.PixelData * 2


@pytest.mark.parametrize("labelmap", [False, True])
def test_a_seg_of_one_echo_refers_to_its_frames(files: list[Path], tmp_path: Path, labelmap: bool) -> None:
    """The frames of both echoes lie at the same places; the second echo's are numbers 13 to 24."""
    (tmp_path / "two").mkdir()
    path = as_enhanced(files, tmp_path / "two" / "one.dcm")
    edit(path, with_two_echoes)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    uids: dict[str, set[str]] = {"seg": set(), "rtstruct": set(), "empty": set()}
    for number, echo in enumerate((2.5, 7.5), 1):
        mask = drawn(load(path.parent, series=number))
        write_seg(mask, tmp_path / "seg.dcm", SEGMENTS, MAKER, labelmap=labelmap)
        write_rtstruct(mask, tmp_path / "rtstruct.dcm", SEGMENTS, MAKER)
        empty = mask.geometry.volume(np.zeros_like(mask.array), mask.source)
        write_seg(empty, tmp_path / "empty.dcm", SEGMENTS, MAKER, labelmap=labelmap)
        assert np.array_equal(read(tmp_path / "seg.dcm", mask.geometry).array, mask.array)
        for name, seen in uids.items():
            made = pydicom.dcmread(tmp_path / f"{name}.dcm")
            assert errors(tmp_path / f"{name}.dcm") == []
            seen.add(made.SOPInstanceUID)
            for frame in made.get("PerFrameFunctionalGroupsSequence", ()):
                for derivation in frame.get("DerivationImageSequence", ()):
                    (image,) = derivation.SourceImageSequence
                    own = groups[image.ReferencedFrameNumber - 1]
                    assert own.MREchoSequence[0].EffectiveEchoTime == echo
                    places = [g.PlanePositionSequence[0].ImagePositionPatient for g in (own, frame)]
                    assert np.allclose(*places, atol=1e-4)
    assert [len(seen) for seen in uids.values()] == [2, 2, 2]


def test_loss_in_any_slice_is_stated(files: list[Path], tmp_path: Path) -> None:
    assert {
        data.LossyImageCompression
        for name, data in written(tmp_path / "plain", drawn(load(files[0].parent))).items()
        if name != "rtstruct"
    } == {"00"}
    stated = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "10",
        "LossyImageCompressionMethod": "ISO_15444_1",
    }
    edit(files[5], values(**stated))
    for name, data in written(tmp_path / "stated", drawn(load(files[0].parent))).items():
        if name != "rtstruct":
            assert {keyword: str(data[keyword].value) for keyword in stated} == stated, name
        assert errors(tmp_path / "stated" / f"{name}.dcm") == []


def test_a_lossy_transfer_syntax_is_loss(files: list[Path], tmp_path: Path) -> None:
    """The headers of these files do not say what JPEG baseline says of itself."""
    imagecodecs = pytest.importorskip("imagecodecs")

    def compress(data: pydicom.Dataset) -> None:
        pixels = (data.pixel_array // 16).astype(np.uint8)
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit = 7
        data.PixelData = encapsulate([imagecodecs.jpeg8_encode(pixels, level=90)])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit

    for path in files:
        edit(path, compress)
    scan = load(files[0].parent)
    assert scan.source.notes == ("the slices were compressed with loss before they came here",)
    made = written(tmp_path / "made", drawn(scan))
    for name in made:
        assert errors(tmp_path / "made" / f"{name}.dcm") == []
    del made["rtstruct"]
    assert {data.LossyImageCompression for data in made.values()} == {"01"}
    assert {data.LossyImageCompressionMethod for data in made.values()} == {"ISO_10918_1"}


def test_codes_of_any_length_and_category(files: list[Path], tmp_path: Path) -> None:
    """A value of more than 16 characters is a LongCodeValue (PS3.3, 8.1); a lesion is no organ."""
    long = "123456781000087103"
    category = Qualifier("49755003", "Morphologically Abnormal Structure")
    labels = (
        Label("lesion", 1, Code(long, "Lesion", modifier=Qualifier(long, "Part"), category=category)),
        Label("atrium", 3, Code("82471001", "Left atrium")),
        Label("unknown", 4),
    )
    segments = bundle_segments(replace(ModelBundle.find("phantom").task, labels=labels))
    mask = drawn(load(files[0].parent))
    write_seg(mask, tmp_path / "seg.dcm", segments, MAKER)
    write_rtstruct(mask, tmp_path / "rtstruct.dcm", segments, MAKER)
    seg, rtstruct = (pydicom.dcmread(tmp_path / f"{name}.dcm") for name in ("seg", "rtstruct"))
    for code in (
        seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0],
        rtstruct.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence[0],
    ):
        (part,) = code.SegmentedPropertyTypeModifierCodeSequence
        assert [item.LongCodeValue for item in (code, part)] == [long, long]
        assert not any("CodeValue" in item for item in (code, part))
    categories = [item.SegmentedPropertyCategoryCodeSequence[0].CodeValue for item in seg.SegmentSequence]
    assert categories == ["49755003", "123037004", "123037004"]
    kinds = [item.RTROIInterpretedType for item in rtstruct.RTROIObservationsSequence]
    assert kinds == ["", "ORGAN", ""]
    for name in ("seg", "rtstruct"):
        assert errors(tmp_path / f"{name}.dcm") == []


def test_a_reference_is_a_uid(files: list[Path], tmp_path: Path) -> None:
    for path in files:
        edit(path, values(StudyInstanceUID="1..2"))
    for write in (write_seg, write_rtstruct):
        with pytest.raises(InputError, match="has no StudyInstanceUID that is a UID"):
            write(drawn(load(files[0].parent)), tmp_path / "a.dcm", SEGMENTS)
    assert not (tmp_path / "a.dcm").exists()


def test_what_has_nothing_to_refer_to_is_refused(files: list[Path], tmp_path: Path) -> None:
    scan = load(files[0].parent)
    save(scan, tmp_path / "a.nii.gz")
    for write in (write_seg, write_rtstruct):
        with pytest.raises(InputError, match="this scan has none"):
            write(drawn(load(tmp_path / "a.nii.gz")), tmp_path / "a.dcm", SEGMENTS)
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID", "StudyInstanceUID"):
        other = tmp_path / keyword
        shutil.copytree(files[0].parent, other)
        for path in other.iterdir():
            edit(path, values(**{keyword: ""}))
        for write in (write_seg, write_rtstruct):
            with pytest.raises(InputError, match=f"has no {keyword}.*Write NIfTI"):
                write(drawn(load(other)), tmp_path / "a.dcm", SEGMENTS)
    for path in files:
        edit(path, values(SOPInstanceUID="1.2.3"))
    with pytest.raises(InputError, match="one SOPInstanceUID"):
        write_seg(drawn(scan), tmp_path / "a.dcm", SEGMENTS)
    assert not (tmp_path / "a.dcm").exists()


def test_a_seg_that_is_wrong_never_reaches_its_name(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = drawn(load(files[0].parent))
    encode = dicom_seg._encode
    monkeypatch.setattr(
        dicom_seg, "_encode", lambda source, planes, *rest: encode(source, planes[::-1], *rest)
    )
    with pytest.raises(InputError, match="differs from the mask"):
        write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert not (tmp_path / "a.dcm").exists()


def test_a_label_map_of_odd_frames_does_not_end_the_program(tmp_path: Path) -> None:
    grid = Geometry.build((35, 51, 6))
    scan = grid.volume(np.arange(35 * 51 * 6).reshape(grid.shape) % 4000)
    save_series(scan, tmp_path / "s", description="", seed_uid="odd")
    mask = drawn(load(tmp_path / "s"))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER, labelmap=True)
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID == RLELossless
    assert errors(tmp_path / "a.dcm") == []
