"""No name, id or date of a patient in anything that we write or say, but for SEG and RTSTRUCT by design."""

import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from dicom_files import edit, values
from pydicom.datadict import DicomDictionary
from pydicom.uid import generate_uid

from c3s3_seg.phantom import save, simulate

# Every attribute of the patient, the visit and the people around it, and every date and time.
WORDS = (
    "Patient", "Physician", "Operator", "Institution", "Accession", "StudyID", "Birth", "Visit", "Insurance",
)  # fmt: skip
SKIPPED = (
    "ImagePositionPatient", "ImageOrientationPatient", "PatientPosition", "PatientOrientation",
    "PatientFrameOfReferenceSource",
)  # fmt: skip
MARKER = "ZQXMARK"
DATE, TIME = "18991231", "235958.123"


def planted(data: pydicom.Dataset) -> None:
    """Markers in every such tag, of the kind that the tag takes."""
    count = 0
    for vr, _, _, _, keyword in DicomDictionary.values():
        wanted = any(word in keyword for word in WORDS) or vr in ("DA", "DT", "TM")
        if not wanted or keyword in SKIPPED or "Code" in keyword:
            continue
        value = {
            "PN": f"{MARKER}^{keyword[:20]}", "LO": f"{MARKER}{keyword[:40]}", "SH": f"{MARKER}{keyword[:8]}",
            "LT": MARKER, "ST": MARKER, "UT": MARKER, "UC": MARKER, "DA": DATE, "DT": DATE + "235958",
            "TM": TIME, "CS": MARKER, "AS": "119Y",
        }.get(vr)  # fmt: skip
        if value is not None:
            setattr(data, keyword, value)
            count += 1
    data.PatientName, data.PatientID = f"{MARKER}^NAME", f"{MARKER}ID"
    data.SeriesDescription = f"{MARKER} in free text"
    data.ImageComments = f"{MARKER} in free text"
    assert count > 150


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A phantom with markers; one with a gap, one cut off, one of two patients, two series in one folder."""
    folder = tmp_path_factory.mktemp("scans")
    for seed, name in enumerate(("good", "gap", "cut", "mixed", "two"), 31_000):
        path, _ = save(simulate(seed), folder, seed=seed, file_format="dicom")
        for file in path.iterdir():
            edit(file, planted)
        path.rename(folder / name)
    import shutil

    shutil.rmtree(folder / "truth")
    files = {name: sorted((folder / name).iterdir()) for name in ("gap", "cut", "mixed", "two")}
    files["gap"][9].unlink()
    files["cut"][9].write_bytes(files["cut"][9].read_bytes()[:-99])
    edit(files["mixed"][9], values(PatientName=f"{MARKER}^OTHER", PatientID=f"{MARKER}2"))
    for n, file in enumerate(files["two"]):
        edit(file, values(SeriesInstanceUID=f"1.2.3.{n % 2}", SOPInstanceUID=generate_uid()))
    return folder


def run(*words: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "c3s3_seg", *map(str, words)], capture_output=True, check=False
    )


def found(*contents: bytes) -> list[bytes]:
    marks = (MARKER.encode(), DATE.encode(), TIME.encode())
    return [mark for mark in marks for content in contents if mark in content]


def test_nothing_we_write_or_say_names_a_patient(scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    answer = run(
        "predict",
        scans,
        "-o",
        out,
        "--model",
        "phantom",
        "--picture",
        "--fix",
        "gaps",
        "--probabilities",
        "--html",
    )
    assert answer.returncode == 1  # three of the five are refused, and their reasons are in the output
    assert b"of two patients" in b" ".join(answer.stdout.split())  # lines break where the path is long
    assert found(answer.stdout, answer.stderr) == []
    files = [path for path in out.rglob("*") if path.is_file()]
    suffixes = {".gz", ".json", ".csv", ".png", ".html", ".sqlite", ".jsonl"}
    assert {path.suffix for path in files} == suffixes
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".gz":
            import gzip

            content = gzip.decompress(content)
        assert found(content, str(path.relative_to(out)).encode()) == [], path
    for name in ("cut", "mixed", "two"):
        alone = run("predict", scans / name, "-o", tmp_path / "o", "--model", "phantom")
        assert alone.returncode == 2
        assert found(alone.stderr, alone.stdout) == []


def test_the_markers_would_be_found(scans: Path, tmp_path: Path) -> None:
    """DICOM SEG carries the patient module by design, and so shows that the search can find something."""
    answer = run("predict", scans / "good", "-o", tmp_path, "--model", "phantom", "--format", "dicom-seg")
    assert answer.returncode == 0, answer.stderr
    assert MARKER.encode() in found((tmp_path / "good.seg.dcm").read_bytes())
    others = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    assert found(*(path.read_bytes() for path in others), answer.stdout, answer.stderr) == []


def test_key_images_carry_the_patient_by_design_and_never_in_the_picture(scans: Path, tmp_path: Path) -> None:
    """The folder's name, which may be the patient's, is not burnt in; the header is the slices' own."""
    named = tmp_path / f"{MARKER}-folder"
    named.symlink_to(scans / "good")
    other = tmp_path / "plain"
    other.symlink_to(scans / "good")
    for folder in (named, other):
        answer = run("predict", folder, "-o", tmp_path / "out", "--model", "phantom", "--key-image")
        assert answer.returncode == 0, answer.stderr
    pictures = [
        pydicom.dcmread(tmp_path / "out" / f"{name}.key.dcm") for name in (f"{MARKER}-folder", "plain")
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
        assert sent.stdout == b"1 files were sent.\n"
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
