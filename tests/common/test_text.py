"""Text leaves the program as text: each format's reader finds the very words again, and nothing else."""

import json
import pickle
import re
import warnings
import xml.etree.ElementTree as ET
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pytest
import yaml
from docutils.core import publish_doctree
from hypothesis import given, settings, strategies
from markdown_it import MarkdownIt

from markup import CONTROLS, NAMES, Page
from mechdiff.cli import main
from mechdiff.common import text
from mechdiff.common.errors import InputError
from mechdiff.report.figures.circuit import circuit_figure
from mechdiff.report.figures.cmap import cmap_figure, cmap_inputs_figure
from mechdiff.report.figures.functionality import functions_figure
from mechdiff.report.figures.style import save
from mechdiff.report.tables.writing import pipe_table, read_pipe_table, write_table
from mechdiff.report.verdict import better_information, page, same_circuit, same_function, web_page
from mechdiff.running.config import checked
from mechdiff.running.schema import SCHEMA
from micro import ROOT

MARKUP = strategies.sampled_from("`*_[]()<>{}#+-.!|\\~$&;:=@%^'\"/?,01ab AéZ😀ש")
LINES = (
    strategies.text(strategies.one_of(MARKUP, strategies.characters(exclude_categories=("Cs", "Cc"))), max_size=30)
    .filter(lambda line: not text.UNWRITABLE.search(line))
    .map(lambda line: " ".join(line.split()))
    .filter(bool)
)
OURS = {"html", "meta", "title", "style", "table", "thead", "tbody", "tr", "th", "td"}
OF_VERDICT = OURS | {"h1", "h2", "p", "code", "ol", "li", "strong"}
OUR_ATTRIBUTES = {("html", "lang"), ("meta", "charset"), ("meta", "name"), ("meta", "content")}


def of_markdown(source: str) -> str:
    """The text of a paragraph that has nothing but text."""
    opened, inline, closed = MarkdownIt().enable("table").parse(source)
    assert (opened.type, closed.type) == ("paragraph_open", "paragraph_close")
    assert all(part.type == "text" for part in inline.children)
    return "".join(part.content for part in inline.children)


def of_rst(source: str) -> str:
    """The text of a caption as a report of Snakemake renders it, that has one paragraph of nothing but text."""
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(source + "\n\n.. _Workflow: x\n")
    document = publish_doctree(template.render(snakemake={}), settings_overrides={"report_level": 5})
    (paragraph,) = (child for child in document.children if child.tagname != "target")
    assert paragraph.tagname == "paragraph" and [part.tagname for part in paragraph.children] == ["#text"]
    return " ".join(paragraph.astext().split())


def of_tex(source: str) -> str:
    """The text that LaTeX prints of a source of nothing but letters, commands of letters and escaped characters."""
    named = {command: character for character, command in text.TEX.items()}
    commands = "|".join(re.escape(command) for command in sorted(named, key=len, reverse=True))
    plain = re.sub(rf"{commands}|\{{\}}|\{{([\[*])\}}", lambda m: named.get(m[0], m[1] or ""), source)
    assert not re.search(r"[\\{}&%$#_^~]", re.sub(rf"{commands}|\{{\}}|\{{[\[*]\}}", "", source))
    assert not re.match(r"[\[*]", source), "it would be taken for an argument of the line before"
    return plain


READERS = {text.markdown: of_markdown, text.rst: of_rst, text.tex: of_tex, text.html: lambda source: Page(source).text}


@pytest.mark.parametrize("write", READERS, ids=lambda write: write.__name__)
def test_every_reader_finds_the_very_text_again(write):
    @settings(max_examples=60)
    @given(LINES)
    def round_trip(line: str) -> None:
        assert READERS[write](write(line)) == line

    round_trip()
    for name in NAMES:
        assert READERS[write](write(name)) == name


@settings(max_examples=60)
@given(*[LINES] * 3)
def test_cells_of_a_markdown_table_are_read_back(a, b, c):
    assert read_pipe_table(pipe_table([a, b], [[b, c], [c, a]]) + "\n\n" + text.markdown(c)) == [[a, b], [b, c], [c, a]]


@pytest.mark.parametrize(
    "words", ["mini-llama", "0.68 [0.64, 0.72] (paper 0.66)", "+0.10 [−0.02, +0.2]", "F(C\\K)", "a_b"]
)
def test_markdown_of_what_is_no_markup_stays_as_it_is(words):
    assert text.markdown(words) == words


@pytest.mark.parametrize("words", ["two\nlines", "two\r\nlines", "two\u2028lines", "two\tlines"])
@pytest.mark.parametrize("write", [text.plain, *READERS], ids=lambda write: write.__name__)
def test_text_is_one_line_in_every_format(write, words):
    assert write(words).removeprefix("\\ ") == "two lines"


@pytest.mark.parametrize("words", CONTROLS)
def test_what_no_page_can_hold_is_spelled_out(words):
    for write in (text.plain, *READERS):
        assert not text.UNWRITABLE.search(write(words))
        write(words).encode()


@pytest.mark.parametrize("form", ["md", "html", "tex", "csv", "parquet", "caption"])
def test_every_form_of_a_table_has_every_name_as_text(form, tmp_path):
    paths = {name: str(tmp_path / f"table.{name}") for name in ("csv", "parquet", "md", "tex", "html", "caption")}
    exact = pd.DataFrame({"model": NAMES, "fine_tuned_on": NAMES[::-1], "share": 0.5})
    caption = f"Shares: {' '.join(NAMES)}"
    write_table(exact, exact, caption, paths)
    written = (tmp_path / f"table.{form}").read_bytes().decode(errors="replace")
    if form in ("csv", "parquet"):
        read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[form](paths[form])
        pd.testing.assert_frame_equal(read, exact, check_dtype=False)
    elif form == "md":
        assert read_pipe_table(written)[1:] == [[a, b, "0.5"] for a, b in zip(NAMES, NAMES[::-1], strict=True)]
        assert of_markdown(written.split("\n\n")[1]) == caption
    elif form == "html":
        found = Page(written)
        assert found.elements == OURS and found.attributes == OUR_ATTRIBUTES
        assert all(name in found.text for name in NAMES)
    elif form == "tex":
        rows = written.split("\\midrule\n")[1].split("\n\\bottomrule")[0].split("\n")
        cells = [[of_tex(cell) for cell in row.removesuffix(r" \\").split(" & ")] for row in rows]
        assert cells == [[a, b, "0.5"] for a, b in zip(NAMES, NAMES[::-1], strict=True)]
        assert of_tex(written.split("\n")[1][len("\\caption{") : -1]) == caption
    else:
        assert of_rst(written) == caption


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_page_keeps_its_columns_and_has_no_element_of_a_name(name):
    numbers = {"n": 9, "note": name, "faithfulness": 1.0, "circuit": 0.7, "random_circuit": 0.1}
    table_1 = pd.DataFrame([numbers | {"model": "tuned"} | {f"{k}_{e}": 0.5 for k in numbers for e in ("low", "high")}])
    own = {"circuit_of": "base", "model": "tuned", "group": "A", "name": name, "heads": 2, "n": 9}
    patching = pd.DataFrame(
        [own | {"desideratum": d, "accuracy": a, "low": a, "high": a} for d, a in (("object", 0.9), ("label", 0.1))]
    )
    gains = pd.DataFrame(
        [own | {"donor": "tuned", "recipient": "base", "nodes": 2} | {"gain": 0.3, "gain_low": 0.2, "gain_high": 0.4}]
    )
    correct = {model: pd.Series(np.arange(50) < k, index=range(50)) for model, k in (("base", 20), ("tuned", 45))}
    reasons = {"base": None, "tuned": None}
    claims = [
        same_circuit(table_1, "base", 0.8),
        same_function(patching, "base", {"A": "object"}, 0.1, reasons),
        better_information(correct, gains, "base", {"A": "object"}, reasons, 0.1, 100, 0),
    ]
    written = page("base", "run", 0, claims, "")
    for claim, part in zip(claims, written.split("\n## ")[1:], strict=True):
        assert read_pipe_table(part)[1:] == claim.numbers.to_numpy().tolist()
    found = Page(web_page("base", written))
    assert found.elements == OF_VERDICT
    assert found.attributes == OUR_ATTRIBUTES | {("th", "style"), ("td", "style")}, "of columns, by Markdown"
    assert found.text.count(name) >= 3


DRAWN = [*NAMES, *(words for words in CONTROLS if words != "\ud800")]  # which no table can hold
NUMBERS = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "donor_accuracy": 0.9, "recipient_accuracy": 0.4, "heads": 2}


def groups_named(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"group": [f"G{i}" for i in range(len(names))], "name": names})


def functions(names: list[str]):
    table = groups_named(names).assign(circuit_of="m", model="m", desideratum="label", **NUMBERS)
    return functions_figure(table, 0.1)


def cmap(names: list[str]):
    return cmap_figure(groups_named(names).assign(donor="a", recipient="b", part="output", **NUMBERS))


def cmap_inputs(names: list[str]):
    return cmap_inputs_figure(groups_named(names).assign(donor="a", recipient="b", part="output", **NUMBERS))


def circuit(names: list[str]):
    tokens = [words[:20] for words in names]
    groups = groups_named(names).assign(position="last", token_index=1, heads=2, strongest="L0 H0")
    edges = [(group, "logits", "", 0.5, 0.4, 0.6) for group in groups["group"]]
    edges = pd.DataFrame(edges, columns=["sender", "receiver", "via", "strength", "low", "high"])
    looks = pd.DataFrame({"token_index": range(len(tokens)), "token": tokens, "attention": 1.0})
    return circuit_figure(groups, {"G0": looks}, edges, tokens, tokens[0])


FIGURES = (circuit, functions, cmap, cmap_inputs)


@pytest.mark.parametrize("figure", range(len(FIGURES)), ids=lambda i: FIGURES[i].__name__)
def test_figures_draw_names_as_they_are_and_lack_no_letter_aloud(figure, tmp_path):
    names = DRAWN[figure :: len(FIGURES)]  # every name in one of them: all are drawn in one style
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")
        save(FIGURES[figure](names), tmp_path / "figure.svg", tmp_path / "figure.png")
    root = ET.parse(tmp_path / "figure.svg").getroot()
    drawn = "".join(words.text or "" for words in root.iter("{http://www.w3.org/2000/svg}text"))
    for name in names:
        assert re.sub(r"\s", "", text.plain(name))[:10] in re.sub(r"\s", "", drawn)


def text_keys(schema: dict, path: tuple = ()) -> list[tuple]:
    """The keys of the schema that hold free text, which names are not; a key of any name is a star."""
    found = [path] if schema.get("format") == "text" and "pattern" not in schema else []
    for key, part in schema.get("properties", {}).items():
        found += text_keys(part, (*path, key))
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            found += text_keys(schema[key], (*path, "*"))
    return found


KEYS = text_keys(yaml.safe_load(SCHEMA.read_text()))


def config_with(path: tuple, value: str) -> dict:
    config = yaml.safe_load((ROOT / "config" / "test.yaml").read_text())
    config["crate"] = {"agent": {"name": "Someone", "url": "https://example.org"}}
    *way, last = path
    at = config
    for part in way:
        at = at[0] if isinstance(at, list) else at[list(at)[-1] if part == "*" else part]
    at[last] = value
    return config


def value_at(config: dict, path: tuple) -> str:
    at: Any = config
    for part in path:
        at = at[0] if isinstance(at, list) else at[list(at)[-1] if part == "*" else part]
    return at


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_free_text_of_a_config_is_one_line_of_any_characters_but_controls(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert value_at(checked(config_with(path, f" two\r\n\n  lines\t{NAMES[0]}")), path) == f"two lines {NAMES[0]}"
    with pytest.raises(InputError, match="at most 200 characters"):
        checked(config_with(path, "w" * 201))
    for words in CONTROLS:
        with pytest.raises(InputError) as caught:
            checked(config_with(path, words))
        assert not text.UNWRITABLE.search(str(caught.value))
        assert ".".join(path).split("*")[0] in str(caught.value)


@pytest.mark.parametrize(
    "path", [("task", "objects"), ("planted",), ("models", "*", "path"), ("crate", "agent", "url")]
)
@pytest.mark.parametrize("words", ["a\x1b[31mb", "a\nb", "a</script>b"])
def test_paths_and_addresses_are_characters_that_a_page_can_hold(path, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = config_with(("crate", "agent", "name"), "Someone")
    config.setdefault("task", {})
    *way, last = path
    at = config
    for part in way:
        at = at[list(at)[-1] if part == "*" else part]
    at[last] = words
    with pytest.raises(InputError):
        checked(config)


@pytest.mark.parametrize("name", NAMES)
def test_a_rules_parameter_is_no_script_of_the_report_and_the_same_text_in_its_job(name):
    params = pickle.loads(pickle.dumps({"names": {"A": text.Quoted(name)}}))
    assert "<" not in str(params) and json.loads(json.dumps(params)) == {"names": {"A": name}}
    assert pd.Series(["A"]).map(params["names"]).tolist() == [name]


def test_what_no_page_can_hold_is_written_out_and_all_else_is_itself():
    none = {*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000), *range(0xFDD0, 0xFDF0), *range(0x2028, 0x202F)}
    none |= {
        *range(0x2066, 0x206A),
        *(plane + last for plane in range(0, 0x110000, 0x10000) for last in (0xFFFE, 0xFFFF)),
    }
    assert {number for number in range(0x110000) if text.UNWRITABLE.search(chr(number))} == none
    for number in none:
        shown = text.plain(chr(number))
        assert shown == " " or (shown.startswith("\\") and shown.isascii() and shown.isprintable())


def test_a_line_on_a_terminal_has_no_control_characters(tmp_path, capsys):
    assert main(["audit", str(tmp_path / "no\x1b[31m\nrun: 9 files of 9 jobs match")]) == 1
    printed = capsys.readouterr().err
    assert "\x1b" not in printed and printed.count("\n") == 1
