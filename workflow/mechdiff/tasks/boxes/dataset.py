"""The run's dataset: scenes drawn from a seed and written as one table per split (paper, section 3).

Splits: ``discovery`` (path patching), ``means`` (the scenes behind mean ablation, with a random query letter),
``minimality`` and ``evaluation``. By default every row of every split has a scene of its own. ``layout="shared"``
gives the paper's rows instead: each scene is queried once per box, in consecutive rows, and the splits overlap.

Columns: scene_id, prompt, input_ids, answer, answer_id, query_label, the named positions (``Position.column``), and the
scene itself (objects, labels, query). ``discovery`` also has the noise prompt: another scene, whose query label is a
letter that labels none of its boxes; its previous_query_label is one of its label positions, drawn once per row.
In ``means`` the letter may label no box: then answer and the positions that depend on it are missing. ``evaluation``
also has a random token of the context, neither the correct object nor the queried box's label.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, perm
from typing import Any

import numpy as np
import pandas as pd

from mechdiff.circuits import Position
from mechdiff.common.errors import InputError
from mechdiff.common.seeds import stream
from mechdiff.tasks.boxes.task import BoxTask, Prompt, Scene

SPLITS = ("discovery", "means", "minimality", "evaluation")  # in the order in which experiments need them
SCENE_COLUMNS = ("query", "answer_id", Position.PREVIOUS_QUERY_LABEL.column, Position.CORRECT_OBJECT.column)


def build_split(
    task: BoxTask, split: str, rows: Mapping[str, int], seed: int, layout: str = "disjoint"
) -> pd.DataFrame:
    """The table of one split, ``rows[split]`` rows; the same seed gives the same table.

    A split is drawn after those before it in ``SPLITS``, from their scenes apart: ``rows`` says how many they have. The
    splits after it do not matter. Raises InputError when the task has fewer different scenes than are asked for.
    """
    earlier = SPLITS[: SPLITS.index(split) + 1]
    if layout == "shared":
        first_id, scenes = 0, _shared_scenes(task, split, rows[split], seed)
        ids = [i if split == "means" else i // task.boxes for i in range(rows[split])]
    else:
        seen: set[tuple] = set()
        _require_enough(task, sum(rows[name] for name in earlier))
        for name in earlier:
            first_id = len(seen)
            scenes = _fresh_scenes(task, rows[name], stream(seed, "scenes", name), seen)
        ids = list(range(first_id, first_id + rows[split]))
    rng = stream(seed, "prompts", split)
    table = pd.DataFrame([_row(task, i, scene, split, rng) for i, scene in zip(ids, scenes, strict=True)])
    return table.astype(dict.fromkeys(SCENE_COLUMNS, "Int64")) if split == "means" else table


def draw_scene(task: BoxTask, rng: np.random.Generator) -> Scene:
    """Distinct objects, distinct labels, a random query; uniform."""
    objects = rng.choice(len(task.objects), task.boxes, replace=False)
    labels = rng.choice(len(task.labels), task.boxes, replace=False)
    return Scene(
        tuple(task.objects[i] for i in objects), tuple(task.labels[i] for i in labels), int(rng.integers(task.boxes))
    )


def _fresh_scenes(task: BoxTask, n: int, rng: np.random.Generator, seen: set[tuple]) -> list[Scene]:
    """n scenes whose (objects, labels) no earlier scene has."""
    scenes: list[Scene] = []
    while len(scenes) < n:
        scene = draw_scene(task, rng)
        if (scene.objects, scene.labels) not in seen:
            seen.add((scene.objects, scene.labels))
            scenes.append(scene)
    return scenes


def _shared_scenes(task: BoxTask, split: str, rows: int, seed: int) -> list[Scene]:
    """The paper's rows: scene i is queried for each of its boxes in turn; every split starts at row 0."""
    n = rows if split == "means" else ceil(rows / task.boxes)
    _require_enough(task, n)
    scenes = _fresh_scenes(task, n, stream(seed, "scenes", "shared"), set())
    if split == "means":
        return scenes
    return [Scene(s.objects, s.labels, query) for s in scenes for query in range(task.boxes)][:rows]


def _require_enough(task: BoxTask, scenes: int) -> None:
    possible = perm(len(task.objects), task.boxes) * perm(len(task.labels), task.boxes)
    if possible < scenes:
        raise InputError(f"dataset.rows: they ask for {scenes} different scenes; allowed: the task's {possible}")


def _row(task: BoxTask, scene_id: int, scene: Scene, split: str, rng: np.random.Generator) -> dict:
    query_label = scene.labels[scene.query]
    if split == "means":
        query_label = task.labels[rng.integers(len(task.labels))]
    prompt = task.write(scene, query_label)
    row: dict[str, Any] = {"scene_id": scene_id, "prompt": prompt.text, "input_ids": list(prompt.input_ids)}
    row |= {"answer": None, "answer_id": None, "query_label": query_label} | _positions(prompt)
    row |= {"objects": list(scene.objects), "labels": list(scene.labels)}
    row |= dict.fromkeys(SCENE_COLUMNS)
    if query_label in scene.labels:
        query = scene.labels.index(query_label)
        row |= {"answer": scene.objects[query], "answer_id": task.answer_id(scene.objects[query]), "query": query}
        row[Position.PREVIOUS_QUERY_LABEL.column] = prompt.label_positions[query]
        row[Position.CORRECT_OBJECT.column] = prompt.object_positions[query]
    if split == "discovery":
        row |= _noise(task, scene, rng)
    if split == "evaluation":
        carriers = {row[p.column] for p in (Position.PREVIOUS_QUERY_LABEL, Position.CORRECT_OBJECT)}
        others = [i for i in range(prompt.object_positions[0], prompt.label_positions[-1] + 1) if i not in carriers]
        row[Position.RANDOM_CONTEXT.column] = others[rng.integers(len(others))]
    return row


def _positions(prompt: Prompt) -> dict[str, int]:
    return {Position.LAST.column: prompt.last, Position.QUERY_LABEL.column: prompt.query_label_position}


def _noise(task: BoxTask, scene: Scene, rng: np.random.Generator) -> dict:
    """Columns of the noise prompt of one discovery row."""
    noise = draw_scene(task, rng)
    while (noise.objects, noise.labels) == (scene.objects, scene.labels):
        noise = draw_scene(task, rng)
    absent = [label for label in task.labels if label not in noise.labels]
    prompt = task.write(noise, absent[rng.integers(len(absent))])
    positions = _positions(prompt)
    positions[Position.PREVIOUS_QUERY_LABEL.column] = prompt.label_positions[rng.integers(task.boxes)]
    return {"noise_prompt": prompt.text, "noise_input_ids": list(prompt.input_ids)} | {
        f"noise_{column}": position for column, position in positions.items()
    }
