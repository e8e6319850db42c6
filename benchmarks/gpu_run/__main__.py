"""Run all measurements for one GPU in one call with a time limit; prints one table.

    benchmarks/gpu.sh [--bundle left-atrium] [--scan FILE] [--parts FOLDER] [--list-sha256 HASH]
                      [--out FOLDER] [--minutes 8] [--only GROUP ...] [--rehearse]

The masks of every runtime are compared with those of the CPU. `--parts` is the folder that `gpu_parts.sh`
made, for a machine without a package index. OUT keeps the table, a log of each part, the packages, and
the masks. Groups: scans, batch, training, tests, patches, tensorrt.
`--rehearse` runs every part on the CPU with tiny sizes: its figures say nothing about a GPU.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from c3s3_seg.errors import C3S3Error, InputError
from gpu_run.install import environment, installed_from
from gpu_run.plan import CARD, GROUPS, Plan
from gpu_run.rows import Row, table
from gpu_run.runner import Runner

RESERVE_S = 10.0  # for the work after the last part


def main() -> int:
    """Run everything; return 0 if every part measured, 1 if some did not, 2 for a wrong command or parts."""
    started, options = time.monotonic(), parsed()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the table so far is printed
    out = (options.out or Path(tempfile.mkdtemp(prefix="c3s3-gpu-"))).absolute()
    print(f"logs and masks: {out}", file=sys.stderr)
    try:
        runner = prepared(out, options, started + 60 * options.minutes - RESERVE_S)
    except (C3S3Error, OSError) as error:
        print(f"gpu.sh: {error.told if isinstance(error, C3S3Error) else error}", file=sys.stderr)
        return 2
    bundle = options.bundle or ("phantom" if options.rehearse else "left-atrium")
    plan = Plan(runner.out, bundle, options.scan and options.scan.absolute(), options.rehearse)
    return measured(runner, plan, options.only)


def measured(runner: Runner, plan: Plan, groups: list[str]) -> int:
    """Run all parts and print the table; return the exit code. Without a GPU, end after the first part."""
    try:
        for part in plan.parts(groups):
            runner.run(part)
            if part.name == CARD and runner.rows[-1].failed:
                print(f"gpu.sh: {runner.rows[-1].remark}", file=sys.stderr)
                return 2
    finally:
        print(table(runner.rows), flush=True)
    return int(any(row.failed for row in runner.rows))


def parsed() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog="gpu.sh", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", help="default: left-atrium; in a rehearsal phantom")
    parser.add_argument("--scan", type=Path, help="in place of a phantom; should suit the bundle")
    parser.add_argument("--parts", type=Path, help="folder that gpu_parts.sh made")
    parser.add_argument("--list-sha256", help="what gpu_parts.sh printed")
    parser.add_argument("--out", type=Path, help="an empty folder, or one of an earlier call")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args()


def prepared(out: Path, options: argparse.Namespace, deadline: float) -> Runner:
    """Create the folders, install the packages, and return a runner with their environment.

    Raises
    ------
    InputError
        If an option is not valid, or the parts cannot be installed.
    """
    if not 0.5 <= options.minutes <= 600:
        raise InputError(f"found {options.minutes} minutes, wanted 0.5 to 600")
    if options.scan is not None and not options.scan.exists():
        raise InputError("there is no such scan", where=options.scan)
    if options.list_sha256 and not options.parts:
        raise InputError("found the hash of a list and no folder of parts")
    out.mkdir(parents=True, exist_ok=True)
    said, site = "this Python's own", None
    if options.parts:
        site = out / "site"
        onnx_runtime = "onnxruntime" if options.rehearse else "onnxruntime-gpu"
        said = installed_from(options.parts.absolute(), site, onnx_runtime, options.list_sha256)
    runner = Runner(free_folder(out), environment(site), deadline)
    runner.add(Row("packages", result=said))
    return runner


def free_folder(out: Path) -> Path:
    """Create and return `run-1`, or the folder with the first number that no earlier call took."""
    for number in range(1, 1000):
        with suppress(FileExistsError):
            (made := out / f"run-{number}").mkdir()
            return made
    raise InputError("the folder holds a thousand runs", where=out, todo="Name another one")


if __name__ == "__main__":
    sys.exit(main())
