"""The vocabulary of circuits: heads, named positions, groups.

A circuit is a set of nodes (head, position), kept by group (paper, section 4.1: Cir = {(a, t)}).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from mechdiff.common.errors import InputError

LOGITS = "logits"  # the receiver of a plan's first step, in place of a group


@dataclass(frozen=True, order=True)
class Head:
    """One attention head, counted from 0 and printed as the paper prints it: ``L15 H3``."""

    layer: int
    index: int

    def __str__(self) -> str:
        return f"L{self.layer} H{self.index}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read ``L15 H3``; raise InputError on anything else."""
        match = re.fullmatch(r"L(\d+) H(\d+)", text)
        if not match:
            raise InputError(f"head {text!r}: expected the form 'L15 H3'")
        return cls(int(match[1]), int(match[2]))


def head_count(wanted: int | float, heads: int) -> int:
    """How many of a model's heads a plan asks for: a count, or below 1 a share of them, at least one."""
    return int(wanted) if wanted >= 1 else max(1, round(wanted * heads))


def all_heads(layers: int, heads_per_layer: int) -> list[Head]:
    """Every head of a model, layer by layer."""
    return [Head(layer, index) for layer in range(layers) for index in range(heads_per_layer)]


class Position(StrEnum):
    """A token's role in the prompt; the dataset has one integer column for each."""

    LAST = "last"
    QUERY_LABEL = "query_label"
    PREVIOUS_QUERY_LABEL = "previous_query_label"
    CORRECT_OBJECT = "correct_object"
    RANDOM_CONTEXT = "random_context"  # any other token of the context, for comparison

    @property
    def column(self) -> str:
        """The dataset column that holds it."""
        return "last" if self is Position.LAST else f"{self.value}_pos"


@dataclass(frozen=True)
class Group:
    """The heads that act together at one position, strongest first; note: why discovery found none, where it did."""

    name: str
    position: Position
    heads: tuple[Head, ...]
    note: str = ""


@dataclass(frozen=True)
class Circuit:
    """Groups of heads at their positions. Immutable: removing heads gives another circuit."""

    groups: tuple[Group, ...]

    def __getitem__(self, name: str) -> Group:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def __len__(self) -> int:
        return len(self.nodes())

    def __str__(self) -> str:
        """One group a line."""
        heads = (", ".join(map(str, g.heads)) or g.note or "none" for g in self.groups)
        return "\n".join(f"{g.name} at {g.position}: {each}" for g, each in zip(self.groups, heads, strict=True))

    def nodes(self) -> frozenset[tuple[Head, Position]]:
        """The set of (head, position) that makes up the circuit."""
        return frozenset((head, group.position) for group in self.groups for head in group.heads)

    def without(self, name: str, removed: Iterable[Head]) -> Circuit:
        """C \\ K for a set K of heads of one group. The nodes go: also from another group at the same position."""
        gone, position = set(removed), self[name].position
        return Circuit(
            tuple(
                replace(g, heads=tuple(h for h in g.heads if h not in gone)) if g.position == position else g
                for g in self.groups
            )
        )

    def to_json(self) -> str:
        """Text form, one group a line."""
        rows = [
            json.dumps(
                {"group": g.name, "position": g.position, "heads": [str(h) for h in g.heads]}
                | ({"note": g.note} if g.note else {})
            )
            for g in self.groups
        ]
        return "[\n  " + ",\n  ".join(rows) + "\n]\n"

    @classmethod
    def read(cls, path: str | Path) -> Circuit:
        """Read a file written from :meth:`to_json`."""
        try:
            return cls(
                tuple(
                    Group(
                        row["group"],
                        Position(row["position"]),
                        tuple(map(Head.parse, row["heads"])),
                        row.get("note", ""),
                    )
                    for row in json.loads(Path(path).read_text())
                )
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: not a circuit file ({error})") from error
