"""CAML: the memory bank, cross-sample attention, and the losses worked out by hand."""

import math
from pathlib import Path

import pytest
import torch
from helpers.training import sampler
from torch import Tensor, nn

from c3s3_seg.errors import ConfigError
from c3s3_seg.models import build
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Views
from c3s3_seg.training.method_settings import CAMLConfig
from c3s3_seg.training.methods import build_method
from c3s3_seg.training.methods.caml import (
    Bank,
    CorrelationAware,
    CrossSampleAttention,
    Enlarge,
    make_twin,
    mutual_consistency,
    omni_correlation,
    surest,
)


def probability(*foreground: float) -> Tensor:
    p = torch.tensor(foreground).reshape(1, 1, -1, 1, 1)
    return torch.cat([1 - p, p], dim=1)


def method_of(toy_config: Path, *changes: str) -> CorrelationAware:
    torch.manual_seed(0)
    method = build_method(load_config(toy_config, ["method=caml", "networks.dropout=0.0", *changes]))
    assert isinstance(method, CorrelationAware)
    return method


def test_labelled_crops_say_which_case_they_are_from(toy_config: Path) -> None:
    draw = sampler(toy_config)
    cases = draw.batch(2, Views(6, 1)).cases
    assert len(cases) == 6
    assert set(cases) == {0, 1}
    draw.labelled = draw.labelled[:1]
    assert draw.batch(2, Views(6, 1)).cases == (0,) * 6


def test_the_consistency_by_hand() -> None:
    sharp = 0.6**10 / (0.6**10 + 0.4**10)
    p, q = probability(0.6), probability(0.5)
    # p against the sharpened 0.5 of q, q against the sharpened 0.6 of p
    expected = 0.1**2 + (sharp - 0.5) ** 2
    assert mutual_consistency(p, q, 0.1).item() == pytest.approx(expected, rel=1e-4)
    p.requires_grad_(True)
    mutual_consistency(p.detach() + 0 * p, q, 0.1).backward()
    assert p.grad is not None


def test_the_correlation_by_hand() -> None:
    memory = torch.eye(2)
    ours, theirs = torch.tensor([[0.1, 0.0]]), torch.tensor([[0.0, 0.2]])
    a, b = math.exp(1) / (math.exp(1) + 1), math.exp(2) / (math.exp(2) + 1)
    expected = -((1 - b) * math.log(a) + b * math.log(1 - a))
    assert omni_correlation(ours, theirs, memory, 0.1).item() == pytest.approx(expected, rel=1e-5)


def test_the_surest_voxels_are_taken() -> None:
    confidence = torch.tensor([0.9, 0.6, 0.8, 0.99, 0.7])
    mask = torch.tensor([True, True, True, False, True])
    assert sorted(surest(mask, confidence, 2).tolist()) == [0, 2]
    assert surest(mask, confidence, 9).tolist() == [0, 1, 2, 4]


def test_the_bank_keeps_a_slot_for_each_case() -> None:
    bank = Bank(2, CAMLConfig(slots=3, stored=4, channels=1))
    bank.write(0, 1, torch.full((3, 1), 1.0))
    bank.write(2, 1, torch.full((2, 1), 2.0))
    assert sorted(bank.draw(1, 10).ravel().tolist()) == [1, 1, 1, 2, 2]
    bank.write(0, 1, torch.full((1, 1), 5.0))  # a later visit replaces them
    assert sorted(bank.draw(1, 10).ravel().tolist()) == [2, 2, 5]
    bank.write(5, 1, torch.full((1, 1), 7.0))  # case 5 shares the slot of case 2
    assert sorted(bank.draw(1, 10).ravel().tolist()) == [5, 7]
    assert len(bank.draw(0, 10)) == 0
    assert len(bank.draw(1, 1)) == 1


def test_a_visit_empties_the_slot_of_its_case_first() -> None:
    bank = Bank(2, CAMLConfig(slots=3, stored=4, channels=1))
    for case in (0, 1):
        for label in (0, 1):
            bank.write(case, label, torch.full((2, 1), 10.0 * case + label))
    bank.empty(4)  # it shares the slot of case 1
    assert [bank.draw(label, 10).ravel().tolist() for label in (0, 1)] == [[0, 0], [1, 1]]


def test_a_class_that_a_visit_gets_wrong_is_forgotten(toy_config: Path) -> None:
    """As published, where a visit overwrites all classes of its case."""
    method = method_of(toy_config, "run.labelled_batch=1")
    batch = sampler(toy_config).batch(8, method.views(8))
    (case,) = batch.cases
    for label in (0, 1):
        method.bank.write(case, label, torch.full((5, 32), 7.0))
        method.bank.write(case + 1, label, torch.full((1, 32), 9.0))
    features = [torch.randn(1, method.info.filters, 32, 32, 32) for _ in range(2)]
    background = torch.zeros(1, 32, 32, 32, dtype=torch.long)
    method._remember(features, background, batch)  # foreground is nowhere predicted
    assert len(method.bank.draw(0, 1000)) == 512 + 1
    assert method.bank.draw(1, 1000).tolist() == [[9.0] * 32]


def test_the_number_of_voxels_is_a_share_of_the_unlabelled_crops(toy_config: Path) -> None:
    published = CAMLConfig()
    assert round(published.voxel_share * 2 * 112 * 112 * 80) == 12800
    for share, expected in ((published.voxel_share, 2 * 209), (1e-9, 2)):  # 2 classes; 0.638 % of 32^3: 209
        method = method_of(toy_config, f"caml.voxel_share={share}")
        rows: list[int] = []
        method.project.register_forward_hook(lambda _, given, __, rows=rows: rows.append(len(given[0])))
        for label in (0, 1):
            method.bank.write(0, label, torch.randn(5, 32))
        features = [torch.randn(1, method.info.filters, 32, 32, 32) for _ in range(2)]
        agreed = (torch.rand(1, 32, 32, 32) < 0.5).long()
        method._correlate(features, agreed, torch.rand(1, 2, 32, 32, 32))
        assert rows == [expected]


def test_attention_is_across_samples_and_absent_in_evaluation() -> None:
    torch.manual_seed(0)
    attention = CrossSampleAttention(8, 4, 0.0)
    x = torch.randn(2, 8, 2, 3, 2)
    changed = x.clone()
    changed[1] += torch.randn(8, 2, 3, 2)
    attention.train()
    assert attention(x).shape == x.shape
    assert not torch.allclose(attention(x)[0], attention(changed)[0])  # sample 0 sees sample 1
    attention.eval()
    assert attention(x) is x


def test_interpolation_is_torchs() -> None:
    x = torch.randn(2, 3, 4, 5, 2)
    for stride in ((2, 2, 2), (2, 1, 2)):
        expected = nn.functional.interpolate(x, scale_factor=stride, mode="trilinear", align_corners=False)
        torch.testing.assert_close(Enlarge(stride)(x), expected)


@pytest.mark.parametrize("architecture", ["vnet", "resvnet", "resencunet"])
def test_every_backbone_has_a_twin_with_attention_at_stride_8(architecture: str) -> None:
    net = build(architecture, channels=1, classes=3, filters=4, dropout=0.0)
    make_twin(net, 32, CAMLConfig())
    assert not any(isinstance(m, nn.ConvTranspose3d) for m in net.modules())
    seen: list[torch.Size] = []
    for module in net.modules():
        if isinstance(module, CrossSampleAttention):
            module.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    assert net(torch.randn(2, 1, 32, 32, 32)).shape == (2, 3, 32, 32, 32)
    assert seen == [(2, 32, 4, 4, 4)]


def test_the_twin_begins_from_a_bundle_as_backbone_a_does(toy_config: Path) -> None:
    method = method_of(toy_config)
    with torch.no_grad():
        for value in method.net.parameters():
            value.fill_(0.25)
    method.after_start()
    begun = [bool((value.detach() == 0.25).all()) for value in method.twin.parameters()]
    net, twin = (sum(1 for _ in net.parameters()) for net in (method.net, method.twin))
    upsampling = sum(isinstance(layer, Enlarge) for layer in method.twin.modules())
    assert sum(begun) == net - 2 * upsampling  # a kernel and a bias of each transposed convolution
    assert twin > net
    assert all(torch.isfinite(value).all() for value in method.twin.parameters())


def test_a_width_that_its_heads_do_not_divide_is_refused(toy_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"caml\.heads = 3: .* 8 x networks\.a\.filters = 16"):
        load_config(toy_config, ["method=caml", "caml.heads=3"])


def test_the_labels_loss_has_plain_sums(toy_config: Path) -> None:
    """2 sum(p y) / (sum p + sum y) of both branches; published: this form, not that with squares."""
    method = method_of(toy_config, "caml.attention_dropout=0.0")
    batch = sampler(toy_config).batch(8, method.views(8))
    (phase,) = method.step(batch, 8)
    expected = 0.0
    with torch.no_grad():
        for net in (method.net, method.twin):  # in training mode, so that batch norm gives the same
            p, y = net(batch.views[0]).softmax(dim=1)[: batch.labelled, 1], batch.target[:, 1]
            expected += 1 - 2 * float((p * y).sum()) / float((p + y).sum())
    assert phase.terms["dice"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_what_is_remembered_changes_the_correlation(toy_config: Path) -> None:
    method = method_of(toy_config)
    batch = sampler(toy_config).batch(8, method.views(8))
    found = []
    for fill in (None, 3.0):
        torch.manual_seed(1)
        if fill is not None:  # planted: a case that is not in this batch
            for label in (0, 1):
                method.bank.write(40, label, fill * torch.randn(256, 32))
        (phase,) = method.step(batch, 8)
        found.append(phase.terms["correlation"])
        terms = phase.terms
        expected = 0.5 * terms["dice"] + terms["consistency"] + 0.05 * terms["correlation"]
        assert float(phase.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert bool(method.bank.counts.any())
    assert found[0] > 0
    assert found[1] != pytest.approx(found[0], rel=0.05)
    assert list(method.candidates()) == ["vnet"]
