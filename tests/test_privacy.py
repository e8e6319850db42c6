"""No output holds a name, ID or date of a patient, except DICOM objects by design (SEG, RTSTRUCT).

No output but that on a terminal holds the name of a file in a DICOM folder.
"""

import gzip
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers import command
from helpers.dicom_files import Edit, edit, values
from helpers.privacy import MARKER, found, planted
from pydicom.uid import generate_uid

from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.codes import Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.secondary_capture import write_capture
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.phantom import Simulator, save, simulate

pytestmark = pytest.mark.slow
# An atrium with little around it, which the domain check would refuse: a third of the work, the same text.
SMALL = Simulator(shape=(44, 40, 16), spacing_mm=(1.95, 1.95, 4.0))
MODEL = ("--model", "phantom", "--allow-out-of-domain")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write phantoms with markers: whole, with a gap, cut off, of two patients, two series in one folder."""
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate(("good", "gap", "cut", "mixed", "two"), 31_000):
        path, _ = save(simulate(seed, SMALL), folder, seed=seed, file_format="dicom")
        for file in path.iterdir():
            edit(file, planted)
        path.rename(folder / name)
    shutil.rmtree(folder / "truth")
    files = {name: sorted((folder / name).iterdir()) for name in ("gap", "cut", "mixed", "two")}
    files["gap"][9].unlink()
    files["cut"][9].write_bytes(files["cut"][9].read_bytes()[:-99])
    edit(files["mixed"][9], values(PatientName=f"{MARKER}^OTHER", PatientID=f"{MARKER}2"))
    for n, file in enumerate(files["two"]):
        edit(file, values(SeriesInstanceUID=f"1.2.3.{n % 2}", SOPInstanceUID=generate_uid()))
    return folder


def run(*words: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command in this process, which also captures the output of libraries."""
    ended = command.run(*words)
    streams = (text.encode() for text in (ended.stdout, ended.stderr))
    return subprocess.CompletedProcess(ended.args, ended.returncode, *streams)


def run_alone(*words: object) -> subprocess.CompletedProcess[bytes]:
    """Run a command in a process of its own, in which no library has been set up before."""
    return subprocess.run(
        [sys.executable, "-m", "c3s3_seg", *map(str, words)], capture_output=True, check=False
    )


def test_nothing_we_write_or_say_names_a_patient(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run_alone(
        "predict",
        scans,
        "-o",
        out,
        *MODEL,
        "--report",
        "png,html",
        "--repair",
        "gaps",
        "--probabilities",
    )
    assert answer.returncode == 1  # two of the five are refused, and their reasons are in the output
    assert b"of two patients" in b" ".join(answer.stdout.split())  # lines break where the path is long
    assert found(answer.stdout, answer.stderr) == []
    files = [path for path in out.rglob("*") if path.is_file()]
    suffixes = {".gz", ".json", ".csv", ".png", ".html", ".sqlite", ".jsonl"}
    assert {path.suffix for path in files} == suffixes
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        assert found(content, str(path.relative_to(out)).encode()) == [], path
    for name in ("cut", "mixed", "two"):  # "two": both series are segmented
        alone = run("predict", scans / name, "-o", tmp_path / "o", *MODEL)
        assert alone.returncode == (0 if name == "two" else 2)
        assert found(alone.stderr, alone.stdout) == []


def test_the_markers_would_be_found(scans: Path, tmp_path: Path) -> None:
    """DICOM SEG carries the patient module by design, so the search must find markers in it."""
    answer = run("predict", scans / "good", "-o", tmp_path, *MODEL, "--format", "dicom-seg")
    assert answer.returncode == 0, answer.stderr
    assert MARKER.encode() in found((tmp_path / "good.seg.dcm").read_bytes())
    others = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert found(*(path.read_bytes() for path in others), answer.stdout, answer.stderr) == []


def test_key_images_carry_the_patient_by_design_and_never_in_the_picture(scans: Path, tmp_path: Path) -> None:
    """The folder's name, which may be the patient's, is not burnt in; the header is that of the slices."""
    named = tmp_path / f"{MARKER}-folder"
    named.symlink_to(scans / "good")
    other = tmp_path / "plain"
    other.symlink_to(scans / "good")
    for folder in (named, other):
        answer = run("predict", folder, "-o", tmp_path / "out", *MODEL, "--report", "sc")
        assert answer.returncode == 0, answer.stderr
    pictures = [
        pydicom.dcmread(tmp_path / "out" / f"{name}.sc.dcm") for name in (f"{MARKER}-folder", "plain")
    ]
    assert pictures[0].PatientName == f"{MARKER}^NAME"
    assert pictures[0].PixelData == pictures[1].PixelData
    taken = {"PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "StudyDate",
             "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"}  # fmt: skip
    marked = {e.keyword for e in pictures[0].iterall() if found(str(e.value).encode())}
    assert MARKER not in pictures[0].SeriesDescription
    assert marked <= taken


def test_fetch_and_send_name_nobody(scans: Path, tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    from pynetdicom import AE, evt
    from pynetdicom.sop_class import MRImageStorage  # type: ignore[attr-defined]

    server = AE("PACS")
    server.add_supported_context(MRImageStorage)
    answers = iter([0x0000, 0xA700, 0xA700])
    handlers = [(evt.EVT_C_STORE, lambda _: next(answers))]
    here = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        node = f"PACS@127.0.0.1:{here.server_address[1]}"
        files = sorted((scans / "good").iterdir())
        sent = run("send", node, files[0])
        assert sent.stdout == b"Sent 1 file.\n"
        refused = run("send", node, files[0])
        assert b"refused" in refused.stderr
        lost = run("fetch", node, "-o", tmp_path, "--accession", MARKER)
        assert lost.returncode != 0
    finally:
        here.shutdown()
    for answer in (sent, refused, lost):
        assert found(answer.stdout, answer.stderr) == []


def test_inspect_shows_the_description_and_nothing_else(scans: Path) -> None:
    answer = run("inspect", scans / "good", "--json")
    text = answer.stdout.decode()
    assert text.count(MARKER) == 1
    assert f"{MARKER} in free text" in text
    assert found(text.replace(MARKER, "").encode(), answer.stderr) == []


# Forms of a name in a header: one part, all parts and more, three alphabets, accents, blanks.
FORMS: dict[str, tuple[str | list[str], str]] = {
    "one": ("ISO_IR 192", MARKER),
    "many": ("ISO_IR 192", f"{MARKER}^GIVEN^MIDDLE^DR^JR^MORE^MORE"),
    "ideographic": (
        ["", "ISO 2022 IR 87"],
        f"{MARKER}^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f",
    ),
    "accent": ("ISO_IR 100", f"{MARKER} M\u00fcller"),
    "blanks": ("ISO_IR 192", f"  {MARKER}  A  B"),
}
FILE = "ZQXFILE"
IDEOGRAMS = ("\u5c71\u7530".encode(), "\u5c71\u7530".encode("iso2022_jp")[3:-3], b"\\u5c71")
FORMATS = ("nii.gz", "nrrd", "mha", "dicom-seg", "dicom-labelmap", "rtstruct")


def named(form: str, number: int) -> Edit:
    characters, name = FORMS[form]
    return values(
        SpecificCharacterSet=characters,
        PatientName=name,
        ReferringPhysicianName=name,
        PatientID=f"{MARKER} {number}",
        StudyDescription=f"{MARKER} study",
    )


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a series for each form, with markers in its file names; one repeats a slice, one is cut off."""
    folder = tmp_path_factory.mktemp("forms")
    plain, _ = save(
        simulate(31_010, SMALL), tmp_path_factory.mktemp("plain"), seed=31_010, file_format="dicom"
    )
    for number, name in enumerate([*FORMS, "cut"]):
        path = shutil.copytree(plain, folder / name)
        for file in path.iterdir():
            edit(file, named(name if name in FORMS else "one", number))
            file.rename(path / f"{FILE}_{file.name}")
        (path / f"{FILE} notes.txt").write_text("beside it")
    last = max((folder / "many").glob("*.dcm"))
    shutil.copy(last, last.with_name(f"{FILE}_again.dcm"))
    broken = sorted((folder / "cut").glob("*.dcm"))[9]
    broken.write_bytes(broken.read_bytes()[:-99])
    return folder


def traces(content: bytes, *, dicom: bool = False) -> list[bytes]:
    """Return the markers in a file or stream; DICOM objects may hold the patient's, but never a file name."""
    marks = (FILE.encode(),) if dicom else (FILE.encode(), MARKER.encode(), *IDEOGRAMS)
    return [mark for mark in marks if mark in content]


@pytest.mark.slow
@pytest.mark.parametrize("style", FORMATS)
def test_no_format_and_no_stream_names_a_patient_or_a_file(style: str, forms: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pages = ["--report", "png,html,sc"]  # independent of the format of the mask
    more = {"nii.gz": [*pages, "--probabilities"], "nrrd": ["--json"], "mha": ["--workers", "2"]}
    more["dicom-seg"] = ["--report", "sc"]
    words = [*MODEL, "--format", style, *more.get(style, [])]
    # All forms of a name are needed only for formats that carry the name.
    names = (*FORMS, "cut") if "." not in style and style not in ("nrrd", "mha") else ("one", "many", "cut")
    answer = run(
        "predict", *(forms / name for name in names), "-o", out, "--log-file", tmp_path / "x.log", *words
    )
    assert answer.returncode == 1  # one is cut off
    assert traces(answer.stdout) + traces(answer.stderr) == []
    said = b" ".join(answer.stdout.split())
    assert b"the file 'file 11 of 17' is damaged" in said  # the notes come first in the order of the names
    log = (tmp_path / "x.log").read_bytes()
    assert traces(log) == []
    assert b"the file 'file 11 of 17' is damaged" in log
    written = [path for path in out.rglob("*") if path.is_file()]
    captures = [path for path in written if path.name.endswith(".sc.dcm")]
    assert len(captures) == (len(names) - 1) * ("--report" in words)
    for path in written:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        assert traces(content, dicom=path.suffix == ".dcm") == [], path
        assert traces(str(path.relative_to(out)).encode()) == []
    for path in written:
        if path.suffix == ".dcm":
            back = pydicom.dcmread(path)
            name = path.name.split(".")[0]
            assert str(back.PatientName).strip() == FORMS[name][1].strip(), path
    facts = (out / "many.json").read_text()
    assert b"many: files that are no DICOM (1)" in b" ".join(answer.stderr.split()) or "--json" in words
    assert "dropped, the same slice twice: file 18 of 18" in facts
    with sqlite3.connect(out / "journal.sqlite") as journal:
        assert "file 11 of 17" in str(journal.execute("SELECT * FROM cases").fetchall())


def test_on_a_terminal_a_file_has_its_name(forms: Path, tmp_path: Path) -> None:
    """In a pipe it has its number, by which the user finds it; `inspect` does the same as `predict`."""
    words = [sys.executable, "-m", "c3s3_seg", "predict", forms / "cut", "-o", tmp_path, *MODEL]
    ours, theirs = os.openpty()
    answer = subprocess.run([*map(str, words), "--quiet"], stderr=theirs, check=False)
    os.close(theirs)
    said = b" ".join(os.read(ours, 1 << 16).split())
    os.close(ours)
    assert answer.returncode == 2
    assert f"the file '{FILE}_IM_0010.dcm' is damaged".encode() in said
    assert traces(run(*words[3:]).stderr) == []
    assert traces(run("inspect", forms / "cut").stdout.replace(f"{MARKER} study".encode(), b"")) == []
    listed = run("inspect", forms / "many", "--json").stdout
    assert traces(listed) == []
    assert b"dropped, the same slice twice: file 18 of 18" in listed


@pytest.mark.parametrize("form", FORMS)
def test_no_library_warns_of_a_name(
    form: str, oblique: Volume, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """This also holds for users of the Python package, and the name is written unchanged."""
    files = save_series(oblique, tmp_path / "series", description="", seed_uid="names")
    for file in files:
        edit(file, named(form, 1))
    scan = load(tmp_path / "series")
    mask = scan.geometry.volume((scan.array > scan.array.mean()).astype(np.uint8), scan.source)
    caplog.set_level(logging.WARNING)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        segments = (Segment("organ", 1),)
        write_seg(mask, tmp_path / "a.dcm", segments)
        write_seg(mask, tmp_path / "b.dcm", segments, labelmap=True)
        write_rtstruct(mask, tmp_path / "c.dcm", segments)
        write_capture(np.zeros((9, 8, 3), np.uint8), scan.source, tmp_path / "d.dcm")
    assert [str(w.message) for w in warned if traces(str(w.message).encode())] == []
    assert traces(caplog.text.encode()) == []
    source = pydicom.dcmread(files[0])
    for path in tmp_path.glob("*.dcm"):
        back = pydicom.dcmread(path)
        for keyword in ("PatientName", "PatientID", "ReferringPhysicianName", "StudyDescription"):
            assert back[keyword].value == source[keyword].value, (path, keyword)
        assert back.SpecificCharacterSet == source.SpecificCharacterSet


def test_what_nobody_foresaw_is_kept_without_its_text(forms: Path, tmp_path: Path) -> None:
    """A library's error may quote a header: the journal records only the type and place of the error."""
    from c3s3_seg.batch.records import may_be_quoted, trace_of
    from c3s3_seg.errors import as_c3s3_error

    def fail() -> None:
        raise ValueError(f"Invalid value {MARKER}")

    with pytest.raises(ValueError, match="Invalid") as error:
        fail()
    assert not may_be_quoted(forms / "one")
    assert not may_be_quoted(next((forms / "one").glob("*.dcm")))
    (tmp_path / "a.nii").write_bytes(b"")
    assert may_be_quoted(tmp_path / "a.nii")
    for quote in (True, False):
        kept = trace_of(error.value, quote=quote) + str(as_c3s3_error(error.value, quote=quote))
        assert "ValueError" in kept
        assert "in fail" in kept
        assert (MARKER in kept) == quote
