"""Circuit performance and faithfulness (paper, sections 4.2 and 4.3).

F(C) is the accuracy when every head at every position gives its mean output, except the circuit's heads at their own
positions. MLPs are never ablated. The mean is per head and absolute position over scenes with a random query label.
F(M) is the untouched model's accuracy. Faithfulness = F(C) / F(M). A random circuit has as many heads at each position
as C, drawn without replacement from all heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from mechdiff.examples import Examples
from mechdiff.heads import Circuit, Group, Position
from mechdiff.models import PatchableModel
from mechdiff.reference import capture_outputs, editing_outputs, last_logits


def mean_outputs(model: PatchableModel, examples: Examples, batch_size: int) -> Tensor:
    """Mean output of each head at each absolute position [L, T, H, D], summed in float64 and kept in float32."""
    total: Tensor | int = 0
    for batch in examples.batches(batch_size):
        outputs, _ = capture_outputs(model, batch.input_ids)
        total = total + torch.stack([z.double().sum(0) for z in outputs])
    return (total / len(examples)).float()


def model_correct(model: PatchableModel, examples: Examples, batch_size: int) -> np.ndarray:
    """Whether the untouched model's most likely next token is the answer [N], bool."""
    parts = [last_logits(model, b.input_ids).argmax(-1) == b.answers for b in examples.batches(batch_size)]
    return torch.cat(parts).numpy()


def circuit_correct(
    model: PatchableModel, examples: Examples, means: Tensor, circuit: Circuit, batch_size: int
) -> np.ndarray:
    """The same with all but the circuit mean-ablated [N], bool; means as from :func:`mean_outputs`."""
    parts = [circuit_logits(model, b, means, circuit).argmax(-1) == b.answers for b in examples.batches(batch_size)]
    return torch.cat(parts).numpy()


def circuit_logits(model: PatchableModel, batch: Examples, means: Tensor, circuit: Circuit) -> Tensor:
    """Last token's logits [N, V] with all but the circuit mean-ablated."""
    keep = _kept(model, batch, circuit)
    with editing_outputs(model, lambda layer, z: torch.where(keep[layer], z, means[layer])):
        return last_logits(model, batch.input_ids)


def _kept(model: PatchableModel, batch: Examples, circuit: Circuit) -> Tensor:
    """Which outputs the circuit keeps [L, N, T, H, 1], bool."""
    n, tokens = batch.input_ids.shape
    keep = torch.zeros(len(model.layers), n, tokens, model.heads_per_layer, 1, dtype=torch.bool)
    rows = torch.arange(n)
    for head, position in circuit.nodes():
        keep[head.layer, rows, batch.positions[position], head.index] = True
    return keep


def count_correct(
    model: PatchableModel,
    examples: Examples,
    means: Tensor,
    circuits: Iterable[Circuit],
    batch_size: int,
    counts: dict[Circuit, int],
    done: Callable[[], None] = lambda: None,
) -> dict[Circuit, int]:
    """Right answers by circuit, into ``counts``, for those not in it yet; ``done()`` is called after each asked for."""
    for circuit in circuits:
        if circuit not in counts:
            counts[circuit] = int(circuit_correct(model, examples, means, circuit, batch_size).sum())
        done()
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
