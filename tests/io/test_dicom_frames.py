"""Tests of enhanced multi-frame files: they are read like the classic series that they were made from."""

import copy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.dicom_files import edit
from pydicom.uid import EnhancedMRImageStorage, ImplicitVRLittleEndian, generate_uid

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom import frames as frames_module
from c3s3_seg.io.dicom.decoder import PixelDecoder
from c3s3_seg.io.dicom.frames import GROUPS, frames
from c3s3_seg.io.dicom.header import Broken, Slice, own_copy
from c3s3_seg.io.dicom.write_series import save_series


@pytest.fixture
def enhanced(oblique: Volume, tmp_path: Path) -> Path:
    """Write the oblique phantom as one file, converted by highdicom with its frames out of order."""
    legacy = pytest.importorskip("highdicom.legacy")
    files = save_series(oblique, tmp_path / "classic", description="", seed_uid="a")
    order = [n * 5 % 12 for n in range(12)]
    sources = [pydicom.dcmread(files[n]) for n in order]
    for source in sources:
        source.AccessionNumber = "1"
    made = legacy.LegacyConvertedEnhancedMRImage(sources, generate_uid(), 1, generate_uid(), 1)
    (tmp_path / "enhanced").mkdir()
    made.save_as(tmp_path / "enhanced" / "one.dcm")
    return tmp_path / "enhanced" / "one.dcm"


def test_one_file_of_frames_is_the_classic_series(oblique: Volume, enhanced: Path) -> None:
    for path in (enhanced, enhanced.parent):
        back = load(path)
        assert np.array_equal(back.array, oblique.array)
        assert back.geometry.matches(oblique.geometry, 1e-3)


def test_plain_frames_are_read_in_place(
    oblique: Volume, enhanced: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoder would hold the whole file, which may be larger than the decoder's memory limit."""
    monkeypatch.delattr(PixelDecoder, "pixels")
    assert np.array_equal(load(enhanced).array, oblique.array)


def test_slope_and_place_of_each_frame_are_its_own(oblique: Volume, enhanced: Path) -> None:
    def change(data: pydicom.Dataset) -> None:
        data.SOPClassUID = EnhancedMRImageStorage
        for n, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            mapping = pydicom.Dataset()
            mapping.RescaleSlope, mapping.RescaleIntercept, mapping.RescaleType = str(1 + n), "-3", "US"
            frame.PixelValueTransformationSequence = [mapping]

    edit(enhanced, change)
    back = load(enhanced)
    frames = pydicom.dcmread(enhanced).PerFrameFunctionalGroupsSequence
    for n, frame in enumerate(frames):
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        k = round(float(oblique.geometry.to_index([float(v) for v in place])[2]))
        assert np.array_equal(back.array[:, :, k], oblique.array[:, :, k] * (1.0 + n) - 3)


def test_echoes_within_one_file_are_split(oblique: Volume, enhanced: Path) -> None:
    def twice(data: pydicom.Dataset) -> None:
        frames = list(data.PerFrameFunctionalGroupsSequence)
        other = copy.deepcopy(frames)
        for echo, group in ((2.5, frames), (7.5, other)):
            for frame in group:
                item = pydicom.Dataset()
                item.EffectiveEchoTime = echo
                frame.MREchoSequence = [item]
        data.PerFrameFunctionalGroupsSequence = [*frames, *other]
        data.NumberOfFrames = 24
        pixels = np.frombuffer(data.PixelData, "<u2")
        data.PixelData = np.concatenate([pixels, pixels + 1]).tobytes()

    edit(enhanced, twice)
    with pytest.raises(InputError, match=r"(?s)found 2 series.*TE 2\.5.*TE 7\.5"):
        load(enhanced.parent)
    assert np.array_equal(load(enhanced.parent, series=2).array, oblique.array + 1)


def test_frames_that_are_not_described_are_refused(enhanced: Path) -> None:
    def forget(data: pydicom.Dataset) -> None:
        data.PerFrameFunctionalGroupsSequence = data.PerFrameFunctionalGroupsSequence[:-1]

    edit(enhanced, forget)
    with pytest.raises(InputError, match="12 frames and describes 11 of them"):
        load(enhanced)


def test_a_frame_without_a_place_and_cut_pixels_are_refused(enhanced: Path) -> None:
    whole = enhanced.read_bytes()
    enhanced.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"one\.dcm, frame \d+' is damaged"):
        load(enhanced)
    enhanced.write_bytes(whole)

    def lose(data: pydicom.Dataset) -> None:
        del data.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence

    edit(enhanced, lose)
    with pytest.raises(InputError, match="frame 5' has no valid ImagePositionPatient"):
        load(enhanced)


def grouped(frame: pydicom.Dataset, path: tuple[str, ...], keyword: str, value: object) -> None:
    """Put an attribute into a functional group of a frame."""
    for name in path:
        if name not in frame:
            setattr(frame, name, [pydicom.Dataset()])
        frame = frame[name].value[0]
    setattr(frame, keyword, value)


# For each attribute that frames may have themselves: the value at the top of the file, those of two frames.
OWN_VALUES = {
    "PixelSpacing": (["1", "1"], [["0.5", "0.5"], ["0.25", "0.25"]]),
    "ImagePositionPatient": (["0", "0", "0"], [["1", "2", "3"], ["4", "5", "6"]]),
    "ImageOrientationPatient": (list("100010"), [list("010100"), list("001100")]),
    "RescaleSlope": ("9", ["1.5", "2.5"]),
    "RescaleIntercept": ("9", ["-3", "-4"]),
    "TemporalPositionIdentifier": ("9", [1, 2]),
    "AcquisitionNumber": ("9", [1, 2]),
    "EchoTime": ("9", [2.5, 7.5]),
    "InversionTime": ("9", [100.0, 200.0]),
    "FlipAngle": ("9", [10.0, 20.0]),
    "DiffusionBValue": (9.0, [0.0, 1000.0]),
    "DiffusionGradientOrientation": ([0.0, 0.0, 1.0], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "TriggerTime": ("9", [10.0, 20.0]),
    "ImageType": (["ORIGINAL", "PRIMARY"], [["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"]]),
    "ComplexImageComponent": ("MIXED", ["MAGNITUDE", "PHASE"]),
}


@pytest.mark.parametrize(
    ("path", "theirs", "ours"),
    [(path, theirs, ours) for path, names in GROUPS.items() for theirs, ours in names.items()],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_a_value_at_the_top_of_the_file_is_not_that_of_the_frames(
    path: tuple[str, ...], theirs: str, ours: str, tmp_path: Path
) -> None:
    top, own = OWN_VALUES[ours]
    data = pydicom.Dataset()
    data.SOPClassUID, data.NumberOfFrames = EnhancedMRImageStorage, 3
    setattr(data, ours, top)
    each = [pydicom.Dataset() for _ in range(3)]
    for frame, value in zip(each, own, strict=False):  # the third frame has no value of its own
        grouped(frame, path, theirs, value)
    data.PerFrameFunctionalGroupsSequence = each
    seen = frames(Slice(tmp_path, "a.dcm", data))
    assert not isinstance(seen, Broken)

    def text(value: object) -> str:
        return "\\".join(str(v) for v in value) if isinstance(value, list) else str(value)

    assert [item.text(ours) for item in seen] == [text(value) for value in (*own, top)]
    assert text(list(data[ours].value) if isinstance(top, list) else data[ours].value) == text(top)


def test_frames_share_the_elements_that_are_not_their_own(tmp_path: Path) -> None:
    """Copies of all elements for each frame took 190 MB for 100 frames of a file of 0.4 MB."""
    data = pydicom.Dataset()
    data.SOPClassUID, data.NumberOfFrames, data.ImageType = EnhancedMRImageStorage, 3, ["A", "B"]
    data.EchoTime, data.ModalityLUTSequence = "9", [pydicom.Dataset()]
    each = [pydicom.Dataset() for _ in range(3)]
    grouped(each[1], ("MREchoSequence",), "EffectiveEchoTime", 2.5)
    data.PerFrameFunctionalGroupsSequence = each
    seen = frames(Slice(tmp_path, "a.dcm", data))
    assert not isinstance(seen, Broken)
    for name in ("ImageType", "ModalityLUTSequence"):
        assert seen[0].data[name] is seen[1].data[name] is seen[2].data[name]
    assert [item.text("EchoTime") for item in seen] == ["9", "2.5", "9"]
    seen[0].data.ModalityLUTSequence[0].LUTExplanation = "changed"
    seen[0].data.ImageType[1] = "CHANGED"
    seen[0].data.SOPClassUID = "1.2"
    assert (data.ImageType, data.SOPClassUID) == (["A", "B"], EnhancedMRImageStorage)
    assert "LUTExplanation" not in data.ModalityLUTSequence[0]


@pytest.mark.parametrize("shared", [False, True], ids=["top", "shared group"])
def test_attributes_too_long_for_each_frame_are_refused(
    enhanced: Path, monkeypatch: pytest.MonkeyPatch, shared: bool
) -> None:
    data = pydicom.dcmread(enhanced)
    data.SOPClassUID, data.file_meta.TransferSyntaxUID = EnhancedMRImageStorage, ImplicitVRLittleEndian
    group = data.SharedFunctionalGroupsSequence[0]
    group.pop("MRImageFrameTypeSequence", None)
    if shared:
        grouped(group, ("MRImageFrameTypeSequence",), "FrameType", ["A"] * 200_000)
    else:
        data.ImageType = ["A"] * 200_000
    data.save_as(enhanced, implicit_vr=True, little_endian=True)
    copies = []
    monkeypatch.setattr(frames_module, "own_copy", lambda *given: copies.append(1) or own_copy(*given))
    with pytest.raises(InputError, match=r"cannot be used: .* 200000 of them in ImageType; wanted 16384"):
        load(enhanced)
    assert len(copies) == 1  # not one for each of the 12 frames


def test_slopes_beside_a_slope_at_the_top_of_the_file(oblique: Volume, enhanced: Path) -> None:
    slopes = [1 + n / 10 for n in range(12)]

    def change(data: pydicom.Dataset) -> None:
        data.SOPClassUID, data.RescaleSlope, data.RescaleIntercept = EnhancedMRImageStorage, "1", "0"
        data.ImagePositionPatient, data.AcquisitionNumber = ["0", "0", "0"], "1"
        for n, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            frame.PixelValueTransformationSequence = [pydicom.Dataset()]
            grouped(frame, ("PixelValueTransformationSequence",), "RescaleSlope", str(slopes[n]))
            grouped(frame, ("PixelValueTransformationSequence",), "RescaleIntercept", "0")

    edit(enhanced, change)
    back = load(enhanced)
    assert back.geometry.matches(oblique.geometry, 1e-3)
    for n, frame in enumerate(pydicom.dcmread(enhanced).PerFrameFunctionalGroupsSequence):
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        k = round(float(oblique.geometry.to_index([float(v) for v in place])[2]))
        wanted = (oblique.array[:, :, k] * slopes[n]).astype(np.float32)
        assert np.array_equal(back.array[:, :, k], wanted)


@pytest.mark.parametrize("left_out", ["RescaleSlope", "RescaleIntercept"])
def test_a_frame_without_a_scale_among_frames_with_one_is_refused(enhanced: Path, left_out: str) -> None:
    def change(data: pydicom.Dataset) -> None:
        data.SOPClassUID = EnhancedMRImageStorage
        for group in (data.SharedFunctionalGroupsSequence[0], *data.PerFrameFunctionalGroupsSequence):
            group.pop("PixelValueTransformationSequence", None)
        for n, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
            for keyword, value in (("RescaleSlope", "2"), ("RescaleIntercept", "5")):
                if (n, keyword) != (3, left_out):
                    grouped(frame, ("PixelValueTransformationSequence",), keyword, value)

    edit(enhanced, change)
    with pytest.raises(InputError, match=rf"1 of 12 slices have no {left_out}, 'one\.dcm, frame 4'"):
        load(enhanced)


def test_a_private_group_is_not_the_scale_of_a_frame(oblique: Volume, enhanced: Path) -> None:
    def change(data: pydicom.Dataset) -> None:
        data.SOPClassUID = EnhancedMRImageStorage
        for frame in data.PerFrameFunctionalGroupsSequence:
            theirs = pydicom.Dataset()
            theirs.RescaleSlope, theirs.ImagePositionPatient = "99", [0, 0, 0]
            block = frame.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
            block.add_new(0x0F, "SQ", [theirs])

    edit(enhanced, change)
    assert np.array_equal(load(enhanced).array, oblique.array)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["FrameType", "ComplexImageComponent"])
def test_magnitude_and_phase_in_one_file_are_two_volumes(oblique: Volume, enhanced: Path, by: str) -> None:
    values = {"FrameType": (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])}

    def change(data: pydicom.Dataset) -> None:
        data.SOPClassUID, data.ImageType = EnhancedMRImageStorage, ["ORIGINAL", "PRIMARY", "M"]
        kinds = [list(data.PerFrameFunctionalGroupsSequence)]
        kinds.append(copy.deepcopy(kinds[0]))
        for group, value in zip(kinds, values.get(by, ("MAGNITUDE", "PHASE")), strict=True):
            for frame in group:
                grouped(frame, ("MRImageFrameTypeSequence",), by, value)
        data.PerFrameFunctionalGroupsSequence = [*kinds[0], *kinds[1]]
        data.NumberOfFrames = 24
        pixels = np.frombuffer(data.PixelData, "<u2")
        data.PixelData = np.concatenate([pixels, pixels + 1]).tobytes()

    edit(enhanced, change)
    with pytest.raises(InputError, match=r"found 2 series.*(M|MAGNITUDE); .*(P|PHASE)"):
        load(enhanced.parent)
    with pytest.raises(InputError, match=r"one\.dcm: this file holds 2 volumes.*series="):
        load(enhanced)
    for number in (1, 2):
        assert np.array_equal(load(enhanced.parent, series=number).array, oblique.array + number - 1)
