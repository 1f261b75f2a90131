"""Circuit performance and faithfulness (paper, sections 4.2 and 4.3).

F(C) is the accuracy when every head at every position gives its mean output, except the circuit's heads at their own
positions. MLPs are never ablated. The mean is per head and absolute position over scenes with a random query label.
F(M) is the untouched model's accuracy. Faithfulness = F(C) / F(M). A random circuit has as many heads at each position
as C, drawn without replacement from all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from mechdiff.circuits import Circuit, Group, Position
from mechdiff.engine.edits import Edit, Keep
from mechdiff.engine.run import Run
from mechdiff.experiments.shards import blocks
from mechdiff.models.patchable import PatchableModel


def model_correct(run: Run) -> np.ndarray:
    """Whether the untouched model's most likely next token is the answer [N], bool."""
    untouched, _ = run.evaluate([])
    return (untouched.top == run.examples.answers).numpy()


def circuits_correct(
    run: Run, means: Tensor, circuits: Sequence[Circuit], done: Callable[[int], None] = lambda rows: None
) -> np.ndarray:
    """The same for circuits [C, N], all but each mean-ablated; means [L, T, H, d], see :meth:`Run.mean_outputs`.

    ``done(rows)``: circuits times examples finished.
    """
    return edits_correct(run, [Keep(circuit.nodes()) for circuit in circuits], means, done)


def evaluation_rows(
    run: Run,
    means: Tensor,
    circuit: Circuit,
    draws: int,
    rng: np.random.Generator,
    scenes: Sequence[int],
    done: Callable[[int], None] = lambda rows: None,
) -> pd.DataFrame:
    """One row per condition (model, circuit, and ``draws`` random circuits) and example: scene_id, correct.

    A circuit without heads (its model, or this one, is not evaluated; nothing reaches) leaves the model alone.
    """
    found = [("model", 0, model_correct(run))]
    if circuit.nodes():
        circuits = [circuit, *(random_circuit(run.model, circuit, rng) for _ in range(draws))]
        right = circuits_correct(run, means, circuits, done)
        found += [("circuit", 0, right[0]), *(("random", draw, each) for draw, each in enumerate(right[1:]))]
    rows = pd.DataFrame({"scene_id": list(scenes), "example": range(len(scenes))})
    parts = [rows.assign(condition=condition, draw=draw, correct=correct) for condition, draw, correct in found]
    return pd.concat(parts)


def edits_correct(
    run: Run,
    edits: Sequence[Edit],
    source: Run | Tensor | None,
    done: Callable[[int], None] = lambda rows: None,
) -> np.ndarray:
    """Whether the most likely next token is the answer after each edit [E, N], bool."""
    _, edited = run.evaluate(edits, source, done)
    return (edited.top == run.examples.answers).numpy()


def count_correct(
    run: Run,
    means: Tensor,
    circuits: Iterable[Circuit],
    counts: dict[Circuit, int],
    some: Sequence[slice] | None = None,
    done: Callable[[int], None] = lambda rows: None,
) -> dict[Circuit, int]:
    """Right answers by circuit, into ``counts``, for those not in it yet, over some blocks of the examples or all;
    done as above."""
    wanted = list(dict.fromkeys(circuit for circuit in circuits if circuit not in counts))
    if wanted:
        counts.update(dict.fromkeys(wanted, 0))
        for block in blocks(len(run.examples)) if some is None else some:
            right = circuits_correct(run.take(block), means, wanted, done).sum(1).tolist()
            for circuit, count in zip(wanted, right, strict=True):
                counts[circuit] += count
    return counts


def random_circuit(model: PatchableModel, circuit: Circuit, rng: np.random.Generator) -> Circuit:
    """As many heads at each position as the circuit has there, drawn without replacement."""
    sizes: dict[Position, int] = {}
    for _, position in circuit.nodes():
        sizes[position] = sizes.get(position, 0) + 1
    groups = []
    for position in sorted(sizes):
        drawn = rng.choice(len(model.heads), sizes[position], replace=False)
        groups.append(Group(f"random at {position}", position, tuple(model.heads[i] for i in sorted(drawn))))
    return Circuit(tuple(groups))
