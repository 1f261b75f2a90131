"""The plain way to do what the engine does: one whole forward pass, with hooks, for every edit and all its layers.

Nothing here is shared, cached or skipped; the engine is held to it, in tests and benchmarks, for every kind of edit. A
model of a family that the engine is not tested on is run this way.
Axes: N examples, T tokens, H heads, d dimensions of a head, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from mechdiff.circuits import Head
from mechdiff.engine.edits import Block, Edit, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.examples import Examples
from mechdiff.engine.outcome import Outcome, joined
from mechdiff.models.attention import Scoring
from mechdiff.models.hooks import attending, capture_outputs, editing_outputs, editing_vectors, last_logits
from mechdiff.models.patchable import PatchableModel

Kept = dict[Part, list[Tensor]]  # per layer [N, T, H, d]
VECTORS = (Part.QUERY, Part.KEY, Part.VALUE)


@dataclass(frozen=True)
class PlainRun:
    """A model on prompts, nothing patched; a source may be another one. The same call as the engine's Run."""

    model: PatchableModel
    examples: Examples
    batch_size: int = 100

    def take(self, rows: Tensor | slice) -> PlainRun:
        """The same model on these of the prompts."""
        return PlainRun(self.model, self.examples.take(rows), self.batch_size)

    def evaluate(
        self,
        edits: Sequence[Edit],
        source: PlainRun | Tensor | None = None,
        done: Callable[[int], None] = lambda rows: None,
    ) -> tuple[Outcome, Outcome]:
        """Outcomes of the base run [N] and of every edit made to it [E, N]; source as for the engine."""
        parts = []
        for start in range(0, len(self.examples), self.batch_size):
            some = slice(start, start + self.batch_size)
            batch = self.examples.take(some)
            theirs = source.examples.take(some) if isinstance(source, PlainRun) else None
            clean, clean_logits = everything(self.model, batch.input_ids)
            taken = source if theirs is None else everything(source.model, theirs.input_ids)[0]
            base = clean_logits
            if edits and all(isinstance(edit, Keep) for edit in edits):
                base = logits_edited(self.model, batch, theirs, Keep(frozenset()), clean, taken, clean_logits)
            found = [_outcome(base, batch.answers)]
            for edit in edits:
                logits = logits_edited(self.model, batch, theirs, edit, clean, taken, clean_logits)
                found.append(_outcome(logits, batch.answers))
                done(len(batch))
            parts.append(joined([one.map(lambda x: x[None]) for one in found], 0))
        outcome = joined(parts, 1)
        return outcome.map(lambda x: x[0]), outcome.map(lambda x: x[1:])

    def mean_outputs(self) -> Tensor:
        """As the engine's."""
        total: Tensor | int = 0
        for batch in self.examples.batches(self.batch_size):
            outputs, _ = capture_outputs(self.model, batch.input_ids)
            total = total + torch.stack([z.double().sum(0).cpu() for z in outputs])
        return (total / len(self.examples)).float()


def everything(model: PatchableModel, input_ids: Tensor) -> tuple[Kept, Tensor]:
    """Outputs, queries, keys and values of every head in a run with nothing patched, and its last logits [N, V]."""
    kept: Kept = {part: [] for part in Part}

    def keep_output(layer: int, z: Tensor) -> Tensor:
        kept[Part.OUTPUT].append(z)
        return z

    def keep(layer: int, *vectors: Tensor) -> tuple[Tensor, ...]:
        for part, x in zip(VECTORS, vectors, strict=True):
            kept[part].append(x)
        return vectors

    with editing_outputs(model, keep_output), editing_vectors(model, keep):
        return kept, last_logits(model, input_ids)


def _outcome(logits: Tensor, answers: Tensor) -> Outcome:
    logits = logits.cpu().to(torch.promote_types(logits.dtype, torch.float32))
    logit = logits.gather(1, answers[:, None])[:, 0]
    log_probability = logits.double().log_softmax(-1).gather(1, answers[:, None])[:, 0]
    return Outcome(logit, log_probability, logits.argmax(-1))


def logits_edited(
    model: PatchableModel,
    batch: Examples,
    theirs: Examples | None,
    edit: Edit,
    clean: Kept,
    source: Kept | Tensor | None,
    clean_logits: Tensor,
) -> Tensor:
    """Logits [N, V] of one edit. theirs: the source's prompts; source: what was kept of it, or means [L, T, H, d]."""
    match edit:
        case Replace():
            with _replacing(model, batch, theirs, edit, source):
                return last_logits(model, batch.input_ids)
        case Keep():
            assert isinstance(source, Tensor)
            keep = torch.zeros(len(model.layers), *batch.input_ids.shape, model.heads_per_layer, 1, dtype=torch.bool)
            for head, position in edit.nodes:
                keep[head.layer, _rows(batch), batch.positions[position], head.index] = True
            with editing_outputs(model, lambda layer, z: torch.where(keep[layer].to(z.device), z, source[layer].to(z))):
                return last_logits(model, batch.input_ids)
        case Mix():
            with editing_outputs(model, lambda layer, z: _mixed(layer, z, batch, theirs, edit, source)):
                return last_logits(model, batch.input_ids)
        case Block():
            with _blocking(model, batch, edit):
                return last_logits(model, batch.input_ids)
        case PathPatch():
            return _path_patched(model, batch, theirs, edit, clean, source, clean_logits)


def _rows(batch: Examples) -> Tensor:
    return torch.arange(len(batch))


@contextmanager
def _replacing(
    model: PatchableModel, batch: Examples, theirs: Examples | None, edit: Replace, source: Kept | Tensor
) -> Iterator[None]:
    """While open, nodes take their parts from the source; for inputs, their layer attends a second time."""
    rows, inputs = _rows(batch), edit.parts - {Part.OUTPUT}

    def outputs(layer: int, z: Tensor) -> Tensor:
        z = z.clone()
        for head, position in edit.nodes if Part.OUTPUT in edit.parts else ():
            if head.layer == layer:
                at, index = batch.positions[position], head.index
                if isinstance(source, Tensor):
                    z[rows, at, index] = source[layer, at, index].to(z)
                else:
                    z[rows, at, index] = source[Part.OUTPUT][layer][rows, theirs.positions[position], index]
        return z

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        z, nodes = scoring.own(q, k, v, None), [node for node in edit.nodes if node[0].layer == layer]
        vectors = dict(zip(VECTORS, (x.transpose(1, 2).clone() for x in (q, k, v)), strict=True))
        for (head, position), part in product(nodes, inputs):
            slot = model.slot(head, part)
            at = batch.positions[position][:, None] if part is Part.QUERY else slice(None)
            vectors[part][rows[:, None], at, slot] = source[part][layer][rows[:, None], at, slot]
        q, k, v = (x.transpose(1, 2) for x in vectors.values())
        made = scoring.own(q, k, v, None)
        for head, position in nodes:
            at = batch.positions[position]
            z[rows, at, head.index] = made[rows, at, head.index]
        return z

    with editing_outputs(model, outputs), attending(model, attend) if inputs else nullcontext():
        yield


def _mixed(layer: int, z: Tensor, batch: Examples, theirs: Examples, edit: Mix, source: Kept) -> Tensor:
    z, rows, at = z.clone(), _rows(batch), batch.positions[edit.position]
    for head, own in zip(edit.heads, edit.own, strict=True):
        if head.layer == layer:
            other = source[Part.OUTPUT][layer][rows, theirs.positions[edit.position], head.index]
            z[rows, at, head.index] = own * z[rows, at, head.index] + (1 - own) * other
    return z


@contextmanager
def _blocking(model: PatchableModel, batch: Examples, edit: Block) -> Iterator[None]:
    """While open, attention from the first layer up does not see the edge."""
    n, tokens = batch.input_ids.shape
    hidden = torch.zeros(n, 1, tokens, tokens, dtype=torch.bool)
    hidden[_rows(batch), 0, batch.positions[edit.query], batch.positions[edit.key]] = True

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        return scoring.own(q, k, v, hidden.to(q.device) if layer >= edit.first_layer else None)

    with attending(model, attend):
        yield


def _path_patched(
    model: PatchableModel,
    batch: Examples,
    theirs: Examples,
    edit: PathPatch,
    clean: Kept,
    source: Kept,
    clean_logits: Tensor,
) -> Tensor:
    """Section 3 of the definition: two passes, the first with every other head frozen."""
    sender, rows, at = edit.sender, _rows(batch), batch.positions[edit.position]
    if edit.receivers is not None and sender.layer >= max((h.layer for h in edit.receivers), default=0):
        return clean_logits  # it cannot reach them

    def freeze(layer: int, z: Tensor) -> Tensor:
        frozen = clean[Part.OUTPUT][layer]
        if layer == sender.layer:
            frozen = frozen.clone()
            noise = source[Part.OUTPUT][layer][rows, theirs.positions[edit.position], sender.index]
            frozen[rows, at, sender.index] = noise
        return frozen

    if edit.receivers is None:
        with editing_outputs(model, freeze):
            return last_logits(model, batch.input_ids)

    received: dict[int, Tensor] = {}
    which = VECTORS.index(edit.via)

    def read(layer: int, *vectors: Tensor) -> tuple[Tensor, ...]:
        received[layer] = vectors[which][rows, at]
        return vectors

    with editing_outputs(model, freeze), editing_vectors(model, read):
        last_logits(model, batch.input_ids)

    def replace(layer: int, *vectors: Tensor) -> tuple[Tensor, ...]:
        slots = _slots(model, edit.receivers, edit.via, layer)
        if slots:
            vectors = tuple(x.clone() for x in vectors)
            vectors[which][rows[:, None], at[:, None], slots] = received[layer][:, slots]
        return vectors

    with editing_vectors(model, replace):
        return last_logits(model, batch.input_ids)


def _slots(model: PatchableModel, heads: Sequence[Head], via: Part, layer: int) -> list[int]:
    return [model.slot(head, via) for head in heads if head.layer == layer]
