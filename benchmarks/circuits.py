"""Minimality and circuit evaluation against whole-prompt evaluation.

- minimality of one group of heads at ``last``, in a circuit that also has heads at the two label positions: as the
  workflow does it, F(C without one head or two) for all pairs, then F(C without K) and F(C without K and the head).
- evaluation: the circuit and ten random ones of its size.

The engine runs all of it. The plain way is one whole forward pass with hooks for each circuit that the engine was asked
for; it is timed on a few of them, which cost the same, and multiplied. The answers' logits of those are compared.
"""

from __future__ import annotations

import numpy as np
import torch
from setting import (
    MEMORY,
    Shape,
    in_turn,
    machine,
    options,
    random_examples,
    random_model,
    report,
    seconds,
    spread,
)

from mechdiff.circuits import Circuit, Group, Position
from mechdiff.engine.edits import Keep
from mechdiff.engine.plain import PlainRun
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import circuits_correct, count_correct, random_circuit
from mechdiff.experiments.minimality import minimality
from mechdiff.models.patchable import PatchableModel


def circuit_of(model: PatchableModel, group: int, others: int) -> Circuit:
    """A group at ``last`` over all layers, and as many other heads at each of the label positions, lower down."""
    return Circuit(
        (
            Group("A", Position.LAST, spread(model, group, 0.0)),
            Group("C", Position.QUERY_LABEL, spread(model, others, 0.0, 0.7)),
            Group("D", Position.PREVIOUS_QUERY_LABEL, spread(model, others, 0.0, 0.5)),
        )
    )


def pruned(run: Run, means: torch.Tensor, circuit: Circuit, name: str = "A") -> dict[Circuit, int]:
    """Minimality of one group of a circuit; the right answers of every circuit that it asked for."""
    counts: dict[Circuit, int] = {}
    alone = Circuit((circuit[name],))
    rest = tuple(group for group in circuit.groups if group.name != name)

    def evaluate(_: str, circuits: list[Circuit]) -> dict[Circuit, int]:
        whole = {small: Circuit((*small.groups, *rest)) for small in circuits}
        count_correct(run, means, whole.values(), counts)
        return {small: counts[large] for small, large in whole.items()}

    minimality(alone, evaluate, len(run.examples), fraction=0.3, threshold=0.01)
    return counts


def main() -> None:
    o = options(__doc__.splitlines()[0], examples=32, group=24, plain=3, rounds=3)
    shape = Shape()
    model = random_model(shape)
    examples = random_examples(o.examples, shape.vocabulary, 1)
    run, plain = Run(model, examples, MEMORY), PlainRun(model, examples)
    means = run.mean_outputs()
    circuit = circuit_of(model, o.group, 6)
    # A random model is never right: what it says with the circuit alone counts as the answer.
    examples.answers[:] = run.evaluate([Keep(circuit.nodes())], means)[1].top[0]
    rng = np.random.default_rng(0)
    random = [circuit, *(random_circuit(model, circuit, rng) for _ in range(10))]
    counts = pruned(run, means, circuit)
    asked = list(counts)
    tried = [asked[round(i * (len(asked) - 1) / max(1, o.plain - 1))] for i in range(o.plain)]
    captures = seconds(lambda: plain.evaluate([]))
    times = in_turn(
        {
            "minimality": lambda: pruned(run, means, circuit),
            "evaluation": lambda: circuits_correct(run, means, random),
            "plain": lambda: circuits_correct(plain, means, tried),  # type: ignore[arg-type] # in place of Run
        },
        o.rounds,
    )
    # The plain call also captures its clean run and evaluates the ablated one, as the engine does.
    each = (times["plain"] - captures) / (len(tried) + 1)
    edits = [Keep(each.nodes()) for each in tried]
    ours, theirs = (each.evaluate(edits, means)[1].logit for each in (run, plain))
    rows = [
        {
            "experiment": name,
            "circuits": circuits,
            "engine [s]": times[key],
            "plain [s]": each * circuits,
            "ratio": each * circuits / times[key],
        }
        for name, key, circuits in (
            (f"minimality of {len(circuit['A'].heads)} heads at last", "minimality", len(asked)),
            ("evaluation of a circuit and ten random ones", "evaluation", len(random)),
        )
    ]
    settings = machine("cpu", torch.float32) | {
        "model": str(shape),
        "examples": o.examples,
        "tokens": examples.input_ids.shape[1],
        "plain circuits timed": len(tried),
        "rounds": o.rounds,
        "right answers of all circuits, fewest and most": [min(counts.values()), max(counts.values())],
        "logits of those spread over": (theirs.max(0).values - theirs.min(0).values).max().item(),
        "largest logit difference": (ours - theirs).abs().max().item(),
    }
    report("circuits", "Circuits: the engine against whole forward passes with hooks", settings, rows)


if __name__ == "__main__":
    main()
