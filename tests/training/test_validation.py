"""Validation with a net of known output: a case without one of two labels, a miss, an extra label."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Intensity, Recipe
from c3s3_seg.commands.train import _refuse_nothing
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io import load_mask, save
from c3s3_seg.report.study_table import Trained, study_rows
from c3s3_seg.report.study_words import study_markdown, study_remarks
from c3s3_seg.system.schema import plain
from c3s3_seg.training.bundles.card import _table
from c3s3_seg.training.cases import ValidationCase
from c3s3_seg.training.config import load_config
from c3s3_seg.training.history import History, empty_masks, scored
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.run import Run
from c3s3_seg.training.studies.record import _numbers
from c3s3_seg.training.train import train
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
    # Three Dice scores: (right, 2) 1, and two of 0; (right, 1) is empty in truth and prediction.
    assert (found.dice, found.jaccard, found.both_empty) == (1 / 3, 1 / 3, 1)
    assert (found.hd95_vox, found.asd_vox, found.infinite) == (0, 0, 1)
    assert "1 infinite" in found.remark
    assert found.record(4)["infinite"] == 1


def test_a_label_that_is_empty_in_both_is_in_no_mean_of_a_study_either() -> None:
    """The table of a study had it as a miss of Dice 0; the validation of the same run did not."""
    found = validate("net", finds(2), task(1, 2), [case("right", 2), case("nothing", 0)])
    assert (found.dice, found.both_empty, empty_masks(found)) == (0.5, 2, (0, 2))
    recorded = json.loads(json.dumps(plain(found.per_case)))
    assert recorded["right"]["organ-1"] == dict.fromkeys(("dice", "jaccard", "hd95_vox", "asd_vox"))
    (row,) = study_rows([Trained("base", 0, 10, 60.0, {"vnet": _numbers(recorded)})], "base")
    assert (row.mean["dice"], row.missed, row.infinite, row.left_out["dice"]) == (0.5, 0, 1, 2)
    assert "2 predictions were empty like the truth and are in no mean." in study_remarks([row])


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


def only(*values: int) -> list[ValidationCase]:
    """Return cases with a bright ball, of which the truth marks `values`; 0: a control."""
    return [case(f"case-{number}", value) for number, value in enumerate(values)]


def dark(found: ValidationCase) -> ValidationCase:
    """Return a control in which `finds` finds nothing."""
    scan = np.where(np.arange(GRID.shape[0]) == 0, 0.5, 0.0)[:, None, None] * np.ones(GRID.shape)
    return replace(found, scan=GRID.volume(scan.astype(np.float32)))


def test_a_control_without_a_false_alarm_is_in_no_mean() -> None:
    """A perfect network had Dice 0.5 on as many controls as patients, like one that false-alarms in all."""
    patient, control, bright = only(1, 0, 0)
    plain = replace(task(1), recipe=Recipe((1.0, 1.0, 1.0), Intensity("window", low=0.0, high=10.0)))
    perfect = validate("net", below(0.5), plain, [patient, dark(control)])
    assert (perfect.dice, perfect.hd95_vox, perfect.both_empty) == (1, 0, 1)
    assert empty_masks(perfect) == (0, 1)
    assert perfect.record(1)["both_empty"] == 1
    alarms = validate("net", below(0.5), plain, [patient, bright])
    assert (alarms.dice, alarms.both_empty, alarms.infinite) == (0.5, 0, 1)
    controls = validate("net", below(0.5), plain, [dark(control)])
    assert math.isnan(controls.dice)
    assert math.isnan(controls.hd95_vox)
    assert controls.by_label == {}
    history = History()
    assert not history.add_scores(controls, 1)
    assert history.best() is None
    assert history.add_scores(alarms, 2)
    assert "| net | none | none | none | none |" in _table([scored(controls, 1)])
    assert "net: empty masks of an empty reference, not included in the means: 1." in _table(history.records)


def below(threshold: float) -> nn.Module:
    """Return a net that labels the voxels above a threshold of an intensity window, as class 1."""
    net = nn.Conv3d(1, 2, 1)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.zero_()
        net.weight[1], net.bias[1] = 1000.0, -1000.0 * threshold
    return net


def test_controls_alone_choose_no_weights_and_fail_no_command(
    small_crops: Path, toy_data: Path, tmp_path: Path
) -> None:
    """If a network finds nothing in controls, it is right; the best of such networks is not known."""
    data = tmp_path / "data"
    shutil.copytree(toy_data, data)
    path = data / "labelsTr" / "ball-4.nii.gz"
    mask = load_mask(path)
    save(mask.geometry.volume(mask.array * np.uint8(0)), path)
    index = json.loads((data / "dataset.json").read_text())
    (data / "dataset.json").write_text(json.dumps({**index, "empty_masks": True}))
    changes = [f"data.folder={data}", "run.iterations=1", "method=supervised"]
    with pytest.raises(InputError, match=r"run\.keep = 'best' needs a validation case with a label"):
        train(load_config(small_crops, [*changes, "run.keep=best"]), tmp_path / "best", Silent())
    changes += ["optimiser.lr=1e-9", "data.foreground_crops=0"]
    bundle = train(load_config(small_crops, changes), tmp_path / "run", Silent())
    (record,) = bundle.manifest.training["validation_kept"]
    assert record["dice"] is None or record["dice"] == 0  # nothing found, or false alarms
    _refuse_nothing(bundle)  # does not raise: no mask is missing
    again = train(load_config(small_crops, changes), tmp_path / "run", Silent(), resume=True)
    assert again.manifest.files == bundle.manifest.files
