"""The listener: known titles and hosts only, limits, answers to a sender, C-ECHO."""

import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pynetdicom
import pytest
from helpers.ports import free_port
from helpers.service import study

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import ECHO, PLAIN, Caller, association
from c3s3_seg.io.pacs.client import send
from c3s3_seg.io.pacs.connection_limits import FURTHER
from c3s3_seg.io.pacs.identity import Identity
from c3s3_seg.io.pacs.nodes import AssociationListener, Node
from c3s3_seg.io.pacs.receiver import Gate, receiving
from c3s3_seg.io.pacs.tls import HANDSHAKE_S, Tls

US = Caller("SCANNER", 10.0)


@dataclass
class Desk:
    """The receiving side of a gate: a record of accepted objects and of refusals."""

    node: Node
    came: list[Identity] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    room: bool = True
    links: set[object] = field(default_factory=set)  # open associations
    wait: Callable[[], object] = lambda: None  # before an object is accepted

    def take(self, found: Identity, content: bytes, link: object) -> bool:
        assert content[128:132] == b"DICM"
        self.wait()
        self.came.append(found)
        self.links.add(link)
        return self.room

    def refuse(self, reason: str) -> None:
        self.refused[reason] += 1

    def has_refused(self, reason: str) -> bool:
        """Return whether this refusal is counted in time: the sender may read it before that."""
        for _ in range(100):
            if self.refused[reason]:
                return True
            time.sleep(0.05)
        return False


@contextmanager
def open_desk(senders: tuple[str, ...] = (), **more: object) -> Iterator[Desk]:
    port = free_port()
    desk = Desk(Node("SEGMENT", "127.0.0.1", port))
    listener = AssociationListener("SEGMENT", "127.0.0.1", port, senders)
    gate = Gate(listener, ("SCANNER", "OTHER"), **more)  # type: ignore[arg-type]
    with receiving(gate, desk.take, desk.refuse, desk.links.discard):
        yield desk


def test_a_known_sender_is_served_and_strangers_are_refused(tmp_path: Path) -> None:
    files = study(tmp_path / "s", 1)[:3]
    with open_desk() as desk:
        assert send(desk.node, files, US) == 3
        for _ in range(100):
            if not desk.links:
                break
            time.sleep(0.05)
        assert desk.links == set()
        assert len({found.instance for found in desk.came}) == 3
        assert desk.came[0].may_be_scan
        with pytest.raises(InputError, match="Calling AE title not recognised"):
            send(desk.node, files, Caller("STRANGER", 10.0))
        with pytest.raises(InputError, match="Called AE title not recognised"):
            send(Node("WRONG", desk.node.host, desk.node.port), files, US)
        assert desk.has_refused("calling title")
        assert desk.has_refused("called title")
        assert len(desk.came) == 3


def test_an_echo_is_answered(tmp_path: Path) -> None:
    with open_desk() as desk, association(desk.node, US, [(ECHO, PLAIN)]) as link:
        assert link.send_c_echo().Status == 0x0000


def test_another_host_is_refused(tmp_path: Path) -> None:
    with open_desk(senders=("192.0.2.1",)) as desk:
        with pytest.raises(InputError, match="refuses us"):
            send(desk.node, study(tmp_path / "s", 1)[:1], US)
        assert desk.has_refused("host")
        assert desk.came == []


def test_no_room_is_said_as_dicom_says_it(tmp_path: Path) -> None:
    with open_desk() as desk:
        desk.room = False
        with pytest.raises(InputError, match="0xA700"):
            send(desk.node, study(tmp_path / "s", 1)[:1], US)


def test_an_object_that_is_larger_than_allowed_ends_its_connection(tmp_path: Path) -> None:
    from helpers.dicom_files import edit, values

    path = study(tmp_path / "s", 1)[0]
    edit(path, values(PixelData=bytes(4 << 20)))
    with open_desk(object_bytes=1 << 20) as desk:
        with pytest.raises(InputError, match="broke the connection"):
            send(desk.node, [path], US)
        assert desk.has_refused("size")
        assert desk.came == []
        assert send(desk.node, study(tmp_path / "t", 2)[:2], US) == 2


def test_more_associations_than_allowed_are_refused(tmp_path: Path) -> None:
    files = study(tmp_path / "s", 1)[:1]
    with open_desk(associations=1) as desk:
        with (
            association(desk.node, US, [(ECHO, PLAIN)]),
            pytest.raises(InputError, match=r"[Ll]ocal limit exceeded"),
        ):
            send(desk.node, files, US)
        assert desk.has_refused("limit")
        for _ in range(100):  # the thread of the first association ends a moment later
            try:
                assert send(desk.node, files, US) == 1
                break
            except InputError:
                time.sleep(0.05)
        assert len(desk.came) == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_an_object_without_valid_uids_is_not_taken(tmp_path: Path) -> None:
    import pydicom

    data = pydicom.dcmread(study(tmp_path / "s", 1)[0])
    with open_desk() as desk:
        entity = pynetdicom.AE(ae_title="SCANNER")
        entity.add_requested_context(data.SOPClassUID, data.file_meta.TransferSyntaxUID)
        link = entity.associate("127.0.0.1", desk.node.port, ae_title="SEGMENT")
        data.StudyInstanceUID = "../../etc"
        assert link.send_c_store(data).Status == 0xC000
        link.release()
        assert desk.came == []


def test_with_certificates_only_their_holders_are_served(tmp_path: Path) -> None:
    files = study(tmp_path / "s", 1)[:2]
    certificates(tmp_path, "us", "scanner", "other")
    trusting = Tls(tmp_path / "scanner.pem", tmp_path / "us.both")
    with open_desk(tls=trusting) as desk:
        known = Tls(tmp_path / "us.pem", tmp_path / "scanner.both")
        assert send(desk.node, files, Caller("SCANNER", 10.0, known)) == 2
        for tls in (None, Tls(tmp_path / "us.pem"), Tls(tmp_path / "us.pem", tmp_path / "other.both")):
            with pytest.raises(InputError):
                send(desk.node, files, Caller("SCANNER", 5.0, tls))
        assert len(desk.came) == 2


def certificates(folder: Path, *names: str) -> None:
    """Write self-signed certificates: `NAME.pem`, and with its key `NAME.both`."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for name in names:
        words = (
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
            f" -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {name}.key -out {name}.pem"
        )
        subprocess.run(words.split(), cwd=folder, check=True, capture_output=True)
        both = (folder / f"{name}.pem").read_bytes() + (folder / f"{name}.key").read_bytes()
        (folder / f"{name}.both").write_bytes(both)


def test_an_address_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        gate = Gate(AssociationListener("SEGMENT", "127.0.0.1", taken.getsockname()[1]), ("SCANNER",))
        with (
            pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1"),
            receiving(gate, lambda *_: True, lambda _: None),
        ):
            pass


def pdu_head(kind: int, length: int) -> bytes:
    """Return the beginning of a PDU (PS3.8, 9.3.1)."""
    return bytes((kind, 0)) + length.to_bytes(4, "big")


def is_closed(peer: socket.socket) -> bool:
    """Return whether the other side closes a connection within 10 s."""
    peer.settimeout(10)
    try:
        while peer.recv(1024):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def acceptors() -> int:
    return sum("Acceptor" in thread.name for thread in threading.enumerate())


@pytest.mark.parametrize("kind", [1, 4])
def test_a_pdu_of_any_size_is_not_held(kind: int) -> None:
    """pynetdicom reads all of it before it looks at a title: 4 GB are possible."""
    with open_desk() as desk, socket.create_connection(("127.0.0.1", desk.node.port)) as peer:
        peer.sendall(pdu_head(kind, 400 << 20))
        assert is_closed(peer)
        assert desk.has_refused("size")


def test_requests_in_a_row_are_not_kept() -> None:
    """After a refused request pynetdicom queues each further one until its timer ends the connection."""
    with open_desk() as desk, socket.create_connection(("127.0.0.1", desk.node.port)) as peer:
        request = pdu_head(1, 68 + 60_000) + b"\0\1" + bytes(2) + b"STRANGER".ljust(16) * 2 + bytes(32)
        request += b"\x50\0" + (59_996).to_bytes(2, "big") + bytes(59_996)
        with pytest.raises(ConnectionError):  # a reset, or a broken pipe
            peer.sendall(request * 600)
        assert is_closed(peer)


def test_a_part_of_a_pdu_does_not_keep_its_threads() -> None:
    with open_desk(timeout_s=0.5) as desk, socket.create_connection(("127.0.0.1", desk.node.port)) as peer:
        peer.sendall(pdu_head(1, 200)[:3])
        assert is_closed(peer)


def test_a_drop_at_a_time_does_not_keep_a_connection() -> None:
    with open_desk(timeout_s=0.5) as desk, socket.create_connection(("127.0.0.1", desk.node.port)) as peer:
        peer.sendall(pdu_head(1, 200))
        peer.settimeout(0.2)
        for _ in range(50):
            with suppress(TimeoutError):
                try:
                    peer.sendall(b"\0")
                    assert peer.recv(1) == b""
                except ConnectionError:
                    pass
                break
        else:
            pytest.fail("the connection is still open after 10 s")


def test_silent_connections_are_limited_and_end_with_their_peers(tmp_path: Path) -> None:
    """Each one held two threads for 60 s, even if its peer had gone."""
    files = study(tmp_path / "s", 1)[:1]
    before = acceptors()
    with open_desk(associations=2) as desk, ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection(("127.0.0.1", desk.node.port)))
        assert desk.has_refused("limit")
        assert acceptors() - before <= 2 + FURTHER + 1  # and the listener
        stack.close()
        for _ in range(100):
            if acceptors() - before <= 1:
                break
            time.sleep(0.05)
        assert send(desk.node, files, US) == 1


def test_objects_that_nobody_waits_for_are_limited(tmp_path: Path) -> None:
    """A sender must wait for each answer; pynetdicom queues whatever comes before."""
    import pydicom
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.dsutils import encode

    data = pydicom.dcmread(study(tmp_path / "s", 1)[0])
    data.PixelData = bytes(1 << 19)
    taking, goes_on = threading.Event(), threading.Event()
    with open_desk(object_bytes=1 << 20) as desk:
        desk.wait = lambda: (taking.set(), goes_on.wait(30))
        entity = pynetdicom.AE(ae_title="SCANNER")
        entity.add_requested_context(data.SOPClassUID, data.file_meta.TransferSyntaxUID)
        link = entity.associate("127.0.0.1", desk.node.port, ae_title="SEGMENT")
        request = C_STORE()
        request.MessageID, request.Priority = 1, 2
        request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
        content = encode(data, False, True) or b""
        for _ in range(8):
            request.DataSet = BytesIO(content)
            link.dimse.send_msg(request, link.accepted_contexts[0].context_id)
        assert taking.wait(10)
        assert desk.has_refused("size")
        goes_on.set()
        link.abort()


@pytest.mark.parametrize(("pdu_bytes", "taken"), [(1 << 17, True), (1 << 20, False)])
def test_a_sender_may_exceed_our_pdu_size_a_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pdu_bytes: int, taken: bool
) -> None:
    """Some ignore the 16 kB that we negotiate."""
    import pydicom

    data = pydicom.dcmread(study(tmp_path / "s", 1)[0])
    data.PixelData = bytes(4 << 20)
    with open_desk() as desk:
        entity = pynetdicom.AE(ae_title="SCANNER")
        entity.add_requested_context(data.SOPClassUID, data.file_meta.TransferSyntaxUID)
        link = entity.associate("127.0.0.1", desk.node.port, ae_title="SEGMENT")
        monkeypatch.setattr(type(link.dimse), "maximum_pdu_size", pdu_bytes)
        assert getattr(link.send_c_store(data), "Status", None) == (0 if taken else None)
        link.abort()
        assert (len(desk.came), desk.refused["size"]) == ((1, 0) if taken else (0, 1))


def test_a_silent_connection_does_not_delay_a_handshake(tmp_path: Path) -> None:
    files = study(tmp_path / "s", 1)[:1]
    certificates(tmp_path, "us", "scanner")
    trusting = Tls(tmp_path / "scanner.pem", tmp_path / "us.both")
    with open_desk(tls=trusting) as desk, ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", desk.node.port)))
        began = time.monotonic()
        known = Tls(tmp_path / "us.pem", tmp_path / "scanner.both")
        assert send(desk.node, files, Caller("SCANNER", 60.0, known)) == 1
        assert time.monotonic() - began < 2 * HANDSHAKE_S  # of three handshakes in a row
