"""Seven-billion scale without a GPU: what discovery and evaluation need at exactly Llama-7B's shape.

Nothing of that size is timed here (``gpu.sh`` does, on a GPU), and the record says so. It has, at seven billion, the
FLOPs and the bytes held by the same code on a model without numbers (torch's meta device), for one example in each box
(circuits: one example) and multiplied; and the seconds of the same steps on a model of 12 layers, 12 heads and width
768.

Minimality is the circuits that it asks for: every pair of a group removed, then K, and K and the head. K depends on
answers that a random model does not have; here it is the first 30 % of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from setting import (
    MEMORY,
    SEVEN_BILLION,
    Shape,
    flops,
    four_passes,
    machine,
    options,
    peak_rate,
    random_examples,
    random_model,
    report,
    seconds,
    spread,
)

from mechdiff.circuits import Circuit, Group, Position
from mechdiff.engine.edits import Keep
from mechdiff.engine.memory import peak_bytes
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import random_circuit
from mechdiff.experiments.minimality import context_size, pair_circuits
from mechdiff.models.patchable import PatchableModel

SMALL = Shape(12, 12, 768, 3072, 32000)


@dataclass(frozen=True)
class Scale:
    """How much is done. receivers: of A, B and C; circuits: heads of those that are pruned."""

    discovery: int = 300
    evaluation: int = 500
    receivers: tuple[int, int, int] = (20, 5, 10)
    circuits: tuple[int, ...] = (90, 200)


def circuit_of(model: PatchableModel, heads: int) -> Circuit:
    """A circuit in the proportions of the paper's 90: 50 in A, 10 in B, 25 in C and 5 in D, in the layers above the
    first quarter."""
    both = spread(model, round(heads * 60 / 90), 0.25)
    b = both[:: len(both) // round(heads * 10 / 90)][: round(heads * 10 / 90)]
    return Circuit(
        (
            Group("A", Position.LAST, tuple(head for head in both if head not in b)),
            Group("B", Position.LAST, b),
            Group("C", Position.QUERY_LABEL, spread(model, round(heads * 25 / 90), 0.25, 0.7)),
            Group("D", Position.PREVIOUS_QUERY_LABEL, spread(model, round(heads * 5 / 90), 0.25, 0.6)),
        )
    )


def asked(circuit: Circuit, group: Group) -> list[Keep]:
    """The circuits that minimality of a group evaluates, in its two calls."""
    pairs = list(pair_circuits(circuit, group).values())
    size = context_size(len(group.heads), 0.3)
    for head in group.heads:
        context = [other for other in group.heads if other != head][:size]
        pairs += [circuit.without(group.name, context), circuit.without(group.name, [*context, head])]
    return [Keep(each.nodes()) for each in dict.fromkeys(pairs)]


@dataclass(frozen=True)
class Work:
    """One thing that is measured: so many edits of each of so many examples, in one call."""

    step: str
    edits: int
    examples: int
    call: Callable[[], object]


def discovery_steps(model: PatchableModel, scale: Scale) -> Iterator[Work]:
    """The four passes, all senders at once."""
    vocabulary, n = model.weight.shape[0], scale.discovery
    clean, noise = (Run(model, random_examples(n, vocabulary, seed), MEMORY) for seed in (1, 2))
    for step in four_passes(model, scale.receivers):
        edits = step.edits(step.senders(model))
        name = f"discovery {step.group}, {len(edits)} senders"
        yield Work(name, len(edits), n, lambda edits=edits: clean.evaluate(edits, noise))


def circuit_steps(model: PatchableModel, scale: Scale) -> Iterator[Work]:
    """Table 1's evaluation, and minimality of each circuit."""
    n = scale.evaluation
    run = Run(model, random_examples(n, model.weight.shape[0], 3), MEMORY)
    tokens = run.examples.input_ids.shape[1]
    means = torch.full((len(model.layers), tokens, model.heads_per_layer, model.head_dim), 0.01)
    circuit, rng = circuit_of(model, scale.circuits[0]), np.random.default_rng(0)
    edits = [Keep(each.nodes()) for each in (circuit, *(random_circuit(model, circuit, rng) for _ in range(10)))]
    name = "Table 1: model, circuit, ten random"
    yield Work(name, 1 + len(edits), n, lambda: (run.evaluate([]), run.evaluate(edits, means)))
    for heads in scale.circuits:
        circuit = circuit_of(model, heads)
        calls = [asked(circuit, group) for group in circuit.groups]
        number = sum(map(len, calls))
        name = f"minimality, {sum(len(g.heads) for g in circuit.groups)} heads, {number} circuits"
        yield Work(name, number, n, lambda calls=calls: [run.evaluate(edits, means) for edits in calls])


def steps(model: PatchableModel, scale: Scale) -> Iterator[Work]:
    """Everything that is measured."""
    return chain(discovery_steps(model, scale), circuit_steps(model, scale))


def timed(work: Work) -> dict:
    """Seconds of a piece of work; on a GPU also the most bytes that it held beyond what was there."""
    row: dict = {"step": work.step, "examples": work.examples}
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    row["seconds"] = seconds(work.call)
    if torch.cuda.is_available():
        row["peak beyond weights [GB]"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    return row


def counted(shape: Shape, few: Scale, scale: Scale) -> list[dict]:
    """FLOPs of every step, and the bytes it holds, on a float32 model without numbers, for few examples; FLOPs are then
    multiplied to all."""
    model = random_model(shape, "meta")
    rows = []
    for work, whole in zip(steps(model, few), steps(model, scale), strict=True):
        found: list[int] = []
        held = peak_bytes(lambda work=work, found=found: found.append(flops(work.call)))
        row = {
            "step": work.step,
            "examples": work.examples,
            "PFLOP for all": found[0] / work.examples * whole.examples / 1e15,
        }
        rows.append(row | {"for all, examples": whole.examples, "peak beyond weights [GB]": held / 1e9})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    o = options(__doc__.splitlines()[0], few=7, discovery=32, evaluation=32)
    counts = counted(SEVEN_BILLION, Scale(o.few, 1), Scale())
    model, peak = random_model(SMALL), peak_rate("cpu", torch.float32)
    rows = [timed(work) for work in steps(model, Scale(o.discovery, o.evaluation, circuits=(24,)))]
    settings = machine("cpu", torch.float32) | {
        "note": "no GPU was there: nothing of seven billion weights was timed",
        "timed": str(SMALL), "peak [FLOP/s]": peak, "counted": str(SEVEN_BILLION), "budget [bytes]": MEMORY,
    }  # fmt: skip
    report("seven_billion_cpu", "No GPU: steps of a smaller model, timed", settings, rows, seven_billion=counts)


if __name__ == "__main__":
    main()
