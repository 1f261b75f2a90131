"""Attention, stood in for: a function of this package takes the place of a layer's own, wherever a model calls it.

There are three ways in which models call it, and a context manager for each: through the registry of transformers, by a
method of the attention module, by torch's own function. All hand over queries, keys and values as the model made them,
and how it scores them.

Axes: n prompts, S tokens (T in a whole prompt), H heads, K key/value heads, d dimensions of a head.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "mechdiff"  # our name among the attention functions of transformers


@dataclass(frozen=True)
class Scoring:
    """How a layer attends: scores from products of queries and keys, scaled and soft-capped, and how far back it sees
    [tokens]. ``own``: its own function, (q, k, v, edges [n, 1, T, T] that are hidden or None) -> outputs [n, T, H, d],
    in a whole forward pass."""

    scaling: float
    softcap: float | None = None
    window: int | None = None
    own: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor] | None = field(default=None, compare=False)

    def __call__(self, products: Tensor) -> Tensor:
        """Scores, float32."""
        scores = products.float() * self.scaling
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)


# (queries [n, H, S, d], keys, values [n, K, S, d], scoring) -> heads' outputs [n, S, H, d]
Attend = Callable[[Tensor, Tensor, Tensor, Scoring], Tensor]


@contextmanager
def standing_in(module: nn.Module, forward: Callable) -> Iterator[Callable]:
    """While open, ``forward`` stands in for the module's own, which is yielded."""
    own, shadowed = module.forward, module.__dict__.get("forward")  # a device map shadows it too
    module.forward = forward
    try:
        yield own
    finally:
        del module.forward
        if shadowed is not None:
            module.forward = shadowed


def _hiding(mask: Tensor | None, hidden: Tensor | None, tokens: int) -> Tensor | None:
    """An attention mask, as a model made it for whole prompts, with some edges hidden as well."""
    if hidden is None:
        return mask
    if mask is None:
        return torch.ones(tokens, tokens, dtype=torch.bool, device=hidden.device).tril() & ~hidden
    if mask.dtype == torch.bool:
        return mask & ~hidden
    return mask.masked_fill(hidden, torch.finfo(mask.dtype).min)


_now: ContextVar[tuple[Attend, str]] = ContextVar("now")  # what stands in for attention, and the name of what for


def _registered(
    module, query, key, value, attention_mask, scaling=None, softcap=None, sliding_window=None, **kwargs
) -> tuple[Tensor, None]:
    attend, own_name = _now.get()
    own_eager = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    given = kwargs | {"scaling": scaling, "sliding_window": sliding_window}
    given |= {} if softcap is None else {"softcap": softcap}

    def own(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
        function = ALL_ATTENTION_FUNCTIONS.get_interface(own_name, own_eager)
        return function(module, q, k, v, _hiding(attention_mask, hidden, q.shape[2]), **given)[0]

    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend(query, key, value, Scoring(scaling, softcap, sliding_window, own)), None


AttentionInterface.register(ATTENTION, _registered)


@contextmanager
def by_registry(attention: nn.Module, attend: Attend) -> Iterator[None]:
    """Most families call one of transformers' attention functions, by the name that their config gives."""
    config, own = attention.config, attention.config._attn_implementation
    entered = _now.set((attend, own))
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = own
        _now.reset(entered)


@contextmanager
def by_method(attention: nn.Module, attend: Attend) -> Iterator[None]:
    """GPT-J and its like have a method for it, which divides the products by ``scale_attn``."""
    whole = attention._attn

    def stand_in(query, key, value, attention_mask=None) -> tuple[Tensor, None]:
        def own(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
            return whole(q, k, v, _hiding(attention_mask, hidden, q.shape[2]))[0].transpose(1, 2)

        return attend(query, key, value, Scoring(1 / float(attention.scale_attn), own=own)).transpose(1, 2), None

    attention._attn = stand_in
    try:
        yield
    finally:
        del attention._attn


class by_product(TorchFunctionMode):  # noqa: N801 - a context manager like the others
    """Falcon calls torch's own function."""

    def __init__(self, attention: nn.Module, attend: Attend) -> None:
        super().__init__()
        self.attend = attend

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        (query, key, value), mask, scale = args[:3], kwargs.get("attn_mask"), kwargs.get("scale")

        def own(q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None) -> Tensor:
            hidden_too = _hiding(mask, hidden, q.shape[2])
            causal = hidden_too is None and kwargs.get("is_causal", False)
            return func(q, k, v, **kwargs | {"attn_mask": hidden_too, "is_causal": causal}).transpose(1, 2)

        scoring = Scoring(query.shape[-1] ** -0.5 if scale is None else scale, own=own)
        return self.attend(query, key, value, scoring).transpose(1, 2)


def way_of(attention: nn.Module) -> Callable[[nn.Module, Attend], AbstractContextManager]:
    """The one of the three by which a model calls its attention."""
    if hasattr(attention, "_attn"):
        return by_method
    if hasattr(sys.modules[type(attention).__module__], "ALL_ATTENTION_FUNCTIONS"):
        return by_registry
    return by_product
