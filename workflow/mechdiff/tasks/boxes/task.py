"""The entity-tracking task: scenes, prompts and named positions (paper, section 3).

A scene has n boxes with distinct labels and distinct objects. Its prompt names each box's content and then queries one:

    The apple is in Box F, the computer is in Box Q, ... , the map is in Box D. Box F contains the

The answer is the next token: the object of the queried box. What a build does:

1. Prove for the tokenizer at hand, inside the template, that an object or a label is ONE token; drop the others.
2. Write each prompt as pieces, some of them marked. A named position is the token written for a marked piece: known
   from the writing, never searched for in the text. All prompts of one run have the same length, so nothing is padded.

Token indices count from 0 and include a leading BOS where the tokenizer writes one.
"""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from mechdiff.circuits import Position
from mechdiff.common.errors import InputError
from mechdiff.common.reading import few, read_text, shown

LABELS = tuple(string.ascii_uppercase)
UNKNOWN = "\U00013080"  # a word that no vocabulary has: where it is one token, that is the token of all unknown words
MOST_WORDS, LONGEST_WORD = 20_000, 100  # of an object list
# The positions at which a plan's heads may act, in the order in which their tokens stand in every prompt.
PLACES = (Position.PREVIOUS_QUERY_LABEL, Position.QUERY_LABEL, Position.LAST)
Pieces = list[tuple[str, str]]  # (text, mark): a marked piece is a space and one word


@dataclass(frozen=True)
class Scene:
    """Objects and labels of the boxes in order of mention; ``query`` is the ordinal of the queried box."""

    objects: tuple[str, ...]
    labels: tuple[str, ...]
    query: int


@dataclass(frozen=True)
class Prompt:
    """A written prompt: token ids and the token index of each object, each label and the query label."""

    text: str
    input_ids: tuple[int, ...]
    object_positions: tuple[int, ...]
    label_positions: tuple[int, ...]
    query_label_position: int

    @property
    def last(self) -> int:
        return len(self.input_ids) - 1


class BoxTask:
    """Writes scenes as prompts for one tokenizer.

    Attributes
        objects, labels: the usable ones, in the given order; dropped: those that are not one token in place.

    Raises InputError when fewer objects than boxes, or fewer labels than boxes and a noise letter, are left.
    """

    def __init__(self, tokenizer: Tokenizer, boxes: int, objects: Sequence[str], labels: Sequence[str] = LABELS):
        self.tokenizer = tokenizer
        self.boxes = boxes
        self._ids = {**self._usable("object", objects), **self._usable("label", labels)}
        self.objects = tuple(x for x in objects if x in self._ids)
        self.labels = tuple(x for x in labels if x in self._ids)
        self.dropped = tuple(x for x in (*objects, *labels) if x not in self._ids)
        for key, left, needed in (("objects", self.objects, boxes), ("labels", self.labels, boxes + 1)):
            if len(left) < needed:
                raise InputError(
                    f"task.boxes: {boxes} need at least {needed} {key}, only {len(left)} are usable with this"
                    f" tokenizer; not one token in place: {few(self.dropped)}"
                )

    @property
    def words(self) -> dict[str, int | list[str]]:
        """For records and readers: how many objects and labels are usable, and what was dropped."""
        return {"objects": len(self.objects), "labels": len(self.labels), "dropped": list(self.dropped)}

    def write(self, scene: Scene, query_label: str | None = None) -> Prompt:
        """The prompt of a scene; ``query_label`` stands in for the queried box's own label (noise, ablation means)."""
        return self.encode(_pieces(scene, query_label or scene.labels[scene.query]))

    def encode(self, pieces: Pieces) -> Prompt:
        """The prompt written as pieces with the marks object, label and query; InputError where one is not a token."""
        text, ids, tokens = self._encode(pieces)
        return Prompt(text, ids, tuple(tokens["object"]), tuple(tokens["label"]), tokens["query"][0])

    def answer_id(self, object_: str) -> int:
        """The id of an object as the next token of a prompt."""
        return self._ids[object_]

    def _encode(self, pieces: Pieces) -> tuple[str, tuple[int, ...], dict[str, list[int]]]:
        """Text, ids, and by mark the token index of each marked piece; InputError where a piece is not one token."""
        text = "".join(piece for piece, _ in pieces)
        encoding = self.tokenizer.encode(text)
        offsets = encoding.offsets
        tokens: dict[str, list[int]] = {mark: [] for _, mark in pieces}
        start = 0
        for piece, mark in pieces:
            end = start + len(piece)
            if mark:
                # A lone space may have the empty offsets (a, a), and the bytes of one character each have all of it.
                found = [i for i, (a, b) in enumerate(offsets) if a < end and max(a + 1, b) > start]
                if len(found) != 1 or offsets[found[0]][0] < start or offsets[found[0]][1] > end:
                    raise InputError(f"{piece.strip()!r} is not one token in {text!r}")
                tokens[mark] += found
            start = end
        if offsets[-1][1] != len(text):  # an end-of-text token, say
            raise InputError(f"the tokenizer writes a token after {text!r}; allowed: none")
        return text, tuple(encoding.ids), tokens

    def _usable(self, kind: str, words: Sequence[str]) -> dict[str, int]:
        """Word -> id, for words that are one token, the same one, wherever the template can put them."""
        ids = {}
        for word in (*words, UNKNOWN):
            scene = Scene((word, word), ("A", "A"), 0) if kind == "object" else Scene(("x", "x"), (word, word), 0)
            marks = {"object"} if kind == "object" else {"label", "query"}
            pieces = [(piece, mark if mark in marks else "") for piece, mark in _pieces(scene, scene.labels[0])]
            if kind == "object":
                pieces.append((f" {word}", "object"))  # and as the answer
            try:
                _, tokens, marked = self._encode(pieces)
            except InputError:
                continue
            places = {tokens[i] for mark in marks for i in marked[mark]}
            if len(places) == 1:
                ids[word] = places.pop()
        words_of = Counter(ids.values())
        return {word: i for word, i in ids.items() if words_of[i] == 1}  # unknown words share one


def read_objects(path: str | Path) -> list[str]:
    """The words of an object file, one a line; InputError when it is missing, repeats a word or hides a character."""
    try:
        words = [word.strip() for word in read_text(path).split("\n")]
    except InputError as error:
        raise InputError(f"task.objects: {error}") from error
    for line, word in enumerate(words, start=1):
        if not word.isprintable():
            raise InputError(f"task.objects: {path}: line {line}: {shown(word)} is not all visible; allowed: a word")
        if len(word) > LONGEST_WORD:
            told = f"a word of {len(word)} characters; allowed: at most {LONGEST_WORD}"
            raise InputError(f"task.objects: {path}: line {line}: {told}")
    words = [word for word in words if word]
    if len(words) > MOST_WORDS:
        raise InputError(f"task.objects: {path}: {len(words)} words; allowed: at most {MOST_WORDS}")
    counts = Counter(unicodedata.normalize("NFC", word) for word in words)  # the same letters, however written
    if repeated := [word for word, count in counts.items() if count > 1]:
        raise InputError(f"task.objects: {path}: {shown(repeated[0])} stands there twice, each object may stand once")
    return words


def segment(object_: str, label: str, relation: str = " is in Box") -> Pieces:
    """One box and its content, to be joined to others by :func:`passage`."""
    return [(" the", ""), (f" {object_}", "object"), (relation, ""), (f" {label}", "label")]


def passage(segments: Sequence[Pieces], query_label: str, separator: str = ",") -> Pieces:
    """The segments as one sentence, and the query after it; the first word of all is capitalised."""
    pieces = [piece for part in segments for piece in [*part, (separator, "")]]
    pieces[-1] = (".", "")
    pieces[0] = (pieces[0][0][1].upper() + pieces[0][0][2:], pieces[0][1])
    return [*pieces, (" Box", ""), (f" {query_label}", "query"), (" contains the", "")]


def _pieces(scene: Scene, query_label: str) -> Pieces:
    return passage([segment(o, x) for o, x in zip(scene.objects, scene.labels, strict=True)], query_label)
