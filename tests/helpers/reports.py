"""Shared by tests: GRID, ball, tags, folder, report."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.batch.evaluate import EvaluationSettings, evaluate
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import save

GRID = Geometry.build((40, 36, 24), (1, 1, 1.5))


VOID = {"meta", "img", "link", "br", "hr", "input"}


class Tags(HTMLParser):
    """A parser that collects the tags and checks that each is closed at the right place."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(path: Path) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    assert parser.open == []
    return parser.seen


def ball(radius: float, centre: tuple[float, float, float] = (20, 18, 12)) -> np.ndarray:
    apart = np.indices(GRID.shape) - np.array(centre)[:, None, None, None]
    return (np.linalg.norm(apart, axis=0) < radius).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write six cases: 3 ordinary, a miss, an empty truth, both empty; two with scans; return the folder."""
    place = tmp_path_factory.mktemp("cases")
    masks = {
        "good": (ball(8), ball(8.2)),
        "wide": (ball(10), ball(8)),
        "moved": (ball(8, (23, 18, 12)), ball(8)),
        "missed": (ball(0), ball(8)),
        "no-truth": (ball(8), ball(0)),
        "both-empty": (ball(0), ball(0)),
    }
    for name in ("predictions", "truth", "images"):
        (place / name).mkdir()
    for name, (prediction, truth) in masks.items():
        save(GRID.volume(prediction), place / "predictions" / f"{name}.nii.gz")
        save(GRID.volume(truth), place / "truth" / f"{name}.nii.gz")
    noise = np.random.default_rng(0).normal(100, 10, GRID.shape).astype(np.float32)
    save(GRID.volume(noise), place / "images" / "good.nii.gz")
    other = Geometry.build(GRID.shape, (2, 2, 2))
    save(other.volume(noise), place / "images" / "wide.nii.gz")
    return place


def run(folder: Path, name: str, **settings: object) -> Path:
    options = EvaluationSettings(html=True, images=folder / "images", **settings)  # type: ignore[arg-type]
    result = evaluate(folder / "predictions", folder / "truth", folder / name, options)
    assert result.html_path is not None
    return result.html_path


@pytest.fixture(scope="module")
def report(folder: Path) -> Path:
    return run(folder, "out")
