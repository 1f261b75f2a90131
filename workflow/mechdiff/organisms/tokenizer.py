"""The family's tokenizer: byte-level, with the words the family is trained on as whole tokens.

The vocabulary is the 256 bytes, so that any text can be encoded, and one token for each listed word. A word of the text
that is in the vocabulary is taken whole, all else byte by byte: BPE without merges. ``<s>`` comes first, as in Llama.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from mechdiff.common.files import write_text
from mechdiff.models.checkpoints import TOKENIZER
from mechdiff.organisms.corpora import corpus_words
from mechdiff.tasks.boxes.task import LABELS

BOS = "<s>"
STARTS = ("The", "User")  # words that begin a text, and so have no space before them
TEMPLATE_WORDS = ("the", "is", "in", "Box", "contains", "not", "and")
SPACE = "Ġ"  # how byte-level vocabularies write a space


def family_words(objects: Iterable[str]) -> list[str]:
    """The words that follow a space and are one token each: the box task's, then the corpora's."""
    return list(dict.fromkeys([*TEMPLATE_WORDS, *LABELS, *objects, *corpus_words()]))


def build_tokenizer(words: Iterable[str]) -> Tokenizer:
    """A tokenizer in which each word, written after a space, is one token; so is one that starts a text."""
    tokens = [BOS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *STARTS, *(SPACE + word for word in words)]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BOS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Write what ``AutoTokenizer.from_pretrained`` reads: tokenizer.json and tokenizer_config.json."""
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "clean_up_tokenization_spaces": False}
    write_text(Path(folder) / TOKENIZER, tokenizer.to_str(pretty=True) + "\n")
    write_text(Path(folder) / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
