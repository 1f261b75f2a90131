"""Models as they are patched: where heads are read and edited, in any decoder of Hugging Face.

A model is an unmodified Hugging Face causal language model, with or without a LoRA adapter. A head's output is its
slice of what enters the output projection of attention; its query, key and value are the vectors with which it attends,
as the attention function gets them. Nothing of a family is written down here but the names of three modules:

1. What a layer is told beside the stream (rotations, positions) is what the model's own forward pass tells it.
2. Attention is stood in for where the model calls it (:mod:`mechdiff.models.attention`); all else in a layer is its
   own.
3. What turns the last stream into logits is the model's own forward pass, its layers stood in for.

Axes: n prompts, S tokens, R edits of a prompt, H heads, K key/value heads, d dimensions of a head, D width, V words.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from mechdiff.circuits import Head, all_heads
from mechdiff.common.errors import InputError
from mechdiff.models.attention import Attend, Scoring, standing_in, way_of
from mechdiff.models.checkpoints import Shape

# Families that the engine is tested on, against whole forward passes; any other one takes those (engine/plain.py).
FAMILIES = frozenset(
    {
        *("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "olmo2", "stablelm"),
        *("gpt2", "gpt_neox", "gptj", "falcon"),
    }
)
ATTENTIONS = ("self_attn", "attn", "self_attention", "attention")  # what layers call it
OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense")  # what attention calls its output projection
PLACED = ("position_embeddings", "position_ids")  # what layers are told of tokens' places
MASK = "attention_mask"  # and of what they see; the engine knows


class _ExactNorms(TorchFunctionMode):
    """Layer norms of a float32 stream in float32, with weights in another type of numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is layer_norm:
            args, kwargs = tree_map(lambda x: x.float() if isinstance(x, Tensor) else x, (args, kwargs))
        return func(*args, **kwargs)


class _FoundError(Exception):
    """Carries something out of a forward pass whose rest is not wanted."""


@dataclass(frozen=True)
class Placed:
    """What each layer is told beside the stream, for tokens at some places: tensors [n or 1, S, ...] by name."""

    told: tuple[dict[str, Any], ...]

    def at(self, layer: int, tokens: slice = slice(None), rows: int = 1) -> dict[str, Any]:
        """For one layer and some of the tokens, row after row: [n or 1, rows * S, ...]."""

        def repeat(x: Any) -> Any:
            return x[:, None, tokens].expand(-1, rows, *[-1] * (x.ndim - 1)).flatten(1, 2)

        told = self.told[layer]
        if rows == 1 and tokens == slice(None):
            return told
        return told | {name: tree_map(repeat, told[name]) for name in PLACED if name in told}


@dataclass(frozen=True)
class PatchableModel:
    """An opened model and the places where its heads are read and edited.

    attentions, outputs: of each layer, its attention and the projection of heads' outputs. way: stands in for
    attention. values_per_layer: as many keys and values as attention gets. paired: layers return more than a stream.
    known: the engine is tested on its family.
    """

    name: str
    network: nn.Module
    layers: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    outputs: tuple[nn.Module, ...]
    way: Callable[[nn.Module, Attend], AbstractContextManager]
    heads_per_layer: int
    values_per_layer: int
    head_dim: int
    paired: bool = False
    known: bool = False

    @property
    def weight(self) -> Tensor:
        """The unembedding [V, D] without what an adapter adds to it; its type of numbers is the model's."""
        return self.network.get_output_embeddings().weight

    @property
    def device(self) -> torch.device:
        """Where prompts go in; a device map may bring layers elsewhere, and weights that wait on the disk to it."""
        embeddings = self.network.get_input_embeddings()
        waiting = getattr(embeddings, "_hf_hook", None) if embeddings.weight.is_meta else None
        return embeddings.weight.device if waiting is None else torch.device(waiting.execution_device)

    @cached_property
    def device_types(self) -> frozenset[str]:
        """Of all devices that a device map brings weights to, cpu or cuda; none of those that wait on the disk."""
        return frozenset(p.device.type for p in self.network.parameters()) - {"meta"}

    @property
    def width(self) -> int:
        """Dimensions of the residual stream."""
        return self.weight.shape[1]

    @property
    def shape(self) -> Shape:
        """What was opened, whatever its config says; vocabulary: ids that it has an embedding for."""
        vocabulary = self.network.get_input_embeddings().weight.shape[0]
        return Shape(len(self.layers), self.heads_per_layer, self.head_dim, self.width, vocabulary)

    @property
    def heads(self) -> list[Head]:
        """Every head, layer by layer."""
        return all_heads(len(self.layers), self.heads_per_layer)

    def slot(self, head: Head, via: str) -> int:
        """The head's place among its layer's queries, outputs, or (grouped heads share them) keys or values."""
        if via in ("q", "output"):
            return head.index
        return head.index * self.values_per_layer // self.heads_per_layer

    def attending(self, layer: int, attend: Attend) -> AbstractContextManager:
        """While open, ``attend`` stands in for the attention of a layer."""
        return self.way(self.attentions[layer], attend)

    def enter(self, input_ids: Tensor, places: Tensor) -> tuple[Tensor, Placed]:
        """The stream entering layer 0 [n, S, D], float32, for token ids [n, S] at places [n or 1, S], and what layers
        are told."""
        streams, told = [], []

        def note(*args, **kwargs):
            streams.append(args[0] if args else kwargs.pop("hidden_states"))
            told.append({name: None if name == MASK else x for name, x in kwargs.items()})
            if len(told) == len(self.layers):
                raise _FoundError
            return self._returned(streams[0])

        with ExitStack() as stack:
            stack.enter_context(self.attending(0, None))  # no mask is made for a function of ours
            for layer in self.layers:
                stack.enter_context(standing_in(layer, note))
            with suppress(_FoundError):
                self.network(input_ids=input_ids, position_ids=places, use_cache=False)
        return streams[0].float(), Placed(tuple(told))

    def placed(self, places: Tensor) -> Placed:
        """What layers are told of tokens at places [n or 1, S]."""
        return self.enter(torch.zeros_like(places), places)[1]

    def run_layer(self, layer: int, stream: Tensor, told: dict[str, Any], attend: Attend) -> Tensor:
        """The stream leaving a layer for the stream [n, S, D] entering it, ``attend`` in place of its attention."""
        with self.attending(layer, attend), self._own_products():
            returned = self.layers[layer](stream, **told)
        return returned[0] if self.paired else returned

    def run_layer_after_attention(self, layer: int, stream: Tensor, told: dict[str, Any], attention: Tensor) -> Tensor:
        """The stream leaving a layer whose attention is not run: ``attention`` [n, S, D] is what it gave."""
        with standing_in(self.attentions[layer], lambda *args, **kwargs: (attention, None)), self._own_products():
            returned = self.layers[layer](stream, **told)
        return returned[0] if self.paired else returned

    def output_of(self, layer: int, z: Tensor) -> Tensor:
        """What attention adds to the stream [n, S, D] for heads' outputs [n, S, H, d]."""
        with self._own_products():
            return self.outputs[layer](z.flatten(-2))

    def unembed(self, stream: Tensor) -> Tensor:
        """Logits [..., V], float32, of the stream [..., D] after the last layer."""
        tokens = stream.reshape(-1, 1, stream.shape[-1])  # each a prompt of its own
        ids = torch.zeros(len(tokens), 1, dtype=torch.long, device=self.device)
        with ExitStack() as stack:
            stack.enter_context(self.attending(0, None))
            for layer in self.layers:
                stack.enter_context(standing_in(layer, lambda *args, **kwargs: self._returned(tokens)))
            call = {"input_ids": ids, "position_ids": ids, "use_cache": False}
            logits = torch.func.functional_call(self.network, self._exact_head(), kwargs=call).logits
        return logits.view(*stream.shape[:-1], -1)

    def _exact_head(self) -> dict[str, Tensor]:
        """The parameters of the final norm and the unembedding, in float32."""
        if self.weight.dtype is torch.float32:
            return {}
        inside = {id(p) for layer in self.layers for p in layer.parameters()}
        inside |= {id(p) for p in self.network.get_input_embeddings().parameters()}
        inside -= {id(p) for p in self.network.get_output_embeddings().parameters()}  # where they are tied
        return {name: p.float() for name, p in self.network.named_parameters() if id(p) not in inside}

    def _returned(self, stream: Tensor) -> Tensor | tuple[Tensor, None]:
        return (stream, None) if self.paired else stream

    def _own_products(self) -> AbstractContextManager:
        """Matrix products in the weights' type of numbers, over a stream that stays float32.

        In bfloat16 a patch would otherwise be rounded away where it is added to a larger stream.
        """
        if self.weight.dtype is torch.float32:
            return nullcontext()
        stack = ExitStack()
        for device in self.device_types:
            stack.enter_context(torch.autocast(device, dtype=self.weight.dtype))
        stack.enter_context(_ExactNorms())
        return stack


def patchable(name: str, network: nn.Module) -> PatchableModel:
    """Describe a network in memory; InputError when its heads are not where this package reads them.

    One token goes through its first layer, outputs of its heads made up: they must be what enters the projection.
    """
    kind = type(network).__name__
    layers = _layers(network)
    attentions = tuple(_child(layer, ATTENTIONS, f"{kind}: layer {i}") for i, layer in enumerate(layers))
    outputs = tuple(_child(a, OUTPUTS, f"{kind}: attention of layer {i}") for i, a in enumerate(attentions))
    model = PatchableModel(name, network, layers, attentions, outputs, way_of(attentions[0]), 0, 0, 0)
    elsewhere = f"{kind}: its heads' outputs are not what enters the output projection; {_ALLOWED}"
    seen: dict[str, Any] = {}

    def attend(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        seen.update(q=q.shape, k=k.shape, v=v.shape)
        z = torch.arange(q.shape[1] * q.shape[3], device=q.device).to(q)
        seen["z"] = z.view(1, 1, q.shape[1], q.shape[3])
        return seen["z"]

    def first(*args, **kwargs):
        seen["told"] = {name for name, x in kwargs.items() if isinstance(x, Tensor)}
        seen["returned"] = whole(*args, **kwargs)
        raise _FoundError

    token = torch.zeros(1, 1, dtype=torch.long, device=model.device)
    hook = outputs[0].register_forward_pre_hook(lambda module, args: seen.update(entering=args[0]))
    try:
        with standing_in(layers[0], first) as whole, model.attending(0, attend), suppress(_FoundError), torch.no_grad():
            network(input_ids=token, use_cache=False)
    except Exception as error:  # whatever a family does with outputs that are not as it wants them
        raise InputError(elsewhere) from error
    finally:
        hook.remove()
    if "z" not in seen:
        raise InputError(f"{kind}: its attention calls no function that can be stood in for; {_ALLOWED}")
    heads, head_dim = seen["q"][1], seen["q"][3]
    same = seen["entering"].shape[-1] == heads * head_dim and seen["k"] == seen["v"]
    if not same or heads % seen["k"][1] or not _equal(seen["entering"], seen["z"].flatten(-2)):
        raise InputError(elsewhere)
    return replace(
        model,
        heads_per_layer=heads,
        values_per_layer=seen["k"][1],
        head_dim=head_dim,
        paired=isinstance(seen["returned"], tuple),
        known=network.config.model_type in FAMILIES and seen["told"] <= {"hidden_states", MASK, *PLACED},
    )


_ALLOWED = "allowed: decoders built like " + ", ".join(sorted(FAMILIES))


def _equal(x: Tensor, y: Tensor) -> bool:
    return x.device.type == "meta" or torch.equal(x, y)


def _layers(network: nn.Module) -> tuple[nn.Module, ...]:
    """The one list of as many modules as the config has layers."""
    number = getattr(network.config, "num_hidden_layers", None)
    for module in network.modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return tuple(module)
    raise InputError(f"{type(network).__name__}: has no list of its {number} layers; {_ALLOWED}")


def _child(module: nn.Module, names: tuple[str, ...], where: str) -> nn.Module:
    for name in names:
        if hasattr(module, name):
            return getattr(module, name)
    raise InputError(f"{where} has none of {', '.join(names)}; {_ALLOWED}")
