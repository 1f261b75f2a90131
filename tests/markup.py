"""Names that are markup somewhere, and what a page may hold of elements and attributes."""

from __future__ import annotations

from html.parser import HTMLParser

NAMES = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</script><!--<script> &amp; &#60;b&#62; &",
    ".. raw:: html <b>bold</b>",
    ".. include:: README.md",
    ":raw-html:`<b>` |today| link_ `text <javascript:alert(1)>`_ [1]_ a@b.example https://example.org ::",
    "{{ 7 * 7 }} {% for x in y %} {# gone #} {{{ }}}",
    "Fetch | copy || \\| `a|b` \\",
    "`code` **bold** *em* _em_ __init__ ~~gone~~ snake_case [a](b) ![i](j) <http://x.example>",
    "# 1. - + > :--- ---",
    "- a list, 1) another",
    "1. one",
    "=cmd|' /C calc'!A0",
    "100 % & $x^2$ # _ {a} ~ ^ \\input{/etc/passwd} -- '' <<",
    "[0.5] *star",
    "\"double\" 'single'",
    "漢字 שלום 😀 é",
    "W" * 200,
    "@{x} +1 -1 NaN null",
    "{wildcards.model} {0} %s %(x)s \\n \\x1b[31m",
)
CONTROLS = ("\x1b[31mred", "a\x00b", "bell\x07", "\u202eevil", "\ud800", "\ufffe", "\x9b31m")


class Page(HTMLParser):
    """Elements, attributes and text of an HTML page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.words: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self._script: tuple[str | None] | None = None
        self.feed(page)
        self.close()

    @property
    def text(self) -> str:
        """What a reader sees, with single spaces."""
        return " ".join("".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        self._script = (dict(attrs).get("id"),) if tag == "script" else None

    def handle_endtag(self, tag: str) -> None:
        if tag in ("p", "td", "th", "li", "h1", "h2", "text"):
            self.words.append(" ")
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[self._script[0]] = data
        else:
            self.words.append(data)
