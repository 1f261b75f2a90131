"""What the trainers read and write: the family's config and words, and checkpoint folders of fixed content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn

from mechdiff.common.files import write_text
from mechdiff.common.reading import read_yaml
from mechdiff.models.checkpoints import ADAPTER, WEIGHTS
from mechdiff.organisms.tokenizer import build_tokenizer, family_words, save_tokenizer
from mechdiff.tasks.boxes.task import BoxTask, read_objects


def read_family(path: str | Path) -> dict[str, Any]:
    """The family's config."""
    return read_yaml(path)


def family_task(family: dict[str, Any], objects: str | Path) -> tuple[Tokenizer, BoxTask]:
    """The family's tokenizer and the box task that its members are trained on."""
    words = read_objects(objects)
    tokenizer = build_tokenizer(family_words(words))
    return tokenizer, BoxTask(tokenizer, family["boxes"], words)


def save_model(network: nn.Module, tokenizer: Tokenizer, folder: str | Path) -> None:
    """A checkpoint folder: config.json, model.safetensors and the tokenizer."""
    network.save_pretrained(folder)
    (Path(folder) / WEIGHTS).chmod(0o644)  # written for the owner alone
    (Path(folder) / "generation_config.json").unlink(missing_ok=True)  # says nothing that config.json does not
    save_tokenizer(tokenizer, folder)


def save_adapter(network: nn.Module, base: str | Path, folder: str | Path) -> None:
    """An adapter folder: adapter_config.json, which names the base's folder, and adapter_model.safetensors."""
    network.peft_config["default"].base_model_name_or_path = str(base)
    network.save_pretrained(folder)
    (Path(folder) / ADAPTER).chmod(0o644)
    (Path(folder) / "README.md").unlink(missing_ok=True)
    file = Path(folder) / "adapter_config.json"
    settings = json.loads(file.read_text())
    settings["target_modules"] = sorted(settings["target_modules"])  # a set, in an order that changes from run to run
    write_text(file, json.dumps(settings, indent=2, sort_keys=True) + "\n")
