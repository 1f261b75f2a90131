"""What the engine does not do: how many tokens go through each layer, and how many bytes are held."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import pytest
import torch

from mechdiff.circuits import Head
from mechdiff.common.errors import InputError
from mechdiff.engine.edits import Block, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.memory import Memory, peak_bytes
from mechdiff.engine.run import Run
from micro import micro_llama
from random_runs import LAST, PREVIOUS, QUERY, Setting, prompts, setting

N, T, LAYERS, HEADS = 6, 16, 5, 3
INTO = (Head(2, 1), Head(4, 0))


@contextmanager
def counting_tokens(model):
    """Tokens that the MLP of each layer sees."""
    seen: Counter = Counter()
    hooks = [
        layer.mlp.register_forward_hook(lambda m, args, out, i=i: seen.update({i: args[0].shape[:-1].numel()}))
        for i, layer in enumerate(model.layers)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def tokens_seen(s: Setting, edits, source) -> list[int]:
    run = Run(s.model, s.examples, 10**9)
    Memory.of(s.model, run.memory)  # runs the first layer once to weigh it, and remembers
    with counting_tokens(s.model) as seen:
        run.evaluate(edits, Run(s.model, source, 10**9) if source is s.noise else source)
    return [seen[layer] for layer in range(LAYERS)]


@pytest.fixture(scope="module")
def s() -> Setting:
    """Every example has its named positions in the same places, so that they are taken together."""
    s = setting(LAYERS, HEADS, HEADS, 8, N, T, 0)
    for examples in (s.examples, s.noise):
        examples.positions.update({QUERY: torch.full((N,), T - 3), PREVIOUS: torch.full((N,), 4)})
    return s


def test_a_path_into_the_logits_is_one_token_through_the_layers_above_its_sender(s):
    seen = tokens_seen(s, [PathPatch(head, LAST) for head in s.model.heads], s.noise)
    assert seen == [2 * N * T + N * HEADS * (layer + 1) for layer in range(LAYERS)]


def test_a_path_into_values_recomputes_the_suffix_from_the_lowest_receiver_above_the_sender(s):
    seen = tokens_seen(s, [PathPatch(head, QUERY, INTO, Part.VALUE) for head in s.model.heads], s.noise)
    frozen = [N * HEADS * (layer + 1) if layer < 4 else 0 for layer in range(LAYERS)]  # up to the highest receiver
    # Senders of layers 0 and 1 reach layer 2; those of layers 2 and 3 reach layer 4, where one token is left to do.
    second = [0, 0, N * 3 * 2 * HEADS, N * 3 * 2 * HEADS, N * 4 * HEADS]
    noise = [N * T if layer < 4 else 0 for layer in range(LAYERS)]
    assert seen == [N * T + noise[i] + frozen[i] + second[i] for i in range(LAYERS)]


def test_removing_one_head_at_the_last_token_from_a_circuit_is_one_token_from_its_layer_up(s):
    others = {(Head(0, 1), LAST), (Head(1, 1), QUERY), (Head(0, 2), PREVIOUS)}
    circuit = frozenset(others | {(Head(i, 0), LAST) for i in range(LAYERS)})
    seen = tokens_seen(s, [Keep(circuit), *(Keep(circuit - {(Head(i, 0), LAST)}) for i in range(LAYERS))], s.means)
    # The ablated run, a token at a place once however many prompts have it there; the nodes at the two label positions
    # once; at the last token the circuit and, from the layer of the removed head up, the circuit without it.
    labels = [2 * N if layer < LAYERS - 1 else N for layer in range(LAYERS)]
    distinct = len({(token, place) for prompt in s.examples.input_ids.tolist() for place, token in enumerate(prompt)})
    assert distinct < N * T
    assert seen == [distinct + labels[layer] + N * (layer + 2) for layer in range(LAYERS)]


def test_edits_of_one_call_recompute_each_its_own_suffix_and_the_source_only_where_it_is_read(s):
    edits = [Replace(frozenset({(Head(0, 0), position)})) for position in (LAST, PREVIOUS)]
    seen = tokens_seen(s, edits, s.noise)
    suffix = T - 4
    captured = [2 * N * T] + [N * T] * (LAYERS - 1)
    assert seen == [c + N * (1 + (suffix if layer < LAYERS - 1 else 1)) for layer, c in enumerate(captured)]


def test_a_knockout_from_a_layer_up_leaves_the_layers_below_alone(s):
    seen = tokens_seen(s, [Block(LAST, QUERY, layer) for layer in range(LAYERS)], None)
    assert seen == [N * T + N * (layer + 1) for layer in range(LAYERS)]


def test_an_edit_of_one_head_at_the_last_token_is_one_token_from_its_layer_up(s):
    seen = tokens_seen(s, [Replace(frozenset({(Head(3, 1), LAST)}))], s.means)
    assert seen == [N * T, N * T, N * T, N * T + N, N * T + N]


SHAPES = [(4, 8, 8, 16, 40, 54), (3, 12, 3, 16, 32, 30), (2, 2, 2, 64, 100, 20)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("memory", [3_000_000, 30_000_000])
def test_the_budget_is_kept(shape, memory):
    s = setting(*shape, seed=0)
    heads, top = s.model.heads, len(s.model.layers) - 1
    into = (Head(1, 1), Head(top, 0))
    run, noise = Run(s.model, s.examples, memory), Run(s.model, s.noise, memory)
    own = torch.full((2,), 0.5)
    for edits, source in [
        ([PathPatch(head, LAST) for head in heads], noise),
        ([PathPatch(head, PREVIOUS, into, Part.VALUE) for head in heads], noise),
        ([Keep(frozenset({(head, LAST), (heads[0], QUERY), (heads[1], PREVIOUS)})) for head in heads], s.means),
        ([Replace(frozenset({(head, QUERY)}), frozenset({Part.VALUE, Part.QUERY})) for head in heads], run),
        ([Block(QUERY, PREVIOUS, layer) for layer in range(top)], None),
        ([Mix(LAST, (Head(0, 0), Head(top, 1)), own)], noise),
        ([], None),
    ]:
        assert peak_bytes(lambda run=run, edits=edits, source=source: run.evaluate(edits, source)) <= memory
    assert peak_bytes(run.mean_outputs) <= memory


def test_the_budget_is_kept_with_gradients():
    s = setting(*SHAPES[0], seed=0)
    memory = 60_000_000
    mask = Mix(LAST, (Head(0, 0), Head(3, 1)), torch.full((2,), 0.5, requires_grad=True))

    def learn() -> None:
        _, mixed = Run(s.model, s.examples, memory).evaluate([mask], Run(s.model, s.noise, memory))
        mixed.logit.sum().backward()

    assert peak_bytes(learn) <= memory


def test_gradients_of_more_examples_than_fit_at_once_keep_the_budget():
    s, gradients = setting(*SHAPES[0], seed=0), []
    for memory in (10**9, 3_000_000):
        own = torch.full((2,), 0.5, requires_grad=True)

        def learn(own=own, memory=memory) -> None:
            mask = Mix(LAST, (Head(0, 0), Head(3, 1)), own)
            _, mixed = Run(s.model, s.examples, memory).evaluate([mask], Run(s.model, s.noise, memory))
            mixed.logit.sum().backward()

        held = peak_bytes(learn)
        assert held <= memory
        gradients.append((own.grad, held))
    (all_at_once, more), (in_turn, less) = gradients
    torch.testing.assert_close(in_turn, all_at_once, atol=1e-5, rtol=1e-5)
    assert less < 3_000_000 < more


def test_what_cannot_fit_says_how_much_it_needs_and_then_fits():
    s = setting(*SHAPES[0], seed=0)
    edits = [PathPatch(head, PREVIOUS, (Head(2, 0),), Part.VALUE) for head in s.model.heads]

    def evaluate(memory: int) -> None:
        Run(s.model, s.examples, memory).evaluate(edits, Run(s.model, s.noise, memory))

    with pytest.raises(InputError, match=r"^memory: 100000 bytes are too few, .* need \d+$") as error:
        evaluate(100_000)
    needed = int(str(error.value).split()[-1])
    for _ in range(5):  # examples whose tokens are laid out otherwise may need more
        try:
            evaluate(needed)
            break
        except InputError as more:
            assert int(str(more).split()[-1]) > needed
            needed = int(str(more).split()[-1])
    assert peak_bytes(lambda: evaluate(needed)) <= needed


def test_a_layer_is_weighed_by_what_its_tensors_hold():
    small, large = (Memory.of(micro_llama(2, heads, head_dim=16), 10**9) for heads in (2, 4))
    assert 1.8 < large.token / small.token < 2.2
    assert peak_bytes(lambda: torch.zeros(10) + torch.zeros(10)) == 3 * 40
    assert prompts(2, 8, 0).input_ids.shape == (2, 8)
