"""Fixtures for every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer

from mechdiff.task import LABELS, BoxTask
from micro import OBJECTS, word_tokenizer

# No test is about time: a loaded machine must not fail one.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-name", default="mini", help="run under results/ that the default_run tests read")


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return word_tokenizer(["The", "the", "is", "in", "Box", ",", ".", "contains", *OBJECTS, *LABELS])


@pytest.fixture(scope="session")
def task(tokenizer) -> BoxTask:
    return BoxTask(tokenizer, 7, OBJECTS)
