"""The shipped models on real scans, and a short real training with two classes."""

import json
import re
from pathlib import Path
from statistics import fmean

import pytest

from c3s3_seg import ModelBundle, load, load_mask, open_predictor
from c3s3_seg.bundle import shipped_bundles
from c3s3_seg.metrics.results import PaperScore
from c3s3_seg.metrics.scoring import paper_score
from c3s3_seg.training.config import load_config
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.loggers import open_logger
from c3s3_seg.training.train import train


def validation_scores(bundle: ModelBundle, folder: Path) -> dict[str, PaperScore]:
    """Return the scores of the validation cases, segmented with the bundle's own tiling."""
    predictor, scores = open_predictor(bundle, backend="openvino"), {}
    for name in json.loads((folder / "dataset.json").read_text())["unlabelled"][-8:]:
        scan = load(folder / "imagesTr" / f"{name}.nii.gz")
        truth = load_mask(folder / "labelsTr" / f"{name}.nii.gz", grid=scan.geometry)
        scores[name] = paper_score(predictor(scan).mask, truth)
    return scores


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "inference", "at_least"),
    [("left-atrium-72", "overlap 0.5, Gaussian", 0.915), ("left-atrium-16", "overlap 0.75", 0.906)],
)
def test_a_model_reaches_what_its_card_says(
    shared_data: Path, name: str, inference: str, at_least: float
) -> None:
    """The scores are compared with the row of the card's table for the bundle's default tiles."""
    bundle = ModelBundle.find(name)
    card = (bundle.folder / "README.md").read_text()
    (row,) = re.findall(rf"^\| tiles, {inference} \|.*$", card, re.MULTILINE)
    stated = [float(number) for number in re.findall(r"\d\.\d+", row.split("|", 2)[2])]
    scores = validation_scores(bundle, shared_data / "la").values()
    for number, metric in zip(stated, ("dice", "jaccard", "hd95_vox", "asd_vox"), strict=True):
        found = fmean(getattr(score, metric) for score in scores)
        assert found == pytest.approx(number, abs=0.002 if number < 1 else 0.05), metric
    assert stated[0] >= at_least


@pytest.mark.data
def test_the_splits_are_those_of_the_benchmark(shared_data: Path) -> None:
    here = f"data.folder={shared_data / 'la'}"
    _, splits = read_splits(load_config(Path("left-atrium"), [here]).data)
    assert (len(splits.labelled), len(splits.unlabelled), len(splits.validation)) == (16, 56, 8)
    assert not set(splits.validation) & {*splits.labelled, *splits.unlabelled}
    _, everything = read_splits(load_config(Path("left-atrium"), [here, "data.fully_supervised=true"]).data)
    assert (len(everything.labelled), len(everything.unlabelled)) == (72, 0)


def few_of(source: Path, folder: Path, count: int) -> Path:
    """Write a data set of the first `count` cases of each part of another; return its folder."""
    folder.mkdir()
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).symlink_to(source / kind)
    index = json.loads((source / "dataset.json").read_text())
    few = {part: index[part][:count] for part in ("labelled", "unlabelled", "validation")}
    (folder / "dataset.json").write_text(json.dumps({**index, **few}))
    return folder


@pytest.mark.data
@pytest.mark.slow
def test_two_classes_train_and_predict(shared_data: Path, tmp_path: Path) -> None:
    data = few_of(shared_data / "hippocampus", tmp_path / "data", 6)
    changes = [f"data.folder={data}", "run.iterations=2", "c3s3.warm_up=1"]
    changes += ["networks.a.filters=2", "networks.b.filters=2", "run.precision=float32"]
    config = load_config(Path("hippocampus"), changes)
    with open_logger(tmp_path / "run") as logger:
        bundle = train(config, tmp_path / "run", logger)
    assert bundle.task.label_values == {"anterior": 1, "posterior": 2}
    per_case = bundle.manifest.training["validation_cases"]["vnet"]
    assert len(per_case) == 6
    assert set(next(iter(per_case.values()))) == {"anterior", "posterior"}
    scan = load(shared_data / "hippocampus" / "imagesTr" / "hippocampus_023.nii.gz")
    prediction = open_predictor(bundle, backend="torch")(scan)
    assert set(prediction.volume_ml) == {"anterior", "posterior"}
    assert prediction.mask.geometry.matches(scan.geometry)


@pytest.mark.slow
@pytest.mark.data
def test_both_left_atrium_networks_make_one_mask(shared_data: Path) -> None:
    """The linked bundle's network comes from the folder beside the bundle."""
    bundle = ModelBundle.find("left-atrium")
    assert [network.architecture for _, network in bundle.members()] == ["vnet", "resvnet"]
    predictor = open_predictor(bundle, backend="openvino", ensemble=True)
    name = json.loads((shared_data / "la" / "dataset.json").read_text())["unlabelled"][-1]
    scan = load(shared_data / "la" / "imagesTr" / f"{name}.nii.gz")
    truth = load_mask(shared_data / "la" / "labelsTr" / f"{name}.nii.gz", grid=scan.geometry)
    assert paper_score(predictor(scan).mask, truth).dice > 0.8


@pytest.mark.slow
@pytest.mark.data
def test_hippocampus_reaches_what_the_card_says(shared_data: Path) -> None:
    bundle = ModelBundle.find("hippocampus")
    predictor = open_predictor(bundle, backend="openvino")
    folder = shared_data / "hippocampus"
    scores: dict[str, list[float]] = {name: [] for name in bundle.task.label_values}
    for name in json.loads((folder / "dataset.json").read_text())["validation"]:
        scan = load(folder / "imagesTr" / f"{name}.nii.gz")
        truth = load_mask(folder / "labelsTr" / f"{name}.nii.gz", grid=scan.geometry)
        mask = predictor(scan).mask
        for label, value in bundle.task.label_values.items():
            scores[label].append(paper_score(mask, truth, value).dice)
    assert all(fmean(values) >= 0.85 for values in scores.values())


def test_shipped_bundles_keep_to_their_size() -> None:
    limits = {
        "hippocampus": 6e6,
        "hippocampus-20": 6e6,
        "phantom": 1.5e6,
        "left-atrium": 10e6,
        "left-atrium-72": 10e6,
        "left-atrium-resvnet": 20e6,
    }
    limits |= {"left-atrium-16": 10e6, "left-atrium-16-resvnet": 20e6}
    assert list(limits.keys() ^ shipped_bundles()) == []
    for name, limit in limits.items():
        assert sum(path.stat().st_size for path in ModelBundle.find(name).folder.iterdir()) <= limit, name
