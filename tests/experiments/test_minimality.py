"""Minimality: sets K and scores worked out by hand, and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechdiff.circuits import Circuit, Group, Head, Position
from mechdiff.experiments.minimality import context_set, is_kept, minimality, minimality_score, pair_circuits

A, B, C, D = (Head(0, i) for i in range(4))
GROUP = Group("G", Position.LAST, (A, B, C, D))
OTHER = Group("H", Position.QUERY_LABEL, (A,))
CIRCUIT = Circuit((GROUP, OTHER))


def test_one_circuit_for_each_head_and_each_pair():
    pairs = pair_circuits(CIRCUIT, GROUP)
    assert len(pairs) == 4 + 6
    assert pairs[frozenset({A, C})]["G"].heads == (B, D)
    assert all(circuit["H"].heads == (A,) for circuit in pairs.values()), "the same head elsewhere stays"


def test_context_is_the_positive_ones_among_the_first_share():
    # F(C\{x}) and F(C\{A, x}) for x = B, C, D: differences 3, 0, 5.
    correct = {frozenset({B}): 10, frozenset({C}): 10, frozenset({D}): 10}
    correct |= {frozenset({A, B}): 7, frozenset({A, C}): 10, frozenset({A, D}): 5}
    assert context_set(GROUP, A, correct, 0.25) == (D,)  # one head
    assert context_set(GROUP, A, correct, 0.3) == (D,)  # 1.2
    assert context_set(GROUP, A, correct, 0.4) == (D, B)  # 1.6
    assert context_set(GROUP, A, correct, 1.0) == (D, B)  # C's difference is not positive
    assert context_set(GROUP, A, correct, 0.0) == ()


def test_a_node_that_stands_in_two_groups_is_removed_as_one_node():
    shared = Circuit((Group("G", Position.LAST, (A, B)), Group("H", Position.LAST, (A, C))))

    def right(circuit: Circuit) -> int:
        heads = {head for group in circuit.groups for head in group.heads}
        return 40 * (A in heads) + 10 * (B in heads) + 10 * (C in heads)

    _, _, pruned = minimality(shared, lambda group, circuits: {c: right(c) for c in circuits}, 100, 0.0, 0.01)
    assert pruned == shared


def test_heads_with_the_same_index_in_different_layers_are_different_heads():
    low, high = Head(0, 1), Head(5, 1)
    group = Group("G", Position.LAST, (low, high, A))
    pairs = pair_circuits(Circuit((group,)), group)
    assert frozenset({low, high}) in pairs
    correct = {heads: 10 - len(heads) for heads in pairs}
    assert context_set(group, low, correct, 1.0) == (high, A)


def test_scores_and_threshold():
    assert minimality_score(60, 50) == pytest.approx(0.2)
    assert minimality_score(50, 0) is None
    assert is_kept(0.01, 0.01) and not is_kept(0.009999, 0.01)
    assert is_kept(0.0, 0.0) and is_kept(None, 0.01)


def test_pruning_by_hand():
    """Right answers out of 100: A and B do the same work, 40 together or alone; C adds 20; D nothing."""

    def right(circuit: Circuit) -> int:
        heads = circuit["G"].heads
        return 40 * (A in heads or B in heads) + 20 * (C in heads) + 30 * (A in circuit["H"].heads)

    pairs, scores, pruned = minimality(CIRCUIT, lambda group, circuits: {c: right(c) for c in circuits}, 100, 0.3, 0.01)
    assert pruned["G"].heads == (A, B, C)
    assert pruned["H"].heads == (A,)
    table = scores[scores["group"] == "G"].set_index("head")
    assert table.loc[A.index, "context"] == "L0 H1", "without B, A shows what it does"
    assert table.loc[A.index, "score"] == pytest.approx((90 - 50) / 50)
    assert table.loc[C.index, "context"] == "L0 H0", "each of the others leaves C its 20; one of four is taken"
    assert table.loc[C.index, "score"] == pytest.approx((90 - 70) / 70)
    assert table.loc[D.index, "score"] == 0 and not table.loc[D.index, "kept"]
    single = pairs[(pairs["group"] == "G") & (pairs["head"] == "L0 H0") & (pairs["other"] == "L0 H1")]
    assert single["n_correct"].item() == 50 and len(pairs) == 10 + 1


def test_where_nothing_is_right_without_a_head_it_is_kept_and_the_table_says_so():
    def right(circuit: Circuit) -> int:
        return 5 * (A in circuit["G"].heads)

    _, scores, pruned = minimality(
        Circuit((Group("G", Position.LAST, (A, B)),)), lambda group, cs: {c: right(c) for c in cs}, 10, 0.3, 0.01
    )
    assert pruned["G"].heads == (A,)
    assert scores["note"].tolist() == ["undefined (0 right without it), kept", ""]
    assert scores["score"].isna().tolist() == [True, False]


@given(st.dictionaries(st.frozensets(st.sampled_from([A, B, C, D]), min_size=1, max_size=4), st.integers(0, 100)))
def test_every_head_is_scored_and_the_circuit_only_shrinks(values):
    def right(circuit: Circuit) -> int:
        return values.get(frozenset(circuit["G"].heads), 50)

    pairs, scores, pruned = minimality(
        Circuit((GROUP,)), lambda group, circuits: {c: right(c) for c in circuits}, 100, 0.3, 0.01
    )
    assert len(scores) == 4 and len(pairs) == 10
    kept = [Head(r.layer, r.head) for r in scores.itertuples() if r.kept]
    assert list(pruned["G"].heads) == kept
    for row in scores.itertuples():
        before, after = row.correct_without_context, row.correct_without_context_and_head
        assert row.kept == (after == 0 or (before - after) / after >= 0.01)
