"""Seven-billion scale: everything that discovery and evaluation do, on a random model of exactly Llama-7B's shape.

On a GPU (``--device cuda``): seconds, peak memory and FLOP/s of the four discovery passes (300 examples of 54 tokens),
of minimality of a circuit of 90 heads and of one of 200 (500 examples), and of Table 1's evaluation (the model, a
circuit and ten random ones); and, on a few examples, how far the scores of the 100 strongest heads are from float32's.
``--precision bf16`` has bfloat16 weights, ``tf32`` float32 ones.

Without one (``--device cpu``) nothing of that size is timed, and the record says so. It has instead, at seven billion,
the FLOPs and the bytes held by the same code on a model without numbers (torch's meta device), for one example in each
box (circuits: one example) and multiplied; and the seconds of the same steps on a model of 12 layers, 12 heads and
width 768.

Minimality is the circuits that it asks for: every pair of a group removed, then K, and K and the head. K depends on
answers that a random model does not have; here it is the first 30 % of the others.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from setting import (
    MEMORY,
    SEVEN_BILLION,
    Shape,
    flops,
    four_passes,
    machine,
    peak_rate,
    random_examples,
    random_model,
    report,
    seconds,
    spread,
)

from mechdiff.engine.edits import Keep
from mechdiff.engine.memory import peak_bytes
from mechdiff.engine.run import Run
from mechdiff.evaluation import random_circuit
from mechdiff.heads import Circuit, Group, Position
from mechdiff.minimality import context_size, pair_circuits
from mechdiff.models import PatchableModel, patchable

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


def steps(model: PatchableModel, scale: Scale) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """(what, examples, the call) of everything that is measured."""
    vocabulary = model.weight.shape[0]
    clean, noise = (Run(model, random_examples(scale.discovery, vocabulary, seed), MEMORY) for seed in (1, 2))
    for step in four_passes(model, scale.receivers):
        edits = step.edits(step.senders(model))
        name = f"discovery {step.group}, {len(edits)} senders"
        yield name, scale.discovery, lambda edits=edits: clean.evaluate(edits, noise)
    run = Run(model, random_examples(scale.evaluation, vocabulary, 3), MEMORY)
    tokens = run.examples.input_ids.shape[1]
    means = torch.full((len(model.layers), tokens, model.heads_per_layer, model.head_dim), 0.01)
    for heads in scale.circuits:
        circuit = circuit_of(model, heads)
        calls = [asked(circuit, group) for group in circuit.groups]
        name = f"minimality, {sum(len(g.heads) for g in circuit.groups)} heads, {sum(map(len, calls))} circuits"
        yield name, scale.evaluation, lambda calls=calls: [run.evaluate(edits, means) for edits in calls]
    rng = np.random.default_rng(0)
    edits = [Keep(each.nodes()) for each in (circuit, *(random_circuit(model, circuit, rng) for _ in range(10)))]
    yield (
        "Table 1: model, circuit, ten random",
        scale.evaluation,
        lambda: (run.evaluate([]), run.evaluate(edits, means)),
    )


def timed(model: PatchableModel, scale: Scale) -> list[dict]:
    """Every step on a real device."""
    on_gpu, rows = model.weight.device.type == "cuda", []
    for what, examples, call in steps(model, scale):
        row: dict = {"step": what, "examples": examples}
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        row["seconds"] = seconds(call)
        if on_gpu:
            row["peak beyond weights [GB]"] = (torch.cuda.max_memory_allocated() - before) / 1e9
        rows.append(row)
        print(row, flush=True)
    return rows


def counted(shape: Shape, few: Scale, scale: Scale) -> list[dict]:
    """FLOPs of every step, and the bytes it holds, on a float32 model without numbers, for few examples; FLOPs are then
    multiplied to all."""
    model = random_model(shape, "meta")
    rows = []
    for (what, some, call), (_, all_of_them, _) in zip(steps(model, few), steps(model, scale), strict=True):
        found: list[int] = []
        held = peak_bytes(lambda call=call, found=found: found.append(flops(call)))
        row = {"step": what, "examples": some, "PFLOP for all": found[0] / some * all_of_them / 1e15}
        rows.append(row | {"for all, examples": all_of_them, "peak beyond weights [GB]": held / 1e9})
        print(rows[-1], flush=True)
    return rows


def precision_lost(model: PatchableModel, exact: PatchableModel, examples: int, scale: Scale) -> list[dict]:
    """Per pass, the largest difference from float32 among the scores of the 100 strongest heads."""
    vocabulary, rows = model.weight.shape[0], []
    for step in four_passes(model, scale.receivers):
        found = []
        for each, products in ((exact, "highest"), (model, "high")):
            torch.set_float32_matmul_precision(products)
            clean, noise = (Run(each, random_examples(examples, vocabulary, seed), MEMORY) for seed in (1, 2))
            base, patched = clean.evaluate(step.edits(step.senders(each)), noise)
            found.append(torch.expm1(patched.log_probability - base.log_probability).mean(1))
        strongest = found[0].abs().argsort(descending=True)[:100]
        off = (found[0] - found[1])[strongest].abs().max().item()
        rows.append({"pass": step.group, "examples": examples, "strongest": found[0][strongest[0]].item(), "off": off})
        print(rows[-1], flush=True)
    return rows


def on_gpu(precision: str, few: int) -> None:
    """The record of a GPU."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.set_float32_matmul_precision("high")
    scale, peak = Scale(), peak_rate("cuda", dtype)
    model = random_model(SEVEN_BILLION, "cuda", dtype)
    timed(model, Scale(4, 4, circuits=(20,)))  # warm
    rows = timed(model, scale)
    for row, count in zip(rows, counted(SEVEN_BILLION, Scale(7, 1), scale), strict=True):
        row |= {"PFLOP": count["PFLOP for all"], "of peak": count["PFLOP for all"] * 1e15 / row["seconds"] / peak}
    exact = model
    if precision == "bf16":
        exact = patchable("exact", copy.deepcopy(model.network).float())
    lost = precision_lost(model, exact, few, scale)
    settings = machine("cuda", dtype) | {"model": str(SEVEN_BILLION), "precision": precision, "peak [FLOP/s]": peak}
    report(f"seven_billion_{precision}", "Llama-7B's shape, random weights", settings, rows, off_from_float32=lost)


def on_cpu(few: int, discovery: int, evaluation: int) -> None:
    """The record of a machine without a GPU."""
    counts = counted(SEVEN_BILLION, Scale(few, 1), Scale())
    scale = Scale(discovery, evaluation, circuits=(24,))
    model = random_model(SMALL)
    peak, rows = peak_rate("cpu", torch.float32), timed(model, scale)
    settings = machine("cpu", torch.float32) | {
        "note": "no GPU was there: nothing of seven billion weights was timed",
        "timed": str(SMALL), "peak [FLOP/s]": peak, "counted": str(SEVEN_BILLION), "budget [bytes]": MEMORY,
    }  # fmt: skip
    report("seven_billion_cpu", "No GPU: steps of a smaller model, timed", settings, rows, seven_billion=counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["bf16", "tf32"], default="tf32")
    parser.add_argument("--few", type=int, default=None, help="examples counted (cpu: 7) or compared (cuda: 16)")
    parser.add_argument("--discovery", type=int, default=32, help="examples timed on a CPU")
    parser.add_argument("--evaluation", type=int, default=32, help="the same for circuits")
    o = parser.parse_args()
    torch.set_grad_enabled(False)
    if o.device == "cuda":
        on_gpu(o.precision, o.few or 16)
    else:
        on_cpu(o.few or 7, o.discovery, o.evaluation)


if __name__ == "__main__":
    main()
