"""Shards: every block once, in order, and the numbers of any number of shards the same bytes."""

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mechdiff.circuits import Circuit, Group, Head
from mechdiff.engine.edits import Part
from mechdiff.engine.run import Run
from mechdiff.experiments.faithfulness import count_correct
from mechdiff.experiments.minimality import count_pairs, minimality, pair_counts
from mechdiff.experiments.path_patching import change_table, relative_changes
from mechdiff.experiments.shards import BLOCK, blocks, most_shards, share
from micro import micro_llama
from random_runs import LAST, QUERY, VOCABULARY, prompts

ROWS = 2 * BLOCK + 7


@given(st.integers(1, 1000), st.integers(1, 30))
def test_every_row_falls_to_one_shard_in_order(rows, shards):
    found = [range(rows)[block] for shard in range(shards) for block in blocks(rows, shard, shards)]
    assert [row for block in found for row in block] == list(range(rows))
    sizes = [len(blocks(rows, shard, shards)) for shard in range(shards)]
    assert max(sizes) - min(sizes) <= 1 and (min(sizes) >= 1) == (shards <= most_shards(rows))
    assert [i for shard in range(shards) for i in share(range(10), shard, shards)] == list(range(10))


@pytest.fixture(scope="module")
def runs():
    model = micro_llama(layers=3, heads=3, head_dim=8, vocabulary=VOCABULARY)
    clean, noise = (Run(model, prompts(ROWS, 16, seed), 10**9) for seed in (1, 2))
    return clean, noise, clean.mean_outputs()


@pytest.mark.parametrize("shards", [2, 3])
def test_changes_of_shards_are_those_of_one_job_to_the_bit(runs, shards):
    clean, noise, _ = runs
    step = (QUERY, [Head(1, 1), Head(2, 0)], Part.VALUE)
    whole = change_table(relative_changes(clean, noise, *step))
    parts = [change_table(relative_changes(clean, noise, *step, blocks(ROWS, i, shards))) for i in range(shards)]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole, check_exact=True)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_circuit_pruned_from_the_counts_of_shards_is_the_same(runs, shards):
    clean, _, means = runs
    own = torch.stack([clean.evaluate([])[0].top], 0)[0]  # answers that the model gives, so that heads matter
    run = Run(clean.model, type(clean.examples)(clean.examples.input_ids, own, clean.examples.positions), 10**9)
    heads = tuple(run.model.heads)
    circuit = Circuit((Group("A", LAST, heads[:4]), Group("B", LAST, heads[5:8]), Group("C", QUERY, heads[1:5])))
    settings = (ROWS, 0.3, 0.01)
    whole = minimality(circuit, lambda group, circuits: count_correct(run, means, circuits, {}), *settings)
    tables = []
    for shard in range(shards):
        some = blocks(ROWS, shard, shards)
        counts: dict[Circuit, int] = {}

        def counted(group, circuits, some=some, counts=counts):
            return count_correct(run, means, circuits, counts, some)

        tables.append(count_pairs(circuit, counted, sum(block.stop - block.start for block in some)))
    known = pair_counts(circuit, tables)
    asked: list[Circuit] = []

    def evaluate(group, circuits):
        asked.extend(c for c in circuits if c not in known)
        return count_correct(run, means, circuits, known)

    for found, wanted in zip(minimality(circuit, evaluate, *settings), whole, strict=True):
        if isinstance(found, Circuit):
            assert found == wanted
        else:
            pd.testing.assert_frame_equal(found, wanted, check_exact=True)
    assert len(asked) <= 2 * len(circuit), "pairs are not counted again"
