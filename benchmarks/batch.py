"""Many phantom cases: cases per hour with all integrity checks, compared with a plain loop without checks.

    python benchmarks/batch.py [--cases 200] [--distinct 20] [--runs 3] [--fine] [--before REVISION]
    python benchmarks/batch.py --flat 1000

All contenders process the same files with the same bundle, in turn, each in a process or set of workers of
its own; start-up is included (seconds in a run of minutes). Each contender has processed two cases before,
so that caches and byte code are warm for all. The plain loop reads, predicts and writes with SimpleITK,
one after the other, without hashes, journal or read-back. `ours` is `c3s3-seg predict`. Memory is that of
all processes together (PSS, sampled). `--fine` simulates the same hearts with the voxels of the public
benchmark's scans (0.625 x 0.625 x 1.25 mm, 3.7 million voxels); the default has half as many a side,
so that the network is nearly the whole work. `--before` runs `predict` of a git revision in turn with
that of the working tree; the plain loop is that of the working tree.
"""

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cold_start import archived, environment

PLAIN = """
import sys
from pathlib import Path
import SimpleITK
from c3s3_seg import ModelBundle, load, open_predictor
scans, out = Path(sys.argv[1]), Path(sys.argv[2])
out.mkdir()
predictor = open_predictor(ModelBundle.find("phantom"))
for path in sorted(scans.iterdir()):
    scan = load(path)
    mask = predictor(scan).mask
    image = SimpleITK.GetImageFromArray(mask.array.transpose(2, 1, 0))
    image.SetSpacing(mask.geometry.spacing_mm.tolist())
    image.SetOrigin(mask.geometry.origin_mm.tolist())
    image.SetDirection(mask.geometry.direction.ravel().tolist())
    SimpleITK.WriteImage(image, str(out / path.name), useCompression=True)
"""
OURS = [sys.executable, "-m", "c3s3_seg", "predict", "--model", "phantom", "--quiet"]
CONTENDERS: dict[str, list[str] | None] = {
    "plain loop, no proofs": None,
    "ours, no workers": [],
    "ours, 1 worker": ["--workers", "1"],
    "ours, 2 workers": ["--workers", "2"],
}
HERE = Path(__file__).parents[1]


class Meter(threading.Thread):
    """A thread that samples the memory of a process and its children every 0.3 s."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.seen = pid, [0.0]
        self.done = False

    def run(self) -> None:
        while not self.done:
            self.seen.append(sum(map(pss_mb, family(self.pid))))
            time.sleep(0.3)


def family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(p for child in children for p in family(int(child)))]


def pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def timed(command: list[str], tree: Path = HERE) -> tuple[float, float, list[float]]:
    """Run a command with the package of a folder; return wall and processor seconds and memory samples."""
    started, before_s = time.perf_counter(), processor_s()
    # It runs in that folder, as Python with -m or -c searches the current folder for the package first.
    process = subprocess.Popen(command, cwd=tree, env=environment(tree))
    meter = Meter(process.pid)
    meter.start()
    code = process.wait()
    meter.done = True
    if code:
        sys.exit(f"{command} ended with {code}")
    return time.perf_counter() - started, processor_s() - before_s, meter.seen


def processor_s() -> float:
    """Return the processor seconds of all ended child processes and their descendants."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fill(folder: Path, cases: int, distinct: int, *, fine: bool = False) -> Path:
    from c3s3_seg.io import save
    from c3s3_seg.phantom import Simulator, simulate

    setup = Simulator(shape=(224, 208, 80), spacing_mm=(0.625, 0.625, 1.25)) if fine else Simulator()
    scans = folder / "scans"
    scans.mkdir()
    for seed in range(min(cases, distinct)):
        save(simulate(40_000 + seed, setup).scan, scans / f"phantom-{seed:04}.nii.gz")
    for n in range(distinct, cases):
        (scans / f"phantom-{n:04}.nii.gz").write_bytes(
            (scans / f"phantom-{n % distinct:04}.nii.gz").read_bytes()
        )
    return scans


def network_s(out: Path) -> float:
    """Return the mean seconds of the network, as the journal records them for each case."""
    facts = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    return statistics.fmean(fact["seconds"]["network"] for fact in facts if "seconds" in fact)


@dataclass(frozen=True)
class Measured:
    """The figures of one run of one contender."""

    wall_s: float
    used_s: float
    network_s: float
    peak_mb: float


def contenders(before: str | None, folder: Path) -> dict[str, tuple[list[str] | None, Path]]:
    """Return the options of `predict` (None for the plain loop) and the package's folder by contender."""
    every = {name: (words, HERE) for name, words in CONTENDERS.items()}
    if before is None:
        return every
    tree = archived(before, folder)
    more = {
        f"{before}{n.removeprefix('ours')}": (words, tree)
        for n, words in CONTENDERS.items()
        if words is not None
    }
    return every | more


def compare(folder: Path, scans: Path, options: argparse.Namespace) -> None:
    """Run all contenders in turn, `runs` times, so that a slow machine slows all of them; print the table."""
    cases, runs = len(list(scans.iterdir())), options.runs
    every = contenders(options.before, folder)
    measured: dict[str, list[Measured]] = {name: [] for name in every}
    few = folder / "few"
    few.mkdir()
    for path in sorted(scans.iterdir())[:2]:
        (few / path.name).symlink_to(path)
    for name, (words, tree) in every.items():
        measure(folder / f"{name.replace(' ', '-')}-first", few, words, tree)
    for run in range(runs):
        for name, (words, tree) in every.items():
            measured[name].append(measure(folder / f"{name.replace(' ', '-')}-{run}", scans, words, tree))
    print(f"{cases} cases, {runs} runs of each in turn; medians, and the ratio of every run.\n")
    print("| contender | cases per hour | ratio | ratios | s a case | processor s | network s | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    plain = measured[next(iter(every))]
    for name, found in measured.items():
        wall_s, used_s, network, peak = (
            statistics.median(getattr(m, key) for m in found) for key in Measured.__annotations__
        )
        ratios = [p.wall_s / m.wall_s for p, m in zip(plain, found, strict=True)]
        row = f"{3600 * cases / wall_s:.0f} | {statistics.median(ratios):.2f}"
        row += f" | {', '.join(f'{r:.2f}' for r in ratios)} | {wall_s / cases:.3f} | {used_s / cases:.3f}"
        print(f"| {name} | {row} | {'' if math.isnan(network) else f'{network:.3f}'} | {peak:.0f} |")


def measure(out: Path, scans: Path, words: list[str] | None, tree: Path) -> Measured:
    command = [*OURS, str(scans), "-o", str(out), *(words or [])]
    if words is None:
        command = [sys.executable, "-c", PLAIN, str(scans), str(out)]
    wall_s, used_s, memory = timed(command, tree)
    print(f"{out.name}: {wall_s:.1f} s", file=sys.stderr, flush=True)
    return Measured(wall_s, used_s, math.nan if words is None else network_s(out), max(memory))


def share_of_the_proofs(out: Path) -> None:
    """Print the cost per case of work that the plain loop omits, each part timed alone on the written files.

    Times are wall times; while writing waits for the disk, another case is in the network.
    """
    from c3s3_seg.batch.journal import Journal

    records = list(Journal(out / "journal.sqlite").records())[:40]
    copy = Journal(out / "again.sqlite")
    spent: dict[str, list[float]] = {}
    for record in records:
        for name, work in proofs(record, out, copy).items():
            started = time.perf_counter()
            work()
            spent.setdefault(name, []).append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in spent.items()}
    total = statistics.median(sum(r.outcome.seconds.values()) for r in records)
    shown = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in medians.items())
    share = sum(medians.values()) / total
    print(f"\nProofs: {shown}; together {100 * share:.1f} % of a case of {total:.3f} s (medians).")


def proofs(record: Any, out: Path, copy: Any) -> dict[str, Callable[[], object]]:
    """Return the proofs of a finished case as functions that repeat them; `copy` is another journal."""
    from c3s3_seg.io.image.files import _compare, load_image
    from c3s3_seg.system.files import write_whole
    from c3s3_seg.system.reading import sha256

    outcome, setting = record.outcome, record.setting
    mask = out / f"{outcome.case}.nii.gz"
    volume, made = load_image(mask), json.loads((out / f"{outcome.case}.json").read_text())
    files = [Path(outcome.scan), *(out / name for name in outcome.outputs)]
    return {
        "hashes": lambda: [sha256(path) for path in files],
        "read-back": lambda: _compare(volume.array, volume.geometry, mask),
        "sync": lambda: [synced(path) for path in (mask, mask.parent)],
        "JSON": lambda: write_whole(out / "again.json", json.dumps(made, indent=1).encode()),
        "journal": lambda: [copy.begin(outcome, setting), copy.record(outcome, setting)],
    }


def synced(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def flat(folder: Path, cases: int) -> None:
    """Print the memory over a run of many small cases."""
    import numpy as np

    from c3s3_seg.geometry.volume import Geometry
    from c3s3_seg.io import save

    scans = folder / "small"
    scans.mkdir()
    geometry = Geometry.build((24, 20, 16), (2.0, 2.0, 2.0))
    for n in range(cases):
        noise = np.random.default_rng(n).normal(100, 10, geometry.shape).astype(np.float32)
        save(geometry.volume(noise), scans / f"small-{n:05}.nii.gz")
    for words in ([], ["--workers", "2"]):
        out = folder / f"small-out-{len(words)}"
        wall_s, _, memory = timed([*OURS, str(scans), "-o", str(out), *words])
        at = [memory[int(len(memory) * part)] for part in (0.1, 0.5, 0.95)]
        name = " ".join(words) or "no workers"
        print(
            f"{cases} small cases, {name}: {wall_s:.0f} s;",
            f"MB after 10, 50, 95 %: {', '.join(f'{m:.0f}' for m in at)}",
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--distinct", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3, help="of each contender, in turn")
    parser.add_argument("--fine", action="store_true", help="scans of 3.7 million voxels in place of 0.65")
    parser.add_argument("--flat", type=int, default=0, help="instead: memory over so many small cases")
    parser.add_argument("--before", help="git revision whose predict runs too")
    parser.add_argument("--scans", type=Path, help="a folder that an earlier run filled with --cases")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.flat:
            flat(folder, options.flat)
            return
        scans = (
            options.scans.resolve()
            if options.scans
            else fill(folder, options.cases, options.distinct, fine=options.fine)
        )
        compare(folder, scans.resolve(), options)
        share_of_the_proofs(folder / "ours,-no-workers-0")


if __name__ == "__main__":
    main()
