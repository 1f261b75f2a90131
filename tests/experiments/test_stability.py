"""Would discovery choose the same heads again?"""

import numpy as np
import pandas as pd

from mechdiff.circuits import Position
from mechdiff.experiments.ranking import Step, reaching
from mechdiff.experiments.stability import chosen_shares

HEADS = ["L0 H0", "L0 H1", "L1 H0", "L1 H1"]


def changes(*scores: float, noise: float = 0.0, n: int = 60) -> pd.DataFrame:
    spread = np.random.default_rng(0).normal(0, noise, (n, len(scores)))
    return pd.DataFrame(np.array(scores) + spread, columns=HEADS)


def shares(plan, tables) -> dict:
    found = chosen_shares(plan, tables, range(60), 400, np.random.default_rng(0))
    return {(row.group, f"L{row.layer} H{row.head}"): row.chosen for row in found.itertuples()}


def test_clear_heads_are_always_chosen_and_a_tie_at_the_cut_is_decided_anew_each_time():
    plan = [Step("A", Position.LAST, keep=2)]
    found = shares(plan, {"A": changes(-0.5, -0.1, -0.1, 0.0, noise=0.01)})
    assert found["A", "L0 H0"] == 1 and found["A", "L1 H1"] == 0
    assert 0 < found["A", "L0 H1"] < 1 and found["A", "L0 H1"] + found["A", "L1 H0"] == 1


def test_heads_of_excluded_groups_are_passed_over_in_every_resample():
    plan = [Step("A", Position.LAST, keep=1, exclude=("B",)), Step("B", Position.LAST, keep=1)]
    found = shares(plan, {"A": changes(-0.5, -0.4, 0, 0), "B": changes(-0.9, 0, 0, 0)})
    assert found["B", "L0 H0"] == 1 and found["A", "L0 H0"] == 0 and found["A", "L0 H1"] == 1


def test_rows_of_one_scene_are_drawn_together():
    table = changes(-0.5, -0.1, 0, 0)
    found = chosen_shares([Step("A", Position.LAST, keep=1)], {"A": table}, [0] * 60, 50, np.random.default_rng(0))
    assert set(found["chosen"]) == {0.0, 1.0}


def test_a_model_that_was_not_evaluated_has_no_shares():
    assert chosen_shares([], {"A": pd.DataFrame()}, range(3), 50, np.random.default_rng(0)).empty


def test_what_nothing_reaches_is_never_chosen_and_excludes_nothing():
    """However the examples are drawn: rounding has its largest, too."""
    plan = [Step("A", Position.LAST, 1, ("B",)), Step("B", Position.LAST, 1, receiver="A")]
    tables = {"A": changes(-0.5, -0.4, 0, 0), "B": changes(0, 0, 0, 0, noise=1e-8)}
    found = shares(reaching(plan, tables, 1e-6), tables)
    assert found["A", "L0 H0"] == 1 and [found["B", head] for head in HEADS] == [0] * 4
