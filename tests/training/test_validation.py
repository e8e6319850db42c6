"""Validation with a net of known output: a case without one of two labels, a miss, an extra label."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.report.study_table import Trained, study_rows
from c3s3_seg.report.study_words import study_markdown
from c3s3_seg.training.bundles.card import _table
from c3s3_seg.training.cases import ValidationCase
from c3s3_seg.training.config import load_config
from c3s3_seg.training.history import scored
from c3s3_seg.training.run import Run
from c3s3_seg.training.validation import validate

GRID = Geometry.build((32, 32, 32))
BALL = np.linalg.norm(np.indices(GRID.shape) - 16, axis=0) < 8


def task(*values: int) -> Task:
    labels = tuple(Label(f"organ-{value}", value) for value in values)
    return Task("toy", "MR", labels, Recipe((1.0, 1.0, 1.0)), (32, 32, 32))


def finds(number: int, classes: int = 3) -> nn.Module:
    """Return a net that labels only bright voxels, as class `number`; with 0 it finds nothing."""
    net = nn.Conv3d(1, classes, 1)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.fill_(-1000.0)
        net.bias[0] = 0.0
        if number:
            net.weight[number], net.bias[number] = 100.0, -100.0
    return net


def case(name: str, value: int) -> ValidationCase:
    """Return a case of a bright ball that has the label `value` in the truth."""
    scan = (BALL * 10.0).astype(np.float32)
    return ValidationCase(name, GRID.volume(scan), GRID.volume((BALL * value).astype(np.uint8)))


def test_a_case_without_a_label_in_common_counts_as_dice_0() -> None:
    found = validate("net", finds(2), task(1, 2), [case("right", 2), case("swapped", 1)])
    right, swapped = found.per_case["right"], found.per_case["swapped"]
    assert right["organ-2"] == {"dice": 1, "jaccard": 1, "hd95_vox": 0, "asd_vox": 0}
    assert swapped["organ-1"] == {"dice": 0, "jaccard": 0, "hd95_vox": 0, "asd_vox": 0}  # the paper's miss
    assert swapped["organ-2"] == {"dice": 0, "jaccard": 0, "hd95_vox": math.inf, "asd_vox": math.inf}
    # The four Dice scores: (right, 1) empty and 0 by the protocol, (right, 2) 1, and two of 0.
    assert (found.dice, found.jaccard) == (0.25, 0.25)
    assert (found.hd95_vox, found.asd_vox, found.infinite) == (0, 0, 1)
    assert "1 infinite" in found.remark
    assert found.record(4)["infinite"] == 1


def test_a_label_is_learnt_where_the_cases_that_have_it_say_so() -> None:
    """In 3 of 4 cases the truth lacks organ 2; the protocol's zeros in them do not make it unlearnt."""
    cases = [case("right", 2), *(case(f"other-{n}", 1) for n in range(3))]
    found = validate("net", finds(2, 4), task(1, 2, 3), cases)
    assert found.by_label == {"organ-1": 0, "organ-2": 1}  # organ-3 is in no truth, so not judged
    assert scored(found, 10)["unlearnt"] == ["organ-1"]


def test_a_label_of_value_255_is_a_label_like_any_other() -> None:
    found = validate("net", finds(1), task(1, 255), [case("swapped", 255)])
    assert found.dice == 0


def test_a_net_that_finds_nothing_has_no_distance() -> None:
    found = validate("net", finds(0), task(1, 2), [case("a", 1), case("b", 2)])
    assert (found.dice, found.infinite, found.remark) == (0, 0, "")
    assert math.isnan(found.hd95_vox)
    assert math.isnan(found.asd_vox)


def test_one_miss_beside_a_hit_is_0_by_the_protocol() -> None:
    found = validate("net", finds(1, classes=2), task(1), [case("a", 1)])
    assert (found.dice, found.hd95_vox) == (1, 0)
    assert "infinite" not in found.record(1)


def test_the_checkpoint_and_the_card_take_what_is_infinite(toy_config: Path, tmp_path: Path) -> None:
    config = load_config(toy_config)
    run = Run(config, tmp_path)
    empty = GRID.volume(np.zeros(GRID.shape, dtype=np.uint8))
    noise = np.random.default_rng(0).normal(100, 15, GRID.shape).astype(np.float32)
    with torch.no_grad():
        for ema in run.emas.values():
            ema.net.output.bias[1] += 100  # type: ignore[operator, index]  # every voxel is the organ
    results = run.validate([ValidationCase("none", GRID.volume(noise), empty)])
    assert [result.infinite for result in results] == [1, 1]
    assert all(math.isnan(result.hd95_vox) for result in results)
    run.save()
    back = Run(config, tmp_path)
    back.restore()
    assert [record["infinite"] for record in back.history.records] == [1, 1]
    assert "1 infinite distances" in _table(back.history.records)
    assert json.loads(json.dumps(results[0].per_case))["none"]["ball"]["dice"] == 0


def of_run(seed: int, hd95: float) -> Trained:
    cases = {"a": {"ball": {"dice": 0.5, "jaccard": 0.4, "hd95_vox": 2.0, "asd_vox": 1.0}}}
    cases["b"] = {"ball": {"dice": 0.0, "jaccard": 0.0, "hd95_vox": hd95, "asd_vox": hd95}}
    return Trained("base", seed, 10, 60.0, {"vnet": cases})


def test_a_study_counts_infinite_distances_and_does_not_average_them() -> None:
    (row,) = study_rows([of_run(1, math.inf), of_run(2, 4.0)], "base")
    assert row.mean["dice"] == 0.25
    assert row.mean["hd95_vox"] == pytest.approx((2.0 + 4.0) / 2)  # of cases a and b
    assert row.spread["hd95_vox"] == pytest.approx(0.5**0.5)
    assert row.infinite == 1
    assert (row.n["dice"], row.n["hd95_vox"], row.left_out["hd95_vox"]) == (2, 2, 1)
    assert "1 infinite distances" in study_markdown({"base": [row]})
