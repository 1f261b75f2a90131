"""What the documents show as code: blocks, commands in a line of text, comments of configs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from markdown_it import MarkdownIt
from markdown_it.token import Token

from micro import ROOT

PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMENTED = [
    file
    for folder in ("config", "envs", "slurm", "profiles", "benchmarks")
    for pattern in ("*.yaml", "*.txt")
    for file in sorted((ROOT / folder).rglob(pattern))
]
PROGRAMS = ("snakemake", "mechdiff", "pytest", "make", "pip", "python", "python3.11", "bash", "sed", ".")


@dataclass(frozen=True)
class Block:
    """A block of code and where it stands."""

    place: str
    text: str
    language: str = ""

    @property
    def is_shell(self) -> bool:
        return self.text.removeprefix("$ ").split(" ")[0] in PROGRAMS

    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines that it prints; the document shows them after a command that begins with $."""
        lines = self.text.splitlines()
        if not lines[0].startswith("$ "):
            return [(line, []) for line in lines]
        found: list[tuple[str, list[str]]] = []
        for line in lines:
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return found


def _tokens() -> list[tuple[str, Token]]:
    markdown = MarkdownIt().enable("table")
    return [(str(page.relative_to(ROOT)), token) for page in PAGES for token in markdown.parse(page.read_text())]


def blocks() -> list[Block]:
    """Every block of code of every page."""
    return [
        Block(f"{page}:{token.map[0] + 1}", dedent(token.content).rstrip(), token.info)
        for page, token in _tokens()
        if token.type in ("fence", "code_block") and token.map
    ]


def inline() -> list[Block]:
    """Every piece of code in a line of text, each once a page."""
    pieces = {(page, child.content): child for page, token in _tokens() for child in token.children or ()}
    return [Block(page, text) for (page, text), child in pieces.items() if child.type == "code_inline"]


def in_comments() -> list[tuple[Path, str]]:
    """Every line of the configs and lists of packages that is a comment."""
    lines = [(file, line.strip()) for file in COMMENTED for line in file.read_text().splitlines()]
    return [(file, line[1:].strip()) for file, line in lines if line.startswith("#")]


def matches(shown: list[str], printed: str) -> bool:
    """Whether a command printed what a document shows; there … stands for any text, alone in a line for any lines."""
    lines = [
        ".*" if line.strip() == "…" else r"[^\n]*".join(map(re.escape, line.rstrip().split("…"))) for line in shown
    ]
    return re.fullmatch("\n".join(lines), printed.strip("\n"), flags=re.DOTALL) is not None
