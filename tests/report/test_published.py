"""The paper's numbers as typed: they agree with each other, with the authors' released numbers, and with the text.

The released numbers and the text are not part of the project; where they are absent those tests are skipped.
"""

import json
import re

import pytest
import yaml

from mechdiff.circuits import Head
from mechdiff.common.errors import InputError
from mechdiff.report.published import BASE, CIRCUITS, GROUPS, MODELS, POSITIONAL, published
from micro import NOT_OURS, REFERENCE, ROOT, released_here

PAPER_FILE = ROOT / "resources" / "paper.yaml"
PAPER = published(PAPER_FILE)
ROUNDING = 0.005 + 1e-9  # of two printed decimals
EVERY_GROUP = [(circuit, group) for circuit in CIRCUITS for group in GROUPS]
RELEASED_MODELS = dict(zip(MODELS, ("llama", "vicuna", "goat", "float"), strict=True))
RELEASED_GROUPS = {"A": "value_fetcher", "B": "pos_transmitter", "C": "pos_detector", "D": "struct_reader"}


@pytest.mark.parametrize(("circuit", "group"), EVERY_GROUP)
def test_a_group_has_as_many_heads_as_its_table_says_none_twice_and_no_more_than_there_were(circuit, group):
    entry = PAPER["heads"][circuit][group]
    assert len(entry["heads"]) == len(set(entry["heads"])) == entry["size"] <= entry["candidates"]
    assert all(head.layer < 32 and head.index < 32 for head in entry["heads"])
    assert (entry["function"] is None) == (entry["functional"] is None)
    assert (entry["functional"] or 0) <= entry["size"]


def test_circuits_are_as_large_as_the_paper_says():
    def total(circuit, column):
        return sum(entry[column] for entry in PAPER["heads"][circuit].values())

    assert {circuit: total(circuit, "size") for circuit in CIRCUITS} == dict(zip(CIRCUITS, (72, 175, 175), strict=True))
    before_pruning = {circuit: total(circuit, "candidates") for circuit in CIRCUITS}
    assert before_pruning == dict(zip(CIRCUITS, (90, 200, 200), strict=True))


@pytest.mark.parametrize(("circuit", "group"), EVERY_GROUP[len(GROUPS) :])
def test_overlap_follows_from_the_heads(circuit, group):
    base, own = (set(PAPER["heads"][name][group]["heads"]) for name in (BASE, circuit))
    entry, both = PAPER["overlap"][circuit][group], len(base & own)
    assert (entry["base"], entry["own"], entry["intersection"]) == (len(base), len(own), both)
    assert entry["precision"] == pytest.approx(both / len(base), abs=ROUNDING)
    assert entry["recall"] == pytest.approx(both / len(own), abs=ROUNDING)


@pytest.mark.parametrize("circuit", CIRCUITS)
@pytest.mark.parametrize("model", MODELS)
def test_faithfulness_is_the_ratio_of_the_accuracies(circuit, model):
    row = PAPER["faithfulness"][circuit][model]
    assert row["faithfulness"] == pytest.approx(row["circuit"] / row["full_model"], abs=ROUNDING)
    assert row["full_model"] == PAPER["faithfulness"][BASE][model]["full_model"], "the model is the same in each table"


@pytest.mark.parametrize(("circuit", "group"), EVERY_GROUP)
def test_incompleteness_is_the_difference_of_the_accuracies(circuit, group):
    row = PAPER["completeness"][circuit][group]
    assert row["incompleteness"] == pytest.approx(abs(row["full_model"] - row["circuit"]), abs=1e-9)


@pytest.mark.parametrize("circuit", CIRCUITS)
def test_mean_incompleteness_is_at_least_the_difference_of_the_means(circuit):
    row = PAPER["completeness"][circuit]["random"]
    assert row["incompleteness"][0] >= abs(row["full_model"][0] - row["circuit"][0]) - 3 * ROUNDING


def test_the_first_functional_shares_are_the_ones_in_the_text():
    shares = {group: entry["functional"] / entry["size"] for group, entry in list(PAPER["heads"][BASE].items())[:3]}
    assert shares == pytest.approx({"A": 1, "B": 0.7143, "C": 0.7}, abs=5e-5)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["heads", BASE, "A", "heads"], ["L15 H13", "L15H3"], r"heads\.Llama-7B\.A\.heads: .*'L15 H3'"),
        (["heads", BASE, "B", "heads"], ["L1 H1", "L1 H1"], r"heads\.Llama-7B\.B\.heads: .*each head once"),
        (["faithfulness", BASE, BASE, "circuit"], 66, r"faithfulness\.Llama-7B\.Llama-7B\.circuit: 66 .*from 0 to 1"),
        (["faithfulness", BASE, BASE, "circuit"], True, "True is not allowed"),
        (["completeness", BASE, "random", "circuit"], 0.1, r"completeness\.Llama-7B\.random\.circuit: 0\.1 .*mean"),
        (["overlap", BASE], {}, r"overlap\.Llama-7B: unknown key; allowed: Goat-7B, FLoat-7B"),
        (["overlap"], None, r"overlap: None is not allowed; allowed: keys Goat-7B"),
        (["positional", "no_commas", "accuracy"], float("nan"), r"positional\.no_commas\.accuracy: nan"),
        (["groups", "A", "position"], "first", r"groups\.A\.position: 'first' .*query_label"),
    ],
)
def test_anything_unexpected_is_refused_by_file_and_key(tmp_path, keys, value, message):
    tables = yaml.safe_load(PAPER_FILE.read_text())
    table = tables
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(tables))
    with pytest.raises(InputError, match=r"paper\.yaml: " + f".*{message}"):
        published(tmp_path / "paper.yaml")


def test_a_missing_key_and_a_missing_file_are_named(tmp_path):
    tables = yaml.safe_load(PAPER_FILE.read_text())
    del tables["completeness"]["Goat-7B"]["C"]
    (tmp_path / "paper.yaml").write_text(yaml.safe_dump(tables))
    with pytest.raises(InputError, match=r"paper\.yaml: completeness\.Goat-7B\.C: missing key"):
        published(tmp_path / "paper.yaml")
    with pytest.raises(InputError, match=r"other\.yaml: cannot be read"):
        published(tmp_path / "other.yaml")


@pytest.fixture(scope="module")
def released():
    return json.loads((REFERENCE / "published_numbers.json").read_text())


@released_here
@pytest.mark.parametrize(("circuit", "group"), EVERY_GROUP)
def test_sizes_are_the_released_ones(released, circuit, group):
    model, name, entry = RELEASED_MODELS[circuit], RELEASED_GROUPS[group], PAPER["heads"][circuit][group]
    assert entry["size"] == released["circuit_sizes"][model][name]
    assert entry["candidates"] == released["minimality"][model][name]["candidates"]
    if entry["functional"]:
        assert entry["functional"] == released["cmap"]["head_counts"][model][name]


@released_here
def test_the_base_circuit_is_the_released_one():
    circuit = json.loads((REFERENCE / "circuit_llama.json").read_text())
    for group, name in RELEASED_GROUPS.items():
        assert PAPER["heads"][BASE][group]["heads"] == [Head(*pair) for pair in circuit[name]]


@released_here
def test_faithfulness_is_the_released_one(released):
    columns = ("model_acc", "circuit_acc", "random_circuit_acc", "faithfulness")
    rows = {(row["circuit"], row["model"]): [row[c] for c in columns] for row in released["circuit_eval"]["rows"]}
    assert rows == {
        (f"{RELEASED_MODELS[circuit]}_circuit", RELEASED_MODELS[model]): list(row.values())
        for circuit, table in PAPER["faithfulness"].items()
        for model, row in table.items()
    }


@released_here
@pytest.mark.parametrize("circuit", CIRCUITS)
def test_completeness_is_the_released_one(released, circuit):
    theirs, ours = released["completeness"][RELEASED_MODELS[circuit]], PAPER["completeness"][circuit]
    for group, name in RELEASED_GROUPS.items():
        removed = theirs["whole_group_removed"][name]
        columns = ("model_without_group", "circuit_without_group", "incompleteness")
        assert list(ours[group].values()) == [removed[column] for column in columns]
    assert ours["random"]["subsets"] == theirs["n_random_subsets"]
    for column, name in (("full_model", "model"), ("circuit", "circuit"), ("incompleteness", "incompleteness")):
        assert ours["random"][column] == [theirs["summary"][f"{name}_mean"], theirs["summary"][f"{name}_std"]]


@pytest.fixture(scope="module")
def text():
    """The paper's text, extracted from its PDF; words may run together and lines break anywhere."""
    for file in sorted(REFERENCE.parent.glob("*/*.txt")):
        content = file.read_text(errors="ignore")
        if "A CASE STUDY ON ENTITY TRACKING" in content and "TableA11:" in content:
            return content
    return pytest.skip(f"the paper's text {NOT_OURS}")


def table(text: str, name: str) -> str:
    """What follows the caption of a table, up to the next one."""
    return re.split(rf"\nTable ?{name}:", text)[1].split("\nTable")[0]


def row_of(table: str, label: str, columns: int) -> list[float]:
    """The last numbers of the first line that starts with the label and ends with a number."""
    line = re.search(rf"^{label} .*\d$", table, re.M)[0]
    return [float(number) for number in re.findall(r"[\d.]+", line)[-columns:]]


def test_every_head_stands_in_the_text_in_this_order(text):
    after = text.split("\nTableA2:")[1]
    typed = [head for circuit, group in EVERY_GROUP for head in PAPER["heads"][circuit][group]["heads"]]
    assert typed == [Head(int(a), int(b)) for a, b in re.findall(r"L(\d+)\s+H(\d+)", after)]


@pytest.mark.parametrize(
    ("circuit", "table_1", "table_2"), [(BASE, "1", "A1"), ("Goat-7B", "A5", "A4"), ("FLoat-7B", "A9", "A8")]
)
def test_faithfulness_and_completeness_stand_in_the_text(text, circuit, table_1, table_2):
    evaluated, removed = table(text, table_1), table(text, table_2)
    for model, row in PAPER["faithfulness"][circuit].items():
        assert row_of(evaluated, model, 4) == list(row.values())
    subsets, *pairs = PAPER["completeness"][circuit]["random"].values()
    assert f"over{subsets}random" in removed
    assert row_of(removed, "Random", 6) == [number for pair in pairs for number in pair]
    for group in GROUPS:
        assert row_of(removed, f"Group{group}", 3) == list(PAPER["completeness"][circuit][group].values())


@pytest.mark.parametrize(("circuit", "name"), [(BASE, "A2"), ("Goat-7B", "A3"), ("FLoat-7B", "A7")])
def test_sizes_stand_in_the_text(text, circuit, name):
    for group, entry in PAPER["heads"][circuit].items():
        (line,) = re.findall(rf"^{group} (\d+) (Value|Position|-) \w+ (\d+|-)$", table(text, name), re.M)
        function = {"Value": "object", "Position": "position", "-": None}[line[1]]
        functional = None if line[2] == "-" else int(line[2])
        assert (entry["size"], entry["function"], entry["functional"]) == (int(line[0]), function, functional)


@pytest.mark.parametrize(("circuit", "name"), [("Goat-7B", "A6"), ("FLoat-7B", "A10")])
def test_overlap_stands_in_the_text(text, circuit, name):
    for group, entry in PAPER["overlap"][circuit].items():
        assert row_of(table(text, name), group, 5) == list(entry.values())


def test_positional_desiderata_stand_in_the_text(text):
    examples = table(text, "A12") + table(text, "A13")
    for number, name in enumerate(POSITIONAL, 1):
        entry = PAPER["positional"][name]
        assert row_of(table(text, "A11"), str(number), 2) == [entry["accuracy"], entry["variance"]]
        assert re.search(rf"^{number} (.* )?{entry['example_target']}$", examples, re.M)
