"""The page of a predicted case, with and without scores, uncertainty and flags."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.predicted import CASE, NOISE, SCORED
from helpers.reports import GRID, tags

from c3s3_seg.errors import GeometryError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.report.prediction_page import PredictedCase, Uncertainty, write_prediction_page


def text_of(case: PredictedCase, folder: Path) -> str:
    write_prediction_page(folder / "case.html", case)
    tags(folder / "case.html")
    return (folder / "case.html").read_text(encoding="utf-8")


def test_it_shows_volumes_planes_surfaces_and_provenance(tmp_path: Path) -> None:
    text = text_of(CASE, tmp_path)
    assert "case &lt;1&gt;" in text
    assert "<b>3.21 ml</b><span>atrium</span>" in text
    assert text.count('class="stage"') == 2
    assert '<div class="tile bad"><b>0.0 ml</b><span>scar</span><span>nothing was found</span>' in text
    assert text.count("nothing was found") == 1
    assert "<dt>scan, spacing_mm</dt><dd>1, 1, 1.5</dd>" in text
    assert "Not a medical device" in text
    assert "Flat" not in text


def test_folders_of_the_scan_are_not_passed_on(tmp_path: Path) -> None:
    text = text_of(CASE, tmp_path)
    assert "a.nii.gz" in text
    assert "doe" not in text.split('class="volume"')[0]


def test_flags_and_uncertainty_are_shown_where_they_are_known(tmp_path: Path) -> None:
    assert "unsure" not in text_of(CASE, tmp_path).split("<main>")[1].split("</main>")[0]
    unsure = Uncertainty(GRID.volume(np.full(GRID.shape, 0.4, np.float32)), "Disagreement of two networks")
    case = replace(CASE, flags=("The field of view is unusual",), uncertainty=unsure)
    text = text_of(case, tmp_path)
    assert "The field of view is unusual" in text
    assert "Disagreement of two networks" in text
    assert "unsure" in text.split("<main>")[1].split("</main>")[0]
    assert "0.4" in text


def test_scores_and_uncertainty_with_its_limit_stand_at_the_top(tmp_path: Path) -> None:
    unsure = Uncertainty(
        GRID.volume(np.full(GRID.shape, 0.4, np.float32)), "x", hd95_mm={"atrium": 3.456}, limit_mm=2.758
    )
    text = text_of(replace(SCORED, uncertainty=unsure, made="Model x, 2026-01-02."), tmp_path)
    head = text.split("<main>")[1].split('<section class="viewer"')[0]
    flat = SCORED.scores[0].score.flat()
    expected = {"Dice": f"{flat['dice']:.4f}", "95HD (mm)": f"{flat['hd95_mm']:.2f}"}
    for words, number in expected.items():
        assert f"<b>{number}</b><span>{words}</span>" in head
    assert f"truth {flat['truth_ml']:.2f} ml" in head
    assert '<div class="tile bad"><b>3.46</b><span>Uncertainty (mm)</span><span>limit 2.76 mm</span>' in head
    assert "Model x, 2026-01-02." in head
    assert "truth</span>" not in head
    assert ">Largest error, " in text
    assert ">Least sure voxel<" in text
    assert "distance to the truth" not in text  # the surface shows the uncertainty
    assert "distance to the truth" in text_of(SCORED, tmp_path)


def test_an_empty_mask_has_no_surface_and_says_so(tmp_path: Path) -> None:
    empty = replace(
        CASE,
        mask=GRID.volume(np.zeros(GRID.shape, np.uint8)),
        labels={"atrium": 1},
        volumes_ml={"atrium": 0.0},
    )
    text = text_of(empty, tmp_path)
    assert 'class="stage"' not in text
    assert "<span>atrium</span><span>nothing was found</span>" in text


def test_grids_that_differ_are_refused(tmp_path: Path) -> None:
    other = Geometry.build(GRID.shape, (2, 2, 2)).volume(NOISE)
    with pytest.raises(GeometryError, match="one grid"):
        write_prediction_page(tmp_path / "x.html", replace(CASE, truth=other))
    with pytest.raises(GeometryError, match="one grid"):
        write_prediction_page(tmp_path / "x.html", replace(CASE, scan=other))
    with pytest.raises(GeometryError, match="one grid"):
        write_prediction_page(tmp_path / "x.html", replace(CASE, uncertainty=Uncertainty(other, "x")))
    assert list(tmp_path.iterdir()) == []
