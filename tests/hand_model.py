"""A model small enough to work out by hand.

Attention only, no norms, no MLP, no position code, attention scores q·k unscaled. The residual stream of a token with
value x starts as (x, 0). Layer 0 has two heads with equal attention to all tokens so far (q = k = 0); head h carries
v = (h + 1)·x and writes it to the second coordinate. With two layers, the single working head of layer 1 asks with
q = second coordinate, its keys and values are the tokens' x, and it writes to the second coordinate too. With an MLP,
each layer then doubles the second coordinate. The logits of the two words of the vocabulary are (second coordinate, 0),
so p(word 0) = sigmoid(second coordinate).
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional

from mechdiff.models.attention import by_product
from mechdiff.models.patchable import PatchableModel

HEADS, WIDTH = 2, 2


def linear(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


class Attention(nn.Module):
    def __init__(self, q, k, v, o):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = map(linear, (q, k, v, o))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)  # [N, T, H], heads of one dimension
        q, k, v = (x.transpose(1, 2)[..., None] for x in (q, k, v))  # [N, H, T, 1]
        z = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0)
        return self.o_proj(z[..., 0].transpose(1, 2))


class HandNetwork(nn.Module):
    """Token ids are the values x themselves."""

    def __init__(self, layers: list[Attention], mlp: bool):
        super().__init__()
        self.attentions = nn.ModuleList(layers)
        self.mlp_factor = torch.tensor([1.0, 2.0 if mlp else 1.0])

    def get_input_embeddings(self) -> SimpleNamespace:
        return SimpleNamespace(weight=self.mlp_factor)  # for its device

    def forward(self, input_ids: Tensor, use_cache: bool, logits_to_keep: int) -> SimpleNamespace:
        stream = torch.stack([input_ids.double(), torch.zeros_like(input_ids).double()], -1)
        for attention in self.attentions:
            stream = (stream + attention(stream)) * self.mlp_factor
        logits = torch.stack([stream[..., 1], torch.zeros_like(stream[..., 1])], -1)
        return SimpleNamespace(logits=logits[:, -logits_to_keep:])


NOTHING = [[0.0, 0.0], [0.0, 0.0]]
SECOND = [[0.0, 0.0], [1.0, 1.0]]  # both heads write to the second coordinate


def hand_model(layers: int, values_from: str = "x", mlp: bool = False) -> PatchableModel:
    """One or two layers as above; ``values_from="second"``: layer 1 carries the second coordinate instead of x."""
    attentions = [Attention(NOTHING, NOTHING, [[1.0, 0.0], [2.0, 0.0]], SECOND)]
    if layers == 2:
        value = [1.0, 0.0] if values_from == "x" else [0.0, 1.0]
        asks = [[0.0, 1.0], [0.0, 0.0]]
        attentions.append(Attention(asks, [[1.0, 0.0], [0.0, 0.0]], [value, [0.0, 0.0]], SECOND))
    network = HandNetwork(attentions, mlp).double()
    outputs = tuple(attention.o_proj for attention in attentions)
    return PatchableModel("hand", network, tuple(attentions), tuple(attentions), outputs, by_product, HEADS, HEADS, 1)
