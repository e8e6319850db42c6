"""A training step by hand, its options, and one backward pass compared with two."""

import itertools
import math
import runpy
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from helpers.training import sampler

from c3s3_seg.training.competition import Competition
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Batch
from c3s3_seg.training.ema import Ema
from c3s3_seg.training.losses import SegTerms
from c3s3_seg.training.methods.c3s3 import C3S3
from c3s3_seg.training.optimiser import sgd
from c3s3_seg.training.run import Run
from c3s3_seg.training.settings import OptimiserConfig
from c3s3_seg.training.step import Outputs, c3s3_loss, warm_loss
from c3s3_seg.training.studies.plan import load_study


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


# --- the whole step by hand: two voxels along x, one labelled crop, one unlabelled crop, two views

LABELLED, UNLABELLED = 0, 1
# Foreground probabilities by view, crop and voxel. Every crop shows the organ in its first voxel only.
P_A = (((0.9, 0.2), (0.8, 0.3)), ((0.7, 0.4), (0.6, 0.1)))
P_B = (((0.6, 0.3), (0.9, 0.4)), ((0.8, 0.45), (0.55, 0.2)))
# Directions of the features in radians: the cosine of two of them is that of their difference.
ANGLE_A = (((0.0, 0.5), (0.1, 1.0)), ((0.2, 0.8), (0.3, 1.4)))
ANGLE_B = (((0.4, 0.9), (0.2, 1.2)), ((0.1, 1.3), (0.6, 0.7)))
PerVoxel = tuple[tuple[tuple[float, float], ...], ...]


def by_hand(foreground: PerVoxel, angles: PerVoxel) -> Outputs:
    p = torch.tensor(foreground)  # (views, crops, voxels)
    probability = torch.stack([1 - p, p], dim=2)[..., None, None]
    turn = torch.tensor(angles).flatten(0, 1)
    features = torch.stack([turn.cos(), turn.sin()], dim=1)[..., None, None]
    logits = probability.log().requires_grad_()
    return Outputs(features, tuple(logits), tuple(probability), torch.nn.Identity())


def both_by_hand() -> tuple[Outputs, Outputs, Batch]:
    """Return A, B and the batch; only the labelled crop has a target."""
    target = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 2, 2, 1, 1)
    return by_hand(P_A, ANGLE_A), by_hand(P_B, ANGLE_B), Batch((torch.zeros(2, 1, 2, 1, 1),) * 2, target)


def supervised(p: PerVoxel) -> tuple[float, float]:
    """Return the cross entropy and the Dice loss of eq. 2: means over the two views."""
    views = [view[LABELLED] for view in p]
    ce = [-(math.log(organ) + math.log(1 - rest)) / 2 for organ, rest in views]
    dice = [1 - 2 * organ / (organ**2 + rest**2 + 1) for organ, rest in views]
    return sum(ce) / 2, sum(dice) / 2


def taught(loser: PerVoxel, winner: PerVoxel) -> float:
    """Return eq. 5 at T = 0.5: both classes of a voxel are off by as much."""
    wrong = []
    for view in (0, 1):
        for p, q in zip(loser[view][UNLABELLED], winner[view][UNLABELLED], strict=True):
            wrong.append((p - q**2 / (q**2 + (1 - q) ** 2)) ** 2)
    return sum(wrong) / 2  # the mean over two voxels, the sum over two views


def across(p: PerVoxel, q: PerVoxel) -> float:
    """Return eq. 6: view 1 of a net against view 2 of the other, and the reverse; all crops."""

    def distance(one: tuple[float, float], other: tuple[float, float]) -> float:
        x, y = ([*crop, *(1 - value for value in crop)] for crop in (one, other))
        return 1 - sum(a * b for a, b in zip(x, y, strict=True)) / (math.hypot(*x) * math.hypot(*y))

    pairs = [(p[0], q[1]), (q[0], p[1])]
    return sum(distance(a[crop], b[crop]) for a, b in pairs for crop in (LABELLED, UNLABELLED)) / 2


def contrasted(a: PerVoxel, b: PerVoxel, crops: tuple[int, ...]) -> float:
    """Return eq. 7-10 at tau = 0.5, with one anchor and one negative: the voxel itself and the other one."""
    terms = []
    for view_a, view_b, crop in itertools.product((0, 1), (0, 1), crops):
        for anchor, other in ((0, 1), (1, 0)):  # the organ against the rest, the rest against the organ
            angle = a[view_a][crop][anchor]
            same, unlike = (math.cos(angle - b[view_b][crop][n]) / 0.5 for n in (anchor, other))
            terms.append(math.log(1 + math.exp(unlike - same)))
    return sum(terms) / (4 * len(crops))


WEIGHTS = ["c3s3.sharpening=0.5", "c3s3.temperature=0.5", "c3s3.cp_weight=0.3", "c3s3.cosine_weight=0.7"]


@pytest.mark.parametrize("crops", ["unlabelled", "all"])
def test_the_step_of_the_paper_by_hand(crops: str) -> None:
    changes = [*WEIGHTS, "c3s3.contrast_weight=0.4", f"c3s3.contrast_crops={crops}"]
    config = load_config(Path("left-atrium"), changes).c3s3
    a, b, batch = both_by_hand()
    # CE and Dice loss: A 0.299 and 0.089, B 0.422 and 0.152. So A wins and teaches B.
    seg_a, seg_b = sum(supervised(P_A)), sum(supervised(P_B))
    seen = (UNLABELLED,) if crops == "unlabelled" else (LABELLED, UNLABELLED)
    iuc = contrasted(ANGLE_A, ANGLE_B, seen)
    wanted = {"seg_a": seg_a, "seg_b": seg_b, "cp": taught(P_B, P_A), "cos": across(P_A, P_B), "iuc": iuc}
    total, found = c3s3_loss(a, b, batch, Competition(0.8), config, 0.5)
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, rel=ROUNDING)
    assert found["a_wins"] == 1
    ramp = math.exp(-1.25)
    unsupervised = 0.7 * wanted["cos"] + ramp * (0.3 * wanted["cp"] + 0.4 * wanted["iuc"])
    assert total.item() == pytest.approx(seg_a + seg_b + unsupervised, rel=ROUNDING)


def test_the_better_net_teaches_also_if_it_is_b() -> None:
    config = load_config(Path("left-atrium"), WEIGHTS).c3s3
    a, b, batch = both_by_hand()
    _, found = c3s3_loss(b, a, batch, Competition(0.8), config, 0.5)
    assert found["a_wins"] == 0
    assert found["cp"] == pytest.approx(taught(P_B, P_A), rel=ROUNDING)


def test_both_nets_learn_in_the_warm_up_from_the_labelled_crop() -> None:
    a, b, batch = both_by_hand()
    loss, found = warm_loss(a, b, batch)
    wanted = {"seg_a": sum(supervised(P_A)), "seg_b": sum(supervised(P_B))}
    assert found == pytest.approx(wanted, rel=ROUNDING)
    assert loss.item() == pytest.approx(sum(wanted.values()), rel=ROUNDING)
    for net in (a, b):
        for gradient in torch.autograd.grad(loss, net.logits, retain_graph=True):
            assert gradient[LABELLED].all()
            assert not gradient[UNLABELLED].any()


@pytest.mark.parametrize(("iteration", "progress"), [(3, 0.0), (5, 0.4)])
def test_the_ramp_begins_when_the_warm_up_ends(toy_config: Path, iteration: int, progress: float) -> None:
    """The configuration has 8 iterations, of which 3 are warm-up."""
    net, _ = method(toy_config, "c3s3.warm_up=3")
    (phase,) = net.step(sampler(toy_config).batch(iteration, net.views(iteration)), iteration)
    ramped = 0.1 * math.exp(-5 * (1 - progress) ** 2)
    assert phase.terms["cp_weight"] == pytest.approx(ramped, rel=ROUNDING)
    assert phase.terms["iuc_weight"] == pytest.approx(ramped, rel=ROUNDING)


# --- what a step does to the weights


def test_an_average_follows_fast_at_first_and_then_slowly() -> None:
    net, goal = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(net.weight)
    torch.nn.init.ones_(goal.weight)
    for iteration, moved in ((0, 0.9), (30, 9 / 40), (10_000, 0.005)):  # 1 - 1/10, 1 - 31/40, 1 - 0.995
        average = Ema(net, 0.995)
        average.update(goal, iteration)
        assert average.net.weight.item() == pytest.approx(moved, rel=1e-4)


def test_a_step_is_as_long_as_the_schedule_says(toy_config: Path, tmp_path: Path) -> None:
    """The learning rate of iterations 0 and 4 of 8."""
    changes = ["method=supervised", "run.labelled_batch=1", "run.precision=float32", "optimiser.lr=0.02"]
    run = Run(load_config(toy_config, changes), tmp_path)
    for iteration, lr in ((0, 0.02), (4, 0.02 * 0.5**0.9)):
        run.iteration = iteration
        found = run.step(sampler(toy_config).batch(iteration, run.method.views(iteration)))
        assert found["lr"] == pytest.approx(lr)
        assert run.optimisers["main"].param_groups[0]["lr"] == pytest.approx(lr)


def test_the_optimiser_has_the_numbers_of_the_configuration() -> None:
    weights = [torch.nn.Parameter(torch.ones(1))]
    for config, wanted in (
        (OptimiserConfig(), (0.01, 0.9, 1e-4, True)),
        (OptimiserConfig(0.1, 0.5, False, 0.003), (0.1, 0.5, 0.003, False)),
    ):
        (group,) = sgd(weights, config).param_groups
        assert tuple(group[k] for k in ("lr", "momentum", "weight_decay", "nesterov")) == wanted
