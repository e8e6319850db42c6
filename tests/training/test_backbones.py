"""Every backbone of the registry, from its name in a configuration to a mask."""

from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.export.export import export_in_bundle
from c3s3_seg.inference import Settings, open_predictor
from c3s3_seg.io import load
from c3s3_seg.models import BACKBONES
from c3s3_seg.system.choices import BackendName
from c3s3_seg.training.config import load_config
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.train import train

RUNTIMES: tuple[BackendName, ...] = ("torch", "onnx")
PAPER = {"vnet", "resvnet"}  # used by shipped bundles and all other tests


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


@pytest.mark.slow
@pytest.mark.parametrize("architecture", BACKBONES.keys() - PAPER)
def test_it_trains_exports_and_predicts(
    architecture: str, toy_config: Path, toy_data: Path, tmp_path: Path
) -> None:
    changes = [f"networks.a.architecture={architecture}", "method=supervised", "run.iterations=4"]
    changes += ["networks.dropout=0.0", "optimiser.lr=0.05", "run.validate_every=4"]
    bundle = train(load_config(toy_config, changes), tmp_path / "run", Silent())
    assert bundle.networks[0].architecture == architecture
    scan = load(toy_data / "imagesTr" / "ball-4.nii.gz")
    exported, _ = export_in_bundle(bundle, [scan])  # refuses a graph that differs from torch
    settings = Settings(probabilities=True)
    answers = [open_predictor(exported, backend=name, settings=settings)(scan) for name in RUNTIMES]
    first, second = (answer.probabilities["ball"].array for answer in answers)
    assert first.shape == scan.array.shape
    assert np.ptp(first) > 0.01  # not constant
    np.testing.assert_allclose(first, second, atol=1e-3)
