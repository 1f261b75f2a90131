"""What fits: the bytes that a computation holds at once, and how many examples and edits to take together.

A model's own layers are not modelled but weighed: one is run on a few tokens, and the bytes of all tensors alive at the
worst moment are counted. What the engine itself holds is known and added.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mechdiff.common.errors import InputError
from mechdiff.engine.attention import causal
from mechdiff.models.patchable import PatchableModel

# On a CPU products are no faster over more than this [bytes in flight], and what its caches do not hold is slower.
CPU_BYTES = 80_000_000
ENOUGH_ROWS = 64  # of one example, taken together; more examples are then better, they have tokens in common
WEIGHED_TOKENS = 64  # or a prompt, where it is longer: attention may hold more for each token then
SCORE_BYTES = 24  # a token's attention score to another, as made, joined, in float32, masked, as a weight
MARGIN = 1.15  # allocators round up


class _Alive(TorchDispatchMode):
    """Counts the bytes of the storages made while it is entered and not freed yet."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        mine = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in self.known and id(storage) not in mine:
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        size, key = storage.nbytes(), id(storage)

        def freed(_: weakref.ref) -> None:
            self.now -= size
            del self.known[key]

        self.known[key] = weakref.ref(storage, freed)
        self.now += size
        self.peak = max(self.peak, self.now)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors, made by ``function``, that were alive at once; nothing a kernel holds inside."""
    with _Alive() as alive:
        function()
    return alive.peak


_found: weakref.WeakKeyDictionary[nn.Module, dict] = weakref.WeakKeyDictionary()  # a network is let go with its owner


def _weighed(model: PatchableModel, tokens: int, learned: bool) -> float:
    """Bytes that one of so many tokens holds in a layer at the worst moment; learned: with the gradient of what enters
    it."""
    of_network = _found.setdefault(model.network, {})
    key = (tokens, learned, model.weight.dtype, model.device)
    if key not in of_network:
        of_network[key] = _weigh(model, tokens, learned)
    return of_network[key]


def _weigh(model: PatchableModel, tokens: int, learned: bool) -> float:
    stream = torch.zeros(1, tokens, model.width, device=model.device, requires_grad=learned)
    told = model.placed(torch.arange(tokens, device=model.device)[None]).at(0)

    def layer() -> None:
        after = model.run_layer(0, stream, told, causal)
        if learned:
            torch.autograd.grad(after.sum(), stream)

    with torch.set_grad_enabled(learned):
        return peak_bytes(layer) / tokens


@dataclass(frozen=True)
class Fit:
    """How much to take together: examples, and rows (edits) of each."""

    examples: int
    rows: int


@dataclass(frozen=True)
class Need:
    """What examples of one layout hold [bytes]: each example once captured, each of its prompt's tokens while it is
    captured, each row of edits, and each row of logits. examples, rows: how many there are; tokens: of a row."""

    examples: int
    rows: int
    tokens: int
    captured: int
    prompt: int
    row: int
    logits: int

    def bytes(self, examples: int, rows: int) -> int:
        """At once, for some examples and rows of each whose tensors are let go as soon as they can be."""
        return examples * self.captured + max(examples * self.prompt, examples * rows * self.row, self.logits)


@dataclass(frozen=True)
class Memory:
    """A model's needs against a budget [bytes], the weights not counted.

    token: what one token in a layer holds at the worst moment, or with ``learned`` until gradients are taken; head:
    what the unembedding holds beside its weights; logits: one row of logits, as made and on the way to a sum.
    """

    model: PatchableModel
    budget: int
    learned: bool
    token: int
    head: int
    logits: int

    @classmethod
    def of(cls, model: PatchableModel, budget: int, prompt: int = 0, learned: bool = False) -> Memory:
        """Weigh a model's layer, for prompts of so many tokens."""
        weight = model.weight
        weighed = _weighed(model, max(prompt, WEIGHED_TOKENS), learned)
        # Beside what the layer makes: the stream entering it, and that of the layer below while rows are gathered.
        token = int(MARGIN * (weighed + 8 * model.width * 4))
        head = 0 if weight.dtype is torch.float32 else weight.numel() * 4  # a copy in float32
        return cls(model, budget, learned, token, head, logits=weight.shape[0] * 16)

    def need(self, examples: int, rows: int, tokens: int, prompt: int, captured: int) -> Need:
        """For examples of ``prompt`` tokens that hold ``captured`` bytes each, and rows of live tokens."""
        scores = SCORE_BYTES * self.model.heads_per_layer * tokens * (prompt + tokens)
        row = tokens * self.token + scores
        return Need(examples, rows, tokens, captured, prompt * self.token, row, self.head + self.logits)

    def fit(self, need: Need) -> Fit:
        """The most examples, and rows of each, that fit: half the budget for what is captured, half to compute in.

        InputError when not even one row of one example fits, with the bytes that it needs.
        """
        self._require(need.bytes(1, 1))
        half = self.budget // 2
        most = self._at_once(half) * need.tokens // need.row
        least = max(need.prompt // self.token, min(need.rows, ENOUGH_ROWS) * need.tokens)
        n = max(1, min(need.examples, most // least, half // need.captured))
        left = (self.budget - n * need.captured) // (n * need.row)
        return Fit(n, max(1, min(need.rows, most // (n * need.tokens), left)))

    def fit_learned(self, needs: Sequence[Need]) -> tuple[list[Fit], bool]:
        """The most examples whose layers can be held until gradients are taken, with every row of each; and whether all
        can be. InputError when one example is too much."""
        layers = len(self.model.layers)
        each = [n.captured + max(n.prompt, n.rows * (layers * n.row + 2 * n.logits)) for n in needs]
        self._require(max(each, default=0))
        fits = [Fit(min(n.examples, self.budget // held), n.rows) for n, held in zip(needs, each, strict=True)]
        return fits, sum(n.examples * held for n, held in zip(needs, each, strict=True)) <= self.budget

    def _require(self, needed: int) -> None:
        if needed > self.budget:
            raise InputError(f"memory: {self.budget} bytes are too few, this model and these prompts need {needed}")

    def logit_rows(self) -> int:
        """Rows whose logits are looked at together."""
        return max(1, min(self._at_once(self.budget // 4), 3 * self.budget // 8 - self.head) // self.logits)

    def _at_once(self, budget: int) -> int:
        return min(budget, CPU_BYTES) if self.model.device.type == "cpu" else budget
