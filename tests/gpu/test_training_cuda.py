"""Tests of training on a GPU: losses, half precision, resuming, memory. They are skipped without a GPU."""

from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from c3s3_seg.models import BACKBONES  # noqa: E402
from c3s3_seg.training.cases import TrainingCase  # noqa: E402
from c3s3_seg.training.config import TrainConfig, load_config  # noqa: E402
from c3s3_seg.training.data import Sampler  # noqa: E402
from c3s3_seg.training.methods import METHODS  # noqa: E402
from c3s3_seg.training.run import Run  # noqa: E402
from c3s3_seg.training.train import deterministic  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

CHANGES = [
    "run.iterations=12",
    "run.labelled_batch=2",
    "run.unlabelled_batch=2",
    "run.warm_batch=4",
    "c3s3.warm_up=2",
    "networks.a.filters=4",
    "networks.b.filters=4",
    "networks.dropout=0.0",
    "task.patch=[32, 32, 32]",
    "data.folder=none",
    "run.precision=float32",
    "networks.ship=[]",
    "bcp.pretraining=0",  # a mixed pair of small crops has only one voxel in the coarsest map
    "sdcl.pretraining=0",
    "caml.attention_dropout=0",
    "caml.ramp=1.0",  # rise until the end: in so few steps the networks cannot agree earlier
    "ssnet.weight=0.1",
]
# Methods that draw noise or dropout on their own device: in the loss of the first step, or of a later one.
AT_ONCE = ("tracoco", "ssnet")
LATER = ("uamt", "sassnet", "caml")


def config(*changes: str) -> TrainConfig:
    return load_config(Path("left-atrium"), [*CHANGES, *changes])


def ball(number: int, *, labelled: bool) -> TrainingCase:
    random = torch.Generator().manual_seed(number)
    shape = torch.tensor([44, 40, 36])
    axes = torch.meshgrid(*(torch.arange(int(n)) for n in shape), indexing="ij")
    centre = shape / 2 + 6 * (torch.rand(3, generator=random) - 0.5)
    inside = (torch.stack(axes, -1) - centre).norm(dim=-1) < 8 + 4 * float(torch.rand((), generator=random))
    scan = 2 * inside.float() + 0.5 * torch.randn(tuple(shape.tolist()), generator=random)
    layers = [scan, 1 - inside.float(), inside.float()] if labelled else [scan]
    return TrainingCase(
        torch.stack(layers), inside.nonzero() if labelled else torch.zeros(0, 3).long(), torch.ones(3)
    )


def sampler(wanted: TrainConfig) -> Sampler:
    labelled, unlabelled = (
        [ball(3 * is_second + n, labelled=not is_second) for n in range(3)] for is_second in (0, 1)
    )
    parts = {"task": wanted.task, "data": wanted.data, "augment": wanted.augment, "seed": wanted.run.seed}
    return Sampler(labelled, unlabelled, **parts)


def steps(run: Run, count: int) -> Iterator[dict[str, float]]:
    deterministic(run.config)
    draw = sampler(run.config)
    for _ in range(count):
        yield run.step(draw.batch(run.iteration, run.method.views(run.iteration)))


@pytest.mark.parametrize("method", METHODS)
def test_the_losses_are_those_of_the_cpu(method: str, tmp_path: Path) -> None:
    # Every voxel is an anchor and a negative, because which ones are drawn depends on their number.
    changes = (f"method={method}", "task.patch=[16, 16, 16]", "c3s3.anchors=4096", "c3s3.negatives=4096")
    places = [config(*changes, "optimiser.lr=0.001", f"run.device={device}") for device in ("cpu", "cuda")]
    cpu, cuda = (list(steps(Run(place, tmp_path), 4)) for place in places)
    assert cuda[0]["loss"] == pytest.approx(cpu[0]["loss"], rel=0.2 if method in AT_ONCE else 1e-4)
    for a, b in zip(cpu, cuda, strict=True):
        assert a.keys() == b.keys()
        if method not in AT_ONCE + LATER:
            assert b == pytest.approx(a, rel=1e-2, abs=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", METHODS)
def test_every_precision_learns(method: str, precision: str, tmp_path: Path) -> None:
    wanted = config(f"method={method}", f"run.precision={precision}", "run.device=cuda", "run.iterations=40")
    run = Run(wanted, tmp_path)
    before = next(iter(run.method.parameters())).clone()
    found = list(steps(run, 40))
    learnt = next(name for name in ("seg_a", "dice", "inward", "mix_a", "loss") if name in found[0])
    losses = [terms[learnt] for terms in found]
    slow = method in ("caml", "ssnet")  # Dice alone is supervised; half of the loss is without labels
    assert sum(losses[-8:]) < (0.9 if slow else 0.7) * sum(losses[:8])
    after = next(iter(run.method.parameters()))
    assert after.dtype == torch.float32
    assert bool(after.isfinite().all())
    assert not torch.equal(before, after)


@pytest.mark.parametrize("architecture", BACKBONES)
def test_every_backbone_trains_and_a_second_run_is_the_same(architecture: str, tmp_path: Path) -> None:
    networks = [f"networks.{slot}.architecture={architecture}" for slot in "ab"]
    wanted = config(*networks, "run.device=cuda")
    first, second = (list(steps(Run(wanted, tmp_path), 4)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_resumed_run_ends_as_an_unbroken_one(precision: str, tmp_path: Path) -> None:
    wanted = config("run.device=cuda", f"run.precision={precision}", "run.iterations=6")
    whole, first, second = (Run(wanted, tmp_path) for _ in range(3))
    list(steps(whole, 6))
    list(steps(first, 3))
    first.save()
    second.restore()
    list(steps(second, 3))
    for (name, a), b in zip(
        whole.method.state_dict().items(), second.method.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_recomputing_gives_the_same_step_in_less_memory(tmp_path: Path) -> None:
    found = {}
    for activation_checkpointing in ("false", "true"):
        wanted = config(
            "run.device=cuda",
            f"run.activation_checkpointing={activation_checkpointing}",
            "c3s3.warm_up=0",
            "task.patch=[64, 64, 64]",
        )
        run = Run(wanted, tmp_path)
        torch.cuda.reset_peak_memory_stats()
        (terms,) = steps(run, 1)
        found[activation_checkpointing] = terms["loss"], torch.cuda.max_memory_allocated()
    assert found["true"][0] == pytest.approx(found["false"][0], rel=1e-5)
    assert found["true"][1] < found["false"][1]
