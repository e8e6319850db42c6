"""Tests that the bytes of a file that are checked, bounded and hashed are the ones that are used."""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from c3s3_seg.errors import InputError, MemoryLimitError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import limits, load, load_mask, save
from c3s3_seg.io.content import MOST_SURPLUS, Need, Opened, unpack, unpack_head

NOISE = np.random.default_rng(0).bytes(5000) + bytes(3_000_000)


def need(size: int) -> Need:
    return Need(Path("x.nii.gz"), (size, 1, 1), 0, size, packed=True)


def header(shape: tuple[int, int, int], kind: str) -> bytes:
    """Return the first 352 bytes of a NIfTI file with int16 or uint8 voxels."""
    head = bytearray(352)
    head[0:4] = (348).to_bytes(4, "little")
    head[40:56] = np.array([3, *shape, 1, 1, 1, 1], "<i2").tobytes()
    head[70:74] = np.array({"i2": (4, 16), "u1": (2, 8)}[kind], "<i2").tobytes()
    head[76:108] = np.array([1, 1, 1, 1, 0, 0, 0, 0], "<f4").tobytes()
    head[108:120] = np.array([352, 1, 0], "<f4").tobytes()
    head[254:256] = np.array([1], "<i2").tobytes()
    head[280:328] = np.eye(3, 4).astype("<f4").tobytes()
    head[344:348] = b"n+1\0"
    return bytes(head)


def zeros_gz(head: bytes, count: int) -> bytes:
    """Return a gzip file of `head` and `count` zeros; the zeros are one gzip member, repeated many times."""
    block = 1 << 26
    zeros = gzip.compress(bytes(min(block, count)), 9)
    rest = count % block if count > block else 0
    return gzip.compress(head) + zeros * max(1, count // block) + gzip.compress(bytes(rest), 9) * (rest > 0)


@pytest.mark.parametrize(
    ("packed", "after"),
    [
        (gzip.compress(NOISE), 0),
        (zlib.compress(NOISE), 0),
        (gzip.compress(NOISE[:1000]) + gzip.compress(NOISE[1000:]), 0),
        (gzip.compress(NOISE) + bytes(512), 0),
        (gzip.compress(NOISE) + b"junk", 4),
        (gzip.compress(NOISE + b"tail"), 4),
    ],
)
def test_streams_are_unpacked_whole(packed: bytes, after: int) -> None:
    assert unpack(memoryview(packed), need(len(NOISE))) == (NOISE, after)
    assert unpack_head(packed[:400], 100, Path("x")) == NOISE[:100]


def test_streams_that_are_cut_or_flipped_are_refused() -> None:
    packed = gzip.compress(NOISE, 1)
    flipped = bytearray(packed)
    flipped[3000] ^= 4
    for bad in (packed[:-1], packed[:2000], bytes(flipped), packed[:-8] + bytes(8)):
        with pytest.raises(InputError, match="damaged"):
            unpack(memoryview(bad), need(len(NOISE)))
    with pytest.raises(InputError, match="voxels need 4000000 bytes, found 3005000"):
        unpack(memoryview(packed), need(4_000_000))


def test_what_follows_the_voxels_is_capped() -> None:
    allowed = gzip.compress(NOISE + bytes(MOST_SURPLUS))
    assert unpack(memoryview(allowed), need(len(NOISE)))[1] == MOST_SURPLUS
    with pytest.raises(InputError, match="bytes follow the last"):
        unpack(memoryview(gzip.compress(NOISE + bytes(MOST_SURPLUS + 1))), need(len(NOISE)))


@pytest.mark.parametrize("name", ["a.nii", "a.nrrd", "a.mha"])
def test_a_sparse_file_that_goes_on_for_ever_is_not_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    image = SimpleITK.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(6, 5, 4))
    SimpleITK.WriteImage(image, str(path))
    whole = load(path).array
    os.truncate(path, path.stat().st_size + 700)
    assert np.array_equal(load(path).array, whole)
    assert "700 bytes after the last voxel were not used" in load(path).source.notes
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match="the header does not fit the file"):
        load(path)


@pytest.mark.slow
def test_two_gigabytes_of_zeros_in_two_megabytes_are_refused_at_once(tmp_path: Path) -> None:
    """The file is refused by its header, before the voxels are allocated: the peak stays below 500 MB."""
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(zeros_gz(header((1000, 1000, 1000), "i2"), 2_000_000_000))
    assert bomb.stat().st_size < 2_500_000
    code = """
import re, sys, time
from c3s3_seg.errors import C3S3Error
from c3s3_seg.io import load
started = time.perf_counter()
try:
    load(sys.argv[1])
except C3S3Error as error:
    print(error)
peak_kb = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)  # of this process alone
print(time.perf_counter() - started, peak_kb)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bomb)], capture_output=True, text=True, check=True, timeout=60
    )
    said, numbers = done.stdout.strip().splitlines()
    assert "no scan can be packed so tightly" in said or "the memory did not suffice" in said
    seconds, kilobytes = map(float, numbers.split())
    assert seconds < 10
    assert kilobytes < 500_000


def test_a_mask_may_be_packed_tightly_and_a_scan_of_some_size_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DENSE_FLOOR", 1 << 20)
    path = tmp_path / "a.nii.gz"
    path.write_bytes(zeros_gz(header((128, 128, 128), "u1"), 128**3))
    assert not load_mask(path).array.any()
    with pytest.raises(InputError, match="no scan can be packed so tightly"):
        load(path)
    noise = np.random.default_rng(0).integers(0, 90, (128, 128, 128)).astype(np.uint8)
    save(Geometry.build(noise.shape).volume(noise), path)
    assert np.array_equal(load(path).array, noise)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz", "nrrd", "mha"])
def test_voxels_for_which_there_is_no_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    save(Geometry.build((40, 40, 40)).volume(np.ones((40, 40, 40), np.int16)), path)
    monkeypatch.setattr(limits, "SMALL", 1 << 10)
    load_mask(path)
    monkeypatch.setattr(limits, "free_bytes", lambda: 300_000.0)
    with pytest.raises(MemoryLimitError, match="the memory did not suffice: 40 x 40 x 40 voxels take"):
        load_mask(path)


def test_too_many_voxels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    save(Geometry.build((40, 40, 40)).volume(np.ones((40, 40, 40), np.int16)), path)
    monkeypatch.setattr(limits, "MOST_VOXELS", 64_000)
    load(path)
    monkeypatch.setattr(limits, "MOST_VOXELS", 63_999)
    with pytest.raises(InputError, match="claims 40 x 40 x 40 voxels; up to 63999 are read"):
        load(path)


def test_a_file_is_read_once_and_not_while_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(NOISE)
    with Opened(path) as file:
        assert file.begin(10) == NOISE[:10]
        assert file.begin(4) == NOISE[:4]
        assert file.whole() == NOISE
    with Opened(path) as file:
        assert hashlib.sha256(b"".join(file.blocks(1 << 12))).digest() == hashlib.sha256(NOISE).digest()
    for change in (lambda: os.truncate(path, 100), lambda: path.write_bytes(NOISE + b"more")):
        path.write_bytes(NOISE)
        with Opened(path) as file:
            file.begin(10)
            change()
            with pytest.raises(InputError, match="changed while it was read"):
                file.whole()
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(InputError, match="a pipe, a device or a folder"):
            Opened(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        Opened(tmp_path / "none")


def test_voxels_that_start_far_behind_their_header(tmp_path: Path) -> None:
    """Bytes before the voxels are unpacked as well: 816 KB would have taken 800 MB, also for a mask."""
    head = bytearray(header((4, 5, 6), "u1"))
    for start, more in ((352 + (1 << 26) + 4096, 0), (4096, 120)):
        struct.pack_into("<f", head, 108, float(start))
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(bytes(head) + bytes(start - len(head) + more)))
        if more:
            assert load_mask(tmp_path / "a.nii.gz").array.shape == (4, 5, 6)
        else:
            with pytest.raises(InputError, match="the voxels cannot start at byte"):
                load_mask(tmp_path / "a.nii.gz")


def test_many_members_are_one_stream() -> None:
    packed = (
        gzip.compress(b"") * 3000 + gzip.compress(b"abc") + b"".join(gzip.compress(b"d") for _ in range(3000))
    )
    content, after = unpack(memoryview(packed), need(1003))
    assert content == b"abc" + b"d" * 1000
    assert after == 2000


def test_a_header_behind_an_extra_field_of_64_kib(tmp_path: Path) -> None:
    scan = Geometry.build((5, 4, 3)).volume(np.arange(60, dtype=np.int16).reshape(5, 4, 3))
    save(scan, tmp_path / "scan.nii")
    packed = gzip.compress((tmp_path / "scan.nii").read_bytes())
    flags = bytes([packed[3] | 4])  # RFC 1952, 2.3: FEXTRA; its length follows the header of ten bytes
    noise = np.random.default_rng(0).bytes(0xFFFF)
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(packed[:3] + flags + packed[4:10] + b"\xff\xff" + noise + packed[10:])
    assert np.array_equal(load(path).array, scan.array)
