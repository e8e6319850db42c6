"""Faults that a batch run survives: each is really inflicted on `c3s3-seg predict`, which is then run again.

    python benchmarks/faults.py [--kills 50] [--files 10000] [--seed 0] [--only WORDS]

Prints the table of docs/operations.md. A row is right if the exit code and the message are as promised,
no half file is left, no existing file is lost, and the same command again ends with the hashes of an
undisturbed run. tests/batch/test_faults.py runs the same rows.
"""

import argparse
import ctypes
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from c3s3_seg.batch import verify
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import load_mask, save

CASES = 8
COMMAND = [sys.executable, "-m", "c3s3_seg", "predict", "--allow-out-of-domain"]  # blobs are no hearts
Answer = subprocess.CompletedProcess[str]
PIPE = subprocess.PIPE


def start(
    words: Sequence[object],
    *,
    stdout: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
    limits: Mapping[int, int] | None = None,
) -> "subprocess.Popen[str]":
    """Start a command in a process of its own, with soft `resource` limits."""

    def limited() -> None:
        for number, limit in (limits or {}).items():
            resource.setrlimit(number, (limit, resource.RLIM_INFINITY))

    command = [str(word) for word in words]
    return subprocess.Popen(command, stdout=stdout, stderr=stderr, text=True, preexec_fn=limited)


@dataclass
class Ground:
    """A folder in which faults are inflicted, its scans, and the hashes of an undisturbed run."""

    folder: Path
    kills: int = 2
    files: int = 1000
    seed: int = 0
    hashes: dict[str, str] = field(default_factory=dict)
    seconds_s: float = 0.0
    # The function that runs an undisturbed command, and the one that starts a command to be disturbed:
    # tests replace them to save a process or its imports.
    undisturbed: Callable[[list[object]], Answer] | None = None
    start: Callable[..., "subprocess.Popen[str]"] = start

    @property
    def scans(self) -> Path:
        return self.folder / "scans"

    def fresh(self, name: str) -> Path:
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def predict(self, out: Path, *words: object, scans: Path | None = None, **more: object) -> Answer:
        command = [*self.words(out, scans), *words]
        return run(command, **more) if more else self.run(command)

    def run(self, command: list[object]) -> Answer:
        return run(command) if self.undisturbed is None else self.undisturbed(command)

    def limited(self, out: Path, *words: object, scans: Path, limits: Mapping[int, int]) -> Answer:
        command = [*self.words(out, scans), *words]
        process = self.start(command, stdout=PIPE, stderr=PIPE, limits=limits)
        stdout, stderr = process.communicate(timeout=300)
        return Answer(command, process.returncode, stdout, stderr)

    def words(self, out: Path, scans: Path | None = None) -> list[str]:
        return [*COMMAND, str(scans or self.scans), "-o", str(out), "--model", "phantom", "--threads", "1"]

    def whole(self, out: Path) -> None:
        """Check that the same command again ends as if undisturbed and leaves no temporary files."""
        answer = self.predict(out)
        assert answer.returncode == 0, answer.stderr
        assert masks(out) == self.hashes, "other hashes"
        assert not leftovers(out), leftovers(out)
        assert verify(out).holds


def run(words: list[object], **more: object) -> Answer:
    command = [str(word) for word in words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **more)  # type: ignore[call-overload, no-any-return]


def scan(seed: int, shape: tuple[int, int, int] = (24, 20, 16)) -> object:
    noise = np.random.default_rng(seed).normal(100, 10, shape)
    noise[8:16, 6:14, 4:12] += 200
    return Geometry.build(shape, (2.0, 2.0, 2.0)).volume(noise.astype(np.float32))


def prepare(
    folder: Path,
    kills: int,
    files: int,
    seed: int = 0,
    undisturbed: Callable[[list[object]], Answer] | None = None,
    start: Callable[..., "subprocess.Popen[str]"] = start,
) -> Ground:
    ground = Ground(folder, kills, files, seed, undisturbed=undisturbed, start=start)
    ground.scans.mkdir(parents=True)
    for n in range(CASES):
        save(scan(n), ground.scans / f"case-{n:02}.nii.gz")  # type: ignore[arg-type]
    started = time.perf_counter()
    answer = ground.predict(folder / "unbroken")
    ground.seconds_s = time.perf_counter() - started
    assert answer.returncode == 0, answer.stderr
    ground.hashes = masks(folder / "unbroken")
    return ground


def masks(out: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in visible(out)}


def visible(out: Path) -> list[Path]:
    return sorted(p for p in out.glob("*.nii.gz") if not p.name.startswith("."))


def leftovers(out: Path) -> list[str]:
    return [p.name for p in out.iterdir() if p.name.startswith(".")]


def said(answer: Answer, code: int, *parts: str) -> str:
    """Check exit code and message; return both for the table. Raise AssertionError if either differs."""
    text = answer.stdout + answer.stderr
    assert answer.returncode == code, (answer.returncode, text[-2000:])
    assert "Traceback" not in text, text[-2000:]
    flat = " ".join(text.split())
    for part in parts:
        assert part in flat, (part, flat[-2000:])
    return f"{code}: {parts[0]}" if parts else str(code)


def whole_so_far(ground: Ground, out: Path) -> None:
    """Check that each visible mask is complete and right."""
    for path in visible(out) if out.exists() else []:
        load_mask(path)
        assert masks(out)[path.name] == ground.hashes[path.name]


# -- the faults ------------------------------------------------------------------------------------------


def killed_program(ground: Ground) -> str:
    return kill_often(ground, "kill-program", [], lambda process: os.kill(process.pid, signal.SIGKILL))


def killed_program_with_workers(ground: Ground) -> str:
    return kill_often(
        ground, "kill-pool", ["--workers", "2"], lambda process: os.kill(process.pid, signal.SIGKILL)
    )


def killed_worker(ground: Ground) -> str:
    """Kill a worker; the run must continue by itself."""
    out = ground.fresh("kill-worker")
    process = ground.start([*ground.words(out), "--workers", "2"])
    while not visible(out) if out.exists() else True:
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(random.choice(children(process.pid)), signal.SIGKILL)
    assert process.wait(timeout=120) == 0
    assert masks(out) == ground.hashes
    return "0: replaced, its cases done again, the same hashes"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def at_work(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def kill_often(ground: Ground, name: str, words: list[str], kill: Callable[..., None]) -> str:
    draw = random.Random(ground.seed)
    caught = 0
    for _ in range(ground.kills):
        out = ground.fresh(name)
        process = ground.start([*ground.words(out), *words])
        stop = draw.randrange(CASES)  # kill after this many masks, at a random moment of a case
        while process.poll() is None and len(visible(out) if out.exists() else []) < stop:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.06))
        workers = children(process.pid) if process.poll() is None else []
        caught += process.poll() is None
        kill(process)
        process.wait()
        while any(map(at_work, workers)):  # workers end by themselves and hold the folder's lock until then
            time.sleep(0.01)
        whole_so_far(ground, out)
        ground.whole(out)
    return f"-9: {ground.kills} of {ground.kills} resumed to the same hashes ({caught} were still at work)"


def signalled(ground: Ground, number: int, code: int) -> str:
    out = ground.fresh("signal")
    words = ground.words(out)
    process = ground.start(words, stdout=PIPE, stderr=PIPE)
    while not (out.exists() and visible(out)):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    if process.returncode == 0:  # it had finished before the signal
        return said(Answer(words, code, stdout, stderr), code)
    text = said(Answer(words, process.returncode, stdout, stderr), code, "what was finished is kept")
    whole_so_far(ground, out)
    ground.whole(out)
    return text


def interrupted(ground: Ground) -> str:
    return signalled(ground, signal.SIGINT, 130)


def terminated(ground: Ground) -> str:
    return signalled(ground, signal.SIGTERM, 143)


def disk_full_for_a_mask(ground: Ground) -> str:
    """Limit the size of files in place of a full disk, so that a write fails half way."""
    scans, out = ground.fresh("big"), ground.fresh("full")
    shutil.copytree(ground.scans, scans)
    save(scan(1, (60, 60, 60)), scans / "large.nii.gz")  # type: ignore[arg-type]
    words = ["--probabilities", "--format", "mha"]
    answer = ground.limited(out, *words, scans=scans, limits={resource.RLIMIT_FSIZE: 400_000})
    text = said(answer, 1, "could not be written in full")
    assert not leftovers(out), leftovers(out)
    assert not (out / "large.json").exists()
    answer = ground.predict(out, *words, scans=scans)
    said(answer, 0)
    return text


def disk_full_for_the_journal(ground: Ground) -> str:
    out = ground.fresh("full-journal")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))

    # Under a limit this low, the coverage tool could not write its own file.
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    text = said(ground.predict(out, preexec_fn=limited, env=plain), 2, "the journal cannot be written")
    whole_so_far(ground, out)
    ground.whole(out)
    return text


def out_of_memory(ground: Ground) -> str:
    scans, out = ground.fresh("huge"), ground.fresh("memory")
    shutil.copytree(ground.scans, scans)
    (scans / "case-05.nii.gz").unlink()
    save(scan(1), scans / "case-05.nii")  # type: ignore[arg-type]
    with (scans / "case-05.nii").open("r+b") as file:  # header and file now have 0.6 GB
        file.seek(42)
        file.write(np.array([1000, 1000, 150], "<i2").tobytes())
        file.truncate(352 + 600_000_000)
    answer = ground.limited(out, scans=scans, limits={resource.RLIMIT_AS: 1_300_000_000})
    text = said(answer, 1, "the memory did not suffice", "case-05")
    assert len(visible(out)) == CASES - 1
    assert not leftovers(out), leftovers(out)
    return text


def read_only(ground: Ground) -> str:
    out = ground.fresh("denied")
    out.mkdir(mode=0o555)

    def no_override() -> None:
        """Drop CAP_DAC_OVERRIDE (1) by PR_CAPBSET_DROP (24): with it, root may write anywhere."""
        ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)

    answer = ground.predict(out, preexec_fn=no_override)
    text = said(answer, 2, "the folder cannot be written to (Permission denied)")
    assert not list(out.iterdir())
    out.chmod(0o755)
    ground.whole(out)
    return text


def vanished(ground: Ground) -> str:
    scans, out = ground.fresh("vanishing"), ground.fresh("vanished")
    shutil.copytree(ground.scans, scans)
    words = [*ground.words(out, scans), "--json"]
    process = ground.start(words, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["total"] == CASES
    last = scans / f"case-{CASES - 1:02}.nii.gz"
    last.unlink()
    stdout, stderr = process.communicate(timeout=60)
    text = said(Answer(words, process.returncode, stdout, stderr), 1, "there is no such file or folder")
    shutil.copy(ground.scans / last.name, last)
    answer = ground.predict(out, scans=scans)
    said(answer, 0)
    assert masks(out) == ground.hashes
    return text


def flipped(path: Path, at: float = 0.6) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 16
    path.write_bytes(bytes(content))


def bit_in_an_image(ground: Ground) -> str:
    scans, out = ground.fresh("bit"), ground.fresh("bit-out")
    shutil.copytree(ground.scans, scans)
    flipped(scans / "case-03.nii.gz")
    text = said(ground.predict(out, scans=scans), 1, "the compressed file is damaged", "case-03")
    shutil.copy(ground.scans / "case-03.nii.gz", scans / "case-03.nii.gz")
    said(ground.predict(out, scans=scans), 0)
    assert masks(out) == ground.hashes
    return text


def bit_in_the_weights(ground: Ground) -> str:
    from c3s3_seg.bundle import WEIGHTS

    texts = []
    for name in ("model.safetensors", "model.onnx"):
        bundle = ground.fresh("bundle")
        shutil.copytree(WEIGHTS / "phantom", bundle)
        flipped(bundle / name)
        out = ground.fresh("weights")
        answer = ground.run([*COMMAND, ground.scans, "-o", out, "--model", bundle])
        texts.append(said(answer, 2, "the manifest says", name, "Get the bundle again"))
        assert not out.exists()
    return texts[0]


def bit_in_the_journal(ground: Ground) -> str:
    """Flip a bit in the journal: the next run must refuse it, and the run after its removal must succeed."""
    out = ground.fresh("journal")
    said(ground.predict(out), 0)
    path = out / "journal.sqlite"
    whole = path.read_bytes()
    at = whole.rindex(b'"case-07"')
    path.write_bytes(whole[:at] + b'"case-17"' + whole[at + 9 :])
    text = said(ground.predict(out), 2, "the journal is damaged", "Move it away")
    assert masks(out) == ground.hashes
    path.unlink()
    ground.whole(out)
    return text


def bit_in_a_mask(ground: Ground) -> str:
    out = ground.fresh("mask-bit")
    said(ground.predict(out), 0)
    flipped(out / "case-04.nii.gz")
    checked = ground.run([sys.executable, "-m", "c3s3_seg", "verify", out])
    said(checked, 1, "case-04.nii.gz: sha256 is not", "1 not as recorded")
    text = said(ground.predict(out), 1, "edited or is damaged")
    (out / "case-04.nii.gz").unlink()
    ground.whole(out)
    return text


def two_runs(ground: Ground) -> str:
    out = ground.fresh("two")
    words = [*ground.words(out), "--json"]
    first = ground.start(words, stdout=PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    os.kill(first.pid, signal.SIGSTOP)
    try:
        text = said(ground.predict(out), 2, "another run writes into this folder", f"process {first.pid} on")
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.communicate(timeout=60)
    assert first.returncode == 0
    ground.whole(out)
    return text


def odd_names(ground: Ground) -> str:
    scans, out = ground.fresh("names"), ground.fresh("names-out")
    scans.mkdir()
    content = (ground.scans / "case-00.nii.gz").read_bytes()
    names = [
        "ünïcode 心房.nii.gz",
        "two\nlines.nii.gz",
        "a b; rm -rf '$x'.nii.gz",
        "[red].nii.gz",
        "-o.nii.gz",
    ]
    names += ["x" * (255 - 7) + ".nii.gz", os.fsdecode(b"caf\xe9.nii.gz"), "..nii.gz.nii.gz", "%s{}.nii.gz"]
    for name in names:
        (scans / name).write_bytes(content)
    bare = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    for words, environment in ((["--report", "png"], {}), (["--workers", "1"], bare)):
        target = out / str(len(environment))
        more = {"env": {**os.environ, **environment}} if environment else {}
        answer = ground.predict(target, *words, scans=scans, **more)
        said(answer, 0)
        expected = {n for n in names if not n.startswith(".")}
        assert {p.name for p in target.glob("*.nii.gz")} == expected, answer.stdout
        assert verify(target).holds, verify(target)
    return "0"


def same_names(ground: Ground) -> str:
    scans, out = ground.fresh("alike"), ground.fresh("alike-out")
    for folder, name in (("a", "scan"), ("b", "scan"), ("c", "SCAN"), ("d", "Scan")):
        (scans / folder).mkdir(parents=True)
        shutil.copy(ground.scans / "case-00.nii.gz", scans / folder / f"{name}.nii.gz")
    answer = ground.run([*COMMAND, *sorted(scans.glob("*/*")), "-o", out, "--model", "phantom"])
    said(answer, 0)
    assert [p.name for p in visible(out)] == [f"{x}.nii.gz" for x in ("a_scan", "b_scan", "c_SCAN", "d_Scan")]
    return "0: named after their folders"


def loops(ground: Ground) -> str:
    scans, out = ground.fresh("loops"), ground.fresh("loops-out")
    shutil.copytree(ground.scans, scans)
    (scans / "up").symlink_to("..", target_is_directory=True)
    (scans / "self.nii.gz").symlink_to("self.nii.gz")
    (scans / "here").symlink_to(".", target_is_directory=True)
    said(ground.predict(out, scans=scans), 0)
    assert masks(out) == ground.hashes
    return "0: passed over"


def many_files(ground: Ground) -> str:
    scans, out = ground.fresh("many"), ground.fresh("many-out")
    scans.mkdir()
    for n in range(ground.files):
        os.link(ground.scans / "case-00.nii.gz", scans / f"scan-{n:05}.nii.gz")
    answer = ground.predict(out, "--set", "batch.limit=3", scans=scans)
    said(answer, 0, f"{ground.files - 3} cases left for another run")
    assert len(visible(out)) == 3
    return f"0: {ground.files} files"


def bare_environment(ground: Ground) -> str:
    out = ground.fresh("bare")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    answer = ground.predict(out, env=environment)
    said(answer, 0)
    assert masks(out) == ground.hashes
    return "0"


def closed_stdout(ground: Ground) -> str:
    out = ground.fresh("closed")
    words = " ".join(f"'{word}'" for word in ground.words(out))
    answer = subprocess.run(["bash", "-c", f"{words} >&-"], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, ""), answer
    assert masks(out) == ground.hashes
    shutil.rmtree(out)
    process = ground.start([*ground.words(out), "--json"], stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["event"] == "start"
    process.stdout.close()
    assert (process.wait(timeout=300), process.stderr.read()) == (0, "")
    assert masks(out) == ground.hashes
    return "0: nobody reads, the files are whole"


FAULTS: dict[str, Callable[[Ground], str]] = {
    "kill -9 of the program at a random moment": killed_program,
    "kill -9 of the program, workers at work": killed_program_with_workers,
    "kill -9 of a worker": killed_worker,
    "SIGINT": interrupted,
    "SIGTERM": terminated,
    "disk full while a mask is written (RLIMIT_FSIZE)": disk_full_for_a_mask,
    "disk full while the journal is written (RLIMIT_FSIZE)": disk_full_for_the_journal,
    "memory runs out in one case (RLIMIT_AS)": out_of_memory,
    "output folder that may not be written to": read_only,
    "input that vanishes in mid-run": vanished,
    "one bit in an image": bit_in_an_image,
    "one bit in the weights, in the ONNX graph": bit_in_the_weights,
    "one bit in the journal": bit_in_the_journal,
    "one bit in a mask": bit_in_a_mask,
    "two runs into one folder": two_runs,
    "names: unicode, line break, 255 bytes, not Unicode, shell; locale C": odd_names,
    "the same name twice, and in other case": same_names,
    "symlink loops": loops,
    "thousands of files": many_files,
    "no HOME, empty environment, locale C": bare_environment,
    "closed stdout, reader that goes away": closed_stdout,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which is killed")
    parser.add_argument("--only", default="", help="rows with this in their name")
    options = parser.parse_args()
    print("| fault | exit code and message | same command again |\n|---|---|---|")
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        ground = prepare(Path(folder) / "ground", options.kills, options.files, options.seed)
        for name, fault in FAULTS.items():
            if options.only not in name:
                continue
            try:
                print(f"| {name} | {fault(ground)} | as if nothing had happened |", flush=True)
            except AssertionError as error:
                bad += 1
                print(f"| {name} | **wrong**: {' '.join(str(error).split())} | |", flush=True)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
