"""Checkpoints and adapters, opened for patching.

A LoRA adapter is not merged: it stays in force on top of its base, wrapped around the very modules that are hooked.
"""

from __future__ import annotations

from pathlib import Path
from warnings import catch_warnings, simplefilter

import torch
from torch import nn

from mechdiff.checkpoints import ADAPTER, WEIGHTS
from mechdiff.errors import InputError
from mechdiff.models import PatchableModel, patchable


def open_model(name: str, path: str | Path, base: str | Path | None = None) -> PatchableModel:
    """Open a checkpoint folder, or with ``base`` an adapter folder on that base, in float32, ready to be patched.

    Raises InputError, naming the file, when it is missing, cannot be read, does not hold exactly the weights that the
    config asks for, or holds numbers that are not finite.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would be drawn into logs as well
    whole = Path(base or path)
    weights = Path(path) / (ADAPTER if base else WEIGHTS)
    for file in (weights, whole / "config.json", whole / WEIGHTS):
        if not file.exists():
            raise InputError(f"{file}: missing, needed by model {name!r}")
    try:
        network, loaded = AutoModelForCausalLM.from_pretrained(
            whole, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        strangers = {kind: sorted(keys) for kind, keys in loaded.items() if keys and kind.endswith("_keys")}
        if base and not strangers:
            network, strangers = _with_adapter(network, path)
        if strangers:
            kind, keys = next(iter(strangers.items()))
            raise InputError(f"{kind.replace('_', ' ')}: {keys[0]}{' and others' if len(keys) > 1 else ''}")
        model = patchable(name, network)
    except Exception as error:  # safetensors, json, torch, transformers and peft each raise their own
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{weights}: model {name!r} cannot be opened ({reason})") from error
    for parameter_name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"{weights}: {parameter_name} has values that are not finite")
    network.eval().requires_grad_(False)
    return model


def _with_adapter(network: nn.Module, path: str | Path) -> tuple[nn.Module, dict[str, list[str]]]:
    """The network with an adapter in force, and the adapter's keys that found no place or were not there."""
    from peft import (
        PeftConfig,
        get_peft_model,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    with catch_warnings():
        simplefilter("ignore", FutureWarning)  # peft asks transformers for an attribute by its old name
        simplefilter("ignore", UserWarning)  # and remarks that the base's folder is written in another way
        wrapped = get_peft_model(network, PeftConfig.from_pretrained(path))
        weights = load_peft_weights(str(path), device="cpu")
        wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        set_peft_model_state_dict(wrapped, weights)
    found = {"missing_keys": sorted(wanted.keys() - weights), "unexpected_keys": sorted(weights.keys() - wanted)}
    return wrapped.base_model.model, {kind: keys for kind, keys in found.items() if keys}
