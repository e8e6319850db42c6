"""Mutated files of every readable kind: each is read correctly or refused; none crashes, hangs or misleads.

    python benchmarks/fuzz.py [--count 2000] [--seed 0]

Every mutant is read in this one process, so that a crash would end the run. "Wrong" is a volume with another
shape or position than the original, or with other voxels although the file has a checksum. Pixels of DICOM
and of uncompressed NIfTI have no checksum, nor do the headers of `.nii`, `.nrrd` and `.mha`: a flipped pixel
or digit in them makes another scan that cannot be told from the true one, and is counted separately. (In
DICOM the slices confirm each other's position.) So is a change that the notes of the volume report. Masks
(DICOM SEG, label map, RTSTRUCT) are read onto the grid of their scan; HDF5 files have no position. Times are
processor times, children included, so that a busy machine does not look like a hang.
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
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.dicom_objects.codes import Segment
from c3s3_seg.io.dicom_objects.rtstruct_write import write_rtstruct
from c3s3_seg.io.dicom_objects.seg_write import write_seg
from c3s3_seg.io.image.hdf5 import load_hdf5
from c3s3_seg.system.process import quiet_libraries

LIMIT_S = 10.0
SYNTAXES = {
    "plain": None,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG-LS": JPEGLSLossless,
    "RLE": RLELossless,
    "deflated": DeflatedExplicitVRLittleEndian,
}
MASKS = ("DICOM SEG", "DICOM label map", "RTSTRUCT")
DETACHED = (".mhd", ".nhdr")
Mutation = Callable[[bytes, np.random.Generator], bytes]


def original() -> Volume:
    """Return a small oblique scan of smooth values."""
    i, j, k = np.indices((40, 36, 6))
    turn = np.linalg.qr(np.array([[1, 0.1, -0.2], [0, 1, 0.15], [0.2, -0.1, 1.0]]))[0]
    turn = turn * np.sign(np.diag(turn))
    grid = Geometry.build(i.shape, (0.7, 0.9, 2.5), (-31.5, 12.25, 80.0), turn)
    return grid.volume((1000 + 9 * i + 5 * j + 40 * k).astype(np.int16))


def flip_bits(raw: bytes, random: np.random.Generator) -> bytes:
    """Flip one to eight bits, half of the time among the first 2,000 bytes."""
    content = bytearray(raw)
    end = min(len(raw), 2000) if random.random() < 0.5 else len(raw)
    for _ in range(random.integers(1, 9)):
        content[random.integers(end)] ^= 1 << random.integers(8)
    return bytes(content)


def cut(raw: bytes, random: np.random.Generator) -> bytes:
    """Keep only the beginning."""
    return raw[: random.integers(len(raw))]


def overwrite(raw: bytes, random: np.random.Generator) -> bytes:
    """Overwrite a run of bytes with noise, zeros or ones."""
    start = int(random.integers(len(raw)))
    size = int(random.integers(1, 64))
    run = (random.bytes(size), bytes(size), b"\xff" * size)[random.integers(3)]
    return (raw[:start] + run + raw[start + size :])[: len(raw)]


def insert_or_drop(raw: bytes, random: np.random.Generator) -> bytes:
    """Insert or drop bytes, so that everything behind them moves."""
    start, size = int(random.integers(len(raw))), int(random.integers(1, 32))
    return (
        raw[:start] + random.bytes(size) + raw[start:]
        if random.random() < 0.5
        else raw[:start] + raw[start + size :]
    )


def repeat(raw: bytes, random: np.random.Generator) -> bytes:
    """Repeat a part of the file."""
    a, b = sorted(int(n) for n in random.integers(len(raw), size=2))
    return raw[:b] + raw[a:]


MUTATIONS: tuple[Mutation, ...] = (flip_bits, cut, overwrite, insert_or_drop, repeat)


def seeds(folder: Path, scan: Volume) -> dict[str, Path]:
    """Write one intact file or series of each kind; return their paths by kind."""
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
    return made | detached(folder, scan) | enhanced(folder) | masks(folder)


def detached(folder: Path, scan: Volume) -> dict[str, Path]:
    """Write headers with a separate data file, and an HDF5 file; none has a checksum."""
    import SimpleITK
    from h5py import File

    image = SimpleITK.GetImageFromArray(scan.array.transpose(2, 1, 0))
    image.SetSpacing(scan.geometry.spacing_mm.tolist())
    image.SetOrigin(scan.geometry.origin_mm.tolist())
    image.SetDirection(scan.geometry.direction.ravel().tolist())
    made = {}
    for suffix in (".mhd", ".nhdr"):
        (folder / suffix[1:]).mkdir()
        SimpleITK.WriteImage(image, str(folder / suffix[1:] / f"scan{suffix}"))
        made[suffix] = folder / suffix[1:]
    with File(folder / "scan.h5", "w") as file:
        file.create_dataset("image", data=scan.array, compression="gzip")
    return {**made, ".h5": folder / "scan.h5"}


def enhanced(folder: Path) -> dict[str, Path]:
    """Write the plain series as one multi-frame file."""
    from highdicom.legacy import LegacyConvertedEnhancedMRImage
    from pydicom.uid import generate_uid

    sources = [pydicom.dcmread(path) for path in sorted((folder / "plain").iterdir())]
    for source in sources:
        source.AccessionNumber = "1"
    (folder / "enhanced").mkdir()
    made = LegacyConvertedEnhancedMRImage(sources, generate_uid(), 1, generate_uid(), 1)
    made.save_as(folder / "enhanced" / "one.dcm")
    return {"DICOM enhanced": folder / "enhanced"}


def masks(folder: Path) -> dict[str, Path]:
    """Write a mask of the plain series in each of DICOM's forms."""
    scan = load(folder / "plain")
    mask = Volume(the_mask(scan), scan.geometry, scan.source)
    segments = (Segment("organ", 1), Segment("lump", 2))
    made = {kind: folder / f"{number}.dcm" for number, kind in enumerate(MASKS)}
    write_seg(mask, made["DICOM SEG"], segments)
    write_seg(mask, made["DICOM label map"], segments, labelmap=True)
    write_rtstruct(mask, made["RTSTRUCT"], segments)
    return made


def the_mask(scan: Volume) -> np.ndarray:
    """Return a mask (i, j, k) of two labels."""
    labels = np.zeros(scan.array.shape, np.uint8)
    labels[8:30, 6:28, 1:5] = 1
    labels[12:20, 10:20, 2:4] = 2
    return labels


def read(path: Path, scan: Volume, kind: str) -> Volume:
    """Read a mutant with the reader of its kind."""
    if kind in MASKS:
        return load_mask(path, grid=scan.geometry)
    if kind == ".h5":
        back = load_hdf5(path, "image", (0.7, 0.9, 2.5))
        return scan.geometry.volume(back.array) if back.array.shape == scan.array.shape else back
    return load(path / f"scan{kind}" if kind in DETACHED else path)


def judge(path: Path, scan: Volume, kind: str) -> str:
    """Return the outcome of reading a mutant."""
    try:
        back = read(path, scan, kind)
    except C3S3Error:
        return "refused"
    except Exception as error:
        return f"CRASH {type(error).__name__}: {error}"[:150]
    placed = back.geometry.matches(scan.geometry, 0.02)
    wanted = the_mask(scan) if kind in MASKS else scan.array
    same = placed and np.array_equal(back.array, wanted)
    if same:
        return "read right"
    if back.source.notes:
        return "changed, and noted"
    checked = ".gz" in kind or kind in (".nrrd", ".mha")
    if placed and not checked:
        return "other pixels (no checksum)"
    if placed:
        return "WRONG voxels"
    free = (".nii", ".nrrd", ".mha", ".h5", *DETACHED)
    return "other place (no checksum)" if kind in free else "WRONG place"


def processor_s() -> float:
    """Return the processor seconds of this process and of its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def mutate(path: Path, work: Path, random: np.random.Generator) -> Path:
    """Return a copy with one file mutated by one or two mutations."""
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
    """Return the outcomes by kind of file, the longest time, and descriptions of failures."""
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
    quiet_libraries()
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
