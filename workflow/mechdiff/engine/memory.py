"""What fits: the bytes that a computation holds at once, and how many examples and edits to take together.

A model's own layers are not modelled but weighed: one is run on a few tokens, and the bytes of all tensors alive at the
worst moment are counted. What the engine itself holds is known and added.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mechdiff.engine.attention import causal
from mechdiff.errors import InputError
from mechdiff.models import PatchableModel

# More tokens at once do not make matrix products faster on a CPU, and larger temporaries make everything slower.
CPU_TOKENS = 1024
WEIGHED_TOKENS = 64
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


@dataclass(frozen=True)
class Fit:
    """How much to take together: examples, and rows (edits) of each."""

    examples: int
    rows: int


@dataclass(frozen=True)
class Memory:
    """A model's needs against a budget [bytes], the weights not counted.

    token: what one token in a layer holds at the worst moment; logits: the same for one row of logits.
    """

    budget: int
    device: torch.device
    token: int
    logits: int

    @classmethod
    def of(cls, model: PatchableModel, budget: int) -> Memory:
        """Weigh a model's layer and its unembedding."""
        weight = model.weight
        stream = weight.new_zeros(1, WEIGHED_TOKENS, model.width)
        rotations = model.rotations(torch.arange(WEIGHED_TOKENS, device=weight.device)[None])
        with torch.no_grad():
            layer = peak_bytes(lambda: model.run_layer(0, stream, rotations, causal))
        # Beside what the layer makes: the stream entering it, and that of the layer below while rows are gathered.
        held = layer / WEIGHED_TOKENS + 8 * model.width * weight.itemsize
        logits = weight.shape[0] * (2 * weight.itemsize + 12)  # as made, in float32, a copy less its maximum, its exp
        return cls(budget, weight.device, int(MARGIN * held), logits)

    def fit(self, examples: int, rows: int, tokens: int, prompt: int, held: int, scores: int, deep: int) -> Fit:
        """The most examples, and rows of each, that fit: half the budget for what is captured, half to compute in.

        examples, rows: how many there are; tokens: live tokens of a row; prompt: tokens of a prompt; held: bytes that
        a captured example holds; scores: bytes of the attention scores of one row of one example; deep: layers whose
        tensors are held at once.
        InputError when not even one row of one example fits, with the bytes that it would need.
        """
        row = (tokens * self.token + scores) * deep
        needed = held + max(prompt * self.token, row, self.logits)
        if needed > self.budget:
            raise InputError(f"memory: {self.budget} bytes are too few, this model and prompt need {needed}")
        most = self.budget // 2 // (row // tokens)
        if self.device.type == "cpu":
            most = min(most, CPU_TOKENS)
        n = max(1, min(examples, most // max(prompt, rows * tokens), self.budget // 2 // held))
        return Fit(n, max(1, min(rows, most // (n * tokens), (self.budget - n * held) // (n * row))))

    def logit_rows(self) -> int:
        """Rows whose logits are looked at together."""
        most = CPU_TOKENS // 4 if self.device.type == "cpu" else CPU_TOKENS * 4
        return max(1, min(most, self.budget // 8 // self.logits))
