"""What a change redoes: the jobs that read the changed value or import the changed module, what follows, nothing else.

The graph is the workflow's own (snakemake --dag), where jobs that would not run are dashed. What each config key is
read by stands here, written by hand.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from micro import ROOT

pytestmark = pytest.mark.whole_run
CONFIG = "config/test.yaml"
SCENES = ["generate_dataset", "generate_desideratum"]
RESAMPLED = [
    "figure_1",
    "table_1",
    "table_own_circuits",
    "table_completeness",
    "table_dcm",
    "table_activation_patching",
]
RESAMPLED += ["table_positional", "table_cmap", "table_attention_knockout", "verdict"]
TRAINED_ON = [f"generate_desideratum\ndesideratum: {name}" for name in ("object", "label", "position")]
RUNS_MODELS = ["check_model", "mean_activations", "path_patching", "minimality", "evaluate_circuit", "completeness"]
RUNS_MODELS += ["attention_knockout", "dcm", "activation_patching", "positional_desiderata", "cmap"]
OPENS_MODELS = [*RUNS_MODELS, "attention_patterns"]
OF_GOAT = ["check_model\nmodel: mini-goat"]  # among what a job follows from: it is of mini-goat
SPLITS = ["discovery", "means", "minimality", "evaluation"]  # each drawn apart from those before it


def drawn_from(split: str) -> list[str]:
    return [f"generate_dataset\nsplit: {later}" for later in SPLITS[SPLITS.index(split) :]]


# Key -> another value, and what reads it: rules, or rule and wildcard.
KEYS: dict[str, tuple[object, list[str]]] = {
    "seed": (21, SCENES),
    "task.boxes": (6, SCENES),
    "task.objects": ("config/others.txt", SCENES),
    "dataset.layout": ("shared", ["generate_dataset"]),
    "dataset.rows.discovery": (9, [*drawn_from("discovery"), "figure_causal_impact"]),
    "dataset.rows.means": (17, drawn_from("means")),
    "dataset.rows.minimality": (13, drawn_from("minimality")),
    "dataset.rows.evaluation": (17, drawn_from("evaluation")),
    "minimality.fraction": (0.4, ["minimality"]),
    "minimality.threshold": (0.02, ["minimality"]),
    "evaluation.random_circuits": (3, ["evaluate_circuit"]),
    "evaluation.resamples": (300, RESAMPLED),
    "stability.resamples": (101, ["stability", "table_heads"]),
    "stability.share": (0.9, ["table_heads"]),
    "completeness.random_subsets": (3, ["completeness"]),
    "desiderata.rows.train": (65, [*TRAINED_ON, "dcm"]),
    "desiderata.rows.validation": (17, [*TRAINED_ON, "dcm"]),
    "desiderata.rows.test": (13, ["generate_desideratum", "dcm"]),
    "desiderata.sets": (3, ["generate_desideratum", "activation_patching"]),
    "dcm.sparsity": ([0.02], ["dcm", "table_dcm"]),
    "dcm.learning_rate": (0.2, ["dcm"]),
    "dcm.batch_size": (9, ["dcm"]),
    "dcm.epochs": (1, ["dcm"]),
    "verdict.faithfulness": (0.7, ["verdict"]),
    "verdict.gain": (0.2, ["verdict"]),
    "least_accuracy": (1.4, ["check_model"]),
    "null_patch_tolerance.float32": (0.001, ["check_model"]),
    "null_patch_tolerance.bfloat16": (0.4, []),
    "null_patch_tolerance.float16": (0.2, []),
    "memory": (3_000_000_000, RUNS_MODELS),
    "crate.license": ("https://example.org/licence", []),
    "shards.activation_patching": (2, ["activation_patching"]),
    "models.mini-goat.fine_tuned_on": ("Sums", ["table_1", "table_own_circuits"]),
    "models.mini-llama.dtype": ("bfloat16", OPENS_MODELS),
}
# The same for one model alone: what reads it there.
KEYS_OF_GOAT: dict[str, tuple[object, list[str]]] = {
    "minimality.per_model": ({"mini-goat": 0.0}, ["minimality"]),
    "completeness.per_model": ({"mini-goat": 1}, ["completeness"]),
}
# Keys that have no value of their own to change here, or whose change is another run: plan (test_run.py), the rest of a
# model's entry (its files are: test_run.py), run, planted, shards of eight examples, the parts of an agent.
ELSEWHERE = (
    "run",
    "plan",
    "models",
    "planted",
    "shards.path_patching",
    "shards.minimality",
    "crate.agent.name",
    "crate.agent.url",
)


class Graph:
    """Jobs by number: label (rule, and the wildcards that no job before it has), what each follows from, what runs."""

    def __init__(self, folder: Path, config: dict, project: Path = ROOT) -> None:
        (folder / "changed.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        command = [sys.executable, "-m", "snakemake", "-s", str(project / "Snakefile"), "--dag"]
        if project != ROOT:  # what it ships has other paths, which is no change of code
            command += ["--rerun-triggers", "code", "params"]
        env = os.environ | {"PYTHONPATH": str(project / "workflow")}
        done = subprocess.run(
            [*command, "--configfile", "changed.yaml"], cwd=folder, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        jobs = re.findall(r'^\s*(\d+)\[label = "(.*?)", .*style="(.*?)"\]', done.stdout, flags=re.MULTILINE)
        self.label = {job: label.replace("\\n", "\n") for job, label, _ in jobs}
        self.runs = {job for job, _, style in jobs if "dashed" not in style} - self.named("all", "crate", "seal_run")
        self.after: dict[str, set[str]] = {job: set() for job in self.label}
        for first, then in re.findall(r"^\s*(\d+) -> (\d+)", done.stdout, flags=re.MULTILINE):
            self.after[first].add(then)

    def named(self, *names: str) -> set[str]:
        return {job for job, label in self.label.items() if label in names or label.split("\n")[0] in names}

    def following(self, jobs: set[str]) -> set[str]:
        """These jobs and all that follows from them."""
        found, waiting = set(), list(jobs)
        while waiting:
            job = waiting.pop()
            if job not in found:
                found.add(job)
                waiting += self.after[job]
        return found - self.named("all", "crate", "seal_run")

    def names(self, jobs: set[str]) -> list[str]:
        return sorted(self.label[job] for job in jobs)


@pytest.fixture(scope="module")
def copy(finished, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reruns") / "copy"
    shutil.copytree(finished, folder)
    shutil.copy(folder / "config" / "objects.txt", folder / "config" / "others.txt")
    return folder


def changed(key: str, value: object) -> dict:
    config = yaml.safe_load((ROOT / CONFIG).read_text())
    *path, last = key.split(".")
    part = config
    for name in path:
        part = part.setdefault(name, {})
    part[last] = value
    return config


@pytest.mark.parametrize("key", KEYS)
def test_a_config_value_redoes_what_reads_it_and_what_follows(copy, key):
    value, readers = KEYS[key]
    graph = Graph(copy, changed(key, value))
    assert graph.names(graph.runs) == graph.names(graph.following(graph.named(*readers)))


def test_values_that_change_places_are_a_change(copy):
    config = yaml.safe_load((ROOT / CONFIG).read_text())
    config["dcm"] = {"epochs": config["dcm"]["batch_size"], "batch_size": 2}
    graph = Graph(copy, config)
    assert graph.names(graph.runs) == graph.names(graph.following(graph.named("dcm")))


@pytest.mark.parametrize("key", KEYS_OF_GOAT)
def test_a_value_of_one_model_leaves_the_other_alone(copy, key):
    value, readers = KEYS_OF_GOAT[key]
    graph = Graph(copy, changed(key, value))
    of_goat = graph.named(*readers) & graph.following(graph.named(*OF_GOAT))
    assert graph.names(graph.runs) == graph.names(graph.following(of_goat))


def test_every_key_is_changed():
    schema = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())

    def leaves(part: dict, path: str = "") -> list[str]:
        inside = part.get("properties", {})
        return [key for name, each in inside.items() for key in leaves(each, f"{path}.{name}".strip("."))] or [path]

    tried = {*KEYS, *KEYS_OF_GOAT, *ELSEWHERE}
    assert [key for key in leaves(schema) if key not in tried] == []


# Prints, a line a script, what importing it really imports of the package; large libraries are imported once, before it
# forks. The next one prints, a line a module, the scripts whose code version a change of it changes. The last prints
# the scripts whose code version another docstring and comment in every module change.
IMPORTS = """
import os, runpy, sys, torch, transformers, peft, pandas, matplotlib.figure, jsonschema, tokenizers
from transformers import AttentionInterface
for script in sys.argv[1:]:
    if os.fork():
        os.wait()
        continue
    runpy.run_path(script, run_name="imported")
    files = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "mechdiff" and m.__file__]
    os.write(1, (script + " " + " ".join(files) + chr(10)).encode())
    os._exit(0)
"""
VERSIONS = """
import sys
from pathlib import Path
from mechdiff.provenance.code import PACKAGE, code_version
before = {script: code_version(script) for script in sys.argv[1:]}
for module in sorted(PACKAGE.rglob("*.py")):
    source = module.read_bytes()
    module.write_bytes(source + b"CHANGED = 1\\n")
    print(module, *(script for script in before if code_version(script) != before[script]))
    module.write_bytes(source)
"""


DOCUMENTED = """
import ast, sys
from mechdiff.provenance.code import PACKAGE, code_version
before = {script: code_version(script) for script in sys.argv[1:]}
for file in [*PACKAGE.rglob("*.py"), *sys.argv[1:]]:
    with open(file) as opened:
        tree = ast.parse(opened.read())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            node.body[: ast.get_docstring(node) is not None] = [ast.Expr(ast.Constant("Another docstring."))]
    with open(file, "w") as opened:
        opened.write("# Another comment, another layout.\\n" + ast.unparse(tree))
print(*(script for script in before if code_version(script) != before[script]))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The workflow again, to be changed."""
    project = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "workflow", project / "workflow", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("envs", "resources"):
        shutil.copytree(ROOT / folder, project / folder)
    shutil.copy2(ROOT / "Snakefile", project)
    return project


@pytest.fixture(scope="module")
def users(project) -> dict[Path, set[str]]:
    """Module -> rules, which are named as their scripts, that import it."""
    users: dict[Path, set[str]] = {module: set() for module in (project / "workflow" / "mechdiff").rglob("*.py")}
    for script, *modules in said(project, IMPORTS):
        for module in modules:
            users[Path(module)].add(Path(script).stem)
    return users


def said(project: Path, program: str) -> list[list[str]]:
    """The words of each line that a program prints which is told of every script."""
    scripts = sorted(map(str, (project / "workflow" / "scripts").glob("*.py")))
    env = os.environ | {"PYTHONPATH": str(project / "workflow")}
    command = [sys.executable, "-c", program, *scripts]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_a_module_changes_the_code_version_of_what_really_imports_it(project, users):
    changed = {Path(module): {Path(script).stem for script in scripts} for module, *scripts in said(project, VERSIONS)}
    assert changed == users
    assert set.union(*users.values()) == {script.stem for script in (project / "workflow" / "scripts").glob("*.py")}


def test_docstrings_comments_and_layout_are_no_change_of_code(project, tmp_path):
    other = shutil.copytree(project, tmp_path / "other")
    assert said(other, DOCUMENTED) == [[]]


@pytest.mark.parametrize("name", ["experiments/minimality", "report/tables/functions", "provenance/audit"])
def test_another_code_version_redoes_the_rules_that_have_it_and_what_follows(copy, project, users, name):
    module = project / "workflow" / "mechdiff" / f"{name}.py"
    source = module.read_bytes()
    module.write_bytes(source + b"CHANGED = 1\n")
    try:
        graph = Graph(copy, yaml.safe_load((ROOT / CONFIG).read_text()), project)
    finally:
        module.write_bytes(source)
    assert graph.names(graph.runs) == graph.names(graph.following(graph.named(*users[module])))
    assert bool(graph.runs) == (name != "provenance/audit")
