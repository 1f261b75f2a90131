"""Text that users bring is opened right, or refused with one line that names the file."""

from __future__ import annotations

import subprocess
import sys
from datetime import date

import pytest

from mechdiff.common.errors import InputError
from mechdiff.common.reading import check_config_files, read_config, read_text, read_yaml, shown
from mechdiff.common.text import plain
from micro import ROOT

CONFIG = "run: r\nmodels: { base: { path: base } }\n"
VALUE = {"run": "r", "models": {"base": {"path": "base"}}}
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


NUMBERS = ["010", "-017", "+0_7", "007.5", "00", "1:30", "190:20:30.15"]  # of YAML 1.1


@pytest.mark.parametrize(
    "text",
    [
        CONFIG,
        "\ufeff" + CONFIG,
        CONFIG.replace("\n", "\r\n"),
        CONFIG.replace("\n", "\r"),
        '{\n\t"run": "r",\n\t"models": {"base": {"path": "base"}}\n}',
        "models: { base: { path: &same base } }\nrun: r\n# \U0001f600 é\n",
        "models: { base: { <<: &same { path: other }, path: base } }\nrun: r\n",
    ],
)
def test_a_config_as_editors_save_it_is_the_same_value(tmp_path, text):
    (tmp_path / "c.yaml").write_bytes(text.encode("utf-8"))
    assert read_yaml(tmp_path / "c.yaml") == VALUE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (CONFIG + "run: s\n", "line 3: the key 'run' stands twice"),
        ("a: 1\nb: { c: [{ d: 1, 'd': 2 }] }\n", "line 2: the key 'd' stands twice"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice"),
        (CONFIG + "task: &a\n  objects: *a\n", "line 3: an alias is inside of what it stands for"),
        ("run: &a [[*a]]\n", "line 1: an alias is inside"),
        ("a: &a { <<: *a }\n", "line 1: an alias is inside"),
        (LAUGHS, "more than 10000 values"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ('{"a": ' + "[" * 100000 + "]" * 100000 + "}", "nested too deeply"),
        (LAUGHS + "? *a8\n: 1\n", "line 9: a key is no text; allowed: "),
        ("{[a]: 1}\n", "line 1: a key is no text"),
        ("{{a: b}: 1}\n", "line 1: a key is no text"),
        *(("a: " + "[" * deep + "]" * deep, "nested too deeply; allowed: 50 levels") for deep in (51, 200, 500)),
        *((f'{{"a": {"[" * deep}{"]" * deep}}}', "nested too deeply; allowed: 50") for deep in (51, 500, 990)),
        ('{"a": ' + '{"b":' * 600 + "1" + "}" * 600 + "}", "nested too deeply"),
        ("a: [" + "1, " * 10000 + "]\n", "more than 10000 values"),
        (f'{{"a": {[1] * 10000}}}', "more than 10000 values"),
        ("#" * 1_000_001, "has 1000001 bytes; allowed: at most 1000000"),
        *((f"a: 1\nb: {number}\n", f"line 2: the number {number} is read in more") for number in NUMBERS),
        ("010: 1\n", "line 1: the number 010 is read in more than one way"),
        ("a: " + "0" * 100000 + "1", "allowed: one without a leading 0"),
        ('{"' + "k" * 1000 + '": 1, "' + "k" * 1000 + '": 1}', "stands twice"),
        ("a:\n\tb: 1\n", "line 2, column 1"),
        ("a: 1\n---\nb: 1\n", "another document"),
        ("a: 2024-13-45\n", "month must be"),
        ("a: !!int ''\n", "allowed: YAML or JSON"),
        ("a: " + "9" * 5000, "allowed: YAML or JSON"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1, column 4"),
        ("a: *nothing\n", "undefined alias"),
        ("a: 1 # \x07\n", "#x0007"),
        (CONFIG.encode("utf-16"), "byte 0 is no UTF-8"),
        (CONFIG.encode("utf-16-le"), "#x0000"),
        ("a: caf\xe9\n".encode("latin-1"), "byte 6 is no UTF-8"),
    ],
)
def test_a_config_that_would_lose_something_is_refused_in_one_line(tmp_path, text, told):
    file = tmp_path / "c.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    with pytest.raises(InputError) as caught:
        read_yaml(file)
    line = str(caught.value)
    assert line.startswith(f"{file}: ") and told in line and "\n" not in line and len(line) < 400


def test_numbers_that_all_read_alike_and_text_that_is_no_number_pass(tmp_path):
    (tmp_path / "c.yaml").write_text("a: [0, 0.5, -0.1e-3, 0x1F, '010', 08x, cuda:1, 10, 2024-01-01]\nb: \"1:30\"\n")
    read = [0, 0.5, -0.0001, 31, "010", "08x", "cuda:1", 10, date(2024, 1, 1)]
    assert read_yaml(tmp_path / "c.yaml") == {"a": read, "b": "1:30"}


def test_a_value_of_any_kind_is_shown_in_one_short_line():
    for value in (16**100000, [16**100000], "x" * 1000, {"a": -(16**100000)}):
        assert len(shown(value)) < 120


@pytest.mark.parametrize("text", ["", "# nothing\n", "- run\n", "run\n", "[1]"])
def test_a_config_without_keys_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml: (has no keys|is a list); allowed: "):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("name", ["none.yaml", ".", "x" * 300, "nul\0"])
def test_a_file_that_is_none_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        read_text(name)
    assert str(caught.value).startswith(f"{plain(name)}: cannot be read (")


@pytest.mark.parametrize("more", [[], ["--workflow-profile", "none"]])
def test_a_key_that_stands_twice_stops_snakemake(tmp_path, more):
    (tmp_path / "c.yaml").write_text(CONFIG + "run: s\n")
    assert "c.yaml: line 3: the key 'run' stands twice" in _refused(tmp_path, *more)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--config", "seed=1", "run=r", "seed=2"], "the key 'seed' stands twice"),
        (["-C", "task={boxes: 3}", "task={objects: o}"], "the key 'task' stands twice"),
        (["--config", "seed=1", "--config", "run=r"], "--config stands twice; allowed: once, with every key"),
        (["-C", "seed=1", "-n", "--config=seed=2"], "--config stands twice"),
    ],
)
def test_what_the_command_line_says_twice_is_refused(monkeypatch, given, told):
    monkeypatch.setattr(sys, "argv", ["snakemake", *given])
    for files in (None, []):
        with pytest.raises(SystemExit, match=f"^mechdiff: config: {told}"):
            check_config_files(files)


@pytest.mark.parametrize("given", [[], ["--config"], ["--config", "seed=1", "run=seed=1", "--cores", "2"], ["-C", "x"]])
def test_what_the_command_line_says_once_passes(monkeypatch, given):
    monkeypatch.setattr(sys, "argv", ["snakemake", *given])
    check_config_files()


def test_a_key_given_twice_stops_snakemake(tmp_path):
    (tmp_path / "c.yaml").write_text(CONFIG)
    assert "the key 'seed' stands twice" in _refused(tmp_path, "--config", "seed=1", "seed=2")


def test_a_text_that_snakemake_cannot_read_is_refused_before_it_tries(tmp_path):
    (tmp_path / "c.yaml").write_bytes("run: caf\xe9\n".encode("latin-1"))
    assert "c.yaml: byte 8 is no UTF-8" in _refused(tmp_path)


def _refused(folder, *more: str) -> str:
    """What Snakemake prints about c.yaml in a folder: a line of ours, and no traceback."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "--configfile", "c.yaml", *more]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("mechdiff: "))
    return line
