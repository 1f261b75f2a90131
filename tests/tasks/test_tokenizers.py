"""Real tokenizers, trained here: what is one token in place, what its id is as the answer, what is dropped.

What the project reads from offsets is checked without them, by encoding other texts and decoding single tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mechdiff.circuits import Position
from mechdiff.common.errors import InputError
from mechdiff.models.checkpoints import TOKENIZER, read_tokenizer
from mechdiff.tasks.boxes.dataset import draw_scene
from mechdiff.tasks.boxes.desiderata import DESIDERATA, PARTS, POSITIONAL, build_desideratum
from mechdiff.tasks.boxes.task import LABELS, BoxTask, Prompt, Scene
from micro import OBJECTS, build_dataset

# Never one token in place: two words; two words and a hyphen; unseen; seen without a space before it alone; unseen, but
# for its last letter's last byte; an unseen character.
NEVER = ("ice cream", "t-shirt", "quokka", "zebra", "café", "☃")
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def corpus() -> list[str]:
    """The project's words in its template, with a space before each comma, and words of which tokens are made that
    the template must not take: "Z,", "zebra" without a space, the beginning of "café", some doubled labels."""
    rng = np.random.default_rng(0)
    lines = ["Z, Z, Z, Z, 1zebra 2zebra 3zebra 4zebra cafè cafê cafè cafê Box DD Box QQ Box XX"] * 25
    for _ in range(200):
        objects, labels = rng.permutation(OBJECTS)[:7], rng.permutation(LABELS)[:7]
        boxes = [f"the {object_} is in Box {label}" for object_, label in zip(objects, labels, strict=True)]
        lines += [f"The{' , '.join(boxes)[3:]} . Box {labels[0]} contains the {objects[0]}"]
    # Seeds of Unigram are what different words have in common.
    words = (*OBJECTS, *LABELS, "the", "The", "is", "in", "Box", "contains")
    return lines + [f"{word}; {word}: {word}?" for word in words]


def byte_level(space: bool = False, trimmed: bool = False, pattern: str | None = None) -> Tokenizer:
    """GPT-2's and Qwen's; ``space``: put before the text; ``trimmed``: offsets without it; ``pattern``: as Llama 3."""
    tokenizer = Tokenizer(models.BPE())
    plain = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=pattern is None)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, plain])
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=space, trim_offsets=trimmed)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1000, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def sentencepiece(scheme: str) -> Tokenizer:
    """Llama 2's: spaces are part of the words, unknown characters are bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    first = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def sentencepiece_by_normalizer() -> Tokenizer:
    """The same as older files write it: the normalizer writes the spaces, and nothing splits the text."""
    tokenizer = sentencepiece("always")
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def unigram(scheme: str) -> Tokenizer:
    """T5's and ALBERT's."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = trainers.UnigramTrainer(
        vocab_size=1000, special_tokens=["<unk>", "<s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def whole_words() -> Tokenizer:
    """No token has a space, and unknown words share one token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>"], show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


STYLES: dict[str, Callable[[], Tokenizer]] = {
    "byte-level": byte_level,
    "byte-level, a space before the text": partial(byte_level, space=True),
    "byte-level, offsets without spaces": partial(byte_level, trimmed=True),
    "byte-level, both": partial(byte_level, space=True, trimmed=True),
    "byte-level, Llama 3": partial(byte_level, pattern=LLAMA_3),
    "byte-level, Llama 3, offsets without spaces": partial(byte_level, pattern=LLAMA_3, trimmed=True),
    "SentencePiece, always": partial(sentencepiece, "always"),
    "SentencePiece, first": partial(sentencepiece, "first"),
    "SentencePiece, never": partial(sentencepiece, "never"),
    "SentencePiece, by normalizer": sentencepiece_by_normalizer,
    "Unigram, always": partial(unigram, "always"),
    "Unigram, first": partial(unigram, "first"),
    "Unigram, never": partial(unigram, "never"),
    "whole words": whole_words,
}
SPACE_BEFORE_THE_TEXT = {name for name in STYLES if name.endswith(("before the text", "both", "always", "first"))}
SPACE_BEFORE_THE_TEXT.add("SentencePiece, by normalizer")


@cache
def trained(style: str) -> str:
    return STYLES[style]().to_str()


@pytest.fixture(scope="module", params=STYLES)
def style(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bos"])
def bos(request) -> bool:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(style, bos, tmp_path_factory) -> Tokenizer:
    """As read from a checkpoint's folder."""
    made = Tokenizer.from_str(trained(style))
    if bos:
        begin = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))])
        made.post_processor = processors.Sequence([made.post_processor, begin]) if made.post_processor else begin
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save(str(folder / TOKENIZER))
    return read_tokenizer(folder)


@pytest.fixture(scope="module")
def task(tokenizer) -> BoxTask:
    return BoxTask(tokenizer, 7, [*OBJECTS, *NEVER])


@pytest.fixture(scope="module")
def written(task) -> list[tuple[Scene, Prompt]]:
    """Prompts in which every usable object and label stands."""
    rng = np.random.default_rng(0)
    scenes = [draw_scene(task, rng) for _ in range(20)]
    n = task.boxes
    for words in range(0, len(task.objects), n):
        objects = (*task.objects[words : words + n], *task.objects)[:n]
        labels = tuple(task.labels[(words + i) % len(task.labels)] for i in range(n))
        if len(set(objects)) == n:
            scenes.append(Scene(objects, labels, words // n % n))
    assert {word for scene in scenes for word in scene.objects} == set(task.objects)
    assert {label for scene in scenes for label in scene.labels} == set(task.labels)
    return [(scene, task.write(scene)) for scene in scenes]


def test_what_is_not_one_token_in_place_is_dropped_and_nothing_else(task, style):
    # In place, Z stands before a comma, and SentencePiece has "Z," as one token. Unigram writes B as a space and a B.
    labels = {"SentencePiece": ("Z",), "Unigram": ("B",)}.get(style.split(",")[0], ())
    assert task.dropped == (*NEVER, *labels)
    assert task.objects == tuple(OBJECTS)


def test_positions_hold_the_words_they_are_named_for(task, written):
    for scene, prompt in written:
        words = [task.tokenizer.decode([i]).strip() for i in prompt.input_ids]
        assert [words[i] for i in prompt.object_positions] == list(scene.objects)
        assert [words[i] for i in prompt.label_positions] == list(scene.labels)
        assert words[prompt.query_label_position] == scene.labels[scene.query]
        assert words[prompt.last] == "the"


def test_each_named_token_is_added_by_its_word_alone(task, written):
    """The text before a word has the tokens before its position; with the word it has that one more."""
    for scene, prompt in written[:5]:
        for word, position in zip(scene.objects, prompt.object_positions, strict=True):
            before = prompt.text[: prompt.text.index(f" {word} is")]
            assert task.tokenizer.encode(before).ids == list(prompt.input_ids[:position])
            assert task.tokenizer.encode(f"{before} {word}").ids == list(prompt.input_ids[: position + 1])


def test_the_answer_is_the_token_that_comes_next(task, written):
    _, prompt = written[0]
    for object_ in task.objects:
        assert task.tokenizer.encode(f"{prompt.text} {object_}").ids == [*prompt.input_ids, task.answer_id(object_)]


def test_all_prompts_have_one_length_and_the_same_positions(written, bos):
    prompts = [prompt for _, prompt in written]
    assert {len(prompt.input_ids) for prompt in prompts} == {53 + bos}
    for prompt in prompts:
        assert prompt.object_positions == tuple(range(1 + bos, 50, 7)), "The, and a BOS, come before"
        assert prompt.label_positions == tuple(range(5 + bos, 54, 7))
        assert (prompt.query_label_position, prompt.last) == (50 + bos, 52 + bos)


def test_the_text_begins_as_the_tokenizer_writes_beginnings(tokenizer, written, style, bos):
    ids = written[0][1].input_ids
    assert (tokenizer.id_to_token(ids[0]) == "<s>") == bos
    assert tokenizer.id_to_token(ids[bos]).lstrip("▁Ġ") == "The"
    assert (tokenizer.id_to_token(ids[bos]) != "The") == (style in SPACE_BEFORE_THE_TEXT)


def test_the_dataset_and_its_noise_are_built(task):
    tables = build_dataset(task, {"discovery": 8, "means": 8, "minimality": 8, "evaluation": 8}, seed=0)
    assert len({len(ids) for table in tables.values() for ids in table["input_ids"]}) == 1
    for row in tables["discovery"].to_dict("records"):
        noise = [task.tokenizer.decode([i]).strip() for i in row["noise_input_ids"]]
        assert len(noise) == len(row["input_ids"])
        assert noise[row[f"noise_{Position.QUERY_LABEL.column}"]] == row["noise_prompt"][-len("X contains the")]
        assert noise[row[f"noise_{Position.PREVIOUS_QUERY_LABEL.column}"]] in LABELS
        assert task.tokenizer.encode(f"{row['prompt']} {row['answer']}").ids == [*row["input_ids"], row["answer_id"]]


@pytest.mark.parametrize("name", [*DESIDERATA, *POSITIONAL])
def test_the_desiderata_are_built(task, name):
    for row in build_desideratum(task, name, dict.fromkeys(PARTS, 7), 1, 0).to_dict("records"):
        assert task.tokenizer.encode(f"{row['prompt']} {row['target']}").ids == [*row["input_ids"], row["target_id"]]
        words = [task.tokenizer.decode([i]).strip() for i in row["alternate_input_ids"]]
        queried = row["alternate_prompt"][-len("X contains the")]
        assert words[row[f"alternate_{Position.CORRECT_OBJECT.column}"]] == row["alternate_answer"]
        assert words[row[f"alternate_{Position.PREVIOUS_QUERY_LABEL.column}"]] == queried
        assert words[row[f"alternate_{Position.QUERY_LABEL.column}"]] == queried


@pytest.mark.parametrize("trimmed", [False, True])
def test_where_spaces_are_tokens_of_their_own_no_word_is_usable(trimmed):
    """The token that comes next is then the space, never the object."""
    tokenizer = byte_level(trimmed=trimmed)
    apart = pre_tokenizers.Split(" ", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([apart, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    assert tokenizer.encode(" zebra").tokens == ["Ġ", "zebra"]
    with pytest.raises(InputError, match="only 0 are usable with this tokenizer; not one token in place: zebra, A, B"):
        BoxTask(tokenizer, 1, ["zebra"])
