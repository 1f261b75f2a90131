"""Checkpoints and adapters, opened for patching.

A LoRA adapter is not merged: it stays in force on top of its base, wrapped around the very modules that are hooked, in
the base's type of numbers and on its device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

import torch
from accelerate.utils import align_module_device
from safetensors import safe_open
from torch import Tensor, nn

from mechdiff.common.errors import InputError
from mechdiff.models.checkpoints import (
    ADAPTER_CONFIG,
    CONFIG,
    Checkpoint,
    given_settings,
    known_family,
    plain_settings,
    read_json,
    require_checkpoint,
    weight_files,
)
from mechdiff.models.patchable import PatchableModel, patchable

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Where PEFT writes the weight of an embedding or unembedding that it has wrapped, or not.
TABLES = ("", ".base_layer", ".original_module", ".modules_to_save", ".token_adapter.base_layer")
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
    if checkpoint.adapter:
        _require_known_settings(checkpoint)
    network = _read(checkpoint.whole, None)
    if checkpoint.adapter:
        network = _read(checkpoint, network)
    network = _decoder(network, checkpoint.whole)
    network.eval().requires_grad_(False)
    try:
        return patchable(checkpoint.name, network)
    except InputError as error:
        raise InputError(f"{checkpoint.whole.path}: {error}") from error


class _ConfigError(Exception):
    """A config of which transformers makes no network."""


def _require_device(checkpoint: Checkpoint) -> None:
    """Refuse a device that this machine does not have."""
    given = checkpoint.device
    cuda = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    here = ["cpu", "auto", *(["cuda", *cuda] if cuda else [])] if isinstance(given, str) else ["cpu", "disk", *cuda]
    for device in [given] if isinstance(given, str) else given.values():
        if device not in here:
            raise InputError(f"models.{checkpoint.name}.device: {device!r}; allowed on this machine: {', '.join(here)}")


def _require_known_settings(checkpoint: Checkpoint) -> None:
    """Refuse an adapter's settings that this version of PEFT would drop."""
    import peft

    file = Path(checkpoint.path) / ADAPTER_CONFIG
    settings, known = given_settings(file), {each.name for each in fields(peft.LoraConfig)}
    for key in sorted(settings.keys() - known):
        allowed = f"null, a setting of peft {peft.__version__}, or a peft that knows it"
        raise InputError(f"{file}: {key} is {settings[key]!r}; allowed: {allowed}")


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
        if isinstance(error, _ConfigError):
            file = Path(checkpoint.path) / CONFIG
        reason = " ".join(str(error).split())
        raise InputError(f"{file}: model {checkpoint.name!r} cannot be opened ({reason})") from error
    if (bad := _not_finite(network)) is not None:
        raise InputError(f"{file}: {bad} has values that are not finite")
    return network


def _whole(checkpoint: Checkpoint) -> tuple[nn.Module, Strangers]:
    """The network that a config asks for, with the weights beside it; nothing else is read."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, GenerationConfig

    try:
        config, own_code = _config(checkpoint)
    except Exception as error:  # each family raises its own
        raise _ConfigError(f"{type(error).__name__}: {error}") from error
    known = own_code or type(config) in AutoModelForCausalLM._model_mapping
    on = None if checkpoint.device == "cpu" else checkpoint.device
    asked = {
        "config": config,
        "dtype": getattr(torch, checkpoint.dtype),
        "device_map": dict(on) if isinstance(on, Mapping) else on,
        "local_files_only": True,
        "use_safetensors": ".safetensors" in weight_files(checkpoint)[0].name,
        "trust_remote_code": own_code,
        "generation_config": GenerationConfig(),
        "output_loading_info": True,
    }
    kind = AutoModelForCausalLM if known else AutoModelForImageTextToText
    try:
        network, loaded = kind.from_pretrained(checkpoint.path, **asked)
    except Exception as error:
        if "ignore_mismatched_sizes" not in str(error):
            if not own_code:
                _require_network(kind, config)
            raise
        # Its message names none. Without data all of them can be told, however large a config asks for.
        asked |= {"ignore_mismatched_sizes": True, "device_map": "meta"}
        network, loaded = kind.from_pretrained(checkpoint.path, **asked)
    sizes = {key: (found, wanted) for key, found, wanted in loaded["mismatched_keys"]}
    strangers = {kind: sorted(loaded[kind.replace(" ", "_")]) for kind in ("missing keys", "unexpected keys")}
    return network, strangers | {"other shape": _shapes(sizes)}


def _require_network(kind: type, config: PreTrainedConfig) -> None:
    """Refuse a config of which no network can be made, without its data."""
    try:
        with torch.device("meta"):
            kind.from_config(config)  # type: ignore[attr-defined]
    except Exception as error:  # each family raises its own
        raise _ConfigError(f"{type(error).__name__}: {error}") from error


def _config(checkpoint: Checkpoint) -> tuple[PreTrainedConfig, bool]:
    """The config of a whole checkpoint without its writer's preferences; and whether its code is its own."""
    from transformers import CONFIG_MAPPING, AutoConfig

    settings = read_json(Path(checkpoint.path) / CONFIG)
    own_code = not known_family(settings)
    if own_code:
        kind = type(AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=checkpoint.trust_remote_code))
    else:
        kind = CONFIG_MAPPING[settings["model_type"]]
        settings.pop("auto_map", None)
    return kind.from_dict(plain_settings(settings)), own_code


def _decoder(network: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """A network's decoder with its head: itself, or what stands inside a wrapper of images and text."""
    from transformers import AutoModelForCausalLM

    settings = network.config.get_text_config(decoder=True)
    if settings is network.config:
        return network
    inside = network.get_decoder()
    allowed = "a decoder that transformers can open alone, saved as a checkpoint of its own"
    if type(settings) in AutoModelForCausalLM._model_mapping:
        with torch.device("meta"):
            alone = AutoModelForCausalLM.from_config(settings)
        if type(alone.base_model) is type(inside):
            setattr(alone, alone.base_model_prefix, inside)
            alone.set_output_embeddings(network.get_output_embeddings())
            return alone
    kinds = f"{settings.model_type!r} inside {network.config.model_type!r}"
    raise InputError(f"{Path(checkpoint.path) / CONFIG}: model_type is {kinds}; allowed: {allowed}")


def _resize(network: nn.Module, found: Mapping[str, Tensor], saved: Collection[str]) -> None:
    """Give the base as many words as the tables in an adapter's file have; saved: modules that it has a copy of."""
    embedding, unembedding = network.get_input_embeddings(), network.get_output_embeddings()
    tied, words = embedding.weight is unembedding.weight, len(embedding.weight)
    for layer, other in ((embedding, unembedding), (unembedding, embedding)):
        name = next(name for name, module in network.named_modules() if module is layer)
        tables = [found[key] for part in TABLES if (key := f"base_model.model.{name}{part}.weight") in found]
        if tables and len(tables[0]) != len(layer.weight):
            _give_rows(layer, len(tables[0]))
            if tied and name.split(".")[-1] not in saved:
                _give_rows(other, len(tables[0]), layer.weight)
    if len(embedding.weight) not in (words, len(unembedding.weight)):
        allowed = "the whole model, saved where it was trained by merge_and_unload().save_pretrained(FOLDER)"
        rows = f"embeddings of {len(embedding.weight)} words and an unembedding of {len(unembedding.weight)}"
        raise InputError(f"holds {rows}; allowed: {allowed}")
    network.config.get_text_config(decoder=True).vocab_size = len(unembedding.weight)


def _give_rows(layer: nn.Module, rows: int, weight: nn.Parameter | None = None) -> None:
    """Make a table [rows, D] of an embedding or unembedding: the one given, or its own, with rows still to be read."""
    for name, own in list(layer.named_parameters(recurse=False)):
        table = own.new_full((rows, *own.shape[1:]), torch.nan)
        table[: len(own)] = own[:rows]
        setattr(layer, name, weight if name == "weight" and weight is not None else nn.Parameter(table))
    for size in {"num_embeddings", "out_features"} & vars(layer).keys():
        setattr(layer, size, rows)


def _with_adapter(network: nn.Module, checkpoint: Checkpoint) -> tuple[nn.Module, Strangers]:
    """The network with an adapter in force, loaded as PEFT does, but for what it would drop."""
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
        found = load_peft_weights(str(checkpoint.path), device="cpu")
        if (rank := max(settings.r, *settings.rank_pattern.values(), 0)) > sum(each.numel() for each in found.values()):
            raise InputError(f"its rank is {rank}, more than there are numbers")
        _resize(network, found, set(settings.modules_to_save or ()))
        wrapped = get_peft_model(network, settings, autocast_adapter_dtype=False)  # True: float32 on a bfloat16 base
        wanted = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
        if waiting := [key for key, value in wanted.items() if value.is_meta]:
            raise InputError(f"{waiting[0]} would have to wait outside the device that its base computes on")
        sizes = {key: (found[key].shape, now[key].shape) for now in [_held(wrapped)] for key in found.keys() & now}
        strangers = {
            "missing keys": sorted(wanted.keys() - found),
            "unexpected keys": sorted(found.keys() - sizes),
            "other shape": _shapes(sizes),
        }
        if not any(strangers.values()):
            set_peft_model_state_dict(wrapped, found)
            now = _held(wrapped)
            strangers["without effect"] = [key for key in sorted(found) if not now[key].equal(found[key].to(now[key]))]
    return wrapped.base_model.model, strangers


def _held(wrapped: nn.Module) -> dict[str, Tensor]:
    """Every weight of a network with an adapter, its base's too, by the names that files give them."""
    from peft import get_peft_model_state_dict

    named = {key.replace(".default", ""): value for key, value in wrapped.state_dict().items()}
    return named | get_peft_model_state_dict(wrapped, save_embedding_layers=False)


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
