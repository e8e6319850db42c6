"""Every method through the common interface: it steps, learns, and is restored exactly."""

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
from c3s3_seg.training.method_settings import METHOD_NAMES
from c3s3_seg.training.methods import METHODS, build_method
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


@pytest.mark.slow
@pytest.mark.parametrize("name", LEFT_OUT)
def test_leaving_the_mechanism_out_changes_the_step(name: str, toy_config: Path, tmp_path: Path) -> None:
    found = []
    for change in ([], [LEFT_OUT[name]]):
        run = Run(load_config(toy_config, [f"method={name}", *PHASES, *change]), tmp_path)
        run.iteration = 7  # the last: ramps are almost at 1
        steps(run, toy_config, 1)
        found.append([p for net, _ in run.method.candidates().values() for p in net.parameters()])
    assert any(not torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_mcf_is_c3s3_without_cosine_and_contrast(toy_config: Path, tmp_path: Path) -> None:
    (terms,) = steps(Run(load_config(toy_config, ["method=mcf", "c3s3.warm_up=0"]), tmp_path), toy_config, 1)
    assert terms["cos"] == terms["iuc"] == 0
    assert terms["loss"] == pytest.approx(terms["seg_a"] + terms["seg_b"] + terms["cp_weight"] * terms["cp"])


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
    assert set(METHODS) - sections == {"supervised", "mcf"}
