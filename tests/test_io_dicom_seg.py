"""DICOM SEG out: another program reads the same voxels at the same places, and the standard is kept."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import edit, values
from pydicom.uid import JPEG2000Lossless, RLELossless, generate_uid

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects import seg_write as dicom_seg
from c3s3_seg.io.dicom_objects.codes import Maker, Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_write import write_seg

SEGMENTS = (Segment("left_atrium", 1, ("82471001", "SCT", "Left atrium")), Segment("wall", 3))
MAKER = Maker("left-atrium", "0123456789abcdef")


def drawn(scan: Volume) -> Volume:
    """An asymmetric mask of two labels; the first slices are empty."""
    i, j, k = (np.indices(scan.array.shape).T / (np.array(scan.array.shape) - 1)).T
    mask = np.zeros(scan.array.shape, np.uint8)
    mask[(i - 0.3) ** 2 + (j - 0.55) ** 2 + ((k - 0.6) / 1.3) ** 2 < 0.06] = 1
    mask[(i > 0.7) & (j < 0.3) & (k > 0.4)] = 3
    assert set(np.unique(mask)) == {0, 1, 3}
    return scan.geometry.volume(mask, scan.source)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    from conftest import rotation

    grid = Geometry.build((40, 36, 12), (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), rotation(12, -20, 30))
    array = np.arange(40 * 36 * 12).reshape(grid.shape) % 4000
    return save_series(grid.volume(array), tmp_path / "series", description="phantom", seed_uid="a")


def errors(path: Path) -> list[str]:
    """What dciodvfy finds wrong, but for the sources' own faults."""
    found = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
    return [line for line in (found.stdout + found.stderr).splitlines() if line.startswith("Error")]


def tool(name: str) -> str:
    import sys

    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def differing(path: Path, mask: Volume, folder: Path) -> int:
    """Voxels by which the SEG differs from the mask, when dcmqi reads it."""
    command = [tool("segimage2itkimage"), "--inputDICOM", str(path), "--outputDirectory", str(folder)]
    folder.mkdir(exist_ok=True)
    subprocess.run([*command, "--outputType", "nii"], check=True, capture_output=True)
    wrong = 0
    for number, segment in enumerate(SEGMENTS, 1):
        seen = load_mask(folder / f"{number}.nii.gz")
        index = mask.geometry.to_index(seen.geometry.to_mm(np.argwhere(seen.array > 0)))
        assert np.abs(index - np.rint(index)).max() < 1e-3
        back = np.zeros(mask.array.shape, bool)
        back[tuple(np.rint(index).astype(int).T)] = True
        wrong += int((back != (mask.array == segment.value)).sum())
    return wrong


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


def test_labelmap_on_request(files: list[Path], tmp_path: Path) -> None:
    mask = drawn(load(files[0].parent))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER, labelmap=True)
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert (seg.SegmentationType, seg.file_meta.TransferSyntaxUID.name) == ("LABELMAP", "RLE Lossless")
    assert errors(tmp_path / "a.dcm") == []


def test_the_same_mask_is_the_same_instance_and_another_is_not(files: list[Path], tmp_path: Path) -> None:
    mask = drawn(load(files[0].parent))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    write_seg(mask, tmp_path / "b.dcm", SEGMENTS, MAKER)
    mask.array[20, 20, 8] ^= 1
    write_seg(mask, tmp_path / "c.dcm", SEGMENTS, MAKER)
    a, b, c = (pydicom.dcmread(tmp_path / f"{n}.dcm").SOPInstanceUID for n in "abc")
    assert a == b != c


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
    scan = load(files[0].parent, fix=("tilt", "gaps"))
    # What is at each place of the repaired grid, in the mask of the slices that were never tilted.
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
    lost = np.pi * (8**2 - 2.5**2) / (0.7 * 0.9)  # on the slice that is missing
    assert seen == pytest.approx(4 / 3 * np.pi * 8**3 / (0.7 * 0.9 * 2.5) - lost, rel=0.03)


def test_an_enhanced_file_is_referred_to_by_its_frames(files: list[Path], tmp_path: Path) -> None:
    legacy = pytest.importorskip("highdicom.legacy")
    sources = [pydicom.dcmread(files[n * 5 % 12]) for n in range(12)]
    for source in sources:
        source.AccessionNumber = "1"
    made = legacy.LegacyConvertedEnhancedMRImage(sources, generate_uid(), 1, generate_uid(), 1)
    (tmp_path / "enhanced").mkdir()
    made.save_as(tmp_path / "enhanced" / "one.dcm")
    mask = drawn(load(tmp_path / "enhanced"))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
    assert differing(tmp_path / "a.dcm", mask, tmp_path / "q") == 0


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
        copy = tmp_path / keyword
        shutil.copytree(files[0].parent, copy)
        for path in copy.iterdir():
            edit(path, values(**{keyword: ""}))
        for write in (write_seg, write_rtstruct):
            with pytest.raises(InputError, match=f"has no {keyword}.*Write NIfTI"):
                write(drawn(load(copy)), tmp_path / "a.dcm", SEGMENTS)
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


@pytest.mark.data
def test_the_real_oblique_mr_and_the_real_tilted_ct(shared_data: Path, tmp_path: Path) -> None:
    for name in ("oblique-t1", "philips-ct-tilt"):
        mask = drawn(load(shared_data / "dicom" / name, fix=("tilt", "gaps")))
        write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER)
        if name == "oblique-t1":
            assert differing(tmp_path / "a.dcm", mask, tmp_path / "q") == 0
        # The age of the volunteer is not written as the standard wants it, in the source already.
        theirs = ("Patient's Age", "Dicom dataset contains invalid data values")
        assert [e for e in errors(tmp_path / "a.dcm") if not any(t in e for t in theirs)] == []


def test_a_label_map_of_odd_frames_does_not_end_the_program(tmp_path: Path) -> None:
    grid = Geometry.build((35, 51, 6))
    scan = grid.volume(np.arange(35 * 51 * 6).reshape(grid.shape) % 4000)
    save_series(scan, tmp_path / "s", description="", seed_uid="odd")
    mask = drawn(load(tmp_path / "s"))
    write_seg(mask, tmp_path / "a.dcm", SEGMENTS, MAKER, labelmap=True)
    assert pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID == RLELossless
    assert errors(tmp_path / "a.dcm") == []
