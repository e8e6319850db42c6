"""Tests of DICOMweb against servers that misbehave; test_pacs.py has the tests with a real server."""

import os
import resource
import subprocess
from pathlib import Path
from typing import Any

import pydicom
import pytest
from helpers.command import run
from helpers.dicomweb_server import MARK, SERIES, STUDY, Behaviour, found, instance, serving
from helpers.service import counting_pacs

from c3s3_seg.errors import C3S3Error, InputError, RefusedError
from c3s3_seg.io.pacs import connection_limits
from c3s3_seg.io.pacs.association import Caller
from c3s3_seg.io.pacs.client import DimseServer
from c3s3_seg.io.pacs.connect import server_of, warning
from c3s3_seg.io.pacs.outbox import DAMAGED, collect
from c3s3_seg.io.pacs.query import FetchLimits, Wanted
from c3s3_seg.io.pacs.server import fetch_study
from c3s3_seg.io.pacs.tls import Tls
from c3s3_seg.io.pacs.web_address import PASSWORD, TOKEN, USER, Credentials, WebAddress

pytest.importorskip("dicomweb_client")
pytest.importorskip("pynetdicom")

SECRET = "s3cret-t0ken"


def fetched(how: Behaviour, out: Path, limits: FetchLimits | None = None, **wanted: str) -> list[Path]:
    """Fetch the study from a server with the behaviour `how`."""
    with serving(how) as address:
        server = server_of(address, Caller(timeout_s=5))
        return fetch_study(server, out, Wanted.parse(STUDY, **wanted), limits)


def test_a_study_comes_whole(tmp_path: Path) -> None:
    """Data sets are stored unchanged; preamble and header are written anew, whatever the server sent."""
    parts = [instance(n) for n in (1, 2, 3)]
    how = Behaviour([found(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=3)], parts=parts)
    files = fetched(how, tmp_path / "out", accession="A77", patient="P")
    assert [str(path.relative_to(tmp_path / "out")) for path in files] == [
        f"{SERIES}/{SERIES}.{n}.dcm" for n in (1, 2, 3)
    ]
    for path, part in zip(files, parts, strict=True):
        content = path.read_bytes()
        assert content[:128] == bytes(128)
        assert b"SERVER" not in content
        length = int.from_bytes(part[140:144], "little")
        assert content.endswith(part[144 + length :])
        assert pydicom.dcmread(path).file_meta.MediaStorageSOPInstanceUID == path.stem
    asked = [(kind, path.partition("?")[0]) for kind, path, _, _ in how.requests]
    assert asked == [("GET", "/dicom-web/studies"), ("GET", f"/dicom-web/studies/{STUDY}")]
    heads = [head for _, _, head, _ in how.requests]
    assert heads[1]["Accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert all(head["Accept-Encoding"] == "identity" and ":" in head["Host"] for head in heads)
    assert not any("Authorization" in head for head in heads)


SEARCHES = {
    "no JSON": (b"<html>", "answered the search with what cannot be read"),
    "no list of items": ([1, 2], "answered the search with what cannot be read"),
    "nested too deep": (b"[" * 100_000, "answered the search with what cannot be read"),
    "too long": (b"[" + b" " * (17 << 20), "more than 16,777,216 bytes"),
    "too many": ([found(StudyInstanceUID=f"1.{n}") for n in range(102)], "more than 100 studies"),
    "nothing": ([], r"has no study 1\.2\.3\."),
    "another study": ([found(StudyInstanceUID="1.2.4")], "answered with another study"),
    "another patient": ([found(StudyInstanceUID=STUDY, PatientID="Q")], "another patient"),
}


@pytest.mark.parametrize("fault", SEARCHES)
def test_answers_to_a_search_are_checked(tmp_path: Path, fault: str) -> None:
    answer, words = SEARCHES[fault]
    with pytest.raises(C3S3Error, match=words):
        fetched(Behaviour(answer, parts=[instance(1)]), tmp_path / "out", patient="P")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"AccessionNumber": "A77", "PatientID": "P"}, "without a valid study UID"),
        ({"AccessionNumber": "A78", "PatientID": "P", "StudyInstanceUID": "1.2"}, "another AccessionNumber"),
        ({"AccessionNumber": "A77", "PatientID": "Q", "StudyInstanceUID": "1.2"}, "another PatientID"),
        ({"AccessionNumber": "A77", "PatientID": "P", "StudyInstanceUID": "1.2"}, None),
    ],
)
def test_what_a_search_finds_is_compared(answer: dict[str, str], words: str | None) -> None:
    with serving(Behaviour([found(**answer)])) as address:
        server = server_of(address)
        if words is None:
            assert server.find_studies("A77", "P") == ["1.2"]
            return
        with pytest.raises(InputError, match=words):
            server.find_studies("A77", "P")


def test_a_server_that_knows_no_study_or_no_series(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"has no series 1\.9 in the study {STUDY}\."):
        fetched(Behaviour(series=[]), tmp_path / "out", series="1.9")
    with pytest.raises(InputError, match=rf"has no study {STUDY}\."):
        fetched(Behaviour([], series=[]), tmp_path / "out", series="1.9")
    with serving(Behaviour([])) as address:
        answer = run("fetch", address, "-o", tmp_path / "out", "--accession", "A77")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "has no study of this accession number" in answer.stderr
    assert not (tmp_path / "out").exists()


def renamed() -> bytes:
    """Return a file whose header names another instance than its data set."""
    part = instance(1)
    return part[:144] + part[144:].replace(f"{SERIES}.1".encode(), f"{SERIES}.2".encode(), 1)


TRANSFERS: dict[str, tuple[dict[str, Any], str]] = {
    "another study": ({"parts": [instance(1), instance(2, StudyInstanceUID="1.9")]}, "of another study"),
    "another series": ({"parts": [instance(1, SeriesInstanceUID="1.9")]}, "of another series"),
    "another patient": ({"parts": [instance(1, PatientID="Q")]}, "of another patient"),
    "another order": ({"parts": [instance(1, AccessionNumber="A78")]}, "another accession number"),
    "no series": ({"parts": [instance(1, SeriesInstanceUID="")]}, "without a valid series UID"),
    "another header": ({"parts": [renamed()]}, "not the one that its message names"),
    "two of one": ({"parts": [instance(1), instance(1, Rows=2)]}, "two different files of one SOP"),
    "no DICOM": ({"parts": [b"x" * 999]}, "no DICOM file"),
    "a cut header": ({"parts": [instance(1)[:150]]}, "a header of a wrong length"),
    "an endless header": ({"parts": [instance(1)[:140] + b"\xff" * 4]}, "a header of a wrong length"),
    "fewer": ({"parts": [instance(1)]}, "has 2 files of this study and sent 1"),
    "cut off": ({"parts": [instance(1), instance(2)], "ending": b""}, "broke off after 2 files"),
    "cut in a part": ({"parts": [instance(1), instance(2)[:-9]], "ending": b""}, "broke off after|cannot be"),
    "no parts": ({"media": "text/html", "ending": b"<html>"}, "sent no files, but something else"),
    "no mark": ({"media": "multipart/related", "ending": b"x"}, "sent no files, but something else"),
    "a mark with quotes": (
        {
            "media": r'multipart/related; boundary="a\"b"',
            "parts": [instance(1) + b'\r\n--a"b\r\n\r\n' + instance(2)],
            "ending": b'\r\n--a"b--',
        },
        "sent no files, but something else",
    ),
    "a part of it": ({"code": 206}, "sent a part of what was asked for"),
    "packed": ({"headers": {"Content-Encoding": "gzip"}}, "sent a packed answer"),
    "a refusal": ({"code": 403}, r"refused the search \(403 Forbidden\)\. Check C3S3_SEG_TOKEN"),
    "no such place": ({"code": 404}, r"\(404 Not Found\)\. Check the path"),
    "a code of its own": ({"code": 599}, r"refused the search \(599\)"),
}


@pytest.mark.parametrize("fault", TRANSFERS)
def test_what_comes_is_checked(tmp_path: Path, fault: str) -> None:
    """If one file of a study, or the answer around it, is faulty, nothing of the study is kept."""
    how, words = TRANSFERS[fault]
    search = [found(StudyInstanceUID=STUDY, NumberOfStudyRelatedInstances=2)]
    series = [found(SeriesInstanceUID=SERIES, NumberOfSeriesRelatedInstances=2)]
    wanted = {} if "search" in words else {"series": SERIES}
    with pytest.raises(C3S3Error, match=words):
        fetched(Behaviour(search, series, **how), tmp_path / "out", accession="A77", patient="P", **wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("series", [None, SERIES])
def test_a_study_of_no_files_is_not_fetched(tmp_path: Path, series: str | None) -> None:
    """The server does not state the number of files and sends a complete answer without any."""
    words = [] if series is None else ["--series", series]
    with serving(Behaviour()) as address:
        answer = run("fetch", address, "-o", tmp_path / "out", "--study", STUDY, *words)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == f"error: {address} sent no files. Nothing was kept: fetch it again.\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("told", ["1", "??1", "Æ\x821"])
def test_a_server_that_rewrites_what_is_not_ascii_is_understood(tmp_path: Path, told: str) -> None:
    """Orthanc drops the characters that Latin-1 lacks; another patient is still recognised as another."""
    part = instance(1, SpecificCharacterSet="ISO_IR 192", PatientID="患者1")
    search = [found(StudyInstanceUID=STUDY, PatientID=told)]
    assert len(fetched(Behaviour(search, parts=[part]), tmp_path / "out")) == 1
    search = [found(StudyInstanceUID=STUDY, PatientID="2")]
    with pytest.raises(RefusedError, match="of another patient"):
        fetched(Behaviour(search, parts=[part]), tmp_path / "other")
    search = [found(StudyInstanceUID=STUDY, PatientID="1")]
    with pytest.raises(RefusedError, match="of another patient"):
        fetched(Behaviour(search, parts=[part]), tmp_path / "asked", patient="1")


def test_what_unpacks_without_limit_is_not_taken(tmp_path: Path) -> None:
    import zlib

    data = instance(1).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    length = int.from_bytes(data[140:144], "little") + 2
    start = data.index(b"\x02\x00\x10\x00UI") + 6
    data = data[:140] + length.to_bytes(4, "little") + data[144:start] + b"\x16\x00" + data[start + 2 :]
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = data[: 144 + length] + packer.compress(bytes(50 << 20)) + packer.flush()
    with pytest.raises(RefusedError, match="transfer syntax that is not taken"):
        fetched(Behaviour(parts=[bomb]), tmp_path / "out")


def test_no_redirect_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target of the redirect gets no request and no token."""
    monkeypatch.setenv(TOKEN, SECRET)
    elsewhere = Behaviour()
    for code in (301, 302, 303, 307, 308):
        with serving(elsewhere) as target:
            how = Behaviour(code=code, headers={"Location": f"{target}/studies?x={SECRET}"})
            with pytest.raises(RefusedError, match=rf"sends us elsewhere \({code}\)") as error:
                fetched(how, tmp_path / "out")
            assert SECRET not in str(error.value)
            (tmp_path / "a.dcm").write_bytes(instance(1))
            with serving(how) as address, pytest.raises(RefusedError, match="sends us elsewhere"):
                list(server_of(address).store(collect([tmp_path / "a.dcm"]).files))
    assert elsewhere.requests == []
    assert {head["Authorization"] for _, _, head, _ in how.requests} == {f"Bearer {SECRET}"}


def test_a_transfer_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [instance(n) for n in range(8)]
    for limits, words in {
        FetchLimits(files=7): r"more than 7 files came.*--max-files",
        FetchLimits(size_bytes=2000): r"more than 2,000 bytes came.*--max-size",
    }.items():
        with pytest.raises(RefusedError, match=words):
            fetched(Behaviour(parts=parts), tmp_path / "out", limits)
    head = f"\r\n--{MARK}\r\n\r\n".encode()
    for endless in (b"x" * 65536, head + instance(1, PixelData=bytes(65536)), head):
        with pytest.raises(C3S3Error, match=r"bytes came.*--max-size|no DICOM"):
            fetched(Behaviour(endless=endless), tmp_path / "out", FetchLimits(size_bytes=1 << 17))
    monkeypatch.setattr(connection_limits, "FILE_BYTES", 1 << 20)
    with pytest.raises(RefusedError, match="a file of more than 1,048,576 bytes came"):
        fetched(Behaviour(endless=b"x" * 65536), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("padding", "length", "words"),
    [
        (0, 0x7FFFFFFF, "a header of a wrong length"),
        (1 << 17, 1 << 17, "a header of a wrong length"),
        (0, None, r"not taken \(deflated\)"),
    ],
)
def test_a_header_whose_length_lies_does_not_hide_deflated_data(
    tmp_path: Path, padding: int, length: int | None, words: str
) -> None:
    """All of the part was taken for the header, and unpacked before its transfer syntax was looked at."""
    part = bytearray(instance(1)).replace(b"\x14\x001.2.840.10008.1.2.1\0", b"\x16\x001.2.840.10008.1.2.1.99")
    part += bytes(padding)
    part[140:144] = (len(part) - 144 if length is None else length).to_bytes(4, "little")
    with pytest.raises(RefusedError, match=words):
        fetched(Behaviour(parts=[bytes(part)]), tmp_path / "out")


def test_a_line_that_never_ends_is_not_kept(tmp_path: Path) -> None:
    """Between and after the pieces of an answer the libraries read lines, whose length is limited."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for before_line in (b"", b"0\r\n", b"2\r\n[]\r\n0\r\n"):  # the last two: in the trailer after the body
        with pytest.raises(C3S3Error, match="broke the connection"):
            fetched(
                Behaviour(line=b"0" * 65536, before_line=before_line),
                tmp_path / "out",
                FetchLimits(seconds_s=5),
            )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used < 100 << 10


@pytest.mark.slow
def test_a_server_that_drips_is_given_up(tmp_path: Path) -> None:
    """A server that sends a byte now and then never exceeds a time limit between two bytes."""
    with pytest.raises(RefusedError, match=r"took more than 1 s.*--max-time"):
        fetched(Behaviour(drip_s=0.1), tmp_path / "out", FetchLimits(seconds_s=1))
    with serving(Behaviour(drip_s=0.1)) as address:
        server = server_of(address, Caller(timeout_s=0.3))
        with pytest.raises(InputError, match="does not come to an end with its answer"):
            server.find_studies("A77")
    with serving(Behaviour(drip_s=5)) as address:
        server = server_of(address, Caller(timeout_s=0.3))
        with pytest.raises(InputError, match="did not answer the search in time"):
            server.find_studies("A77")
    with pytest.raises(InputError, match="cannot be reached"):
        server.find_studies("A77")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_secrets_are_of_the_environment_and_stay_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Secrets appear in no message, log, file or name; other variables (proxies, netrc) are not used."""
    caplog.set_level(0)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other")
    for name in ("NETRC", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    search = [found(StudyInstanceUID=STUDY, AccessionNumber="A77")]
    how, said = Behaviour(search, parts=[instance(1)]), []
    for given, expected in (
        ({}, None),
        ({TOKEN: SECRET}, f"Bearer {SECRET}"),
        ({USER: "us", PASSWORD: SECRET}, "Basic dXM6czNjcmV0LXQwa2Vu"),
    ):
        how.requests.clear()
        with serving(how) as address:
            answer = run("fetch", address, "-o", tmp_path / "out", "--accession", "A77", **given)
        assert answer.returncode == 0, answer.stderr
        assert {head.get("Authorization") for _, _, head, _ in how.requests} == {expected}
        said += [answer.stdout, answer.stderr]
        for code in (401, 302, 500):
            with serving(Behaviour(code=code)) as address:
                answer = run("fetch", address, "-o", tmp_path / "no", "--accession", "A77", **given)
            assert (answer.returncode in (1, 2), answer.stderr.count("\n")) == (True, 1), answer.stderr
            said += [answer.stdout, answer.stderr]
    assert SECRET not in "".join(said) + caplog.text
    assert not any(SECRET.encode() in path.read_bytes() for path in (tmp_path / "out").rglob("*.dcm"))
    assert "A77" not in caplog.text
    assert SECRET not in repr(Credentials(SECRET)) + repr(Credentials("", "us", SECRET))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({TOKEN: SECRET, USER: "us", PASSWORD: "x"}, "wanted one of them"),
        ({USER: SECRET}, "or neither"),
        ({PASSWORD: SECRET}, "or neither"),
        ({TOKEN: f"Bearer {SECRET}"}, "characters that no token has"),
        ({TOKEN: f"{SECRET}\nX: y"}, "characters that no token has"),
    ],
)
def test_credentials_that_cannot_be_sent(given: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        Credentials.from_environment(given)
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"https://us:{SECRET}@host/x", f"Set {USER} and {PASSWORD}, or {TOKEN}"),
        (f"HTTPS://{SECRET}@host/x", f"or {TOKEN}"),
        (f"us:{SECRET}@host/x", "wanted TITLE@host:port, or https://host/path"),
        ("https://", "wanted https://host/path"),
        ("https://host:0/x", "wanted https://host/path"),
        ("https://host:99999/x", "wanted https://host/path"),
        (f"https://host/x?token={SECRET}", "wanted https://host/path"),
        ("https://host/x#y", "wanted https://host/path"),
        ("https://ho st/x", "wanted https://host/path"),
        ("https://host\n/x", "wanted https://host/path"),
        ("http://pacs.example/x", "Give https://, or allow it with --allow-http"),
        ("http://127.0.0.1.example/x", "is not encrypted"),
        ("ftp://host/x", "wanted TITLE@host:port, or https://host/path"),
    ],
)
def test_addresses_are_checked(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        server_of(text)
    assert SECRET not in str(error.value)


def test_addresses_are_taken() -> None:
    assert str(WebAddress.parse("https://pacs.example:8443/dicom-web/")) == (
        "https://pacs.example:8443/dicom-web"
    )
    assert str(WebAddress.parse("http://[::1]:80")) == "http://[::1]:80"
    assert WebAddress.parse("http://localhost/x").is_local
    plain = server_of("http://pacs.example/x", allow_http=True)
    assert "without encryption" in warning(plain)
    assert warning(server_of("https://pacs.example/x")) == warning(server_of("http://127.0.0.1/x")) == ""
    for text, how, words in (
        ("A@host:104", {"allow_http": True}, "--allow-http is for"),
        ("http://127.0.0.1/x", {"caller": Caller(tls=Tls())}, "has no TLS"),
    ):
        with pytest.raises(InputError, match=words):
            server_of(text, **how)  # type: ignore[arg-type]
    answer = run("fetch", "https://127.0.0.1:9/x", "-o", "out", "--study", "1.2", "--move", "US")
    assert (answer.returncode, "--move is for a server" in answer.stderr) == (2, True), answer.stderr


@pytest.mark.slow
def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only --trust decides on the server's certificate, not the environment; --certificate shows our own."""
    from helpers.certificates import certificates

    certificates(tmp_path, "server", "us", "other")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "server.pem"))
    monkeypatch.setenv("CURL_CA_BUNDLE", str(tmp_path / "server.pem"))
    how = Behaviour(parts=[instance(1)])
    with serving(how, tmp_path / "server.both") as address:
        words = ["fetch", address, "-o", tmp_path / "out", "--study", STUDY]
        for trust in ([], ["--trust", tmp_path / "other.pem"]):
            answer = run(*words, *trust, **{TOKEN: SECRET})
            assert answer.returncode == 2
            assert "is not trusted: " in answer.stderr, answer.stderr
            assert answer.stderr.count("\n") == 1
        assert how.requests == []
        assert run(*words, "--trust", tmp_path / "server.pem").returncode == 0
        assert len(how.requests) == 2
        plain = address.replace("https", "http")
        assert "broke the connection" in run("fetch", plain, *words[2:]).stderr
    with serving(Behaviour(drip_s=0.1), tmp_path / "server.both") as address:
        server = server_of(address, Caller(tls=Tls(tmp_path / "server.pem")))
        with pytest.raises(RefusedError, match="took more than 1 s"):
            fetch_study(server, tmp_path / "no", Wanted.parse(STUDY), FetchLimits(seconds_s=1))
    with serving(how, tmp_path / "server.both", tmp_path / "us.pem") as address:
        words = ["fetch", address, "-o", tmp_path / "out", "--study", STUDY]
        words += ["--trust", tmp_path / "server.pem", "--certificate"]
        assert run(*words, tmp_path / "us.both").returncode == 0
        assert run(*words, tmp_path / "other.both").returncode == 2
        assert "the certificates cannot be used" in run(*words, tmp_path / "us.pem").stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write two files of this package and, beside them, files that `send` passes over; return the folder."""
    folder = tmp_path / "results"
    (folder / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "a.dcm").write_bytes(instance(1, Manufacturer="c3s3-seg"))
    (folder / "deep" / "b.dcm").write_bytes(instance(2, Manufacturer="c3s3-seg"))
    (folder / "deep" / "scan.dcm").write_bytes(instance(3, Manufacturer="a maker of scanners"))
    (folder / "again.dcm").symlink_to(folder / "a.dcm")
    (folder / "damaged.dcm").write_bytes(instance(4)[:200])
    (folder / "summary.csv").write_text("case")
    (folder / ".hidden" / "c.dcm").write_bytes(instance(5, Manufacturer="c3s3-seg"))
    (tmp_path / "secret.dcm").write_bytes(instance(6, Manufacturer="c3s3-seg"))
    (folder / "out.dcm").symlink_to(tmp_path / "secret.dcm")
    (folder / "up").symlink_to(tmp_path)
    subprocess.run(["mkfifo", folder / "pipe"], check=True)
    return folder


def test_a_folder_is_looked_through(folder: Path) -> None:
    outbox = collect([folder])
    assert [file.path.name for file in outbox.files] == ["a.dcm", "b.dcm"]
    skipped = {reason: len(names) for reason, names in outbox.skipped.items()}
    assert skipped == {
        "hidden": 1,
        "a link that leads out of the folder": 2,
        "an instance that is sent already": 1,
        DAMAGED: 1,
        "no DICOM file": 2,
        "a DICOM object that c3s3-seg did not make (--all sends it too)": 1,
    }
    every = collect([folder], every=True)
    assert [file.path.name for file in every.files] == ["a.dcm", "b.dcm", "scan.dcm"]
    named = collect([folder / "deep" / "scan.dcm", folder / "out.dcm"])
    assert [file.path.name for file in named.files] == ["scan.dcm", "out.dcm"]
    with pytest.raises(InputError, match=r"summary\.csv: this is not a DICOM file"):
        collect([folder, folder / "summary.csv"])


def test_files_are_stored_one_by_one(folder: Path) -> None:
    """A refusal is reported for each file and the other files are stored; sending again does no harm."""
    refused = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [0x0110]}}]}}
    how = Behaviour(stored=refused, store_codes=[409, 409])
    with serving(how) as address:
        answer = run("send", address, folder)
        assert answer.returncode == 1
        assert answer.stdout == "Sent 0 files, failed 2; the same command sends them again.\n"
        assert answer.stderr.count("did not store the file (reason 0x0110)") == 2
        how.stored, how.store_codes = None, [200, 413]
        answer = run("send", address, folder)
        assert (answer.returncode, answer.stdout[:21]) == (1, "Sent 1 file, failed 1")
        assert "413" in answer.stderr
        answer = run("send", address, folder)
        assert (answer.returncode, answer.stdout) == (0, "Sent 2 files.\n")
        assert "2 not sent, no DICOM file: " in answer.stderr
        assert "summary.csv" not in answer.stderr  # without a terminal, file names are not shown
        how.stored = {"0008119A": refused["00081198"]}  # failures without an instance (PS3.3, C.34)
        answer = run("send", address, folder)
        assert (answer.returncode, answer.stderr.count("did not store the file (reason 0x0110)")) == (1, 2)
        how.stored = {"00081198": "x" * (17 << 20)}
        answer = run("send", address, folder)
        assert (answer.returncode, "more than 16,777,216 bytes" in answer.stderr) == (1, True), answer.stderr
        assert "00081198" not in answer.stderr
    posts = [body for kind, path, _, body in how.requests if (kind, path) == ("POST", "/dicom-web/studies")]
    assert len(posts) == 9
    sent = posts[-2].partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
    assert sent == (folder / "deep" / "b.dcm").read_bytes()


def test_a_file_is_stored_if_the_answer_names_it(tmp_path: Path) -> None:
    """A failure was taken for success if the header had a parameter, as was any answer of another kind."""
    (tmp_path / "a.dcm").write_bytes(instance(1))
    item = {"00081155": {"vr": "UI", "Value": [f"{SERIES}.1"]}}
    failed = {"00081198": {"vr": "SQ", "Value": [item | {"00081197": {"vr": "US", "Value": [0xA700]}}]}}
    there = {"00081198": {"vr": "SQ", "Value": [item | {"00081197": {"vr": "US", "Value": [0x0111]}}]}}
    other = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2.3.9"]}}]}}
    json_type, charset = "application/dicom+json", "Application/DICOM+JSON; charset=utf-8"
    answers = [
        (200, json_type, None, None),
        (200, charset, None, None),
        (409, charset, there, None),
        (202, json_type, failed, "reason 0xA700"),
        (202, charset, failed, "reason 0xA700"),
        (409, charset, failed, "reason 0xA700"),
        (409, charset, {}, "409 Conflict"),
        (200, json_type, other, "does not say that it has stored"),
        (200, json_type, b"", "does not say that it has stored"),
        (200, "", b"", "does not say that it has stored"),
        (200, "text/html; charset=utf-8", b"<html>Log in</html>", "does not say that it has stored"),
        (200, json_type, [], "with what cannot be read"),
    ]
    for code, media, stored, words in answers:
        how = Behaviour(code=code, stored_media=media, stored=stored)
        with serving(how) as address:
            (sent,) = server_of(address).store(collect([tmp_path / "a.dcm"]).files)
        assert (sent.error is None) == (words is None), (code, media, sent.error)
        assert (words or "") in str(sent.error or ""), (code, media)
        assert bool(sent.note) == (stored is there)


def test_a_server_that_refuses_us_is_asked_once(folder: Path) -> None:
    for code, words in {401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}.items():
        how = Behaviour(code=code)
        with serving(how) as address:
            answer = run("send", address, folder)
        assert (answer.returncode, len(how.requests)) == (2, 1)
        assert words in answer.stderr
    answer = run("send", address, folder)
    assert (answer.returncode, "cannot be reached" in answer.stderr) == (2, True), answer.stderr
    how = Behaviour(store_codes=[200, 401])
    (folder / "later.dcm").write_bytes(instance(9, Manufacturer="c3s3-seg"))
    with serving(how) as address:
        answer = run("send", address, *(folder / name for name in ("a.dcm", "later.dcm", "deep/b.dcm")))
    assert (answer.returncode, len(how.requests)) == (1, 2)  # the third is not tried, but reported
    for name in ("later.dcm", "b.dcm"):
        assert sum(f"{name}: " in line and "401" in line for line in answer.stderr.splitlines()) == 1
    (folder / "empty").mkdir()
    answer = run("send", address, folder / "empty")
    assert (answer.returncode, answer.stderr) == (2, "error: found nothing to send here.\n")


def test_a_second_file_cannot_hide_in_one(tmp_path: Path) -> None:
    """The library uses one fixed boundary between parts, which anybody can know."""
    how = Behaviour()
    with serving(how) as address:
        (tmp_path / "a.dcm").write_bytes(instance(1))
        assert [sent.error for sent in server_of(address).store(collect([tmp_path / "a.dcm"]).files)] == [
            None
        ]
        mark = how.requests[0][2]["Content-Type"].partition("boundary=")[2].strip('"')
        hidden = f"\r\n--{mark}\r\nContent-Type: application/dicom\r\n\r\n".encode() + instance(2)
        data = pydicom.dcmread(tmp_path / "a.dcm")
        data.add_new(0x00091001, "OB", hidden + bytes(len(hidden) % 2))
        data.save_as(tmp_path / "b.dcm")
        (tmp_path / "c.dcm").write_bytes(instance(3))
        answer = run("send", address, tmp_path / "b.dcm", tmp_path / "c.dcm")
    assert (answer.returncode, answer.stdout[:12]) == (1, "Sent 1 file,"), answer.stderr
    assert "b.dcm: it holds the mark that separates files in a transfer" in answer.stderr
    assert len(how.requests) == 2


def test_a_file_that_changes_before_it_is_sent_is_not_sent(tmp_path: Path) -> None:
    """Only the file that was inspected is sent, never a replacement, and no pipe is waited for."""
    for number in range(4):
        (tmp_path / f"{number}.dcm").write_bytes(instance(number, Manufacturer="c3s3-seg"))
    box, how = collect([tmp_path]), Behaviour()
    (tmp_path / "0.dcm").write_bytes(instance(0, Manufacturer="c3s3-seg", PatientID="OTHER"))
    (tmp_path / "1.dcm").unlink()
    os.mkfifo(tmp_path / "1.dcm")
    (tmp_path / "2.dcm").unlink()
    with serving(how) as address:
        sent = list(server_of(address).store(box.files))
    assert ["changed, or removed" in str(one.error) for one in sent] == [True, True, True, False]
    assert sent[3].error is None
    assert len(how.requests) == 1
    with counting_pacs() as pacs:
        sent = list(DimseServer(pacs.node).store(box.files))
    assert ["changed, or removed" in str(one.error) for one in sent] == [True, True, True, False]
    assert set(pacs.kept) == {f"{SERIES}.3"}
