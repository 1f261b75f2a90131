"""Reading and editing heads in whole forward passes.

What is edited is edited in context managers only, so a model is never left edited. Axes: N examples, T tokens, H heads
(or, for keys and values, key/value heads), D dimensions of a head. Edits receive and return tensors [N, T, H, D].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor

from mechdiff.models.attention import Scoring, standing_in
from mechdiff.models.patchable import PatchableModel

Edit = Callable[[int, Tensor], Tensor]
EditVectors = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
# (layer, queries [N, H, T, D], keys, values [N, K, T, D], the model's own attention) -> outputs [N, T, H, D]
AttendIn = Callable[[int, Tensor, Tensor, Tensor, Scoring], Tensor]


@contextmanager
def editing_outputs(model: PatchableModel, edit: Edit) -> Iterator[None]:
    """While open, ``edit(layer, z)`` stands in for the heads' outputs z, for what enters the output projection."""

    def hook_for(layer: int):
        def hook(module, args):
            z = args[0].unflatten(-1, (-1, model.head_dim))
            return (edit(layer, z).flatten(-2), *args[1:])

        return hook

    handles = [output.register_forward_pre_hook(hook_for(i)) for i, output in enumerate(model.outputs)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def attending(model: PatchableModel, attend: AttendIn) -> Iterator[None]:
    """While open, ``attend`` stands in for the attention of every layer."""
    with ExitStack() as stack:
        for layer, module in enumerate(model.attentions):

            def forward(*args, layer=layer, own=module.forward, **kwargs):
                with model.attending(layer, partial(attend, layer)):
                    return own(*args, **kwargs)

            stack.enter_context(standing_in(module, forward))
        yield


@contextmanager
def editing_vectors(model: PatchableModel, edit: EditVectors) -> Iterator[None]:
    """While open, ``edit(layer, q, k, v)`` stands in for the vectors with which heads attend."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        q, k, v = (x.transpose(1, 2) for x in edit(layer, q, k, v))
        return scoring.own(q, k, v, None)

    with attending(model, attend):
        yield


@torch.no_grad()
def attention_weights(model: PatchableModel, input_ids: Tensor) -> list[Tensor]:
    """Attention of every head, per layer [N, H, T, T]: what it would give were each token's value a unit vector."""
    n, tokens = input_ids.shape
    weights: list[Tensor] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        units = torch.eye(tokens).to(v).expand(n, v.shape[1], -1, -1)
        weights.append(scoring.own(q, k, units, None).transpose(1, 2))
        return scoring.own(q, k, v, None)

    with attending(model, attend):
        last_logits(model, input_ids)
    return weights


def last_logits(model: PatchableModel, input_ids: Tensor) -> Tensor:
    """Logits of the next token [N, V] for prompts [N, T]."""
    ids = input_ids.to(model.device)
    return model.network(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]


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
