"""Options of C3S3 beyond the paper: off by default, and each checked against values worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import sampler
from torch import Tensor, nn

from c3s3_seg.errors import ConfigError
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Batch
from c3s3_seg.training.losses import cross_pseudo, sharpen
from c3s3_seg.training.methods.bcp import copy_paste_loss, paste_both_ways
from c3s3_seg.training.methods.c3s3 import C3S3
from c3s3_seg.training.methods.c3s3_options import unmixed
from c3s3_seg.training.methods.sdcl import both_ways, correction
from c3s3_seg.training.run import Run
from c3s3_seg.training.step import Outputs, c3s3_loss

MIXED = "c3s3.mix_weight=1.0"
CORRECTED = "c3s3.correction_weight=0.5"
BOTH = [MIXED, CORRECTED, "c3s3.entropy_weight=0.05"]
OPTIONS = {
    "confidence": ["c3s3.confidence=0.9"],
    "mixed": [MIXED],
    "corrected": [CORRECTED],
    "entropy": ["c3s3.entropy_weight=0.05"],
    "both": BOTH,
}
ITERATION = 6  # after the warm-up, with the ramps well up


def method(config: Path, *changes: str) -> tuple[C3S3, Batch]:
    """Return C3S3 without dropout, and a batch of one labelled and one unlabelled crop."""
    plain = ["c3s3.warm_up=0", "networks.dropout=0.0", "run.labelled_batch=1"]
    settings = load_config(config, [*plain, *changes])
    torch.manual_seed(0)
    net = C3S3(settings).train()
    return net, sampler(config).batch(ITERATION, net.views(ITERATION))


def outputs(net: C3S3, batch: Batch) -> tuple[Outputs, Outputs]:
    return Outputs.of(net.a, net.project_a, batch), Outputs.of(net.b, net.project_b, batch)


class Saying(nn.Module):
    """A teacher with a known output: logits that favour the foreground in a box."""

    def __init__(self, stray: bool = False) -> None:
        super().__init__()
        self.stray = stray

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        foreground = torch.full_like(x, -1.0)
        foreground[..., 4:12, 4:12, 4:12] = 1.0
        if self.stray:
            foreground[..., 30, 2, 2] = 1.0
        return torch.cat([-foreground, foreground], dim=1)


class Silent(nn.Module):
    """A teacher that must not be called."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the loser's average was asked")


def with_teachers(net: C3S3, winner: nn.Module, a_wins: bool) -> None:
    net.teachers = nn.ModuleList([winner, Silent()] if a_wins else [Silent(), winner])


def test_without_options_the_step_is_the_paper_s_bit_for_bit(small_crops: Path) -> None:
    net, batch = method(small_crops)
    assert not any(name.startswith("teacher") for name in net.state_dict())
    assert net.views(ITERATION).box == 0
    assert not batch.box.numel()
    assert not batch.taught.numel()
    assert [id(p) for p in net.optimised()["main"]] == [id(p) for p in net.parameters()]
    torch.manual_seed(2)
    (phase,) = net.step(batch, ITERATION)
    torch.manual_seed(2)
    a, b = outputs(net, batch)
    total, terms = c3s3_loss(a, b, batch, net.competition, net.config.c3s3, ITERATION / 8)
    assert torch.equal(phase.loss, total)
    assert phase.terms == terms


def voxels(*values: float) -> Tensor:
    """Return class probabilities: foreground values along x -> (1, 2, n, 1, 1)."""
    p = torch.tensor(values).reshape(1, 1, -1, 1, 1)
    return torch.cat([1 - p, p], dim=1)


def test_the_winner_teaches_only_where_it_is_confident() -> None:
    loser, winner = voxels(0.5, 0.5, 0.5).requires_grad_(), voxels(0.9, 0.6, 0.05)
    wrong = [(0.5 - sharpen(voxels(p), 0.5)[0, 1].item()) ** 2 for p in (0.9, 0.6, 0.05)]
    everywhere = cross_pseudo([loser], [winner], 0.5)
    assert everywhere.item() == pytest.approx(sum(wrong) / 3)
    assert cross_pseudo([loser], [winner], 0.5, 0.5).item() == pytest.approx(sum(wrong) / 3)
    certain = cross_pseudo([loser], [winner], 0.5, 0.8)
    assert certain.item() == pytest.approx((wrong[0] + wrong[2]) / 2)  # the background teaches too
    (gradient,) = torch.autograd.grad(certain, [loser])
    assert gradient.abs().sum(dim=1).bool().flatten().tolist() == [True, False, True]
    nobody = cross_pseudo([loser], [winner], 0.5, 0.99)
    assert nobody.item() == 0
    assert not torch.autograd.grad(nobody, [loser])[0].any()


@pytest.mark.parametrize("a_wins", [True, False])
def test_the_winner_s_average_labels_the_mixed_crops(small_crops: Path, a_wins: bool) -> None:
    net, batch = method(small_crops, MIXED, "c3s3.pseudo_weight=0.25")
    net.competition.a_wins = lambda a, b: a_wins  # type: ignore[method-assign]
    teacher = Saying().eval()
    with_teachers(net, teacher, a_wins)
    torch.manual_seed(2)
    (phase,) = net.step(batch, ITERATION)
    torch.manual_seed(2)
    a, b = outputs(net, batch)
    total, terms = c3s3_loss(a, b, batch, net.competition, net.config.c3s3, ITERATION / 8)
    pseudo = (teacher(batch.views[0][1:]) > 0).float()
    mixed = paste_both_ways(batch, pseudo)
    assert int((batch.box == 0).sum()) == 21 * 11 * 11  # two thirds of each side
    wanted = {
        f"mix_{name}": 2 * copy_paste_loss(net(mixed.images), mixed, 0.25).mean()
        for name, net in (("a", net.a), ("b", net.b))
    }
    for name, value in wanted.items():
        assert phase.terms[name] == pytest.approx(value.item(), rel=1e-5)
    assert phase.loss.item() == pytest.approx((total + sum(wanted.values())).item(), rel=1e-5)
    assert "corrected" not in phase.terms
    assert terms["a_wins"] == a_wins


@pytest.mark.parametrize("largest", [True, False])
def test_a_stray_voxel_does_not_teach(small_crops: Path, largest: bool) -> None:
    net, batch = method(small_crops, MIXED, f"c3s3.largest_component={str(largest).lower()}")
    with_teachers(net, Saying(stray=True), True)
    net.teachers[1] = net.teachers[0]
    (phase,) = net.step(batch, ITERATION)
    assert phase.terms["pseudo"] == pytest.approx((512 + (not largest)) / (32 * 16 * 16))


def test_the_nets_are_corrected_where_they_differ(small_crops: Path) -> None:
    """The correction applies to unmixed crops, or to mixed crops if mixing is on."""
    for changes in (BOTH[1:], BOTH):
        net, batch = method(small_crops, *changes)
        net.teachers = nn.ModuleList([Saying(), Saying()])
        config = net.config.c3s3
        (phase,) = net.step(batch, ITERATION)
        pseudo = (Saying().eval()(batch.views[0][1:]) > 0).float()
        if config.mix_weight:
            mixed = paste_both_ways(batch, pseudo)
            p_a, p_b = (x(mixed.images).softmax(dim=1) for x in (net.a, net.b))
            wanted = both_ways(p_a, p_b, mixed, config)
        else:
            a, b = outputs(net, batch)
            wanted = correction(a.probability[0], b.probability[0], unmixed(batch, pseudo), config)
        assert wanted.item() > 0
        assert phase.terms["corrected"] == pytest.approx(wanted.item(), rel=1e-5)


def test_the_correction_of_unmixed_crops_by_hand() -> None:
    """The first crop is labelled, the second has a pseudo-label; one voxel of each is disputed."""
    images = torch.zeros(2, 1, 2, 1, 1)
    batch = Batch((images,), voxels(1.0, 0.0))
    plain = unmixed(batch, voxels(0.0, 1.0))
    assert plain.labelled.flatten().tolist() == [1, 1, 0, 0]
    p_a, p_b = (
        torch.cat([voxels(0.8, 0.1), voxels(0.3, 0.9)]),
        torch.cat([voxels(0.4, 0.2), voxels(0.6, 0.7)]),
    )
    config = replace(load_config(Path("left-atrium"), BOTH).c3s3, pseudo_weight=0.25)
    squared = ((0.2**2 + 0.6**2) + 0.25 * (0.3**2 + 0.6**2)) / 2
    wrong = -(math.log(0.4) + math.log(0.6)) / 2 * (1 + 0.25) / 2  # B's 0.4 and 0.6 on both disputed voxels
    assert correction(p_a, p_b, plain, config).item() == pytest.approx(0.5 * squared + 0.05 * wrong, rel=1e-5)
    assert correction(p_a, p_a, plain, config).item() == 0


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("foreground", [0.0, 1.0], ids=["empty", "full"])
def test_gradients_are_finite_and_the_option_changes_them(
    name: str, foreground: float, small_crops: Path
) -> None:
    found = []
    for changes in ([], OPTIONS[name]):
        net, batch = method(small_crops, *changes)
        target = torch.full_like(batch.target, foreground)
        target[:, 0] = 1 - foreground
        torch.manual_seed(2)
        (phase,) = net.step(replace(batch, target=target), ITERATION)
        phase.loss.backward()  # type: ignore[no-untyped-call]
        grown = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
        assert all(torch.isfinite(gradient).all() for gradient in grown.values())
        assert not any(n.startswith("teachers") for n in grown)
        found.append(grown)
    assert any(not torch.equal(gradient, found[1][n]) for n, gradient in found[0].items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["confidence", "both"])
def test_a_restored_run_goes_on_as_if_unbroken(name: str, small_crops: Path, tmp_path: Path) -> None:
    config = load_config(small_crops, [*OPTIONS[name], "c3s3.warm_up=1", "run.labelled_batch=1"])
    draw = sampler(small_crops)

    def steps(run: Run) -> list[dict[str, float]]:
        return [run.step(draw.batch(run.iteration, run.method.views(run.iteration))) for _ in range(2)]

    run = Run(config, tmp_path)
    steps(run)
    run.save()
    expected = steps(run)
    again = Run(config, tmp_path)
    again.restore()
    assert steps(again) == expected
    unbroken = run.method.state_dict()
    assert all(torch.equal(tensor, unbroken[key]) for key, tensor in again.method.state_dict().items())


def test_the_averages_are_the_nets_until_the_warm_up_ends(small_crops: Path) -> None:
    net, _ = method(small_crops, MIXED, "c3s3.warm_up=4")
    for iteration, same in ((3, True), (100, False)):
        with torch.no_grad():
            for p in net.optimised()["main"]:
                p.add_(1)
        net.after_step(iteration)
        for student, teacher in zip((net.a, net.b), net.teachers, strict=True):
            pairs = zip(student.parameters(), teacher.parameters(), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs) == same
    assert not any(p.requires_grad for p in net.teachers.parameters())


def test_the_crops_of_a_mix_are_as_many_of_both_kinds(small_crops: Path) -> None:
    wrong = [MIXED, "run.unlabelled_batch=4"]
    with pytest.raises(ConfigError, match=r"unlabelled_batch = 4: c3s3\.mix_weight mixes their halves"):
        load_config(small_crops, wrong)
    assert load_config(small_crops, [*wrong, "method=supervised"])
    for key, value in (("confidence", "1.5"), ("mix_weight", "-1"), ("mix_box", "0"), ("teacher_decay", "2")):
        with pytest.raises(ConfigError, match=rf"c3s3\.{key} = "):
            load_config(small_crops, [f"c3s3.{key}={value}"])
