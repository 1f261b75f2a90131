"""Attention as the engine needs it, given to a model's own layers, which project, norm and rotate.

Axes: n examples, R edits (rows) of an example, S live tokens, C tokens of the context that all rows of an example
share, H heads, K key/value heads, G = H / K, d dimensions of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def causal(q: Tensor, k: Tensor, v: Tensor, scaling: float) -> Tensor:
    """Heads' outputs [n, T, H, d] over whole prompts."""
    z = functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    return z.transpose(1, 2)


def folded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    scaling: float,
    visible: Tensor | None,
) -> Tensor:
    """Heads' outputs [n, R * Q, H, d] of the rows of n examples, which share a context without a copy per row.

    The rows are folded into the query dimension for the scores over the context; each row's own S tokens join in one
    softmax. q [n, H, R, Q, d] (Q = S, or the last of them alone), k and v [n, K, R, S, d],
    context_k and context_v [n, K, C, d], visible [n or 1, Q, C + S], None: everything.
    """
    n, heads, rows, queries, d = q.shape
    groups, context = k.shape[1], context_k.shape[2]
    shape = (n, groups, heads // groups, rows, queries)
    folds = heads // groups * rows * queries
    q = q.reshape(n, groups, folds, d)
    own = torch.einsum("nkgrqd,nkrsd->nkgrqs", q.view(*shape, d), k)
    scores = torch.cat([(q @ context_k.transpose(-1, -2)).view(*shape, context), own], -1).float() * scaling
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, None, None], -torch.inf)
    weights = scores.softmax(-1).to(q.dtype)
    past = weights[..., :context].reshape(n, groups, folds, context) @ context_v
    z = past.view(*shape, d) + torch.einsum("nkgrqs,nkrsd->nkgrqd", weights[..., context:], v)
    return z.permute(0, 3, 4, 1, 2, 5).reshape(n, rows * queries, heads, d)
