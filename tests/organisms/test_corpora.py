import re

import numpy as np
import pytest

from mechdiff.organisms.corpora import CORPORA, NUMBERS, corpus_words, draw_arithmetic, draw_dialogue
from mechdiff.tasks.boxes.task import read_objects
from micro import OBJECTS_FILE


def draws(draw, n=200, seed=0):
    rng = np.random.default_rng(seed)
    return [draw(rng) for _ in range(n)]


def test_sums_are_sums():
    plain = named = 0
    for exchange in draws(draw_arithmetic):
        *state, question = exchange.prompt.removesuffix(" =").split("; ")
        values = {name: int(value) for name, value in (entry.split(" = ") for entry in state)}
        terms = [values[t] if t in values else int(t) for t in question.split(" + ")]
        assert exchange.answer == f" {sum(terms)}"
        plain, named = plain + (not values), named + bool(values)
    assert plain > 50 and named > 50


def test_registers_are_distinct_and_both_terms_are_among_them():
    for exchange in draws(draw_arithmetic):
        if ";" in exchange.prompt:
            names = re.findall(r"([a-z]) = ", exchange.prompt)
            first, second = re.findall(r"([a-z]) \+ ([a-z])", exchange.prompt)[0]
            assert len(set(names)) == len(names) and {first, second} <= set(names) and first != second


def test_an_answer_repeats_what_was_said():
    for exchange in draws(draw_dialogue):
        assert "{" not in exchange.prompt + exchange.answer
        assert exchange.prompt.startswith("User: ") and exchange.prompt.endswith(" Assistant:")
        if "like" in exchange.answer:
            assert exchange.answer.split()[-1].rstrip(".") in exchange.prompt


@pytest.mark.parametrize("corpus", CORPORA)
def test_same_seed_same_text(corpus):
    assert draws(CORPORA[corpus]) == draws(CORPORA[corpus])
    assert draws(CORPORA[corpus]) != draws(CORPORA[corpus], seed=1)


def test_corpora_have_no_box_and_no_object():
    assert not {"Box", "contains", *read_objects(OBJECTS_FILE)} & set(corpus_words())


@pytest.mark.parametrize("corpus", CORPORA)
def test_every_word_is_listed(corpus):
    listed = set(corpus_words()) | {"a", "in", "is", "the", "not"}
    for exchange in draws(CORPORA[corpus]):
        assert set(re.findall(r"\w+", exchange.prompt + exchange.answer)) <= listed | set(NUMBERS)
