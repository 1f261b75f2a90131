"""The edit Block: attention knockout (spec of the paper's section 4.1, appendix A; Geva et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from mechdiff.engine.capture import Wanted, capture
from mechdiff.engine.chunk import Chunk, Layout, suffixes
from mechdiff.engine.cone import Cone, walk
from mechdiff.engine.edits import Block
from mechdiff.engine.examples import Examples
from mechdiff.engine.rows import branch
from mechdiff.models.patchable import PatchableModel


class Knockouts:
    """The same edge blocked from different layers up. Below its first layer an edit is the base run."""

    learned = False

    def __init__(self, model: PatchableModel, edits: Sequence[Block]) -> None:
        self.model = model
        self.query, self.key = edits[0].query, edits[0].key
        self.named = [self.query]
        self.does = [[layer >= edit.first_layer for layer in range(len(model.layers))] for edit in edits]
        self.nothing = [False] * len(model.layers)
        self.first = branch(self.does, self.nothing).first

    def layouts(self, examples: Examples) -> Iterator[Layout]:
        return suffixes(examples, self.named)

    def wanted(self, layout: Layout | Chunk) -> Wanted:
        return Wanted(live=layout.live, context=True, first=self.first)

    def source_bytes(self, prompt: int) -> int:
        return 0

    def open(self, chunk: Chunk) -> OpenKnockouts:
        return OpenKnockouts(self, chunk)


class OpenKnockouts:
    """The knockouts over the captured base run of some examples."""

    def __init__(self, knockouts: Knockouts, chunk: Chunk) -> None:
        self.knockouts = knockouts
        self.base = capture(chunk.model, chunk.input_ids, knockouts.wanted(chunk))
        blocked = (chunk.slots[knockouts.query], chunk.positions[knockouts.key])
        self.cone = Cone(chunk.model, self.base, chunk.live, blocked)

    def streams(self, edits: Sequence[int]) -> tuple[Tensor | None, Sequence[int]]:
        """The final token's stream [n, R, D] of these edits' rows; for each edit its row plus 1 (0: the base run)."""
        rows = branch([self.knockouts.does[e] for e in edits], self.knockouts.nothing)
        return walk(self.cone, rows), rows.final
