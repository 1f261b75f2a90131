"""Fixtures for every test."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from mechdiff.task import LABELS, BoxTask
from micro import OBJECTS, word_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return word_tokenizer(["The", "the", "is", "in", "Box", ",", ".", "contains", *OBJECTS, *LABELS])


@pytest.fixture(scope="session")
def task(tokenizer) -> BoxTask:
    return BoxTask(tokenizer, 7, OBJECTS)
