"""Tests of deflated DICOM files: where only the header is needed, the data after it are not unpacked."""

import resource
import zlib
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from c3s3_seg.io import deflated
from c3s3_seg.io.deflated import header_of, whole_of
from c3s3_seg.io.dicom.header import Broken, look_at, study_of
from c3s3_seg.io.pacs.identity import identity
from c3s3_seg.io.pacs.outbox import collect

MR, LARGE = "1.2.840.10008.5.1.4.1.1.4", 256 << 20


def bomb(padding: int) -> bytes:
    """Return a slice with `LARGE` zero bytes as pixels, after a group 0002 of at least `padding` bytes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MR, "1.2.3.4"
    meta.FileMetaInformationVersion = bytes(padding)
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = FileDataset("", pydicom.Dataset(), file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = MR, "1.2.3.4"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.Rows, data.Columns = "1.2.3", "1.2.3.1", 4, 4
    data.PixelData = bytes(16)
    buffer = BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    content = buffer.getvalue()
    start = 144 + int.from_bytes(content[140:144], "little")
    plain = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    plain = (
        plain[: plain.index(b"\xe0\x7f\x10\x00")] + b"\xe0\x7f\x10\x00OW\0\0" + LARGE.to_bytes(4, "little")
    )
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    head = packer.compress(plain) + packer.flush(zlib.Z_FULL_FLUSH)  # the blocks after it do not refer to it
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return content[:start] + head + block * (LARGE >> 20) + packer.flush()


@pytest.mark.parametrize("padding", [2, 5000])
def test_the_header_is_read_and_the_rest_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padding: int
) -> None:
    content, path = bomb(padding), tmp_path / "bomb.dcm"
    path.write_bytes(content)
    monkeypatch.setattr(deflated, "MAX_INFLATED", 1 << 26)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert identity(content).study == "1.2.3"
    assert header_of(path).Rows == 4
    assert study_of(path) == "1.2.3"
    assert len(collect([path]).files) == 1
    found = look_at(path, "bomb.dcm")  # needs all pixels, so it unpacks the file up to MAX_INFLATED
    assert isinstance(found, Broken)
    with pytest.raises(ValueError, match="small part"):
        whole_of(path)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown_kb < LARGE >> 12
