"""What a job that runs models asks of a cluster: memory, time and GPUs, from the models' size and the attempt.

The figures are on the safe side, and no result depends on them. A job that failed asks for as much again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from mechdiff.models.checkpoints import ITEM_BYTES, opened_bytes
from mechdiff.running.config import checkpoint, gpus_for

GB = 10**9
PARAMETERS_NOT_THERE = 7 * 10**9  # of a model whose weights are not there yet
PROGRAM = 3 * GB  # Python, torch and the libraries of a GPU [bytes]
LEAST_MINUTES = 30
MINUTES_PER_GB = {"gpu": 10, "cpu": 100}  # of weights


def model_resources(config: Mapping[str, Any], names: Iterable[str], attempt: int) -> dict[str, int | None]:
    """Resources of a job that runs the named models: mem_mb [MB], runtime [minutes], gpu [count, None for none].

    attempt: 1 for the first; memory and time grow with it.
    """
    names = list(dict.fromkeys(names))
    models = [checkpoint(config, name) for name in names]
    sizes = [opened_bytes(model) or PARAMETERS_NOT_THERE * ITEM_BYTES[model.dtype] for model in models]
    minutes = [
        size / GB * MINUTES_PER_GB["cpu" if model.device == "cpu" else "gpu"]
        for model, size in zip(models, sizes, strict=True)
    ]
    return {
        "mem_mb": ceil((sum(sizes) + config["memory"] + PROGRAM) * attempt / 10**6),
        "runtime": ceil((LEAST_MINUTES + sum(minutes)) * attempt),
        "gpu": max(gpus_for(config, name) for name in names) or None,
    }
