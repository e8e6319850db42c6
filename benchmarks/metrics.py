"""The README's table of boundary metrics: values, times and memory of this package and its peers, in one run.

    python benchmarks/metrics.py [DATA] [SET...]     DATA: the folder `la`, default ../shared/data/la
                                                     SET: atria large labels, default all

atria   the 8 validation cases of the left atrium: masks of the shipped bundle against the truth
large   one organ in 512 x 512 x 300 voxels of 0.7 x 0.7 x 1.25 mm, simulated
labels  20 organs in such a volume, simulated

Each contender runs in a process of its own and measures 95HD and an average surface distance of all
labels, starting from arrays in memory; this package measures all its metrics. The contender has measured
a small pair before, so that imports and first calls are not timed. Times are medians over the pairs
of the median of up to 5 runs; CPU seconds count all threads, including waiting threads. Memory is the
peak of the whole process, imports and masks included. The reference is medpy, label by label on crops;
its time is measured on the whole volume, and for only one label if there are 20.
"""

import importlib.metadata
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

CASES = 8
SHAPE, SPACING = (512, 512, 300), (0.7, 0.7, 1.25)
RUNS, ENOUGH_S = 5, 8.0
# label -> [95HD, average surface distance]; CONTENDERS states which average
Found = dict[int, list[float]]


def ours(p: np.ndarray, t: np.ndarray, spacing: tuple[float, ...], labels: list[int]) -> Found:
    from c3s3_seg.geometry.volume import Geometry
    from c3s3_seg.metrics.scoring import scores

    grid = Geometry.build(p.shape, spacing)
    return {n: [s.hd95_mm, s.asd_mm] for n, s in scores(grid.volume(p), grid.volume(t), labels).items()}


def medpy(p: np.ndarray, t: np.ndarray, spacing: tuple[float, ...], labels: list[int]) -> Found:
    from medpy.metric import binary

    n = labels[0]  # only one of 20 labels: all would take 15 minutes
    return {n: [binary.hd95(p == n, t == n, spacing), binary.asd(p == n, t == n, spacing)]}


def surface_distance(p: np.ndarray, t: np.ndarray, spacing: tuple[float, ...], labels: list[int]) -> Found:
    import surface_distance as package

    found = {}
    for n in labels:
        distances = package.compute_surface_distances(t == n, p == n, spacing)
        average = package.compute_average_surface_distance(distances)[1]
        found[n] = [package.compute_robust_hausdorff(distances, 95), average]
    return found


def monai(p: np.ndarray, t: np.ndarray, spacing: tuple[float, ...], labels: list[int]) -> Found:
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    found = {}
    for n in labels:
        pair = [torch.from_numpy(m == n)[None, None] for m in (p, t)]
        options = {"include_background": True, "spacing": list(spacing)}
        hd95 = compute_hausdorff_distance(*pair, percentile=95, **options)
        asd = compute_average_surface_distance(*pair, symmetric=False, **options)
        found[n] = [float(hd95), float(asd)]
    return found


def simpleitk(p: np.ndarray, t: np.ndarray, spacing: tuple[float, ...], labels: list[int]) -> Found:
    """Measure by the recipe of the ITK notebooks: contours, and Maurer's distance map of each contour."""
    import SimpleITK as sitk  # noqa: N813

    found = {}
    for n in labels:
        images = [sitk.GetImageFromArray((m == n).astype(np.uint8).T) for m in (p, t)]
        for image in images:
            image.SetSpacing(spacing)
        edges = [sitk.LabelContour(image, False) for image in images]
        maps = [sitk.SignedMaurerDistanceMap(e, False, False, True) for e in edges]
        views = [np.abs(sitk.GetArrayViewFromImage(m)) for m in maps]
        on_p, on_t = (sitk.GetArrayViewFromImage(e) > 0 for e in edges)
        d_pt, d_tp = views[1][on_p], views[0][on_t]
        found[n] = [float(np.percentile(np.concatenate((d_pt, d_tp)), 95)), float(d_pt.mean())]
    return found


def exacta(p: np.ndarray, t: np.ndarray, spacing: tuple[float, ...], labels: list[int]) -> Found:
    from exacta import functional

    asked = {"hd95": {"combine": "pooled"}, "assd": {}, "dice": {}}
    options = {"spacing": spacing, "num_classes": max(labels) + 1, "include_background": False}
    found = functional.evaluate(p[None], t[None], metrics=asked, **options)
    return {n: [float(found["hd95"][0, n - 1]), float(found["assd"][0, n - 1])] for n in labels}


# Name -> (function, the average that it gives, distribution)
CONTENDERS: dict[str, tuple[Callable[..., Found], str, str]] = {
    "c3s3-seg": (ours, "asd", "c3s3-seg"),
    "medpy": (medpy, "asd", "medpy"),
    "surface-distance": (surface_distance, "asd", "surface-distance"),
    "MONAI": (monai, "asd", "monai"),
    "SimpleITK": (simpleitk, "asd", "SimpleITK"),
    "exacta": (exacta, "assd", "exacta"),
}


def contend(name: str, folder: Path) -> None:
    """Measure every pair of the folder with one contender, in a process of its own; print JSON."""
    measure, seconds, cpu, found = CONTENDERS[name][0], [], [], []
    measure(*small_pair())
    for path in sorted(folder.glob("*.json")):
        facts = json.loads(path.read_text())
        p, t = (np.load(path.with_suffix(f".{side}.npy")) for side in "pt")
        runs: list[float] = []
        busy: list[float] = []
        while len(runs) < RUNS and sum(runs) < ENOUGH_S:
            started, worked = time.perf_counter(), time.process_time()
            found_here = measure(p, t, tuple(facts["spacing"]), facts["labels"])
            runs.append(time.perf_counter() - started)
            busy.append(time.process_time() - worked)
        seconds.append(statistics.median(runs))
        cpu.append(statistics.median(busy))
        found.append(found_here)
    times = {"s": statistics.median(seconds), "cpu": statistics.median(cpu)}
    print(json.dumps({**times, "mb": peak_mb(), "found": found}))


def small_pair() -> tuple[np.ndarray, np.ndarray, tuple[float, ...], list[int]]:
    """Return prediction and truth (32, 32, 32) with one label, their spacing and labels."""
    p, t = organ((32, 32, 32), np.array((9, 8, 7)), np.random.default_rng(2))
    return p.astype(np.uint8), t.astype(np.uint8), SPACING, [1]


def peak_mb() -> float:
    """Return the peak memory (MB) of this process; `getrusage` would include that of the parent process."""
    (line,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


def reference(folder: Path) -> list[dict[str, dict[str, list[float]]]]:
    """Return medpy's results for every label of every pair, on its bounding box enlarged by one voxel."""
    from medpy.metric import binary

    answers = []
    for path in sorted(folder.glob("*.json")):
        facts = json.loads(path.read_text())
        p, t = (np.load(path.with_suffix(f".{side}.npy")) for side in "pt")
        answers.append({})
        for n in facts["labels"]:
            box = []
            used = (p == n) | (t == n)
            for axis in range(3):
                others = tuple(a for a in range(3) if a != axis)
                ends = np.flatnonzero(used.any(axis=others))
                box.append(slice(max(0, ends[0] - 1), ends[-1] + 2))
            pair = (p[tuple(box)] == n, t[tuple(box)] == n, facts["spacing"])
            hd95 = binary.hd95(*pair)
            answers[-1][str(n)] = {"asd": [hd95, binary.asd(*pair)], "assd": [hd95, binary.assd(*pair)]}
    return answers


def write_pair(path: Path, p: np.ndarray, t: np.ndarray, spacing: tuple[float, ...]) -> None:
    for side, mask in (("p", p), ("t", t)):
        np.save(path.with_suffix(f".{side}.npy"), np.ascontiguousarray(mask, dtype=np.uint8))
    labels = [n for n in range(1, 256) if (t == n).any()] if t.max() > 1 else [1]
    path.with_suffix(".json").write_text(json.dumps({"spacing": list(spacing), "labels": labels}))


def atria(folder: Path, data: Path) -> None:
    from c3s3_seg.io import load_mask

    names = json.loads((data / "dataset.json").read_text())["unlabelled"][-CASES:]
    with tempfile.TemporaryDirectory() as out:
        scans = [str(data / "imagesTr" / f"{name}.nii.gz") for name in names]
        words = [sys.executable, "-m", "c3s3_seg", "predict", *scans, "-o", out]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        for name in names:
            truth = load_mask(data / "labelsTr" / f"{name}.nii.gz")
            mask = load_mask(Path(out) / f"{name}.nii.gz")
            write_pair(folder / name, mask.array, truth.array, tuple(truth.geometry.spacing_mm))


def waves(shape: tuple[int, ...], rng: np.random.Generator, count: int) -> np.ndarray:
    """Return a smooth random field (i, j, k) of unit standard deviation."""
    field = rng.standard_normal((count,) * 3).astype(np.float32)
    for n in shape:
        basis = np.cos(np.pi * np.outer(np.arange(count), np.arange(n) + 0.5) / n).astype(np.float32)
        field = np.tensordot(field, basis, axes=(0, 0))
    return field / field.std()


def organ(shape: tuple[int, ...], radii: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return prediction and truth (i, j, k) bool: a bumpy ellipsoid, the prediction with another boundary."""
    axes = [((np.arange(n, dtype=np.float32) - n / 2) / r) ** 2 for n, r in zip(shape, radii, strict=True)]
    inside = 1 - np.sqrt(axes[0][:, None, None] + axes[1][:, None] + axes[2])
    inside += 0.12 * waves(shape, rng, 5)
    return inside + 0.04 * waves(shape, rng, 10) > 0, inside > 0


def large(folder: Path, _: Path) -> None:
    p, t = organ(SHAPE, np.array((120, 95, 85)), np.random.default_rng(0))
    write_pair(folder / "large", p, t, SPACING)


def labels(folder: Path, _: Path) -> None:
    rng = np.random.default_rng(1)
    p, t = (np.zeros(SHAPE, dtype=np.uint8) for _ in range(2))
    for n in range(1, 21):
        radii = rng.uniform(18, 60, 3) * (1, 1, 0.7)
        size = np.ceil(3 * radii).astype(int)
        low = [int(rng.integers(0, whole - part)) for whole, part in zip(SHAPE, size, strict=True)]
        box = tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))
        for mask, shape in zip((p, t), organ(tuple(size), radii, rng), strict=True):
            mask[box][shape] = n
    write_pair(folder / "labels", p, t, SPACING)


SETS = {"atria": atria, "large": large, "labels": labels}


def compare(name: str, data: Path) -> None:
    """Print the table of one set."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        SETS[name](folder, data)
        truth = reference(folder)
        rows = {}
        for contender in CONTENDERS:
            words = [sys.executable, __file__, "--contend", contender, str(folder)]
            answer = subprocess.run(words, capture_output=True, text=True, check=False)
            if answer.returncode:
                print(f"{contender}: {answer.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                continue
            rows[contender] = json.loads(answer.stdout.splitlines()[-1])
    print(
        f"\n| {name} | s | times ours | CPU s | times ours | peak MB | largest difference to medpy (mm) |\n"
        "|---|---|---|---|---|---|---|"
    )
    for contender, row in rows.items():
        _, average, package = CONTENDERS[contender]
        apart = max(
            float(np.abs(np.subtract(values, wanted[n][average])).max())
            for found, wanted in zip(row["found"], truth, strict=True)
            for n, values in found.items()
        )
        title = f"{contender} {importlib.metadata.version(package)}"
        ratios = [row[key] / rows["c3s3-seg"][key] for key in ("s", "cpu")]
        times = f"{row['s']:.3f} | {ratios[0]:.1f} | {row['cpu']:.3f} | {ratios[1]:.1f}"
        print(f"| {title} | {times} | {row['mb']:.0f} | {apart:.1e} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--contend"]:
        contend(sys.argv[2], Path(sys.argv[3]))
    else:
        words = sys.argv[1:]
        data = Path(words.pop(0)) if words and words[0] not in SETS else Path("../shared/data/la")
        for name in words or SETS:
            compare(name, data)
