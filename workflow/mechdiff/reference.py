"""The plain way to do what the engine does: one whole forward pass, with hooks, for every edit and all its layers.

Nothing here is shared, cached or skipped; the engine is held to it, in tests and benchmarks, for every kind of edit.
Axes: N examples, T tokens, H heads, d dimensions of a head, V words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mechdiff.engine.edits import Block, Edit, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.outcome import Outcome, joined
from mechdiff.examples import Examples
from mechdiff.heads import Head
from mechdiff.hooks import editing_outputs, editing_projections, last_logits
from mechdiff.models import PatchableModel

Kept = dict[Part, list[Tensor]]  # per layer [N, T, H, d]


@dataclass(frozen=True)
class PlainRun:
    """A model on prompts, nothing patched; a source may be another one. The same call as the engine's Run."""

    model: PatchableModel
    examples: Examples
    batch_size: int = 100

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


def everything(model: PatchableModel, input_ids: Tensor) -> tuple[Kept, Tensor]:
    """Outputs, queries, keys and values of every head in a run with nothing patched, and its last logits [N, V]."""
    kept: Kept = {part: [] for part in Part}

    def keep(part: Part):
        def edit(layer: int, x: Tensor) -> Tensor:
            kept[part].append(x)
            return x

        return edit

    with ExitStack() as hooks:
        hooks.enter_context(editing_outputs(model, keep(Part.OUTPUT)))
        for part in (Part.QUERY, Part.KEY, Part.VALUE):
            hooks.enter_context(editing_projections(model, part, keep(part)))
        return kept, last_logits(model, input_ids)


def _outcome(logits: Tensor, answers: Tensor) -> Outcome:
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
            keep = torch.zeros(len(model.layers), *batch.input_ids.shape, model.heads_per_layer, 1, dtype=torch.bool)
            for head, position in edit.nodes:
                keep[head.layer, _rows(batch), batch.positions[position], head.index] = True
            with editing_outputs(model, lambda layer, z: torch.where(keep[layer], z, source[layer])):
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
    """While open, nodes take their parts from the source; for inputs, their layer's attention is run a second time."""
    rows, inputs, again = _rows(batch), edit.parts - {Part.OUTPUT}, False
    made: dict[int, Tensor] = {}  # outputs of attention when run again

    def outputs(layer: int, z: Tensor) -> Tensor:
        if again:
            made[layer] = z
            return z
        z = z.clone()
        for head, position in edit.nodes:
            if head.layer == layer:
                at, head = batch.positions[position], head.index
                if Part.OUTPUT not in edit.parts:
                    z[rows, at, head] = made[layer][rows, at, head]
                elif isinstance(source, Tensor):
                    z[rows, at, head] = source[layer, at, head]
                else:
                    z[rows, at, head] = source[Part.OUTPUT][layer][rows, theirs.positions[position], head]
        return z

    def replacing(part: Part):
        def replace(layer: int, x: Tensor) -> Tensor:
            x = x.clone()
            for head, position in edit.nodes:
                if head.layer == layer:
                    slot = model.slot(head, part)
                    at = batch.positions[position][:, None] if part is Part.QUERY else slice(None)
                    x[rows[:, None], at, slot] = source[part][layer][rows[:, None], at, slot]
            return x

        return replace

    def attend_again(module, args, kwargs):
        nonlocal again
        if not again:
            again = True
            with ExitStack() as hooks:
                for part in inputs:
                    hooks.enter_context(editing_projections(model, part, replacing(part)))
                module(*args, **kwargs)
            again = False

    with ExitStack() as hooks:
        hooks.enter_context(editing_outputs(model, outputs))
        for layer in {head.layer for head, _ in edit.nodes} if inputs else ():
            attention = model.layers[layer].self_attn
            hooks.callback(attention.register_forward_pre_hook(attend_again, with_kwargs=True).remove)
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
    """While open, attention from the first layer up gets a mask without the edge."""
    n, tokens = batch.input_ids.shape
    seen = torch.ones(tokens, tokens, dtype=torch.bool).tril().repeat(n, 1, 1, 1)  # [N, 1, T, T]
    seen[_rows(batch), 0, batch.positions[edit.query], batch.positions[edit.key]] = False

    def mask(module, args, kwargs):
        return args, kwargs | {"attention_mask": seen}

    layers = model.layers[edit.first_layer :]
    handles = [layer.self_attn.register_forward_pre_hook(mask, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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

    def read(layer: int, vectors: Tensor) -> Tensor:
        received[layer] = vectors[rows, at]
        return vectors

    with editing_outputs(model, freeze), editing_projections(model, edit.via, read):
        last_logits(model, batch.input_ids)

    def replace(layer: int, vectors: Tensor) -> Tensor:
        slots = _slots(model, edit.receivers, edit.via, layer)
        if slots:
            vectors = vectors.clone()
            vectors[rows[:, None], at[:, None], slots] = received[layer][:, slots]
        return vectors

    with editing_projections(model, edit.via, replace):
        return last_logits(model, batch.input_ids)


def _slots(model: PatchableModel, heads: Sequence[Head], via: Part, layer: int) -> list[int]:
    return [model.slot(head, via) for head in heads if head.layer == layer]
