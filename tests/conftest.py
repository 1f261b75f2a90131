"""Fixtures for every test."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer

from mechdiff.tasks.boxes.task import LABELS, BoxTask
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first, so that no process is left with one at the end."""
    long = {item.path for item in items if item.get_closest_marker("slurm") or item.get_closest_marker("whole_run")}
    items.sort(key=lambda item: (item.path not in long, "slurm" not in item.keywords))
