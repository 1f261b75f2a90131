"""Rows: what edits have in common, layer by layer."""

from hypothesis import given
from hypothesis import strategies as st

from mechdiff.engine.rows import BASE, branch


def test_edits_branch_where_they_differ():
    # Base "....", three edits: one begins in layer 1, two begin alike in layer 1 and part in layer 3, one is the base.
    rows = branch([".a..", ".b.c", ".b.d", "...."], "....")
    assert [layer.parents for layer in rows.layers] == [(), (BASE, BASE), (1, 2), (1, 2, 2)]
    assert [layer.edits for layer in rows.layers] == [(), (0, 1), (0, 1), (0, 1, 2)]
    assert rows.final == (1, 2, 3, BASE)
    assert rows.first == 1


def test_equal_edits_are_one_row_and_no_edit_is_none():
    assert branch([".x", ".x"], "..").final == (1, 1)
    assert branch(["..", ".."], "..").first == 2
    assert branch([], "..").final == ()


def test_a_pair_of_removals_goes_on_from_the_removal_of_the_lower_head():
    """As in minimality: without heads 0 and 3, without 0, and without 3, of a circuit that keeps one head a layer."""
    rows = branch(["-kk-", "-kkk", "kkk-"], "....")
    assert [len(layer.parents) for layer in rows.layers] == [2, 2, 2, 3]
    assert rows.layers[3].parents == (1, 1, 2)


@given(st.lists(st.text("ab.", min_size=4, max_size=4), max_size=12))
def test_every_edit_finds_all_it_does_on_the_way_down_from_its_row(edits):
    rows = branch(edits, "....")
    for edit, row in zip(edits, rows.final, strict=True):
        done = ["."] * 4
        for layer in range(3, -1, -1):
            if row == BASE:
                break
            done[layer] = edits[rows.layers[layer].edits[row - 1]][layer]
            row = rows.layers[layer].parents[row - 1]
        assert "".join(done) == edit
    for layer, alive in enumerate(rows.layers):
        beginnings = {edit[: layer + 1] for edit in edits} - {"." * (layer + 1)}
        assert len(alive.parents) == len(beginnings), "one row for each different beginning, and no more"
