"""What the documents tell a reader to type: run where it can be, parsed by the program it is for where it cannot.

A block of code of no known kind fails. What the default run prints is compared in test_default_run.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import snakemake_executor_plugin_slurm
import yaml
from snakemake.cli import get_argument_parser, parse_args

from documents import PROGRAMS, Block, blocks, in_comments, inline, matches
from mechdiff import cli
from mechdiff.circuits import Head
from mechdiff.engine import edits
from mechdiff.engine.run import Run
from mechdiff.models.checkpoints import read_tokenizer
from mechdiff.running import config as configuration
from mechdiff.tasks.boxes.task import BoxTask, Scene
from micro import OBJECTS, ROOT, micro_llama
from random_runs import LAST, VOCABULARY, prompts
from small_run import CONFIG, RUN, copy_of, forge

BLOCKS = blocks()
SCHEMA = yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())
OPTIONS = {option for action in get_argument_parser()._actions for option in action.option_strings}
BENCHMARKS = [file for file in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in file.read_text()]


@pytest.fixture(scope="module")
def folder(finished, with_three, tmp_path_factory) -> Path:
    """Everything that the documents name: the finished run, two to compare, an archive, packed and unpacked."""
    folder = copy_of(finished, tmp_path_factory.mktemp("documents") / "folder")
    for name, run in (("a", finished), ("b", with_three)):
        shutil.copytree(run / RUN, folder / name / RUN)
    shutil.copytree(ROOT / "resources" / "models" / "mini-llama", folder / "in")
    assert _run_mechdiff(folder, ["archive", RUN, "mini.zip"]) == 0
    zipfile.ZipFile(folder / "mini.zip").extractall(folder / "FOLDER")
    return folder


@pytest.fixture(params=BLOCKS, ids=lambda block: block.place)
def block(request) -> Block:
    return request.param


def test_every_block_of_code_does_what_it_says(block, folder, monkeypatch, capfd):
    """Kinds, in this order: shell, Python, a prompt, a message, part of an explanation, a config or a part of one."""
    monkeypatch.chdir(folder)
    if block.is_shell:
        for command, shown in block.commands():
            run_shell(command, folder, monkeypatch)
            printed = capfd.readouterr().out
            if "results/test" in command:
                assert not shown or matches(shown, printed), printed
            else:
                assert not shown or "results/mini" in block.text, "compared by test_default_run.py"
    elif block.language == "python" or "Run(" in block.text:
        run_python(block.text, folder, capfd)
    elif block.text.startswith("The "):
        assert is_prompt(block.text)
    elif block.text.startswith("mechdiff: "):
        for line in re.sub(r"\n(?!mechdiff: )", " ", block.text).splitlines():
            assert matches([line], provoked(line, folder, monkeypatch, capfd)), line
    elif block.text.startswith("It begins with"):
        asked = [f"{RUN}/tables/table_1.csv", "--row", "mini-goat", "--column", "faithfulness"]
        assert _run_mechdiff(folder, ["explain", *asked]) == 0
        assert matches(["…", *block.text.splitlines(), "…"], capfd.readouterr().out)
    else:
        check_yaml(yaml.safe_load(block.text), monkeypatch)


@pytest.mark.parametrize("piece", [p for p in inline() if p.is_shell and " " in p.text], ids=lambda p: p.text)
def test_every_command_in_a_line_of_text_does_what_it_says(piece, folder, monkeypatch):
    monkeypatch.chdir(folder)
    run_shell(piece.text, folder, monkeypatch)


def test_every_setting_and_signature_in_a_line_of_text_is_there():
    for piece in inline():
        if call := re.fullmatch(r"([A-Z]\w*)\(([\w, ]+)\)", piece.text):
            parameters = inspect.signature(getattr(edits, call[1])).parameters
            assert list(parameters) == call[2].split(", "), piece
        elif setting := re.fullmatch(r"([a-z][\w.-]*): (.+)", piece.text):
            check_setting(setting[1], yaml.safe_load(setting[2]))


def test_every_command_and_setting_in_a_comment_is_there(folder, monkeypatch):
    monkeypatch.chdir(folder)
    found = 0
    for file, line in in_comments():
        said = re.sub(r"^\w+=\S+ |\. .*|[);].*", "", line)  # a variable before it, and what follows it
        if command := re.search(rf"\b({'|'.join(PROGRAMS[:-1])}) (-|install|audit|explain).*", said):
            run_shell(re.sub(r"(?<=\w)\.$", "", command[0]), folder, monkeypatch)
            found += 1
        elif setting := re.fullmatch(r"([a-z][\w-]*): ([^#]+)(#.*)?", line):
            check_setting(setting[1], yaml.safe_load(setting[2]), file)
            found += 1
    assert found > 8


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda file: file.stem)
def test_every_benchmark_tells_its_options_with_the_projects_own_packages(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.syspath_prepend(script.parent)
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(script), run_name="__main__")
    assert "usage: " in capsys.readouterr().out


def test_the_table_of_benchmarks_is_that_of_their_records():
    """Each cell is its record's number, rounded."""
    page = (ROOT / "benchmarks" / "README.md").read_text()
    plain, peers = (
        {row["pass"]: row for row in json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())["rows"]}
        for name in ("plain", "peers")
    )
    rows = re.findall(r"^\| ([ABCD]) \| (.*) \|$", page, flags=re.MULTILINE)
    assert len(rows) == 4
    for step, cells in rows:
        recorded = [plain[step]["ratio"], plain[step]["FLOP ratio"]]
        recorded += [peers[step][f"{tool} / engine"] for tool in ("TransformerLens", "nnsight", "nnsight, skipping")]
        for cell, number in zip(cells.split(" | "), recorded, strict=True):
            assert cell == f"{number:.{len(cell.partition('.')[2])}f}", (step, cell, number)


# One way to check for each program.


def run_shell(line: str, folder: Path, monkeypatch) -> None:
    """Run a line of shell in a folder, or show that it could be: programs, options, files and targets are there."""
    line = re.sub(r"<[^<>]+>", str(ROOT), line).removesuffix(" ...")  # a folder that the reader knows, and what follows
    for command in line.split(" && "):
        program, *arguments = shlex.split(command, comments=True)
        if program == "sed":
            check_sed(command, folder, monkeypatch)
        elif program in ("mechdiff", "python", "python3.11"):
            (check_mechdiff if program == "mechdiff" else check_python)(arguments, folder)
        else:
            by_program = {"snakemake": check_snakemake, "pytest": check_pytest, "make": check_make, "pip": check_pip}
            (by_program | {"bash": check_bash, ".": check_activate})[program](arguments)


def check_snakemake(arguments: list[str]) -> None:
    before = Path.cwd()
    os.chdir(ROOT)  # where the profiles are
    try:
        _, options = parse_args(arguments)
    finally:
        os.chdir(before)
    rules = "".join(file.read_text() for file in (ROOT / "workflow" / "rules").glob("*.smk"))
    assert all(f"rule {target}:" in rules for target in options.targets), arguments
    for file in options.configfile or ():
        assert Path(file).parent == Path() or (ROOT / file).exists(), f"{file}: a reader's own, or there"


def _run_mechdiff(folder: Path, arguments: list[str]) -> int:
    """The command in this process, which spares the imports."""
    before, pipes = Path.cwd(), signal.getsignal(signal.SIGPIPE)
    os.chdir(folder)
    try:
        return cli.main(arguments)
    finally:
        os.chdir(before)
        signal.signal(signal.SIGPIPE, pipes)


def check_mechdiff(arguments: list[str], folder: Path) -> None:
    """Run, on the test-size run where the document has the default one or two of any name."""
    if len(arguments) == 1:  # the command's name alone
        arguments = [*arguments, "--help"]
        with pytest.raises(SystemExit, match=r"^0$"):
            _run_mechdiff(folder, arguments)
    else:
        assert _run_mechdiff(folder, [re.sub(r"^results/(mini|a|b)\b", RUN, a) for a in arguments]) == 0, arguments


def check_bash(arguments: list[str]) -> None:
    """A script of the project that can be read; what it does has a test of its own."""
    script, *_ = arguments
    subprocess.run(["bash", "-n", ROOT / script], check=True)


def check_pytest(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", default="")
    parser.add_argument("--run-name")
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    asked = re.findall(r"\w+", parser.parse_args(arguments).m)
    assert set(asked) - {"not", "and", "or"} <= {marker.split(":")[0] for marker in markers}


def check_make(arguments: list[str]) -> None:
    assert set(arguments) <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def check_pip(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["install"])
    parser.add_argument("packages", nargs="*")
    parser.add_argument("-r", action="append", default=[])
    parser.add_argument("-e", choices=["."])
    parser.add_argument("--no-deps", action="store_true")
    options = parser.parse_args(arguments)
    for file in options.r:
        assert (ROOT / file).exists(), file
    pins = (ROOT / "envs" / "cpu.txt").read_text().splitlines()
    assert {package.split("+")[0] for package in options.packages} <= set(pins)


def check_python(arguments: list[str], folder: Path) -> None:
    """A module, code, a benchmark (whose options another test asks for) or an archive."""
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1])
    elif arguments[0] == "-c":
        exec(arguments[1], {})
        assert (folder / "out" / "model.safetensors").exists()
    elif arguments[0].startswith("benchmarks/"):
        assert ROOT / arguments[0] in BENCHMARKS
    else:
        done = subprocess.run([sys.executable, "-I", "-S", *arguments], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def check_sed(command: str, folder: Path, monkeypatch) -> None:
    subprocess.run(command, shell=True, cwd=folder, check=True)
    check_yaml(yaml.safe_load((folder / command.split(" > ")[1]).read_text()), monkeypatch)


def check_activate(arguments: list[str]) -> None:
    assert f"BIN := {Path(arguments[0]).parent}\n" in (ROOT / "Makefile").read_text()


# And for each other kind of block.


def check_yaml(value: dict, monkeypatch) -> None:
    """A config, or some keys of one, which then are the paper's run's own."""
    monkeypatch.chdir(ROOT)
    paper = yaml.safe_load((ROOT / "config" / "paper.yaml").read_text())
    configuration.checked(value if "models" in value else paper | value)


def check_setting(key: str, value: object, file: Path | None = None) -> None:
    """A key of the config that may have this value, an option of a profile, or a resource that Slurm's plugin reads."""
    plugin = Path(snakemake_executor_plugin_slurm.__file__).parent
    if f"--{key}" in OPTIONS or (key.startswith("slurm_") and f"resources.get({key!r}" in _sources(plugin)):
        return
    allowed = _schemas(SCHEMA, key.split(".")[-1])
    assert allowed, f"{file or 'a page'}: no config has {key!r}"
    assert any(jsonschema.Draft202012Validator(schema).is_valid(value) for schema in allowed), (key, value)


def _sources(folder: Path) -> str:
    return "".join(file.read_text() for file in folder.rglob("*.py")).replace('"', "'")


def _schemas(schema: object, key: str) -> list[dict]:
    """Every schema of a key of that name, at whatever depth."""
    if not isinstance(schema, dict):
        return []
    own = [part for name, part in schema.get("properties", {}).items() if name == key]
    return own + [found for part in schema.values() for found in _schemas(part, key)]


def run_python(code: str, folder: Path, capfd) -> None:
    if "Study(" in code:
        check_notebook(code, folder, capfd)
    else:  # the engine's one call, with what the text beside it says of its names
        model = micro_llama(layers=3, heads=3, head_dim=8, vocabulary=VOCABULARY)
        names: dict[str, Any] = {"Run": Run, "model": model, "examples": prompts(5, 16, 1), "memory": 10**9}
        names |= {
            "source": Run(model, prompts(5, 16, 2), 10**9),
            "edits": [edits.PathPatch(Head(0, 0), LAST, None, None)],
        }
        exec(code, names)
        assert names["patched"].top.shape == (1, 5)


def check_notebook(code: str, folder: Path, capfd) -> None:
    """The numbers of the run on the same config."""
    cells: dict = {}
    assert "config/config.yaml" in code
    exec(code.replace("config/config.yaml", CONFIG), cells)
    columns = ["n_correct_full_model", "n_correct_circuit", "n_correct_random_circuit", "faithfulness_low"]
    for made, name, keys in (
        (cells["table_1"], "table_1", columns),
        (cells["gains"], "table_cmap", ["n_correct", "gain", "gain_low", "gain_high"]),
    ):
        table = pd.read_parquet(folder / RUN / "tables" / f"{name}.parquet")
        if name == "table_cmap":
            table = table[(table["recipient"] == "mini-llama") & (table["heads"] == "functional")]
        pd.testing.assert_frame_equal(made[keys].reset_index(drop=True), table[keys].reset_index(drop=True))
    assert "B at last: L3 H1, L3 H0" in capfd.readouterr().out


def is_prompt(text: str) -> bool:
    """Whether the task writes this prompt, where boxes may be left out."""
    boxes = dict(re.findall(r"the (\w+) is in Box (\w)\b", text.lower().replace("box ", "Box ")))
    task = BoxTask(read_tokenizer(ROOT / "resources" / "models" / "mini-llama"), len(boxes), OBJECTS)
    labels = tuple(label.upper() for label in boxes.values())
    queried = labels.index(text.removesuffix(" contains the")[-1])
    return task.write(Scene(tuple(boxes), labels, queried)).text == text.replace(" … ,", "")


def provoked(line: str, folder: Path, monkeypatch, capfd) -> str:
    """What the program says to what a message of the documents is about, done to a copy of the run."""
    run = folder / "spoilt"
    shutil.copytree(folder, run, ignore=shutil.ignore_patterns("spoilt", "a", "b", "in", "out", "FOLDER", "*.zip"))
    if "does not match" in line:
        arguments = ["audit", "results"]
        (run / line.split(": ")[1]).write_bytes(b"x")
    elif "no record" in line:
        arguments = ["audit", "results"]
        for name in (line.split(": ")[1], f"{RUN}/tables/zz_1", f"{RUN}/tables/zz_2"):
            (run / name).write_bytes(b"x")
    else:
        row, value = re.search(r" in ([\w-]+) is (\S+),", line).groups()
        arguments = ["explain", f"{RUN}/tables/table_1.csv", "--row", row, "--column", "faithfulness"]
        forge(run, row, float(value))
    capfd.readouterr()
    try:
        assert _run_mechdiff(run, arguments) == 1
    finally:
        shutil.rmtree(run)
    return capfd.readouterr().err
