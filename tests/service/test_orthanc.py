"""The service and the script for cron against Orthanc on loopback; skipped if Orthanc is not installed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from helpers.ports import free_port
from helpers.service import Bench, settings, study, until

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import Caller
from c3s3_seg.io.pacs.client import send
from c3s3_seg.io.pacs.nodes import Node
from c3s3_seg.phantom import Simulator, save, simulate

pytestmark = pytest.mark.slow
COARSE = Simulator(shape=(72, 66, 36), spacing_mm=(1.95, 1.95, 2.8))
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Orthanc:
    node: Node
    http: int

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=60) as answer:
            return json.load(answer)

    def segs(self) -> Counter[str]:
        """Return the number of SEG instances by study UID."""
        found: Counter[str] = Counter()
        for series in self.ask("/series?expand"):
            if series["MainDicomTags"].get("Modality") == "SEG":
                parent = self.ask(f"/studies/{series['ParentStudy']}")["MainDicomTags"]
                found[parent["StudyInstanceUID"]] += len(series["Instances"])
        return found


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    program = shutil.which("Orthanc") or shutil.which("orthanc")
    if program is None:
        pytest.skip("Orthanc is not installed")
    folder, dicom, http = tmp_path_factory.mktemp("orthanc"), free_port(), free_port()
    allowed = ("Get", "Find", "Store")
    config = {
        "DicomAet": "PACS", "DicomPort": dicom, "HttpPort": http, "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "StorageDirectory": str(folder), "IndexDirectory": str(folder),
        "Plugins": [], **{f"DicomAlwaysAllow{what}": True for what in allowed},
        "DicomModalities": {"us": {"AET": "C3S3SEG", "Host": "127.0.0.1", "Port": 1, "AllowGet": True}},
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(config))
    made = Orthanc(Node("PACS", "127.0.0.1", dicom), http)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
        try:
            until(lambda: is_there(made))
            yield made
        finally:
            process.terminate()
            process.wait()


def is_there(orthanc: Orthanc) -> bool:
    try:
        return bool(orthanc.ask("/system"))
    except OSError:
        return False


def test_studies_come_back_once_although_the_service_is_killed(orthanc: Orthanc, tmp_path: Path) -> None:
    port = free_port()
    base = f"""
[serve]
state = "state"
model = "phantom"
quiet_s = 1
allow_out_of_domain = true
[serve.listen]
title = "SEGMENT"
callers = ["SCANNER"]
port = {port}
[[serve.store]]
server = "{orthanc.node}"
[serve.limits]
free = "1MB"
[serve.retry]
first_s = 1
[serve.monitor]
port = 0
"""
    settings(tmp_path, base=base)
    words = [sys.executable, "-m", "c3s3_seg", "serve", "--config", str(tmp_path / "c3s3-seg.toml")]
    server, sent = Node("SEGMENT", "127.0.0.1", port), set()
    process = subprocess.Popen(words)
    try:
        for number in range(2):
            files = study(tmp_path / str(number), 10 + number)
            sent.add(str(pydicom.dcmread(files[0]).StudyInstanceUID))
            until(lambda files=files: is_sent(server, files))
            if number == 0:
                until(lambda: orthanc.segs())
            process.send_signal(signal.SIGKILL)
            process.wait()
            process = subprocess.Popen(words)
        until(lambda: set(orthanc.segs()) >= sent)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=100) == 0
    finally:
        process.kill()
        process.wait()
    assert {uid: count for uid, count in orthanc.segs().items() if uid in sent} == dict.fromkeys(sent, 1)
    lines = (tmp_path / "state" / "results.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in lines}) == len(lines) == 2


def is_sent(server: Node, files: list[Path]) -> bool:
    """Send files once; return whether all were acknowledged, so that callers retry as a modality does."""
    try:
        return send(server, files, Caller("SCANNER", 20.0)) == len(files)
    except InputError:
        return False


def test_a_pacs_is_polled_and_our_own_results_are_not_fetched(orthanc: Orthanc, tmp_path: Path) -> None:
    clock = datetime.fromtimestamp(1_800_000_000, UTC)
    files = study(tmp_path / "sent", 20, StudyDate=f"{clock:%Y%m%d}")
    older = study(tmp_path / "older", 21, StudyDate="20200101")
    send(orthanc.node, [*files[:-1], *older])
    poll = f'[[serve.poll]]\nserver = "{orthanc.node}"\n[[serve.store]]\nserver = "{orthanc.node}"\n'
    bench = Bench(tmp_path, poll)
    (line,) = bench.wait(24, 4)
    assert line["stored"] == [str(orthanc.node)]
    (uid,) = {str(pydicom.dcmread(path).StudyInstanceUID) for path in files}
    assert orthanc.segs()[uid] == 1
    assert bench.service.metrics.totals["files"] == len(files) - 1
    bench.wait(24, 4)
    assert bench.service.metrics.totals["files"] == len(files) - 1
    send(orthanc.node, files[-1:])  # the rest of the series
    assert [line["revision"] for line in bench.wait(24, 4)] == [1, 2]
    bench.service.close()


def test_the_script_for_cron_fetches_segments_and_sends_once(orthanc: Orthanc, tmp_path: Path) -> None:
    scan, _ = save(simulate(7, COARSE), tmp_path / "made", seed=7, file_format="dicom")
    files = sorted(scan.iterdir())
    uid = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    send(orthanc.node, files)
    (tmp_path / "list.txt").write_text(f"# tonight\n{uid}\n")
    program = tmp_path / "c3s3-seg"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m c3s3_seg "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ, "PROGRAM": str(program), "SERVER": str(orthanc.node), "MODEL": "phantom",
        "WORK": str(tmp_path / "work"),
    }  # fmt: skip
    for _ in range(2):
        words = [str(ROOT / "deploy" / "cron" / "nightly.sh"), str(tmp_path / "list.txt")]
        answer = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
    assert orthanc.segs()[uid] == 1
    assert answer.stdout.count("Sent ") == 0
