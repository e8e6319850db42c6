"""The command line and the Python API share one path: equal inputs get equal masks, notes and refusals."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command import run

from c3s3_seg import (
    Geometry,
    ModelBundle,
    Prediction,
    Predictor,
    Volume,
    load,
    load_mask,
    open_predictor,
    save,
)
from c3s3_seg.errors import C3S3Error, InputError, in_python
from c3s3_seg.inference.domain_check import DomainError
from c3s3_seg.phantom import Simulator, simulate

pytestmark = pytest.mark.slow

LARGER = Simulator(shape=(140, 124, 62), spacing_mm=(1.5, 1.5, 2.2))  # 210 x 186 x 136 mm
COARSE = Simulator(shape=(72, 66, 36), spacing_mm=(1.95, 1.95, 2.8))  # the domain check warns
Made = tuple[Volume, list[str]]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return open_predictor(ModelBundle.find("phantom"))


def noise(shape: tuple[int, int, int], spacing: float) -> Volume:
    values = np.random.default_rng(0).gamma(2, 50, shape).astype(np.float32)
    return Geometry.build(shape, (spacing,) * 3).volume(values)


_simulate = cache(simulate)


def turned() -> Volume:
    scan = _simulate(31_050, COARSE).scan
    axes = np.array([[0, 0, -1, scan.geometry.shape[0] - 1], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    array = np.ascontiguousarray(np.flip(scan.array, 0).transpose(1, 2, 0))
    return Geometry((array.shape[0], array.shape[1], array.shape[2]), scan.geometry.affine @ axes).volume(
        array
    )


def moved(offset: float, factor: float) -> Volume:
    scan = _simulate(31_051, COARSE).scan
    return scan.geometry.volume(scan.array.astype(np.float64) * factor + offset)


CASES: dict[str, Callable[[], Made]] = {
    "phantom": lambda: (_simulate(31_050).scan, []),
    "other axes": lambda: (turned(), []),
    "an offset": lambda: (moved(1e6, 1.0), []),
    "larger": lambda: (_simulate(31_050, LARGER).scan, []),
    "region": lambda: (_simulate(31_051, COARSE).scan, ["--roi", "3:70,2:65,1:35"]),
    "region in mm": lambda: (_simulate(31_051, COARSE).scan, ["--roi", "-500:500,-500:500,-500:500mm"]),
    "empty region": lambda: (_simulate(31_051, COARSE).scan, ["--roi", "5:5,0:9,0:9"]),
    "coarse noise": lambda: (noise((40, 40, 40), 8.0), []),
    "coarse noise, allowed": lambda: (noise((20, 20, 20), 8.0), ["--allow-out-of-domain"]),
    "nothing in a larger scan": lambda: (noise((160, 150, 80), 1.5), []),
    "one value": lambda: (_simulate(31_050).scan.geometry.volume(np.full((112, 104, 56), 7.0)), []),
    "beyond float32": lambda: (moved(0.0, 1e300), []),
    "small field of view": lambda: (noise((20, 20, 20), 1.5), []),
}


@dataclass(frozen=True)
class Answer:
    """The result of the API for a case: a prediction or an error, and the progress that it reported."""

    path: Path
    options: list[str]
    found: Prediction | C3S3Error
    told: list[tuple[str, int, int]]

    @property
    def prediction(self) -> Prediction:
        assert isinstance(self.found, Prediction)
        return self.found


@pytest.fixture(scope="module")
def answer(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Answer]:
    """Return a function that gives the result of the API for a case, computed once for all tests."""
    folder = tmp_path_factory.mktemp("cases")

    @cache
    def of(name: str) -> Answer:
        scan, options = CASES[name]()
        path = folder / f"{len(list(folder.iterdir()))}" / "x.nii.gz"
        path.parent.mkdir()
        save(scan, path)
        told: list[tuple[str, int, int]] = []

        def progress(what: str, done: int = 0, total: int = 0) -> None:
            told.append((what, done, total))

        arguments: dict[str, Any] = {"allow_out_of_domain": "--allow-out-of-domain" in options}
        arguments["roi"] = options[1] if "--roi" in options else None
        try:
            return Answer(path, options, predictor(str(path), progress=progress, **arguments), told)
        except C3S3Error as error:
            return Answer(path, options, error, told)

    return of


def command(path: Path, out: Path, options: list[str]) -> tuple[int, str]:
    found = run("predict", path, "-o", out, "--model", "phantom", *options)
    return found.returncode, found.stderr


@pytest.mark.parametrize("name", CASES)
def test_the_same_inputs_get_the_same_answers(
    name: str, answer: Callable[[str], Answer], tmp_path: Path
) -> None:
    asked = answer(name)
    code, told = command(asked.path, tmp_path / "out", asked.options)
    if code == 2:
        error = asked.found
        assert isinstance(error, C3S3Error)
        assert error.exit_code == 2
        assert str(error) == in_python(told.removeprefix("error: ").strip())
        assert not list((tmp_path / "out").glob("*.nii.gz"))
        return
    found = asked.prediction
    assert code == int(found.empty)
    facts = json.loads((tmp_path / "out" / "x.json").read_text())
    mask = load_mask(tmp_path / "out" / "x.nii.gz")
    assert np.array_equal(mask.array, found.mask.array)
    assert mask.geometry.matches(found.mask.geometry)
    assert facts["domain_check"] == found.check.record()
    assert facts["notes"] == list(found.remarks)
    assert facts["volume_ml"] == pytest.approx(found.volume_ml)


def test_what_the_command_refuses_the_api_refuses(
    predictor: Predictor, answer: Callable[[str], Answer]
) -> None:
    scan = noise((20, 20, 20), 8.0)
    with pytest.raises(DomainError, match=r"its spacing is 8 mm left-right.*foot-head") as caught:
        predictor(scan)
    assert "allow_out_of_domain=True" in str(caught.value)
    assert "--" not in str(caught.value)
    found = answer("coarse noise, allowed").prediction  # the same scan
    assert found.check.allowed
    assert found.check.level == "refuse"
    assert len(found.check.result.refusals) >= 2
    assert found.notes[: len(found.check.remarks)] == found.check.remarks


def test_the_api_loads_a_path_or_says_what_to_give(
    predictor: Predictor, answer: Callable[[str], Answer]
) -> None:
    asked = answer("other axes")
    scan = load(asked.path)
    assert np.array_equal(asked.prediction.mask.array, predictor(scan).mask.array)
    with pytest.raises(InputError, match="there is no such file"):
        predictor("absent.nii.gz")
    with pytest.raises(InputError, match=r"found ndarray, wanted a Volume or the path .*Geometry\.build"):
        predictor(scan.array)  # type: ignore[arg-type]


def test_a_long_prediction_reports_its_progress(answer: Callable[[str], Answer]) -> None:
    told = answer("larger").told
    windows = [row for row in told if "coarse" in row[0]]
    tiles = [row for row in told if row[0] == "tiles"]
    assert windows[-1][1] == windows[-1][2] > 1
    assert tiles[-1][1] == tiles[-1][2]
    assert told[0] == windows[0]


def test_objects_describe_themselves_in_one_line(
    predictor: Predictor, answer: Callable[[str], Answer]
) -> None:
    assert repr(predictor) == "Predictor(phantom, labels=(left_atrium), backend=openvino, networks=1)"
    text = repr(answer("phantom").prediction)
    assert text.startswith("Prediction(")
    assert "ml, shape=(112, 104, 56), check=pass, notes=0)" in text
    assert "\n" not in text
