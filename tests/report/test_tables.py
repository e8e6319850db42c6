"""Statistics checked by hand, files read back, tables with units, pictures in the right orientation."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import rotation
from PIL import Image
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from c3s3_seg.errors import GeometryError, InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.metrics.results import CaseScore, PaperScore, Score
from c3s3_seg.metrics.statistics import cohorts, statistics, value_range
from c3s3_seg.report.numbers import in_page, in_terminal
from c3s3_seg.report.overlay import LINE, Overlay, _layout, overlay_png
from c3s3_seg.report.planes import PLANES, cut
from c3s3_seg.report.rows import Failure, PredictionRow
from c3s3_seg.report.tables import write_cases_csv, write_report_json
from c3s3_seg.report.terminal import evaluation_table, prediction_table
from c3s3_seg.system import files


def clinical(dice: float, hd95_mm: float) -> Score:
    return Score(dice, dice / (2 - dice), *[hd95_mm] * 6, ((1.0, dice), (2.0, dice)), 3.0, 2.0, 1.0)


ROWS = (
    CaseScore("a", "atrium", clinical(0.9, 2.0), 100.0),
    CaseScore("b", "atrium", clinical(0.8, 4.0), 100.0),
    CaseScore("c", "atrium", clinical(0.0, math.inf), 120.0),
    CaseScore("d", "atrium", clinical(1.0, math.nan), 100.0),
)
PAPER = (
    CaseScore("a", "atrium", PaperScore(0.9, 0.8, 2.0, 1.0, optimistic=False)),
    CaseScore("b", "atrium", PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=True)),
)
FAILED = (Failure("[red]e", "damaged.nii.gz: the file ends early."),)


# --- statistics


def test_statistics_by_hand() -> None:
    found = statistics([1, 2, 3, 4, 10])
    assert (found.n, found.infinite, found.undefined) == (5, 0, 0)
    assert (found.mean, found.median, found.q1, found.q3) == (4, 3, 2, 4)
    assert found.sd == pytest.approx(math.sqrt(50 / 4))
    assert found.mean_penalised == 4
    half = 2.776445 * found.sd / math.sqrt(5)  # Student t, 4 degrees of freedom
    assert (found.low, found.high) == pytest.approx((4 - half, 4 + half), rel=1e-3)


def test_four_cases_have_no_interval() -> None:
    found = statistics([1, 2, 3, 4, math.inf])
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isfinite(found.sd)


@pytest.mark.parametrize("n", [5, 12, 29, 30, 60])
def test_the_interval_covers_the_mean_as_often_as_it_says(n: int) -> None:
    drawn = np.random.default_rng(n).normal(size=(400, n))
    found = [statistics(values.tolist()) for values in drawn]
    covered = sum(numbers.low <= 0 <= numbers.high for numbers in found)
    assert 0.915 * 400 <= covered <= 0.985 * 400  # 95 %, three standard errors of 1.1 %


def test_infinite_and_undefined_are_counted_and_not_averaged() -> None:
    found = cohorts(ROWS)[0].of("hd95_mm")
    assert (found.n, found.infinite, found.undefined) == (4, 1, 1)
    assert found.mean == 3
    assert found.mean_penalised == pytest.approx((2 + 4 + 120) / 3)


def test_a_miss_without_a_diagonal_has_no_penalised_mean() -> None:
    assert math.isnan(statistics([1, math.inf]).mean_penalised)
    assert math.isnan(statistics([1, math.inf], [None, None]).mean_penalised)
    assert statistics([1, 2], [None, None]).mean_penalised == 1.5


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf]])
def test_nothing_to_average_is_nan(values: list[float]) -> None:
    found = statistics(values)
    assert all(math.isnan(x) for x in (found.mean, found.sd, found.median, found.q1, found.low, found.high))


def test_one_case_has_no_spread_and_no_interval() -> None:
    found = statistics([2.5])
    assert (found.mean, found.median) == (2.5, 2.5)
    assert math.isnan(found.sd)
    assert math.isnan(found.low)


def test_an_interval_ends_where_its_metric_does() -> None:
    dice, hd95_mm = [1.0, 1.0, 1.0, 1.0, 0.6], [0.0, 0.0, 0.0, 0.0, 2.0]
    rows = [CaseScore(str(n), "x", clinical(*pair)) for n, pair in enumerate(zip(dice, hd95_mm, strict=True))]
    half = 2.776445 / 5**0.5  # Student t, 4 degrees of freedom, times the standard deviation
    (cohort,) = cohorts(rows)
    assert cohort.of("dice").high == cohort.of("nsd_1mm").high == 1
    assert cohort.of("dice").low == pytest.approx(0.92 - half * 0.4 / 5**0.5)
    assert cohort.of("hd95_mm").low == 0
    assert cohort.of("hd95_mm").high == pytest.approx(0.4 + half * 2 / 5**0.5)
    assert statistics(hd95_mm).low < 0  # a difference has no such end


@pytest.mark.parametrize(
    ("column", "expected"),
    [("jaccard", (0, 1)), ("nsd_area_2mm", (0, 1)), ("asd_vox", (0, math.inf)), ("volume_ml", (0, math.inf))],
)
def test_the_range_of_a_column(column: str, expected: tuple[float, float]) -> None:
    assert value_range(column) == expected
    assert value_range("volume_error_ml") == (-math.inf, math.inf)


def test_the_bootstrap_repeats_itself_and_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(3).normal(10, 2, 400).tolist()
    found = statistics(values)
    assert statistics(values) == found
    assert statistics(values, seed=1).low != found.low
    half = 1.96 * found.sd / math.sqrt(400)
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)


def test_the_bootstrap_begins_at_30_cases() -> None:
    """The interval of fewer cases draws nothing, so it does not depend on the seed."""
    values = np.random.default_rng(3).normal(10, 2, 30).tolist()
    assert statistics(values, seed=1).low != statistics(values).low
    assert statistics(values[:29], seed=1).low == statistics(values[:29]).low


def test_two_cases_have_a_spread() -> None:
    assert statistics([1.0, 3.0]).sd == pytest.approx(math.sqrt(2))


def test_cohorts_by_label_with_worst_cases_and_flattered() -> None:
    rows = [*ROWS, *(CaseScore(f"n{i}", "wall", clinical(i / 10, 1.0)) for i in range(1, 9))]
    atrium, wall = cohorts(rows)
    assert (atrium.label, atrium.cases, wall.label, wall.cases) == ("atrium", 4, "wall", 8)
    assert atrium.worst_cases == ("c", "b", "a")  # in d both masks are empty
    assert wall.worst_cases == ("n1", "n2", "n3", "n4", "n5")
    assert (cohorts(PAPER)[0].optimistic, atrium.optimistic) == (1, 0)
    assert cohorts([]) == ()
    with pytest.raises(KeyError):
        atrium.of("optimistic")


def test_two_empty_masks_are_no_worst_case_in_the_paper_protocol() -> None:
    """In the paper protocol two empty masks have Dice 0, as a miss has."""
    nothing = CaseScore("nothing", "atrium", PaperScore(0.0, 0.0, 0.0, 0.0, optimistic=False))
    invented = CaseScore("invented", "atrium", PaperScore(0.0, 0.0, math.inf, math.inf, optimistic=False))
    (cohort,) = cohorts([nothing, *PAPER, invented])
    assert cohort.worst_cases == ("b", "invented", "a")
    assert (cohort.cases, cohort.optimistic, cohort.both_empty) == (4, 1, 1)
    assert cohorts(ROWS)[0].both_empty == 1
    words = " ".join(shown(evaluation_table([nothing, *PAPER, invented])).split())
    assert "atrium: 1 empty, counted as 0; 1 empty like the truth, counted as 0" in words


# --- files


def test_csv_reads_back(tmp_path: Path) -> None:
    write_cases_csv(tmp_path / "cases.csv", ROWS)
    with (tmp_path / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["case", "label", "dice", "jaccard"]
    assert {"nsd_1mm", "nsd_2mm", "truth_ml"} < set(rows[0])
    assert [row["case"] for row in rows] == list("abcd")
    assert [float(row["hd95_mm"]) for row in rows[:3]] == [2.0, 4.0, math.inf]
    assert rows[3]["hd95_mm"] == "nan"


def test_csv_keeps_names_with_commas_and_quotes(tmp_path: Path) -> None:
    write_cases_csv(tmp_path / "cases.csv", [CaseScore('a,"b"', "ä", PAPER[0].score)])
    with (tmp_path / "cases.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1][:2] == ['a,"b"', "ä"]


def test_csv_without_rows_has_its_header(tmp_path: Path) -> None:
    write_cases_csv(tmp_path / "cases.csv", [])
    assert (tmp_path / "cases.csv").read_text() == "case,label\n"


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


def test_json_has_everything_and_only_what_json_knows(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    write_report_json(path, ROWS, FAILED, protocol="clinical")
    report = json.loads(path.read_text(), parse_constant=refuse)
    assert report["protocol"]["name"] == "clinical"
    assert report["software"]["name"] == "c3s3-seg"
    assert report["cases"][2]["hd95_mm"] == "inf"
    assert report["cases"][3]["hd95_mm"] is None
    assert {"inf", "nan"} < set(report["conventions"])
    assert report["failures"] == [{"case": FAILED[0].case, "reason": FAILED[0].reason}]
    (cohort,) = report["cohorts"]
    assert (cohort["metrics"]["hd95_mm"]["mean"], cohort["metrics"]["hd95_mm"]["infinite"]) == (3.0, 1)
    columns = {name for case in report["cases"] for name in case} - {"case", "label", "nsd_1mm", "nsd_2mm"}
    assert columns | {"surface", "nsd"} == set(report["definitions"])


def test_json_of_the_paper_protocol_says_how_many_were_flattered(tmp_path: Path) -> None:
    write_report_json(tmp_path / "report.json", PAPER, [], protocol="paper")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["cohorts"][0]["optimistic"], report["cohorts"][0]["both_empty"]) == (1, 0)
    assert report["failures"] == []
    assert set(report["definitions"]) == {"surface", "dice", "jaccard", "hd95_vox", "asd_vox", "optimistic"}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report_json(tmp_path / name, ROWS, FAILED, protocol="clinical")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_report_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cases.csv"
    path.write_text("old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(InputError, match=r"cases.csv: cannot be written \(No space left"):
        write_cases_csv(path, ROWS)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["cases.csv"]


def test_a_folder_that_is_missing_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_report_json(tmp_path / "none" / "report.json", [], [], protocol="paper")


# --- terminal


def shown(table: Table, width: int = 160) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    return console.export_text()


def test_evaluation_table_has_units_and_means() -> None:
    text = shown(evaluation_table(ROWS))
    assert all(part in text for part in ("95HD", "ASD", "(mm)", "Volume", "(ml)"))
    assert "Label" not in text
    mean = next(line for line in text.splitlines() if "mean of 4" in line)
    assert "3.00 (1 inf, 1 nan)" in mean


def test_evaluation_table_of_the_paper_protocol() -> None:
    text = shown(evaluation_table(PAPER))
    assert "95HD" in text
    assert "(voxel)" in text
    assert "(mm)" not in text
    assert "1 empty, counted as 0" in text


def test_evaluation_table_of_several_labels_and_of_none() -> None:
    text = shown(evaluation_table([*ROWS, *(CaseScore(r.case, "[b]wall", r.score) for r in ROWS)]))
    assert "Label" in text
    assert "[b]wall" in text
    assert sum("mean of 4" in line for line in text.splitlines()) == 2
    assert "failed" not in text
    shown(evaluation_table([]))


def test_two_labels_fit_into_a_usual_terminal() -> None:
    names = (f"hippocampus_{n:03d}" for n in range(3))
    score = next(row for row in ROWS if row.score.dice).score
    rows = [CaseScore(name, label, score) for name in names for label in ("anterior", "posterior")]
    lines = shown(evaluation_table(rows), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("hippocampus_000" in line for line in lines) == 2


@pytest.mark.parametrize("length", [30, 60, 70])
def test_no_column_is_cut_off_beside_long_names(length: int) -> None:
    """Columns with a smallest width made the last ones be cut off, beside labels of several words."""
    label = "posterior wall of the left atrium"
    table = evaluation_table([CaseScore(n * length, label, ROWS[0].score) for n in "xy"])
    unlimited = Console(width=10_000)
    text = shown(table, width=Measurement.get(unlimited, unlimited.options, table).minimum)
    assert ("x" * min(length, 60)) in text
    assert text.count("x") == length + text.count("voxels")
    assert all(text.count(f"{number} ") >= 2 for number in ("0.9000", "2.00", "3.00"))


def test_prediction_table_with_and_without_truth() -> None:
    plain = (PredictionRow("a", (("atrium", 61.23),), 3.21),)
    text = shown(prediction_table(plain))
    assert all(part in text for part in ("Volume", "(ml)", "61.2", "Time", "(s)", "3.2"))
    assert "Dice" not in text
    scored = [PredictionRow(r.case, (("atrium", 61.23),), 3.21, (r,)) for r in ROWS]
    text = shown(prediction_table([*plain, *scored]))
    assert all(part in text for part in ("Dice", "95HD", "ASD", "(mm)", "mean of 4"))


def test_prediction_table_of_several_labels_has_a_line_each() -> None:
    text = shown(prediction_table([PredictionRow("a", (("one", 1.0), ("two", 2.0)), 3.0)]))
    assert [word in text for word in ("Label", "one", "two")] == [True] * 3


# --- pictures


def scan_with_marks(geometry: Geometry) -> tuple[Volume, Volume]:
    """Return a scan and its mask: 200 to the left, front and head of the mask in the middle (100), else 0."""
    positions = geometry.to_mm(np.moveaxis(np.indices(geometry.shape), 0, -1))
    offset = positions - geometry.to_mm((np.array(geometry.shape) - 1) / 2)
    array = np.zeros(geometry.shape, dtype=np.float32)
    array[np.linalg.norm(offset, axis=-1) < 8] = 100
    for axis, sign in ((0, 1), (1, -1), (2, 1)):  # LPS: left, front, head
        distance = np.linalg.norm(offset - 18 * sign * np.eye(3)[axis], axis=-1)
        array[distance < 9] = 200
    return geometry.volume(array), geometry.volume((array == 100).astype(np.uint8))


GRIDS = [
    np.eye(3),
    np.diag([-1.0, -1.0, 1.0]),  # as NIfTI files are stored
    np.array([[0, 0, 1], [-1, 0, 0], [0, 1, 0]], dtype=float),  # a sagittal acquisition
    rotation(15, -20, 25),
]


@pytest.mark.parametrize("direction", GRIDS)
def test_left_front_and_head_are_where_a_radiologist_looks_for_them(direction: np.ndarray) -> None:
    geometry = Geometry.build((60, 62, 64), (1.0, 1.0, 1.0), direction=direction)
    scan, mask = scan_with_marks(geometry)
    panels = {panel.plane.name: panel.grey.astype(int) for panel in cut(scan, [mask.array != 0])}
    # Axial shows the left and the front mark, coronal left and head, sagittal front and head.
    for name, to_the_right in {"Axial": True, "Coronal": True, "Sagittal": False}.items():
        rows, columns = np.nonzero(panels[name] > 200)
        middle_row, middle_column = ((n - 1) / 2 for n in panels[name].shape)
        assert rows.mean() < middle_row - 5, name
        assert (
            (columns.mean() > middle_column + 5) if to_the_right else (columns.mean() < middle_column - 5)
        ), name


def test_letters_agree_with_the_axes() -> None:
    ends = {0: "RL", 1: "AP", 2: "FH"}
    for plane in PLANES:
        left, right, top, bottom = plane.letters
        assert left + right == ends[plane.right]
        # Rows run downwards: along y, and against z.
        assert top + bottom == (ends[plane.down] if plane.down == 1 else ends[plane.down][::-1])
        assert {plane.across, plane.right, plane.down} == {0, 1, 2}


def test_the_plane_is_that_of_the_first_masks_largest_area() -> None:
    geometry = Geometry.build((20, 20, 20))
    mask = np.zeros(geometry.shape, dtype=bool)
    mask[5:9, 5:9, 3:12] = True
    mask[2:16, 4:14, 7] = True
    scan = geometry.volume(np.broadcast_to(np.arange(20.0), geometry.shape).copy())
    axial = cut(scan, [mask, ~mask])[0]
    assert axial.masks[0].sum() == 140
    assert np.ptp(axial.grey) == 0


@pytest.mark.parametrize(
    "sizes",
    [[(110, 84), (110, 55), (84, 55)], [(60, 50), (60, 360), (50, 360)], [(1, 1), (1, 400), (1, 400)]],
)
def test_panels_stay_inside_of_the_picture_and_apart(sizes: list[tuple[float, float]]) -> None:
    scale, corners, height = _layout(sizes)
    boxes = [(x, y, x + w * scale, y + h * scale) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    assert all(x0 >= 20 and x1 <= 1180 and y1 <= 56 + height + 1 for x0, _, x1, y1 in boxes)
    for n, one in enumerate(boxes):
        for other in boxes[n + 1 :]:
            assert one[2] < other[0] or one[3] < other[1]


def count_colour(path: Path, colour: tuple[int, int, int]) -> int:
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - colour).max(axis=2) < 12).sum())


ORANGE, BLUE, GREEN = (230, 159, 0), (86, 180, 233), (0, 158, 115)


def test_overlay_is_a_png_of_1200_pixels_with_both_contours(tmp_path: Path) -> None:
    scan, mask = scan_with_marks(Geometry.build((40, 40, 20), (1, 1, 2), direction=rotation(5, 8, -10)))
    path = tmp_path / "case.png"
    overlay = Overlay(scan, mask, {"organ": 1}, title="case")
    overlay_png(overlay, path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 1200
        assert not image.info
    assert count_colour(path, ORANGE) > 1000
    assert count_colour(path, BLUE) == 0
    truth = mask.geometry.volume(np.roll(mask.array, 4, axis=0))
    overlay_png(replace(overlay, truth=truth), path)
    assert count_colour(path, BLUE) > 1000
    assert [p.name for p in tmp_path.iterdir()] == ["case.png"]


def test_each_label_has_its_own_colour_and_the_footer_has_room_for_all_names(tmp_path: Path) -> None:
    scan, mask = scan_with_marks(Geometry.build((40, 40, 20)))
    halves = mask.array * np.where(np.arange(40) < 20, 1, 2)[:, None, None]
    overlay = Overlay(scan, mask.geometry.volume(halves.astype(np.uint8)), {"left": 1, "right": 2})
    overlay_png(overlay, tmp_path / "a.png")
    assert min(count_colour(tmp_path / "a.png", colour) for colour in (ORANGE, GREEN)) > 500
    many = {f"a label with a long name {n}": n for n in range(1, 13)}
    overlay_png(replace(overlay, labels=many), tmp_path / "b.png")
    sizes = [Image.open(tmp_path / name).size for name in ("a.png", "b.png")]
    assert sizes[0][0] == sizes[1][0] == 1200
    assert sizes[1][1] - sizes[0][1] == 2 * LINE


@pytest.mark.parametrize("fill", [0, 1])
def test_overlay_of_an_empty_and_of_a_full_mask(tmp_path: Path, fill: int) -> None:
    geometry = Geometry.build((12, 14, 9), (1, 1, 3))
    flat = geometry.volume(np.full(geometry.shape, 7, dtype=np.int16))
    mask = geometry.volume(np.full(geometry.shape, fill, dtype=np.uint8))
    shown = Overlay(flat, mask, {"a" * 300: 1}, title="long " * 100, footer="wide " * 100)
    overlay_png(shown, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_overlay_refuses_another_grid_no_label_and_no_folder(tmp_path: Path, oblique: Volume) -> None:
    other = Geometry.build(oblique.geometry.shape).volume(oblique.array)
    good = Overlay(oblique, oblique, {"organ": 1})
    with pytest.raises(GeometryError, match="grid of the mask 'truth'"):
        overlay_png(replace(good, truth=other), tmp_path / "a.png")
    with pytest.raises(InputError, match="at least one"):
        overlay_png(replace(good, labels={}), tmp_path / "a.png")
    with pytest.raises(InputError, match="cannot be written"):
        overlay_png(good, tmp_path / "none" / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
def test_overlay_of_a_real_case(tmp_path: Path, shared_data: Path) -> None:
    from c3s3_seg.io import load, load_mask

    truth = sorted((shared_data / "la" / "labelsTr").glob("*.nii.gz"))[0]
    scan, mask = load(shared_data / "la" / "imagesTr" / truth.name), load_mask(truth)
    overlay_png(Overlay(scan, mask, {"atrium": 1}), tmp_path / "a.png")
    assert count_colour(tmp_path / "a.png", ORANGE) > 2000


def test_small_numbers_are_not_0() -> None:
    assert in_terminal(0.0423, "volume_ml") == in_page(0.0423, "volume_ml") == "0.042"
    assert in_page(-0.25, "volume_error_ml") == "-0.250"
    assert in_page(0.0001365, "volume_ml") == "0.0001"
    assert [in_page(value, "truth_ml") for value in (0.0, 1.0, 12.34)] == ["0.0", "1.00", "12.3"]
    assert in_terminal(0.0009, "p") == in_page(0.0009, "p") == "<0.001"
    assert (in_terminal(0.001, "p"), in_page(math.nan, "p")) == ("0.001", "\u2013")
