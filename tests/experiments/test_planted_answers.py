"""Each method on a case whose answer is known by construction."""

from __future__ import annotations

import numpy as np
import torch

from mechdiff.circuits import Circuit, Group, Head, Position
from mechdiff.engine.edits import Block
from mechdiff.engine.examples import Examples
from mechdiff.engine.run import Run
from mechdiff.experiments.attention_patterns import circuit_attention
from mechdiff.experiments.cmap import PARTS, cmap
from mechdiff.experiments.completeness import RANDOM, completeness, knocked_out
from mechdiff.experiments.dcm import Pairs, Training, functional_circuit, masks
from mechdiff.experiments.faithfulness import edits_correct, model_correct
from mechdiff.experiments.knockout import EDGES, attention_knockout
from mechdiff.models.hooks import last_logits
from mechdiff.models.patchable import PatchableModel, patchable
from micro import micro_llama, word_tokenizer

MEMORY, VOCABULARY = 10**9, 12
EVERYWHERE = {p: i for i, p in enumerate(Position)}  # prompts of five tokens, one for each named position


def five_tokens(n: int, seed: int) -> torch.Tensor:
    """Prompts whose final token is always the same."""
    ids = torch.randint(VOCABULARY, (n, 5), generator=torch.Generator().manual_seed(seed))
    ids[:, EVERYWHERE[Position.LAST]] = 0
    return ids


def examples(ids: torch.Tensor, answers: torch.Tensor) -> Examples:
    places = {Position.LAST: 4, Position.QUERY_LABEL: 3, Position.PREVIOUS_QUERY_LABEL: 1, Position.CORRECT_OBJECT: 0}
    places[Position.RANDOM_CONTEXT] = 2
    return Examples(ids, answers, {p: torch.full((len(ids),), i) for p, i in places.items()})


def whole(model: PatchableModel) -> Circuit:
    """The circuit of all heads at all five tokens."""
    return Circuit(tuple(Group(p.value, p, tuple(model.heads)) for p in Position))


def test_the_one_head_that_carries_the_target_is_the_mask():
    model, carrier = micro_llama(2, 4, vocabulary=VOCABULARY, spread=0.5), Head(1, 2)
    for layer in range(2):  # nothing but one head writes to the stream
        kept = torch.zeros(4, model.head_dim)
        kept[carrier.index] = 50.0 * (layer == carrier.layer)
        model.outputs[layer].weight.mul_(kept.flatten())
    original, alternate = five_tokens(300, 1), five_tokens(300, 2)
    original[:, 4] = alternate[:, 4] = 0  # the final token sees nothing but what that head brings
    own, target = (last_logits(model, ids).argmax(-1) for ids in (original, alternate))
    differ = own != target
    assert differ.sum() >= 40
    original, alternate, target = original[differ][:40], alternate[differ][:40], target[differ][:40]
    pairs = Pairs(Run(model, examples(original, target), MEMORY), Run(model, examples(alternate, target), MEMORY))
    circuit = Circuit((Group("A", Position.LAST, tuple(model.heads)),))
    settings = Training(sparsity=(0.01, 0.1), learning_rate=0.1, batch_size=10, epochs=5)
    found = masks(circuit, dict.fromkeys(("train", "validation", "test"), pairs), settings, np.random.default_rng(0))
    assert found["A"].heads == (carrier,)
    assert found["A"].validation == 1 and found["A"].test.all()
    assert len(found["A"].curve) == 2 * 5 * 4 and set(found["A"].curve["sparsity"]) == {0.01, 0.1}
    functional = functional_circuit(circuit, {("A", "object"): found["A"]}, {"A": "object"})
    assert functional["A"].heads == (carrier,)
    assert functional_circuit(circuit, {}, {"A": None})["A"].heads == circuit["A"].heads


def test_a_mask_that_nothing_supports_patches_nothing():
    model = micro_llama(2, 2, vocabulary=VOCABULARY)
    ids = five_tokens(16, 1)
    run = Run(model, examples(ids, last_logits(model, ids).argmax(-1)), MEMORY)  # the target is the own answer
    circuit = Circuit((Group("A", Position.LAST, tuple(model.heads)), Group("D", Position.QUERY_LABEL, ())))
    settings = Training(sparsity=(0.01,), learning_rate=0.1, batch_size=8, epochs=2)
    parts = dict.fromkeys(("train", "validation", "test"), Pairs(run, run))
    found = masks(circuit, parts, settings, np.random.default_rng(0))
    assert set(found) == {"A"} and found["A"].heads == () and found["A"].validation == 1


def test_with_all_heads_at_all_positions_patched_the_recipient_is_the_donor():
    recipient = micro_llama(3, 2, vocabulary=VOCABULARY, spread=0.5, seed=1)
    network = micro_llama(3, 2, vocabulary=VOCABULARY, spread=0.5, seed=1).network
    torch.manual_seed(5)
    for layer in network.model.layers:  # the donor differs in its attention alone
        for projection in ("q_proj", "k_proj", "v_proj"):
            torch.nn.init.normal_(getattr(layer.self_attn, projection).weight, std=0.5)
    donor, ids = patchable("donor", network), five_tokens(64, 3)
    answers = last_logits(donor, ids).argmax(-1)
    answers[::4] = (answers[::4] + 1) % VOCABULARY
    rows = examples(ids, answers)
    mine, theirs = (Run(model, rows, MEMORY) for model in (recipient, donor))
    found = cmap(mine, theirs, {"functional": whole(recipient), "all": whole(recipient)})
    right = found.set_index(["heads", "group", "part"])["correct"]
    alone = {part: right["none", "", part].to_numpy() for part in ("recipient", "donor")}
    assert alone["donor"].mean() == 0.75 and (alone["donor"] != alone["recipient"]).any()
    assert (right["functional", "circuit", "output"].to_numpy() == alone["donor"]).all()
    assert (right["functional", "circuit", "qkv"].to_numpy() == alone["donor"]).all()
    assert (right["functional", "circuit", "q"].to_numpy() != alone["donor"]).any()
    asked = found[found["heads"] == "functional"]
    assert set(asked["part"]) == set(PARTS) and set(asked["group"]) == {p.value for p in Position} | {"circuit"}
    back = cmap(mine, mine, {"functional": whole(recipient)}).set_index(["heads", "group", "part"])
    assert (back.loc[("functional", "circuit", "output"), "correct"].to_numpy() == alone["recipient"]).all()


def test_a_token_that_may_not_look_back_knows_no_more_than_chance():
    model = micro_llama(3, 2, vocabulary=VOCABULARY, spread=0.5)
    ids = torch.stack([torch.arange(VOCABULARY).repeat(4), torch.zeros(4 * VOCABULARY, dtype=torch.int64)], 1)
    answers = torch.arange(VOCABULARY).repeat(4)  # each word as often
    positions = {Position.CORRECT_OBJECT: 0, Position.LAST: 1}
    run = Run(model, Examples(ids, answers, {p: torch.full((len(ids),), i) for p, i in positions.items()}), MEMORY)
    blocks = [Block(Position.LAST, Position.CORRECT_OBJECT, layer) for layer in range(4)]
    blind, *_, untouched = edits_correct(run, blocks, None)
    assert blind.mean() == 1 / VOCABULARY
    assert (untouched == model_correct(run)).all()


def test_knockout_has_every_edge_and_layer_and_the_untouched_model():
    model, ids = micro_llama(3, 2, vocabulary=VOCABULARY, spread=0.5), five_tokens(10, 1)
    run = Run(model, examples(ids, last_logits(model, ids).argmax(-1)), MEMORY)
    found = attention_knockout(run)
    assert len(found) == 10 * (1 + 3 * sum(map(len, EDGES.values())))
    assert found.loc[found["query"] == "", "correct"].all()


def test_the_whole_model_is_complete_against_itself():
    model, ids = micro_llama(2, 3, vocabulary=VOCABULARY, spread=0.5), five_tokens(40, 1)
    answers = last_logits(model, ids).argmax(-1)
    run, circuit = Run(model, examples(ids, answers), MEMORY), whole(model)
    sets = knocked_out(circuit, 4, np.random.default_rng(0))
    found = completeness(run, run.mean_outputs(), circuit, sets)
    assert (found["circuit"] == found["full_model"]).all() and not found["circuit"].all()
    assert found.groupby(["removed", "draw"])["nodes"].first()[RANDOM].tolist() == [15] * 4
    assert set(found["removed"]) == {RANDOM, *(p.value for p in Position)}


def test_nothing_is_made_of_a_model_without_a_circuit():
    model, ids = micro_llama(2, 2, vocabulary=VOCABULARY), five_tokens(4, 1)
    run = Run(model, examples(ids, ids[:, 0]), MEMORY)
    assert knocked_out(Circuit(()), 3, np.random.default_rng(0)) == {}
    assert completeness(run, run.mean_outputs(), Circuit(()), {}).empty
    assert masks(Circuit(()), {}, Training((0.01,), 0.1, 2, 1), np.random.default_rng(0)) == {}
    assert circuit_attention(model, run.examples, Circuit(()), word_tokenizer(["a"])).empty


def test_a_heads_attention_is_that_of_the_models_own_weights():
    model, ids = micro_llama(2, 4, values=2, vocabulary=VOCABULARY, spread=0.5), five_tokens(6, 1)
    head = Head(1, 3)
    circuit = Circuit((Group("C", Position.QUERY_LABEL, (head, Head(0, 0))), Group("A", Position.LAST, ())))
    words = word_tokenizer([f"w{i}" for i in range(VOCABULARY)])
    found = circuit_attention(model, examples(ids, ids[:, 0]), circuit, words)
    model.network.set_attn_implementation("eager")
    own = model.network(ids, output_attentions=True).attentions[1][:, 3, 3]  # from the fourth token, query_label
    np.testing.assert_allclose(found["attention"], own[0].detach(), atol=1e-6)
    assert found["attention"].iloc[4] == 0 and abs(found["attention"].sum() - 1) < 1e-6
