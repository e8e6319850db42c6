"""Optional loss terms in the form of the published code where it differs from the paper; none is a default.

They were written from the difference table (rows 1 and 4), not from the published code.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from c3s3_seg.training.losses import Rows, Seen


def depth_cosine(first: Tensor, second: Tensor) -> Tensor:
    """Return row 4: 1 - cosine between two outputs of the *same* network, logits, along the last axis.

    Parameters
    ----------
    first, second
        Logits (N, C, X, Y, Z) of the two views.
    """
    return 1 - F.cosine_similarity(first.float(), second.float(), dim=-1, eps=1e-6).mean()


def masked_contrast(cosine: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Return row 1: one cosine for each voxel at the same position; a masked voxel counts as e^0.

    With t = cosine / temperature: mean over voxels of log(e^(t m) + sum_n e^(t_n (1 - m_n))) - t m, in
    log-sum-exp form, which gives the same values and does not overflow.

    Parameters
    ----------
    cosine
        (n,) cosine between the two nets' features of each voxel.
    mask
        (n,) bool: I, or the complement of U.

    Returns
    -------
    Scalar; 0 for no voxels.
    """
    if len(cosine) == 0:
        return cosine.new_zeros(())
    t = cosine / temperature
    positive, negative = t * mask, t * ~mask
    return (torch.logaddexp(positive, negative.logsumexp(dim=0)) - positive).mean()


def masked_intersection_union(a: Seen, b: Seen, temperature: float) -> Tensor:
    """Return row 1 for one pair of outputs: the losses of I and of the complement of U, mean over classes."""
    cosine = dense_cosine(a.rows, b.rows)
    terms = []
    for label in range(1, a.classes):
        in_a, in_b = (a.predicted == label).flatten(), (b.predicted == label).flatten()
        terms.append(masked_contrast(cosine, in_a & in_b, temperature))
        terms.append(masked_contrast(cosine, ~(in_a | in_b), temperature))
    return torch.stack(terms).sum() / (a.classes - 1)


def dense_cosine(a: Rows, b: Rows) -> Tensor:
    """Return the cosine of every voxel's two projections, without maps of 64 channels.

    The projector's last layer is linear, z = W h + v. So products of projections are quadratic forms
    in [h; 1], which has F + 1 numbers.

    Returns
    -------
    (n,) float32 for n voxels in (N, X, Y, Z) order.
    """
    with torch.autocast(a.features.device.type, enabled=False):
        (h_a, m_a), (h_b, m_b) = _before_last(a), _before_last(b)
        norm_a, norm_b = (_form(h, m, m, h).clamp_min(1e-12) for h, m in ((h_a, m_a), (h_b, m_b)))
        return _form(h_a, m_a, m_b, h_b) * norm_a.rsqrt() * norm_b.rsqrt()


def _form(h_a: Tensor, m_a: Tensor, m_b: Tensor, h_b: Tensor) -> Tensor:
    """Return the products (n,) of m_a h_a and m_b h_b, row by row."""
    products: Tensor = ((h_a @ (m_a.T @ m_b)) * h_b).sum(dim=1)
    return products


def _before_last(rows: Rows) -> tuple[Tensor, Tensor]:
    """Return [h; 1] of all voxels (n, F + 1), and the last layer's [W v] (64, F + 1)."""
    head = cast(nn.Sequential, rows.projector)
    last = cast(nn.Linear, head[-1])
    hidden = head[:-1](rows.features.movedim(1, -1).flatten(0, 3).float())
    return F.pad(hidden, (0, 1), value=1.0), torch.cat([last.weight, last.bias[:, None]], dim=1)
