"""Reading and editing heads in whole forward passes, by hooks.

Hooks live in context managers only, so a model is never left edited. Axes: N examples, T tokens, H heads (or, for k and
v, key/value heads), D dimensions of a head. Edits receive and return tensors [N, T, H, D].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mechdiff.models import PatchableModel

Edit = Callable[[int, Tensor], Tensor]


@contextmanager
def editing_outputs(model: PatchableModel, edit: Edit) -> Iterator[None]:
    """While open, ``edit(layer, z)`` stands in for the heads' outputs z, that is, for what enters ``o_proj``."""

    def hook_for(layer: int):
        def hook(module, args):
            z = args[0].unflatten(-1, (-1, model.head_dim))
            return (edit(layer, z).flatten(-2), *args[1:])

        return hook

    handles = [model.output(i).register_forward_pre_hook(hook_for(i)) for i in range(len(model.layers))]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def editing_projections(model: PatchableModel, via: str, edit: Edit) -> Iterator[None]:
    """While open, ``edit(layer, x)`` stands in for the query, key or value vectors x (``via`` = q, k, v)."""

    def hook_for(layer: int):
        def hook(module, args, result):
            return edit(layer, result.unflatten(-1, (-1, model.head_dim))).flatten(-2)

        return hook

    layers = range(len(model.layers))
    handles = [model.projection(i, via).register_forward_hook(hook_for(i)) for i in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_logits(model: PatchableModel, input_ids: Tensor) -> Tensor:
    """Logits of the next token [N, V] for prompts [N, T]."""
    return model.network(input_ids=input_ids, use_cache=False, logits_to_keep=1).logits[:, -1]


@torch.no_grad()
def capture_outputs(model: PatchableModel, input_ids: Tensor) -> tuple[list[Tensor], Tensor]:
    """Every head's output, per layer [N, T, H, D], and the last token's logits [N, V] of a run with nothing patched."""
    outputs: list[Tensor] = []

    def keep(layer: int, z: Tensor) -> Tensor:
        outputs.append(z)
        return z

    with editing_outputs(model, keep):
        logits = last_logits(model, input_ids)
    return outputs, logits
