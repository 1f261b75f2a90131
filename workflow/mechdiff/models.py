"""Models as they are patched: where heads are read and edited.

A model is an unmodified Hugging Face causal language model, with or without a LoRA adapter. Heads are read where the paper reads them: a head's output is its slice of
what enters ``o_proj``; its query and value vectors are its slices of what leaves ``q_proj`` and ``v_proj``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from mechdiff.errors import InputError
from mechdiff.heads import Head, all_heads

# (queries [n, H, tokens, d], keys, values [n, K, tokens, d], scaling) -> heads' outputs [n, tokens, H, d]
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]
ATTENTION = "mechdiff"  # our name among the attention functions of transformers


def _attention(module, query, key, value, attention_mask, *, attend: Attend, scaling: float, **kwargs):
    return attend(query, key, value, scaling), None


AttentionInterface.register(ATTENTION, _attention)


@dataclass(frozen=True)
class PatchableModel:
    """An opened model and the places where its heads are read and edited."""

    name: str
    network: nn.Module
    layers: tuple[nn.Module, ...]
    heads_per_layer: int
    values_per_layer: int
    head_dim: int

    @property
    def weight(self) -> Tensor:
        """The unembedding [V, D]: its device, its type of numbers and the width are the model's."""
        return self.network.lm_head.weight

    @property
    def width(self) -> int:
        """Dimensions of the residual stream."""
        return self.weight.shape[1]

    @property
    def heads(self) -> list[Head]:
        """Every head, layer by layer."""
        return all_heads(len(self.layers), self.heads_per_layer)

    def output(self, layer: int) -> nn.Module:
        """``o_proj``: what enters it are the heads' outputs, concatenated."""
        return self.layers[layer].self_attn.o_proj

    def projection(self, layer: int, via: str) -> nn.Module:
        """``q_proj``, ``k_proj`` or ``v_proj`` for ``via`` = q, k or v."""
        return getattr(self.layers[layer].self_attn, f"{via}_proj")

    def slot(self, head: Head, via: str) -> int:
        """The head's place among its layer's queries, outputs, or (grouped heads share them) keys or values."""
        if via in ("q", "output"):
            return head.index
        return head.index * self.values_per_layer // self.heads_per_layer

    def embed(self, input_ids: Tensor) -> Tensor:
        """The residual stream entering layer 0 [n, T, D], float32, for prompts [n, T]."""
        return self.network.model.embed_tokens(input_ids).float()

    def rotations(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary position code [n, S, d] for token places [n, S]."""
        return self.network.model.rotary_emb(self.weight, tokens)

    def run_layer(self, layer: int, stream: Tensor, rotations: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """The stream leaving a layer for the stream [n, S, D] entering it, ``attend`` in place of its attention."""
        config = self.network.config
        own = config._attn_implementation
        config._attn_implementation = ATTENTION
        try:
            with self._own_products():
                return self.layers[layer](stream, position_embeddings=rotations, attend=attend)
        finally:
            config._attn_implementation = own

    def run_layer_after_attention(self, layer: int, stream: Tensor, attention: Tensor) -> Tensor:
        """The stream leaving a layer whose attention is not run: ``attention`` [n, S, D] is what it gave."""
        block = self.layers[layer]
        block.self_attn.forward = lambda *args, **kwargs: (attention, None)
        try:
            with self._own_products():
                return block(stream)
        finally:
            del block.self_attn.forward

    def output_of(self, layer: int, z: Tensor) -> Tensor:
        """What attention adds to the stream [n, S, D] for heads' outputs [n, S, H, d]."""
        with self._own_products():
            return self.output(layer)(z.flatten(-2))

    def unembed(self, stream: Tensor) -> Tensor:
        """Logits [..., V], float32, of the stream [..., D] after the last layer."""
        head = self.network.lm_head
        exact = {name: parameter.float() for name, parameter in head.named_parameters()}
        return torch.func.functional_call(head, exact, (self.network.model.norm(stream),))

    def _own_products(self) -> AbstractContextManager:
        """Matrix products in the weights' type of numbers, over a stream that stays float32.

        In bfloat16 a patch would otherwise be rounded away where it is added to a larger stream.
        """
        if self.weight.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.weight.device.type, dtype=self.weight.dtype)


def patchable(name: str, network: nn.Module) -> PatchableModel:
    """Describe a network in memory; InputError when its heads are not where this package reads them."""
    config = network.config
    try:
        heads = config.num_attention_heads
        model = PatchableModel(
            name=name,
            network=network,
            layers=tuple(network.model.layers),
            heads_per_layer=heads,
            values_per_layer=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        )
        widths = {"q": model.heads_per_layer, "k": model.values_per_layer, "v": model.values_per_layer}
        read = all(
            model.output(i).in_features == heads * model.head_dim
            and all(model.projection(i, via).out_features == n * model.head_dim for via, n in widths.items())
            for i in range(len(model.layers))
        )
    except AttributeError as error:
        raise InputError(f"{type(network).__name__} is not built like a Llama: {error}") from error
    if not read:
        raise InputError(f"{type(network).__name__}: its projections are not {heads} heads of {model.head_dim} wide")
    return model
