"""Checkpoint folders, read without opening the model: which files count, shape, tokenizer, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mechdiff.errors import InputError

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"
ADAPTER, PICKLED_ADAPTER = "adapter_model.safetensors", "adapter_model.bin"
TOKENIZER = "tokenizer.json"
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # of one number of each type
# How families call their number of layers, heads, dimensions and words.
SHAPE_KEYS = (
    ("num_hidden_layers", "n_layer"),
    ("num_attention_heads", "n_head"),
    ("hidden_size", "n_embd"),
    ("vocab_size",),
)


@dataclass(frozen=True)
class Checkpoint:
    """A model as jobs open it: one entry of the config's ``models``, with nothing left to be looked up.

    path: folder of a whole checkpoint, or of an adapter, which is opened on its base; hub: the id it is fetched from.
    """

    name: str
    path: str | Path
    base: Checkpoint | None = None
    adapter: bool = False
    hub: str | None = None
    dtype: str = "float32"
    device: str | Mapping[str, str] = "cpu"
    tokenizer: str | None = None
    allow_pickle: bool = False
    trust_remote_code: bool = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Checkpoint:
        """A checkpoint from the builtins that a rule gives its script."""
        base = params["base"]
        return cls(**{**params, "base": None if base is None else cls.from_params(base)})

    @property
    def whole(self) -> Checkpoint:
        """The whole checkpoint that the network comes from: an adapter's base, else itself."""
        return self.base if self.adapter and self.base else self


@dataclass(frozen=True)
class Shape:
    """What two models must share for their heads to be compared."""

    layers: int
    heads: int
    width: int
    vocabulary: int

    def __str__(self) -> str:
        return f"{self.layers} layers x {self.heads} heads, width {self.width}, vocabulary {self.vocabulary}"


def read_shape(path: str | Path) -> Shape:
    """Shape of a whole checkpoint, from its config alone."""
    file = Path(path) / CONFIG
    config, found = _read_json(file), []
    for names in SHAPE_KEYS:
        value = next((config[name] for name in names if name in config), None)
        if not isinstance(value, int):
            raise InputError(f"{file}: {names[0]} is {value!r}; allowed: a whole number")
        found.append(value)
    return Shape(*found)


def is_adapter(path: str | Path) -> bool:
    """Whether the folder holds a PEFT adapter rather than a whole model."""
    return (Path(path) / ADAPTER_CONFIG).exists()


def adapter_base(path: str | Path) -> str:
    """The base that an adapter names: a folder, or an id of the hub."""
    return str(_read_json(Path(path) / ADAPTER_CONFIG).get("base_model_name_or_path"))


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder, without the padding or truncation that may be stored with it."""
    file = Path(path) / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{file}: not a readable tokenizer ({error})") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """Where a model's tokenizer is: in the folder that the config gives, in its own, or in its base's."""
    own = Path(checkpoint.tokenizer or checkpoint.path)
    if checkpoint.tokenizer or not checkpoint.base or (own / TOKENIZER).exists():
        return own
    return tokenizer_folder(checkpoint.base)


def checkpoint_files(checkpoint: Checkpoint) -> list[str]:
    """The files that determine a model: its own, an adapter's base's, the tokenizer's; folders for what is fetched.

    Which tokenizer counts is not known before a model is fetched: its base's is then listed too.
    """
    files = [str(checkpoint.path)] if checkpoint.hub else [str(file) for file in own_files(checkpoint)]
    if checkpoint.adapter:
        files += checkpoint_files(checkpoint.whole)
    return list(dict.fromkeys([*files, *tokenizer_files(checkpoint)]))


def tokenizer_files(checkpoint: Checkpoint) -> list[str]:
    """The file of a model's tokenizer, or the fetched folders that it may be in."""
    if checkpoint.tokenizer:
        return [f"{checkpoint.tokenizer}/{TOKENIZER}"]
    of_base = tokenizer_files(checkpoint.base) if checkpoint.base else []
    if checkpoint.hub:
        return [str(checkpoint.path), *of_base]
    own, to_be_made = Path(checkpoint.path) / TOKENIZER, not Path(checkpoint.path).is_dir()
    return [str(own)] if own.exists() or not of_base or (to_be_made and not checkpoint.adapter) else of_base


def own_files(checkpoint: Checkpoint) -> list[Path]:
    """What a folder must have beside a tokenizer: its config, its weights, and the code that it is allowed to bring."""
    folder = Path(checkpoint.path)
    code = sorted(folder.glob("*.py")) if checkpoint.trust_remote_code else []
    return [folder / (ADAPTER_CONFIG if checkpoint.adapter else CONFIG), *weight_files(checkpoint), *code]


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """The file of the weights, or the index of its shards and all that it names, whether they are there or not.

    safetensors where there are some; pickles where they are allowed.
    """
    folder, (safe, pickled) = Path(checkpoint.path), _weight_names(checkpoint)
    for name in (safe, pickled) if checkpoint.allow_pickle else (safe,):
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return [folder / name]
        if index.exists():
            shards = _read_json(index).get("weight_map")
            if not isinstance(shards, dict):
                raise InputError(f"{index}: has no weight_map; allowed: an index of shards")
            return [index, *(folder / shard for shard in sorted(set(shards.values())))]
    return [folder / safe]


def opened_bytes(checkpoint: Checkpoint) -> int | None:
    """Bytes that a model's weights take once opened, an adapter's with its base's; None while a file is missing."""
    files, of_base = weight_files(checkpoint), opened_bytes(checkpoint.whole) if checkpoint.adapter else 0
    if of_base is None or not all(file.is_file() for file in files):
        return None
    size = sum(file.stat().st_size for file in files)
    settings = _read_json(Path(checkpoint.path) / CONFIG) if not checkpoint.adapter else {}
    stored = settings.get("dtype", settings.get("torch_dtype"))
    return of_base + size * ITEM_BYTES[checkpoint.dtype] // ITEM_BYTES.get(str(stored), ITEM_BYTES[checkpoint.dtype])


def require_files(checkpoint: Checkpoint) -> None:
    """Refuse a folder that lacks a file or holds what the config does not allow."""
    key, folder = f"models.{checkpoint.name}", Path(checkpoint.path)
    if not folder.is_dir():
        raise InputError(f"{key}.path: no folder {str(folder)!r}; allowed: a folder with {_names(checkpoint)}")
    if is_adapter(folder) != checkpoint.adapter:
        raise InputError(f"{key}.adapter: {str(checkpoint.adapter).lower()}, but {folder} says otherwise")
    safe, pickled = _weight_names(checkpoint)
    for file in own_files(checkpoint):
        if file.is_file():
            continue
        if file.name == safe and any((folder / f"{pickled}{end}").exists() for end in ("", ".index.json")):
            allowed = f"{safe}, or true if you trust who made it: a pickle can run code"
            raise InputError(
                f"{key}.allow_pickle: false, but {folder} has its weights in {pickled}; allowed: {allowed}"
            )
        raise InputError(f"{key}.path: {folder} has no {file.name}; allowed: a folder that has")
    if checkpoint.adapter:
        kind = _read_json(folder / ADAPTER_CONFIG).get("peft_type")
        if kind != "LORA":
            raise InputError(f"{folder / ADAPTER_CONFIG}: peft_type is {kind!r}; allowed: LORA")
    elif "auto_map" in _read_json(folder / CONFIG) and not checkpoint.trust_remote_code:
        allowed = "a model without, or true once you have read it"
        raise InputError(f"{key}.trust_remote_code: false, but {folder} brings its own code; allowed: {allowed}")


def require_base(checkpoint: Checkpoint) -> None:
    """Refuse a fine-tuned checkpoint whose heads are not its base's, and an adapter that was made on another base."""
    base, key = checkpoint.base, f"models.{checkpoint.name}"
    if base is None:
        return
    if checkpoint.adapter:
        named = adapter_base(checkpoint.path)
        if Path(named).is_dir():
            if not (Path(base.path).is_dir() and Path(named).samefile(base.path)):
                raise InputError(
                    f"{key}.base: {checkpoint.path} is an adapter on {named}; allowed: that folder's model"
                )
        elif base.hub and re.fullmatch(r"[\w.-]+/[\w.-]+", named) and named != base.hub:
            allowed = "that base, or the folder (path) of a copy of it"
            raise InputError(
                f"{key}.base: {checkpoint.path} is an adapter on {named}, not {base.hub}; allowed: {allowed}"
            )
    elif (Path(base.path) / CONFIG).exists():
        shape, wanted = read_shape(checkpoint.path), read_shape(base.path)
        if shape != wanted:
            raise InputError(f"{key}.path: {checkpoint.path} has shape {shape}; allowed: that of its base, {wanted}")


def require_tokenizer(checkpoint: Checkpoint) -> None:
    """Refuse a tokenizer folder without one, and a base that has none of its own."""
    folder, key = tokenizer_folder(checkpoint), "tokenizer" if checkpoint.tokenizer else "path"
    if (checkpoint.tokenizer or not checkpoint.base) and not (folder / TOKENIZER).is_file():
        raise InputError(f"models.{checkpoint.name}.{key}: {folder} has no {TOKENIZER}; allowed: a folder that has")


def require_checkpoint(checkpoint: Checkpoint) -> None:
    """Refuse what cannot be opened or compared, as far as that is known without opening it."""
    require_files(checkpoint)
    require_base(checkpoint)
    require_tokenizer(checkpoint)


def _weight_names(checkpoint: Checkpoint) -> tuple[str, str]:
    return (ADAPTER, PICKLED_ADAPTER) if checkpoint.adapter else (WEIGHTS, PICKLED)


def _names(checkpoint: Checkpoint) -> str:
    tokenizer = [TOKENIZER] if not checkpoint.base else []
    return ", ".join([*(file.name for file in own_files(checkpoint)), *tokenizer])


def _read_json(file: Path) -> dict:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: holds no JSON object")
    return value
