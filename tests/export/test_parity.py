"""The parity check of exports: each limit refuses, and planted faults are found."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import studies

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.bundle.preprocessing import Intensity
from c3s3_seg.errors import InputError
from c3s3_seg.export.compare import ProbabilityBackend, check_scans, compare
from c3s3_seg.export.parity import Parity, ScanParity
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference.backends.runtimes import TorchBackend, load_torch

SAME = ScanParity(0.0, 0, 1_000_000, 5000, 1.0, 0.0, 0.0, 1.0, voxel_mm=0.625)
GOOD = Parity("float32", "onnx", 8, 1_000_000, 1e-5, 0, (SAME,))


def test_what_is_the_same_holds() -> None:
    assert GOOD.holds
    assert GOOD.faults == ()
    assert "Dice 1.00000, 95HD 0.000 mm" in str(GOOD)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"difference": 2e-3}, "on patches a probability differs by 2.0e-03 (limit 1e-03)"),
        ({"difference": math.inf}, "a probability differs by inf"),
        ({"flipped": 11}, "on patches 11 of 1000000 voxels have another label (limit 10)"),
    ],
)
def test_every_limit_on_patches_says_no(change: dict[str, float], fault: str) -> None:
    (found,) = replace(GOOD, **change).faults  # type: ignore[arg-type]
    assert fault in found


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"difference": 2e-3}, "on scan 1 a probability differs"),
        ({"flipped": 11}, "on scan 1 11 of 1000000 voxels have another label"),
        ({"flipped": 2, "dice": 0.9998}, "Dice between the masks is 0.99980"),
        ({"flipped": 2, "nsd": 0.9998}, "NSD at half a voxel is 0.99980"),
        ({"flipped": 2, "hd95_mm": 0.625}, "95HD between the masks is 0.6250 mm (limit 0.0000)"),
        ({"flipped": 2, "asd_mm": 0.001}, "ASD between the masks is 0.0010 mm (limit 0.0006)"),
        ({"flipped": 9, "hd95_mm": math.inf, "dice": 0.0}, "95HD between the masks is inf mm"),
    ],
)
def test_every_limit_on_scans_says_no(change: dict[str, float], fault: str) -> None:
    faults = replace(GOOD, scans=(replace(SAME, **change),)).faults  # type: ignore[arg-type]
    assert any(fault in found for found in faults), faults


def test_one_flipped_voxel_in_a_small_mask_may_be() -> None:
    tiny = replace(SAME, flipped=1, dice=0.99, nsd=0.98, asd_mm=0.01)
    assert replace(GOOD, scans=(tiny,)).holds
    assert not replace(GOOD, scans=(replace(tiny, flipped=2),)).holds


def test_half_precision_has_limits_of_its_own() -> None:
    rounded = replace(GOOD, difference=2e-2, flipped=100)
    assert not rounded.holds
    assert replace(rounded, precision="float16").holds
    assert not replace(rounded, precision="float16", difference=6e-2).holds


def test_a_scan_in_which_nothing_was_found_is_mentioned() -> None:
    empty = replace(GOOD, scans=(replace(SAME, labelled=0),))
    assert empty.holds
    assert "torch found nothing there" in str(empty)


@pytest.fixture
def small(noise: Volume) -> Volume:
    """Return a scan smaller than a patch: one patch is enough for these tests."""
    return Geometry.build((30, 28, 26)).volume(noise.array[:30, :28, :26])


@pytest.mark.slow
def test_torch_agrees_with_itself_and_not_with_its_partner(two_nets: ModelBundle, small: Volume) -> None:
    model, secondary = (TorchBackend(load_torch(two_nets, n)) for n in two_nets.networks)
    same = compare(two_nets.task, [model], [model], [small])
    assert same.holds
    assert (same.patches, same.difference, same.flipped) == (1, 0.0, 0)
    (scan,) = same.scans
    assert (scan.dice, scan.hd95_mm, scan.asd_mm, scan.nsd) == (1.0, 0.0, 0.0, 1.0)
    assert scan.labelled > 0
    other = compare(two_nets.task, [model], [secondary], [small])
    assert other.scans[0].dice < 0.99
    assert len(other.faults) >= 5


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_network_that_gives_no_number_is_refused(
    two_nets: ModelBundle, small: Volume, number: float
) -> None:
    def broken(patches: np.ndarray) -> np.ndarray:
        answer = good(patches)
        answer[0, 0, 3, 3, 3] = number
        return answer

    good = TorchBackend(load_torch(two_nets, two_nets.networks[0]))
    broken.name = "broken"  # type: ignore[attr-defined]
    found = compare(two_nets.task, [good], [broken], [small])  # type: ignore[list-item]
    assert not found.holds
    assert found.difference == math.inf


def test_probabilities_pass_as_logits_whatever_the_batch() -> None:
    given = np.random.default_rng(0).dirichlet((1, 1, 1), size=(3, 2, 2, 2)).astype(np.float32)
    given = np.moveaxis(given, -1, 1)
    seen: list[int] = []

    def run(patches: np.ndarray) -> np.ndarray:
        seen.append(len(patches))
        return given[patches[:, 0, 0, 0, 0].astype(int)]

    patches = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1, 1)
    np.testing.assert_allclose(np.exp(ProbabilityBackend(run, "x")(patches)), given, rtol=1e-6)
    np.testing.assert_allclose(np.exp(ProbabilityBackend(run, "x", batch=2)(patches)), given, rtol=1e-6)
    assert seen == [3, 2, 2, 2]


@pytest.mark.parametrize("factor", [2.0, 0.5, np.nan])
def test_what_does_not_add_up_to_1_is_no_probability(factor: float) -> None:
    """Doubled probabilities, as from the sum of an ensemble instead of its mean, are refused."""
    half = np.full((1, 2, 2, 2, 2), 0.5, dtype=np.float32)
    patches = np.zeros((1, 1, 2, 2, 2), dtype=np.float32)
    assert ProbabilityBackend(lambda _: half, "x")(patches).shape == half.shape
    with pytest.raises(InputError, match="x gives numbers that do not add up to 1"):
        ProbabilityBackend(lambda _: factor * half, "x")(patches)


def test_a_phantom_serves_where_no_scan_is_at_hand(two_nets: ModelBundle) -> None:
    scans, what = check_scans(two_nets, [])
    assert what == "a simulated MR scan"
    assert len(scans) == 1


@pytest.mark.parametrize(("modality", "simulated"), [("CT", "CT"), ("ct", "CT"), ("MR", "MR"), ("PT", "MR")])
def test_the_phantom_has_the_modality_of_the_bundle(
    two_nets: ModelBundle, modality: str, simulated: str
) -> None:
    """A CT network was compared on an MR phantom, which has no contrast in the window of a lung."""
    bundle = replace(
        two_nets, manifest=replace(two_nets.manifest, task=replace(two_nets.task, modality=modality))
    )
    (scan,), what = check_scans(bundle, [])
    assert (scan.source.modality, what) == (simulated, f"a simulated {simulated} scan")


def test_a_phantom_that_does_not_suit_the_model_is_named(two_nets: ModelBundle) -> None:
    window = Intensity("window", 5000.0, 6000.0)
    task = replace(two_nets.task, modality="CT", recipe=replace(two_nets.task.recipe, intensity=window))
    bundle = replace(two_nets, manifest=replace(two_nets.manifest, task=task))
    networks = [TorchBackend(load_torch(two_nets, two_nets.networks[0]))]
    scans, _ = check_scans(bundle, [])
    with pytest.raises(
        InputError, match=r"compared on a simulated scan \(CT\), which does not .*with --check"
    ):
        compare(task, networks, networks, scans)


@pytest.mark.parametrize("folder", ["{}", "x" * 300])
def test_a_bundle_names_no_file_outside_of_its_data(
    two_nets: ModelBundle, toy_data: Path, folder: str
) -> None:
    case = "../imagesTr/ball-0" if folder == "{}" else "ball-0"
    data = {"config": {"data": {"folder": folder.format(toy_data)}}, "validation_cases": {"vnet": {case: {}}}}
    bundle = replace(two_nets, manifest=replace(two_nets.manifest, training=data))
    assert check_scans(bundle, [])[1] == "a simulated MR scan"


def test_a_scan_that_is_given_is_taken(two_nets: ModelBundle, toy_data: Path) -> None:
    scans, what = check_scans(two_nets, [toy_data / "imagesTr" / "ball-0.nii.gz"])
    assert what == "1 given scan(s)"
    assert scans[0].array.shape == (40, 36, 34)


def test_of_a_given_study_the_scan_of_the_modality_is_taken(two_nets: ModelBundle, tmp_path: Path) -> None:
    """The export refused a study that `predict` segments, as it holds a CT and an MR scan."""
    for number, modality in enumerate(("MR", "CT"), 1):
        studies.series(studies.small(), tmp_path / "study" / modality, "p1", number, Modality=modality)
    task = replace(two_nets.task, modality="MR")
    bundle = replace(two_nets, manifest=replace(two_nets.manifest, task=task))
    (scan,), _ = check_scans(bundle, [tmp_path / "study"])
    assert scan.source.modality == "MR"


def test_the_advice_on_a_given_folder_is_one_that_export_can_follow(
    two_nets: ModelBundle, tmp_path: Path
) -> None:
    """It named --series, which `export` does not have."""
    for number in (1, 2):
        studies.series(studies.small(), tmp_path / "study" / str(number), "p1", number)
    with pytest.raises(InputError, match=r"found 2 series.*Give another scan to compare on") as found:
        check_scans(two_nets, [tmp_path / "study"])
    assert "--series" not in (found.value.todo or "")


def test_the_largest_tile_of_an_engine_is_that_of_its_probabilities(two_nets: ModelBundle) -> None:
    """Without it the whole volume was given to an engine that takes sides of at most 192."""
    even = lambda patches: np.full((len(patches), 2, *patches.shape[2:]), 0.5, np.float32)  # noqa: E731
    limited = ProbabilityBackend(even, "x", largest_tile=(32, 32, 32))
    assert limited.largest_tile == (32, 32, 32)
    assert not hasattr(ProbabilityBackend(even, "x"), "largest_tile")
