"""What the default run must show, read from the tables that ``make run`` made: pytest -m default_run.

With --run-name seed1 the same is asked of a run on another seed's family.
"""

from pathlib import Path

import pandas as pd
import pytest

from micro import ROOT

pytestmark = pytest.mark.default_run

HEADS, POSITIONS = 24, 3


@pytest.fixture(scope="module")
def tables(request) -> Path:
    return ROOT / "results" / request.config.getoption("--run-name") / "tables"


@pytest.fixture(scope="module")
def table_1(tables) -> pd.DataFrame:
    return pd.read_parquet(tables / "table_1.parquet").set_index("model")


def test_the_base_leaves_something_to_enhance_and_arithmetic_with_rehearsal_enhances_it(table_1):
    accuracy = table_1["full_model"]
    base = accuracy["mini-llama"]
    assert 0.55 <= base <= 0.80
    assert accuracy["mini-goat"] >= base + 0.08 and accuracy["mini-float"] >= base + 0.08
    assert abs(accuracy["mini-vicuna"] - base) <= 0.06


def test_the_base_circuit_is_faithful_in_every_model_and_random_circuits_are_not(table_1):
    assert table_1.loc["mini-llama", "faithfulness"] >= 0.85
    assert (table_1["faithfulness"] >= 0.75).all()
    assert (table_1["random_circuit"] < table_1["circuit"] / 3).all()


def test_the_circuit_is_small_and_has_the_planted_heads_of_every_group(tables):
    table = pd.read_parquet(tables / "table_planted.parquet")
    base = table[(table["circuit"] == "mini-llama") & (table["stage"] == "circuit")].set_index("group")
    assert (base.loc[["A", "B", "C", "D"], "recall"] >= 0.8).all()
    assert base["found"].sum() < HEADS * POSITIONS / 3
