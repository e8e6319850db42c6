"""Three labels in training, export, prediction, scores and report, and the pancreas configuration."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from helpers.command import run

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.phantom import write_cohort
from c3s3_seg.training.config import load_config
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.train import train

pytestmark = pytest.mark.slow

# Each replaces a value that only a GPU can handle.
SHRUNK = [
    "networks.a.filters=2",
    "networks.b.filters=2",
    "run.iterations=4",
    "c3s3.warm_up=2",
    "run.device=cpu",
    "c3s3.anchors=64",
]


@pytest.fixture(scope="module")
def bundle(layers_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a bundle trained with C3S3: 3 labels, 1 labelled, 1 unlabelled and 2 validation cases."""
    plan = tmp_path_factory.mktemp("classes")
    labels = '[{name="core", value=1}, {name="middle", value=2}, {name="shell", value=5}]'
    changes = [f"data.folder={layers_data}", f"task.labels={labels}", "task.patch=[32, 32, 32]"]
    config = load_config(Path("pancreas"), [*changes, *SHRUNK, "data.labelled=1", "data.fold=1/2"])
    return train(config, plan / "run", Silent())


def test_every_label_is_scored_and_on_the_card(bundle: ModelBundle) -> None:
    cases = bundle.manifest.training["validation_cases"]
    assert set(cases) == {"vnet", "resvnet"}
    for per_case in cases.values():
        assert all(set(labels) == {"core", "middle", "shell"} for labels in per_case.values())
    assert "1 = core, 2 = middle, 5 = shell" in (bundle.folder / "README.md").read_text()


def alone(bundle: ModelBundle, folder: Path) -> Path:
    """Return a copy with the first network only, as tracing takes seconds per network."""
    shutil.copytree(bundle.folder, folder)
    facts = json.loads((folder / "manifest.json").read_text())
    facts["networks"] = facts["networks"][:1]
    (folder / "manifest.json").write_text(json.dumps(facts))
    return folder


def test_export_prediction_and_report_have_all_of_them(
    bundle: ModelBundle, layers_data: Path, tmp_path: Path
) -> None:
    scan = layers_data / "imagesTr" / "layers-4.nii.gz"
    answer = run("export", alone(bundle, tmp_path / "alone"), "--check", scan)
    assert answer.returncode == 0, answer.stderr
    out = tmp_path / "out"
    truth = tmp_path / "truth"
    truth.mkdir()
    shutil.copy(layers_data / "labelsTr" / "layers-4.nii.gz", truth)
    words = ["--model", bundle.folder, "--allow-out-of-domain", "--truth", truth, "--ensemble"]
    answer = run("predict", scan, "-o", out, "--uncertainty", *words)
    assert answer.returncode == 0, answer.stderr
    facts = json.loads((out / "layers-4.json").read_text())
    assert set(facts["scores"]) == {"core", "middle", "shell"}
    answer = run("evaluate", out, truth, "-o", tmp_path / "report")
    assert answer.returncode == 0, answer.stderr
    with (tmp_path / "report" / "cases.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3


def test_the_pancreas_configuration_on_simulated_cts(tmp_path: Path) -> None:
    """Four labelled cases in two folds leave one labelled, one unlabelled and two validation cases."""
    write_cohort(tmp_path / "ct", labelled=4, unlabelled=0, validation=0, seed=40, modality="CT")
    changes = [*SHRUNK, f"data.folder={tmp_path / 'ct'}", "data.fold=2/2", "data.labelled=1"]
    grid = ["task.recipe.spacing_mm=[4.0, 4.0, 4.0]", "task.patch=[32, 32, 32]"]
    grid += ['task.labels=[{name = "left_atrium", value = 1}]']  # the label of the phantoms
    config = load_config(Path("pancreas"), [*changes, *grid])
    assert config.task.recipe.intensity.rule == "window"
    made = train(config, tmp_path / "run", Silent())
    assert made.manifest.training["cases"] == {"labelled": 1, "unlabelled": 1, "validation": 2}
    assert "**Fold** 2/2" in (made.folder / "README.md").read_text()


def test_the_published_setting_is_what_it_says() -> None:
    config = load_config(Path("pancreas"))
    assert (config.task.patch, config.task.recipe.spacing_mm) == ((96, 96, 96), (1.0, 1.0, 1.0))
    assert (config.task.recipe.intensity.low, config.task.recipe.intensity.high) == (-125, 275)
    assert (config.c3s3.alpha, config.data.labelled, config.data.fold) == (0.5, 12, "1/4")
    assert config.augment.flip_axes == ()
    assert config.augment.rotation_rad == 0
