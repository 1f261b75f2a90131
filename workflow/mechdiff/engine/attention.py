"""Attention as the engine needs it, given to a model's own layers, which project, norm and rotate.

Axes: n examples, R edits (rows) of an example, S live tokens, C tokens of the context that all rows of an example
share, H heads, K key/value heads, G = H / K, d dimensions of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mechdiff.models.attention import Scoring


def causal(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
    """Heads' outputs [n, T, H, d] over whole prompts."""
    if scoring.softcap is None and scoring.window is None:
        z = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scoring.scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        return z.transpose(1, 2)
    n, heads, tokens, d = q.shape
    places = torch.arange(tokens, device=q.device)
    ago = places[:, None] - places
    visible = (ago >= 0) & in_window(ago, scoring)
    q = q.reshape(n, k.shape[1], -1, tokens, d)
    scores = scoring(torch.einsum("nkgqd,nktd->nkgqt", q, k)).masked_fill(~visible, -torch.inf)
    z = torch.einsum("nkgqt,nktd->nqkgd", scores.softmax(-1).to(q.dtype), v)
    return z.reshape(n, tokens, heads, d)


def in_window(ago: Tensor, scoring: Scoring) -> Tensor:
    """Whether a query sees a key that comes so many tokens before it."""
    return torch.ones_like(ago, dtype=torch.bool) if scoring.window is None else ago < scoring.window


def folded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    context_k: Tensor,
    context_v: Tensor,
    scoring: Scoring,
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
    scores = scoring(torch.cat([(q @ context_k.transpose(-1, -2)).view(*shape, context), own], -1))
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, None, None], -torch.inf)
    weights = scores.softmax(-1).to(q.dtype)
    past = weights[..., :context].reshape(n, groups, folds, context) @ context_v
    z = past.view(*shape, d) + torch.einsum("nkgrqs,nkrsd->nkgrqd", weights[..., context:], v)
    return z.permute(0, 3, 4, 1, 2, 5).reshape(n, rows * queries, heads, d)


def seen_from(
    q: Tensor,
    context: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    others: tuple[Tensor | None, Tensor | None],
    seen: tuple[Tensor, Tensor],
    scoring: Scoring,
    visible: Tensor | None,
) -> Tensor:
    """Outputs [n, R, H, d] of the heads of one token, which sees its own or another run's keys, and values likewise.

    q [n, H, R, d]; keys and values of the context [n, K, C, d], of each row's own tokens from there up to this one
    [n, K, R, S, d], and the other run's [n, K, C + S, d], needed where ``seen`` [R, H], on the CPU, says that it sees
    them.
    visible [n or 1, C + S], None: everything.
    """
    n, heads, rows, d = q.shape
    groups, past = context[0].shape[1], context[0].shape[2]
    shape = (n, groups, heads // groups, rows)
    keys, values = (x.reshape(rows, groups, -1).permute(1, 2, 0)[..., None] for x in seen)  # [K, G, R, 1]
    q = q.reshape(*shape, d)
    scores = [torch.einsum("nkgrd,nkcd->nkgrc", q, context[0]), torch.einsum("nkgrd,nkrsd->nkgrs", q, own[0])]
    scores = torch.cat(scores, -1)
    if keys.any():
        scores = torch.where(keys.to(q.device), torch.einsum("nkgrd,nktd->nkgrt", q, others[0]), scores)
    scores = scoring(scores)
    if visible is not None:
        scores = scores.masked_fill(~visible[:, None, None, None], -torch.inf)
    weights = scores.softmax(-1).to(q.dtype)
    z = torch.einsum("nkgrc,nkcd->nkgrd", weights[..., :past], context[1])
    z = z + torch.einsum("nkgrs,nkrsd->nkgrd", weights[..., past:], own[1])
    if values.any():
        z = torch.where(values.to(q.device), torch.einsum("nkgrt,nktd->nkgrd", weights, others[1]), z)
    return z.permute(0, 3, 1, 2, 4).reshape(n, rows, heads, d)
