"""Soak test of the service with Orthanc: many small studies, kills of the service, each result back once.

    python benchmarks/service_soak.py --studies 50 --kills 5
    python benchmarks/service_soak.py --studies 500 --kills 0

A sender repeats each study until it was acknowledged completely, as a modality does. The service
is killed with SIGKILL at moments spread over the run and restarted. At the end Orthanc is queried:
each study must have one SEG. Memory (of the service and its worker), queue and spool are printed over
time. The exit code is 1 if a result is missing or exists twice, or if an unknown title was accepted.
"""

import argparse
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

from c3s3_seg.errors import C3S3Error
from c3s3_seg.io.pacs.association import Caller
from c3s3_seg.io.pacs.client import send
from c3s3_seg.io.pacs.nodes import Node
from c3s3_seg.phantom import Simulator, save, simulate

COARSE = Simulator(shape=(72, 66, 36), spacing_mm=(1.95, 1.95, 2.8))
SETTINGS = """
[serve]
state = "state"
model = "phantom"
quiet_s = 2
[serve.listen]
callers = ["SCANNER"]
title = "SEGMENT"
port = {listen}
[[serve.store]]
server = "PACS@127.0.0.1:{dicom}"
[serve.limits]
free = "100MB"
keep_spool_s = 5
[serve.output]
keep_days = 0
[serve.retry]
first_s = 2
longest_s = 10
[serve.monitor]
port = {monitor}
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(port: int) -> None:
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit(f"nothing answers on port {port}")


class Pacs:
    """An Orthanc server that runs until the end of the block."""

    def __init__(self, folder: Path, dicom: int, http: int) -> None:
        self.http = http
        settings = {
            "DicomAet": "PACS", "DicomPort": dicom, "HttpPort": http, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "StorageDirectory": str(folder / "db"), "Plugins": [],
            "IndexDirectory": str(folder / "db"), "DicomAlwaysAllowStore": True,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.command = [shutil.which("Orthanc") or "Orthanc", str(folder / "orthanc.json")]
        self.log = folder / "orthanc.log"

    def __enter__(self) -> "Pacs":
        self.process = subprocess.Popen(self.command, stdout=self.log.open("wb"), stderr=subprocess.STDOUT)
        wait_for(self.http)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def segs_by_study(self) -> Counter[str]:
        """Return the number of SEG instances by study UID."""
        found: Counter[str] = Counter()
        for series in self._get("/series?expand"):
            if series["MainDicomTags"].get("Modality") == "SEG":
                study = self._get(f"/studies/{series['ParentStudy']}")
                found[study["MainDicomTags"]["StudyInstanceUID"]] += len(series["Instances"])
        return found

    def count(self) -> int:
        return int(self._get("/statistics")["CountInstances"])

    def _get(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=60) as answer:
            return json.load(answer)


class Served:
    """The service as a process that can be killed and started again."""

    def __init__(self, config: Path, listen: int, monitor: int) -> None:
        self.config, self.listen, self.monitor = config, listen, monitor
        self.log = config.with_name("service.log").open("ab")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "c3s3_seg", "serve", "--config", str(self.config)]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        wait_for(self.listen)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.start()

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {name: float(value) for name, _, value in (s.rpartition(" ") for s in lines if s[0] != "#")}

    def memory_mb(self) -> list[float]:
        """Return the resident memory (MB) of the service and of each worker."""
        own = self.process.pid
        pids = [own]
        for path in Path(f"/proc/{own}/task").glob("*/children"):
            with suppress(OSError):  # a thread that has just ended
                pids += [int(pid) for pid in path.read_text().split()]
        return [_resident_mb(pid) for pid in pids]


def _resident_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def sender(scan: list[Path], folder: Path, count: int, server: Node, sent: list[str]) -> None:
    """Send copies of a scan, each as a study of its own, and repeat each until it was accepted."""
    for number in range(count):
        study, series = generate_uid(entropy_srcs=["soak", str(number)]), generate_uid()
        place = folder / str(number)
        place.mkdir()
        for path in scan:
            data = pydicom.dcmread(path)
            data.StudyInstanceUID, data.SeriesInstanceUID = study, series
            data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            data.save_as(place / path.name)
        while True:
            try:
                send(server, sorted(place.iterdir()), Caller("SCANNER", 30.0))
                break
            except C3S3Error:
                time.sleep(0.5)
        shutil.rmtree(place)
        sent.append(str(study))


def is_refused(server: Node, scan: Path) -> bool:
    try:
        send(server, [scan], Caller("STRANGER", 10.0))
    except C3S3Error as error:
        return "Calling AE title" in str(error)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--every", type=float, default=15.0, help="seconds between lines")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="c3s3-seg-soak-") as name:
        raise SystemExit(run(Path(name), words.studies, words.kills, words.every))


def run(folder: Path, studies: int, kills: int, every_s: float) -> int:
    (folder / "outgoing").mkdir()
    scan, _ = save(simulate(1, COARSE), folder / "scan", seed=1, file_format="dicom")
    files = sorted(scan.iterdir())
    listen, dicom, http, monitor = free_ports(4)
    config = folder / "c3s3-seg.toml"
    config.write_text(SETTINGS.format(listen=listen, dicom=dicom, monitor=monitor))
    server, sent = Node("SEGMENT", "127.0.0.1", listen), []
    chance = random.Random(1)
    moments = sorted(chance.uniform(0.05, 0.95) for _ in range(kills))
    with Pacs(folder, dicom, http) as pacs:
        service = Served(config, listen, monitor)
        try:
            refused = is_refused(server, files[0])
            print(f"a stranger's title is {'refused' if refused else 'ACCEPTED'}")
            words = (files, folder / "outgoing", studies, server, sent)
            threading.Thread(target=sender, args=words, daemon=True).start()
            _watch(service, pacs, studies, moments, every_s, sent)
            time.sleep(10)  # results that come twice would arrive now
            service.process.send_signal(signal.SIGTERM)
            code = service.process.wait()
        finally:
            service.process.kill()
            service.process.wait()
        found = pacs.segs_by_study()
    twice, missing = [s for s, n in found.items() if n > 1], set(sent) - set(found)
    lines = (folder / "state" / "results.jsonl").read_text().splitlines()
    ids = Counter(json.loads(line)["id"] for line in lines)
    revised = sum(json.loads(line)["revision"] > 1 for line in lines)  # a part was taken for a whole study
    print(
        f"{len(sent)} studies sent, {kills} times SIGKILL, {len(found)} studies with a SEG,"
        f" {len(missing)} missing, {len(twice)} twice,"
        f" {len(lines)} lines in the log of results ({len(lines) - len(ids)} twice, {revised} revised),"
        f" exit code after SIGTERM {code}"
    )
    good = refused and not missing and not twice and len(found) == studies and len(ids) == len(lines)
    return 0 if good and code == 0 else 1


def _watch(
    service: Served, pacs: Pacs, studies: int, moments: list[float], every_s: float, sent: list[str]
) -> None:
    """Kill the service at the moments and print a line every `every_s`, until each study has a result."""
    started, printed = time.monotonic(), 0.0
    while (stored := pacs.count()) < studies:
        if moments and stored / studies >= moments[0]:
            moments.pop(0)
            service.kill()
            print(f"{time.monotonic() - started:6.0f} s  SIGKILL after {stored} results", flush=True)
        if time.monotonic() - printed >= every_s:
            printed = time.monotonic()
            found = service.metrics()
            own, *workers = service.memory_mb()
            print(
                f"{printed - started:6.0f} s  sent {len(sent):4d}  stored {stored:4d}  queue"
                f" {found['c3s3_seg_queue_length']:4.0f}  dead {found.get(DEAD, 0):2.0f}  spool"
                f" {found['c3s3_seg_spool_bytes'] / 1e6:7.2f} MB  service {own:6.1f} MB  worker"
                f" {max(workers, default=0):6.1f} MB",
                flush=True,
            )
        time.sleep(0.2 + random.random() * 0.3)


DEAD = 'c3s3_seg_studies{state="dead"}'

if __name__ == "__main__":
    main()
