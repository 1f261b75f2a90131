"""Desiderata: pairs of prompts that tell what a head carries (paper, section 5, appendices G and J).

A desideratum is rows of (original, alternate, target). When heads' outputs from the alternate run are patched into the
original run and they carry what the desideratum names, the original run's answer becomes the target:

    object      the alternate's correct object, which the original does not have
    label       the original's object in the box that the alternate queries
    position    the original's object at the ordinal of the alternate's correct object

The eleven of ``POSITIONAL`` have the target of ``position`` and an alternate written in another way, which shows what
the position is relative to. What a build does, for each row:

1. Draw an original and an alternate without common objects or labels; for ``label`` they share the one label that the
   alternate queries, at another ordinal, so that a carried position does not give the target.
2. The ordinals that the alternates query are balanced within a part. The original's is uniform over those that do not
   make the target its own answer (for ``object``: over those that the alternate does not query).
3. Write both prompts. Where an alternate that queries the first box would have another length than one that queries
   another (a word that begins a text can take more tokens), only the commonest length is used: nothing is ever padded.

Chance: the target is never the original's own answer, so a patch that does nothing scores 0 in a model that is always
right (and hits it now and then in one that is not). Except in ``object`` it is
one of the original's objects: an answer drawn uniformly from them scores 1/boxes, from all but the own 1/(boxes - 1).

Columns: desideratum, part (train, validation, test, patching), set (the patching test set, from 0), scene_id, the
original's prompt, input_ids, answer, answer_id, named positions (``Position.column``) and query_label; the alternate's
prompt, input_ids, answer and named positions as ``alternate_*``; target and target_id; and the ordinals query and
alternate_query, from 0 and not counting an added segment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import perm

import numpy as np
import pandas as pd

from mechdiff.circuits import Position
from mechdiff.common.errors import InputError
from mechdiff.common.seeds import stream
from mechdiff.tasks.boxes.task import BoxTask, Prompt, Scene, passage, segment

DESIDERATA = ("object", "label", "position")
POSITIONAL = {  # Table A11, in its order
    "text_at_start": "Random text at the start",
    "text_at_end": "Random text at the end",
    "tokens_between": "Additional tokens between object and box",
    "segment_at_start": "Additional segment at the start",
    "segment_at_end": "Additional segment at the end",
    "boxes_before": "Additional boxes before correct segment",
    "incorrect_segment": "Incorrect box segment",
    "altered_order": "Altered box object order",
    "altered_association": "Altered association btw box and object",
    "no_commas": "No comma to separate segments",
    # Its example in Table A13 prints the target one position on; the definition gives the object at the same ordinal.
    "comma_after_object": "Additional comma after the object",
}
PARTS = ("train", "validation", "test")
PATCHING = "patching"  # the part of the fresh test sets, each of rows["test"] rows
ADDED_BOXES = " there are three additional boxes, Box {0}{0}, Box {1}{1} and Box {2}{2}"


def build_desideratum(task: BoxTask, name: str, rows: Mapping[str, int], sets: int, seed: int) -> pd.DataFrame:
    """The table of one desideratum; the same seed gives the same table.

    The three of ``DESIDERATA`` have ``rows[part]`` rows of each of ``PARTS`` and ``sets`` patching sets; the positional
    ones have the patching sets alone. No original scene stands in two rows. Raises InputError, naming the desideratum,
    when the task has too few objects, labels or scenes, or when the prompts would differ in length.
    """
    if name not in (*DESIDERATA, *POSITIONAL):
        raise InputError(f"desideratum {name!r}; allowed: {', '.join((*DESIDERATA, *POSITIONAL))}")
    sizes = {(part, 0): rows[part] for part in PARTS} if name in DESIDERATA else {}
    sizes |= {(PATCHING, number): rows["test"] for number in range(sets)}
    _require_enough(task, name, sum(sizes.values()))
    added = _added_letters(task, name)
    ordinals = _ordinals(task, name, added)
    seen: set[tuple] = set()
    table: list[dict] = []
    for (part, number), size in sizes.items():
        rng = stream(seed, "desiderata", name, part, number)
        for ordinal in rng.permutation(np.resize(ordinals, size)):
            head = {"desideratum": name, "part": part, "set": number, "scene_id": len(table)}
            table.append(head | _row(task, name, int(ordinal), added, rng, seen))
    for column in ("input_ids", "alternate_input_ids"):
        lengths = sorted({len(row[column]) for row in table})
        if len(lengths) > 1:
            raise InputError(f"desideratum {name}: {column} of {lengths} tokens; allowed: one length")
    return pd.DataFrame(table)


def _row(
    task: BoxTask, name: str, ordinal: int, added: Sequence[str], rng: np.random.Generator, seen: set[tuple]
) -> dict:
    """The columns of one row whose alternate queries ``ordinal``; its original scene is in none of ``seen``."""
    scenes = _draw(task, name, ordinal, added, rng)
    while (scenes[0].objects, scenes[0].labels) in seen:
        scenes = _draw(task, name, ordinal, added, rng)
    original, alternate, letters, target = scenes
    seen.add((original.objects, original.labels))
    answer = original.objects[original.query]
    row = _run(task.write(original), answer, original.query)
    row |= {"answer_id": task.answer_id(answer), "query_label": original.labels[original.query]}
    prompt = _write(task, name, alternate, letters)
    run = _run(prompt, alternate.objects[alternate.query], alternate.query)
    row |= {f"alternate_{column}": value for column, value in run.items()}
    row |= {"target": target, "target_id": task.answer_id(target)}
    return row | {"query": original.query, "alternate_query": ordinal}


def _run(prompt: Prompt, answer: str, box: int) -> dict:
    """Columns that the original and the alternate both have; ``box`` counts an added segment."""
    return {
        "prompt": prompt.text,
        "input_ids": list(prompt.input_ids),
        "answer": answer,
        Position.LAST.column: prompt.last,
        Position.QUERY_LABEL.column: prompt.query_label_position,
        Position.PREVIOUS_QUERY_LABEL.column: prompt.label_positions[box],
        Position.CORRECT_OBJECT.column: prompt.object_positions[box],
    }


def _draw(
    task: BoxTask, name: str, ordinal: int, added: Sequence[str], rng: np.random.Generator
) -> tuple[Scene, Scene, list[str], str]:
    """Original, alternate, the letters of the added boxes, target."""
    n, extra = task.boxes, _extra(name)
    objects = _choose(task.objects, 2 * n + extra, rng)
    letters = _choose(added, 3, rng) if added else []
    alternate_labels = _choose([x for x in task.labels if x not in letters], n + extra, rng)
    others = [x for x in task.labels if x not in alternate_labels]
    place = ordinal
    if name == "label":
        place = _other_ordinal(n, ordinal, rng)
        labels = _choose(others, n - 1, rng)
        labels.insert(place, alternate_labels[ordinal])
    else:
        place += name == "incorrect_segment"
        labels = _choose(others, n, rng)
    original = Scene(tuple(objects[:n]), tuple(labels), _other_ordinal(n, place, rng))
    box = ordinal + (name == "segment_at_start")
    alternate = Scene(tuple(objects[n:]), tuple(alternate_labels), box)
    return original, alternate, letters, alternate.objects[box] if name == "object" else original.objects[place]


def _choose(words: Sequence[str], n: int, rng: np.random.Generator) -> list[str]:
    return [words[i] for i in rng.choice(len(words), n, replace=False)]


def _other_ordinal(boxes: int, ordinal: int, rng: np.random.Generator) -> int:
    """Uniform over the ordinals that are not this one."""
    return (ordinal + 1 + int(rng.integers(boxes - 1))) % boxes


def _extra(name: str) -> int:
    """How many segments the alternate has more than the original."""
    return int(name in ("segment_at_start", "segment_at_end"))


def _write(task: BoxTask, name: str, scene: Scene, letters: Sequence[str]) -> Prompt:
    """The alternate prompt of a scene."""
    object_, label = scene.objects[scene.query], scene.labels[scene.query]
    relation = ", is in Box" if name == "comma_after_object" else " is in Box"
    segments = [segment(o, x, relation) for o, x in zip(scene.objects, scene.labels, strict=True)]
    match name:
        case "text_at_start":
            segments.insert(0, [(" there are a bunch of boxes containing objects", "")])
        case "text_at_end":
            segments.append([(" these are a bunch of boxes containing objects", "")])
        case "tokens_between":
            segments[scene.query] = segment(object_, label, " is contained in the Box")
        case "boxes_before":
            segments.insert(scene.query, [(ADDED_BOXES.format(*letters), "")])
        case "altered_order":
            box = [(" Box", ""), (f" {label}", "label"), (" contains the", ""), (f" {object_}", "object")]
            segments[scene.query] = box
        case "altered_association":
            segments[scene.query] = segment(object_, label, " is not in Box")
    try:
        return task.encode(passage(segments, label, separator="" if name == "no_commas" else ","))
    except InputError as error:
        raise InputError(f"desideratum {name}: {error}") from error


def _added_letters(task: BoxTask, name: str) -> list[str]:
    """The labels whose doubles can name the added boxes of ``boxes_before``: all doubles of as many tokens."""
    if name != "boxes_before":
        return []
    lengths = {x: len(task.tokenizer.encode(ADDED_BOXES.format(x, x, x))) for x in task.labels}
    letters = _with_commonest(lengths)
    if len(letters) < 3:
        raise InputError(
            f"desideratum {name}: needs 3 labels whose doubles are equally many tokens,"
            f" only {len(letters)} are with this tokenizer"
        )
    return letters


def _ordinals(task: BoxTask, name: str, added: Sequence[str]) -> list[int]:
    """The ordinals that alternates may query."""
    extra, first = _extra(name), int(name == "segment_at_start")
    objects, labels = task.objects[: task.boxes + extra], task.labels[: task.boxes + extra]
    allowed = range(task.boxes - (name == "incorrect_segment"))  # the target is one position on
    lengths = {i: len(_write(task, name, Scene(objects, labels, i + first), added[:3]).input_ids) for i in allowed}
    return _with_commonest(lengths)


def _with_commonest(lengths: Mapping) -> list:
    """The keys whose value is the commonest one."""
    commonest = Counter(lengths.values()).most_common(1)[0][0]
    return [key for key, length in lengths.items() if length == commonest]


def _require_enough(task: BoxTask, name: str, rows: int) -> None:
    objects = 2 * task.boxes + _extra(name)
    labels = {"label": objects - 1, "boxes_before": max(objects, task.boxes + 3)}.get(name, objects)
    for kind, needed in (("objects", objects), ("labels", labels)):
        usable = len(getattr(task, kind))
        if usable < needed:
            raise InputError(
                f"desideratum {name}: {task.boxes} boxes need at least {needed} {kind},"
                f" only {usable} are usable with this tokenizer"
            )
    possible = perm(len(task.objects), task.boxes) * perm(len(task.labels), task.boxes)
    if possible < rows:
        raise InputError(f"desideratum {name}: {rows} rows need as many scenes; allowed: the task's {possible}")
