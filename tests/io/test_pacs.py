"""Tests with real servers on loopback, dcmqrscp and Orthanc: studies are sent, found, fetched and refused.

Orthanc is accessed by DIMSE and, with its plug-in, by DICOMweb.

`.ci/run` installs both; where they are missing these tests are skipped.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import pydicom
import pytest
from helpers.certificates import certificates
from helpers.command import run
from helpers.dicom_files import edit, values
from helpers.ports import free_port
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from c3s3_seg.errors import InputError, RefusedError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import find_cases, load
from c3s3_seg.io.cases import walk_files
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.codes import Segment, Uid
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.secondary_capture import write_capture
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.pacs import connection_limits
from c3s3_seg.io.pacs.association import PLAIN, STORED, Caller, association
from c3s3_seg.io.pacs.client import DimseServer, send
from c3s3_seg.io.pacs.inbox import Inbox
from c3s3_seg.io.pacs.listener import listening
from c3s3_seg.io.pacs.nodes import AssociationListener, Node
from c3s3_seg.io.pacs.query import FetchLimits, Wanted
from c3s3_seg.io.pacs.search import FIND, GET, MOVE, answers, query
from c3s3_seg.io.pacs.server import fetch_study
from c3s3_seg.io.pacs.tls import Tls

pytestmark = pytest.mark.slow

pytest.importorskip("pynetdicom")
MR = "1.2.840.10008.5.1.4.1.1.4"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")  # the path on Debian


def find_studies(node: Node, accession: str, *, patient: str | None = None) -> list[str]:
    return DimseServer(node, Caller()).find_studies(accession, patient)


def fetch(
    node: Node,
    out: Path,
    *,
    caller: Caller | None = None,
    listener: AssociationListener | None = None,
    limits: FetchLimits | None = None,
    **wanted: str,
) -> list[Path]:
    """Fetch a study from a server; `wanted` holds the arguments of `Wanted.parse`."""
    server = DimseServer(node, caller or Caller(), listener)
    return fetch_study(server, out, Wanted.parse(**wanted), limits)


def program(*names: str) -> str:
    # pynetdicom installs its own storescp, which does not support TLS, into the environment of the tests.
    ours = Path(sys.executable).parent
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != ours)
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        pytest.skip(f"{names[0]} is not installed")
    return found


@contextmanager
def running(command: list[str], node: Node, folder: Path) -> Iterator[Node]:
    """Run a server until the end of the block; it is stopped in any case."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        try:
            for _ in range(300):
                with socket.socket() as probe:
                    if probe.connect_ex((node.host, node.port)) == 0:
                        break
                time.sleep(0.1)
            yield node
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def listener() -> AssociationListener:
    return AssociationListener("MOVED", "127.0.0.1", free_port())


@pytest.fixture(scope="module")
def dcmqrscp(tmp_path_factory: pytest.TempPathFactory, listener: AssociationListener) -> Iterator[Node]:
    path, folder, port = program("dcmqrscp"), tmp_path_factory.mktemp("pacs"), free_port()
    (folder / "db").mkdir()
    (folder / "qr.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 8\n"
        f"HostTable BEGIN\nus = ({listener.title}, {listener.host}, {listener.port})\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nTESTPACS {folder / 'db'} RW (50, 1024mb) ANY\nAETable END\n"
    )
    with running([path, "-c", str(folder / "qr.cfg")], Node("TESTPACS", "127.0.0.1", port), folder) as node:
        yield node


@pytest.fixture(scope="module")
def http_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def orthanc(
    tmp_path_factory: pytest.TempPathFactory, listener: AssociationListener, http_port: int
) -> Iterator[Node]:
    path, folder, port = program("Orthanc", "orthanc"), tmp_path_factory.mktemp("orthanc"), free_port()
    us = {"AET": "C3S3SEG", "Host": "127.0.0.1", "Port": 1, "AllowGet": True}
    settings = {
        "DicomAet": "TESTPACS", "DicomPort": port, "RemoteAccessAllowed": False,
        "HttpServerEnabled": DICOMWEB.exists(), "HttpPort": http_port,
        "AuthenticationEnabled": True, "RegisteredUsers": {"us": "s3cret"},
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"),
        "Plugins": [str(DICOMWEB)] if DICOMWEB.exists() else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "DicomCheckCalledAet": True, "DicomAlwaysAllowGet": True, "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowMove": True, "DicomScpTimeout": 3,
        "DicomModalities": {
            "us": us,
            "moved": {"AET": listener.title, "Host": listener.host, "Port": listener.port},
        },
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with running([path, str(folder / "orthanc.json")], Node("TESTPACS", "127.0.0.1", port), folder) as node:
        yield node


@pytest.fixture
def web(orthanc: Node, http_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Set the credentials of the same Orthanc and return its DICOMweb address."""
    if not DICOMWEB.exists():
        pytest.skip("orthanc-dicomweb is not installed")
    monkeypatch.setenv("C3S3_SEG_USER", "us")
    monkeypatch.setenv("C3S3_SEG_PASSWORD", "s3cret")
    return f"http://127.0.0.1:{http_port}/dicom-web"


@pytest.fixture(params=["dcmqrscp", "orthanc"])
def server(request: pytest.FixtureRequest) -> Node:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def files(oblique: Volume, tmp_path: Path) -> list[Path]:
    made = save_series(oblique, tmp_path / "series", description="phantom", seed_uid="pacs")
    for path in made:
        edit(path, values(AccessionNumber="A77", StudyDate="20200101", StudyTime="101010", StudyID="1"))
    return made


def hashes(folder: Path) -> dict[str, int]:
    """Return the hash of the stored pixels of each instance in a folder."""
    return {
        str(data.SOPInstanceUID): hash(data.pixel_array.tobytes())
        for data in map(pydicom.dcmread, folder.rglob("*.dcm"))
    }


def test_a_study_goes_and_comes_back(
    server: Node, files: list[Path], oblique: Volume, listener: AssociationListener, tmp_path: Path
) -> None:
    assert send(server, files) == 12
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    assert find_studies(server, "A77") == [study]
    assert find_studies(server, "NONE") == []
    for name, how in {"got": None, "moved": listener}.items():
        back = fetch(server, tmp_path / name, study=study, listener=how)
        assert len(back) == 12
        assert hashes(tmp_path / name) == hashes(files[0].parent)
        assert np.array_equal(load(tmp_path / name).array, oblique.array)
        with pytest.raises(InputError, match=r"has no study 1\.2\.3\.4"):
            fetch(server, tmp_path / "none", study="1.2.3.4", listener=how)
        with pytest.raises(InputError, match=r"has no series 1\.2\.3\.4 in the study"):
            fetch(server, tmp_path / "none", study=study, series="1.2.3.4", listener=how)
        series = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
        again = fetch(server, tmp_path / name, study=study, series=series, accession="A77", listener=how)
        assert again == back
    assert not (tmp_path / "none").exists()
    answer = run("fetch", server, "-o", tmp_path / "cli", "--accession", "A77")
    assert answer.stdout == f"Received 12 files in {tmp_path / 'cli'}.\n", answer.stderr
    address = ["--move", listener.title, "--listen", f"{listener.host}:{listener.port}"]
    answer = run("fetch", server, "-o", tmp_path / "cli-moved", "--study", study, *address)
    assert answer.stdout == f"Received 12 files in {tmp_path / 'cli-moved'}.\n", answer.stderr


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless], ids=["JPEG 2000", "RLE"])
def test_compressed_files_come_back_compressed(
    orthanc: Node, oblique: Volume, tmp_path: Path, syntax: UID
) -> None:
    array = np.pad(oblique.array, ((0, 20), (0, 20), (0, 0)))
    grid = Geometry.build(array.shape, (1, 1, 2))
    files = save_series(grid.volume(array), tmp_path / "s", description="", seed_uid=str(syntax))
    for path in files:
        data = pydicom.dcmread(path)
        data.compress(syntax, generate_instance_uid=False)
        data.save_as(path)
    assert send(orthanc, files) == 12
    back = fetch(orthanc, tmp_path / "back", study=str(data.StudyInstanceUID))
    assert {pydicom.dcmread(path).file_meta.TransferSyntaxUID for path in back} == {syntax}
    assert np.array_equal(load(tmp_path / "back").array, array)


def test_what_we_make_is_taken(server: Node, files: list[Path], tmp_path: Path) -> None:
    scan = load(files[0].parent)
    mask = scan.geometry.volume((scan.array > 2000).astype(np.uint8), scan.source)
    segments = (Segment("organ", 1),)
    write_seg(mask, tmp_path / "a.seg.dcm", segments)
    write_rtstruct(mask, tmp_path / "a.rtstruct.dcm", segments)
    write_capture(np.zeros((9, 8, 3), np.uint8), scan.source, tmp_path / "a.sc.dcm")
    assert send(server, sorted(tmp_path.glob("*.dcm"))) == 3


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.dcm")}


def test_dicomweb_and_dimse_give_the_same_files(
    orthanc: Node, web: str, oblique: Volume, tmp_path: Path
) -> None:
    """Scan, compressed copy, SEG, RTSTRUCT and capture have equal bytes, whichever protocol fetches them."""
    files = save_series(oblique, tmp_path / "plain", description="", seed_uid="both")
    packed = save_series(oblique, tmp_path / "packed", description="", seed_uid="packed")
    study, scan_series = (
        str(pydicom.dcmread(files[0]).get(k)) for k in ("StudyInstanceUID", "SeriesInstanceUID")
    )
    for path in packed:
        data = pydicom.dcmread(path)
        data.StudyInstanceUID = study
        data.compress(RLELossless, generate_instance_uid=False)
        data.save_as(path)
    scan = load(files[0].parent)
    mask = scan.geometry.volume((scan.array > 2000).astype(np.uint8), scan.source)
    segments = (Segment("organ", 1),)
    (tmp_path / "made").mkdir()
    write_seg(mask, tmp_path / "made" / "a.seg.dcm", segments)
    write_rtstruct(mask, tmp_path / "made" / "a.rtstruct.dcm", segments)
    write_capture(np.zeros((9, 8, 3), np.uint8), scan.source, tmp_path / "made" / "a.sc.dcm")
    assert send(orthanc, files) == 12
    for _ in range(2):  # the second time is a retry
        answer = run("send", web, tmp_path / "packed", "--all")
        assert (answer.returncode, answer.stdout) == (0, "Sent 12 files.\n"), answer.stderr
        answer = run("send", web, tmp_path / "made")
        assert (answer.returncode, answer.stdout) == (0, "Sent 3 files.\n"), answer.stderr
    for name, server in {"dimse": str(orthanc), "web": web}.items():
        answer = run("fetch", server, "-o", tmp_path / name, "--study", study)
        assert answer.stdout == f"Received 27 files in {tmp_path / name}.\n", answer.stderr
        answer = run("fetch", server, "-o", tmp_path / name, "--study", study)  # nothing is new
        assert answer.returncode == 0, answer.stderr
        for words in (["--study", "1.2.3.4"], ["--study", "1.2.3.4", "--series", "1.2"]):
            answer = run("fetch", server, "-o", tmp_path / "none", *words)
            assert answer.stderr == f"error: {server} has no study 1.2.3.4. Check the UID (--study).\n"
            assert answer.returncode == 2
        answer = run("fetch", server, "-o", tmp_path / "none", "--study", study, "--series", "1.2")
        assert f"has no series 1.2 in the study {study}" in answer.stderr
    assert contents(tmp_path / "dimse") == contents(tmp_path / "web")
    scan_series = str(pydicom.dcmread(files[0]).SeriesInstanceUID)
    assert np.array_equal(load(tmp_path / "web" / scan_series).array, oblique.array)
    assert not (tmp_path / "none").exists()
    answer = run("fetch", web, "-o", tmp_path / "none", "--study", study, C3S3_SEG_PASSWORD="wrong")
    assert (answer.returncode, "401 Unauthorized" in answer.stderr) == (2, True), answer.stderr


def test_refusals_are_plain(server: Node, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"refuses us \('C3S3SEG'\): .*[Cc]alled AE title"):
        send(Node("OTHER", server.host, server.port), files[:1])
    with pytest.raises(InputError, match=r"X@127\.0\.0\.1:\d+ cannot be reached"):
        send(Node("X", "127.0.0.1", free_port()), files[:1])
    with pytest.raises(InputError, match="cannot be reached with TLS"):
        send(server, files[:1], Caller(timeout_s=5, tls=Tls()))
    with pytest.raises(InputError, match="the certificates cannot be used"):
        send(server, files[:1], Caller(tls=Tls(files[0])))
    (tmp_path / "text.txt").write_text("x" * 300)
    with pytest.raises(InputError, match=r"text\.txt: this is not a DICOM file"):
        send(server, [tmp_path / "text.txt"])


def test_a_server_that_says_nothing_is_given_up(files: list[Path]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(InputError, match="cannot be reached"):
            send(Node("X", "127.0.0.1", silent.getsockname()[1]), files[:1], Caller(timeout_s=1))


def test_tls(dcmqrscp: Node, files: list[Path], oblique: Volume, tmp_path: Path) -> None:
    """dcmtk's storescp with its own certificate gets the files; if it is not trusted, none are sent."""
    storescp, port = program("storescp"), free_port()
    certificates(tmp_path, "server", "other")
    (tmp_path / "in").mkdir()
    command = [storescp, "+tls", "server.key", "server.pem", "-ic", "-od", "in", str(port)]
    with running(command, Node("ANY", "127.0.0.1", port), tmp_path) as node:
        assert send(node, files, Caller(tls=Tls(tmp_path / "server.pem"))) == 12
        with pytest.raises(InputError, match="cannot be reached with TLS"):
            send(node, files, Caller(timeout_s=5, tls=Tls(tmp_path / "other.pem")))
        with pytest.raises(InputError, match="cannot be reached without TLS"):
            send(node, files, Caller(timeout_s=5))
    assert len(list((tmp_path / "in").iterdir())) == 12


def test_nobody_listens_but_on_loopback_unless_told(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert AssociationListener.parse("US", None) == AssociationListener("US", "127.0.0.1", 11112)
    assert AssociationListener.parse("US", None).is_local
    assert not AssociationListener.parse("US", "0.0.0.0:11112").is_local
    assert not AssociationListener.parse("US", "pacs.example:11112").is_local
    with pytest.raises(InputError, match="wanted TITLE@host:port"):
        AssociationListener.parse("US", "no port")
    bound: list[tuple[str, int]] = []
    bind = socket.socket.bind
    monkeypatch.setattr(socket.socket, "bind", lambda self, place: bound.append(place) or bind(self, place))
    port = free_port()
    bound.clear()
    nobody = Node("X", "127.0.0.1", free_port())
    bound.clear()
    with pytest.raises(InputError, match="cannot be reached"):
        fetch(nobody, tmp_path, study="1.2")
    # Outgoing connections bind to any port (0) of no particular address.
    assert [place for place in bound if place[1] != 0] == []
    with pytest.raises(InputError, match="cannot be reached"):
        fetch(nobody, tmp_path, study="1.2", listener=AssociationListener("US", port=port))
    assert [place for place in bound if place[1] != 0] == [("127.0.0.1", port)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1"):
            fetch(
                nobody, tmp_path, study="1.2", listener=AssociationListener("US", port=taken.getsockname()[1])
            )


def test_strangers_are_not_listened_to(
    listener: AssociationListener, files: list[Path], tmp_path: Path
) -> None:
    """During a fetch a stranger sends, another study comes, or a UID that leads out of the folder."""
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    inbox = Inbox(tmp_path / "in", Wanted(Uid(study)), listening=True)
    here = Node(listener.title, listener.host, listener.port)
    with listening(listener, Node("PACS", "127.0.0.1", 1), inbox, Caller()):
        with socket.create_connection((here.host, here.port), 10) as peer:
            peer.sendall(bytes((1, 0)) + (400 << 20).to_bytes(4, "big"))
            assert peer.recv(1) == b""  # so much is not held, and is no error of this fetch
        for stranger in (Caller(), Caller("PACS2")):
            with pytest.raises(InputError, match="refuses us"):
                send(here, files[:1], stranger)
        with pytest.raises(InputError, match=r"refuses us .*[Cc]alled AE title"):
            send(Node("OTHER", here.host, here.port), files[:1], Caller("PACS"))
        edit(files[1], values(StudyInstanceUID="1.2.3"))
        with pytest.raises(InputError, match="status 0xC000"):
            send(here, files[1:2], Caller("PACS"))
        assert inbox.errors == []  # a study for somebody else is no error of this fetch
        assert send(here, files[:1], Caller("PACS")) == 1
        edit(files[2], values(SeriesInstanceUID=".."))
        with pytest.raises(InputError, match="status 0xC000"):
            send(here, files[2:3], Caller("PACS"))
    assert [str(path.relative_to(tmp_path / "in")) for path in inbox.files.values()] == [
        f"{pydicom.dcmread(files[0]).SeriesInstanceUID}/{pydicom.dcmread(files[0]).SOPInstanceUID}.dcm"
    ]
    assert "without a valid series UID" in str(inbox.errors[0])


def test_a_guessed_title_from_another_host_stores_nothing(
    listener: AssociationListener, files: list[Path], tmp_path: Path
) -> None:
    """The stranger is at 127.0.0.2 and may store only if --sender names this address."""
    import pynetdicom

    def store() -> object:
        stranger = pynetdicom.AE("PACS")
        data = pydicom.dcmread(files[0])
        stranger.add_requested_context(data.SOPClassUID, data.file_meta.TransferSyntaxUID)
        link = stranger.associate(
            listener.host, listener.port, ae_title=listener.title, bind_address=("127.0.0.2", 0)
        )
        if not link.is_established:
            return None
        status = link.send_c_store(data)
        link.release()
        return status.Status

    study = Uid(str(pydicom.dcmread(files[0]).StudyInstanceUID))
    for senders, answer in (((), None), (("127.0.0.2",), 0)):
        inbox = Inbox(tmp_path / "in", Wanted(study), listening=True)
        ear = AssociationListener(listener.title, listener.host, listener.port, senders)
        with listening(ear, Node("PACS", "127.0.0.1", 1), inbox, Caller()):
            assert store() == answer
        assert len(inbox.files) == (answer == 0)
    with pytest.raises(InputError, match="the host 'no such host' is not known"):
        fetch(
            Node("X", "127.0.0.1", 1),
            tmp_path / "out",
            study="1.2",
            listener=AssociationListener("US", senders=("no such host",)),
        )


@pytest.mark.parametrize("text", ["", "host:104", "A@host", "A@host:0", "A@host:99999", "A" * 17 + "@h:1"])
def test_servers_are_parsed(text: str) -> None:
    assert Node.parse("PACS@10.0.0.1:104") == Node("PACS", "10.0.0.1", 104)
    with pytest.raises(InputError, match="wanted TITLE@host:port"):
        Node.parse(text)


@pytest.mark.parametrize("title", ["", " ", "A" * 17, "A\\B", "A\nB", "\u00c4"])
def test_titles_are_checked(title: str) -> None:
    assert Caller("A B").title == "A B"
    with pytest.raises(InputError, match="AE title"):
        Caller(title)
    with pytest.raises(InputError, match="wanted TITLE@host:port"):
        AssociationListener.parse(title, "127.0.0.1:104")
    with pytest.raises(InputError, match="timeout"):
        Caller(timeout_s=float("nan"))


NO_KEYS = ["", " ", "*", "A*", "?77", "A\\B", "A\n", "\u00c477", '""', "7" * 65, "A\0"]


@pytest.mark.parametrize("key", NO_KEYS)
def test_keys_that_match_other_values_are_not_sent(key: str, tmp_path: Path) -> None:
    """The key is refused before a connection is tried, and the message does not repeat it."""
    nobody = Node("X", "127.0.0.1", 9)
    for ask in (
        lambda: find_studies(nobody, key),
        lambda: find_studies(nobody, "A77", patient=key),
        lambda: fetch(nobody, tmp_path / "out", study="1.2", accession=key),
        lambda: fetch(nobody, tmp_path / "out", study="1.2", patient=key),
    ):
        with pytest.raises(InputError, match="is empty, longer than 64") as error:
            ask()
        assert not key.strip() or key in "*?\\" or key not in str(error.value)
    with pytest.raises(InputError, match="cannot be reached"):
        find_studies(nobody, "A 7-7_7.7/7", patient="P^1")
    assert not (tmp_path / "out").exists()


NO_UIDS = [
    "",
    ".",
    "..",
    "1..2",
    ".1",
    "1.",
    "1.2/../3",
    "*",
    "1.*",
    "1.2\\1.3",
    "1.2\n",
    "1" * 65,
    "1,2",
    "\u0661.2",
]


@pytest.mark.parametrize("uid", NO_UIDS)
def test_uids_that_are_none_are_not_sent(uid: str, tmp_path: Path) -> None:
    nobody = Node("X", "127.0.0.1", 9)
    with pytest.raises(ValueError, match="numbers with dots"):
        Uid(uid)
    assert not Uid.is_valid(uid)
    with pytest.raises(InputError, match="the study UID is no UID"):
        fetch(nobody, tmp_path / "out", study=uid)
    with pytest.raises(InputError, match="the series UID is no UID"):
        fetch(nobody, tmp_path / "out", study="1.2", series=uid)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.2", "2.25." + "9" * 59, "1.02.3"])
def test_uids_are_taken(uid: str) -> None:
    assert Uid(uid) == uid
    assert Uid.is_valid(uid)


@contextmanager
def faulty(
    files: Iterator[pydicom.Dataset] | list[pydicom.Dataset],
    found: list[pydicom.Dataset] | None = None,
    **how: object,
) -> Iterator[Node]:
    """Run a server of these tests that misbehaves: it finds `found` and sends `files`.

    how: `count`, the stated number of sub-operations; `searches`, False for no C-FIND; `to` and `tls`, for
    C-MOVE; `wait_s`, the wait before each file; `breaks`, the number of files before the connection breaks.
    """
    import pynetdicom
    from pynetdicom import evt
    from pynetdicom.transport import ThreadedAssociationServer

    server = pynetdicom.AE("PACS")
    for kind, syntaxes in STORED.items():
        server.add_supported_context(kind, syntaxes, scu_role=True, scp_role=True)
        server.add_requested_context(kind, syntaxes[:1])
    server.requested_contexts = server.requested_contexts[:20]
    for service in (FIND, GET, MOVE) if how.get("searches", True) else (GET, MOVE):
        server.add_supported_context(service)

    def find(event: object) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        yield from ((0xFF00, item) for item in found or [])

    def get(event: "evt.Event") -> Iterator[object]:
        if isinstance(event.request, pynetdicom.dimse_primitives.C_MOVE):
            yield (*how["to"], {"ae_title": "MOVED", **how.get("tls", {})})  # type: ignore[misc, dict-item]
        sent = list(files)
        yield how.get("count", len(sent))
        for number, data in enumerate(sent):
            if number == how.get("breaks"):
                event.assoc.abort()
                return
            time.sleep(float(how.get("wait_s", 0)))  # type: ignore[arg-type]
            yield 0xFF00, data

    def at_once(event: "evt.Event") -> None:
        connection = event.assoc.dul.socket.socket
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as others do: saves 40 ms a file

    handlers = [
        (evt.EVT_CONN_OPEN, at_once),
        (evt.EVT_C_FIND, find),
        (evt.EVT_C_GET, get),
        (evt.EVT_C_MOVE, get),
    ]
    # Same as start_server(block=False), but the server checks every 20 ms, not every 0.5 s, whether to stop.
    here = server.make_server(("127.0.0.1", 0), evt_handlers=handlers, server_class=ThreadedAssociationServer)
    server._servers.append(here)
    threading.Thread(target=here.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield Node("PACS", "127.0.0.1", here.server_address[1])
    finally:
        here.shutdown()


def answer_of(**values: object) -> pydicom.Dataset:
    data = pydicom.Dataset()
    for keyword, value in values.items():
        setattr(data, keyword, value)
    return data


@pytest.fixture
def slices(files: list[Path]) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in files]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"AccessionNumber": "A77"}, "without a valid study UID"),
        ({"AccessionNumber": "A77", "StudyInstanceUID": ""}, "without a valid study UID"),
        ({"AccessionNumber": "A77", "StudyInstanceUID": "1.2.3 "}, None),
        ({"AccessionNumber": "A78", "StudyInstanceUID": "1.2.3"}, "another AccessionNumber"),
        ({"StudyInstanceUID": "1.2.3"}, "another AccessionNumber"),
        ({"AccessionNumber": "A77", "StudyInstanceUID": "1.2.3", "PatientID": "Q"}, "another PatientID"),
    ],
)
def test_what_a_search_finds_is_compared(answer: dict[str, str], words: str | None, tmp_path: Path) -> None:
    answer = {"PatientID": "P"} | answer
    with faulty([], [answer_of(**answer)]) as node:
        if words is None:
            assert find_studies(node, "A77", patient="P") == ["1.2.3"]
            return
        with pytest.raises(InputError, match=words):
            find_studies(node, "A77", patient="P")
        said = run("fetch", node, "-o", tmp_path / "out", "--accession", "A77", "--patient", "P")
    assert (said.returncode, said.stderr.count("\n")) == (2, 1), said.stderr
    assert words in said.stderr
    assert not (tmp_path / "out").exists()


def test_hostile_study_uids_of_a_search(tmp_path: Path) -> None:
    """pydicom does not set such a UID silently, so it is inserted as it would be in the message."""
    for uid in ("..", "*", "1.2\\1.3", "../../x"):
        item = answer_of(AccessionNumber="A77")
        item[0x0020000D] = pydicom.DataElement(0x0020000D, "LO", uid.split("\\"))
        with faulty([], [item]) as node, pytest.raises(InputError, match="without a valid study UID"):
            find_studies(node, "A77")


def test_two_patients_under_one_number_and_answers_without_end() -> None:
    two = [answer_of(AccessionNumber="A77", StudyInstanceUID=f"1.{n}", PatientID=f"P{n}") for n in (1, 2)]
    with faulty([], two) as node, pytest.raises(InputError, match="studies of two patients"):
        find_studies(node, "A77")
    many = [answer_of(AccessionNumber="A77", StudyInstanceUID=f"1.{n}") for n in range(1000)]
    with faulty([], many) as node, pytest.raises(InputError, match="does not come to an end"):
        find_studies(node, "A77")


def found_of(slices: list[pydicom.Dataset], **more: object) -> list[pydicom.Dataset]:
    return [answer_of(StudyInstanceUID=slices[0].StudyInstanceUID, **more)]


def test_files_that_were_not_asked_for_are_refused(slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    """If one file of a study does not match the request, nothing of the study is kept."""
    study, series = str(slices[0].StudyInstanceUID), str(slices[0].SeriesInstanceUID)
    patient, out = str(slices[0].PatientID), tmp_path / "out"
    changes = {
        "another study": {"StudyInstanceUID": "1.2.3"},
        "another series": {"SeriesInstanceUID": "1.2.3"},
        "another accession number": {"AccessionNumber": "A78"},
        "another patient": {"PatientID": "Q"},
    }
    for words, change in changes.items():
        bad = copy(slices[3], **change)
        with faulty([*slices[:3], bad], found_of(slices)) as node, pytest.raises(RefusedError, match=words):
            fetch(node, out, study=study, series=series, accession="A77", patient=patient)
        assert not out.exists(), words
    with (
        faulty([*slices[:3], copy(slices[3], PatientID="Q")], found_of(slices)) as node,
        pytest.raises(RefusedError, match="two patients"),
    ):
        fetch(node, out, study=study)
    with faulty(slices, found_of(slices, PatientID="Q")) as node:
        with pytest.raises(RefusedError, match="another patient"):
            fetch(node, out, study=study)
        with pytest.raises(InputError, match="of another patient"):
            fetch(node, out, study=study, patient=patient)
    with faulty([*slices[:3], copy(slices[3], AccessionNumber="")], found_of(slices)) as node:
        assert len(fetch(node, out, study=study, series=series, accession="A77", patient=patient)) == 4
    with (
        faulty(slices, [answer_of(StudyInstanceUID="1.2.3")]) as node,
        pytest.raises(InputError, match="answered with another study"),
    ):
        fetch(node, out, study=study)


def copy(data: pydicom.Dataset, **change: object) -> pydicom.Dataset:
    made = deepcopy(data)
    for keyword, value in change.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize("uid", ["..", ".", "1..2", "1.2/3"])
def test_no_path_comes_from_a_hostile_uid(slices: list[pydicom.Dataset], tmp_path: Path, uid: str) -> None:
    bad = deepcopy(slices[3])
    bad[0x0020000E] = pydicom.DataElement(0x0020000E, "LO", uid)
    with (
        faulty([*slices[:3], bad], found_of(slices)) as node,
        pytest.raises(RefusedError, match="without a valid series UID"),
    ):
        fetch(node, tmp_path / "out", study=str(bad.StudyInstanceUID))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["series"]


def test_an_instance_is_counted_once(slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    study, out = str(slices[0].StudyInstanceUID), tmp_path / "out"
    with faulty([*slices[:4], slices[2]], found_of(slices, NumberOfStudyRelatedInstances=4)) as node:
        assert len(fetch(node, out, study=study)) == 4
    assert len(list(out.rglob("*.dcm"))) == 4
    with (
        faulty([*slices[:4], slices[2]], found_of(slices, NumberOfStudyRelatedInstances=5)) as node,
        pytest.raises(RefusedError, match="has 5 files of this study and sent 4"),
    ):
        fetch(node, tmp_path / "none", study=study)
    other = copy(slices[2], PixelData=slices[3].PixelData)
    for found in ({"NumberOfStudyRelatedInstances": 4}, {}):
        with (
            faulty([*slices[:4], other], found_of(slices, **found)) as node,
            pytest.raises(RefusedError, match="two different files of one SOP Instance UID"),
        ):
            fetch(node, tmp_path / "none", study=study)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("searches", [True, False])
def test_half_a_study_is_no_study(slices: list[pydicom.Dataset], tmp_path: Path, searches: bool) -> None:
    """If a server breaks off, or sends less than it has or less than it states, no file is left."""
    study, out = str(slices[0].StudyInstanceUID), tmp_path / "new" / "out"
    with (
        faulty(slices[:8], found_of(slices), searches=searches, breaks=4) as node,
        pytest.raises(InputError, match="did not answer in time, or broke the connection"),
    ):
        fetch(node, out, study=study)
    with (
        faulty(slices[:4], found_of(slices), searches=searches, count=8) as node,
        pytest.raises((RefusedError, InputError), match=r"failed to send 4|refused the transfer"),
    ):
        fetch(node, out, study=study)
    if searches:
        with (
            faulty(slices[:4], found_of(slices, NumberOfStudyRelatedInstances=8)) as node,
            pytest.raises(RefusedError, match="has 8 files of this study and sent 4"),
        ):
            fetch(node, out, study=study)
    assert not (tmp_path / "new").exists()
    with faulty(slices, found_of(slices, NumberOfStudyRelatedInstances=12), searches=searches) as node:
        assert len(fetch(node, out, study=study)) == 12
    (folder,) = out.iterdir()
    assert len(list(folder.iterdir())) == 12


def test_a_transfer_has_limits(slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    study, out = str(slices[0].StudyInstanceUID), tmp_path / "out"
    with (
        faulty(slices, found_of(slices), wait_s=0.4) as node,
        pytest.raises(RefusedError, match=r"took more than 1 s.*--max-time"),
    ):
        fetch(node, out, study=study, limits=FetchLimits(seconds_s=1))
    with faulty(slices, found_of(slices)) as node:
        with pytest.raises(RefusedError, match=r"more than 11 files came.*--max-files"):
            fetch(node, out, study=study, limits=FetchLimits(files=11))
        with pytest.raises(RefusedError, match=r"more than 9,000 bytes came.*--max-size"):
            fetch(node, out, study=study, limits=FetchLimits(size_bytes=9000))
        big = copy(slices[0], PixelData=bytes(8 << 20), Rows=2048, Columns=2048)
        with faulty([big], found_of(slices)) as other, pytest.raises(RefusedError, match="1,000 bytes"):
            fetch(other, out, study=study, limits=FetchLimits(size_bytes=1000))
        assert not out.exists()
        assert len(fetch(node, out, study=study, limits=FetchLimits(60, 12, 1 << 20))) == 12
    for limits in ({"seconds_s": 0}, {"seconds_s": float("nan")}, {"files": 0}, {"size_bytes": -1}):
        with pytest.raises(InputError, match="wanted positive numbers"):
            FetchLimits(**limits)


def test_a_file_that_the_memory_does_not_hold_ends_a_transfer(
    slices: list[pydicom.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = str(slices[0].StudyInstanceUID)
    monkeypatch.setattr(connection_limits, "FILE_BYTES", 1 << 20)
    big = copy(slices[0], PixelData=bytes(8 << 20), Rows=2048, Columns=2048)
    refused = pytest.raises(RefusedError, match="a file that the memory does not hold")
    with faulty([big], found_of(slices)) as node, refused:
        fetch(node, tmp_path / "out", study=study)
    with faulty(slices, found_of(slices)) as node:  # the limit is for a file, not for all of them
        monkeypatch.setattr(connection_limits, "FILE_BYTES", 1 << 15)
        assert len(fetch(node, tmp_path / "out", study=study)) == 12


def test_a_server_that_announces_an_endless_answer_is_given_up_at_once() -> None:
    """pynetdicom reads a PDU of up to 4 GB before anything in it is looked at."""
    with socket.socket() as hostile:
        hostile.bind(("127.0.0.1", 0))
        hostile.listen()

        def answer() -> None:
            peer, _ = hostile.accept()
            with peer:
                peer.recv(1 << 16)
                peer.sendall(bytes((2, 0)) + (400 << 20).to_bytes(4, "big"))
                done.wait(20)

        done, thread = threading.Event(), threading.Thread(target=answer)
        thread.start()
        began = time.monotonic()
        with pytest.raises(InputError, match="cannot be reached"):
            find_studies(Node("X", "127.0.0.1", hostile.getsockname()[1]), "A77")
        done.set()
        thread.join()
        assert time.monotonic() - began < 15  # the limit for an answer is 30 s


def test_what_is_there_is_compared(slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    """A second fetch reuses its files; a different file in the place of one stays, and the fetch fails."""
    study, out = str(slices[0].StudyInstanceUID), tmp_path / "out"
    with faulty(slices, found_of(slices)) as node:
        first = fetch(node, out, study=study)
        first[3].unlink()
        assert fetch(node, out, study=study) == first
        first[3].unlink()
        first[5].write_bytes(b"mine")
        with pytest.raises(InputError, match="another file is in the place of one of the study"):
            fetch(node, out, study=study)
        assert first[5].read_bytes() == b"mine"
        assert not first[3].exists()
    with (
        faulty(slices[:-1], found_of(slices[:-1])) as node,  # one slice was deleted on the server
        pytest.raises(InputError, match="1 file of an earlier transfer"),
    ):
        fetch(node, out, study=study)
    with faulty(slices, found_of(slices)) as node:
        folder = first[0].parent
        folder.rename(tmp_path / "elsewhere")
        folder.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match="a link or a file is in the place of a series' folder"):
            fetch(node, out, study=study)
        folder.unlink()
        folder.write_text("a file where a folder has to be")
        with pytest.raises(InputError, match="a link or a file"):
            fetch(node, out, study=study)
        with pytest.raises(InputError, match="the folder cannot be made"):
            fetch(node, folder / "below", study=study)
    assert [path.name for path in out.iterdir()] == [folder.name]


def test_a_killed_transfer_leaves_nothing_that_reads_as_a_scan(
    slices: list[pydicom.Dataset], tmp_path: Path
) -> None:
    """Some files are there, hidden, when the process is killed; the next fetch removes them."""
    study, out = str(slices[0].StudyInstanceUID), tmp_path / "out"
    with faulty(slices, found_of(slices), wait_s=0.5) as node:
        command = [sys.executable, "-m", "c3s3_seg", "fetch", str(node), "-o", str(out), "--study", study]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(600):
            if len(list(out.glob(".*/*/*.dcm"))) >= 2:
                break
            time.sleep(0.1)
        process.kill()
        process.wait()
    (left,) = out.iterdir()
    assert left.stat().st_mode & 0o077 == 0
    assert list(walk_files(out)) == []
    with pytest.raises(InputError, match="found no scan here"):
        find_cases([out])
    with faulty(slices, found_of(slices)) as node:
        assert len(fetch(node, out, study=study)) == 12
    assert not left.exists()


def test_a_file_that_is_refused_does_not_keep_the_others(files: list[Path], tmp_path: Path) -> None:
    """Each refused file is named with the reason; if the connection breaks, stored files count as sent."""
    import pynetdicom
    from pynetdicom import evt

    stored: list[str] = []

    def store(event: "evt.Event") -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if breaks and len(stored) == breaks[0]:
            event.assoc.abort()
        if uid == refused and not breaks:
            return 0xA700
        stored.append(uid)
        return 0x0000

    refused, breaks = str(pydicom.dcmread(files[3]).SOPInstanceUID), list[int]()
    server = pynetdicom.AE("PACS")
    server.add_supported_context(MR)
    handlers = [(evt.EVT_C_STORE, store)]
    here = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    node = f"PACS@127.0.0.1:{here.server_address[1]}"
    try:
        answer = run("send", node, files[0].parent)
        assert (answer.returncode, "did not make (--all sends it too)" in answer.stderr) == (2, True)
        answer = run("send", node, files[0].parent, "--all")
        assert answer.returncode == 1, answer.stderr
        assert answer.stdout == "Sent 11 files, failed 1; the same command sends them again.\n"
        assert answer.stderr.count("failed: ") == answer.stderr.count("status 0xA700") == 1
        assert len(set(stored)) == len(stored) == 11
        breaks.append(15)
        answer = run("send", node, files[0].parent, "--all", "--timeout", "5")
        assert (answer.returncode, answer.stderr.count("broke the connection")) == (1, 8), answer.stderr
        assert answer.stdout.startswith("Sent 4 files, failed 8"), answer.stdout
    finally:
        here.shutdown()


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007, 0x0111, 0xFF00, 0xFE00, 0x0110, 0xC000])
def test_a_file_is_sent_if_the_server_says_so(files: list[Path], status: int) -> None:
    """A warning means stored too (PS3.4, B.2.3), as does a duplicate; the status "pending" does not."""
    import pynetdicom
    from pynetdicom import evt

    server = pynetdicom.AE("PACS")
    server.add_supported_context(MR)
    handlers = [(evt.EVT_C_STORE, lambda _: status)]
    here = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        answer = run("send", f"PACS@127.0.0.1:{here.server_address[1]}", files[0])
    finally:
        here.shutdown()
    if status >> 12 in (0x0, 0xB) and status != 0x0110:
        assert (answer.returncode, answer.stdout) == (0, "Sent 1 file.\n"), answer.stderr
        assert ("has an instance with this UID already" in answer.stderr) == (status == 0x0111)
    else:
        assert answer.returncode == 1
        assert f"refused the file (status 0x{status:04X})" in answer.stderr


@pytest.mark.parametrize("deflated", [False, True])
def test_a_server_of_the_default_transfer_syntax_gets_files(
    files: list[Path], oblique: Volume, tmp_path: Path, deflated: bool
) -> None:
    """A server may accept implicit VR alone, which is always to be offered (PS3.5, 10.1)."""
    import pynetdicom
    from pynetdicom import evt

    def store(event: "evt.Event") -> int:
        event.dataset.file_meta = event.file_meta
        event.dataset.save_as(got / f"{event.dataset.SOPInstanceUID}.dcm", enforce_file_format=True)
        return 0x0000

    got = tmp_path / "got"
    got.mkdir()
    for path in files if deflated else ():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        data.save_as(path)
    server = pynetdicom.AE("PACS")
    server.add_supported_context(MR, "1.2.840.10008.1.2")
    here = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    node = Node("PACS", "127.0.0.1", here.server_address[1])
    try:
        assert send(node, files) == 12
        for path in files:
            data = pydicom.dcmread(path)
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = CTImageStorage
            data.save_as(path)
        with pytest.raises(InputError, match="offers nothing of what was asked for: CT Image Storage"):
            send(node, files)
    finally:
        here.shutdown()
    assert np.array_equal(load(got).array, oblique.array)


def test_a_server_without_the_service(slices: list[pydicom.Dataset], tmp_path: Path) -> None:
    with faulty(slices, searches=False) as node:
        with pytest.raises(InputError, match=r"accepts the connection and offers nothing .* - FIND"):
            find_studies(node, "A77")
        assert len(fetch(node, tmp_path, study=str(slices[0].StudyInstanceUID))) == 12
    with (
        faulty([], searches=False) as node,
        pytest.raises(InputError, match=r"has no study 1\.2\.3\.4"),
    ):
        fetch(node, tmp_path / "none", study="1.2.3.4")


def test_c_move_with_tls_needs_a_listener_with_tls(
    slices: list[pydicom.Dataset], files: list[Path], listener: AssociationListener, tmp_path: Path
) -> None:
    """A stranger without a certificate, or with one that is not trusted, stores nothing."""
    certificates(tmp_path, "us", "server", "other")
    study, out = str(slices[0].StudyInstanceUID), tmp_path / "out"
    for tls in (Tls(), Tls(tmp_path / "server.pem"), Tls(None, tmp_path / "us.both")):
        with pytest.raises(InputError, match=r"--certificate and --trust"):
            fetch(Node("X", "127.0.0.1", 9), out, study=study, listener=listener, caller=Caller(tls=tls))
    words = ["X@127.0.0.1:9", "-o", out, "--study", study, "--move", "US"]
    answer = run("fetch", *words, "--trust", tmp_path / "server.pem")
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1), answer.stderr
    assert not out.exists()
    inbox = Inbox(out, Wanted(Uid(study)), listening=True)
    ours = Caller(timeout_s=5, tls=Tls(tmp_path / "server.pem", tmp_path / "us.both"))
    here = Node(listener.title, "127.0.0.1", listener.port)
    with listening(listener, Node("PACS", "127.0.0.1", 1), inbox, ours):
        with socket.create_connection(
            (here.host, here.port)
        ):  # a silent connection delays the others only briefly
            for stranger in (
                None,
                Tls(tmp_path / "us.pem"),
                Tls(tmp_path / "us.pem", tmp_path / "other.both"),
            ):
                with pytest.raises(InputError, match=r"cannot be reached|broke the connection"):
                    send(here, files[:1], Caller("PACS", 15, stranger))
        assert inbox.files == {}
        theirs = Tls(tmp_path / "us.pem", tmp_path / "server.both")
        assert send(here, files[:1], Caller("PACS", 15, theirs)) == 1
    assert len(inbox.files) == 1


@pytest.mark.slow
def test_orthanc_moves_over_tls(files: list[Path], oblique: Volume, tmp_path: Path) -> None:
    certificates(tmp_path, "us", "server")
    port, ear = free_port(), AssociationListener("MOVED", "127.0.0.1", free_port())
    settings = {
        "DicomAet": "TESTPACS", "DicomPort": port, "HttpServerEnabled": False, "Plugins": [],
        "StorageDirectory": "db", "IndexDirectory": "db", "DicomAlwaysAllowMove": True,
        "DicomTlsEnabled": True, "DicomTlsCertificate": "server.pem", "DicomTlsPrivateKey": "server.key",
        "DicomTlsTrustedCertificates": "us.pem", "DicomTlsRemoteCertificateRequired": True,
        "DicomModalities": {
            "us": {"AET": "MOVED", "Host": ear.host, "Port": ear.port, "UseDicomTls": True},
            "we": {"AET": "C3S3SEG", "Host": ear.host, "Port": 1},
        },
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    caller = Caller(tls=Tls(tmp_path / "server.pem", tmp_path / "us.both"))
    command = [program("Orthanc", "orthanc"), "orthanc.json"]
    with running(command, Node("TESTPACS", "127.0.0.1", port), tmp_path) as node:
        assert send(node, files, caller) == 12
        study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
        fetch(node, tmp_path / "out", study=study, listener=ear, caller=caller)
    assert np.array_equal(load(tmp_path / "out").array, oblique.array)


def test_what_cannot_be_sent_is_said(files: list[Path], tmp_path: Path) -> None:
    """Invalid UIDs, a header that contradicts itself and a pipe are refused before a connection is tried."""
    nobody = Node("X", "127.0.0.1", 9)
    with pytest.raises(InputError, match="cannot be reached"):
        send(nobody, files[:1])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: this is not a DICOM file that can be sent"):
        send(nobody, [tmp_path / "pipe"])
    for number, change in enumerate(("SOPInstanceUID", "SOPClassUID")):
        edit(files[number], values(**{change: "1.2.3"}))
        with pytest.raises(InputError, match="this is not a DICOM file that can be sent"):
            send(nobody, [files[number]])
    data = pydicom.dcmread(files[2])
    data.file_meta[0x00020003] = pydicom.DataElement(0x00020003, "UI", UID("1..2"))
    data[0x00080018] = pydicom.DataElement(0x00080018, "UI", UID("1..2"))
    data.save_as(files[2])
    with pytest.raises(InputError, match="this is not a DICOM file that can be sent"):
        send(nobody, [files[2]])


@pytest.mark.parametrize("fault", ["half", "two of one", "another study", "none"])
def test_c_move_is_checked_as_c_get(
    slices: list[pydicom.Dataset], listener: AssociationListener, tmp_path: Path, fault: str
) -> None:
    other = copy(slices[2], PixelData=slices[3].PixelData)
    sent, words = {
        "half": (slices[:4], "has 12 files of this study and sent 4"),
        "two of one": ([*slices, other], "two different files of one SOP Instance UID"),
        "another study": ([*slices[:11], copy(slices[11], StudyInstanceUID="1.2.3")], "failed to send 1"),
        "none": (slices, ""),
    }[fault]
    study, out = str(slices[0].StudyInstanceUID), tmp_path / "out"
    found = found_of(slices, NumberOfStudyRelatedInstances=12)
    with faulty(sent, found, to=(listener.host, listener.port)) as node:
        if not words:
            assert len(fetch(node, out, study=study, listener=listener)) == 12
            return
        with pytest.raises(RefusedError, match=words):
            fetch(node, out, study=study, listener=listener)
    assert not out.exists()


def test_a_file_is_the_one_that_its_message_names(
    slices: list[pydicom.Dataset], listener: AssociationListener, tmp_path: Path
) -> None:
    """A store is also refused if it states that somebody else's C-MOVE caused it."""
    import pynetdicom
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    study = Uid(str(slices[0].StudyInstanceUID))
    inbox = Inbox(tmp_path / "in", Wanted(study), listening=True)
    sender = pynetdicom.AE("PACS")
    data = slices[0]
    sender.add_requested_context(data.SOPClassUID, data.file_meta.TransferSyntaxUID)

    def store(named: str, mover: str | None) -> int:
        link = sender.associate(listener.host, listener.port, ae_title=listener.title)
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = data.SOPClassUID, named
        if mover is not None:
            request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID = mover, 1
        request.DataSet = io.BytesIO(encode(data, False, True) or b"")
        link._reactor_checkpoint.clear()
        link.dimse.send_msg(request, link.accepted_contexts[0].context_id)
        _, answer = link.dimse.get_msg(block=True)
        link._reactor_checkpoint.set()
        link.release()
        return int(answer.Status)

    with listening(listener, Node("PACS", "127.0.0.1", 1), inbox, Caller()):
        assert store(data.SOPInstanceUID, "SOMEBODY") == 0x0124
        assert store("1.2.3", None) == 0xC000
        assert "not the one that its message names" in str(inbox.errors.pop())
        assert store(data.SOPInstanceUID, "C3S3SEG") == 0
    assert len(inbox.files) == 1


def test_a_series_is_fetched_from_a_server_that_answers_without_the_study(
    slices: list[pydicom.Dataset], tmp_path: Path
) -> None:
    """A search for a series was refused for lack of the UID of its study, which the request states."""
    study, series = str(slices[0].StudyInstanceUID), str(slices[0].SeriesInstanceUID)
    found = [answer_of(SeriesInstanceUID=series)]
    with faulty(slices, found) as node:
        assert len(fetch(node, tmp_path / "out", study=study, series=series)) == len(slices)
    other = [answer_of(SeriesInstanceUID="1.2.3")]
    with faulty([], other) as node, pytest.raises(InputError, match="answered with another series"):
        fetch(node, tmp_path / "other", study=study, series=series)


def test_a_question_over_a_broken_connection_is_an_error_of_the_server() -> None:
    """It was reported as a defect of this program."""
    with faulty([]) as node, association(node, Caller(), [(FIND, PLAIN)]) as link:
        link.abort()
        with pytest.raises(InputError, match="broke the connection"):
            answers(node, link, query("STUDY", StudyInstanceUID=""), 5.0, most=1)


def test_a_host_in_brackets_is_reached() -> None:
    """As in `PACS@[::1]:104`; an address of IPv4 stands in for it, as not every machine has IPv6."""
    with faulty([]) as node:
        bracketed = Node("PACS", f"[{node.host}]", node.port)
        with association(bracketed, Caller(), [(FIND, PLAIN)]) as link:
            assert link.is_established


def test_a_host_name_that_is_not_possible_cannot_be_listened_on(tmp_path: Path) -> None:
    """It was reported as a defect of this program."""
    inbox = Inbox(tmp_path, Wanted.parse("1.2.3"))
    here = AssociationListener("MOVED", "127.0.0..1", free_port())
    refused = pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.\.1")
    with refused, listening(here, Node("PACS", "127.0.0.1", 104), inbox, Caller()):
        pass


def test_a_time_limit_of_centuries_is_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its timer ended at once with a traceback."""
    faults: list[object] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    before = set(threading.enumerate())
    with Inbox(tmp_path, Wanted.parse("1.2.3"), FetchLimits(seconds_s=1e10)).watching():
        (timer,) = (thread for thread in set(threading.enumerate()) - before)
        timer.join(0.2)
        assert timer.is_alive()
    assert faults == []
