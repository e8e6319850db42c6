"""The public names: they can be listed, describe themselves in one line, and a wrong name is reported."""

import pydoc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import c3s3_seg
from c3s3_seg.geometry.volume import Geometry, Source

ROOT = Path(__file__).parents[1]


def test_the_public_names_are_listed() -> None:
    assert set(c3s3_seg.__all__) <= set(dir(c3s3_seg))
    text = pydoc.render_doc(c3s3_seg, renderer=pydoc.plaintext)
    for name in c3s3_seg.__all__:
        assert name in text or name == "__version__"
        assert getattr(c3s3_seg, name) is not None


def test_a_wrong_name_says_which_there_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'open_predictr'; it has: .*open_predictor"):
        c3s3_seg.open_predictr  # noqa: B018


# The types of other packages are skipped: they do not matter here, and reading them takes most of the time.
CONFIGURATION = """
[mypy]
cache_dir = /dev/null
ignore_missing_imports = True
[mypy-numpy.*,torch.*,scipy.*,SimpleITK.*,typer.*,rich.*,pydicom.*]
follow_imports = skip
[mypy-c3s3_seg.*]
ignore_errors = True
"""


@pytest.mark.slow
def test_a_wrong_name_fails_in_a_type_checker(tmp_path: Path) -> None:
    code, configuration = tmp_path / "user.py", tmp_path / "mypy.ini"
    code.write_text("import c3s3_seg\nreveal_type(c3s3_seg.load)\nc3s3_seg.lod('x')\n")
    configuration.write_text(CONFIGURATION)
    words = [sys.executable, "-m", "mypy", "--config-file", str(configuration), str(code)]
    found = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert 'Module has no attribute "lod"' in found.stdout
    assert "c3s3_seg.geometry.volume.Volume" in found.stdout


def test_importing_the_package_costs_nothing() -> None:
    code = (
        "import sys, c3s3_seg; print(sorted({'numpy', 'torch', 'SimpleITK', 'openvino'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_volume_describes_itself_in_one_line() -> None:
    grid = Geometry.build((4, 5, 6), (0.625, 0.625, 1.25))
    assert repr(grid) == "Geometry(shape=(4, 5, 6), spacing_mm=(0.625, 0.625, 1.25), axes=LPS)"
    volume = grid.volume(np.zeros((4, 5, 6), np.int16), Source(modality="MR"))
    assert repr(volume) == (
        "Volume(shape=(4, 5, 6), spacing_mm=(0.625, 0.625, 1.25), dtype=int16, modality=MR)"
    )


def test_every_error_that_a_caller_may_catch_is_public() -> None:
    from c3s3_seg import errors

    raised = {"C3S3Error", "InputError", "GeometryError", "StorageError", "MemoryLimitError", "MissingError"}
    for name in raised:
        assert getattr(c3s3_seg, name) is getattr(errors, name)
    assert issubclass(c3s3_seg.DomainError, c3s3_seg.C3S3Error)


def test_a_bundle_describes_itself_in_one_line() -> None:
    bundle = c3s3_seg.ModelBundle.find("phantom")
    assert repr(bundle) == (
        f"ModelBundle(phantom, labels=(left_atrium), networks=(vnet, resvnet), folder={bundle.folder})"
    )


def test_an_empty_name_is_no_model() -> None:
    with pytest.raises(c3s3_seg.InputError, match="found an empty name, wanted that of a model"):
        c3s3_seg.ModelBundle.find("")
