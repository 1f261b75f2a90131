from math import log

import pytest
import torch

from mechdiff.organisms.planting import (
    GROUPS,
    accuracy,
    circuit_loss,
    guidance_loss,
    interchange_loss,
    necessity_loss,
    updated_means,
)


@pytest.fixture
def boxes(organism):
    return organism.scenes.draw(6)


def even_attention(organism, boxes):
    """Attention that looks at every token up to its own alike."""
    tokens = boxes.input_ids.shape[1]
    attention = torch.tril(torch.ones(tokens, tokens)) / torch.arange(1, tokens + 1)[:, None]
    return [attention.expand(len(boxes), 4, -1, -1)] * 6


def test_guidance_of_even_attention(organism, boxes):
    s = organism.scenes
    labels = sum(log(p + 1) for p in s.label_positions.tolist()) / 7
    expected = (2 * log(s.last + 1) + log(s.query_label_position + 1) + labels) / 4  # A and B, C, D
    assert guidance_loss(organism, boxes, even_attention(organism, boxes)).item() == pytest.approx(expected, rel=1e-5)


def test_routes_are_the_papers(organism, boxes):
    s, rows = organism.scenes, torch.arange(len(boxes))
    token = {group: [boxes.input_ids[rows[:, None], p] for p in organism.route(group, boxes)] for group in GROUPS}
    assert torch.equal(token["A"][1][:, 0], boxes.answers)
    assert torch.equal(token["C"][0], token["C"][1])  # the same label, twice
    assert torch.equal(token["B"][1], token["C"][0])
    assert torch.equal(token["D"][1], boxes.objects)
    assert (token["A"][0] == s.template[s.last]).all()


def test_forced_heads_write_the_values_they_should_read(organism, boxes):
    run, rows = organism.run(boxes, forced=True), torch.arange(len(boxes))
    (head, _), attention = organism.planted["D"], organism.model.layers[1].self_attn
    free = organism.run(boxes)
    hidden = organism.model.network.model(boxes.input_ids, output_hidden_states=True).hidden_states[1]
    values = attention.v_proj(organism.model.layers[1].input_layernorm(hidden)).unflatten(-1, (4, -1))
    at, source = organism.route("D", boxes)
    wanted = values[rows[:, None], source, head.index]
    torch.testing.assert_close(run.outputs[1][rows[:, None], at, head.index], wanted)
    assert torch.equal(run.outputs[0], free.outputs[0])  # nothing is planted in layer 0


def test_taking_ones_own_outputs_changes_nothing(organism, boxes):
    run = organism.run(boxes)
    for group in GROUPS:
        again = organism.run(boxes, edit=organism.taking(group, boxes, boxes, run.outputs))
        assert torch.equal(again.logits, run.logits)


def test_ablation_keeps_the_circuit_and_nothing_else(organism, boxes):
    zeros = [torch.zeros_like(z[0]) for z in organism.run(boxes).outputs]
    rows = torch.arange(len(boxes))
    for dropped in ("", *GROUPS):
        run = organism.run(boxes, edit=organism.ablating(boxes, zeros, dropped))
        kept = sum(int((z != 0).any(-1).sum()) for z in run.outputs)
        assert kept == len(boxes) * sum(len(organism.planted[g]) for g in GROUPS if g != dropped)
        for group in set(GROUPS) - {dropped}:
            for head in organism.planted[group]:
                assert (run.outputs[head.layer][rows, organism.circuit_position(group, boxes), head.index] != 0).any()


def test_shuffled_means_move_between_labels_alone(organism, boxes):
    tokens = boxes.input_ids.shape[1]
    numbered = [torch.arange(1.0, tokens + 1)[:, None, None].expand(tokens, 4, 16) for _ in range(6)]
    z = organism.ablating(boxes, numbered, shuffled=3)(0, torch.zeros(len(boxes), tokens, 4, 16))[:, :, 0, 0]
    labels = organism.scenes.label_positions
    assert torch.equal(z[3:], numbered[0][:, 0, 0].expand(3, -1))
    assert (z[:3, labels] != labels + 1).any()
    assert torch.equal(z[:3, labels].sort(1).values, (labels + 1.0).expand(3, -1))
    z[:, labels] = labels + 1.0
    assert torch.equal(z, numbered[0][:, 0, 0].expand(6, -1))


def test_necessity_is_zero_when_nothing_is_known(organism, boxes):
    means = updated_means(None, organism.run(boxes).outputs, 0.5)
    assert necessity_loss(organism, boxes, means, "D").item() >= 0
    with torch.no_grad():
        organism.model.network.model.norm.weight.zero_()  # every logit is 0
    assert necessity_loss(organism, boxes, means, "D").item() == pytest.approx(0, abs=1e-6)


def test_losses_of_even_odds(organism, boxes):
    other = organism.scenes.draw(6, avoiding=boxes.query)
    outputs = organism.run(other).outputs
    means = updated_means(None, outputs, 0.5)
    with torch.no_grad():
        organism.model.network.model.norm.weight.zero_()
    even = log(organism.model.network.config.vocab_size)
    assert circuit_loss(organism, boxes, means, forced=False).item() == pytest.approx(even, rel=1e-5)
    assert interchange_loss(organism, "A", boxes, other, outputs, forced=False).item() == pytest.approx(even, rel=1e-5)


def test_running_means_by_hand():
    means = updated_means(None, [torch.tensor([[[[1.0]]], [[[3.0]]]])], 0.75)
    assert means[0].item() == 2
    assert updated_means(means, [torch.tensor([[[[6.0]]]])], 0.75)[0].item() == 3  # 0.75 * 2 + 0.25 * 6


def test_accuracy_counts_every_scene_once(organism):
    boxes = organism.scenes.draw(7)
    assert accuracy(organism, boxes, batch_size=3) == accuracy(organism, boxes, batch_size=7)
