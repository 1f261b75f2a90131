"""The workflow as a user runs it: real snakemake processes on the test-size config."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from mechdiff.common.errors import InputError
from mechdiff.provenance.audit import audit
from mechdiff.provenance.explain import explain
from mechdiff.running.config import checked
from micro import ROOT
from small_run import CONFIG, RUN, new_folder, snakemake

TABLES, FIGURES = 13, 10
# Splits and desiderata; check, means, four groups, candidates, stability, minimality, masks, completeness, knockout and
# activation patching of each model; circuits in models; one each across models, of position, of attention; verdict;
# crate.
JOBS = 4 + 14 + 2 * 13 + 4 + 1 + 1 + 1 + TABLES + (FIGURES - 1) + 1 + 1  # Figures A1 and A2 come from one job


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """What a run would do now: rule -> jobs."""
    done = snakemake(folder, "-n", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"^(\w+) +(\d+)$", (done.stdout + done.stderr).split("Job stats:")[-1], flags=re.MULTILINE)
    return {rule: int(count) for rule, count in rows if rule not in ("all", "total")}


def jobs(*more: dict[str, int], **counts: int) -> dict[str, int]:
    """The sum of what is redone; describing and sealing the run always is."""
    total = {"crate": 1, "seal_run": 1} | counts
    for each in more:
        for rule, count in each.items():
            total[rule] = max(total.get(rule, 0), count)
    return total


def once(*rules: str) -> dict[str, int]:
    return dict.fromkeys(rules, 1)


# What follows from what, with two models.
SEEN = once("verdict")
FROM_PATCHING = once("table_activation_patching", "figure_3", "figure_functions") | SEEN
FROM_CMAP = once("table_cmap", "figure_4", "figure_cmap_inputs") | SEEN
FROM_COMPLETENESS = once("table_completeness", "figure_completeness")
FROM_KNOCKOUT = once("table_attention_knockout", "figure_knockout")
OF_HEADS = once("table_heads", "table_overlap", "table_causal_impact", "figure_causal_impact", "table_planted")
EVALUATION = {"evaluate_circuit": 4} | once("table_1", "table_own_circuits") | SEEN
OF_A_CIRCUIT = {"completeness": 1, "dcm": 1} | FROM_COMPLETENESS | once("table_dcm") | OF_HEADS
OF_A_CIRCUIT |= {"activation_patching": 2, "cmap": 1} | FROM_PATCHING | FROM_CMAP
OF_THE_BASES = once("attention_patterns", "figure_1", "positional_desiderata", "table_positional")


def changed(folder: Path, tmp_path: Path, change) -> dict[str, int]:
    config = yaml.safe_load((folder / CONFIG).read_text())
    change(config)
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return planned(folder, "--configfile", str(tmp_path / "changed.yaml"))


def test_a_second_run_does_nothing(finished):
    assert planned(finished, "--configfile", CONFIG) == {}
    done = snakemake(finished, "--configfile", CONFIG)
    assert (
        done.returncode == 0
        and done.stdout.startswith("Tables, figures and the verdict: ")
        and "Job" not in done.stderr
    )
    for place in done.stdout.split(": ")[1].strip().split(", "):
        assert (finished / place).exists(), "what it says to open"


def test_every_rule_says_in_words_what_it_does():
    """Snakemake lists the inputs of a rule that says nothing, a hundred records of rule all."""
    for file in (ROOT / "Snakefile", *(ROOT / "workflow" / "rules").iterdir()):
        rules = re.split(r"^rule (\w+):", file.read_text(), flags=re.MULTILINE)[1:]
        for name, body in zip(rules[::2], rules[1::2], strict=True):
            assert re.search(r'^    message:\n        f?"[\w{]', body, flags=re.MULTILINE), name


def test_the_chain_of_a_run_is_complete_and_its_audit_passes(finished):
    (found,) = audit(finished / "results").values()
    records = {path.name for path in (finished / "results").rglob("*.record.json")}
    manifest = json.loads((finished / "results/test/manifest.json").read_text())
    assert found.jobs == len(manifest["records"]) == JOBS
    assert {Path(path).name for path in manifest["records"]} == records


def test_more_kept_heads_of_one_group_rerun_its_circuits_and_no_path_patching(finished, tmp_path):
    found = changed(finished, tmp_path, lambda c: c["plan"][1].update(keep=3))
    both = {"select_candidates": 2, "stability": 2, "minimality": 2, "completeness": 2, "dcm": 2}
    assert found == jobs(both, EVALUATION, OF_A_CIRCUIT, OF_THE_BASES)


def test_more_receivers_of_one_group_rerun_that_circuits_later_groups_and_what_follows(finished, tmp_path):
    found = changed(finished, tmp_path, lambda c: c["plan"][1].update(per_model={"mini-llama": {"receivers": 2}}))
    of_the_base = {"path_patching": 2, "select_candidates": 1, "stability": 1, "minimality": 1}
    of_the_base |= {"evaluate_circuit": 2, "cmap": 0}
    wanted = jobs(of_the_base, once("table_1") | SEEN, OF_A_CIRCUIT, OF_THE_BASES)
    for rule in ("cmap", "table_cmap", "figure_4", "figure_cmap_inputs"):  # of the fine-tuned model's circuit alone
        del wanted[rule]
    assert found == wanted


def test_a_fine_tuned_models_own_counts_leave_the_base_circuit_alone(finished, tmp_path):
    found = changed(finished, tmp_path, lambda c: c["plan"][2].update(per_model={"mini-goat": {"keep": 3}}))
    own = {"select_candidates": 1, "stability": 1, "minimality": 1, "evaluate_circuit": 2, "table_own_circuits": 1}
    assert found == jobs(own, OF_A_CIRCUIT)


def test_another_number_of_random_circuits_reruns_the_evaluation_alone(finished, tmp_path):
    found = changed(finished, tmp_path, lambda c: c["evaluation"].update(random_circuits=3))
    assert found == jobs(EVALUATION)


def test_more_evaluation_rows_redo_what_is_evaluated_and_no_discovery(finished, tmp_path):
    found = changed(finished, tmp_path, lambda c: c["dataset"]["rows"].update(evaluation=20))
    again = {"generate_dataset": 1, "completeness": 2, "attention_knockout": 2, "cmap": 1} | FROM_COMPLETENESS
    assert found == jobs(EVALUATION, again, FROM_KNOCKOUT, FROM_CMAP, once("attention_patterns", "figure_1"))


def test_another_sparsity_redoes_the_masks_and_what_follows_from_them(finished, tmp_path):
    found = changed(finished, tmp_path, lambda c: c["dcm"].update(sparsity=[0.01, 0.1]))
    masks = {"dcm": 2, "activation_patching": 2, "cmap": 1} | once("table_dcm", "table_heads", "positional_desiderata")
    assert found == jobs(masks, FROM_PATCHING, FROM_CMAP, once("table_positional"))


def test_what_the_verdict_demands_changes_the_verdict_alone(finished, tmp_path):
    assert changed(finished, tmp_path, lambda c: c.update(verdict={"faithfulness": 0.9})) == jobs(SEEN)


def test_a_group_may_be_renamed_without_computing_anything_again(finished, tmp_path):
    found = changed(finished, tmp_path, lambda c: c["plan"][0].update(name="Fetcher"))
    assert {rule.split("_")[0] for rule in found} == {"table", "figure", "verdict", "crate", "seal"}


def test_a_job_done_again_is_sealed_again(finished, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(finished, folder)
    again = snakemake(folder, "results/test/dataset/evaluation.parquet", "--force", "--configfile", CONFIG)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "seal_run" in planned(folder, "--configfile", CONFIG)


def test_a_plan_may_add_groups_and_reorder_them(finished, tmp_path):
    def keys_too(config):
        a, b, c, d = config["plan"]
        keys = {"group": "K", "name": "Key Writer", "position": "query_label", "receiver": "B", "via": "k", "keep": 2}
        config["plan"] = [a, b, keys, c, d]

    assert changed(finished, tmp_path, keys_too)["path_patching"] == 2, "of the new group, once a model"


def test_other_weights_redo_everything_of_that_model(finished, tmp_path):
    folder = tmp_path / "retrained"
    shutil.copytree(finished, folder)
    weights = folder / "resources/models/mini-goat/adapter_model.safetensors"
    values = load_file(weights)
    save_file({name: value * 2 for name, value in values.items()}, weights)
    found = planned(folder, "--configfile", CONFIG)
    own = once("check_model", "mean_activations", "select_candidates", "stability", "minimality", "attention_knockout")
    own |= {"path_patching": 4, "evaluate_circuit": 3}
    assert found == jobs(own, once("table_1", "table_own_circuits"), OF_A_CIRCUIT, FROM_KNOCKOUT)


def test_a_part_of_a_run_can_be_asked_for(tmp_path):
    folder = new_folder(tmp_path / "part")
    done = snakemake(folder, "results/test/dataset/means.parquet", "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Table 1" not in done.stdout


def test_every_row_of_every_table_is_there(finished):
    tables = finished / "results/test/tables"
    assert pd.read_csv(tables / "table_1.csv")["model"].tolist() == ["mini-llama", "mini-goat"]
    assert len(pd.read_csv(tables / "table_A2_A3_A7_heads.csv")) == 2 * 4
    assert len(pd.read_csv(tables / "table_A5_A9_own_circuits.csv")) == 2
    assert len(pd.read_csv(tables / "table_A1_A4_A8_completeness.csv")) == 2 * 5
    assert len(pd.read_csv(tables / "table_A6_A10_overlap.csv")) == 4
    assert len(pd.read_csv(tables / "table_dcm.csv")) == 2 * 4 * 3
    assert len(pd.read_csv(tables / "table_activation_patching.csv")) == 2 * 2 * 4 * 3
    assert len(pd.read_csv(tables / "table_A11_positional.csv")) == 11
    assert len(pd.read_csv(tables / "table_A12_A13_examples.csv")) == 14
    words = "100 objects and 26 labels; dropped, because they are not: none."
    assert words in (tables / "table_A12_A13_examples.md").read_text()
    assert len(pd.read_csv(tables / "table_attention_knockout.csv")) == 2 * 5 * 6
    assert set(pd.read_csv(tables / "table_cmap.csv")["recipient"]) == {"mini-llama", "mini-goat"}
    assert len(pd.read_csv(tables / "table_planted.csv")) == 2 * 2 * 4
    scores = pd.read_parquet(finished / "results/test/candidates/mini-goat.scores.parquet")
    assert {"model", "group", "layer", "head", "score", "stderr", "n"} <= set(scores.columns)


def test_the_audit_command_prints_one_line_and_its_status(finished):
    command = [sys.executable, "-m", "mechdiff", "audit", "results"]
    done = subprocess.run(command, cwd=finished, capture_output=True, text=True)
    assert done.returncode == 0 and f"files of {JOBS} jobs match their records" in done.stdout
    done = subprocess.run([*command[:-1], "config"], cwd=finished, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "mechdiff: config: no manifest.json in it, so no finished run to audit\n"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda c: c["plan"][0].update(keep=25), "plan.0.keep: 25 for mini-llama; allowed: at most its 24 heads"),
        (lambda c: c.update(memory="much"), "memory: 'much' is not allowed; allowed: a value of type integer"),
    ],
)
def test_a_bad_config_stops_before_any_job_with_one_line(tmp_path, change, line):
    folder = new_folder(tmp_path / "bad")
    config = yaml.safe_load((folder / CONFIG).read_text())
    change(config)
    (folder / "bad.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    done = snakemake(folder, "--configfile", "bad.yaml")
    assert done.returncode == 1
    assert [text for text in done.stderr.splitlines() if "profile" not in text] == [f"mechdiff: config: {line}"]
    assert "Traceback" not in done.stdout + done.stderr
    assert not (folder / "results").exists()


@pytest.mark.parametrize(
    ("model", "weights", "kept_share"),
    [("mini-llama", "model.safetensors", 0.5), ("mini-goat", "adapter_model.safetensors", 0)],
)
def test_a_damaged_checkpoint_stops_its_job_with_one_line(tmp_path, model, weights, kept_share):
    folder = new_folder(tmp_path / "damaged")
    file = folder / "resources/models" / model / weights
    file.write_bytes(file.read_bytes()[: int(kept_share * file.stat().st_size)])
    check = f"results/test/models/{model}/check.json"
    done = snakemake(folder, check, "--configfile", CONFIG)
    printed = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"mechdiff: resources/models/{model}/{weights}: model '{model}' cannot be opened" in printed
    assert "Traceback" not in printed
    assert not (folder / check).exists()


def test_the_report_has_every_table_figure_and_the_verdict(finished, tmp_path):
    report = tmp_path / "report.html"
    done = snakemake(finished, "--report", str(report), "--configfile", CONFIG)
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    for number in ("Table 1", "Tables A1, A4, A8", "Table A11", "Figure 1", "Figure 4", "Figures A8, A9"):
        assert number in text, number
    assert "Accuracy over n = 16 examples" in text, "a caption with this run's numbers"


def test_the_papers_run_is_planned_without_its_checkpoints_and_does_not_start(tmp_path):
    folder = new_folder(tmp_path / "paper")
    plan = snakemake(folder, "-n", "--configfile", "config/paper.yaml")
    assert plan.returncode == 0, plan.stdout + plan.stderr
    assert re.search(r"^path_patching +16$", plan.stdout + plan.stderr, flags=re.MULTILINE)
    assert re.search(r"^evaluate_circuit +16$", plan.stdout + plan.stderr, flags=re.MULTILINE)
    done = snakemake(folder, "--configfile", "config/paper.yaml")
    printed = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in printed
    for name in ("llama-7b", "vicuna-7b", "goat-7b", "float-7b"):
        assert (
            f"mechdiff: config: models.{name}.path: no folder 'checkpoints/{name}'; allowed: a folder with" in printed
        )
    assert not list(folder.rglob("*.parquet"))


@pytest.mark.whole_run
def test_a_model_near_chance_gets_no_circuit_and_everything_else_still_runs(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "weak")
    weak = folder / "resources/models/mini-weak"
    shutil.copytree(folder / "resources/models/mini-float", weak)
    weights = load_file(weak / "model.safetensors")
    weights |= {name: value * 0.01 for name, value in weights.items() if "q_proj" in name}
    save_file(weights, weak / "model.safetensors", {"format": "pt"})
    config = yaml.safe_load((folder / CONFIG).read_text())
    config["models"]["mini-weak"] = {"path": "resources/models/mini-weak", "base": "mini-llama"}
    (folder / "weak.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    done = snakemake(folder, "--configfile", "weak.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    reason = r"not evaluated: accuracy 0\.\d\d, chance 0\.14"
    tables = folder / "results/test/tables"
    for name in ("table_1", "table_A5_A9_own_circuits"):
        table = pd.read_csv(tables / f"{name}.csv").set_index("model")
        assert table.loc[["mini-weak"], "note"].str.fullmatch(reason).all()
        assert table.loc[["mini-weak"], "circuit"].isna().all() and table["full_model"].notna().all()
    heads = pd.read_csv(tables / "table_A2_A3_A7_heads.csv").set_index("circuit_of")
    assert (
        heads.loc["mini-weak", "enumerated"].str.fullmatch(reason).all()
        and heads.loc["mini-goat", "heads"].notna().all()
    )
    for name, key in [
        ("table_cmap", "circuit_of"),
        ("table_dcm", "circuit_of"),
        ("table_A1_A4_A8_completeness", "circuit_of"),
        ("table_A6_A10_overlap", "circuit_of"),
        ("table_activation_patching", "model"),
        ("table_attention_knockout", "model"),
    ]:
        table = pd.read_csv(tables / f"{name}.csv")
        noted = table[table["note"].notna()]
        assert noted[key].tolist() == ["mini-weak"] and noted["note"].str.fullmatch(reason).all(), name
        assert "not evaluated: accuracy" in (tables / f"{name}.md").read_text(), name
    assert "cannot tell (not evaluated: accuracy" in (tables.parent / "verdict" / "verdict.md").read_text()
    assert audit(folder / "results")
    undefined = explain(tables / "table_1.csv", "mini-weak", "random_circuit_low")
    assert undefined["value"] is None and "draws" not in undefined["formula"]["counts"]
    counted = explain(tables / "table_1.csv", "mini-weak", "full_model")
    assert counted["formula"]["words"].endswith(f" = {counted['formula']['counts']['full_model']} / 16")


def test_no_model_may_have_the_name_of_another_file_of_a_run(finished, monkeypatch):
    """Where a file is called by its model, the others in its folder with the same ending are called as none may be."""
    monkeypatch.chdir(finished)
    config = yaml.safe_load(Path(CONFIG).read_text())
    models, others = list(config["models"]), set()
    for file in (path for path in Path(RUN).rglob("*") if path.is_file()):
        for ending in (file.name.removeprefix(name) for name in models if file.name.startswith(f"{name}.")):
            beside = {path.name.removesuffix(ending) for path in file.parent.glob(f"*{ending}")}
            others |= {name for name in beside if name and not name.startswith(".")} - {*models}
    assert {"points", "mini-llama.record"} <= others
    for name in others:
        with pytest.raises(InputError, match=rf"^models\.{re.escape(name)}: "):
            checked(config | {"models": config["models"] | {name: config["models"]["mini-goat"]}})
