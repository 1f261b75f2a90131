"""The engine without numbers, what it refuses, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mechdiff.circuits import Head, Position
from mechdiff.engine.edits import Block, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.run import Run
from mechdiff.models.patchable import patchable
from micro import micro_llama
from random_runs import LAST, PREVIOUS, QUERY, VOCABULARY, Setting, setting

INTO = (Head(2, 1), Head(4, 0))
MEMORY = 10**9


@pytest.fixture
def s() -> Setting:
    return setting(layers=5, heads=6, values=2, head_dim=8, n=8, tokens=18, seed=1)


def path_changes(s: Setting, position, into, via) -> torch.Tensor:
    run = Run(s.model, s.examples, MEMORY)
    base, patched = run.evaluate(
        [PathPatch(head, position, into, via) for head in s.model.heads], Run(s.model, s.noise, MEMORY)
    )
    return torch.expm1(patched.log_probability - base.log_probability).mean(1)


STEPS = [(LAST, None, None), (LAST, INTO, Part.QUERY), (QUERY, INTO, Part.VALUE), (PREVIOUS, INTO, Part.VALUE)]


def moved(s: Setting, *to) -> Setting:
    return replace(s, model=patchable("moved", s.model.network.to(*to)))


def test_a_run_on_the_meta_device_has_the_shapes_of_a_real_one(s):
    """Of use to count what a model would need where it cannot be held."""
    model = moved(s, "meta").model
    edits = [PathPatch(head, PREVIOUS, INTO, Part.VALUE) for head in model.heads]
    run, noise = Run(model, s.examples, MEMORY), Run(model, s.noise, MEMORY)
    assert run.evaluate(edits, noise)[1].logit.shape == (30, 8)
    assert run.evaluate([Keep(frozenset({(Head(1, 1), LAST), (Head(0, 0), QUERY)}))], s.means)[1].top.shape == (1, 8)


def test_a_model_is_left_as_it_was_even_after_an_error(s):
    network = s.model.network
    before = network(s.examples.input_ids).logits, network.config._attn_implementation
    with pytest.raises((IndexError, RuntimeError)):
        Run(s.model, s.examples, MEMORY).evaluate([Keep(frozenset({(Head(1, 0), LAST)}))], s.means[:, :5])
    with pytest.raises((IndexError, RuntimeError)):
        path_changes(s, LAST, (Head(4, 99),), Part.VALUE)
    assert torch.equal(network(s.examples.input_ids).logits, before[0])
    assert network.config._attn_implementation == before[1]
    assert all("forward" not in vars(layer.self_attn) for layer in s.model.layers)


@pytest.mark.parametrize(
    "edits",
    [
        [Keep(frozenset()), Replace(frozenset())],
        [Block(LAST, QUERY, 0), Block(LAST, PREVIOUS, 0)],
        [PathPatch(Head(0, 0), LAST), PathPatch(Head(0, 0), LAST, INTO, Part.QUERY)],
        [PathPatch(Head(0, 0), LAST), Mix(LAST, (Head(0, 0),), torch.ones(1))],
    ],
)
def test_edits_that_have_no_base_run_in_common_are_refused(s, edits):
    with pytest.raises(ValueError, match="edits of one call must be of one kind"):
        Run(s.model, s.examples, MEMORY).evaluate(edits, s.means)


def test_sources_that_do_not_fit_are_refused(s):
    run, node = Run(s.model, s.examples, MEMORY), frozenset({(Head(1, 0), LAST)})
    elsewhere = replace(run, examples=s.noise)
    for edit, source, said in [
        (Replace(node), replace(run, examples=s.noise.take(torch.arange(2))), "the source has 2 examples, the run 8"),
        (Replace(node, frozenset({Part.KEY})), elsewhere, "with the same positions"),
        (Replace(node, frozenset({Part.VALUE})), s.means, "not from mean outputs"),
    ]:
        with pytest.raises(ValueError, match=said):
            run.evaluate([edit], source)


def test_a_mean_ablated_run_of_coinciding_positions_is_refused(s):
    positions = {**s.examples.positions, QUERY: s.examples.positions[PREVIOUS]}
    run = Run(s.model, replace(s.examples, positions=positions), MEMORY)
    with pytest.raises(ValueError, match="different tokens"):
        run.evaluate([Keep(frozenset((Head(1, 0), position) for position in (LAST, QUERY, PREVIOUS)))], s.means)


@pytest.mark.parametrize("position", list(Position))
def test_with_the_queries_keys_and_values_of_another_model_a_head_gives_its_output(s, position):
    donor = replace(s, model=micro_llama(5, 6, 2, 8, VOCABULARY, seed=5, spread=0.15)).model
    run, nodes = Run(s.model, s.examples, MEMORY), [{(Head(i, h), position) for i in range(5)} for h in range(6)]
    inputs, output = frozenset({Part.QUERY, Part.KEY, Part.VALUE}), frozenset({Part.OUTPUT})
    for parts in (inputs, inputs | output):
        edits = [Replace(frozenset(some), parts) for some in nodes]
        base, found = run.evaluate(edits, Run(donor, s.examples, MEMORY))
        _, wanted = run.evaluate([Replace(frozenset(some), output) for some in nodes], Run(donor, s.examples, MEMORY))
        assert (found.logit - wanted.logit).abs().max() <= 1e-5 < (found.logit - base.logit).abs().max()


def test_no_edits_give_the_models_own_answers(s):
    base, edited = Run(s.model, s.examples, MEMORY).evaluate([])
    logits = s.model.network(s.examples.input_ids).logits[:, -1]
    assert torch.equal(base.top, logits.argmax(-1)) and edited.logit.shape == (0, 8)
    wanted = logits.gather(1, s.examples.answers[:, None])[:, 0]
    torch.testing.assert_close(base.logit, wanted, atol=1e-5, rtol=0)


def test_progress_counts_every_edit_on_every_example(s):
    rows = []
    edits = [PathPatch(head, PREVIOUS, INTO, Part.VALUE) for head in s.model.heads]
    Run(s.model, s.examples, 300_000).evaluate(edits, Run(s.model, s.noise, 300_000), rows.append)
    assert sum(rows) == len(edits) * len(s.examples) and len(rows) > 2
