"""Mutated DICOM and NIfTI files: each is read right or refused; none crashes, hangs or gives a wrong volume.

    python benchmarks/fuzz.py [--count 2000] [--seed 0]

Every mutant is read in this one process, so that a crash would end the run. "Wrong" is a volume of other
shape or place than the original, or with other voxels where the file has a checksum to tell. Pixels of
DICOM and of uncompressed NIfTI have none, nor have the headers of `.nii`, `.nrrd` and `.mha`: a flipped
pixel or digit there is another scan that nobody can tell from the true one, and is counted apart. (In
DICOM the slices bear witness to each other's place.) So is a change that is in the notes of the volume.
Time is that of the processor, children included, so that a busy machine does not look like a hang.
"""

import argparse
import os
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from c3s3_seg.errors import C3S3Error
from c3s3_seg.io import load, save
from c3s3_seg.io.dicom_write import save_series
from c3s3_seg.volume import Geometry, Volume

LIMIT_S = 10.0
SYNTAXES = {
    "plain": None,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG-LS": JPEGLSLossless,
    "RLE": RLELossless,
    "deflated": DeflatedExplicitVRLittleEndian,
}
Mutation = Callable[[bytes, np.random.Generator], bytes]


def original() -> Volume:
    """A small oblique scan of smooth values."""
    i, j, k = np.indices((40, 36, 6))
    turn = np.linalg.qr(np.array([[1, 0.1, -0.2], [0, 1, 0.15], [0.2, -0.1, 1.0]]))[0]
    turn = turn * np.sign(np.diag(turn))
    grid = Geometry.build(i.shape, (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), turn)
    return grid.volume((1000 + 9 * i + 5 * j + 40 * k).astype(np.int16))


def flip_bits(raw: bytes, random: np.random.Generator) -> bytes:
    """One to eight flipped bits, half of the time among the first 2,000 bytes."""
    content = bytearray(raw)
    end = min(len(raw), 2000) if random.random() < 0.5 else len(raw)
    for _ in range(random.integers(1, 9)):
        content[random.integers(end)] ^= 1 << random.integers(8)
    return bytes(content)


def cut(raw: bytes, random: np.random.Generator) -> bytes:
    """The beginning alone."""
    return raw[: random.integers(len(raw))]


def overwrite(raw: bytes, random: np.random.Generator) -> bytes:
    """A run of other bytes: noise, zeros or ones."""
    start = int(random.integers(len(raw)))
    size = int(random.integers(1, 64))
    run = (random.bytes(size), bytes(size), b"\xff" * size)[random.integers(3)]
    return (raw[:start] + run + raw[start + size :])[: len(raw)]


def insert_or_drop(raw: bytes, random: np.random.Generator) -> bytes:
    """Bytes more or less, so that everything behind them moves."""
    start, size = int(random.integers(len(raw))), int(random.integers(1, 32))
    return (
        raw[:start] + random.bytes(size) + raw[start:]
        if random.random() < 0.5
        else raw[:start] + raw[start + size :]
    )


def repeat(raw: bytes, random: np.random.Generator) -> bytes:
    """A part of the file twice."""
    a, b = sorted(int(n) for n in random.integers(len(raw), size=2))
    return raw[:b] + raw[a:]


MUTATIONS: tuple[Mutation, ...] = (flip_bits, cut, overwrite, insert_or_drop, repeat)


def seeds(folder: Path, scan: Volume) -> dict[str, Path]:
    """One healthy file or series of each kind."""
    made = {}
    for name, syntax in SYNTAXES.items():
        files = save_series(scan, folder / name, description="fuzz", seed_uid=name)
        for path in files if syntax else ():
            data = pydicom.dcmread(path)
            if syntax == DeflatedExplicitVRLittleEndian:
                data.file_meta.TransferSyntaxUID = syntax
            else:
                data.compress(syntax, generate_instance_uid=False)
            data.save_as(path)
        made[f"DICOM {name}"] = folder / name
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        save(scan, folder / f"scan{suffix}")
        made[suffix] = folder / f"scan{suffix}"
    nibabel.save(
        nibabel.Nifti2Image(scan.array, np.diag([-1, -1, 1, 1]) @ scan.geometry.affine), folder / "two.nii.gz"
    )
    made["NIfTI-2 .nii.gz"] = folder / "two.nii.gz"
    return made


def judge(path: Path, scan: Volume, kind: str) -> str:
    """What became of a mutant."""
    try:
        back = load(path)
    except C3S3Error:
        return "refused"
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"[:150]
    placed = back.geometry.matches(scan.geometry, 0.02)
    same = placed and np.array_equal(back.array, scan.array)
    if same:
        return "read right"
    if back.source.notes:
        return "changed, and noted"
    checked = ".gz" in kind or kind in (".nrrd", ".mha")
    if placed and not checked:
        return "other pixels (no checksum)"
    if placed:
        return "WRONG voxels"
    return "other place (no checksum)" if kind in (".nii", ".nrrd", ".mha") else "WRONG place"


def processor_s() -> float:
    """Time that the processor has given to this process and to its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def mutate(path: Path, work: Path, random: np.random.Generator) -> Path:
    """A copy with one file mutated by one or two mutations."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    target = work / path.name
    if path.is_dir():
        shutil.copytree(path, target)
        files = sorted(target.iterdir())
        victim = files[random.integers(len(files))]
    else:
        shutil.copy(path, target)
        victim = target
    raw = victim.read_bytes()
    for _ in range(random.integers(1, 3)):
        raw = MUTATIONS[random.integers(len(MUTATIONS))](raw, random) or b"\0"
    victim.write_bytes(raw)
    return target


def fuzz(count: int, seed: int) -> tuple[dict[str, Counter[str]], float, list[str]]:
    """Outcomes by kind of file, the longest time, and what must not be."""
    random = np.random.default_rng(seed)
    scan = original()
    outcomes: dict[str, Counter[str]] = {}
    slowest, bad = 0.0, []
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        (folder / "seeds").mkdir()
        kinds = list(seeds(folder / "seeds", scan).items())
        for n in range(count):
            kind, path = kinds[n % len(kinds)]
            mutant = mutate(path, folder / "work", random)
            started = processor_s()
            outcome = judge(mutant, scan, kind)
            took = processor_s() - started
            slowest = max(slowest, took)
            outcomes.setdefault(kind, Counter())[outcome.split(":")[0]] += 1
            if outcome.startswith(("CRASH", "WRONG")) or took > LIMIT_S:
                bad.append(f"seed {seed}, mutant {n} ({kind}, {took:.1f} s): {outcome}")
    return outcomes, slowest, bad


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    outcomes, slowest, bad = fuzz(words.count, words.seed)
    columns = sorted({outcome for counter in outcomes.values() for outcome in counter})
    print("| file | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for kind, counter in outcomes.items():
        print(f"| {kind} | " + " | ".join(str(counter[c]) for c in columns) + " |")
    print(f"\n{words.count} mutants, the slowest took {slowest:.1f} s of the processor.")
    print(f"{len(bad)} that must not be.")
    for line in bad:
        print(line)
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
