"""A configuration checked against the data: refusals at the start, warnings, and runs that diverge."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import command
from torch import nn

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.commands.train import _refuse_nothing
from c3s3_seg.dataset import DataSet
from c3s3_seg.errors import ConfigError, InputError, RefusedError
from c3s3_seg.io.modality import modality_code
from c3s3_seg.models import build
from c3s3_seg.training import checkpoint
from c3s3_seg.training.bundles.ensemble import _member, cross_validated
from c3s3_seg.training.cases import TrainingCase, read_validation
from c3s3_seg.training.checks import check_cases, check_index
from c3s3_seg.training.config import TrainConfig, load_config
from c3s3_seg.training.data import Sampler
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.history import empty_masks, scored
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.methods import base
from c3s3_seg.training.run import DivergedError, Run
from c3s3_seg.training.studies.record import _numbers
from c3s3_seg.training.train import NOTHING, train
from c3s3_seg.training.validation import Validation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


def indexed(toy_data: Path, folder: Path, **keys: object) -> Path:
    """Write the toy data with further keys in the index; return the folder."""
    folder.mkdir()
    for name in ("imagesTr", "labelsTr"):
        (folder / name).symlink_to(toy_data / name)
    index = json.loads((toy_data / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(index | keys))
    return folder


def labels(**values: int) -> str:
    named = ", ".join(f'{{ name = "{name}", value = {value} }}' for name, value in values.items())
    return f"task.labels=[{named}]"


def refused(config: TrainConfig, folder: Path, words: str) -> None:
    with pytest.raises(InputError, match=words):
        train(config, folder, Silent())
    assert not (folder / checkpoint.FILE).exists()
    assert not (folder / "bundle").exists()


TWO = {"background": 0, "left": 1, "right": 2}


@pytest.mark.parametrize(
    ("index", "changes", "words"),
    [
        (
            {"labels": TWO},
            [labels(left=2, right=1)],
            "calls the value 2 'left', and the data call it 'right'",
        ),
        ({"labels": TWO}, [labels(left=1, right=3)], "has right = 3, and the data have left = 1, right = 2"),
        ({"labels": TWO}, [labels(liver=1)], "calls the value 1 'liver', and the data call it 'left'"),
        ({"labels": {"0": "background", "1": "right"}}, [labels(left=1)], "the data call it 'right'"),
        ({"modality": "CT"}, [], "the data's modality is CT, and task.modality is MR"),
        ({"modality": "MR"}, ["task.modality=CT"], "the data's modality is MR, and task.modality is CT"),
        ({"modality": "mri"}, ["task.modality=CT"], "the data's modality is MR, and task.modality is CT"),
        ({}, [labels(ball=7)], "has ball = 7, and the masks hold the values 1"),
        ({}, [labels(ball=1, other=2)], "has other = 2, and the masks hold the values 1"),
    ],
)
def test_data_of_another_task_are_refused(
    toy_config: Path, toy_data: Path, tmp_path: Path, index: dict[str, object], changes: list[str], words: str
) -> None:
    data = indexed(toy_data, tmp_path / "data", **index)
    refused(load_config(toy_config, [f"data.folder={data}", *changes]), tmp_path / "run", words)


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"modality": "MR", "labels": {"background": 0, "ball": 1}},
        {"modality": "MRI", "labels": {"0": "background", "1": "Ball"}},
        {"modality": {"0": "MRI"}},
        {"modality": "something of ours"},
        {"labels": {"ball": 1, "cube": 2}},
    ],
)
def test_data_of_the_task_are_taken(
    toy_config: Path, toy_data: Path, tmp_path: Path, index: dict[str, object]
) -> None:
    config = load_config(toy_config)
    check_index(config, DataSet.load(indexed(toy_data, tmp_path / "data", **index)))


def test_modalities_as_indices_write_them() -> None:
    assert [modality_code(text) for text in ("MR", "mri", "{'0': 'MRI'}", "CT", "PET", "", "odd")] == [
        "MR", "MR", "MR", "CT", "PT", "", "odd",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        "task.labels=[]",
        labels(ball=0),
        labels(ball=256),
        labels(ball=-1),
        labels(ball=1, other=1),
        'task.labels=[{name="a", value=1}, {name="a", value=2}]',
    ],
)
def test_labels_that_cannot_be(toy_config: Path, change: str) -> None:
    with pytest.raises(ConfigError, match=r"task\.labels"):
        load_config(toy_config, [change])


def warned(config: TrainConfig) -> list[str]:
    data, splits = read_splits(config.data)
    sampler = Sampler.of(config, data, splits)
    return check_cases(config, data, sampler.labelled, read_validation(data, splits.validation, config.task))


def test_a_class_without_a_voxel_is_warned_of(toy_config: Path, toy_data: Path, tmp_path: Path) -> None:
    assert warned(load_config(toy_config)) == []
    data = indexed(toy_data, tmp_path / "data", labels={"ball": 1, "cube": 2})
    both = load_config(toy_config, [f"data.folder={data}", labels(ball=1, cube=2)])
    assert warned(both) == [
        "no labelled case has a voxel of cube (2): it cannot be learnt",
        "no validation case has a voxel of cube (2): only a false alarm is scored",
    ]


def test_values_that_no_label_names_are_warned_of(layers_data: Path, toy_config: Path) -> None:
    data, task = f"data.folder={layers_data}", ["task.modality=CT", "method=supervised"]
    some = load_config(toy_config, [data, *task, labels(core=1, shell=5)])
    assert warned(some) == ["the masks hold middle (2), which task.labels lacks: learnt as background"]


def test_grey_values_tell_a_modality_that_the_index_does_not(
    layers_data: Path, toy_config: Path, tmp_path: Path
) -> None:
    unsaid = indexed(layers_data, tmp_path / "data", modality="")
    task = [f"data.folder={unsaid}", "method=supervised", labels(core=1, middle=2, shell=5)]
    (line,) = warned(load_config(toy_config, task))
    assert line.startswith("half of the scans reach down to -10")
    assert line.endswith("as CT does, and task.modality is MR")
    assert warned(load_config(toy_config, [*task, "task.modality=CT"])) == []


@pytest.mark.parametrize(
    ("lowest", "modality", "words"),
    [
        ((-1000.0, 0.0, 0.0), "CT", ["half of the scans have no value below 0"]),
        ((-1000.0, -900.0, 0.0), "CT", []),
        ((-1000.0, -900.0, 0.0), "MR", ["half of the scans reach down to -900 or below"]),
    ],
)
def test_a_warning_of_intensities_holds_for_the_scans(
    toy_config: Path, toy_data: Path, lowest: tuple[float, ...], modality: str, words: list[str]
) -> None:
    empty = torch.zeros(0)
    cases = [TrainingCase(empty, empty, empty, (1,), low) for low in lowest]
    config = load_config(toy_config, [f"task.modality={modality}"])
    found = check_cases(config, replace(DataSet.load(toy_data), modality=""), cases, [])
    assert [text.split(",")[0] for text in found] == words


class Ear(Silent):
    """A logger that collects warnings."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def warned(self, text: str) -> None:
        self.heard.append(text)


def test_a_warning_is_heard_noted_once_and_on_the_card(
    toy_config: Path, toy_data: Path, tmp_path: Path
) -> None:
    data, out, ear = (
        indexed(toy_data, tmp_path / "data", labels={"ball": 1, "cube": 2}),
        tmp_path / "run",
        Ear(),
    )
    changes = [f"data.folder={data}", labels(ball=1, cube=2)]
    train(load_config(toy_config, [*changes, "run.iterations=4"]), out, ear)
    bundle = train(load_config(toy_config, [*changes, "run.iterations=5"]), out, ear, resume=True)
    line = "no labelled case has a voxel of cube (2): it cannot be learnt"
    assert ear.heard.count(line) == 2
    assert bundle.manifest.training["warnings"].count(line) == 1
    assert f"- **Warning**: {line}." in (bundle.folder / "README.md").read_text()


def _finds_nothing(*arguments: Any, **options: Any) -> nn.Module:
    """Return a network that is too sure of the background to learn anything else in a few iterations."""
    network = build(*arguments, **options)
    with torch.no_grad():
        network.output.bias[1:] = -100.0
    return network


def test_a_network_that_finds_nothing_is_no_success(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script must not continue to export and use it."""
    monkeypatch.setattr(base, "build", _finds_nothing)
    answer = command.run("train", toy_config, "-o", tmp_path)
    assert answer.returncode == 1, answer.stdout + answer.stderr
    assert "95HD 0.00" not in answer.stdout
    assert "Dice 0.0000, Jaccard 0.0000, every mask is empty: no distances" in answer.stdout
    assert "warning: no network has a Dice above 0" in answer.stdout
    assert (
        "no network of this bundle finds anything: the masks of all validation cases are empty"
        in answer.stderr
    )
    assert len(answer.stderr.strip().splitlines()) == 1
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "| vnet | 0.000 | 0.000 | none | none |" in card
    assert "vnet: 1 of 1 masks are empty and have no distance." in card
    assert "- **Warning**: no network has a Dice above 0" in card


def test_a_dice_of_0_with_masks_is_a_warning(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short run, to see whether everything works, is no failure."""
    miss = {"a": {"ball": row(0.0, 30.0)}}
    nothing = [Validation(name, 0.0, 0.0, 30.0, 30.0, miss) for name in ("vnet", "resvnet")]
    monkeypatch.setattr(Run, "validate", lambda self, _: nothing)
    ear = Ear()
    bundle = train(load_config(toy_config, ["run.iterations=4"]), tmp_path, ear)
    assert ear.heard == [NOTHING]
    assert bundle.manifest.training["warnings"] == [NOTHING]
    _refuse_nothing(bundle)  # does not raise
    with pytest.raises(RefusedError, match="the masks of all validation cases are empty"):
        _refuse_nothing(_with_empty_masks(bundle))


def _with_empty_masks(bundle: ModelBundle) -> ModelBundle:
    kept = [{**record, "empty": 1, "masks": 1} for record in bundle.manifest.training["validation_kept"]]
    facts = {**bundle.manifest.training, "validation_kept": kept}
    return replace(bundle, manifest=replace(bundle.manifest, training=facts))


def test_a_network_that_stays_behind_does_not_hide_that_the_other_finds_nothing(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = [
        Validation("vnet", 0.0, 0.0, 0.0, 0.0, {"a": {"ball": row(0.0, 0.0)}}),
        Validation("resvnet", 0.9, 0.8, 1.0, 1.0, {"a": {"ball": row(0.9, 1.0)}}),
    ]
    monkeypatch.setattr(Run, "validate", lambda self, _: results)
    ear = Ear()
    bundle = train(load_config(toy_config, ["run.iterations=4", 'networks.ship=["a"]']), tmp_path, ear)
    assert ear.heard == [NOTHING]
    with pytest.raises(RefusedError, match="the masks of all validation cases are empty"):
        _refuse_nothing(bundle)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(toy_config: Path, tmp_path: Path) -> None:
    train(load_config(toy_config, ["run.iterations=4"]), tmp_path, Silent())
    before = (tmp_path / checkpoint.FILE).read_bytes()
    config = load_config(toy_config, ["run.iterations=8"])
    run = Run(config, tmp_path)
    run.restore()
    with torch.no_grad():
        run.method.a.output.weight.fill_(torch.inf)  # type: ignore[union-attr]
    with pytest.raises(InputError, match=r"weights of vnet are not finite at iteration 4"):
        run.save()
    assert (tmp_path / checkpoint.FILE).read_bytes() == before
    answer = command.run("train", toy_config, "-o", tmp_path / "wild", "--set", "optimiser.lr=1e30")
    assert answer.returncode == 2
    (line,) = answer.stderr.strip().splitlines()
    assert "the run diverges: " in line
    assert "not finite" in line or "the loss is" in line
    assert "Start another run with a lower optimiser.lr" in line


def test_averages_that_are_not_finite_are_neither_judged_nor_kept(toy_config: Path, tmp_path: Path) -> None:
    config = load_config(toy_config)
    run = Run(config, tmp_path)
    data, splits = read_splits(config.data)
    run.validate(read_validation(data, splits.validation, config.task))
    with torch.no_grad():
        run.emas["resvnet"].net.output.weight.fill_(torch.nan)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="averages of resvnet are not finite"):
        run.validate(read_validation(data, splits.validation, config.task))
    with pytest.raises(InputError, match="averages of resvnet are not finite"):
        run.save()


def test_an_output_that_is_not_finite_is_a_divergence(toy_config: Path, tmp_path: Path) -> None:
    """Finite weights may be so large that outputs are not; as another error it ended a whole study."""
    config = load_config(toy_config)
    run = Run(config, tmp_path)
    data, splits = read_splits(config.data)
    with torch.no_grad():
        for parameter in run.emas["vnet"].net.parameters():
            parameter.fill_(1e30)
    with pytest.raises(DivergedError, match="the run diverges: the network gave NaN or infinity in"):
        run.validate(read_validation(data, splits.validation, config.task))


def row(dice: float, distance: float) -> dict[str, float]:
    return {"dice": dice, "jaccard": dice, "hd95_vox": distance, "asd_vox": distance}


def test_empty_masks_are_counted() -> None:
    cases = {"a": {"x": row(0, 0), "y": row(0, 5)}, "b": {"x": row(1, 0), "y": row(0.5, 2)}}
    found = Validation("net", 0.4, 0.4, 1.0, 1.0, cases)
    assert empty_masks(found) == (1, 4)  # not a miss with a distance, nor a perfect mask
    assert scored(found, 3)["empty"] == 1
    whole = Validation("net", 1.0, 1.0, 0.0, 0.0, {"b": {"x": row(1, 0)}})
    assert "empty" not in scored(whole, 3)


def test_what_is_infinite_or_not_a_number_becomes_strict_json(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = {"a": {"ball": row(0.5, math.inf)}}
    odd = [Validation(name, 0.5, 0.5, math.nan, math.inf, cases) for name in ("vnet", "resvnet")]
    monkeypatch.setattr(Run, "validate", lambda self, _: odd)
    bundle = train(load_config(toy_config, ["run.iterations=4"]), tmp_path, Silent())

    def refuse(word: str) -> None:
        raise AssertionError(word)

    facts = json.loads((bundle.folder / "manifest.json").read_text(), parse_constant=refuse)["training"]
    assert facts["validation_last"][0]["hd95_vox"] is None
    assert facts["validation_cases"]["vnet"]["a"]["ball"]["hd95_vox"] == "inf"
    assert _numbers(facts["validation_cases"]["vnet"]) == cases
    one = replace(_member(bundle), fold="1/2")
    assert math.isnan((one.scores or {})["hd95_vox"])
    assert set(cross_validated([one, replace(one, fold="2/2")])) == {"dice", "jaccard"}


def test_a_good_run_ends_with_0(toy_config: Path, tmp_path: Path) -> None:
    """It learns without dropout with a large margin: rounding differs between machines."""
    changes = ["method=supervised", "optimiser.lr=0.1", "networks.dropout=0"]
    changes += ["run.iterations=48", "run.validate_every=48"]
    answer = command.run("train", toy_config, "-o", tmp_path, *(w for c in changes for w in ("--set", c)))
    assert answer.returncode == 0, answer.stderr
    assert "warning" not in answer.stdout
    assert "95HD" in answer.stdout


def with_255(toy_data: Path, folder: Path, case: str, **keys: object) -> Path:
    """Write the toy data with a mask of 0 and 255 for one case; return the folder."""
    from c3s3_seg.io import load_mask, save

    indexed(toy_data, folder, **keys)
    (folder / "labelsTr").unlink()
    shutil.copytree(toy_data / "labelsTr", folder / "labelsTr")
    mask = load_mask(folder / "labelsTr" / f"{case}.nii.gz")
    save(mask.geometry.volume(mask.array * np.uint8(255)), folder / "labelsTr" / f"{case}.nii.gz")
    return folder


@pytest.mark.parametrize("case", ["ball-0", "ball-4"])
def test_a_mask_of_0_and_255_is_refused_before_the_first_step(
    toy_config: Path, toy_data: Path, tmp_path: Path, case: str
) -> None:
    data = with_255(toy_data, tmp_path / "data", case)
    words = rf"{case}.nii.gz: the mask holds the value 255 alone; wanted 1 \(ball\)"
    refused(load_config(toy_config, [f"data.folder={data}"]), tmp_path / "run", words)


def test_a_validation_case_of_another_label_255_lacks_the_label(
    toy_config: Path, toy_data: Path, tmp_path: Path
) -> None:
    data = with_255(toy_data, tmp_path / "data", "ball-4", labels={"ball": 1, "implant": 255})
    bundle = train(load_config(toy_config, [f"data.folder={data}"]), tmp_path / "run", Silent())
    warnings = bundle.manifest.training["warnings"]
    assert any("no validation case has a voxel of ball (1)" in text for text in warnings)
    assert any("the masks hold implant (255)" in text for text in warnings)


def test_a_run_whose_validation_fails_loses_no_step(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resumed run validates where the stopped one did not, and ends bit for bit as a whole run does."""
    changes = ["run.validate_every=3", "run.checkpoint_every=100", "run.keep=best", "run.patience=4"]
    config = load_config(toy_config, changes)
    whole = train(config, tmp_path / "whole", Silent())

    def fails(*_: object) -> None:
        raise InputError("the scan is no longer there")

    with monkeypatch.context() as patched:
        patched.setattr("c3s3_seg.training.run.validate", fails)
        with pytest.raises(InputError, match="no longer there"):
            train(config, tmp_path / "run", Silent())
    assert checkpoint.read(tmp_path / "run").iteration == 3
    resumed = train(config, tmp_path / "run", Silent(), resume=True)
    assert resumed.manifest.files == whole.manifest.files
    one, two = (checkpoint.read(tmp_path / name) for name in ("whole", "run"))
    assert one.history == two.history
    assert one.best_cases == two.best_cases
    assert one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)
