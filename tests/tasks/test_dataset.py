"""The dataset: every row is checked by a second, independent reading of its prompt."""

import re
from math import perm

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechdiff.common.errors import InputError
from mechdiff.tasks.boxes.dataset import SPLITS, build_split
from mechdiff.tasks.boxes.task import LABELS, BoxTask
from micro import OBJECTS, build_dataset, word_tokenizer

TEMPLATE = ["The", "the", "is", "in", "Box", ",", ".", "contains"]
TOKENIZER = word_tokenizer([*TEMPLATE, *OBJECTS, *LABELS])
ROWS = {"discovery": 12, "minimality": 9, "evaluation": 10, "means": 11}


def read_prompt(prompt: str) -> tuple[list[tuple[str, str]], str]:
    """(object, label) pairs and the query label, read from the text alone."""
    return re.findall(r"[Tt]he (\w+) is in Box (\w)", prompt), re.search(r"Box (\w) contains the$", prompt)[1]


def words(ids) -> list[str]:
    return [TOKENIZER.id_to_token(i) for i in ids]


@settings(max_examples=25)
@given(boxes=st.integers(2, 25), seed=st.integers(0, 2**32), layout=st.sampled_from(["disjoint", "shared"]))
def test_every_row_says_what_its_prompt_says(boxes, seed, layout):
    task = BoxTask(TOKENIZER, boxes, OBJECTS)
    for split, table in build_dataset(task, ROWS, seed, layout).items():
        assert len(table) == ROWS[split]
        assert len({len(ids) for ids in table["input_ids"]}) == 1, "nothing is padded"
        for row in table.itertuples():
            pairs, query = read_prompt(row.prompt)
            tokens = words(row.input_ids)
            objects, labels = [o for o, _ in pairs], [x for _, x in pairs]
            assert (list(row.objects), list(row.labels), row.query_label) == (objects, labels, query)
            assert len(set(objects)) == len(set(labels)) == boxes
            assert tokens[row.last] == "the" and row.last == len(tokens) - 1
            assert tokens[row.query_label_pos] == query and row.query_label_pos == row.last - 2
            if query in labels:
                correct = objects[labels.index(query)]
                assert row.answer == correct == TOKENIZER.id_to_token(row.answer_id)
                assert tokens[row.correct_object_pos] == correct and row.correct_object_pos < row.query_label_pos
                assert tokens[row.previous_query_label_pos] == query
                assert row.previous_query_label_pos - row.correct_object_pos == 4, "the label of the same box"
            else:
                assert split == "means" and pd.isna(row.answer) and pd.isna(row.answer_id)


@settings(max_examples=10)
@given(boxes=st.integers(2, 25), seed=st.integers(0, 2**32))
def test_noise_is_another_scene_that_has_no_such_label(boxes, seed):
    task = BoxTask(TOKENIZER, boxes, OBJECTS)
    for row in build_dataset(task, ROWS, seed)["discovery"].itertuples():
        pairs, query = read_prompt(row.noise_prompt)
        tokens = words(row.noise_input_ids)
        labels = [x for _, x in pairs]
        assert query not in labels
        assert pairs != read_prompt(row.prompt)[0]
        assert len(tokens) == len(row.input_ids)
        assert tokens[row.noise_query_label_pos] == query
        assert tokens[row.noise_last] == "the"
        assert tokens[row.noise_previous_query_label_pos] in labels


def test_by_default_no_scene_stands_in_two_rows(task):
    tables = build_dataset(task, ROWS, 0)
    rows = pd.concat(tables.values())
    scenes = [(*row.objects, *row.labels) for row in rows.itertuples()]
    assert len(set(scenes)) == len(scenes) == rows["scene_id"].nunique()


def test_few_possible_scenes_are_still_never_repeated(tokenizer):
    task = BoxTask(tokenizer, 2, OBJECTS[:3], list("ABC"))
    possible = perm(3, 2) * perm(3, 2)
    rows = dict.fromkeys(SPLITS, possible // 4)
    tables = pd.concat(build_dataset(task, rows, 0).values())
    assert len({(*r.objects, *r.labels) for r in tables.itertuples()}) == possible
    with pytest.raises(InputError, match=f"ask for 37 different scenes; allowed: the task's {possible}"):
        build_dataset(task, rows | {"means": 10}, 0)
    seven_times = {"discovery": 36, "minimality": 72, "evaluation": 2, "means": 36}
    build_dataset(task, seven_times, 0, "shared")


def test_the_papers_rows_are_shared(task):
    tables = build_dataset(task, {"discovery": 14, "minimality": 7, "evaluation": 21, "means": 3}, 0, "shared")
    evaluation = tables["evaluation"]
    assert evaluation["scene_id"].tolist() == [0] * 7 + [1] * 7 + [2] * 7
    assert evaluation["query"].tolist() == list(range(7)) * 3, "each scene is queried once per box"
    assert tables["minimality"]["prompt"].tolist() == evaluation["prompt"].tolist()[:7]
    assert [list(o) for o in tables["means"]["objects"]] == [list(o) for o in evaluation["objects"][::7]]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(task, tmp_path):
    def written(name: str, seed: int) -> dict[str, bytes]:
        files = {}
        for split, table in build_dataset(task, ROWS, seed).items():
            table.to_parquet(tmp_path / f"{name}-{split}.parquet", index=False)
            files[split] = (tmp_path / f"{name}-{split}.parquet").read_bytes()
        return files

    assert written("a", 7) == written("b", 7)
    assert all(written("a", 7)[split] != written("c", 8)[split] for split in SPLITS)


def test_a_split_does_not_depend_on_the_sizes_of_those_drawn_after_it(task):
    for i, split in enumerate(SPLITS):
        few = build_split(task, split, {name: ROWS[name] for name in SPLITS[: i + 1]}, 0)
        many = build_split(task, split, ROWS | dict.fromkeys(SPLITS[i + 1 :], 90), 0)
        pd.testing.assert_frame_equal(few, many)
