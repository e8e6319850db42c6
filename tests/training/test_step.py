"""The options of a training step, and one backward pass compared with two."""

import runpy
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from helpers.training import sampler

from c3s3_seg.training.competition import Competition
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Batch
from c3s3_seg.training.losses import SegTerms
from c3s3_seg.training.methods.c3s3 import C3S3
from c3s3_seg.training.run import Run
from c3s3_seg.training.step import Outputs, c3s3_loss
from c3s3_seg.training.study import load_study


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


def method(config: Path, *changes: str) -> tuple[C3S3, Batch]:
    """Return C3S3 without dropout, and a batch of one labelled and one unlabelled crop."""
    settings = load_config(
        config, ["c3s3.warm_up=0", "networks.dropout=0.0", "run.labelled_batch=1", *changes]
    )
    torch.manual_seed(0)
    net = C3S3(settings).train()
    return net, sampler(config).batch(4, net.views(0))


def gradients(net: C3S3) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def norm(parts: dict[str, torch.Tensor]) -> float:
    return torch.cat([part.ravel() for part in parts.values()]).double().norm().item()


ROUNDING = 5e-5  # share of a gradient's norm


def test_one_backward_is_the_sum_of_two(toy_config: Path) -> None:
    """Difference table, row 8: each net has a loss with the contrast and a backward pass of its own."""
    net, batch = method(toy_config, "c3s3.contrast_backwards=2")
    config = net.config.c3s3
    a, b = Outputs.of(net.a, net.project_a, batch), Outputs.of(net.b, net.project_b, batch)
    torch.manual_seed(1)
    total, _ = c3s3_loss(a, b, batch, net.competition, config, 0.7)
    total.backward(retain_graph=True)
    once = gradients(net)
    net.zero_grad()
    torch.manual_seed(1)  # the same anchors
    single = load_config(toy_config, ["c3s3.contrast_backwards=1"]).c3s3
    summed, terms = c3s3_loss(a, b, batch, net.competition, single, 0.7)
    torch.manual_seed(1)
    off = load_config(toy_config, ["c3s3.contrast_weight=0"]).c3s3
    without, _ = c3s3_loss(a, b, batch, net.competition, off, 0.7)
    contrast = summed - without  # lambda L_iuc
    without.backward(retain_graph=True)
    contrast.backward(retain_graph=True)
    single_count = gradients(net)
    contrast.backward()
    assert total.item() == pytest.approx(without.item() + 2 * terms["iuc_weight"] * terms["iuc"], rel=1e-5)
    twice = gradients(net)
    # Each backward pass rounds in float32 (6e-8) in some 40 layers, and the contrast has a gradient that is a
    # difference of two gradients as large as the whole: the error is 1e-6 to 7e-6 of the whole norm, by the
    # processor's units. An element near zero may be off by more than its value.
    size = norm(twice)
    assert norm({name: once[name] - gradient for name, gradient in twice.items()}) < ROUNDING * size
    assert (
        norm({name: once[name] - gradient for name, gradient in single_count.items()}) > 10 * ROUNDING * size
    )


def test_the_winner_gets_no_gradient_from_what_it_teaches(toy_config: Path) -> None:
    changes = ["c3s3.cosine_weight=0", "c3s3.contrast_weight=0", "c3s3.cp_schedule=constant"]
    net, batch = method(toy_config, *changes)
    a, b = Outputs.of(net.a, net.project_a, batch), Outputs.of(net.b, net.project_b, batch)
    grown = {}
    for weight in (0.0, 5.0):
        config = load_config(toy_config, [*changes, f"c3s3.cp_weight={weight}"]).c3s3
        net.zero_grad()
        total, terms = c3s3_loss(a, b, batch, net.competition, config, 1.0)
        total.backward(retain_graph=True)
        grown[weight] = gradients(net)
    winner, loser = ("a.", "b.") if terms["a_wins"] else ("b.", "a.")
    same = {n: torch.equal(g, grown[5.0][n]) for n, g in grown[0.0].items()}
    assert all(equal for name, equal in same.items() if name.startswith(winner))
    assert not all(equal for name, equal in same.items() if name.startswith(loser))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        "c3s3.contrast=published",
        "c3s3.contrast_crops=all",
        "c3s3.contrast_schedule=constant",
        "c3s3.contrast_backwards=2",
        "c3s3.cosine=published",
        "c3s3.cp_schedule=constant",
        "c3s3.views=identical",
    ],
)
def test_every_option_changes_the_loss_and_stays_finite(toy_config: Path, change: str) -> None:
    losses = []
    for changes in ([], [change]):
        net, batch = method(toy_config, *changes)
        torch.manual_seed(2)
        (phase,) = net.step(batch, 4)
        phase.loss.backward()
        assert all(torch.isfinite(g).all() for g in gradients(net).values())
        losses.append(phase.loss.item())
    assert losses[0] != losses[1]


def test_identical_views_share_the_encoder_and_not_the_dropout(toy_config: Path) -> None:
    net, batch = method(toy_config, "c3s3.views=identical")
    assert len(batch.views) == 1
    both = Outputs.of(net.a, net.project_a, batch, passes=2)
    assert torch.equal(both.logits[0], both.logits[1])
    assert net.views(0).count == 1
    dropping = load_config(toy_config, ["networks.dropout=0.5", "networks.a.filters=8"])
    torch.manual_seed(0)
    random = C3S3(dropping).train()
    seen = Outputs.of(random.a, random.project_a, batch, passes=2)
    assert not torch.equal(seen.logits[0], seen.logits[1])


def terms(value: float) -> SegTerms:
    return SegTerms(torch.tensor(value), torch.tensor(value))


def test_competition_with_and_without_memory() -> None:
    now, slow = Competition(0.8), Competition(0.8, decay=0.9)
    for judge in (now, slow):
        assert judge.a_wins(terms(0.5), terms(0.5))  # a tie goes to A
        assert judge.a_wins(terms(0.1), terms(0.9))
    assert not now.a_wins(terms(0.6), terms(0.5))
    assert slow.a_wins(terms(0.6), terms(0.5))  # one bad step does not undo the past
    for _ in range(50):
        last = slow.a_wins(terms(0.6), terms(0.5))
    assert not last
    assert "values" in slow.state_dict()


@pytest.mark.slow
def test_float16_scales_the_loss(toy_config: Path, tmp_path: Path) -> None:
    """One warm-start step and one C3S3 step are tested, as a CPU is slow in half precision."""
    half = load_config(toy_config, ["run.precision=float16", "c3s3.warm_up=1"])
    run = Run(half, tmp_path)
    draw = sampler(toy_config)
    for iteration in range(2):
        answer = run.step(draw.batch(iteration, run.method.views(iteration)))
        assert abs(answer["loss"]) < 100
    run.save()
    again = Run(half, tmp_path)
    again.restore()
    assert again.scaler.state_dict() == run.scaler.state_dict()
    assert again.scaler.get_scale() > 1


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "training.py"


@pytest.mark.slow
def test_the_benchmark_of_a_step_has_a_plain_transcription_that_runs() -> None:
    measure = runpy.run_path(str(BENCHMARK))["measure"]
    found = measure("plain", "float32", Namespace(size=[16, 16, 16], steps=1, device="cpu"))
    assert found["seconds"] > 0
    assert found["mb"] > 0


def test_the_studies_of_the_atrium_give_supervised_training_two_crops() -> None:
    """Other methods have a labelled and an unlabelled one."""
    _, plans = load_study(BENCHMARK.with_name("left-atrium-methods.toml"))
    crops = {plan.config.run.labelled_batch for plan in plans if plan.config.method == "supervised"}
    others = {plan.config.run.labelled_batch for plan in plans if plan.config.method != "supervised"}
    assert (crops, others) == ({2}, {1})
