"""Intervals and tables."""

import numpy as np
import pandas as pd
import pytest

from mechdiff.heads import Circuit, Group, Head, Position
from mechdiff.intervals import interval, scene_resamples
from mechdiff.tables import print_table_1, rounded, table_1, table_heads, table_planted, write_table


def evaluation(model: list[int], circuit: list[int], random: list[list[int]], scenes: list[int] | None = None):
    """The rows of rule evaluate_circuit, from right (1) and wrong (0) per example."""
    scenes = scenes or list(range(len(model)))
    parts = [("model", 0, model), ("circuit", 0, circuit), *(("random", i, r) for i, r in enumerate(random))]
    return pd.concat(
        pd.DataFrame(
            {
                "scene_id": scenes,
                "example": range(len(right)),
                "condition": c,
                "draw": d,
                "correct": np.array(right) > 0,
            }
        )
        for c, d, right in parts
    )


def test_table_1_by_hand():
    found = {"base": evaluation([1, 1, 1, 0], [1, 1, 0, 0], [[1, 0, 0, 0], [0, 0, 0, 0]])}
    row = table_1(found, {"base": "–"}, resamples=200, seed=0).iloc[0]
    assert row["n"] == 4
    assert (row["n_correct_full_model"], row["n_correct_circuit"], row["n_correct_random_circuit"]) == (3, 2, 0.5)
    assert (row["full_model"], row["circuit"], row["random_circuit"]) == (0.75, 0.5, 0.125)
    assert row["faithfulness"] == 2 / 3, "from exact counts, not from rounded accuracies"
    for name in ("full_model", "circuit", "random_circuit", "faithfulness"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_a_model_that_gets_nothing_right_has_no_faithfulness():
    found = {"base": evaluation([0, 0], [1, 0], [[0, 0]])}
    table = table_1(found, {"base": "–"}, resamples=100, seed=0)
    assert np.isnan(table.iloc[0]["faithfulness"])
    assert print_table_1(table)["Faithfulness"].tolist() == ["–"]


def test_intervals_resample_scenes_not_rows():
    """Seven copies of each scene say nothing new: the interval stays that of the scenes alone."""
    right = np.random.default_rng(0).random(60) < 0.6
    one = pd.DataFrame({"x": right.astype(float)}, index=range(60))
    seven = pd.DataFrame({"x": np.repeat(right, 7).astype(float)}, index=np.repeat(range(60), 7))
    draws = [scene_resamples(t, 4000, np.random.default_rng(1)) for t in (one, seven)]
    (low, high), (low7, high7) = (interval(d, lambda t: t["x"]) for d in draws)
    assert (low, high) == pytest.approx((low7, high7))
    binomial = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 60)
    assert (high - low) / 2 == pytest.approx(binomial, rel=0.1)


def test_scenes_of_different_sizes_weigh_by_their_rows():
    table = pd.DataFrame({"x": [1.0, 0.0, 0.0, 0.0]}, index=[0, 1, 1, 1])
    values = set(scene_resamples(table, 500, np.random.default_rng(0))["x"].round(6))
    assert values == {1.0, 0.25, 0.0}


CIRCUIT = Circuit(
    (
        Group("A", Position.LAST, (Head(5, 1), Head(4, 0), Head(0, 2))),
        Group("B", Position.LAST, (Head(3, 0),)),
    )
)


def test_heads_are_enumerated_strongest_first():
    table = table_heads({"m": CIRCUIT}, {"m": CIRCUIT}, {"A": "Value Fetcher", "B": "Position Transmitter"})
    assert table["enumerated"].tolist() == ["L5 H1, L4 H0, L0 H2", "L3 H0"]
    assert table["heads"].tolist() == [3, 1]


def test_precision_and_recall_by_hand():
    table = table_planted({"A": [[4, 0], [5, 1], [5, 0]], "B": [[3, 0]]}, {("m", "circuit"): CIRCUIT})
    a, b = table.to_dict("records")
    assert (a["planted"], a["found"], a["both"]) == (3, 3, 2)
    assert a["precision"] == a["recall"] == 2 / 3
    assert b["precision"] == b["recall"] == 1


def test_printing_rounds_and_files_keep_exact_values(tmp_path):
    exact = pd.DataFrame({"model": ["a_b"], "share": [1 / 3], "none": [np.nan]})
    paths = {form: str(tmp_path / f"table.{form}") for form in ("csv", "parquet", "md", "tex")}
    write_table(exact, rounded(exact, ["share", "none"]), "Shares, 95 % of a_b.", paths)
    assert pd.read_parquet(paths["parquet"])["share"].item() == 1 / 3
    assert pd.read_csv(paths["csv"])["share"].item() == 1 / 3
    markdown, tex = ((tmp_path / f"table.{form}").read_text() for form in ("md", "tex"))
    assert "| a_b     | 0.33    | –      |" in markdown and "Shares, 95 % of a_b." in markdown
    assert r"\caption{Shares, 95 \% of a\_b.}" in tex and r"a\_b" in tex and "0.33" in tex
