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
    """Shape of the checkpoint in a folder, from its config alone; an adapter has the shape of its base."""
    folder = Path(path)
    config_file = folder / "config.json"
    if is_adapter(folder):
        config_file = adapter_base(folder) / "config.json"
    config = _read_json(config_file)
    try:
        return Shape(
            config["num_hidden_layers"], config["num_attention_heads"], config["hidden_size"], config["vocab_size"]
        )
    except KeyError as error:
        raise InputError(f"{config_file}: no key {error}") from error


def is_adapter(path: str | Path) -> bool:
    """Whether the folder holds a PEFT adapter rather than a whole model."""
    return (Path(path) / "adapter_config.json").exists()


def adapter_base(path: str | Path) -> Path:
    """The base checkpoint an adapter names."""
    return Path(_read_json(Path(path) / "adapter_config.json").get("base_model_name_or_path", ""))


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a checkpoint folder."""
    file = Path(path) / TOKENIZER
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(f"{file}: not a readable tokenizer ({error})") from error


def checkpoint_files(path: str | Path) -> list[str]:
    """The files that determine the model in a folder, an adapter's base included, as far as they can be known."""
    folder = Path(path)
    if not is_adapter(folder):
        return [str(folder / name) for name in ("config.json", WEIGHTS, TOKENIZER)]
    return [str(folder / "adapter_config.json"), str(folder / ADAPTER), *checkpoint_files(adapter_base(folder))]


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from error
