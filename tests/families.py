"""Tiny random models of every family that the engine knows, each made from its own config class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
)

VOCABULARY, LAYERS, HEADS, WIDTH = 50, 3, 4, 32


def _config(kind: Callable[..., PreTrainedConfig], **own) -> Callable[[], PreTrainedConfig]:
    shape = {"vocab_size": VOCABULARY, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "hidden_size": WIDTH}
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    length = {"max_position_embeddings": 128}
    return lambda **more: kind(**(shape | special | length | own | more))


GROUPED = {"num_key_value_heads": 2, "intermediate_size": 48}
LONG = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG |= {"original_max_position_embeddings": 32, "rope_theta": 500000.0}
NAMES = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "n_positions": 128}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]

FAMILIES: dict[str, Callable[..., PreTrainedConfig]] = {
    "llama": _config(LlamaConfig, intermediate_size=48),
    "llama-3": _config(LlamaConfig, **GROUPED, rope_parameters=LONG, tie_word_embeddings=True),
    "llama-biased": _config(LlamaConfig, **GROUPED, attention_bias=True, head_dim=12),
    "mistral": _config(MistralConfig, **GROUPED, sliding_window=6),
    "qwen2": _config(Qwen2Config, **GROUPED, use_sliding_window=True, sliding_window=5, layer_types=SLIDING),
    "qwen3": _config(Qwen3Config, **GROUPED, head_dim=16),
    "gemma2": _config(
        Gemma2Config, **GROUPED, head_dim=16, sliding_window=5, attn_logit_softcapping=0.5, final_logit_softcapping=3.0
    ),
    "gemma3": _config(Gemma3TextConfig, **GROUPED, head_dim=16, sliding_window=5, layer_types=SLIDING),
    "phi3": _config(Phi3Config, **GROUPED, sliding_window=7),
    "olmo2": _config(Olmo2Config, **GROUPED),
    "stablelm": _config(StableLmConfig, **GROUPED, use_qkv_bias=True, qk_layernorm=True),
    "stablelm-parallel": _config(StableLmConfig, **GROUPED, use_parallel_residual=True),
    "gpt2": _config(GPT2Config, **NAMES),
    "gpt2-scaled": _config(GPT2Config, **NAMES, scale_attn_by_inverse_layer_idx=True),
    "gpt_neox": _config(GPTNeoXConfig, intermediate_size=48),
    "gpt_neox-serial": _config(GPTNeoXConfig, intermediate_size=48, use_parallel_residual=False),
    "gptj": _config(GPTJConfig, **NAMES, rotary_dim=4),
    "falcon": _config(FalconConfig, multi_query=True, parallel_attn=True),
    "falcon-grouped": _config(FalconConfig, new_decoder_architecture=True, num_kv_heads=2),
    "falcon-serial": _config(FalconConfig, multi_query=False, parallel_attn=False, bias=True),
}


def tiny(family: str, seed: int = 0, spread: float = 0.15, **more) -> PreTrainedModel:
    """A model with every parameter drawn anew, norms and biases too: what starts as 0 or 1 would hide mistakes."""
    network = AutoModelForCausalLM.from_config(FAMILIES[family](**more))
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = spread * torch.randn(parameter.shape, generator=draw)
            norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(noise + 1 if norm and not family.startswith("gemma") else noise)
    return network.eval().requires_grad_(False)
