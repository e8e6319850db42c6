"""TraCoCo: pairs of crops that overlap, and the losses worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import sampler
from torch import Tensor, nn

from c3s3_seg.dataset import DataSet
from c3s3_seg.training.cases import TrainingCase, read_case
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Sampler, Views
from c3s3_seg.training.method_settings import TraCoCoConfig
from c3s3_seg.training.methods import build_method
from c3s3_seg.training.methods.tracoco import (
    TranslationConsistency,
    confident_loss,
    cut_mix,
    negative_entropy,
    overlap,
    overlap_losses,
    translation_loss,
)
from c3s3_seg.training.settings import AugmentConfig, DataConfig

PAPER = TraCoCoConfig()
PUBLISHED = replace(PAPER, translation="published")


def logits(*foreground: float) -> Tensor:
    """Return logits of foreground probabilities along x -> (2, n, 1, 1)."""
    p = torch.tensor(foreground).reshape(1, -1, 1, 1)
    return torch.cat([1 - p, p]).log()


def test_a_pair_shows_the_same_voxels_where_it_overlaps(toy_config: Path) -> None:
    batch = sampler(toy_config, elastic_mm=2.0, flip_axes=(0,)).batch(3, Views(2, 3, shift=0.4))
    assert batch.views[0].shape == batch.views[1].shape == (5, 1, 32, 32, 32)
    assert len(set(batch.offsets)) > 1
    assert all(abs(step) <= 12 for offset in batch.offsets for step in offset)
    for first, second, offset in zip(*batch.views, batch.offsets, strict=True):
        here, there = overlap((32, 32, 32), offset)
        assert torch.equal(first[0][here], second[0][there])
        assert first[0][here].shape == tuple(32 - abs(step) for step in offset)


def test_both_crops_of_a_pair_stay_inside_the_scan() -> None:
    """The crops read no voxel outside the scan, where the value would be 0."""
    case = TrainingCase(torch.ones(1, 48, 48, 48), torch.zeros(0, 3), torch.ones(3))
    still = {"gain": 0.0, "offset": 0.0, "noise": 0.0, "gamma": (1.0, 1.0)}
    augment = AugmentConfig(rotation_rad=0.0, scale=(1.0, 1.0), **still)  # type: ignore[arg-type]
    task = replace(load_config(Path("left-atrium")).task, patch=(32, 32, 32))
    draw = Sampler([case], [case], task=task, data=DataConfig(""), augment=augment, seed=0)
    for iteration in range(12):
        batch = draw.batch(iteration, Views(1, 1, shift=0.4))
        for view in batch.views:
            torch.testing.assert_close(view, torch.ones(2, 1, 32, 32, 32))


def test_the_target_is_of_the_first_crop(toy_config: Path) -> None:
    batch = sampler(toy_config).batch(3, Views(3, shift=0.4))
    inside = batch.target[:, 1] > 0.99
    contrast = [view[:, 0][inside].mean() - view[:, 0][~inside].mean() for view in batch.views]
    assert contrast[0] > 1
    assert contrast[0] > contrast[1] + 0.5


def test_overlaps_by_hand() -> None:
    first, second = overlap((4, 4, 4), (1, -2, 0))
    assert first == (slice(1, 4), slice(0, 2), slice(0, 4))
    assert second == (slice(0, 3), slice(2, 4), slice(0, 4))


def test_the_divergence_by_hand() -> None:
    first, second = logits(0.8, 0.5), logits(0.5, 0.5)
    expected = (0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)) / 4  # two voxels of two classes
    assert translation_loss(first, second).item() == pytest.approx(expected, rel=1e-5)
    assert translation_loss(first, first).item() == pytest.approx(0, abs=1e-7)


def test_the_divergence_does_not_depend_on_the_number_of_crops() -> None:
    """One pair, and four equal ones, count as the published sum over a batch of four."""
    pair = logits(0.8, 0.5), logits(0.5, 0.5)
    expected = 4 * translation_loss(*pair).item()
    for crops in (1, 4):
        divergence, certainty = overlap_losses([pair] * crops, PAPER)
        assert divergence.item() == pytest.approx(expected, rel=1e-5)
        assert certainty.item() == pytest.approx(sum(negative_entropy(x).item() for x in pair) / 2)


def test_the_published_divergence_is_blind_to_certain_answers() -> None:
    """It clamps all logits above 1 to the same value, so it cannot see that two crops disagree."""
    first, second = torch.full((2, 3, 1, 1), 2.0), torch.full((2, 3, 1, 1), 2.0)
    first[0], second[1] = 5.0, 5.0
    divergence, certainty = overlap_losses([(first, second)], PUBLISHED)
    assert divergence.item() == 0
    assert certainty.item() == pytest.approx(math.log(0.5))  # of the clamped logits: as if undecided
    divergence, certainty = overlap_losses([(first, second)], PAPER)
    assert divergence.item() > 1
    assert certainty.item() > -0.2


def test_the_published_divergence_by_hand() -> None:
    """The softmax is along x, and the mean is over all elements: classes and voxels."""
    first, second = torch.zeros(2, 2, 1, 1), torch.zeros(2, 2, 1, 1)
    first[0, 0], second[0, 0] = 3.0, -3.0  # clamped to 1 and to almost 0
    p = 1 / (1 + math.e)  # along x, the first crop has (1 - p, p) in class 0; the rest is even
    expected = 4 * (0.5 * math.log(0.5 / (1 - p)) + 0.5 * math.log(0.5 / p)) / 4
    divergence, _ = overlap_losses([(first, second)], PUBLISHED)
    assert divergence.item() == pytest.approx(expected, rel=1e-4)


def test_the_entropy_by_hand() -> None:
    expected = (0.5 * math.log(0.5) + 0.5 * math.log(0.5) + 0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / 2
    assert negative_entropy(logits(0.5, 0.9)).item() == pytest.approx(expected, rel=1e-5)


def test_confident_learning_by_hand() -> None:
    """The teacher is sure of the first voxel, likely right on the second, and undecided on the third."""
    ours, theirs = logits(0.6, 0.3, 0.9)[None], logits(0.95, 0.3, 0.5)[None]
    positive = (-math.log(0.6) * 0.95 - math.log(0.7) * 0.7) / 2
    negative = -math.log(1 - 0.4) * 0.05  # the background of the first voxel alone is below 0.1
    assert confident_loss(ours, theirs, PAPER).item() == pytest.approx(positive + negative, rel=1e-4)
    strict = replace(PAPER, confident=0.8)
    left_out = -math.log(0.6) * 0.95 + negative
    assert confident_loss(ours, theirs, strict).item() == pytest.approx(left_out, rel=1e-4)
    nothing = replace(PAPER, confident=1.0, unlikely=0.0)
    assert confident_loss(ours, theirs, nothing).item() == 0


def test_a_mixed_crop_and_its_answer_have_one_box() -> None:
    crops = torch.arange(3.0).reshape(3, 1, 1, 1, 1).expand(3, 1, 8, 8, 4).contiguous()
    answers = torch.cat([crops, -crops], dim=1)
    torch.manual_seed(1)
    mixed, wanted = cut_mix(crops, answers, 4.0)
    assert torch.equal(wanted, torch.cat([mixed, -mixed], dim=1))
    changed = mixed != crops
    assert bool(changed.any())
    assert torch.equal(changed[..., :1].expand_as(changed), changed)  # over all of z
    assert not bool(changed.all())


@pytest.mark.slow
def test_each_mechanism_changes_the_loss(toy_config: Path) -> None:
    """At the end of the run, where the ramp is 1, the loss is the sum of the terms, weighted as published."""
    changes = ["method=tracoco", "networks.dropout=0.0", "tracoco.noise=0.0"]
    method = build_method(load_config(toy_config, changes))
    assert isinstance(method, TranslationConsistency)
    batch = sampler(toy_config).batch(8, method.views(8))
    torch.manual_seed(0)
    a, b = method.step(batch, 8)
    assert (a.optimisers, b.optimisers) == (("a",), ("b",))
    for phase, name in ((a, "a"), (b, "b")):
        seg, crc, translation, certainty = (
            phase.terms[f"{term}_{name}"] for term in ("seg", "crc", "translation", "certainty")
        )
        assert min(crc, translation, -certainty) > 0
        expected = seg + crc + 0.3 * translation + 0.1 * certainty
        assert float(phase.loss.detach()) == pytest.approx(expected, rel=1e-4)
    # Without a shift both crops are equal, and the term vanishes.
    still = replace(batch, views=(batch.views[0], batch.views[0]), offsets=((0, 0, 0),) * 3)
    torch.manual_seed(0)
    a, _ = method.step(still, 8)
    assert a.terms["translation_a"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("method", ["tracoco", "uamt"])
def test_noise_is_in_standard_deviations_of_the_scan(
    layers_data: Path, small_crops: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """In a window, inputs are in [0, 1]: noise up to 1 hid a scan of a standard deviation of 0.1."""
    changes = [f"method={method}", "task.modality=CT", f"data.folder={layers_data}"]
    changes += ['task.recipe.intensity={rule="window",low=-1000.0,high=1000.0}', "data.unlabelled_stream=all"]
    changes += ['task.labels=[{name="core",value=1}]', "networks.dropout=0.0", "uamt.noise=1.0"]
    config = load_config(small_crops, [*changes, "uamt.noise_limit=1.0"])
    case = read_case(DataSet.load(layers_data), "layers-0", config.task, labelled=True)
    assert case.deviation == pytest.approx(float(case.stack[0].std()), rel=1e-3)
    assert 0.01 < case.deviation < 0.6
    assert case.without_labels().deviation == case.deviation
    draw = Sampler([case], [case], task=config.task, data=config.data, augment=config.augment, seed=1)
    built = build_method(config)
    batch = draw.batch(0, built.views(0))
    seen = noise_of(built.teacher if method == "uamt" else built.a, monkeypatch)  # type: ignore[arg-type]
    for _ in built.step(batch, 0):
        pass
    images = batch.views[0] if method == "tracoco" else batch.views[0][batch.labelled :]
    noise = (seen[-1][: len(images)] - images).abs().max()
    assert float(noise) == pytest.approx(case.deviation, rel=0.05)
    assert torch.equal(replace(batch, deviations=()).deviation, torch.ones(len(batch.views[0]), 1, 1, 1, 1))


def noise_of(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list of the inputs that a network is given from now on."""
    seen, forward = list[Tensor](), net.forward

    def keep(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        found: Tensor = forward(images)
        return found

    monkeypatch.setattr(net, "forward", keep)
    return seen
