"""A real server on loopback (dcmtk's dcmqrscp): a study is sent, found and fetched; refusals are plain."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import edit, values

from c3s3_seg.errors import InputError, RefusedError
from c3s3_seg.io import load
from c3s3_seg.io.dicom_write import save_series
from c3s3_seg.io.pacs import Node, fetch, find_studies, send
from c3s3_seg.volume import Volume

pytest.importorskip("pynetdicom")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    program = shutil.which("dcmqrscp")
    if program is None:
        pytest.skip("dcmtk is not installed")
    folder, port = tmp_path_factory.mktemp("pacs"), free_port()
    (folder / "db").mkdir()
    (folder / "qr.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 8\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nTESTPACS {folder / 'db'} RW (50, 1024mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen([program, "-c", str(folder / "qr.cfg")], cwd=folder)
    node = Node("TESTPACS", "127.0.0.1", port)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((node.host, port)) == 0:
                break
        time.sleep(0.1)
    yield node
    process.terminate()
    process.wait()


@pytest.fixture
def files(oblique: Volume, tmp_path: Path) -> list[Path]:
    made = save_series(oblique, tmp_path / "series", description="phantom", seed_uid="pacs")
    for path in made:
        edit(path, values(AccessionNumber="A77", StudyDate="20200101", StudyTime="101010", StudyID="1"))
    return made


def test_a_study_goes_and_comes_back(
    server: Node, files: list[Path], oblique: Volume, tmp_path: Path
) -> None:
    assert send(server, files) == 12
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    assert find_studies(server, "A77") == [study]
    assert find_studies(server, "NONE") == []
    back = fetch(server, tmp_path / "back", study=study)
    assert len(back) == 12
    assert np.array_equal(load(tmp_path / "back").array, oblique.array)
    command = [sys.executable, "-m", "c3s3_seg", "fetch", str(server), "-o", str(tmp_path / "cli")]
    answer = subprocess.run([*command, "--accession", "A77"], capture_output=True, text=True, check=False)
    assert answer.stdout == f"12 files are in {tmp_path / 'cli'}.\n", answer.stderr
    with pytest.raises(RefusedError, match="sent 0 files"):
        fetch(server, tmp_path / "none", study="1.2.3.4")


def test_refusals_are_plain(server: Node, files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be reached, or refuses us"):
        send(Node("OTHER", server.host, server.port), files[:1])
    with pytest.raises(InputError, match="cannot be reached"):
        send(Node("X", "127.0.0.1", free_port()), files[:1])
    (tmp_path / "text.txt").write_text("x" * 300)
    with pytest.raises(InputError, match=r"text\.txt: this is not a DICOM file"):
        send(server, [tmp_path / "text.txt"])


@pytest.mark.parametrize("text", ["", "host:104", "A@host", "A@host:0", "A@host:99999", "A" * 17 + "@h:1"])
def test_servers_are_parsed(text: str) -> None:
    assert Node.parse("PACS@10.0.0.1:104") == Node("PACS", "10.0.0.1", 104)
    with pytest.raises(InputError, match="wanted TITLE@host:port"):
        Node.parse(text)
