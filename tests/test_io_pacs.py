"""Real servers on loopback, dcmqrscp and Orthanc: a study is sent, found and fetched; refusals are plain.

`.ci/run` installs both; where they are missing these tests are skipped.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import edit, values
from pydicom.uid import UID, JPEG2000Lossless, RLELossless

from c3s3_seg.errors import InputError, RefusedError
from c3s3_seg.io import load
from c3s3_seg.io.dicom_capture import write_capture
from c3s3_seg.io.dicom_names import Segment
from c3s3_seg.io.dicom_seg import write_seg
from c3s3_seg.io.dicom_write import save_series
from c3s3_seg.io.pacs import fetch, find_studies, send
from c3s3_seg.io.pacs_link import Caller, Listener, Node, Tls
from c3s3_seg.io.rtstruct import write_rtstruct
from c3s3_seg.volume import Geometry, Volume

pytest.importorskip("pynetdicom")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def program(*names: str) -> str:
    # pynetdicom brings a storescp of its own, which knows no TLS, into the environment of the tests.
    ours = Path(sys.executable).parent
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if Path(p) != ours)
    found = next(filter(None, (shutil.which(name, path=path) for name in names)), None)
    if found is None:
        pytest.skip(f"{names[0]} is not installed")
    return found


@contextmanager
def running(command: list[str], node: Node, folder: Path) -> Iterator[Node]:
    """A server until the end of the block; it is stopped in any case."""
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
def listener() -> Listener:
    return Listener("MOVED", "127.0.0.1", free_port())


@pytest.fixture(scope="module")
def dcmqrscp(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[Node]:
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
def orthanc(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[Node]:
    path, folder, port = program("Orthanc", "orthanc"), tmp_path_factory.mktemp("orthanc"), free_port()
    us = {"AET": "C3S3SEG", "Host": "127.0.0.1", "Port": 1, "AllowGet": True}
    settings = {
        "DicomAet": "TESTPACS", "DicomPort": port, "HttpServerEnabled": False, "RemoteAccessAllowed": False,
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": [],
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
    """Of the stored pixels, by instance."""
    return {
        str(data.SOPInstanceUID): hash(data.pixel_array.tobytes())
        for data in map(pydicom.dcmread, folder.rglob("*.dcm"))
    }


def test_a_study_goes_and_comes_back(
    server: Node, files: list[Path], oblique: Volume, listener: Listener, tmp_path: Path
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
        with pytest.raises((RefusedError, InputError), match=r"sent 0 files|refused the transfer"):
            fetch(server, tmp_path / "none", study="1.2.3.4", listener=how)
    assert not (tmp_path / "none").exists()
    command = [sys.executable, "-m", "c3s3_seg", "fetch", str(server), "-o", str(tmp_path / "cli")]
    answer = subprocess.run([*command, "--accession", "A77"], capture_output=True, text=True, check=False)
    assert answer.stdout == f"12 files are in {tmp_path / 'cli'}.\n", answer.stderr
    command[6] = str(tmp_path / "cli-moved")
    address = ["--move", listener.title, "--listen", f"{listener.host}:{listener.port}"]
    answer = subprocess.run(
        [*command, "--study", study, *address], capture_output=True, text=True, check=False
    )
    assert answer.stdout == f"12 files are in {tmp_path / 'cli-moved'}.\n", answer.stderr


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
    write_capture(np.zeros((9, 8, 3), np.uint8), scan.source, tmp_path / "a.key.dcm")
    assert send(server, sorted(tmp_path.glob("*.dcm"))) == 3


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
    """dcmtk's storescp with a certificate of its own takes files; one that is not trusted sends none."""
    openssl, storescp, port = program("openssl"), program("storescp"), free_port()
    for name in ("server", "other"):
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
             "-keyout", f"{name}.key", "-out", f"{name}.pem"],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
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
    assert Listener.parse("US", None) == Listener("US", "127.0.0.1", 11112)
    assert Listener.parse("US", None).is_local
    assert not Listener.parse("US", "0.0.0.0:11112").is_local
    assert not Listener.parse("US", "pacs.example:11112").is_local
    with pytest.raises(InputError, match="wanted TITLE@host:port"):
        Listener.parse("US", "no port")
    bound: list[tuple[str, int]] = []
    bind = socket.socket.bind
    monkeypatch.setattr(socket.socket, "bind", lambda self, place: bound.append(place) or bind(self, place))
    port = free_port()
    bound.clear()
    nobody = Node("X", "127.0.0.1", free_port())
    bound.clear()
    with pytest.raises(InputError, match="cannot be reached"):
        fetch(nobody, tmp_path, study="1.2")
    # The ends of connections that we open are bound to any port of no address in particular.
    assert [place for place in bound if place[1] != 0] == []
    with pytest.raises(InputError, match="cannot be reached"):
        fetch(nobody, tmp_path, study="1.2", listener=Listener("US", port=port))
    assert [place for place in bound if place[1] != 0] == [("127.0.0.1", port)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1"):
            fetch(nobody, tmp_path, study="1.2", listener=Listener("US", port=taken.getsockname()[1]))


def test_only_what_was_asked_for_is_taken(listener: Listener, files: list[Path], tmp_path: Path) -> None:
    """While we wait for a study, somebody else sends, or another study comes, or a name that leads out."""
    from c3s3_seg.io.pacs import _Inbox, _listening

    data = pydicom.dcmread(files[0])
    inbox = _Inbox(tmp_path / "in", str(data.StudyInstanceUID))
    here = Node(listener.title, listener.host, listener.port)
    with _listening(listener, Node("PACS", "127.0.0.1", 1), inbox):
        with pytest.raises(InputError, match="refuses us"):
            send(here, files[:1])
        edit(files[1], values(StudyInstanceUID="1.2.3"))
        with pytest.raises(InputError, match="status 0xC000"):
            send(here, files[1:2], Caller("PACS"))
        edit(files[2], values(SeriesInstanceUID="../../up"))
        with pytest.raises(InputError, match="status 0xC000"):
            send(here, files[2:3], Caller("PACS"))
        assert send(here, files[:1], Caller("PACS")) == 1
        (tmp_path / "in" / str(data.SeriesInstanceUID) / "x").write_text("")
        (tmp_path / "in" / "1.9").write_text("a file where a folder has to be")
        edit(files[3], values(SeriesInstanceUID="1.9"))
        with pytest.raises(InputError, match="status 0xA700"):
            send(here, files[3:4], Caller("PACS"))
    assert len(inbox.written) == 1
    assert len(inbox.errors) == 1


@pytest.mark.parametrize("text", ["", "host:104", "A@host", "A@host:0", "A@host:99999", "A" * 17 + "@h:1"])
def test_servers_are_parsed(text: str) -> None:
    assert Node.parse("PACS@10.0.0.1:104") == Node("PACS", "10.0.0.1", 104)
    with pytest.raises(InputError, match="wanted TITLE@host:port"):
        Node.parse(text)
