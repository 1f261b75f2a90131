"""How text leaves the program, a function for each format that has markup.

What a config, a list of words, a tokenizer or a record says is text, never markup: a reader of the format finds the
very text again. CSV, Parquet, JSON and YAML are written by libraries that quote by themselves, and hold exact text.

Every page holds one-line text of characters that can be written in it, see :func:`plain`.
"""

from __future__ import annotations

import re
from html import escape

LINE_END = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
# What no page can hold, or what lets text pass for another: controls, overrides of direction, lone surrogates, and what
# is no character.
NO_CHARACTERS = "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
UNWRITABLE = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef{NO_CHARACTERS}]")
HTML_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{}</title><style>
body {{ font: 14px system-ui, sans-serif; margin: 1em; overflow-wrap: break-word }}
table {{ border-collapse: collapse; display: block; max-width: 100%; overflow-x: auto }}
th, td {{ padding: 0.25em 0.8em; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }}
th {{ border-bottom: 2px solid #444; white-space: nowrap }}
</style>
{}
"""
TEX = {character: f"\\{character}" for character in "&%$#_{}"}
TEX |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": r"\textasciigrave{}"}
TEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}


def plain(text: object) -> str:
    """The text as one line: a line end is a space, and what no page can hold is written as ``\\x1b``."""
    return UNWRITABLE.sub(lambda m: m[0].encode("unicode_escape").decode(), LINE_END.sub(" ", str(text)))


def markdown(text: object) -> str:
    """For a paragraph, a heading or a cell of a table; a backslash stands only where the text would be markup."""
    text = re.sub(r"[`*|~$]|\\(?=[^\w\s]|_|$)|(?<![^\W_])_|_(?![^\W_])|](?=[(\[:])", r"\\\g<0>", plain(text).strip())
    text = re.sub(r"<(?=[a-zA-Z/!?])|&(?=#?\w+;)", r"\\\g<0>", text)
    text = re.sub(r"^([-+](?=\s|$)|-(?=[-\s]+$)|#(?=#{0,5}(\s|$))|>)", r"\\\1", text)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", text)


def html(text: object) -> str:
    """For the text of an element, or the value of an attribute in quotes."""
    return escape(plain(text))


def html_page(title: str, body: str) -> str:
    """A page that a phone can show: wide tables scroll by themselves. title: text; body: HTML."""
    return HTML_PAGE.format(html(title), body)


def rst(text: object) -> str:
    """For reStructuredText of a report, which Snakemake takes for a Jinja template first."""
    text = re.sub(r"[\\*`|_@]|(?<=\{)[{%#]|:(?=\S|$)", r"\\\g<0>", plain(text).strip())
    return text if re.match(r"\w[\w-]*\s", text) else f"\\ {text}"  # else it might begin a list, a comment, a directive


def tex(text: object) -> str:
    """For LaTeX, in a caption or a cell of a table."""
    text = "".join(TEX.get(character, character) for character in plain(text))
    text = re.sub(r"([-',])(?=\1)", r"\1{}", text)  # no ligatures
    return re.sub(r"^([\[*])", r"{\1}", text)  # no argument of the line before


class Quoted(str):
    """Text in a rule's parameters, which Snakemake prints with ``repr`` into a script of its report."""

    __slots__ = ()

    def __repr__(self) -> str:
        return super().__repr__().replace("<", r"\x3c")
