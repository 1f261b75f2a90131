"""F(C), F(M), ablation means and random circuits."""

from math import exp
from typing import Any

import numpy as np
import pytest
import torch
from test_path_patching import examples

from hand_model import hand_model
from mechdiff.circuits import Circuit, Group, Head, Position
from mechdiff.engine.edits import Keep
from mechdiff.engine.examples import Examples, clean_examples
from mechdiff.engine.plain import PlainRun
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import circuits_correct, count_correct, model_correct, random_circuit
from mechdiff.models.hooks import capture_outputs, editing_outputs, last_logits
from micro import build_dataset, micro_llama

NOBODY = Circuit(())


def test_circuit_accuracy_by_hand():
    # The answer, word 0, wins when the second coordinate is positive: head 0 + head 1 = 3 x mean of the two values.
    model = hand_model(1)
    scenes = examples([1, 1], [-2, -2], [4, -2])
    run: Any = PlainRun(model, scenes)  # in place of Run
    assert model_correct(run).tolist() == [True, False, True]
    means = torch.tensor([[[0.0], [0.0]], [[-1.5], [-4.0]]], dtype=torch.float64)[None]
    both = Group("A", Position.LAST, (Head(0, 0), Head(0, 1)))
    first, second = (Circuit((Group("A", Position.LAST, (head,)),)) for head in both.heads)
    assert circuits_correct(run, means, [Circuit((both,)), first, second, NOBODY]).tolist() == [
        [True, False, True],  # kept heads give (1, 2), (-2, -4), (1, 2); the others their mean at the last token
        [False, False, False],  # 1 - 4 < 0
        [True, False, True],  # 2 - 1.5 > 0
        [False, False, False],
    ]


@pytest.fixture(scope="module")
def scenes(task) -> Examples:
    rows = {"discovery": 2, "minimality": 1, "evaluation": 40, "means": 1}
    return clean_examples(build_dataset(task, rows, 0)["evaluation"])


def test_all_heads_in_the_circuit_give_f_of_m_exactly_when_every_token_is_a_named_position():
    """Prompts of five tokens, one for each named position: the circuit of all heads is then the whole model."""
    model = micro_llama(layers=3, heads=3, vocabulary=12)
    ids = torch.randint(12, (64, 5), generator=torch.Generator().manual_seed(0))
    at = {p: torch.full((64,), i) for i, p in enumerate(Position)}
    answers = last_logits(model, ids).argmax(-1)
    answers[::2] = (answers[::2] + 1) % 12
    rows = Examples(ids, answers, at)
    whole = Circuit(tuple(Group(p, p, tuple(model.heads)) for p in Position))
    run = Run(model, rows, 10**9)
    correct, nobody = circuits_correct(run, run.mean_outputs(), [whole, NOBODY]).tolist()
    assert correct == model_correct(run).tolist() == [False, True] * 32
    assert nobody != correct


@pytest.mark.parametrize("run", [lambda model, examples: Run(model, examples, 10**9), PlainRun])
def test_only_the_circuits_heads_at_their_own_positions_keep_their_output(scenes, run):
    """Against an ablation written out by hand, head by head and example by example."""
    model = micro_llama(layers=2, heads=2)
    means = torch.randn(2, scenes.input_ids.shape[1], 2, 4, generator=torch.Generator().manual_seed(0))
    circuit = Circuit((Group("C", Position.QUERY_LABEL, (Head(0, 1),)), Group("B", Position.LAST, (Head(1, 0),))))

    def ablate(layer, z):
        ablated = means[layer].expand_as(z).clone()
        for row in range(len(scenes)):
            if layer == 0:
                at = scenes.positions[Position.QUERY_LABEL][row]
                ablated[row, at, 1] = z[row, at, 1]
            else:
                at = scenes.positions[Position.LAST][row]
                ablated[row, at, 0] = z[row, at, 0]
        return ablated

    with editing_outputs(model, ablate):
        expected = last_logits(model, scenes.input_ids).log_softmax(-1)[range(len(scenes)), scenes.answers].double()
    smaller = [circuit.without(group, circuit[group].heads) for group in ("B", "C")]
    _, kept = run(model, scenes).evaluate([Keep(c.nodes()) for c in (circuit, *smaller)], means)
    torch.testing.assert_close(kept.log_probability[0], expected, atol=1e-5, rtol=0)
    assert all(not torch.allclose(other, expected, atol=1e-4) for other in kept.log_probability[1:])


def test_means_are_per_head_and_absolute_position_and_do_not_depend_on_how_much_fits(scenes):
    model = micro_llama(layers=2, heads=2)
    outputs, _ = capture_outputs(model, scenes.input_ids)
    expected = torch.stack([z.double().mean(0) for z in outputs]).float()
    torch.testing.assert_close(Run(model, scenes, 10**9).mean_outputs(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(Run(model, scenes, 400_000).mean_outputs(), expected, atol=1e-6, rtol=0)


def test_a_circuit_is_evaluated_once_however_often_it_is_asked_for(scenes):
    run = Run(micro_llama(), scenes, 10**9)
    means, rows = run.mean_outputs(), []
    one = Circuit((Group("A", Position.LAST, (Head(0, 0),)),))
    same = Circuit((Group("A", Position.LAST, (Head(0, 0),)),))
    counts = count_correct(run, means, [one, same, NOBODY], {NOBODY: -1}, done=rows.append)
    assert counts[NOBODY] == -1 and len(counts) == 2 and sum(rows) == len(scenes)
    assert counts[one] == circuits_correct(run, means, [one]).sum()


def test_random_circuits_have_the_same_number_of_heads_per_position_and_none_twice():
    model = micro_llama(layers=4, heads=4)
    circuit = Circuit(
        (
            Group("A", Position.LAST, tuple(model.heads[:5])),
            Group("B", Position.LAST, tuple(model.heads[5:7])),
            Group("C", Position.QUERY_LABEL, tuple(model.heads[:3])),
        )
    )
    rng = np.random.default_rng(0)
    drawn = [random_circuit(model, circuit, rng) for _ in range(50)]
    for each in drawn:
        sizes = {group.position: len(set(group.heads)) for group in each.groups}
        assert sizes == {Position.LAST: 7, Position.QUERY_LABEL: 3}
    assert len(set(drawn)) > 45
    assert {head for each in drawn for head, _ in each.nodes()} == set(model.heads), "from all heads"


def test_the_hand_models_probability_is_what_its_docstring_says():
    logits = last_logits(hand_model(1), torch.tensor([[1, 3]]))
    assert logits.softmax(-1)[0, 0].item() == pytest.approx(1 / (1 + exp(-6)))
