"""Every method through the common interface: it steps, learns, and is restored exactly.

The terms of MCF, UA-MT and DTC are checked against values worked out by hand.
"""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import sampler

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.inference.backends.runtimes import load_torch
from c3s3_seg.models import build
from c3s3_seg.training.config import TrainConfig, load_config
from c3s3_seg.training.distances import signed_distance
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.losses import SegTerms
from c3s3_seg.training.method_settings import METHOD_NAMES
from c3s3_seg.training.methods import METHODS, build_method
from c3s3_seg.training.methods.dtc import DualTaskConsistency
from c3s3_seg.training.methods.mcf import MutualCorrection, review
from c3s3_seg.training.methods.uamt import UncertaintyAwareMeanTeacher
from c3s3_seg.training.run import Run
from c3s3_seg.training.train import train

# Every method passes from its first phase to its last within four of eight iterations.
PHASES = [
    "c3s3.warm_up=1",
    "bcp.pretraining=0.25",
    "sdcl.pretraining=0.25",
    "sassnet.discriminator_filters=4",
    "caussl.coefficient_start=0",
    "caussl.every=0.25",
]


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


def steps(run: Run, config: Path, count: int) -> list[dict[str, float]]:
    draw = sampler(config)
    return [run.step(draw.batch(run.iteration, run.method.views(run.iteration))) for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_restored_run_goes_on_as_if_unbroken(name: str, toy_config: Path, tmp_path: Path) -> None:
    config = load_config(toy_config, [f"method={name}", *PHASES])
    run = Run(config, tmp_path)
    steps(run, toy_config, 2)
    run.save()
    expected = steps(run, toy_config, 2)
    again = Run(config, tmp_path)
    again.restore()
    assert steps(again, toy_config, 2) == expected
    unbroken = run.method.state_dict()
    for key, tensor in again.method.state_dict().items():
        assert torch.equal(tensor, unbroken[key]), key


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_optimised_parameter_moves_and_nothing_else(
    name: str, toy_config: Path, tmp_path: Path
) -> None:
    changes = [f"method={name}", *PHASES, "c3s3.warm_up=0", "networks.dropout=0.0"]
    run = Run(load_config(toy_config, changes), tmp_path)
    before = {key: value.clone() for key, value in run.method.named_parameters()}
    ours = {id(p) for group in run.method.optimised().values() for p in group}
    (terms,) = steps(run, toy_config, 1)
    assert np.isfinite(list(terms.values())).all()
    for key, parameter in run.method.named_parameters():
        without_gradient = name == "mcf" and key.startswith("project")
        moved = not torch.equal(before[key], parameter)
        if id(parameter) in ours and not without_gradient:
            assert moved, key


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_gradients_are_finite_without_a_boundary(name: str, toy_config: Path, tmp_path: Path) -> None:
    """The crops are all background, or all foreground."""
    run = Run(load_config(toy_config, [f"method={name}", *PHASES, "c3s3.warm_up=0"]), tmp_path)
    for foreground in (0.0, 1.0):
        run.iteration = 4
        batch = sampler(toy_config).batch(4, run.method.views(4))
        target = torch.full_like(batch.target, foreground)
        target[:, 0] = 1 - foreground
        run.step(replace(batch, target=target, distances=torch.zeros_like(batch.distances)))
        run.check_finite()
        assert all(torch.isfinite(p).all() for p in run.method.parameters()), foreground


@pytest.mark.slow
@pytest.mark.parametrize("name", ["caml", "ssnet", "tracoco"])
def test_activation_checkpointing_gives_the_same_steps(name: str, toy_config: Path, tmp_path: Path) -> None:
    """These methods run a network more than once, or change it."""
    found = []
    for wanted in ("false", "true"):
        changes = [f"method={name}", f"run.activation_checkpointing={wanted}"]
        run = Run(load_config(toy_config, changes), tmp_path)
        found.append((steps(run, toy_config, 2), run.method.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][key]) for key, value in found[0][1].items())


# The setting that removes what each method adds to L_seg.
LEFT_OUT = {
    "mcf": "mcf.review_weight=0",
    "uamt": "uamt.weight=0",
    "dtc": "dtc.weight=0",
    "bcp": "bcp.pseudo_weight=0",
    "sdcl": "sdcl.correction_weight=0",
    "sassnet": "sassnet.weight=0",
    "tracoco": "tracoco.weight=0",
    "caussl": "caussl.independence_weight=0",
    "caml": "caml.correlation_weight=0",
    "ssnet": "ssnet.contrast_weight=0",
}


def _prefer_opposite_classes(run: Run) -> None:
    """Give the output layers biases by which one network tends to background, the other to foreground."""
    for sign, (net, _) in zip((1.0, -1.0), run.method.candidates().values(), strict=True):
        with torch.no_grad():
            net.output.bias.copy_(sign * torch.tensor([3.0, -3.0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", LEFT_OUT)
def test_leaving_the_mechanism_out_changes_the_step(name: str, toy_config: Path, tmp_path: Path) -> None:
    found = []
    for change in ([], [LEFT_OUT[name]]):
        run = Run(load_config(toy_config, [f"method={name}", *PHASES, *change]), tmp_path)
        run.iteration = 7  # the last: ramps are almost at 1
        if name == "sdcl":  # acts where the networks differ, and two untrained ones may agree everywhere
            _prefer_opposite_classes(run)
        steps(run, toy_config, 1)
        found.append([p for net, _ in run.method.candidates().values() for p in net.parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(*found, strict=True))


def mutual(toy_config: Path, *changes: str) -> MutualCorrection:
    method = build_method(load_config(toy_config, ["method=mcf", *changes]))
    assert isinstance(method, MutualCorrection)
    return method


@pytest.mark.parametrize("views", ["independent", "identical"])
def test_mcf_has_one_view_and_neither_cosine_nor_contrast(
    toy_config: Path, tmp_path: Path, views: str
) -> None:
    config = load_config(toy_config, ["method=mcf", "c3s3.warm_up=1", f"c3s3.views={views}"])
    run = Run(config, tmp_path)
    assert [run.method.views(iteration).count for iteration in (0, 1, 7)] == [1, 1, 1]
    forwards: list[int] = []
    assert isinstance(run.method, MutualCorrection)
    run.method.a.output.register_forward_hook(lambda _, __, logits: forwards.append(len(logits)))
    warm, full = steps(run, toy_config, 2)
    expected = warm["seg_a"] + warm["seg_b"] + 0.5 * warm["review"]
    assert warm["loss"] == pytest.approx(expected, rel=1e-5)
    assert full["cos"] == full["iuc"] == 0
    expected = full["seg_a"] + full["seg_b"] + full["cp_weight"] * full["cp"] + 0.5 * full["review"]
    assert full["loss"] == pytest.approx(expected, rel=1e-5)
    assert forwards == [config.run.warm_batch, config.run.labelled_batch + config.run.unlabelled_batch]


def classes(*foreground: float) -> torch.Tensor:
    """Return class probabilities: foreground values along x -> (1, 2, n, 1, 1)."""
    p = torch.tensor(foreground).reshape(1, 1, -1, 1, 1)
    return torch.cat([1 - p, p], dim=1)


def test_the_review_by_hand() -> None:
    truth = classes(1.0, 1.0, 0.0, 0.0)
    a, b = classes(0.9, 0.8, 0.7, 0.1), classes(0.6, 0.3, 0.1, 0.4)
    # The nets differ at the second and the third voxel; each net is compared with the labels there.
    expected = (0.2**2 + 0.7**2) / 2 + (0.7**2 + 0.1**2) / 2
    assert review(a, b, truth).item() == pytest.approx(expected)
    three = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]]).reshape(2, 1, 3, 1, 1, 1)
    target = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 3, 1, 1, 1)
    expected = (0.25 + 0.09 + 0.64) / 3 + (0.04 + 0.09 + 0.25) / 3
    assert review(three[0], three[1], target).item() == pytest.approx(expected)
    assert review(a, a, truth).item() == 0


def test_the_dice_alone_decides_who_wins_in_mcf(toy_config: Path) -> None:
    """A has the lower Dice loss, and by C3S3's alpha of 0.8 the higher value: 0.85 against 0.38."""
    a, b = (SegTerms(torch.tensor(ce), torch.tensor(dice)) for ce, dice in ((1.0, 0.25), (0.35, 0.5)))
    assert mutual(toy_config, "c3s3.alpha=0.8").competition.a_wins(a, b)
    assert not mutual(toy_config, "mcf.alpha=0.8").competition.a_wins(a, b)


@pytest.mark.parametrize(
    ("given", "differ"),
    [([], True), (["uamt.teacher_dropout=0.3"], True), (["uamt.teacher_dropout=0"], False)],
)
def test_the_dropout_of_the_teacher_is_its_own(toy_config: Path, given: list[str], differ: bool) -> None:
    """Teacher and student have the same weights by name, whatever each of them drops."""
    changes = ["method=uamt", "networks.dropout=0.0", "networks.a.filters=8", *given]
    method = build_method(load_config(toy_config, changes)).train()
    assert isinstance(method, UncertaintyAwareMeanTeacher)
    scan = torch.randn(1, 1, 32, 16, 16)
    torch.manual_seed(0)
    with torch.no_grad():
        assert torch.equal(method.teacher(scan), method.teacher(scan)) != differ
        assert torch.equal(method.student(scan), method.student(scan))
    method.after_start()
    student, teacher = method.student.state_dict(), method.teacher.state_dict()
    assert student.keys() == teacher.keys()
    assert all(torch.equal(student[key], value) for key, value in teacher.items())


def test_the_consistency_has_twice_the_published_weight(toy_config: Path) -> None:
    """Published is 0.5 (CE + Dice) + 0.1 x consistency; the loss here is twice that sum."""
    method = build_method(load_config(toy_config, ["method=uamt"]))
    (phase,) = method.step(sampler(toy_config).batch(4, method.views(4)), 8)  # the end, where the ramp is 1
    expected = phase.terms["seg"] + 0.2 * phase.terms["consistency"]
    assert phase.loss.item() == pytest.approx(expected, rel=1e-5)
    assert phase.terms["consistency"] > 0


def test_the_loss_of_dtc_by_hand(toy_config: Path) -> None:
    method = build_method(load_config(toy_config, ["method=dtc", "networks.dropout=0.0"])).train()
    assert isinstance(method, DualTaskConsistency)
    batch = sampler(toy_config).batch(4, method.views(4))
    (phase,) = method.step(batch, 8)  # the end, where the ramp is 1
    n = batch.labelled
    with torch.no_grad():
        features = method.net.features(batch.views[0])
        p = method.net.output(features).softmax(dim=1)[:, 1:]
        distance = method.distance(features).tanh()
    y = batch.target[:, 1:]
    dice = 1 - 2 * (p[:n] * y).sum() / (p[:n].square().sum() + y.square().sum())  # no cross entropy
    l_distance = (distance[:n] - batch.distances).square().mean()
    agreement = ((-1500 * distance).sigmoid() - p).square().mean()
    assert phase.loss.item() == pytest.approx((dice + 0.3 * l_distance + agreement).item(), rel=1e-4)
    assert phase.terms["dice"] == pytest.approx(dice.item(), rel=1e-4)


def test_the_teacher_is_slow_and_has_no_gradient(toy_config: Path) -> None:
    method = build_method(load_config(toy_config, ["method=uamt"]))
    assert isinstance(method, UncertaintyAwareMeanTeacher)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1)
    before = [p.clone() for p in method.teacher.parameters()]
    method.after_step(1000)
    for old, new in zip(before, method.teacher.parameters(), strict=True):
        torch.testing.assert_close(new - old, torch.full_like(old, 0.01), atol=1e-4, rtol=0)


def test_signed_distance_by_hand() -> None:
    target = torch.zeros(1, 2, 7, 1, 1)
    target[0, 0, 2:5] = 1  # depths 1 2 1; heights 2 1 . . . 1 2
    distance = signed_distance(target)
    torch.testing.assert_close(distance[0, 0].ravel(), torch.tensor([1, 0.5, -0.5, -1, -0.5, 0.5, 1]))
    assert not distance[0, 1].any()
    on_boundary = signed_distance(target, zero_boundary=True)
    torch.testing.assert_close(on_boundary[0, 0].ravel(), torch.tensor([1, 0.5, 0, -1, 0, 0.5, 1]))


@pytest.mark.parametrize("name", sorted(METHODS))
def test_only_the_segmentation_network_ships(name: str, toy_config: Path) -> None:
    config = load_config(toy_config, [f"method={name}", "sassnet.discriminator_filters=4"])
    for net, info in build_method(config).candidates().values():
        plain = build(info.architecture, channels=1, classes=2, filters=info.filters)
        assert {k: v.shape for k, v in net.state_dict().items()} == {
            k: v.shape for k, v in plain.state_dict().items()
        }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["caml", "sassnet", "tracoco"])
def test_a_method_with_more_beside_its_network_writes_a_bundle(
    name: str, toy_config: Path, tmp_path: Path
) -> None:
    changes = [
        f"method={name}",
        "run.iterations=3",
        "run.validate_every=3",
        "sassnet.discriminator_filters=4",
    ]
    bundle = train(load_config(toy_config, changes), tmp_path / "run", Silent())
    facts = ModelBundle.load(bundle.folder).manifest.training
    expected = ["vnet-a", "vnet-b"] if name == "tracoco" else ["vnet"]
    assert sorted(network.candidate for network in bundle.networks) == expected
    assert facts["method"] == name
    assert facts["cases"]["unlabelled"] == 2
    home, network = bundle.members()[0]
    scan = torch.zeros(1, 1, 32, 32, 32)
    assert load_torch(home, network).eval()(scan).shape == (1, 2, 32, 32, 32)


def test_every_name_has_a_method_and_a_section() -> None:
    assert set(METHODS) == set(METHOD_NAMES)
    sections = {field.name for field in fields(TrainConfig)}
    assert set(METHODS) - sections == {"supervised"}
