"""The vocabulary of circuits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mechdiff.circuits import Circuit, Group, Head, Position
from mechdiff.common.errors import InputError

heads = st.builds(Head, st.integers(0, 200), st.integers(0, 200))


@given(heads)
def test_a_head_is_read_back_as_it_is_printed(head):
    assert Head.parse(str(head)) == head


def test_layer_ten_is_not_layer_one():
    assert str(Head(10, 3)) == "L10 H3"
    assert Head.parse("L10 H3").layer == 10


@pytest.mark.parametrize("text", ["", "10.3", "L10H3", "L1 H2 ", "L-1 H2", "LX H1"])
def test_anything_else_is_refused(text):
    with pytest.raises(InputError, match="expected the form 'L15 H3'"):
        Head.parse(text)


def test_the_same_head_counts_once_per_position_and_removing_it_from_one_group_leaves_the_other():
    shared = Head(11, 23)
    circuit = Circuit(
        (
            Group("B", Position.LAST, (Head(14, 27), shared)),
            Group("C", Position.QUERY_LABEL, (shared,)),
        )
    )
    assert len(circuit) == 3
    smaller = circuit.without("B", [shared])
    assert smaller["B"].heads == (Head(14, 27),)
    assert smaller["C"].heads == (shared,), "another position is another node"
    assert len(circuit) == 3, "circuits do not change"


def test_a_circuit_is_read_back_as_it_was_written(tmp_path):
    none, why = (
        Group("D", Position.QUERY_LABEL, ()),
        Group("E", Position.LAST, (), "nothing reaches D: it has no heads"),
    )
    circuit = Circuit((Group("A", Position.LAST, (Head(2, 1), Head(0, 3))), none, why))
    file = tmp_path / "circuit.json"
    file.write_text(circuit.to_json())
    assert Circuit.read(file) == circuit
    assert str(circuit).splitlines()[1:] == ["D at query_label: none", f"E at last: {why.note}"]


@pytest.mark.parametrize("text", ["", "{}x", '[{"group": "A"}]', '[{"group":"A","position":"first","heads":[]}]', "3"])
def test_a_file_that_is_no_circuit_is_named(tmp_path, text):
    file = tmp_path / "circuit.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"circuit\.json: not a circuit file"):
        Circuit.read(file)
