"""Rows of tables: what identifies them, and how one is asked for."""

import numpy as np
import pandas as pd
import pytest

from mechdiff.common.errors import InputError
from mechdiff.provenance.cells import find_row, key_columns, read_table, row_key


def table(text: str) -> pd.DataFrame:
    """Columns and rows of words, numbers where they are some."""
    head, *rows = (line.split() for line in text.strip().splitlines())
    made = pd.DataFrame(rows, columns=head)
    return made.apply(lambda column: pd.to_numeric(column) if column.str.fullmatch(r"[\d.]+").all() else column)


MODELS = table("circuit_of model n\nbase base 5\nbase tuned 5")
GROUPS = table("model group name heads accuracy\na A Fetcher 2 0.5\na B Mover 3 0.25\nb A Fetcher 2 0.5\nb B Mover 1 0")


def test_the_key_is_the_first_columns_that_tell_rows_apart_less_those_that_follow_from_others():
    assert key_columns(MODELS) == ["model"]
    assert key_columns(GROUPS) == ["model", "group"]
    assert key_columns(GROUPS.iloc[:2]) == ["group"]


def test_a_key_of_two_tables_tells_the_rows_of_both_apart():
    assert key_columns(GROUPS.iloc[:2], GROUPS) == ["model", "group"]


def test_a_count_is_no_key_where_something_else_is():
    counted = table("donor nodes part\na 3 q\na 3 k\na 4 v\nb 3 q")
    assert key_columns(counted) == ["donor", "part"]


def test_equal_rows_have_no_key_and_are_told_by_number():
    twice = pd.concat([MODELS.iloc[:1]] * 2, ignore_index=True)
    assert key_columns(twice) == []
    assert row_key(twice, 1) == {"row": "2"}


def test_a_row_is_asked_for_by_a_value_or_by_pairs():
    assert find_row(MODELS, "tuned", "t") == 1
    assert find_row(MODELS, "circuit_of=base,model=base", "t") == 0
    assert find_row(GROUPS, "model=b,group=A", "t") == 2
    assert find_row(table("number what\n1 first\n2 second"), "second", "t") == 1
    commas = pd.DataFrame({"model": ["a", "b"], "fine_tuned_on": ["one, two", "three"]})
    assert find_row(commas, "fine_tuned_on=one, two", "t") == 0


@pytest.mark.parametrize(
    ("rows", "wanted", "line"),
    [
        (MODELS, "other", "t: no row 'other'; allowed: base; tuned"),
        (GROUPS, "a", "t: 'a' is 2 rows; allowed: model=a,group=A; model=a,group=B"),
        (
            GROUPS,
            "model=c",
            "t: no row 'model=c'; allowed: model=a,group=A; model=a,group=B; model=b,group=A; model=b,gr",
        ),
        (GROUPS, "name2=x", "t: no column 'name2'; allowed: model, group, name, heads, accuracy"),
    ],
)
def test_what_is_allowed_is_said(rows, wanted, line):
    with pytest.raises(InputError) as caught:
        find_row(rows, wanted, "t")
    assert str(caught.value).startswith(line)


def test_of_many_rows_the_first_are_named():
    many = pd.DataFrame({"model": [f"m{i}" for i in range(20)]})
    with pytest.raises(InputError, match=r"m0; .*; m11; and 8 more$"):
        find_row(many, "none", "t")


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_table_is_read_with_every_digit(tmp_path, form):
    values = pd.DataFrame({"x": np.random.default_rng(0).random(1000) * 10.0 ** np.arange(-8, 8).repeat(63)[:1000]})
    file = tmp_path / f"t.{form}"
    values.to_csv(file, index=False) if form == "csv" else values.to_parquet(file)
    pd.testing.assert_frame_equal(read_table(file), values, check_exact=True)


def test_words_that_readers_take_for_nothing_are_words(tmp_path):
    (tmp_path / "t.csv").write_text("target,share\nnull,1.5\nNA,\n")
    read = read_table(tmp_path / "t.csv")
    assert read["target"].tolist() == ["null", "NA"] and read["share"].isna().tolist() == [False, True]


def test_what_is_no_table_is_said_in_one_line(tmp_path):
    (tmp_path / "t.parquet").write_text("x")
    with pytest.raises(InputError, match=r"t\.parquet: cannot be read as a table"):
        read_table(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"t\.md: no table that can be read exactly; allowed: a \.csv or \.parquet"):
        read_table(tmp_path / "t.md")
