"""Edits as data: what of a run is replaced, where, and with what.

A node is a head at a named position. What replaces it comes from a source: another run, read at its own position of
that name, or mean outputs. Edits say nothing of how they are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from mechdiff.circuits import Head, Position

Node = tuple[Head, Position]


class Part(StrEnum):
    """What of a head: its output, what enters the output projection, or the vectors with which it attends."""

    OUTPUT = "output"
    QUERY = "q"
    KEY = "k"
    VALUE = "v"


@dataclass(frozen=True)
class Replace:
    """These nodes take their parts from the source; the rest follows.

    Output, or what it is made from: the node's query, and the keys and values of all tokens that it attends to, as it
    alone sees them (other nodes see the run's own). With all three a node gives the source's output.
    """

    nodes: frozenset[Node]
    parts: frozenset[Part] = frozenset({Part.OUTPUT})


@dataclass(frozen=True)
class Keep:
    """Every head at every position gives the source's mean output, except these nodes, which give their own."""

    nodes: frozenset[Node]


@dataclass(frozen=True, eq=False)
class Mix:
    """Heads at one position give own · z + (1 - own) · source. own: one share a head, differentiable."""

    position: Position
    heads: tuple[Head, ...]
    own: Tensor


@dataclass(frozen=True)
class Block:
    """From a layer up, no head attends from one position to another."""

    query: Position
    key: Position
    first_layer: int


@dataclass(frozen=True)
class PathPatch:
    """A sender's output comes from the source and reaches the receivers through no other head.

    The receivers' ``via`` vectors at the same position are what changes; receivers None: the logits.
    """

    sender: Head
    position: Position
    receivers: tuple[Head, ...] | None = None
    via: Part | None = None


Edit = Replace | Keep | Mix | Block | PathPatch
