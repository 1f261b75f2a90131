"""The engine's one call: a run, edits made to it, and what each edit makes of the answer.

    run = Run(model, examples, memory)
    base, patched = run.evaluate(edits, source)

Edits are data (:mod:`mechdiff.engine.edits`). Caching, batching and the memory budget are in here and not the caller's
business. The outcomes are those of whole forward passes with hooks (:mod:`mechdiff.engine.plain`), to rounding.

A model of a family that the engine is not tested on is run by those, at their cost.

1. Examples whose live tokens are laid out alike are taken together, as many as the budget allows.
2. Their base run is captured: clean, or ablated where the edits say what is kept.
3. The edits, as many at a time as fit, are walked up their causal cone.
4. Logits are looked at a few rows at a time; an edit that never differed from the base run has its outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mechdiff.circuits import Position
from mechdiff.engine.capture import Wanted, capture
from mechdiff.engine.chunk import Chunk, Layout, Source
from mechdiff.engine.edits import Block, Edit, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.examples import Examples
from mechdiff.engine.knockout import Knockouts
from mechdiff.engine.memory import Memory, Need
from mechdiff.engine.outcome import Outcome, joined, read_outcome
from mechdiff.engine.paths import Paths
from mechdiff.engine.plain import PlainRun
from mechdiff.engine.shares import Shares
from mechdiff.models.patchable import PatchableModel

Kind = Shares | Knockouts | Paths


@dataclass(frozen=True)
class Run:
    """A model on prompts [N, T], nothing patched. memory: bytes that may be held beyond the weights."""

    model: PatchableModel
    examples: Examples
    memory: int

    def evaluate(
        self,
        edits: Sequence[Edit],
        source: Run | Tensor | None = None,
        done: Callable[[int], None] = lambda rows: None,
    ) -> tuple[Outcome, Outcome]:
        """Outcomes of the base run [N] and of every edit made to it [E, N].

        edits: all of one kind; path patches with the same position and receivers, blocks of the same edge.
        source: a run on as many prompts, or mean outputs [L, T, H, d]. done(rows): called with edits times examples
        that are finished. Gradients flow to the shares of Mix edits.
        InputError when a single example needs more than the memory; ValueError for edits of different kinds, or a
        source that does not fit them.
        """
        _require_fitting(edits, self.examples, source)
        if not self.model.known:
            return self._plain().evaluate(edits, source._plain() if isinstance(source, Run) else source, done)
        kind = _kind(self.model, edits or [Replace(frozenset())])
        if isinstance(source, Tensor):  # once, not for every chunk
            source = source.to(self.model.device, self.model.weight.dtype)
        prompt = self.examples.input_ids.shape[1]
        memory = Memory.of(self.model, self.memory, prompt, kind.learned)
        order = sorted(range(len(edits)), key=lambda e: kind.does[e])  # those that begin alike side by side
        layouts = list(kind.layouts(self.examples))
        needs = [self._need(memory, kind, layout, max(1, len(edits))) for layout in layouts]
        fits, held = memory.fit_learned(needs) if kind.learned else ([memory.fit(need) for need in needs], True)
        members, parts = [], []
        for layout, fit in zip(layouts, fits, strict=True):
            for start in range(0, len(layout.members), fit.examples):
                some = slice(start, start + fit.examples)
                members.append(layout.members[some])
                chunk = self._chunk(members[-1], layout.live[some], layout.slots, source)
                if held:
                    parts.append(self._outcome(kind, chunk, members[-1], order, fit.rows, memory, done))
                else:  # computed again when gradients are taken
                    asked = (kind, chunk, members[-1], order, fit.rows, memory, lambda rows: None)
                    parts.append(checkpoint(self._outcome, *asked, use_reentrant=False))
                    done(len(edits) * len(members[-1]))
        outcome = joined(parts, 1)
        examples, rows = torch.cat(members).argsort(), 1 + torch.tensor(order, dtype=torch.int64).argsort()
        base, edited = outcome.map(lambda x: x[0, examples]), outcome.map(lambda x: x[rows][:, examples])
        if kind.learned:  # a mask that cannot reach the answer has the gradient 0, not none
            none = 0 * sum(edit.own.sum() for edit in edits if isinstance(edit, Mix)).to(edited.logit)
            edited = replace(edited, logit=edited.logit + none, log_probability=edited.log_probability + none)
        return base, edited

    def take(self, rows: Tensor | slice) -> Run:
        """The same model on these of the prompts."""
        return replace(self, examples=self.examples.take(rows))

    def _plain(self) -> PlainRun:
        """The same by whole forward passes; as many prompts together as fit, with those of a source."""
        everything = Wanted(read=torch.zeros_like(self.examples.input_ids[:1]), parts=frozenset(Part))
        held = 2 * everything.bytes(self.model, self.examples.input_ids.shape[1])
        return PlainRun(self.model, self.examples, max(1, self.memory // held))

    def mean_outputs(self) -> Tensor:
        """Mean output of each head at each absolute position [L, T, H, d], summed in float64 and kept in float32."""
        if not self.model.known:
            return self._plain().mean_outputs()
        length = self.examples.input_ids.shape[1]
        everywhere = torch.arange(length)
        memory = Memory.of(self.model, self.memory, length)
        captured = Wanted(read=everywhere[None]).bytes(self.model, length)
        fit = memory.fit(memory.need(len(self.examples), 1, length, length, captured))
        total: Tensor | int = 0
        for batch in self.examples.batches(fit.examples):
            wanted = Wanted(read=everywhere.expand(len(batch), -1))
            with torch.no_grad():
                kept = capture(self.model, batch.input_ids, wanted).parts[Part.OUTPUT]
            total = total + torch.stack([z.double().sum(0).cpu() for z in kept])  # layers may be on several devices
        return (total / len(self.examples)).float()

    def _need(self, memory: Memory, kind: Kind, layout: Layout, edits: int) -> Need:
        prompt = self.examples.input_ids.shape[1]
        captured = kind.wanted(layout).bytes(self.model, prompt) + kind.source_bytes(prompt)
        return memory.need(len(layout.members), edits, layout.live.shape[1], prompt, captured)

    def _chunk(self, members: Tensor, live: Tensor, slots: dict[Position, int], source: Run | Tensor | None) -> Chunk:
        if isinstance(source, Run):
            taken = Source(model=source.model, examples=source.examples.take(members))
        else:
            taken = None if source is None else Source(means=source)
        mine = self.examples.take(members)
        return Chunk(self.model, mine.input_ids, live, slots, mine.positions, taken)

    def _outcome(
        self, kind: Kind, chunk: Chunk, members: Tensor, order: Sequence[int], rows: int, memory: Memory, done
    ) -> Outcome:
        """Outcomes [1 + E, n], the base run first and then the edits in the order they are taken."""
        learned = kind.learned
        answers = self.examples.answers[members].to(self.model.device)
        with torch.set_grad_enabled(learned):
            opened = kind.open(chunk)
            base = read_outcome(self.model, opened.base.last[:, None], answers, memory.logit_rows())
            parts = [base]
            for start in range(0, len(order), rows):
                some = order[start : start + rows]
                stream, place = opened.streams(some)
                found = base
                if stream is not None:
                    found = joined([base, read_outcome(self.model, stream, answers, memory.logit_rows())], 0)
                parts.append(found.map(lambda x, place=place: x[list(place)]))
                done(len(some) * len(members))
            found = joined(parts, 0)
            if answers.device.type == "meta":  # nothing but shapes: there is no data to bring home
                return found
            return found.map(lambda x: x.to(self.examples.input_ids.device))


def _require_fitting(edits: Sequence[Edit], examples: Examples, source: Run | Tensor | None) -> None:
    parts = {part for edit in edits if isinstance(edit, Replace) for part in edit.parts}
    if isinstance(source, Run):
        if len(source.examples) != len(examples):
            raise ValueError(f"the source has {len(source.examples)} examples, the run {len(examples)}")
        same = all(torch.equal(at, source.examples.positions[p]) for p, at in examples.positions.items())
        same = same and source.examples.input_ids.shape == examples.input_ids.shape
        if parts - {Part.OUTPUT} and not same:
            raise ValueError("queries, keys and values can only be taken from prompts with the same positions")
    elif parts - {Part.OUTPUT}:
        raise ValueError("queries, keys and values can only be taken from a run, not from mean outputs")


def _kind(model: PatchableModel, edits: Sequence[Any]) -> Kind:
    """What can evaluate these edits together."""
    first = edits[0]
    if all(isinstance(e, Keep) for e in edits) or all(isinstance(e, Replace | Mix) for e in edits):
        return Shares(model, edits)
    if all(isinstance(e, Block) and (e.query, e.key) == (first.query, first.key) for e in edits):
        return Knockouts(model, edits)
    into = [(e.position, e.receivers, e.via) for e in edits if isinstance(e, PathPatch)]
    if len(into) == len(edits) and len(set(into)) == 1:
        return Paths(model, edits)
    raise ValueError("edits of one call must be of one kind, into the same receivers, of the same edge")
