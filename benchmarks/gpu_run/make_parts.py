"""Collect the wheels that a machine without a package index needs, and cut them into parts.

    benchmarks/gpu_parts.sh OUT [--wheel FILE] [--python 3.12] [--without NAME ...] [--part-mb 55]

OUT is a folder that does not exist yet. The wheels are onnxruntime-gpu (FILE, or the pinned release
from the package index), the base packages of c3s3-seg, and the packages that its tests and exports need;
torch must be installed on that machine. `--without` leaves out packages that are known to be there. Copy
OUT to that machine, in as many steps as you like, and give the folder to `gpu.sh --parts`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from c3s3_seg.errors import C3S3Error, InputError
from gpu_run.parts import LIST, cut
from gpu_run.requirements import ROOT, needed, normal

ONNX_RUNTIME = "onnxruntime-gpu==1.31.0"  # needs CUDA 13 and cuDNN 9
# All are listed: pip compares tags literally, and a wheel names the oldest system that it supports.
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def main() -> int:
    """Make the parts; print their folder and the hash of their list. Return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheel", type=Path, help="of ONNX Runtime, in place of a download")
    parser.add_argument("--python", default="3.12", help="of that machine")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--part-mb", type=int, default=55)
    options = parser.parse_args()
    try:
        made = make(options)
    except (C3S3Error, OSError) as error:
        print(f"gpu_parts.sh: {error.told if isinstance(error, C3S3Error) else error}", file=sys.stderr)
        return 2
    print(made)
    return 0


def make(options: argparse.Namespace) -> str:
    """Download the wheels and cut them into parts; return the text to print.

    Raises
    ------
    InputError
        If an option is not valid, pip does not find a package, or the parts cannot be written.
    """
    if not re.fullmatch(r"3\.\d{1,2}", options.python, re.ASCII):
        raise InputError(f"found the Python version {options.python!r}, wanted one such as 3.12")
    if not 1 <= options.part_mb <= 250:
        raise InputError(f"found parts of {options.part_mb} MB, wanted 1 to 250")
    with tempfile.TemporaryDirectory() as name:
        wheels = Path(name)
        download(wheels, options.python, options.wheel)
        left_out = {normal(word) for word in options.without}
        kept = [path for path in wheels.glob("*.whl") if normal(path.name.split("-")[0]) not in left_out]
        listed = cut(kept, options.out, options.part_mb * 10**6)
    digest = hashlib.sha256((options.out / LIST).read_bytes()).hexdigest()
    total = sum(piece.size for piece in listed.wheels) / 1e6
    facts = f"{len(listed.wheels)} wheels, {total:.0f} MB, {len(listed.parts)} parts"
    return f"{options.out}: {facts}. SHA-256 of {LIST}, for gpu.sh --list-sha256:\n{digest}"


def download(wheels: Path, python: str, wheel: Path | None) -> None:
    """Download wheels for another machine (CPython `python`, x86-64 Linux); nothing is built or run.

    Raises
    ------
    InputError
        If pip does not find one of the wheels.
    """
    if wheel is not None and not wheel.is_file():
        raise InputError("there is no such wheel", where=wheel)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "-d", str(wheels)]
    command += ["--implementation", "cp", "--python-version", python]
    for abi in (f"cp{python.replace('.', '')}", "abi3", "none"):
        command += ["--abi", abi]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    command += ["-c", str(ROOT / "constraints.txt"), str(wheel or ONNX_RUNTIME), *needed()]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        lines = answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"]
        said = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise InputError(f"pip download failed: {said}")


if __name__ == "__main__":
    sys.exit(main())
