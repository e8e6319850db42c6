"""Tests of pixels: same values in each transfer syntax, padding is no value, bad decoders are contained."""

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import rotation
from helpers.dicom_files import edit, values
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from c3s3_seg.batch.records import Refusal
from c3s3_seg.errors import InputError, MemoryLimitError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom import decoder as decoder_module
from c3s3_seg.io.dicom.decoder import DecoderRefusal, PixelDecoder
from c3s3_seg.io.dicom.header import Broken, Slice, look_at
from c3s3_seg.io.dicom.pixels import Pixels
from c3s3_seg.io.dicom.write_series import save_series


@pytest.fixture
def oblique() -> Volume:
    """Return a phantom larger than the shared one: JPEG 2000 needs 32 pixels a side."""
    i, j, k = np.indices((40, 36, 12))
    grid = Geometry.build(i.shape, (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), rotation(12, -20, 30))
    return grid.volume((i + 40 * j + 1440 * (k % 4)).astype(np.int16))


@pytest.fixture
def files(oblique: Volume, tmp_path: Path) -> list[Path]:
    return save_series(oblique, tmp_path / "series", description="phantom", seed_uid="a")


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless], ids=lambda u: u.name)
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_is_the_same(oblique: Volume, files: list[Path], syntax: str, signed: bool) -> None:
    for path in files:
        data = pydicom.dcmread(path)
        if signed:
            data.PixelRepresentation = 1
            data.PixelData = (data.pixel_array.astype(np.int16) - 3000).tobytes()
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
    assert np.array_equal(load(files[0].parent).array, oblique.array - (3000 if signed else 0))


@pytest.mark.slow
@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL], ids=lambda u: u.name)
@pytest.mark.parametrize("signed", [False, True])
def test_htj2k_by_openjph_is_the_same(oblique: Volume, files: list[Path], syntax: UID, signed: bool) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")

    def change(data: pydicom.Dataset) -> None:
        pixels = data.pixel_array
        if signed:
            data.PixelRepresentation = 1
            pixels = pixels.astype(np.int16) - np.int16(3000)
        # PS3.5, 10.18: the second of the two syntaxes has RPCL order with a TLM marker.
        coded = imagecodecs.htj2k_encode(pixels, reversible=True, tlm=syntax == HTJ2KLosslessRPCL)
        assert b"OpenJPH" in coded[:200]
        data.PixelData = encapsulate([coded])
        data["PixelData"].VR = "OB"
        data.file_meta.TransferSyntaxUID = syntax

    for path in files:
        edit(path, change)
    assert np.array_equal(load(files[0].parent).array, oblique.array - (3000 if signed else 0))
    files[5].write_bytes(files[5].read_bytes()[:-100])
    with pytest.raises(InputError, match=files[5].name):
        load(files[0].parent)


@pytest.mark.parametrize("option", ["-e1", "-e14"], ids=["JPEG lossless SV1", "JPEG lossless"])
def test_jpeg_lossless_by_dcmtk_is_the_same(oblique: Volume, files: list[Path], option: str) -> None:
    import shutil

    if shutil.which("dcmcjpeg") is None:
        pytest.skip("dcmtk is not installed")
    words = ["+e1"] if option == "-e1" else ["+el"]
    for path in files:
        subprocess.run(["dcmcjpeg", *words, str(path), str(path)], check=True, capture_output=True)
    assert pydicom.dcmread(files[0]).file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(load(files[0].parent).array, oblique.array)


@pytest.mark.parametrize(
    "syntax", [DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_uncompressed_is_the_same(oblique: Volume, files: list[Path], syntax: str) -> None:
    big = syntax == ExplicitVRBigEndian
    for path in files:
        data = pydicom.dcmread(path)
        if big:
            data.PixelData = data.pixel_array.astype(">u2").tobytes()
        data.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, data, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=not big)
    assert np.array_equal(load(files[0].parent).array, oblique.array)


def test_padding_becomes_the_smallest_value(oblique: Volume, files: list[Path]) -> None:
    low = int(oblique.array[:, 3:].min())
    for n, path in enumerate(files):
        stored = np.maximum(oblique.array[:, :, n].T.astype(np.int16), low) - 1024
        stored[:3] = -2000
        edit(path, values(PixelRepresentation=1, PixelData=stored.tobytes(), RescaleIntercept="-24"))
    for padding in (-2000, 63536):  # 63536 is -2000 in a tag written as unsigned
        for path in files:
            data = pydicom.dcmread(path)
            data.add_new("PixelPaddingValue", "US" if padding > 0 else "SS", padding)
            data.save_as(path)
        back = load(files[0].parent)
        assert (back.array[:, :3] == low - 1048).all()
        assert np.array_equal(back.array[:, 3:], np.maximum(oblique.array[:, 3:], low) - 1048)
        assert back.source.notes == (f"padding: {12 * 3 * 40} pixels were set to {low - 1048}",)
    for path in files:
        edit(path, values(PixelData=np.full((36, 40), -2000, np.int16).tobytes()))
    assert "every pixel is the padding value" in load(files[0].parent).source.notes[0]


def test_padding_takes_the_smallest_value_of_all_slices(files: list[Path]) -> None:
    for n, path in enumerate(files):
        stored = np.full((36, 40), 200 if n == 3 else 500, np.uint16)
        stored[:3] = 7
        edit(path, values(PixelData=stored.tobytes()))
        data = pydicom.dcmread(path)
        data.add_new("PixelPaddingValue", "US", 7)
        data.save_as(path)
    back = load(files[0].parent)
    assert (back.array[:, :3] == 200).all()
    assert back.source.notes == (f"padding: {12 * 3 * 40} pixels were set to 200",)


def test_a_range_of_padding(oblique: Volume, files: list[Path]) -> None:
    for path in files:
        data = pydicom.dcmread(path)
        data.add_new("PixelPaddingValue", "US", 0)
        data.add_new("PixelPaddingRangeLimit", "US", 9)
        data.save_as(path)
    back = load(files[0].parent)
    assert back.array.min() == 10
    assert np.array_equal(back.array, np.maximum(oblique.array, 10))


@pytest.mark.parametrize(
    ("padding", "signed", "wanted"),
    [
        (("SS", -2000), 0, None),  # cut to 8 bits, it would be 48
        (("US", 63536), 0, None),
        (("US", 304), 0, None),
        (("US", 65535), 0, None),  # not -1: the pixels have no sign
        (("SS", -2000), 1, None),
        (("US", 7), 0, 7),
        (("SS", -56), 0, 200),
        (("US", 200), 1, -56),
        (("US", 65480), 1, -56),  # -56, in a tag that was written as unsigned
    ],
)
def test_padding_that_no_pixel_can_have_is_no_padding(
    files: list[Path], padding: tuple[str, int], signed: int, wanted: int | None
) -> None:
    """A value left from a conversion to 8 bits made real pixels of 48 the smallest value of the scan."""
    stored = np.resize(np.arange(256).astype(np.uint8), (12, 36, 40))
    for plane, path in zip(stored, files, strict=True):
        head = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": signed}
        edit(path, values(**head, PixelData=plane.tobytes()))
        data = pydicom.dcmread(path)
        data.add_new("PixelPaddingValue", *padding)
        data.save_as(path)
    real = (stored.view(np.int8) if signed else stored).transpose(2, 1, 0)
    back = load(files[0].parent)
    if wanted is None:
        assert np.array_equal(back.array, real)
        assert back.source.notes == ()
    else:
        low = real[real != wanted].min()
        assert np.array_equal(back.array, np.where(real == wanted, low, real))


def test_the_end_of_a_range_that_no_pixel_can_have_is_no_end(oblique: Volume, files: list[Path]) -> None:
    for path in files:
        data = pydicom.dcmread(path)
        data.add_new("PixelPaddingValue", "US", 3)
        data.add_new("PixelPaddingRangeLimit", "SL", 1 << 20)
        data.save_as(path)
    wanted = np.where(oblique.array == 3, 0, oblique.array)
    assert np.array_equal(load(files[0].parent).array, wanted)


@pytest.mark.parametrize("above", [0, 0xF000], ids=["zeros", "the sign"])
def test_padding_among_12_bits(oblique: Volume, files: list[Path], above: int) -> None:
    """A negative padding value is stored in 12 bits, with or without its sign in the upper four bits."""
    for n, path in enumerate(files):
        stored = np.clip(oblique.array[:, :, n].T.astype(np.int16) - 1900, -1900, 2047)
        stored[:, :3] = -2000
        bits = stored & 0x0FFF | np.where(stored < 0, above, 0)

        def change(data: pydicom.Dataset, content: bytes = bits.astype("<u2").tobytes()) -> None:
            data.PixelRepresentation, data.BitsStored, data.HighBit = 1, 12, 11
            data.PixelData = content
            data.add_new("PixelPaddingValue", "SS", -2000)

        edit(path, change)
    scan = load(files[0].parent)
    assert scan.array.min() == 3 - 1900
    assert "padding" in scan.source.notes[-1]


def compressed(files: list[Path]) -> Path:
    for path in files:
        data = pydicom.dcmread(path)
        data.compress(JPEG2000Lossless, generate_instance_uid=False)
        data.save_as(path)
    return files[5]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["crash", "hang", "loop", "memory"])
def test_a_decoder_that_fails_takes_nothing_down(
    files: list[Path], fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The decoder in the child is replaced by one that really crashes, hangs or runs out of memory."""
    path = compressed(files)
    act = {
        "crash": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "hang": "import time; time.sleep(100)",
        "loop": "while True: pass",
        "memory": "bytearray(8 << 30)",
    }[fault]
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if '-m' in sys.orig_argv and 'c3s3_seg.io.dicom.decoder' in sys.orig_argv:\n"
        "    import pydicom.pixels.utils\n"
        "    def bad(*words, **options):\n"
        f"        {act}\n"
        "    pydicom.pixels.utils.pixel_array = bad\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(decoder_module, "FRAME_S", 1.0)
    if fault == "hang":
        monkeypatch.setattr(decoder_module, "LONGEST_S", 1.0)
    words = {
        "crash": "the decoder crashed",
        "hang": "took too long",
        "loop": "took too long",
        "memory": "MemoryError",
    }
    with pytest.raises(InputError, match=rf"IM_0001.dcm' is damaged.*{words[fault]}"):
        load(path.parent)


def test_a_child_that_died_is_started_anew(files: list[Path], oblique: Volume) -> None:
    compressed(files)
    decoder = PixelDecoder()
    try:
        first = decoder.pixels(files[0], None, (36, 40))
        assert np.array_equal(first, oblique.array[:, :, 0].T)
        assert decoder._child is not None
        os.kill(decoder._child.pid, signal.SIGKILL)
        with pytest.raises(DecoderRefusal, match="crashed"):
            decoder.pixels(files[1], None, (36, 40))
        assert np.array_equal(decoder.pixels(files[1], None, (36, 40)), oblique.array[:, :, 1].T)
    finally:
        decoder.close()


STOPPED = """
import os, signal, sys
from c3s3_seg.io import load
from c3s3_seg.io.dicom import decoder

ask, worked_s = decoder.PixelDecoder._ask, decoder._worked_s
questions, steps = [], []
decoder.FRAME_S, decoder.LONGEST_S = 1.0, 1000.0  # a busy machine may take its time

def stop_the_child(self, child, question):
    questions.append(question)
    if len(questions) == 3:
        os.kill(child.pid, signal.SIGSTOP)
    return ask(self, child, question)

def stop_here(child):  # comes after each step of waiting, before the time is compared with the limits
    if len(questions) == 3:
        steps.append(child)
        if len(steps) == 2:
            decoder.LONGEST_S = 2 * decoder.STEP_S + 1.0
            os.kill(os.getpid(), signal.SIGSTOP)
        if len(steps) == 4:  # the time was taken and compared since then
            decoder.LONGEST_S = 1000.0
            os.kill(child, signal.SIGCONT)
    return worked_s(child)

decoder.PixelDecoder._ask, decoder._worked_s = stop_the_child, stop_here
print(load(sys.argv[1]).array.shape, len(steps) >= 4)
"""


@pytest.mark.slow
def test_a_program_that_was_stopped_has_not_waited(files: list[Path]) -> None:
    """Parent and child are stopped for longer than any limit, as a batch system or a laptop may do."""
    compressed(files)
    command = [sys.executable, "-c", STOPPED, str(files[0].parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        time.sleep(2.5)  # LONGEST_S is 1.5 now
        process.send_signal(signal.SIGCONT)
        assert process.stdout.read() == "(40, 36, 12) True\n"


def test_sizes_that_lie_are_refused(files: list[Path]) -> None:
    path = compressed(files)
    for other in files:
        edit(other, values(Rows=60000, Columns=60000))
    with pytest.raises(InputError, match="60000 x 60000 pixels in one frame"):
        load(path.parent)


def test_garbage_in_a_compressed_frame_is_refused(files: list[Path]) -> None:
    path = compressed(files)
    for content in (b"", b"\xff\x4f\xff\x51garbage!", os.urandom(500)):
        edit(
            path, lambda data, content=content: setattr(data, "PixelData", encapsulate([content or b"\0\0"]))
        )
        with pytest.raises(InputError, match=r"IM_0006\.dcm"):
            load(path.parent)


@pytest.mark.parametrize("uid", ["1.2.840.113619.5.2", "1.2.840.10008.1.2.4.110"], ids=["GE", "JPEG XL"])
def test_a_transfer_syntax_that_is_not_known_is_named(files: list[Path], uid: str) -> None:
    """The syntax is a manufacturer's own or newer than pydicom; the file is not called damaged."""
    known = b"1.2.840.10008.1.2.4.100"  # pydicom writes this one; it is as long as the longer of the two
    data = pydicom.dcmread(files[0])
    data.PixelData, data.file_meta.TransferSyntaxUID = encapsulate([b"\xff\x0a"]), UID(known.decode())
    data.save_as(files[0])
    content = files[0].read_bytes()
    assert content.count(known) == 1
    files[0].write_bytes(content.replace(known, uid.encode().ljust(len(known), b"\0")))
    with pytest.raises(InputError, match=rf"transfer syntax '{uid}', which is not known.*uncompressed"):
        load(files[0].parent)


def test_jpeg_of_12_bits_without_its_decoder_is_named(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pydicom.pixels.decoders.base as decoders

    data = pydicom.dcmread(files[0])
    data.PixelData = encapsulate([b"\xff\xd8\xff\xd9"])
    data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.BitsStored, data.HighBit = 12, 11
    data.file_meta.TransferSyntaxUID = decoder_module.JPEG_EXTENDED
    data.save_as(files[0])
    decoder = decoders.get_decoder(UID(decoder_module.JPEG_EXTENDED))
    monkeypatch.delitem(decoder._available, "pylibjpeg", raising=False)
    with pytest.raises(DecoderRefusal, match="with 12 bits, which the installed decoders cannot read"):
        decoder_module._open(files[0], pydicom)
    decoder_module._check_decoder(UID(decoder_module.JPEG_EXTENDED), 8)


def test_values_beyond_the_bits_of_the_header_are_refused(oblique: Volume, files: list[Path]) -> None:
    """The JPEG 2000 stream has 16 bits, the header states fewer: a bit mask would wrap the values."""
    for path in files:
        edit(path, values(PixelData=np.full((36, 40), 4000, np.uint16).tobytes()))
    path = compressed(files)
    for other in files:
        edit(other, values(BitsStored=12, HighBit=11))
    assert load(path.parent).array.max() == 4000
    edit(path, values(BitsStored=11, HighBit=10))
    with pytest.raises(InputError, match=r"IM_0006.dcm' is damaged.*values that its header's 11 bits"):
        load(path.parent)


@pytest.mark.parametrize("packed", [False, True])
def test_pixels_that_the_system_does_not_give_are_no_damage(
    files: list[Path], tmp_path: Path, packed: bool
) -> None:
    """Only the type of the error was told, so that a batch took it for damage and never tried again."""
    path = compressed(files) if packed else files[5]
    item = look_at(path, path.name)
    assert isinstance(item, Slice)
    path.unlink()
    path.symlink_to("/proc/self/mem")  # a regular file that cannot be read
    with Pixels(tmp_path) as pixels, pytest.raises(InputError, match="Input/output error") as error:
        pixels.read(item)
    assert ("damaged" in str(error.value)) == packed  # what the decoder was doing is not known
    assert not Refusal.of(error.value, "load").final


def test_a_header_that_the_system_does_not_give_is_no_damage(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "text of a library, which may quote a header")

    monkeypatch.setattr("c3s3_seg.io.dicom.header.parsed", fail)
    broken = look_at(files[5], "x")
    assert isinstance(broken, Broken)
    assert broken.verdict == "is damaged: its header cannot be read (Stale file handle)"


def test_a_decoder_that_does_not_start_is_no_fault_of_the_file(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compressed(files)
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'c3s3_seg.io.dicom.decoder' in sys.orig_argv:\n    os._exit(7)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(InputError, match=r"IM_0001.dcm' cannot be decoded: the decoder did not start.*sound"):
        load(path.parent)


def test_a_deflated_bomb_is_refused(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from c3s3_seg.io import deflated

    for path in files:
        edit(path, lambda d: setattr(d.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian))
    load(files[0].parent)
    edit(files[2], values(ImageComments="x" * 500_000))
    monkeypatch.setattr(deflated, "MAX_INFLATED", 400_000)
    with pytest.raises(InputError, match=r"IM_0003.dcm' is damaged"):
        load(files[0].parent)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"BitsStored": 12, "HighBit": 13}, "it has HighBit 13 with BitsStored 12; wanted 11"),
        ({"BitsStored": 12, "HighBit": 3}, "it has HighBit 3 with BitsStored 12; wanted 11"),
        ({"BitsStored": 20, "HighBit": 19}, "it has BitsStored 20 with BitsAllocated 16"),
        ({"BitsStored": None}, "has no BitsStored"),
        ({"PixelRepresentation": None}, "its header has no PixelRepresentation"),
        ({"PixelRepresentation": 2}, "its header has PixelRepresentation '2'; wanted 0"),
        ({"RescaleSlope": "0"}, "it has RescaleSlope 0"),
        ({"RescaleSlope": "1e400"}, "it has RescaleSlope '1e400'; wanted a number"),
    ],
)
@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_a_whole_file_with_an_odd_header_is_not_called_damaged(
    files: list[Path], attributes: dict[str, object], message: str, syntax: UID | None
) -> None:
    def change(data: pydicom.Dataset) -> None:
        if syntax:
            data.compress(syntax, generate_instance_uid=False)
        values(**attributes)(data)

    edit(files[5], change)
    with pytest.raises(InputError, match=message) as error:
        load(files[0].parent)
    assert "IM_0006.dcm" in str(error.value)
    assert "damaged" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "message"),
    [(0.9, "is damaged: its pixels cannot be decoded"), (2, "it holds 5760 bytes of pixels, and 36 x 40")],
)
def test_pixels_are_as_many_as_the_header_says(files: list[Path], part: float, message: str) -> None:
    """Bytes after the pixels are not taken for pixels, and a second frame is not left out silently."""

    def change(data: pydicom.Dataset) -> None:
        size = len(data.PixelData)
        data.PixelData = (data.PixelData * 2)[: int(part * size) // 2 * 2]
        data.DataSetTrailingPadding = bytes(size)

    edit(files[5], change)
    with pytest.raises(InputError, match=message) as error:
        load(files[0].parent)
    assert "IM_0006.dcm" in str(error.value)


def test_a_scale_of_unknown_type_is_a_scale(
    files: list[Path], oblique: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some programs write attributes that they do not know as UN; the bytes are still those of a text."""

    def change(data: pydicom.Dataset) -> None:
        data.add_new("RescaleSlope", "UN", b"2 ")
        data.add_new("RescaleIntercept", "UN", b"10")

    with monkeypatch.context() as patch:
        patch.setattr(pydicom.config, "replace_un_with_known_vr", False)
        for path in files:
            edit(path, change)
        assert b"\x28\0\x53\x10UN" in files[0].read_bytes()
    assert np.array_equal(load(files[0].parent).array, 2 * oblique.array + 10)


def test_memory_is_asked_for_before_it_is_taken(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from c3s3_seg.io import limits

    monkeypatch.setattr(limits, "SMALL", 0)
    load(files[0].parent)
    monkeypatch.setattr(limits, "free_bytes", lambda: 40 * 36 * 12 * 8 - 1.0)
    with pytest.raises(MemoryLimitError, match=r"40 x 36 x 12 voxels take"):
        load(files[0].parent)


@pytest.mark.parametrize("kind", ["FloatPixelData", "DoubleFloatPixelData"])
def test_floating_point_pixels_are_named(files: list[Path], kind: str) -> None:
    def change(data: pydicom.Dataset) -> None:
        pixels = data.pixel_array.astype("<f4" if kind == "FloatPixelData" else "<f8")
        del data.PixelData, data.BitsStored, data.HighBit, data.PixelRepresentation
        data.BitsAllocated = pixels.itemsize * 8
        setattr(data, kind, pixels.tobytes())

    edit(files[5], change)
    with pytest.raises(InputError, match=rf"'IM_0006.dcm' holds {kind}.*convert it to NIfTI") as error:
        load(files[0].parent)
    assert "damaged" not in str(error.value)


def test_a_large_intercept_keeps_grey_values_apart(
    files: list[Path], oblique: Volume, tmp_path: Path
) -> None:
    for file in files:
        edit(file, values(RescaleIntercept=str(100_000_000), RescaleSlope="1"))
    back = load(tmp_path / "series")
    assert back.array.dtype == np.float64
    assert np.array_equal(back.array - back.array.min(), oblique.array - oblique.array.min())
    for file in files:
        edit(file, values(RescaleIntercept=str(-1024), RescaleSlope="1"))
    assert load(tmp_path / "series").array.dtype == np.float32


def test_an_offset_in_pixels_of_32_bits_keeps_grey_values_apart(
    files: list[Path], oblique: Volume, tmp_path: Path
) -> None:
    for n, file in enumerate(files):
        stored = oblique.array[:, :, n].T.astype("<u4") + 1_000_000_000
        bits = values(BitsAllocated=32, BitsStored=32, HighBit=31, PixelData=stored.tobytes())
        edit(file, bits)
    back = load(tmp_path / "series")
    assert back.array.dtype == np.float64
    assert np.array_equal(back.array - 1_000_000_000, oblique.array)


def test_two_slices_that_only_float32_calls_equal_are_two(files: list[Path], tmp_path: Path) -> None:
    for file in files:
        edit(file, values(RescaleIntercept=str(100_000_000), RescaleSlope="1"))
    data = pydicom.dcmread(files[0])
    data.SOPInstanceUID += ".9"
    pixels = data.pixel_array.copy()
    pixels[3, 3] += 1
    data.PixelData = pixels.tobytes()
    data.save_as(tmp_path / "series" / "again.dcm")
    with pytest.raises(InputError, match="two different slices lie at the same position"):
        load(tmp_path / "series")


@pytest.mark.parametrize("left_out", ["RescaleSlope", "RescaleIntercept"])
def test_a_slice_without_a_scale_among_slices_with_one(
    oblique: Volume, tmp_path: Path, left_out: str
) -> None:
    """The slice would stay unscaled among scaled ones; if their scale changes nothing, it is accepted."""
    files = save_series(oblique, tmp_path / "a", description="", seed_uid="scale")
    for file in files:
        edit(file, values(RescaleSlope="1", RescaleIntercept="0"))
    edit(files[3], lambda data: data.pop(left_out))
    assert np.array_equal(load(tmp_path / "a").array, oblique.array)
    for n, file in enumerate(files):
        edit(file, values(**{left_out: None if n == 3 else "7"}))
    with pytest.raises(InputError, match=f"1 of 12 slices have no {left_out}, '{files[3].name}' among them"):
        load(tmp_path / "a")


@pytest.mark.parametrize("padding", [0, 4000])
@pytest.mark.parametrize("side", [100, 160])
def test_explicit_types_that_are_called_implicit(tmp_path: Path, side: int, padding: int) -> None:
    """Read as a length, the letters OW are 22351, which may be more or less than the bytes that follow."""
    grid = Geometry.build((side, side, 3))
    array = np.arange(side * side * 3).reshape(grid.shape) % 60_000
    for path in save_series(grid.volume(array), tmp_path / "s", description="", seed_uid="s"):
        raw = path.read_bytes()
        explicit, implicit = b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0"
        assert raw.count(explicit) == 1
        more = b"\xfc\xff\xfc\xffOB\0\0" + padding.to_bytes(4, "little") + bytes(padding) if padding else b""
        path.write_bytes(raw.replace(explicit, implicit) + more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns about the wrong syntax
        assert np.array_equal(load(tmp_path / "s").array, array)


def test_a_folder_above_a_link_gives_its_own_pixels(
    files: list[Path], oblique: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`LINK/..` is the folder above the link's target; another series lies where the text points to."""
    far, here = tmp_path / "far", tmp_path / "here"
    for folder, shift in ((far, 0), (here, 7)):
        (folder / "s").mkdir(parents=True)
        for path in files:
            data = pydicom.dcmread(path)
            data.PixelData = (data.pixel_array + shift).tobytes()
            data.compress(RLELossless, generate_instance_uid=False)
            data.save_as(folder / "s" / path.name)
    (far / "deep").mkdir()
    (here / "link").symlink_to(far / "deep")
    monkeypatch.chdir(here)
    assert np.array_equal(load(Path("link/../s")).array, oblique.array)
    assert np.array_equal(load(Path("s")).array, oblique.array + 7)
