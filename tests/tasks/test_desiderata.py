"""Desiderata: every row is checked by a second, independent reading of its two prompts."""

import re

import pandas as pd
import pytest

from mechdiff.circuits import Position
from mechdiff.common.errors import InputError
from mechdiff.engine.examples import alternate_examples, target_examples
from mechdiff.models.checkpoints import read_tokenizer
from mechdiff.tasks.boxes.desiderata import DESIDERATA, POSITIONAL, build_desideratum
from mechdiff.tasks.boxes.task import LABELS, BoxTask
from micro import OBJECTS, ROOT, word_tokenizer

NAMES = (*DESIDERATA, *POSITIONAL)
WHERE = (Position.LAST, Position.QUERY_LABEL, Position.PREVIOUS_QUERY_LABEL, Position.CORRECT_OBJECT)
ROWS = {"train": 40, "validation": 21, "test": 28}
MINI_FOLDER = ROOT / "resources" / "models" / "mini-llama"
MINI = read_tokenizer(MINI_FOLDER)
TEMPLATE = ["The", "There", "the", "there", "are", "three", "additional", "boxes", "and"]
TEMPLATE += ["Box", "is", "in", "contains", ",", "."]
WHOLE_WORDS = word_tokenizer([*TEMPLATE, *OBJECTS, *LABELS, *(2 * x for x in LABELS)])

# What the alternate has besides the ordinary text: its form, what is left when it is undone, how many there are.
# {Q} is the query label.
ALTERED = {
    "text_at_start": ("^There are a bunch of boxes containing objects, the", "The", 1),
    "text_at_end": (r", these are a bunch of boxes containing objects$", "", 1),
    "tokens_between": (r" is contained in the Box {Q}\b", " is in Box {Q}", 1),
    "segment_at_start": (r"^The \w+ is in Box (?!{Q})[A-Z], the", "The", 1),
    "segment_at_end": (r", the \w+ is in Box (?!{Q})[A-Z]$", "", 1),
    "boxes_before": (
        r"[Tt]here are three additional boxes, Box ([A-Z])\1, Box ([A-Z])\2 and Box ([A-Z])\3,"
        r" (?=the \w+ is in Box {Q})",
        "",
        1,
    ),
    "altered_order": (r"Box {Q} contains the (\w+)", r"the \1 is in Box {Q}", 1),
    "altered_association": (r" is not in Box {Q}\b", " is in Box {Q}", 1),
    "no_commas": (r"(Box [A-Z]) the", r"\1, the", 6),
    "comma_after_object": (r", is in", " is in", 7),
}

# Tables A12 and A13. Row 11 prints "bill"; at the ordinal of "letter" the original has "game".
ORIGINAL = "document X, pot T, magnet A, game E, bill M, cross K, map D"
PAPER = {
    "text_at_start": (
        "There are a bunch of boxes containing objects, the magnet is in Box O, the bell is in Box M, the leaf is in"
        " Box W, the cup is in Box G, the ice is in Box J, the milk is in Box Z, the wire is in Box H."
        " Box W contains the",
        "magnet",
    ),
    "text_at_end": (
        "The document is in Box Q, the bus is in Box F, the camera is in Box R, the glass is in Box W, the magazine is"
        " in Box Z, the coffee is in Box E, the watch is in Box C, these are a bunch of boxes containing objects."
        " Box C contains the",
        "map",
    ),
    "tokens_between": (
        "The pot is in Box U, the flower is in Box D, the car is in Box K, the disk is in Box C, the fan is contained"
        " in the Box H, the bill is in Box S, the painting is in Box L. Box H contains the",
        "bill",
    ),
    "segment_at_start": (
        "The apple is in Box O, the dress is in Box N, the boot is in Box Y, the hat is in Box L, the bus is in Box X,"
        " the painting is in Box F, the drug is in Box J, the string is in Box D. Box X contains the",
        "game",
    ),
    "segment_at_end": (
        "The hat is in Box K, the plane is in Box H, the tie is in Box U, the wire is in Box F, the file is in Box R,"
        " the note is in Box Y, the train is in Box G, the apple is in Box O. Box G contains the",
        "map",
    ),
    "boxes_before": (
        "The hat is in Box K, the plane is in Box H, the tie is in Box U, there are three additional boxes, Box PP,"
        " Box BB and Box AA, the wire is in Box F, the file is in Box R, the note is in Box Y, the train is in Box G."
        " Box F contains the",
        "game",
    ),
    "incorrect_segment": (
        "The magnet is in Box O, the bell is in Box M, the leaf is in Box W, the cup is in Box G, the ice is in Box J,"
        " the milk is in Box Z, the wire is in Box H. Box J contains the",
        "cross",
    ),
    "altered_order": (
        "The pot is in Box U, the flower is in Box D, the car is in Box K, Box C contains the disk, the fan is in"
        " Box H, the bill is in Box S, the painting is in Box L. Box C contains the",
        "game",
    ),
    "altered_association": (
        "The ticket is in Box N, the book is in Box J, the gift is in Box W, the coat is in Box Y, the rose is in"
        " Box K, the wheel is not in Box G, the brick is in Box V. Box G contains the",
        "cross",
    ),
    "no_commas": (
        "The pot is in Box U the flower is in Box D the car is in Box K the disk is in Box C the fan is in Box H"
        " the bill is in Box S the painting is in Box L. Box H contains the",
        "bill",
    ),
    "comma_after_object": (
        "The clock, is in Box M, the bomb, is in Box J, the newspaper, is in Box G, the letter, is in Box L,"
        " the suit, is in Box Y, the computer, is in Box R, the wheel, is in Box V. Box L contains the",
        "game",
    ),
}


def read_prompt(prompt: str, name: str = "") -> tuple[list[str], list[str], int]:
    """Objects, labels and the queried ordinal of a prompt of 7 boxes, whose alteration must be there and is undone."""
    text, query = re.fullmatch(r"(.+)\. Box ([A-Z]) contains the", prompt).groups()
    assert not re.search(r"[a-z,] The|, There", text) and text[0].isupper(), "a capital at the beginning alone"
    if name in ALTERED:
        form, plain, times = ALTERED[name]
        text, found = re.subn(form.replace("{Q}", query), plain.replace("{Q}", query), text)
        assert found == times
    text = text[0].upper() + text[1:]
    assert re.fullmatch(r"The \w+ is in Box [A-Z](, the \w+ is in Box [A-Z]){6}", text), "otherwise ordinary"
    objects, labels = zip(*re.findall(r"[Tt]he (\w+) is in Box ([A-Z])", text), strict=True)
    return list(objects), list(labels), labels.index(query)


def said_target(name: str, original: tuple, alternate: tuple) -> str:
    """The target, from the definition."""
    objects, labels, _ = original
    other_objects, other_labels, box = alternate
    if name == "object":
        return other_objects[box]
    if name == "label":
        return objects[labels.index(other_labels[box])]
    return objects[box + 1] if name == "incorrect_segment" else objects[box]


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    task = BoxTask(MINI, 7, OBJECTS)
    return {name: build_desideratum(task, name, ROWS, 3, 0) for name in NAMES}


@pytest.mark.parametrize("name", POSITIONAL)
def test_the_papers_examples_are_read_as_the_paper_reads_them(name):
    alternate, target = PAPER[name]
    objects, labels = zip(*re.findall(r"(\w+) ([A-Z])", ORIGINAL), strict=True)
    assert said_target(name, (objects, labels, 0), read_prompt(alternate, name)) == target


@pytest.mark.parametrize("name", NAMES)
def test_the_target_is_what_the_definition_says(tables, name):
    for row in tables[name].itertuples():
        original, alternate = read_prompt(row.prompt), read_prompt(row.alternate_prompt, name)
        objects, labels, query = original
        assert row.target == said_target(name, original, alternate) != row.answer == objects[query]
        assert MINI.decode([row.target_id]).strip() == row.target and MINI.decode([row.answer_id]).strip() == row.answer
        assert (row.query, row.query_label) == (query, labels[query])
        assert (row.alternate_query, row.alternate_answer) == (alternate[2], alternate[0][alternate[2]])
        assert len(set(objects)) == len(set(labels)) == len(set(alternate[0])) == len(set(alternate[1])) == 7


@pytest.mark.parametrize("name", NAMES)
def test_the_scenes_share_nothing_but_the_label_that_label_is_about(tables, name):
    for row in tables[name].itertuples():
        objects, labels = (
            [set(re.findall(form, prompt)) for prompt in (row.prompt, row.alternate_prompt)]
            for form in (rf"\b({'|'.join(OBJECTS)})\b", r"Box ([A-Z])\b")
        )
        boxes = 8 if name in ("segment_at_start", "segment_at_end") else 7
        assert [len(objects[1]), len(labels[1])] == [boxes, boxes]
        assert not objects[0] & objects[1]
        queried = row.alternate_prompt[-len("X contains the")]
        assert labels[0] & labels[1] == ({queried} if name == "label" else set())
        if name == "label":
            place = read_prompt(row.prompt)[1].index(queried)
            assert place not in (row.query, row.alternate_query), "a carried position does not give the target"
        if name == "object":
            assert row.query != row.alternate_query
        if name == "boxes_before":
            added = re.findall(r"Box ([A-Z])\1", row.alternate_prompt)
            assert len(set(added)) == 3 and not set(added) & labels[1]


@pytest.mark.parametrize("name", NAMES)
def test_positions_hold_the_words_they_are_named_for(tables, name):
    for row in tables[name].to_dict("records"):
        for run in ("", "alternate_"):
            tokens = [MINI.decode([i]).strip() for i in row[f"{run}input_ids"]]
            query = row[f"{run}prompt"][-len("X contains the")]
            place = {position: row[f"{run}{position.column}"] for position in WHERE}
            assert place[Position.LAST] == len(tokens) - 1 and tokens[-1] == "the"
            assert place[Position.QUERY_LABEL] == len(tokens) - 3 and tokens[-3] == query
            assert place[Position.PREVIOUS_QUERY_LABEL] < len(tokens) - 3
            assert tokens[place[Position.PREVIOUS_QUERY_LABEL]] == query
            assert tokens[place[Position.CORRECT_OBJECT]] == row[f"{run}answer"]


@pytest.mark.parametrize("name", NAMES)
def test_parts_ordinals_and_lengths(tables, name):
    table = tables[name]
    sizes = {(part, 0): n for part, n in ROWS.items()} if name in DESIDERATA else {}
    sizes |= {("patching", number): ROWS["test"] for number in range(3)}
    assert table.groupby(["part", "set"], sort=False).size().to_dict() == sizes
    assert set(table["desideratum"]) == {name}
    assert table["input_ids"].map(len).nunique() == table["alternate_input_ids"].map(len).nunique() == 1
    for _, part in table.groupby(["part", "set"]):
        counts = part["alternate_query"].value_counts()
        assert counts.max() - counts.min() <= 1, "balanced"
        assert not part["alternate_query"].is_monotonic_increasing, "in no order"
    # In this tokenizer "There" and "Box" at the beginning of a text are more tokens, or fewer, than inside it.
    left_out = {"incorrect_segment": {6}, "boxes_before": {0}, "altered_order": {0}}.get(name, set())
    assert set(table["alternate_query"]) == set(range(7)) - left_out
    assert set(table["query"]) == set(range(7))


@pytest.mark.parametrize("name", NAMES)
def test_no_scene_stands_in_two_rows(tables, name):
    for prompt in ("prompt", "alternate_prompt"):
        scenes = tables[name][prompt].str.replace(r"Box . contains the$", "", regex=True)
        assert scenes.nunique() == len(scenes)
    assert tables[name]["scene_id"].is_unique


@pytest.mark.parametrize(("name", "beginning"), [("boxes_before", "There are three"), ("altered_order", "Box ")])
def test_the_first_box_is_queried_where_the_tokenizer_gives_it_no_other_length(name, beginning):
    table = build_desideratum(BoxTask(WHOLE_WORDS, 7, OBJECTS), name, ROWS, 1, 0)
    assert table["alternate_query"].value_counts().to_dict() == dict.fromkeys(range(7), 4)
    for row in table.itertuples():
        assert said_target(name, read_prompt(row.prompt), read_prompt(row.alternate_prompt, name)) == row.target
        assert row.alternate_prompt.startswith(beginning) == (row.alternate_query == 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("boxes", [2, 11])
def test_any_number_of_boxes(name, boxes):
    table = build_desideratum(BoxTask(MINI, boxes, OBJECTS), name, ROWS, 2, 0)
    assert (table["target"] != table["answer"]).all()
    assert table["prompt"].str.count(" is in Box ").eq(boxes).all()


def test_the_same_seed_gives_the_same_table_and_another_seed_does_not(task):
    once, again, other = (build_desideratum(task, "label", ROWS, 2, seed) for seed in (7, 7, 8))
    pd.testing.assert_frame_equal(once, again)
    assert not set(once["prompt"]) & set(other["prompt"])


def test_a_part_does_not_depend_on_the_size_of_another(task):
    few = build_desideratum(task, "position", ROWS, 2, 0)
    more = build_desideratum(task, "position", ROWS | {"train": 55}, 3, 0)
    for part, number in (("validation", 0), ("test", 0), ("patching", 1)):
        a, b = (t[(t["part"] == part) & (t["set"] == number)] for t in (few, more))
        assert a["alternate_prompt"].tolist() == b["alternate_prompt"].tolist()


def test_tables_are_read_as_examples(tables):
    table = tables["position"]
    originals, alternates = target_examples(table), alternate_examples(table)
    assert originals.input_ids.tolist() == table["input_ids"].tolist()
    assert originals.answers.tolist() == table["target_id"].tolist()
    assert alternates.input_ids.tolist() == table["alternate_input_ids"].tolist() and alternates.answers is None
    for position in WHERE:
        assert originals.positions[position].tolist() == table[position.column].tolist()
        assert alternates.positions[position].tolist() == table[f"alternate_{position.column}"].tolist()


@pytest.mark.parametrize(
    ("name", "objects", "labels", "said"),
    [
        ("position", 13, 26, "7 boxes need at least 14 objects, only 13 are usable"),
        ("segment_at_end", 14, 26, "7 boxes need at least 15 objects, only 14 are usable"),
        ("object", 14, 13, "7 boxes need at least 14 labels, only 13 are usable"),
        ("label", 14, 12, "7 boxes need at least 13 labels, only 12 are usable"),
        ("segment_at_start", 15, 14, "7 boxes need at least 15 labels, only 14 are usable"),
    ],
)
def test_too_few_words_are_said_with_the_numbers(name, objects, labels, said):
    with pytest.raises(InputError, match=f"desideratum {name}: {said}"):
        build_desideratum(BoxTask(MINI, 7, OBJECTS[:objects], LABELS[:labels]), name, ROWS, 1, 0)


def test_just_enough_words_are_enough():
    build_desideratum(BoxTask(MINI, 7, OBJECTS[:14], LABELS[:13]), "label", ROWS, 1, 0)
    build_desideratum(BoxTask(MINI, 7, OBJECTS[:15], LABELS[:15]), "segment_at_start", ROWS, 1, 0)
    build_desideratum(BoxTask(MINI, 2, OBJECTS[:4], LABELS[:5]), "boxes_before", ROWS, 1, 0)


def test_few_possible_scenes_are_still_never_repeated_and_more_are_refused():
    task = BoxTask(MINI, 2, OBJECTS[:4], LABELS[:4])
    rows = {"train": 48, "validation": 48, "test": 16}
    scenes = build_desideratum(task, "object", rows, 2, 0)["prompt"].str.replace(r"Box . contains the$", "", regex=True)
    assert scenes.nunique() == 144
    with pytest.raises(InputError, match="desideratum object: 145 rows need as many scenes; allowed: the task's 144"):
        build_desideratum(task, "object", {"train": 143, "validation": 1, "test": 1}, 0, 0)


def test_an_unknown_name_is_refused():
    with pytest.raises(InputError, match="desideratum 'objects'; allowed: object, label, position, text_at_start"):
        build_desideratum(BoxTask(MINI, 7, OBJECTS), "objects", ROWS, 1, 0)


def mini_with(*tokens: str) -> BoxTask:
    tokenizer = read_tokenizer(MINI_FOLDER)
    tokenizer.add_tokens(list(tokens))
    return BoxTask(tokenizer, 7, OBJECTS)


def test_a_word_that_is_no_token_of_its_own_in_an_altered_segment_is_refused():
    task = mini_with(*(f"{x} the" for x in LABELS))  # "Box C the disk": the label is part of a longer token
    with pytest.raises(InputError, match=r"desideratum no_commas: '\w' is not one token in"):
        build_desideratum(task, "no_commas", ROWS, 1, 0)


def test_added_boxes_have_letters_whose_doubles_are_equally_many_tokens():
    task = mini_with(*(f" {2 * x}" for x in "ABCDE"))
    prompts = build_desideratum(task, "boxes_before", ROWS, 3, 0)["alternate_prompt"]
    assert set("".join(prompts.str.findall(r"Box ([A-Z])\1").map("".join))) == set(LABELS) - set("ABCDE")
    few = BoxTask(mini_with(" AA", "BB", " CC").tokenizer, 2, OBJECTS, LABELS[:5])
    with pytest.raises(InputError, match=r"desideratum boxes_before: needs 3 labels .*, only 2 are"):
        build_desideratum(few, "boxes_before", ROWS, 1, 0)


def test_alternates_of_different_lengths_are_refused():
    task = mini_with(*(f"{2 * x}, Box {2 * y} and" for x in LABELS for y in LABELS if x < y))
    with pytest.raises(InputError, match=r"desideratum boxes_before: alternate_input_ids of \[\d+, \d+\] tokens"):
        build_desideratum(task, "boxes_before", ROWS, 1, 0)
