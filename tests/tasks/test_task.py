"""Prompts: what is written, what is one token, where the named positions are."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from mechdiff.common.errors import InputError
from mechdiff.tasks.boxes.task import LABELS, LONGEST_WORD, BoxTask, Scene
from micro import OBJECTS, word_tokenizer

TEMPLATE = ["The", "the", "is", "in", "Box", ",", ".", "contains"]


def test_the_prompt_is_the_papers(task):
    scene = Scene(
        ("apple", "computer", "book", "map", "cup", "key", "hat"), ("F", "Q", "X", "D", "A", "B", "C"), query=0
    )
    prompt = task.write(scene)
    assert prompt.text == (
        "The apple is in Box F, the computer is in Box Q, the book is in Box X, the map is in Box D,"
        " the cup is in Box A, the key is in Box B, the hat is in Box C. Box F contains the"
    )
    assert len(prompt.input_ids) == 54
    assert prompt.object_positions == (2, 9, 16, 23, 30, 37, 44)
    assert prompt.label_positions == (6, 13, 20, 27, 34, 41, 48)
    assert (prompt.query_label_position, prompt.last) == (51, 53)


def test_positions_hold_the_words_they_are_named_for(task, tokenizer):
    scene = Scene(tuple(OBJECTS[:7]), tuple(LABELS[:7]), query=4)
    prompt = task.write(scene, query_label="Z")
    words = [tokenizer.id_to_token(i) for i in prompt.input_ids]
    assert [words[i] for i in prompt.object_positions] == list(scene.objects)
    assert [words[i] for i in prompt.label_positions] == list(scene.labels)
    assert words[prompt.query_label_position] == "Z"
    assert words[prompt.last] == "the"


def test_words_that_are_not_one_token_are_dropped_and_named():
    tokenizer = word_tokenizer([*TEMPLATE, *LABELS, "apple", "book", "cup"])
    task = BoxTask(tokenizer, 2, ["apple", "ice cream", "book", "t-shirt", "zebra", "unicorn", "cup"])
    assert task.objects == ("apple", "book", "cup")
    assert task.dropped == ("ice cream", "t-shirt", "zebra", "unicorn"), "unknown words share a token, so they go too"


def test_the_only_unknown_word_is_dropped_too():
    task = BoxTask(word_tokenizer([*TEMPLATE, *LABELS[1:], "apple", "book"]), 2, ["apple", "zebra", "book"])
    assert task.dropped == ("zebra", "A")


def byte_level(merged: list[str]) -> Tokenizer:
    """Byte-level BPE in which the words of ``merged`` are whole tokens with their leading space."""
    vocabulary, merges = {}, []
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[symbol] = len(vocabulary)
    for word in merged:
        done = "Ġ"
        for letter in word:
            merges.append((done, letter))
            done += letter
            vocabulary.setdefault(done, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, list(dict.fromkeys(merges))))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_with_subword_tokens_only_whole_words_are_usable():
    task = BoxTask(byte_level(["cat", "dog", *"ABC"]), 2, ["cat", "dog", "cats", "bird"], list("ABCD"))
    assert task.objects == ("cat", "dog")
    assert task.labels == ("A", "B", "C")
    prompt = task.write(Scene(("cat", "dog"), ("A", "B"), query=1))
    decoded = [task.tokenizer.decode([i]) for i in prompt.input_ids]
    assert [decoded[i] for i in prompt.object_positions] == [" cat", " dog"]
    assert decoded[prompt.query_label_position] == " B"


@pytest.mark.parametrize("number", [9, 10, 11, 500])
def test_of_many_unusable_objects_a_line_has_ten(tokenizer, number):
    """Each of the longest that an object list may have."""
    words = [f"{i:05}{'x' * (LONGEST_WORD - 5)}" for i in range(number)]
    with pytest.raises(InputError) as caught:
        BoxTask(tokenizer, 7, words)
    line = str(caught.value)
    assert [word in line for word in words[:11]] == [True] * min(number, 10) + [False] * (number > 10)
    assert line.endswith(f" and {number - 10} more") == (number > 10) and len(line) < 1300


def test_too_few_usable_objects_is_said_with_the_numbers(tokenizer):
    with pytest.raises(InputError) as caught:
        BoxTask(tokenizer, 3, ["apple", "book", "ice cream"])
    assert str(caught.value) == (
        "task.boxes: 3 need at least 3 objects, only 2 are usable with this tokenizer;"
        " not one token in place: ice cream"
    )


def test_a_letter_is_kept_free_for_the_noise_query(tokenizer):
    with pytest.raises(InputError, match="3 need at least 4 labels, only 3 are usable"):
        BoxTask(tokenizer, 3, OBJECTS, ["A", "B", "C"])


def test_a_tokenizer_that_ends_every_text_with_a_token_of_its_own_is_refused():
    tokenizer = word_tokenizer([*TEMPLATE, *LABELS, "apple", "book"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <s>", special_tokens=[("<s>", 0)])
    with pytest.raises(InputError):
        BoxTask(tokenizer, 2, ["apple", "book"])
