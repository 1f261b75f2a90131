"""Models of the hub, fetched by the real client from a hub that runs here; each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hub_server import COMMIT, HUB, serving
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.models.hooks import last_logits
from mechdiff.models.loading import open_model
from micro import micro_llama, save_checkpoint

CLOSED = "http://127.0.0.1:9"  # the discard port, where nothing answers
FETCH = """
import sys, json
from mechdiff.models.checkpoints import Checkpoint
from mechdiff.common.errors import InputError
from mechdiff.models.hub import fetch
try:
    fetch(Checkpoint(**json.loads(sys.argv[1])), sys.argv[2], sys.argv[3])
except InputError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def stored(tmp_path_factory, tokenizer):
    """What the hub has: a checkpoint, and files that nobody asked for."""
    folder = save_checkpoint(micro_llama(2, 3), tokenizer, tmp_path_factory.mktemp("stored"))
    for name in ("README.md", "pytorch_model.bin", "modeling_own.py", "consolidated.safetensors"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture(scope="module")
def endpoint(stored):
    with serving(stored) as address:
        yield address


def python(code: str, *arguments: str, home: Path, endpoint: str, **env: str) -> subprocess.CompletedProcess:
    env = os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint} | env
    return subprocess.run([sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=60)


def fetch(to: Path, endpoint: str, home: Path, revision: str = COMMIT, env=(), **entry) -> subprocess.CompletedProcess:
    model = json.dumps({"name": "tiny", "path": str(to), "hub": HUB} | entry)
    return python(FETCH, model, revision, str(to), home=home, endpoint=endpoint, **dict(env))


def test_what_is_needed_is_fetched_and_nothing_else(endpoint, stored, tmp_path):
    done = fetch(tmp_path / "to" / COMMIT, endpoint, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    names = {file.name for file in (tmp_path / "to" / COMMIT).iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not names & {"README.md", "pytorch_model.bin", "modeling_own.py", "consolidated.safetensors"}
    assert [path.name for path in (tmp_path / "to").iterdir()] == [COMMIT], "nothing half-done is left"
    ids = torch.randint(1, 100, (2, 9))
    models = (open_model(Checkpoint("m", folder)) for folder in (tmp_path / "to" / COMMIT, stored))
    torch.testing.assert_close(*(last_logits(model, ids) for model in models))


def test_pickles_and_code_are_fetched_where_they_are_allowed(endpoint, stored, tmp_path):
    done = fetch(tmp_path / "to", endpoint, tmp_path, allow_pickle=True, trust_remote_code=True)
    assert done.returncode == 0, done.stderr
    names = {file.name for file in (tmp_path / "to").iterdir()}
    assert "modeling_own.py" in names and "pytorch_model.bin" not in names, "it has safetensors"
    (tmp_path / "pickled").mkdir()
    for name in ("config.json", "pytorch_model.bin"):
        (tmp_path / "pickled" / name).write_bytes((stored / name).read_bytes())
    with serving(tmp_path / "pickled") as other:
        done = fetch(tmp_path / "refused", other, tmp_path / "other")
        assert done.stderr.splitlines()[-1] == (
            f"models.tiny.allow_pickle: false, but {HUB} at {COMMIT} has pickles alone; allowed: a model with"
            " safetensors, or true if you trust who made it: a pickle can run code"
        )
        assert not (tmp_path / "refused").exists() and not (tmp_path / "refused.part").exists()
        done = fetch(tmp_path / "allowed", other, tmp_path / "other", allow_pickle=True)
    assert {file.name for file in (tmp_path / "allowed").iterdir()} == {"config.json", "pytorch_model.bin"}


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_connection_the_cache_will_do_or_one_line_says_how_to_get_it(endpoint, tmp_path, env):
    begun = time.monotonic()
    done = fetch(tmp_path / "to", CLOSED, tmp_path / "home", env=env.items())
    assert time.monotonic() - begun < 15
    (line,) = done.stderr.splitlines()
    cache = tmp_path / "home" / "hub"
    assert line.startswith(f"models.tiny.hub: {HUB} at {COMMIT} is neither in {cache} nor to be had from {CLOSED} (")
    get = f"hf download {HUB} --revision {COMMIT} --local-dir checkpoints/tiny"
    assert line.endswith(f": {get}, then path: checkpoints/tiny in place of hub and revision")
    assert done.returncode == 1 and not (tmp_path / "to").exists() and not (tmp_path / "to.part").exists()
    assert fetch(tmp_path / "first", endpoint, tmp_path / "home").returncode == 0
    done = fetch(tmp_path / "to", CLOSED, tmp_path / "home", env=env.items())
    assert done.returncode == 0, done.stderr
    assert {f.name for f in (tmp_path / "to").iterdir()} == {f.name for f in (tmp_path / "first").iterdir()}


def test_what_the_hub_does_not_have_is_one_line(endpoint, tmp_path):
    done = fetch(tmp_path / "to", endpoint, tmp_path, revision="0" * 40)
    assert done.returncode == 1 and not (tmp_path / "to").exists()
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"models.tiny.hub: {HUB} at {'0' * 40}: ") and "404" in line


def test_the_commit_of_a_branch_is_asked_for(endpoint, tmp_path):
    code = f"from mechdiff.models.hub import latest_commit; print(latest_commit({HUB!r}))"
    for address, commit in ((endpoint, COMMIT), (CLOSED, "None")):
        assert python(code, home=tmp_path, endpoint=address).stdout.strip() == commit
