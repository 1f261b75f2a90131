"""The authors' released Llama-7B files give, by this project's selection code, the authors' released circuit.

The files are not part of the project; where they are absent these tests are skipped.
"""

import ast
import json

import pandas as pd
import pytest

from mechdiff.circuits import Head, Position
from mechdiff.experiments.minimality import context_size, is_kept, minimality_score
from mechdiff.experiments.ranking import Step, select_candidates
from micro import REFERENCE, released_here

pytestmark = released_here

GROUPS = {"A": "value_fetcher", "B": "pos_transmitter", "C": "pos_detector", "D": "struct_reader"}
PLAN = [
    Step("A", Position.LAST, keep=50, exclude=("B",)),
    Step("B", Position.LAST, keep=10),
    Step("C", Position.QUERY_LABEL, keep=25),
    Step("D", Position.PREVIOUS_QUERY_LABEL, keep=5),
]


def load(name: str) -> dict:
    return json.loads((REFERENCE / f"{name}_llama.json").read_text())


def released_head(key: str) -> Head:
    module, index = ast.literal_eval(key)
    return Head(int(module.split(".")[2]), index)


@pytest.fixture(scope="module")
def candidates():
    scores = {}
    for group, name in GROUPS.items():
        layers = enumerate(load("path_patching")[name])
        rows = [(layer, head, score) for layer, row in layers for head, score in enumerate(row)]
        scores[group] = pd.DataFrame(rows, columns=["layer", "head", "score"])
    return select_candidates(PLAN, scores)


@pytest.mark.parametrize(("group", "name"), GROUPS.items())
def test_candidates_are_the_ones_the_authors_pruned(candidates, group, name):
    assert list(candidates[group].heads) == [released_head(key) for key in load("minimality")[name]]


@pytest.mark.parametrize(("group", "name"), GROUPS.items())
def test_minimality_at_one_percent_gives_the_released_circuit(candidates, group, name):
    released = load("minimality")
    significance = next(value for key, value in released.items() if key.startswith(f"{name}_"))
    tested = {released_head(key): accuracies for key, accuracies in significance.items()}
    kept = [head for head in candidates[group].heads if is_kept(minimality_score(*tested[head]), 0.01)]
    assert [[head.layer, head.index] for head in kept] == load("circuit")[name]


@pytest.mark.parametrize("name", GROUPS.values())
def test_the_size_of_k_is_the_one_the_authors_named_their_files_for(name):
    released = load("minimality")
    (named,) = (key for key in released if key.startswith(f"{name}_"))
    assert context_size(len(released[name]), 0.3) == int(named.split("_")[-2])
