"""What the default run must show, read from the tables that ``make run`` made: pytest -m default_run.

With --run-name seed1 the same is asked of a run on another seed's family.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from documents import blocks, matches
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


@pytest.fixture(scope="module")
def patching(tables) -> pd.DataFrame:
    table = pd.read_parquet(tables / "table_activation_patching.parquet")
    ours = table[table["circuit_of"] == "mini-llama"]
    return ours.set_index(["model", "group", "desideratum"]).sort_index()["accuracy"]


@pytest.mark.parametrize(("group", "function"), [("A", "object"), ("B", "position"), ("C", "position")])
def test_functional_heads_carry_value_in_a_and_position_in_b_and_c(patching, table_1, group, function):
    found = patching["mini-llama", group]
    others = found.drop(function)
    assert found[function] >= table_1.loc["mini-llama", "full_model"] / 2
    assert found[function] >= 5 * others.max()


def test_cross_model_patching_names_the_step_that_the_adapter_improved(tables):
    table = pd.read_parquet(tables / "table_cmap.parquet")
    into_base = table[(table["donor"] == "mini-goat") & (table["recipient"] == "mini-llama")]
    gains = into_base[(into_base["heads"] == "functional") & (into_base["part"] == "output")].set_index("group")
    for before in ("C", "D"):  # what group B reads is not better; what it writes is
        assert gains.loc["B", "gain_low"] > max(0, gains.loc[before, "gain_high"])
    inputs = into_base[(into_base["heads"] == "functional") & (into_base["part"] == "qkv")].set_index("group")
    assert (inputs["accuracy"] == gains["accuracy"]).all(), "with all its inputs a head gives the donor's output"


def test_every_table_and_figure_of_the_paper_is_there(tables):
    shown = " ".join(p.stem for folder in (tables, tables.parent / "figures") for p in folder.iterdir())
    for number in range(1, 14):
        assert f"_A{number}_" in shown, number
    for name in ("table_1", "figure_1_", "figure_2_", "figure_3_", "figure_4_"):
        assert name in shown
    verdict = (tables.parent / "verdict" / "verdict.md").read_text()
    assert verdict.count("holds**") + verdict.count("does not hold**") + verdict.count("cannot tell**") == 3


README = (ROOT / "README.md").read_text()


@pytest.fixture
def shipped(request, tables) -> Path:
    """The folder of the default run, which the README shows."""
    if request.config.getoption("--run-name") != "mini":
        pytest.skip("README and documents show the run mini, and --run-name names another")
    return tables.parent


def test_the_readme_has_this_runs_table_1_verdict_and_figures(shipped):
    table = (shipped / "tables" / "table_1.md").read_text()
    wide = [line for line in README.splitlines() if line.startswith("|") and line.count("|") > 3]
    assert [line for line in table.splitlines() if line.startswith("|")] == wide
    (caption,) = re.findall(r"^Table 1: .*", README, flags=re.MULTILINE)
    assert caption in table
    found = re.findall(
        r"^\d\. (.*): \*\*(.*)\*\*$", (shipped / "verdict" / "verdict.md").read_text(), flags=re.MULTILINE
    )
    assert len(found) == 3
    said = re.findall(r"^\d\. (.*): \*\*(.*?)\*\*", README, flags=re.MULTILINE)
    assert [verdict for _, verdict in said] == [verdict for _, verdict in found]
    for image in re.findall(r"\(docs/images/(.*?)\)", README):
        assert (ROOT / "docs" / "images" / image).read_bytes() == (shipped / "figures" / image).read_bytes(), image


def test_what_commands_of_the_documents_print_is_what_the_default_run_prints(shipped, tmp_path):
    for folder in ("results/mini", "resources", "config"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    compared = 0
    for block in blocks():
        for command, shown in block.commands() if block.is_shell and "results/" in block.text else ():
            if shown and "results/test" not in command:
                program, *arguments = shlex.split(command)
                run = [sys.executable, *(["-m", "mechdiff"] if program == "mechdiff" else []), *arguments]
                done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
                assert matches(shown, done.stdout), f"{block.place}: {done.stdout}{done.stderr}"
                compared += 1
    assert compared >= 3


def test_the_table_of_seeds_has_this_seeds_numbers(request, tables, table_1):
    seed = request.config.getoption("--run-name").replace("mini", "seed0").removeprefix("seed")
    rows = re.findall(r"^\| (.*) \|$", (ROOT / "docs" / "family.md").read_text(), flags=re.MULTILINE)
    (head,) = [i for i, row in enumerate(rows) if row.startswith(" | Seed") or row.startswith("| Seed")]
    cells = [[cell.strip() for cell in row.split("|")] for row in rows[head:]]
    (column,) = [i for i, title in enumerate(cells[0]) if title.startswith(f"Seed {seed}")]
    shown = {row[0].strip("`"): row[column] for row in cells[1:]}
    for model, row in table_1.iterrows():
        assert shown[model] == f"{row['full_model']:.2f} / {row['faithfulness']:.2f}"
    planted = pd.read_parquet(tables / "table_planted.parquet")
    base = planted[(planted["circuit"] == "mini-llama") & (planted["stage"] == "circuit")].set_index("group")
    others = {key.split(" ")[0]: value for key, value in shown.items()}
    assert others["Random"] == f"{table_1.loc['mini-llama', 'random_circuit']:.2f}"
    assert others["Recall"] == ", ".join(f"{base.loc[group, 'recall']:g}" for group in "ABCD")
    assert others["Heads"] == str(base["found"].sum())
