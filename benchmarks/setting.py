"""What the benchmarks share: random models, prompts, the four passes of the paper, the machine, timing, records."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from mechdiff.circuits import Head, Position
from mechdiff.engine.edits import Part, PathPatch
from mechdiff.engine.examples import Examples
from mechdiff.models.patchable import PatchableModel, patchable

RESULTS = Path(__file__).parent / "results"
MEMORY = 4_000_000_000
PROMPT = 54  # tokens of the paper's prompts, of seven boxes


@dataclass(frozen=True)
class Shape:
    """A Llama's shape."""

    layers: int = 12
    heads: int = 12
    width: int = 768
    intermediate: int = 3072
    vocabulary: int = 32000

    def __str__(self) -> str:
        return (
            f"{self.layers} layers, {self.heads} heads, width {self.width}, MLP {self.intermediate},"
            f" vocabulary {self.vocabulary}"
        )


SEVEN_BILLION = Shape(32, 32, 4096, 11008, 32000)


def random_model(shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32) -> PatchableModel:
    """A Llama of that shape with random weights, made on the device."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        dtype=dtype,
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            network = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(default)
    return patchable("random", network.eval().requires_grad_(False))


def random_examples(n: int, vocabulary: int, seed: int, tokens: int = PROMPT) -> Examples:
    """Random prompts with the paper's positions; the previous query label is in each of the boxes' segments in turn."""
    g = torch.Generator().manual_seed(seed)
    previous = 8 + 6 * (torch.arange(n) % ((tokens - 12) // 6))
    positions = {
        Position.LAST: torch.full((n,), tokens - 1),
        Position.QUERY_LABEL: torch.full((n,), tokens - 3),
        Position.PREVIOUS_QUERY_LABEL: previous,
        Position.CORRECT_OBJECT: previous - 4,
    }
    ids = torch.randint(vocabulary, (n, tokens), generator=g)
    return Examples(ids, torch.randint(vocabulary, (n,), generator=g), positions)


@dataclass(frozen=True)
class Pass:
    """One pass of discovery: where its senders are and what they are sent to."""

    group: str
    position: Position
    receivers: tuple[Head, ...] | None
    via: Part | None

    def edits(self, heads: Sequence[Head]) -> list[PathPatch]:
        """A path patch of each of these senders."""
        return [PathPatch(head, self.position, self.receivers, self.via) for head in heads]

    def senders(self, model: PatchableModel) -> list[Head]:
        """The heads that can reach a receiver."""
        below = len(model.layers) if self.receivers is None else max(head.layer for head in self.receivers)
        return [head for head in model.heads if head.layer < below]


def spread(model: PatchableModel, count: int, lowest: float, highest: float = 1.0) -> tuple[Head, ...]:
    """So many heads, evenly over the layers from one share of the depth to another."""
    layers, heads = len(model.layers), model.heads_per_layer
    first, last = int(lowest * layers), max(int(lowest * layers), int(highest * layers) - 1)
    at = [first + round(i * (last - first) / max(1, count - 1)) for i in range(count)]
    taken: dict[int, int] = {}
    for layer in at:
        taken[layer] = taken.get(layer, 0) + 1
    return tuple(Head(layer, (i * heads // n + layer) % heads) for layer, n in taken.items() for i in range(n))


def four_passes(model: PatchableModel, counts: tuple[int, int, int] = (8, 8, 8)) -> list[Pass]:
    """A, B, C and D; the receivers of B, C and D, so many each, are spread over the upper half of the layers."""
    a, b, c = (spread(model, count, 0.5) for count in counts)
    return [
        Pass("A", Position.LAST, None, None),
        Pass("B", Position.LAST, a, Part.QUERY),
        Pass("C", Position.QUERY_LABEL, b, Part.VALUE),
        Pass("D", Position.PREVIOUS_QUERY_LABEL, c, Part.VALUE),
    ]


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes, with all that it leaves to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, the calls taking turns, so that all see the same machine."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    return {name: statistics.median(found) for name, found in times.items()}


def flops(call: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products in a call.

    Attention is taken apart: a fused kernel on a CPU counts as nothing, and on the meta device there is none.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


PRODUCTS = ((1024, 768, 3072), (1024, 2048, 2048), (4096, 4096, 4096), (8192, 4096, 11008))


def peak_rate(device: str, dtype: torch.dtype, products: Sequence[tuple[int, int, int]] = PRODUCTS) -> float:
    """The fastest matrix product of several sizes [FLOP/s], the best of three."""
    best = 0.0
    for rows, inner, columns in products:
        if device == "cpu" and rows > 4096:
            continue
        a = torch.randn(rows, inner, device=device, dtype=dtype)
        b = torch.randn(inner, columns, device=device, dtype=dtype)
        torch.mm(a, b)
        took = min(seconds(lambda a=a, b=b: torch.mm(a, b)) for _ in range(3))
        best = max(best, 2 * rows * inner * columns / took)
    return best


def machine(device: str, dtype: torch.dtype) -> dict[str, object]:
    """Where and with what a benchmark was run."""
    name = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def report(
    name: str, what: str, settings: Mapping[str, object], rows: Sequence[Mapping], **more: Sequence[Mapping]
) -> None:
    """Print the tables and write the record results/<name>.json."""
    record = {"what": what, "settings": dict(settings), "rows": list(rows), **more}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(what, "\n", json.dumps(settings), "\n")
    for title, table in {"": rows, **more}.items():
        print(f"{title}\n{as_text(table)}")


def as_text(rows: Sequence[Mapping]) -> str:
    """A table for a terminal; a cell that a row has not is empty."""
    return pd.DataFrame(rows).to_string(index=False, na_rep="", float_format="{:.3g}".format)


def options(description: str, **defaults: int) -> argparse.Namespace:
    """Command-line options, each a whole number, and how many threads."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in (defaults | {"threads": 2}).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    found = parser.parse_args()
    torch.set_num_threads(found.threads)
    torch.set_grad_enabled(False)
    return found
