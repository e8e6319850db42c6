"""Enhanced multi-frame files: read like the classic series they were made from."""

import copy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import edit
from pydicom.uid import EnhancedMRImageStorage, generate_uid

from c3s3_seg.errors import InputError
from c3s3_seg.io import load
from c3s3_seg.io.dicom_write import save_series
from c3s3_seg.volume import Volume


@pytest.fixture
def enhanced(oblique: Volume, tmp_path: Path) -> Path:
    """The oblique phantom as one file, converted by highdicom, its frames out of order."""
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
