"""A family small enough to train in a test: the shipped config with few steps and narrow layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from mechdiff.models.patchable import patchable
from mechdiff.organisms.files import family_task, read_family
from mechdiff.organisms.organism import build_network, planted_heads
from mechdiff.organisms.planting import Organism
from mechdiff.organisms.scenes import SceneStream
from micro import OBJECTS_FILE, ROOT
from small_run import short_family

FAMILY = ROOT / "config" / "family.yaml"


@pytest.fixture(scope="session")
def family() -> dict:
    return read_family(FAMILY)


@pytest.fixture(scope="session")
def words(family):
    """The family's tokenizer and box task."""
    return family_task(family, OBJECTS_FILE)


@pytest.fixture
def short_file(family, tmp_path) -> Path:
    """A family file, three steps a training."""
    file = tmp_path / "family.yaml"
    file.write_text(yaml.safe_dump(short_family(family), sort_keys=False))
    return file


@pytest.fixture
def organism(family, words) -> Organism:
    """An untrained base."""
    tokenizer, task = words
    planted = planted_heads(family)
    network = build_network(family["architecture"], tokenizer.get_vocab_size(), planted, 0).eval()
    with torch.no_grad():
        return Organism(patchable("untrained", network), planted, SceneStream(task, 0))
