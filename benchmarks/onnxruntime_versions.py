"""Exported files in older releases of ONNX Runtime: whether they load and give the same numbers.

    python benchmarks/onnxruntime_versions.py [BUNDLE] [VERSION ...]      default: left-atrium 1.20 1.23

float32, float16 and the ensemble in one graph are exported by this script. Each release is installed
with pip into an environment of its own, without this package, and runs the files on the same patches. A
release that pip cannot get is left out, with a line that reports it.
"""

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import onnxruntime

from c3s3_seg import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.export.spec import GraphSpec
from c3s3_seg.export.standalone import standalone_graph

FORMS = {"float32": GraphSpec(), "float16": GraphSpec("float16"), "ensemble": GraphSpec(ensemble=True)}
SHAPE = (2, 1, 64, 64, 48)
# Run by each release: FOLDER holds patches.npy and NAME.onnx; the outputs go to NAME-VERSION.npy.
ANSWER = """
import pathlib, sys
import numpy, onnxruntime
folder, version = pathlib.Path(sys.argv[1]), sys.argv[2]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
for path in sorted(folder.glob("*.onnx")):
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"scan": numpy.load(folder / "patches.npy")})
    numpy.save(folder / f"{path.stem}-{version}.npy", answer)
print(onnxruntime.__version__)
"""


def answer(python: Path, folder: Path, version: str) -> str:
    """Run all files with the ONNX Runtime of an environment; return its exact version."""
    words = [str(python), "-c", ANSWER, str(folder), version]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def install(folder: Path, version: str) -> Path | None:
    """Return the Python of a new environment with this ONNX Runtime; None if pip cannot get the release."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    words = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"onnxruntime=={version}.*"]
    found = subprocess.run([*map(str, words), "numpy"], capture_output=True, check=False)
    return python if found.returncode == 0 else None


def export(bundle: ModelBundle, folder: Path) -> None:
    for name, form in FORMS.items():
        try:
            (folder / f"{name}.onnx").write_bytes(standalone_graph(bundle, form))
        except InputError as error:  # such as an ensemble of one network
            print(f"{name} is left out: {error}")


def main(name: str, versions: list[str]) -> None:
    python = ".".join(map(str, sys.version_info[:3]))
    print(f"Exported with Python {python}; compared with ONNX Runtime {onnxruntime.__version__}.\n")
    print("| ONNX Runtime | file | largest difference of a probability | voxels with another label |")
    print("|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(ModelBundle.find(name), folder)
        np.save(folder / "patches.npy", np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
        answer(Path(sys.executable), folder, "here")
        for version in versions:
            other = install(folder / version, version)
            if other is None:
                print(f"| {version} | pip cannot get it | | |")
                continue
            exact = answer(other, folder, version)
            for path in sorted(folder.glob("*.onnx")):
                a, b = (np.load(folder / f"{path.stem}-{which}.npy") for which in ("here", version))
                flipped = int((a.argmax(1) != b.argmax(1)).sum())
                labels = a.argmax(1).size
                print(
                    f"| {exact} | {path.stem} | {np.abs(a - b).max():.1e} | {flipped} of {labels} |",
                    flush=True,
                )


if __name__ == "__main__":
    words = sys.argv[1:]
    main(words[0] if words else "left-atrium", words[1:] or ["1.20", "1.23"])
