"""BCP and SDCL: the crops that are pasted, their places, and the losses worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training import sampler
from torch import Tensor, nn

from c3s3_seg.errors import ConfigError
from c3s3_seg.training.config import load_config, warm_up
from c3s3_seg.training.data import Batch, Views, draw_box
from c3s3_seg.training.distributed import ProcessGroup
from c3s3_seg.training.method_settings import SDCLConfig
from c3s3_seg.training.methods import build_method
from c3s3_seg.training.methods.bcp import (
    BidirectionalCopyPaste,
    Mixed,
    copy_paste_loss,
    halves,
    largest_components,
    paste_both_ways,
    paste_labelled,
    region_loss,
)
from c3s3_seg.training.methods.sdcl import correction


def voxels(*values: float) -> Tensor:
    """Return class probabilities: foreground values along x -> (1, 2, n, 1, 1)."""
    p = torch.tensor(values).reshape(1, 1, -1, 1, 1)
    return torch.cat([1 - p, p], dim=1)


def along_x(*values: float) -> Tensor:
    return torch.tensor(values).reshape(1, 1, -1, 1, 1)


def test_the_box_is_of_the_batch_and_not_of_a_process(toy_config: Path) -> None:
    draw = sampler(toy_config)
    views = Views(2, 2, box=2 / 3)
    one = draw.batch(4, views).box
    assert one.shape == (32, 32, 32)
    assert int((one == 0).sum()) == 21**3  # round(32 * 2 / 3)
    draw.group = ProcessGroup(1, 2)
    assert torch.equal(draw.batch(4, views).box, one)
    assert not torch.equal(draw.batch(5, views).box, one)
    assert not draw.batch(4, Views(2, 2)).box.numel()
    assert not draw_box((16, 16, 16), 1.0, torch.Generator()).any()


def test_halves_share_an_odd_crop() -> None:
    assert [half.tolist() for half in halves(torch.arange(4))] == [[0, 2], [1, 3]]
    assert [half.tolist() for half in halves(torch.arange(3))] == [[0, 2], [1, 2]]
    assert [half.tolist() for half in halves(torch.arange(1))] == [[0], [0]]


def planted_batch() -> Batch:
    """Return labelled crops of 1 and 2, unlabelled crops of 10 and 20; two voxels, the second in the box."""
    images = torch.tensor([1.0, 2.0, 10.0, 20.0]).reshape(4, 1, 1, 1, 1).expand(4, 1, 2, 1, 1)
    target = torch.cat([voxels(1.0, 1.0), voxels(0.0, 1.0)])
    return Batch((images,), target, box=torch.tensor([1.0, 0.0]).reshape(2, 1, 1))


def test_crops_are_pasted_both_ways() -> None:
    pseudo = torch.cat([voxels(0.0, 0.0), voxels(1.0, 0.0)])
    mixed = paste_both_ways(planted_batch(), pseudo)
    assert mixed.images.ravel().tolist() == [1, 10, 20, 2]  # l_a around u_a, u_b around l_b
    assert mixed.target[:, 1].ravel().tolist() == [1, 0, 1, 1]
    assert mixed.labelled.ravel().tolist() == [1, 0, 0, 1]
    assert mixed.half(1).images.ravel().tolist() == [20, 2]


def test_the_pretraining_pastes_labelled_crops() -> None:
    batch = planted_batch()
    mixed = paste_labelled(replace(batch, views=(batch.views[0][:2],)))
    assert mixed.images.ravel().tolist() == [1, 2]
    assert mixed.target[:, 1].ravel().tolist() == [1, 1]
    assert bool(mixed.labelled.all())


def test_the_loss_of_a_region_by_hand() -> None:
    logits, target = voxels(0.75, 0.5).log(), voxels(1.0, 0.0)
    first = region_loss(logits, target, along_x(1.0, 0.0)).item()
    # Cross-entropy of one voxel; Dice 2 x 0.75 / (0.75 + 1) of the foreground and 0 of the background.
    assert first == pytest.approx((-math.log(0.75) + 1 - 0.5 * 1.5 / 1.75) / 2, abs=1e-4)
    second = region_loss(logits, target, along_x(0.0, 1.0)).item()
    assert second == pytest.approx((-math.log(0.5) + 1 - 0.5 * 1 / 1.5) / 2, abs=1e-4)
    mixed = Mixed(along_x(0.0, 0.0), target, along_x(1.0, 0.0))
    assert copy_paste_loss(logits, mixed, 0.5).item() == pytest.approx(first + 0.5 * second)
    assert region_loss(logits, target, along_x(0.0, 0.0)).item() == pytest.approx(0)


def test_only_the_largest_component_of_each_class_stays() -> None:
    label = torch.zeros(1, 8, 8, 1, dtype=torch.long)
    label[0, :2, :2] = 1
    label[0, 2, 2] = 1  # joined at a corner
    label[0, 6, 6] = 1
    label[0, 4, :3] = 2
    label[0, 7, 0] = 2
    kept = largest_components(label)
    assert (int((kept == 1).sum()), int((kept == 2).sum())) == (5, 3)
    assert kept[0, 6, 6] == kept[0, 7, 0] == 0
    assert kept[0, 2, 2] == 1


class Bright(nn.Module):
    """A teacher that labels every bright voxel foreground."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([1 - x, x], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize(("largest", "voxels_kept"), [("true", 64), ("false", 65)])
def test_a_stray_voxel_of_a_pseudo_label_does_not_teach(
    toy_config: Path, largest: str, voxels_kept: int
) -> None:
    changes = ["method=bcp", f"bcp.largest_component={largest}", "bcp.box=1.0"]
    method = build_method(load_config(toy_config, changes))
    assert isinstance(method, BidirectionalCopyPaste)
    method.teacher = Bright()
    batch = sampler(toy_config).batch(4, method.views(4))
    images = torch.zeros_like(batch.views[0])
    images[2, 0, 4:8, 4:8, 4:8] = images[2, 0, 20, 20, 20] = 1
    target = torch.zeros_like(batch.target)
    target[:, 0] = 1
    (phase,) = method.step(replace(batch, views=(images,), target=target), 4)
    # The box is the whole crop: one mixed crop is the unlabelled one, the other the labelled one.
    assert phase.terms["pseudo"] == pytest.approx(voxels_kept / (2 * 32**3))


@pytest.mark.slow
def test_pseudo_labels_teach_after_the_pretraining(toy_config: Path) -> None:
    """Other outputs of the teacher change a self-training step, but not a pre-training step."""
    config = load_config(toy_config, ["method=bcp", "bcp.pretraining=0.5", "networks.dropout=0.0"])
    assert warm_up(config) == 4
    method = build_method(config)
    assert isinstance(method, BidirectionalCopyPaste)
    found = {}
    for iteration in (3, 4):
        batch = sampler(toy_config).batch(iteration, method.views(iteration))
        assert len(batch.views[0]) == (2 if iteration == 3 else 3)
        for sign in (1.0, -1.0):
            teacher = Bright()
            teacher.register_forward_hook(lambda _, __, answer, sign=sign: sign * answer)
            method.teacher = teacher
            (phase,) = method.step(batch, iteration)
            found[iteration, sign] = float(phase.loss.detach())
    assert found[3, 1.0] == found[3, -1.0]
    assert found[4, 1.0] != pytest.approx(found[4, -1.0], rel=1e-3)


def test_the_teacher_is_the_student_until_self_training(toy_config: Path) -> None:
    method = build_method(load_config(toy_config, ["method=bcp", "bcp.pretraining=0.5"]))
    assert isinstance(method, BidirectionalCopyPaste)
    for iteration, same in ((3, True), (4, False)):
        with torch.no_grad():
            for p in method.net.parameters():
                p.add_(1)
        method.after_step(iteration)
        pairs = zip(method.net.parameters(), method.teacher.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == same


def test_halves_of_other_sizes_are_refused(toy_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"unlabelled_batch = 4: 'sdcl' mixes their halves, wanted as many"):
        load_config(toy_config, ["method=sdcl", "run.unlabelled_batch=4"])


def test_a_labelled_crop_alone_is_not_pasted_into_itself(toy_config: Path) -> None:
    alone = ["method=bcp", "bcp.pretraining=0.5", "run.warm_batch=1"]
    with pytest.raises(ConfigError, match=r"warm_batch = 1: 'bcp' pastes .* pre-training, wanted an even"):
        load_config(toy_config, alone)
    for change in ("bcp.pretraining=0", "method=supervised"):
        assert load_config(toy_config, [*alone, change])
    # One labelled and one unlabelled crop are pasted into each other.
    assert load_config(toy_config, ["method=bcp", "run.labelled_batch=1", "run.unlabelled_batch=1"])


def test_networks_that_agree_are_not_corrected() -> None:
    mixed = Mixed(along_x(0.0, 0.0), voxels(0.0, 1.0), along_x(1.0, 0.0))
    p_a, p_b = voxels(0.9, 0.2), voxels(0.6, 0.4)  # both predict 1, 0: wrong on both voxels, but equal
    assert correction(p_a, p_b, mixed, SDCLConfig()).item() == 0


def test_the_correction_by_hand() -> None:
    """The networks differ on the first two voxels (labelled) and on the third (with a pseudo-label).

    A voxel with a pseudo-label counts half in the sum, and whole in the number of voxels that divides it.
    """
    labelled = along_x(1.0, 1.0, 0.0, 0.0)
    mixed = Mixed(torch.zeros_like(labelled), voxels(1.0, 1.0, 0.0, 0.0), labelled)
    p_a, p_b = voxels(0.8, 0.7, 0.3, 0.1), voxels(0.4, 0.3, 0.9, 0.2)
    p_a.requires_grad_(True)
    squared_a = (0.2**2 + 0.3**2 + 0.5 * 0.3**2) / 3  # the fourth voxel is not disputed
    squared_b = (0.6**2 + 0.7**2 + 0.5 * 0.9**2) / 3
    squared = squared_a + squared_b
    logs = [-(math.log(p) + math.log(1 - p)) / 2 for p in (0.4, 0.3, 0.9)]
    uniform = (logs[0] + logs[1] + 0.5 * logs[2]) / 3  # B is wrong on all three, A on none
    loss = correction(p_a, p_b, mixed, SDCLConfig())
    assert loss.item() == pytest.approx(0.5 * squared + 0.05 * uniform, rel=1e-5)
    loss.backward()
    assert p_a.grad is not None
    assert p_a.grad[..., 0, 0].abs().sum(dim=1).bool().tolist() == [[True, True, True, False]]


def test_each_method_has_its_own_share_of_pretraining(toy_config: Path) -> None:
    """BCP: 2,000 of 17,000 iterations; SDCL: 80 of 355 epochs."""
    for method, share in (("bcp", 2000 / 17000), ("sdcl", 80 / 355)):
        config = load_config(toy_config, [f"method={method}", "run.iterations=1000"])
        assert warm_up(config) == pytest.approx(1000 * share, abs=1)
