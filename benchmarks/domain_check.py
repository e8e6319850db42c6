"""Right and wrong verdicts of the domain check for every pair of the shared data and three shipped bundles.

    python benchmarks/domain_check.py [--data ../shared/data] [--every 1]

Each scan is judged for each bundle as `predict` judges it; if its field of view is larger than in training,
the network searches for the organ. A verdict is right if a scan of the bundle's own organ and kind is
not refused, or if any other scan is refused or nothing is found in it. `--every 5` takes each fifth file.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from c3s3_seg import ModelBundle, open_predictor
from c3s3_seg.errors import C3S3Error
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.domain_check import DomainError
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.io import load
from c3s3_seg.phantom import Simulator, simulate

BUNDLES = ("left-atrium", "hippocampus", "phantom")
# Kind of scan -> the bundles made for it. A phantom does not count as an atrium of a patient.
OWN = {
    "atria (MR)": {"left-atrium"},
    "hippocampi (MR)": {"hippocampus"},
    "hippocampus crop (DICOM, MR)": {"hippocampus"},
    "phantoms": {"phantom"},
    "phantoms, larger field of view": {"phantom"},
}


def scans(data: Path, every: int) -> Iterator[tuple[str, Volume]]:
    """Yield kind and scan of each file or series."""
    for kind, folder in (("atria (MR)", "la"), ("hippocampi (MR)", "hippocampus")):
        for path in sorted((data / folder / "imagesTr").glob("*.nii.gz"))[::every]:
            yield kind, load(path)
    for path in sorted((data / "cine").glob("*/*_frame??.nii.gz"))[::every]:
        yield "short-axis cine (MR)", load(path)
    dicom = data / "dicom"
    yield "brain T1, oblique (DICOM, MR)", load(dicom / "oblique-t1")
    yield "brain T1, thick slices (DICOM, MR)", load(next((dicom / "brain-study").glob("12*")))
    yield "hippocampus crop (DICOM, MR)", load(next((dicom / "brain-study").glob("13*")))
    yield "head phantom (DICOM, CT)", load(dicom / "philips-ct" / "S2010")
    yield "head phantom, tilted (DICOM, CT)", load(dicom / "philips-ct-tilt", repair=("tilt", "gaps"))
    for seed in range(31_050, 31_058):
        yield "phantoms", simulate(seed).scan
    for seed in range(31_050, 31_054):
        yield "phantoms, larger field of view", simulate(seed, Simulator(shape=(170, 150, 76))).scan


def verdict(scan: Volume, predictor: Predictor) -> str:
    """Return `pass`, `warn`, `refuse`, `not found` (in a larger scan) or `empty`."""
    try:
        found = predictor(scan)
    except DomainError:
        return "refuse"
    except C3S3Error:
        return "not found"
    return "empty" if found.empty else found.check.level


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--every", type=int, default=1)
    words = parser.parse_args()
    predictors = {name: open_predictor(ModelBundle.find(name)) for name in BUNDLES}
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for kind, scan in scans(words.data, words.every):
        for name, predictor in predictors.items():
            counts[kind, name][verdict(scan, predictor)] += 1
    print("| scans | bundle | verdicts | right | wrong |\n|---|---|---|---|---|")
    for (kind, name), found in counts.items():
        good = found["pass"] + found["warn"]
        right = good if name in OWN.get(kind, ()) else found.total() - good
        told = ", ".join(f"{level} {count}" for level, count in sorted(found.items()))
        print(f"| {kind} | `{name}` | {told} | {right} | {found.total() - right} |")


if __name__ == "__main__":
    main()
