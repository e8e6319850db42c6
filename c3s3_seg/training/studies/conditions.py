"""The conditions under which a run of a study is trained: machine, code, and the bundle it began from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.report.study_table import Conditions
from c3s3_seg.system.files import make_folder, write_whole
from c3s3_seg.system.hardware import is_cuda, processor_name
from c3s3_seg.system.reading import read_json
from c3s3_seg.system.schema import dump, parse
from c3s3_seg.training import checkpoint
from c3s3_seg.version import __version__

FILE = "conditions.json"  # beside a run's checkpoint: the conditions under which it was trained so far
# Packages that decide scores and times, from reading a scan to scoring its mask: a change in them between two
# runs of a study must be reported.
DECIDING = ("bundle", "dataset", "geometry", "inference", "io", "metrics", "models", "training")


def current_conditions(device: str, start: ModelBundle | None) -> Conditions:
    """Return the conditions of a run that is trained now; its precision is known only after the run.

    Parameters
    ----------
    device
        `run.device` of the run's configuration.
    start
        Bundle that the run begins from; None: random weights.
    """
    import torch

    gpu = is_cuda(device) and torch.cuda.is_available()
    # The instruction set too: it decides how sums round, and processors of one name differ in it.
    processor = f"{processor_name()}, {torch.backends.cpu.get_cpu_capability()}"
    machine = torch.cuda.get_device_name() if gpu else processor
    code = f"c3s3-seg {__version__} ({_code_hash()}), torch {torch.__version__}"
    return Conditions(machine, "", code, "" if start is None else _origin(start))


def read_conditions(run: Path) -> tuple[Conditions, ...]:
    """Return the conditions under which a stopped run was trained; () without a checkpoint or a note of them.

    Raises
    ------
    InputError
        If the note cannot be read.
    """
    path = run / FILE
    if not ((run / checkpoint.FILE).exists() and path.exists()):
        return ()
    return parse(tuple[Conditions, ...], read_json(path), path)


def note_conditions(run: Path, here: Conditions) -> tuple[Conditions, ...]:
    """Note the conditions under which a run begins or resumes, and return the others that it had before.

    Raises
    ------
    InputError
        If the note cannot be read or written.
    """
    earlier = tuple(conditions for conditions in read_conditions(run) if conditions != here)
    make_folder(run)
    write_whole(run / FILE, json.dumps([dump(each) for each in (*earlier, here)], indent=1).encode())
    return earlier


def _origin(bundle: ModelBundle) -> str:
    """Return a bundle's name, and eight digits of the SHA-256 of its and its linked bundle's weights."""
    weights = [home.manifest.files[network.weights] for home, network in bundle.members()]
    return f"{bundle.task.name} ({hashlib.sha256(' '.join(weights).encode()).hexdigest()[:8]})"


def _code_hash() -> str:
    """Return eight digits of the SHA-256 of the code that trains and measures."""
    package = Path(__file__).parents[2]
    found = hashlib.sha256()
    for path in sorted(path for name in DECIDING for path in (package / name).rglob("*.py")):
        found.update(f"{path.relative_to(package).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()[:8]
