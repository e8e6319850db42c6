"""Messages show numpy values as Python values; no message of the package shows `np.float64(...)`."""

import copy
import pickle
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.batch.evaluate import EvaluationSettings as EvaluateSettings
from c3s3_seg.batch.evaluate import evaluate
from c3s3_seg.errors import C3S3Error, FileName, InputError, in_python, is_out_of_memory, quantity, shown
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference.settings import Settings
from c3s3_seg.io.image.save import save
from c3s3_seg.metrics.surface_distance import surface_distances


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(1.5), "1.5"),
        (np.float32(0.1), "0.1"),
        (0.1 + 0.2, "0.3"),
        (2.0, "2"),
        (float("nan"), "nan"),
        (np.inf, "inf"),
        (1e300, "1e+300"),
        (np.int64(7), "7"),
        (np.bool_(True), "True"),
        (np.str_("text"), "text"),
        ("text", "text"),
        (None, "None"),
        ((np.float64(1), np.float64(0.25)), "(1, 0.25)"),
        ([np.int64(1), 2], "[1, 2]"),
        (np.array([[1.0, 2.5]]), "[[1, 2.5]]"),
        ({np.uint8(3), 1}, "{1, 3}"),
        ({"a": np.int64(1), np.str_("b"): (np.float32(0.5),)}, "{'a': 1, 'b': (0.5)}"),
    ],
)
def test_values_as_messages_show_them(value: object, text: str) -> None:
    assert shown(value) == text


@pytest.mark.parametrize(
    ("told", "python"),
    [
        ("Let it be corrected with --repair tilt", "Let it be corrected with repair='tilt'"),
        ("smaller tiles with --set tiling.overlap=0.25", "smaller tiles with overlap=0.25"),
        ("Allow more with --max-memory", "Allow more with memory_bytes="),
        ("with --allow-out-of-domain", "with allow_out_of_domain=True"),
        ("Choose one by its number (--series)", "Choose one by its number (series= of c3s3_seg.load)"),
        ("Give --series 2", "Give series=2 of c3s3_seg.load"),
        ("Take --device cpu, or --backend torch", "Take device='cpu', or backend='torch'"),
    ],
)
def test_options_of_a_message_in_the_words_of_python(told: str, python: str) -> None:
    assert in_python(told) == python


def bad_spacing(folder: Path) -> None:
    grid = Geometry.build((3, 4, 5), (0.5, 0.5, 2000.0))
    save(grid.volume(np.zeros(grid.shape, np.uint8)), folder / "a.nii.gz")  # `save` reads the file back


def bad_labels(folder: Path) -> None:
    evaluate(folder, folder, folder, EvaluateSettings(labels={"a": np.int64(0)}))  # type: ignore[dict-item]


MASK = np.ones((3, 3, 3), bool)
CASES = [
    bad_spacing,
    bad_labels,
    lambda _: Settings(stride=(np.int64(0), np.int64(1), np.int64(1))),  # type: ignore[arg-type]
    lambda _: Settings(mirroring=(np.int64(7),)),  # type: ignore[arg-type]
    lambda _: Geometry.build((3, 4, 5), (np.float64(0), 1, 1)),
    lambda _: surface_distances(MASK, MASK, np.array([1.0, -1.0, 1.0])),
]


@pytest.mark.parametrize("act", CASES)
def test_no_message_shows_the_types_of_numpy(act, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(C3S3Error) as error:
        act(tmp_path)
    assert "np." not in str(error.value)
    assert "float64" not in str(error.value)


def test_a_module_that_finds_no_memory_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With limited memory, importing torch raises this SystemError; anywhere else this error is a defect."""
    said = "error return without exception set"
    for name, code in (
        ("starved", f"raise SystemError({said!r})"),
        ("broken", "raise SystemError('bad argument')"),
    ):
        (tmp_path / f"{name}_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SystemError) as starved:
        import_module("starved_module")
    assert is_out_of_memory(starved.value)
    with pytest.raises(SystemError) as broken:
        import_module("broken_module")
    assert not is_out_of_memory(broken.value)
    assert not is_out_of_memory(SystemError(said))


def test_a_number_has_the_noun_in_its_number() -> None:
    assert (quantity(1, "case"), quantity(0, "case"), quantity(1200, "scan")) == (
        "1 case",
        "0 cases",
        "1,200 scans",
    )
    assert (quantity(1, "dead study"), quantity(2, "dead study")) == ("1 dead study", "2 dead studies")
    assert (quantity(1, "series"), quantity(2, "series")) == ("1 series", "2 series")


def test_a_copy_of_an_error_is_in_the_words_of_the_error() -> None:
    error = InputError(f"found {FileName('DOE.dcm', 'file 1 of 2')}", where=Path("b"), todo="Leave --roi out")
    error.add_note("a note")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(again), repr(again), str(again)) == (InputError, repr(error), str(error))
        assert (again.what.public, again.where, again.todo) == (error.what.public, error.where, error.todo)
        assert again.__notes__ == ["a note"]
