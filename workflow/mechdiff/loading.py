"""Checkpoints and adapters, opened for patching.

A LoRA adapter is not merged: it stays in force on top of its base, wrapped around the very modules that are hooked, in
the base's type of numbers and on its device.
"""

from __future__ import annotations

from collections.abc import Mapping
from warnings import catch_warnings, simplefilter

import torch
from accelerate.utils import align_module_device
from safetensors import safe_open
from torch import nn

from mechdiff.checkpoints import Checkpoint, require_checkpoint, weight_files
from mechdiff.errors import InputError
from mechdiff.models import PatchableModel, patchable

Strangers = Mapping[str, list[str]]  # what is wrong with keys of a weight file -> the keys


def open_model(checkpoint: Checkpoint) -> PatchableModel:
    """Open a checkpoint, or an adapter on its base, ready to be patched.

    Raises InputError, naming file or key, when a file is missing or cannot be read, when a folder does not hold
    exactly the weights that its config asks for, when a weight is not finite, and for a device that is not there.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # it would be drawn into logs as well
    require_checkpoint(checkpoint.whole)
    require_checkpoint(checkpoint)
    _require_device(checkpoint.whole)
    network = _read(checkpoint.whole, None)
    if checkpoint.adapter:
        network = _read(checkpoint, network)
    network.eval().requires_grad_(False)
    try:
        return patchable(checkpoint.name, network)
    except InputError as error:
        raise InputError(f"{checkpoint.whole.path}: {error}") from error


def _require_device(checkpoint: Checkpoint) -> None:
    """Refuse a device that this machine does not have."""
    given = checkpoint.device
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here = ["cpu", "auto", *(["cuda", *cuda] if cuda else [])] if isinstance(given, str) else ["cpu", "disk", *cuda]
    for device in [given] if isinstance(given, str) else given.values():
        if device not in here:
            raise InputError(f"models.{checkpoint.name}.device: {device!r}; allowed on this machine: {', '.join(here)}")


def _read(checkpoint: Checkpoint, base: nn.Module | None) -> nn.Module:
    """The network in a folder; InputError that names the first weight which is not as it should be."""
    files = weight_files(checkpoint)
    file = files[0]
    try:
        for file in files:
            if file.suffix == ".safetensors":
                with safe_open(file, "pt"):
                    pass  # its header says how long it must be
        file = files[0]
        network, strangers = _whole(checkpoint) if base is None else _with_adapter(base, checkpoint)
        for kind, keys in strangers.items():
            if keys:
                raise InputError(f"{kind}: {keys[0]}{' and others' if len(keys) > 1 else ''}")
    except Exception as error:  # safetensors, json, torch, transformers and peft each raise their own
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{file}: model {checkpoint.name!r} cannot be opened ({reason})") from error
    if (bad := _not_finite(network)) is not None:
        raise InputError(f"{file}: {bad} has values that are not finite")
    return network


def _whole(checkpoint: Checkpoint) -> tuple[nn.Module, Strangers]:
    from transformers import AutoModelForCausalLM

    on = None if checkpoint.device == "cpu" else checkpoint.device
    network, loaded = AutoModelForCausalLM.from_pretrained(
        checkpoint.path,
        dtype=getattr(torch, checkpoint.dtype),
        device_map=dict(on) if isinstance(on, Mapping) else on,
        local_files_only=True,
        use_safetensors=".safetensors" in weight_files(checkpoint)[0].name,
        trust_remote_code=checkpoint.trust_remote_code,
        ignore_mismatched_sizes=True,  # else its message names none
        output_loading_info=True,
    )
    sizes = {key: (found, wanted) for key, found, wanted in loaded["mismatched_keys"]}
    strangers = {kind: sorted(loaded[kind.replace(" ", "_")]) for kind in ("missing keys", "unexpected keys")}
    return network, strangers | {"other shape": _shapes(sizes)}


def _with_adapter(network: nn.Module, checkpoint: Checkpoint) -> tuple[nn.Module, Strangers]:
    """The network with an adapter in force."""
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
        settings = PeftConfig.from_pretrained(checkpoint.path)
        wrapped = get_peft_model(network, settings, autocast_adapter_dtype=False)  # True: float32 on a bfloat16 base
        found = load_peft_weights(str(checkpoint.path), device="cpu")
        wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        if waiting := [key for key, value in wanted.items() if value.is_meta]:
            raise InputError(f"{waiting[0]} would have to wait outside the device that its base computes on")
        sizes = {key: (found[key].shape, wanted[key].shape) for key in sorted(found.keys() & wanted)}
        strangers = {
            "missing keys": sorted(wanted.keys() - found),
            "unexpected keys": sorted(found.keys() - wanted),
            "other shape": _shapes(sizes),
        }
        if not any(strangers.values()):
            set_peft_model_state_dict(wrapped, found)
    return wrapped.base_model.model, strangers


def _shapes(sizes: Mapping[str, tuple[torch.Size, torch.Size]]) -> list[str]:
    """Weights whose shape is not the one that is asked for, said with both."""
    return [f"{key} is {list(a)}, its config asks for {list(b)}" for key, (a, b) in sorted(sizes.items()) if a != b]


def _not_finite(network: nn.Module) -> str | None:
    """The name of a parameter with a value that is not finite."""
    for path, module in network.named_modules():
        with align_module_device(module):  # weights that wait on the disk
            for name, parameter in module.named_parameters(recurse=False):
                if not torch.isfinite(parameter).all():
                    return f"{path}.{name}"
    return None
