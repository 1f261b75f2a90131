"""Models of the Hugging Face hub: the commit that pins one, and its files as a local folder.

The client's own cache is used, so a download that was cut short goes on, and what is in the cache needs no connection.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

from mechdiff.common.errors import InputError
from mechdiff.models.checkpoints import Checkpoint, require_files

COMMIT = re.compile("[0-9a-f]{40}")
FETCHED = "results/checkpoints"
PATIENCE = 5  # for the hub's first answer [seconds]
SETTINGS = ["*.json"]
SAFE_WEIGHTS = ["model*.safetensors", "adapter_model.safetensors"]
PICKLES = ["pytorch_model*.bin", "adapter_model.bin"]


def fetched_folder(hub: str, revision: str) -> str:
    """Where the files of a hub's model are put, one folder a commit."""
    return f"{FETCHED}/{hub.replace('/', '--')}/{revision}"


def latest_commit(hub: str, revision: str = "main") -> str | None:
    """The commit that a branch or tag stands for: what the local cache last saw, else what the hub says, if it does."""
    from huggingface_hub import HfApi, constants

    cached = Path(constants.HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}" / "refs" / revision
    try:
        commit = cached.read_text().strip()
    except (OSError, ValueError):  # not there, not to be read, or no text
        commit = ""
    if COMMIT.fullmatch(commit):
        return commit
    try:
        return HfApi().model_info(hub, revision=revision, timeout=PATIENCE).sha
    except Exception:  # the client lets the errors of its http library through
        return None


def fetch(checkpoint: Checkpoint, revision: str, folder: str | Path) -> None:
    """Put the files of ``checkpoint.hub`` at a commit into a folder, whole or not at all."""
    assert checkpoint.hub, "only a model of the hub is fetched"
    names, reason = _listed(checkpoint, revision)
    pickles = [] if _any(names, SAFE_WEIGHTS) else PICKLES
    if _any(names, pickles) and not checkpoint.allow_pickle:
        had = f"{checkpoint.hub} at {revision} has pickles alone"
        allowed = "a model with safetensors, or true if you trust who made it: a pickle can run code"
        raise InputError(f"models.{checkpoint.name}.allow_pickle: false, but {had}; allowed: {allowed}")
    wanted = [*SETTINGS, *SAFE_WEIGHTS, *(["*.py"] if checkpoint.trust_remote_code else [])]
    if names:
        wanted += pickles
    try:
        snapshot = _snapshot(checkpoint.hub, revision, wanted, online=reason is None)
    except Exception as error:
        raise InputError(_how_to_get(checkpoint, revision, reason or _line(error))) from error
    if checkpoint.allow_pickle:
        wanted += pickles  # of the cache, where that is all there is to go by
    _put(snapshot, wanted, checkpoint, revision, Path(folder))


def _listed(checkpoint: Checkpoint, revision: str) -> tuple[list[str], str | None]:
    """The names of a model's files, or why the hub does not say; asked once, so that its silence is known at once."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    assert checkpoint.hub
    try:
        listed = HfApi().model_info(checkpoint.hub, revision=revision, timeout=PATIENCE)
    except HfHubHTTPError as error:
        what = f"{checkpoint.hub} at {revision}"
        raise InputError(f"models.{checkpoint.name}.hub: {what}: {_line(error)}") from error
    except Exception as error:  # no connection: the client lets the errors of its http library through
        return [], _line(error)
    return [file.rfilename for file in listed.siblings or ()], None


def _put(snapshot: Path, wanted: Iterable[str], checkpoint: Checkpoint, revision: str, folder: Path) -> None:
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for file in snapshot.iterdir():
            if _any([file.name], wanted):
                _link(file.resolve(), part / file.name)
        require_files(replace(checkpoint, path=part))
        part.replace(folder)
    except InputError as error:
        raise InputError(str(error).replace(str(part), f"{checkpoint.hub} at {revision}")) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for name in names for pattern in patterns)


def _snapshot(hub: str, revision: str, patterns: list[str], online: bool) -> Path:
    from huggingface_hub import snapshot_download

    offline, others = not online, ["*/*"]
    return Path(
        snapshot_download(
            hub, revision=revision, allow_patterns=patterns, ignore_patterns=others, local_files_only=offline
        )
    )


def _how_to_get(checkpoint: Checkpoint, revision: str, reason: str) -> str:
    from huggingface_hub import constants

    assert checkpoint.hub
    own = f"checkpoints/{checkpoint.hub.split('/')[-1]}"
    return (
        f"models.{checkpoint.name}.hub: {checkpoint.hub} at {revision} is neither in {constants.HF_HUB_CACHE} nor to be"
        f" had from {constants.ENDPOINT} ({reason}); where there is a connection: hf download {checkpoint.hub}"
        f" --revision {revision} --local-dir {own}, then path: {own} in place of hub and revision"
    )


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().split(chr(10))[0]}"


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)  # a 7B model is not stored twice
    except OSError:  # the cache is on another disk
        shutil.copyfile(file, to)
