"""Micro-models made for tests: real Llama checkpoints with a real tokenizer, random weights."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mechdiff.models.patchable import PatchableModel, patchable
from mechdiff.tasks.boxes.dataset import SPLITS, build_split
from mechdiff.tasks.boxes.task import BoxTask, read_objects

torch.set_num_threads(1)  # micro-models: threads cost more than they give, and jobs run with one

ROOT = Path(__file__).resolve().parents[1]
OBJECTS_FILE = ROOT / "config" / "objects.txt"
OBJECTS = read_objects(OBJECTS_FILE)
REFERENCE = ROOT.parent / "shared" / "reference"
NOT_OURS = "is not part of this project; with it beside the checkout this compares the project with it"
released_here = pytest.mark.skipif(not REFERENCE.exists(), reason=f"what the paper's authors released {NOT_OURS}")


def word_tokenizer(words: list[str]) -> Tokenizer:
    """One token a word, any other word unknown, a BOS in front."""
    vocabulary = ["<s>", "<unk>", *dict.fromkeys(words)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def build_dataset(task: BoxTask, rows: dict[str, int], seed: int, layout: str = "disjoint") -> dict[str, pd.DataFrame]:
    """Every split."""
    return {split: build_split(task, split, rows, seed, layout) for split in SPLITS}


def micro_llama(
    layers: int = 2,
    heads: int = 2,
    values: int | None = None,
    head_dim: int = 4,
    vocabulary: int = 200,
    seed: int = 0,
    spread: float = 0.3,
) -> PatchableModel:
    """A random Llama in memory; ``values`` key/value heads, as many as heads unless said; spread: of the weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=heads * head_dim,
        intermediate_size=16,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=values or heads,
        max_position_embeddings=128,
        initializer_range=spread,
    )
    return patchable("micro", LlamaForCausalLM(config).eval().requires_grad_(False))


def save_checkpoint(model: PatchableModel, tokenizer: Tokenizer, folder: Path) -> Path:
    """Write a checkpoint folder as Hugging Face does."""
    model.network.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    return folder
