"""Checkpoints and adapters, opened for patching.

A model is an unmodified Hugging Face causal language model; a LoRA adapter stays in force on top of its base, wrapped
around the very modules that are hooked. Heads are read where the paper reads them: a head's output is its slice of
what enters ``o_proj``; its query and value vectors are its slices of what leaves ``q_proj`` and ``v_proj``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from warnings import catch_warnings, simplefilter

import torch
from torch import nn

from mechdiff.checkpoints import ADAPTER, WEIGHTS, adapter_base, is_adapter
from mechdiff.errors import InputError
from mechdiff.heads import Head, all_heads


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
        """The head's place among the vectors that ``via`` projects to; grouped heads share a key and a value."""
        if via == "q":
            return head.index
        return head.index * self.values_per_layer // self.heads_per_layer


def open_model(name: str, path: str | Path) -> PatchableModel:
    """Open a checkpoint or adapter folder in float32, ready to be patched.

    Raises InputError, naming the file, when it is missing, cannot be read, or holds numbers that are not finite.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would be drawn into logs as well

    folder = Path(path)
    adapter = is_adapter(folder)
    weights = folder / (ADAPTER if adapter else WEIGHTS)
    base = adapter_base(folder) if adapter else folder
    for file in (weights, base / "config.json", base / WEIGHTS):
        if not file.exists():
            raise InputError(f"{file}: missing, needed by model {name!r}")
    try:
        network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        if adapter:
            from peft import PeftModel

            with catch_warnings():  # peft asks transformers for an attribute by its old name
                simplefilter("ignore", FutureWarning)
                network = PeftModel.from_pretrained(network, folder).base_model.model
    except Exception as error:  # safetensors, json and torch each raise their own
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{weights}: model {name!r} cannot be opened ({reason})") from error
    for parameter_name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"{weights}: {parameter_name} has values that are not finite")
    network.eval().requires_grad_(False)
    return patchable(name, network)


def patchable(name: str, network: nn.Module) -> PatchableModel:
    """Describe a network that is already in memory."""
    config = network.config
    heads = config.num_attention_heads
    return PatchableModel(
        name=name,
        network=network,
        layers=tuple(network.model.layers),
        heads_per_layer=heads,
        values_per_layer=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
    )
