"""`predict` of one scan from the start of the process: time of each phase by revision, and the network alone.

    python benchmarks/cold_start.py [--before REVISION] [--scan FILE] [--model NAME] [--runs 10]

Every run is a process of its own. A revision is unpacked from git into a temporary folder (`git archive`); it
and the working tree run in turn, after one run of each that writes the byte code. Wall time, processor time
and peak memory are those of the plain command. The phases are from runs with a stopwatch in the package: each
is the time that a thread spends in it, less the time of other phases within it; "the rest" is the time in
which no thread is in a phase. Two threads may work at once, so phases can add up to more than the wall time.
A network that waits for its compilation in another thread counts in both phases.
The network alone is a loaded and compiled network on all tiles of this scan, the best of three scans.

A folder given as the scan is a DICOM study. `PYTHONDONTWRITEBYTECODE` is removed from the environment.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parents[1]
STARTED = "COLD_START_BEGAN_S"
PHASES = (
    "interpreter",
    "imports",
    "open graph",
    "compile",
    "read",
    "check + prepare",
    "network + its wait",
    "to grid",
    "write + verify",
    "the rest",
    "exit",
)
STOPWATCH = """
import builtins, json, os, sys, threading, time
began = time.monotonic()
spent = {"interpreter": began - float(os.environ["COLD_START_BEGAN_S"])}
here, lock = threading.local(), threading.Lock()
busy = {"threads": 0, "since": began, "total": 0.0}  # how long any thread was in a phase

def count(step):
    with lock:
        now = time.monotonic()
        if busy["threads"] == 0:
            busy["since"] = now
        busy["threads"] += step
        if busy["threads"] == 0:
            busy["total"] += now - busy["since"]
        return now

def timed(phase, call):
    def inner(*args, **more):
        stack = here.__dict__.setdefault("stack", [])
        if stack and stack[-1][0] == phase:
            return call(*args, **more)
        started, level = count(1), [phase, 0.0]
        stack.append(level)
        try:
            return call(*args, **more)
        finally:
            took = count(-1) - started
            stack.pop()
            spent[phase] = spent.get(phase, 0.0) + took - level[1]
            if stack:
                stack[-1][1] += took
    return inner

def recorded(main):
    def inner():
        try:
            main()
        finally:
            ended = time.monotonic()
            spent["the rest"] = ended - began - busy["total"]
            with open(os.environ["COLD_START_TO"], "w") as file:
                json.dump({**spent, "ended": ended}, file)
    return inner

builtins.__import__ = timed("imports", builtins.__import__)
from c3s3_seg import cli
from c3s3_seg.batch.case import Steps
from c3s3_seg.inference.backends.runtimes import OpenVinoBackend
from c3s3_seg.inference.predictor import Predictor
for owner, name, phase in (
    (OpenVinoBackend, "__init__", "open graph"), (OpenVinoBackend, "_for", "compile"),
    (OpenVinoBackend, "__call__", "network + its wait"), (Steps, "load", "read"),
    (Steps, "check", "check + prepare"), (Steps, "prepare", "check + prepare"),
    (Predictor, "to_scan_grid", "to grid"), (Steps, "write", "write + verify"),
):
    setattr(owner, name, timed(phase, getattr(owner, name)))
cli.main = recorded(cli.main)
sys.argv[0] = "c3s3-seg"
getattr(cli, "program", cli.main)()
"""
ALONE = """
import json, sys, time
import numpy as np
from c3s3_seg import ModelBundle, load, open_predictor
import c3s3_seg.inference.backends.execute as execute
scan, name = sys.argv[1:]
predictor = open_predictor(ModelBundle.find(name))
backend, spent = predictor.backends[0], []
call = type(backend).__call__
def timed(self, patches):
    started = time.perf_counter()
    answer = call(self, patches)
    spent[-1] += time.perf_counter() - started
    return answer
type(backend).__call__ = timed
scan = load(scan, rule=predictor.task.series_rule)
for _ in range(4):
    spent.append(0.0)
    predictor(scan)
print(json.dumps(min(spent[1:])))
"""


def environment(tree: Path, **more: str) -> dict[str, str]:
    """Return the environment of a process that runs the package in this folder; byte code is kept."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(tree), **more}


def archived(revision: str, folder: Path) -> Path:
    """Unpack the package of a git revision below a folder; return its folder."""
    tree = folder / "before"
    tree.mkdir()
    archive = subprocess.run(
        ["git", "archive", revision, "c3s3_seg"], cwd=HERE, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x"], cwd=tree, input=archive.stdout, check=True)
    return tree


def run(command: list[str], tree: Path, **more: str) -> dict[str, float]:
    """Run one process; return its wall and processor seconds, peak memory (MB) and end time."""
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment(tree, **more, **{STARTED: repr(started)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    said = process.stderr.read() if process.stderr else b""
    _, status, used = os.wait4(process.pid, 0)
    ended = time.monotonic()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[:4]} in {tree} ended with {process.returncode}: {said.decode()}")
    return {
        "wall": ended - started,
        "processor": used.ru_utime + used.ru_stime,
        "MB": used.ru_maxrss / 1024,
        "ended": ended,
    }


def predicted(tree: Path, scan: Path, model: str, folder: Path) -> dict[str, float]:
    """Run `predict` plainly, then with the stopwatch; return the figures of both runs."""
    count = len(list(folder.iterdir()))
    words = ["predict", str(scan), "--model", model]
    command = [sys.executable, "-m", "c3s3_seg", *words, "-o", str(folder / f"{count}")]
    found = run(command, tree)
    target = folder / f"{count}.json"
    command = [sys.executable, "-c", STOPWATCH, *words, "-o", str(folder / f"{count}-phases")]
    phases = run(command, tree, COLD_START_TO=str(target))
    spent = json.loads(target.read_text())
    spent["exit"] = phases["ended"] - spent["ended"]
    return {**found, **{phase: spent.get(phase, 0.0) for phase in PHASES}}


def alone(tree: Path, scan: Path, model: str) -> float:
    """Return the seconds of the network alone, compiled and warm."""
    command = [sys.executable, "-c", ALONE, str(scan), model]
    answer = subprocess.run(command, env=environment(tree), capture_output=True, text=True, check=True)
    return float(answer.stdout.splitlines()[-1])


def measure(options: argparse.Namespace, trees: dict[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """Run all trees in turn; return the medians of each tree."""
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in trees}
    for number in range(options.runs + 1):
        for name, tree in trees.items():
            found = predicted(tree, options.scan, options.model, folder)
            help_of = run([sys.executable, "-m", "c3s3_seg", "--help"], tree)
            of_predict = run([sys.executable, "-m", "c3s3_seg", "predict", "--help"], tree)
            found |= {"--help": help_of["wall"], "predict --help": of_predict["wall"]}
            found |= {
                "--help, processor": help_of["processor"],
                "alone": alone(tree, options.scan, options.model),
            }
            if number:  # the first run writes the byte code and reads the files from disk
                measured[name].append(found)
            print(f"{number}: {name}, {found['wall']:.2f} s", file=sys.stderr, flush=True)
    return {
        name: {key: statistics.median(one[key] for one in found) for key in found[0]}
        for name, found in measured.items()
    }


def table(medians: dict[str, dict[str, float]], runs: int) -> None:
    """Print the medians as a Markdown table."""
    print(f"Medians of {runs} runs in turn; seconds unless said.\n")
    print("| | " + " | ".join(medians) + " |")
    print("|---" * (len(medians) + 1) + "|")

    def row(title: str, key: str, form: str = ".3f") -> None:
        print(f"| {title} | " + " | ".join(format(found[key], form) for found in medians.values()) + " |")

    for phase in PHASES:
        row(phase, phase)
    row("**predict, wall**", "wall")
    row("network alone, warm", "alone")
    for found in medians.values():
        found["over"] = found["wall"] - found["alone"]
    row("**wall less the network alone**", "over")
    row("predict, processor", "processor")
    row("predict, peak memory (MB)", "MB", ".0f")
    row("**`--help`, wall**", "--help")
    row("`--help`, processor", "--help, processor")
    row("`predict --help`, wall", "predict --help")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", help="git revision to compare with; none: the working tree alone")
    parser.add_argument("--scan", type=Path, help="a scan or a DICOM folder; none: a simulated heart")
    parser.add_argument("--model", default="phantom")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.scan is None:
            options.scan = folder / "phantom.nii.gz"
            save = (
                "import sys; from c3s3_seg.io import save; from c3s3_seg.phantom import Simulator, simulate\n"
            )
            save += "save(simulate(40_000, Simulator()).scan, sys.argv[1])"
            command = [sys.executable, "-c", save, str(options.scan)]
            subprocess.run(command, env=environment(HERE), check=True)
        options.scan = options.scan.resolve()
        trees = {options.before: archived(options.before, folder)} if options.before else {}
        (folder / "out").mkdir()
        table(measure(options, {**trees, "working tree": HERE}, folder / "out"), options.runs)


if __name__ == "__main__":
    main()
