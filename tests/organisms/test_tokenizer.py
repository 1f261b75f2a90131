import pytest

from mechdiff.organisms.tokenizer import build_tokenizer, family_words, save_tokenizer
from mechdiff.tasks.boxes.task import LABELS, Scene, read_objects
from micro import OBJECTS_FILE


def test_every_object_and_label_is_one_token_in_place(words):
    _, task = words
    assert task.dropped == () and task.labels == LABELS
    assert task.objects == tuple(read_objects(OBJECTS_FILE))


def test_a_prompt_has_one_token_for_each_word_and_sign(words):
    _, task = words
    prompt = task.write(Scene(task.objects[:7], task.labels[:7], 2))
    bos, signs = 1, 7
    assert len(prompt.input_ids) == bos + len(prompt.text.split()) + signs


@pytest.mark.parametrize("text", ["x=5 (?)\n\tOù ça — 日本 🎲", "The Box is not in the garden.", ""])
def test_any_text_survives(words, text):
    tokenizer, _ = words
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_text_starts_with_bos(words):
    tokenizer, _ = words
    assert tokenizer.encode("The box").tokens[0] == "<s>"
    assert "<s>" not in tokenizer.encode("The box", add_special_tokens=False).tokens


def test_auto_tokenizer_reads_it(words, tmp_path):
    from transformers import AutoTokenizer

    tokenizer, task = words
    save_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    prompt = task.write(Scene(task.objects[:7], task.labels[:7], 2))
    assert loaded(prompt.text).input_ids == list(prompt.input_ids)
    assert loaded.bos_token_id == 0


def test_vocabulary_is_bytes_and_words_alone():
    words = family_words(["apple"])
    assert build_tokenizer(words).get_vocab_size() == 1 + 256 + 2 + len(words)  # <s>, bytes, The and User
