"""Checkpoint folders, read without opening the model: shape, files, tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from mechdiff.errors import InputError

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_model.safetensors"
TOKENIZER = "tokenizer.json"


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
    file = Path(path) / "config.json"
    config = _read_json(file)
    keys = ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size")
    for key in keys:
        if not isinstance(config.get(key), int):
            raise InputError(f"{file}: {key} is {config.get(key)!r}; allowed: a whole number")
    return Shape(*(config[key] for key in keys))


def require_same_shape(name: str, path: str | Path, base: str | Path) -> None:
    """Refuse a fine-tuned checkpoint whose heads are not its base's heads."""
    shape, wanted = read_shape(path), read_shape(base)
    if shape != wanted:
        raise InputError(f"models.{name}.path: {path} has shape {shape}; allowed: that of its base, {wanted}")


def is_adapter(path: str | Path) -> bool:
    """Whether the folder holds a PEFT adapter rather than a whole model."""
    return (Path(path) / "adapter_config.json").exists()


def adapter_base(path: str | Path) -> Path:
    """The base checkpoint that an adapter names: a folder, or an id that is none here."""
    return Path(str(_read_json(Path(path) / "adapter_config.json").get("base_model_name_or_path")))


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


def checkpoint_files(path: str | Path, base: str | Path | None = None) -> list[str]:
    """The files that determine a model: those of a whole checkpoint, or with ``base`` those of an adapter and its base.

    An adapter's own tokenizer counts where there is one.
    """
    if base is None:
        return own_files(path, adapter=False)
    tokenizer = Path(path) / TOKENIZER
    return [*own_files(path, adapter=True), *([str(tokenizer)] if tokenizer.exists() else []), *own_files(base, False)]


def own_files(path: str | Path, adapter: bool) -> list[str]:
    """The files that a checkpoint folder, or an adapter folder, must have."""
    names = ("adapter_config.json", ADAPTER) if adapter else ("config.json", WEIGHTS, TOKENIZER)
    return [str(Path(path) / name) for name in names]


def _read_json(file: Path) -> dict:
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: holds no JSON object")
    return value
