"""Intervals and tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from mechdiff.circuits import Circuit, Group, Head, Position
from mechdiff.report.intervals import accuracies, accuracy_interval, difference, interval, scene_resamples
from mechdiff.report.tables.circuits import (
    NO_CIRCUIT,
    causal_impact_table,
    completeness_points,
    completeness_table,
    compositions,
    faithfulness_table,
    heads_table,
    overlap_table,
    planted_table,
    print_faithfulness,
    unreached,
)
from mechdiff.report.tables.functions import activation_patching_table, cmap_table, knockout_table, positional_table
from mechdiff.report.tables.writing import evaluated, noted, rounded, write_table


def evaluation(model: list[int], circuit: list[int] | None = None, random: Sequence[list[int]] = (), scenes=None):
    """The rows of rule evaluate_circuit, from right (1) and wrong (0) per example."""
    scenes = scenes or list(range(len(model)))
    parts = [("model", 0, model), *(("random", i, r) for i, r in enumerate(random))]
    parts += [("circuit", 0, circuit)] if circuit else []
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


def table_1(found, reasons=None, published=None) -> pd.DataFrame:
    models = {model for _, model in found}
    reasons = dict.fromkeys(models) | (reasons or {})
    return faithfulness_table(found, dict.fromkeys(models, "–"), reasons, 200, 0, published or {})


def test_faithfulness_by_hand():
    table = table_1({("base", "base"): evaluation([1, 1, 1, 0], [1, 1, 0, 0], [[1, 0, 0, 0], [0, 0, 0, 0]])})
    row = table.iloc[0]
    assert row["n"] == 4
    assert (row["n_correct_full_model"], row["n_correct_circuit"], row["n_correct_random_circuit"]) == (3, 2, 0.5)
    assert (row["full_model"], row["circuit"], row["random_circuit"]) == (0.75, 0.5, 0.125)
    assert row["faithfulness"] == 2 / 3, "from exact counts, not from rounded accuracies"
    for name in ("full_model", "circuit", "random_circuit", "faithfulness"):
        assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]


def test_a_model_that_gets_nothing_right_has_no_faithfulness():
    table = table_1({("base", "base"): evaluation([0, 0], [1, 0], [[0, 0]])})
    assert np.isnan(table.iloc[0]["faithfulness"])
    assert print_faithfulness(table, with_circuit=False)["Faithfulness"].tolist() == ["–"]


def test_a_model_near_chance_says_so_in_its_row_and_shows_its_own_accuracy():
    found = {("base", "base"): evaluation([1, 1], [1, 0], [[0, 0]]), ("base", "weak"): evaluation([1, 0])}
    table = table_1(found, {"weak": "accuracy 0.15, chance 0.14"})
    printed = print_faithfulness(table, with_circuit=False)
    assert printed["Faithfulness"].tolist()[1] == "not evaluated: accuracy 0.15, chance 0.14"
    assert printed["Circuit"].tolist()[1] == "–" and printed["Full model"].tolist()[1].startswith("0.50 [")


def test_a_circuit_without_heads_has_no_faithfulness_and_says_so():
    table = table_1({("base", m): evaluation([1, 0]) for m in ("base", "tuned")})
    assert print_faithfulness(table, with_circuit=False)["Faithfulness"].tolist() == [NO_CIRCUIT] * 2
    assert table["full_model"].tolist() == [0.5, 0.5] and table["circuit"].isna().all()


def test_published_numbers_stand_beside_those_of_the_papers_models_alone():
    found = {("base", m): evaluation([1, 1], [1, 0], [[0, 0]]) for m in ("base", "other")}
    paper = {"full_model": 0.66, "circuit": 0.65, "random_circuit": 0.0, "faithfulness": 0.98}
    table = table_1(found, published={("base", "base"): paper})
    printed = print_faithfulness(table, with_circuit=True)
    assert printed["Circuit"].tolist()[0].endswith("(paper 0.65)") and "paper" not in printed["Circuit"].tolist()[1]


def test_intervals_resample_scenes_not_rows():
    """Seven copies of each scene say nothing new: the interval stays that of the scenes alone."""
    right = np.random.default_rng(0).random(60) < 0.6
    one = pd.DataFrame({"x": right.astype(float)}, index=range(60))
    seven = pd.DataFrame({"x": np.repeat(right, 7).astype(float)}, index=np.repeat(range(60), 7))
    draws = [scene_resamples(t, 4000, 1) for t in (one, seven)]
    (low, high), (low7, high7) = (interval(d, lambda t: t["x"]) for d in draws)
    assert (low, high) == pytest.approx((low7, high7))
    binomial = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 60)
    assert (high - low) / 2 == pytest.approx(binomial, rel=0.1)


def test_scenes_of_different_sizes_weigh_by_their_rows():
    table = pd.DataFrame({"x": [1.0, 0.0, 0.0, 0.0]}, index=[0, 1, 1, 1])
    values = set(scene_resamples(table, 500, 0)["x"].round(6))
    assert values == {1.0, 0.25, 0.0}


@pytest.mark.parametrize(("right", "ends"), [(1, (0.025 ** (1 / 100), 1)), (0, (0, 1 - 0.025 ** (1 / 100)))])
def test_where_all_scenes_agree_the_interval_is_the_exact_binomial_one(right, ends):
    correct = pd.Series(float(right), index=np.repeat(range(100), 3), name="x")
    found = accuracy_interval(correct, scene_resamples(correct.to_frame(), 200, 0)["x"])
    assert found == pytest.approx(ends)


def test_differences_are_paired():
    """Two models that are right on the same scenes differ surely by nothing, however uncertain each accuracy is."""
    right = pd.Series(np.random.default_rng(0).random(200) < 0.5, index=range(200))
    assert difference(right, right, 200, 0) == pytest.approx((0, -(1 - 0.025 ** (1 / 200)), 1 - 0.025 ** (1 / 200)))
    better = right.copy()
    better[~better] = np.arange((~right).sum()) % 2 == 0
    gain, low, high = difference(better, right, 2000, 0)
    assert gain == pytest.approx(better.mean() - right.mean()) and 0 < low < gain < high < 0.4


def test_accuracies_by_hand():
    rows = pd.DataFrame({"model": ["a"] * 3 + ["b"] * 2, "scene_id": [0, 1, 2, 0, 1], "correct": [1, 0, 1, 0, 0]})
    table = accuracies(rows, ["model"], 200, 0).set_index("model")
    assert table["n"].tolist() == [3, 2] and table["n_correct"].tolist() == [2, 0]
    assert table.loc["a", "accuracy"] == 2 / 3 and table.loc["b", "high"] == pytest.approx(1 - 0.025**0.5)


CIRCUIT = Circuit(
    (
        Group("A", Position.LAST, (Head(5, 1), Head(4, 0), Head(0, 2))),
        Group("B", Position.LAST, (Head(3, 0),)),
    )
)


NAMES = {"A": "Value Fetcher", "B": "Position Transmitter"}
PLAN = [
    {"group": "A", "name": NAMES["A"], "position": "last", "function": "object"},
    {"group": "B", "name": NAMES["B"], "position": "last", "function": None},
]


def test_heads_are_enumerated_strongest_first_and_unstable_ones_are_marked():
    rows = [("A", 5, 1, 1.0), ("A", 4, 0, 0.94), ("A", 0, 2, 0.2), ("B", 3, 0, 1.0)]
    chosen = pd.DataFrame(rows, columns=["group", "layer", "head", "chosen"])
    circuits = {"m": CIRCUIT}
    paper = {"m": {"A": {"heads": [Head(5, 1)], "functional": 1, "candidates": 5}}}
    reasons = {"m": None, "weak": "accuracy 0.15, chance 0.14"}
    stability = {"m": chosen, "weak": chosen[:0]}
    functional = {"m": CIRCUIT.without("A", [Head(4, 0)])}
    table = heads_table(["m", "weak"], circuits, circuits, functional, stability, PLAN, 0.95, reasons, paper)
    assert table["enumerated"].tolist()[:2] == ["L5 H1, L4 H0?, L0 H2?", "L3 H0"]
    assert table["heads"].tolist()[:2] == [3, 1] and table["unstable"].tolist()[:2] == [2, 0]
    assert table["functional"].tolist()[:1] == [2] and table["functional"].isna()[1]
    assert set(table["enumerated"][2:]) == {"not evaluated: accuracy 0.15, chance 0.14"}
    assert table["paper_heads"].tolist()[:1] == [1] and table["paper_enumerated"][0] == "L5 H1"


WHY = "nothing reaches A: all scores are at rounding level (at most 1.0e-07)"
HALF = Circuit((CIRCUIT["A"], Group("B", Position.LAST, (), WHY)))


def test_a_group_that_nothing_reaches_says_so_in_place_of_its_heads():
    chosen = pd.DataFrame(
        [("A", *h, 1.0) for h in ((5, 1), (4, 0), (0, 2))], columns=["group", "layer", "head", "chosen"]
    )
    circuits, nothing = {"m": HALF}, {"m": None}
    table = heads_table(["m"], circuits, circuits, circuits, {"m": chosen}, PLAN, 0.95, nothing, {})
    assert table["enumerated"].tolist() == ["L5 H1, L4 H0, L0 H2", WHY]
    assert table["candidates"].tolist() == table["heads"].tolist() == [3, 0] and table["unstable"].tolist() == [0, 0]
    assert unreached({"other": CIRCUIT}) == "" and WHY in unreached({"m": HALF, "other": CIRCUIT})


def test_no_path_starts_at_a_group_without_heads():
    plan = [{"group": "A", "receiver": "logits", "via": None}, {"group": "B", "receiver": "A", "via": "q"}]
    changes = {group: pd.DataFrame({str(head): [-0.2, -0.4] for head in CIRCUIT["A"].heads}) for group in "AB"}
    edges = compositions(HALF, plan, changes, pd.Series([0, 1]), 200, 0)
    assert edges["sender"].tolist() == ["A"] and edges["strength"].tolist() == pytest.approx([-0.9])


def test_overlap_by_hand():
    other = Circuit((Group("A", Position.LAST, (Head(5, 1), Head(4, 1))), Group("B", Position.LAST, ())))
    paper = {"tuned": {"A": dict.fromkeys(("base", "own", "intersection", "precision", "recall"), 0.5)}}
    table = overlap_table("base", {"base": CIRCUIT, "tuned": other}, NAMES, paper)
    a, b = table.to_dict("records")
    assert (a["base"], a["own"], a["intersection"], a["precision"], a["recall"]) == (3, 2, 1, 1 / 3, 1 / 2)
    assert b["precision"] == 0 and np.isnan(b["recall"]) and a["paper_recall"] == 0.5
    assert overlap_table("base", {"base": CIRCUIT, "weak": Circuit(())}, NAMES, {}).empty


def test_causal_impact_has_every_head_of_either_circuit_in_both_models():
    other = Circuit((Group("A", Position.LAST, (Head(4, 1),)), Group("B", Position.LAST, (Head(3, 0),))))
    heads = [("A", Head(5, 1)), ("A", Head(4, 0)), ("A", Head(0, 2)), ("A", Head(4, 1)), ("B", Head(3, 0))]
    scores = pd.DataFrame([(g, h.layer, h.index, -0.1 * i) for i, (g, h) in enumerate(heads)])
    scores.columns = ["group", "layer", "head", "score"]
    found = causal_impact_table("base", {"base": CIRCUIT, "tuned": other}, {"base": scores, "tuned": scores})
    assert len(found) == 5 and (found["base_score"] >= 0).all()
    only = found.set_index("head").loc["L4 H1"]
    assert only["in_other"] and not only["in_base"] and only["other_score"] == pytest.approx(0.3)


def test_completeness_by_hand():
    def rows(removed, draw, model, circuit):
        columns = {"removed": removed, "draw": draw, "nodes": 2, "scene_id": range(4)}
        return pd.DataFrame(columns | {"full_model": np.array(model) > 0, "circuit": np.array(circuit) > 0})

    found = pd.concat(
        [
            rows("random", 0, [1, 1, 0, 0], [1, 0, 0, 0]),
            rows("random", 1, [1, 1, 1, 0], [1, 1, 1, 1]),
            rows("A", 0, [0, 0, 0, 0], [0, 0, 0, 0]),
        ]
    )
    points = completeness_points({"m": found}, 200, 0)
    assert points["incompleteness"].tolist() == [0.25, 0.25, 0]
    paper = {"m": {"random": {"full_model": [0.11, 0.06], "circuit": [0, 0], "incompleteness": [0.1, 0.06]}}}
    table = completeness_table({"m": found}, points, 200, 0, paper).set_index("removed")
    assert table.loc["random", "full_model"] == 0.625 and table.loc["random", "full_model_sd"] == pytest.approx(
        np.std([0.5, 0.75], ddof=1)
    )
    assert table.loc["random", "full_model_low"] <= 0.625 <= table.loc["random", "full_model_high"]
    assert table.loc["random", "paper_full_model_sd"] == 0.06
    assert table.loc["random", "incompleteness"] == 0.25 and table.loc["A", "incompleteness"] == 0
    assert table.loc["random", "paper_full_model"] == 0.11 and np.isnan(table.loc["A", "full_model_sd"])
    assert completeness_table({}, completeness_points({"weak": found[:0]}, 200, 0), 200, 0, {}).empty
    with_note = noted(table.reset_index(), "circuit_of", {"m": None, "weak": "accuracy 0.15, chance 0.14"})
    assert with_note["note"].tolist()[-1] == "not evaluated: accuracy 0.15, chance 0.14"
    assert len(evaluated(with_note)) == 2


def test_activation_patching_by_hand():
    sets = [(0, 0, 1), (0, 1, 1), (1, 2, 0), (1, 3, 1)]
    rows = pd.DataFrame(sets, columns=["set", "scene_id", "correct"])
    found = pd.concat(rows.assign(circuit_of="m", group="A", heads=2, desideratum=d) for d in ("position", "label"))
    table = activation_patching_table({"m": found}, NAMES, 200, 0)
    assert table["desideratum"].tolist() == ["label", "position"], "as the paper's figure has them"
    assert table["accuracy"].tolist() == [0.75, 0.75] and table["sd"][0] == pytest.approx(np.std([1, 0.5], ddof=1))
    assert table["n"].tolist() == [4, 4] and table["sets"].tolist() == [2, 2] and table["name"][0] == NAMES["A"]
    positional = found.assign(desideratum="no_commas")
    one = positional_table(positional, 200, 0, {"no_commas": {"accuracy": 0.38, "variance": 0.02}}).iloc[0]
    assert (one["number"], one["accuracy"], one["paper_accuracy"]) == (10, 0.75 * 1, 0.38)
    assert one["variance"] == pytest.approx(0.125)


def test_gains_of_patches_are_over_the_recipients_own_answers():
    def rows(heads, group, part, correct):
        columns = {"heads": heads, "group": group, "nodes": 1, "part": part, "scene_id": range(4)}
        return pd.DataFrame(columns | {"correct": np.array(correct) > 0, "donor": "d", "recipient": "r"})

    found = pd.concat(
        [
            rows("none", "", "recipient", [1, 0, 0, 0]),
            rows("none", "", "donor", [1, 1, 1, 1]),
            rows("functional", "A", "output", [1, 1, 1, 0]),
            rows("functional", "circuit", "output", [1, 0, 0, 0]),
        ]
    )
    table = cmap_table({"d": found}, NAMES, 200, 0)
    assert table["gain"].tolist() == [0.5, 0] and table["name"].tolist() == [NAMES["A"], "Whole circuit"]
    assert set(table["recipient_accuracy"]) == {0.25} and set(table["donor_accuracy"]) == {1}
    assert table["gain_low"][0] >= 0 and table["gain_low"][1] < 0 < table["gain_high"][1]
    assert cmap_table({"weak": found[:0]}, NAMES, 200, 0).empty


def test_knockouts_count_layers_from_one_and_know_the_untouched_model():
    rows = [("", "", 2, 0, 1), ("last", "query_label", 0, 0, 0), ("last", "query_label", 1, 0, 1)]
    found = pd.DataFrame(rows, columns=["query", "key", "first_layer", "scene_id", "correct"])
    table = knockout_table({"m": found}, 200, 0)
    assert table["first_layer"].tolist() == [1, 2] and table["accuracy"].tolist() == [0, 1]
    assert set(table["model_accuracy"]) == {1}


def test_precision_and_recall_by_hand():
    table = planted_table({"A": [[4, 0], [5, 1], [5, 0]], "B": [[3, 0]]}, {("m", "circuit"): CIRCUIT})
    a, b = table.to_dict("records")
    assert (a["planted"], a["found"], a["both"]) == (3, 3, 2)
    assert a["precision"] == a["recall"] == 2 / 3
    assert b["precision"] == b["recall"] == 1


def test_printing_rounds_and_files_keep_exact_values(tmp_path):
    exact = pd.DataFrame({"model": ["a_b"], "share": [1 / 3], "none": [np.nan]})
    paths = {form: str(tmp_path / f"table.{form}") for form in ("csv", "parquet", "md", "tex", "html", "caption")}
    write_table(exact, rounded(exact, ["share", "none"]), "Shares, 95 % of a_b.", paths)
    assert pd.read_parquet(paths["parquet"])["share"].item() == 1 / 3
    assert pd.read_csv(paths["csv"])["share"].item() == 1 / 3
    markdown, tex = ((tmp_path / f"table.{form}").read_text() for form in ("md", "tex"))
    assert "| a_b     | 0.33    | –      |" in markdown and "Shares, 95 % of a_b." in markdown
    assert r"\caption{Shares, 95 \% of a\_b.}" in tex and r"a\_b" in tex and "0.33" in tex
