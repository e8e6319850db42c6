"""Loss terms in a half-precision run are computed in single precision, bit for bit as in float32."""

from collections.abc import Callable

import pytest
import torch
from torch import Generator, Tensor

from c3s3_seg.training.c3s3_settings import C3S3Config
from c3s3_seg.training.losses import Rows, Seen, intersection_union
from c3s3_seg.training.methods.c3s3 import projector
from c3s3_seg.training.methods.caml import omni_correlation
from c3s3_seg.training.methods.ssnet import weighted_distance
from c3s3_seg.training.published import masked_intersection_union


def random(seed: int) -> Generator:
    return Generator().manual_seed(seed)


def vectors(seed: int, count: int) -> Tensor:
    return torch.randn(count, 8, generator=random(seed)).requires_grad_()


def seen(seed: int) -> Seen:
    """Return features and predictions of one crop of 4 x 3 x 2 voxels, half of which are foreground."""
    torch.manual_seed(seed)
    predicted = torch.arange(24).reshape(1, 4, 3, 2) % 2
    return Seen(Rows(torch.randn(1, 5, 4, 3, 2), projector(5)), predicted, 2)


def ours(a: Seen, b: Seen) -> Tensor:
    return intersection_union(a, b, C3S3Config(), random(3))


TERMS: dict[str, Callable[[], Tensor]] = {
    "contrast": lambda: ours(seen(1), seen(2)),
    "published contrast": lambda: masked_intersection_union(seen(1), seen(2), 0.1),
    "caml": lambda: omni_correlation(vectors(1, 5), vectors(2, 5), vectors(3, 6), 0.1),
    "ssnet": lambda: weighted_distance(vectors(1, 5), vectors(2, 6), torch.ones(5), torch.ones(6)),
}


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_that_of_float32(name: str) -> None:
    expected = TERMS[name]()
    with torch.autocast("cpu", torch.bfloat16):
        found = TERMS[name]()
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_correlation_does_not_overflow_in_float16() -> None:
    """Its vectors do not have unit length: products above 65,504 used to be infinite, and the loss NaN."""
    far = [300 * vectors(seed, 4) for seed in (1, 2, 3)]
    expected = omni_correlation(*far, 0.1)
    with torch.autocast("cpu", torch.float16):
        found = omni_correlation(*far, 0.1)
    assert torch.equal(found, expected)
    assert bool(torch.isfinite(found))
