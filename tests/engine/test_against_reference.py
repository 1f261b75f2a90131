"""The engine against whole forward passes with hooks: every kind of edit, over random shapes, positions and edits.

The largest difference of any logit, log-probability and path-patching score is 1e-5 in float32.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechdiff.circuits import Head, Position
from mechdiff.engine.edits import Block, Edit, Keep, Mix, Part, PathPatch, Replace
from mechdiff.engine.plain import PlainRun
from mechdiff.engine.run import Run
from mechdiff.models.patchable import PatchableModel
from micro import micro_llama
from random_runs import EXACT, LAST, PREVIOUS, QUERY, VOCABULARY, Setting, setting


@st.composite
def settings_(draw) -> Setting:
    values, group = draw(st.sampled_from([(1, 1), (1, 3), (3, 1), (2, 2), (5, 1), (2, 3)]))
    return setting(
        layers=draw(st.integers(2, 12)),
        heads=values * group,
        values=values,
        head_dim=draw(st.sampled_from([4, 8])),
        n=draw(st.integers(1, 6)),
        tokens=draw(st.integers(5, 24)),
        seed=draw(st.integers(0, 10**6)),
    )


def some_heads(draw, model: PatchableModel, most: int = 6) -> list[Head]:
    return draw(st.lists(st.sampled_from(model.heads), min_size=1, max_size=most, unique=True))


def some_nodes(draw, model: PatchableModel) -> frozenset:
    nodes = st.tuples(st.sampled_from(model.heads), st.sampled_from(list(Position)))
    return frozenset(draw(st.lists(nodes, max_size=12)))


@given(st.data())
@settings(max_examples=60)
def test_path_patches(data):
    s = data.draw(settings_())
    receivers = data.draw(st.sampled_from([None, tuple(some_heads(data.draw, s.model))]))
    via = None if receivers is None else data.draw(st.sampled_from([Part.QUERY, Part.KEY, Part.VALUE]))
    position = data.draw(st.sampled_from(list(Position)))
    s.check([PathPatch(head, position, receivers, via) for head in s.model.heads], s.noise)


@given(st.data())
@settings(max_examples=40)
def test_circuits(data):
    s = data.draw(settings_())
    circuit = some_nodes(data.draw, s.model)
    smaller = [circuit - {node} for node in sorted(circuit)][:4]
    s.check([Keep(nodes) for nodes in (circuit, *smaller, some_nodes(data.draw, s.model))], s.means)


@given(st.data())
@settings(max_examples=40)
def test_replaced_outputs_queries_keys_and_values(data):
    s = data.draw(settings_())
    parts = frozenset(data.draw(st.lists(st.sampled_from(list(Part)), min_size=1, unique=True)))
    donor = replace(s, model=micro_like(s.model))
    edits = [Replace(some_nodes(data.draw, s.model), parts) for _ in range(4)]
    fast, plain = Run(s.model, s.examples, 10**9), PlainRun(s.model, s.examples)
    _, found = fast.evaluate(edits, Run(donor.model, s.examples, 10**9))
    _, wanted = plain.evaluate(edits, PlainRun(donor.model, s.examples))
    assert (found.logit - wanted.logit).abs().max() <= EXACT
    assert (found.log_probability - wanted.log_probability).abs().max() <= EXACT
    if parts == {Part.OUTPUT}:
        s.check(edits, s.noise)
        s.check(edits, s.means)


def micro_like(model: PatchableModel) -> PatchableModel:
    """Another model of the same shape: a donor for cross-model patching."""
    return micro_llama(
        len(model.layers), model.heads_per_layer, model.values_per_layer, model.head_dim, VOCABULARY, 7, spread=0.15
    )


@given(st.data())
@settings(max_examples=40)
def test_knockouts(data):
    s = data.draw(settings_())
    query, key = data.draw(st.lists(st.sampled_from(list(Position)), min_size=2, max_size=2, unique=True))
    s.check([Block(query, key, layer) for layer in range(len(s.model.layers) + 1)], None)


@given(st.data())
@settings(max_examples=30)
def test_masks_and_their_gradients(data):
    s, memory = data.draw(settings_()), data.draw(st.sampled_from([10**9, 10**7]))
    heads = tuple(some_heads(data.draw, s.model))
    position = data.draw(st.sampled_from(list(Position)))
    shares = torch.rand(3, len(heads), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    shares[1:] = torch.tensor([[0.0], [1.0]])  # the ends have gradients too
    gradients = []
    for run in (lambda e: Run(s.model, e, memory), lambda e: PlainRun(s.model, e)):
        own = shares.clone().requires_grad_()
        _, mixed = run(s.examples).evaluate([Mix(position, heads, one) for one in own], run(s.noise))
        mixed.logit.sum().backward()
        gradients.append((mixed.logit.detach(), own.grad))
    assert (gradients[0][0] - gradients[1][0]).abs().max() <= EXACT
    assert (gradients[0][1] - gradients[1][1]).abs().max() <= 10 * EXACT


@pytest.mark.parametrize("values", [9, 3])
def test_the_four_groups_of_the_paper_with_an_odd_number_of_heads(values):
    s = setting(layers=12, heads=9, values=values, head_dim=8, n=5, tokens=54, seed=3)
    receivers = (Head(5, 0), Head(8, 4), Head(11, 8))
    steps = [(LAST, None, None), (LAST, receivers, Part.QUERY), (QUERY, receivers, Part.VALUE)]
    for position, into, via in [*steps, (PREVIOUS, receivers, Part.VALUE)]:
        s.check([PathPatch(head, position, into, via) for head in s.model.heads], s.noise)


def test_as_little_as_fits_at_a_time_changes_nothing():
    s = setting(layers=4, heads=3, values=3, head_dim=8, n=6, tokens=12, seed=5)
    into = (Head(2, 1), Head(3, 0))
    path: list[Edit] = [PathPatch(head, PREVIOUS, into, Part.VALUE) for head in s.model.heads]
    keep: list[Edit] = [Keep(frozenset({(head, LAST), (s.model.heads[0], QUERY)})) for head in s.model.heads]
    for memory in (120_000, 300_000):
        assert max(s.differences(path, s.noise, memory)) <= EXACT
        assert max(s.differences(keep, s.means, memory)) <= EXACT
