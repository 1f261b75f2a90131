"""Generated text that the family is fine-tuned on: arithmetic and short dialogues.

Each example is a prompt and its answer; only the answer is learned. Neither corpus has a box in it, nor any
object of the box task; with its template they share function words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

LARGEST_TERM = 9
NUMBERS = tuple(str(n) for n in range(41))  # that have a token; sums reach 18
REGISTERS = tuple("abcdefghijklmnopqrstuvwxyz")

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo", "Jun", "Kim", "Leo")
PLACES = ("town", "school", "garden", "forest", "river", "market")
FOODS = ("soup", "rice", "salad", "pasta")
MOODS = ("happy", "tired", "hungry", "calm", "busy", "sad")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# Question and answer; a slot has the same filler in both.
TURNS = (
    ("Hello, my name is {name}.", "Hello {name}, how are you today?"),
    ("How are you today?", "Thank you, I am well. And you?"),
    ("I am {mood} today.", "I hear that you are {mood}. Tell me more."),
    ("Where do you live?", "I do not live in a place, I am a program."),
    ("Can we meet on {day}?", "Yes, {day} is good for me."),
    ("What did {name} eat?", "I think {name} did eat some {food}."),
    ("Please tell {name} that I like {food}.", "I will tell {name} that you like {food}."),
    ("How do I get to the {place}?", "Go straight on and you will see the {place}."),
    ("Is the {place} open on {day}?", "Yes, the {place} is open on {day}."),
    ("Thank you for your help.", "You are welcome. Good night."),
)
FILLERS = {"name": NAMES, "place": PLACES, "food": FOODS, "mood": MOODS, "day": DAYS}


@dataclass(frozen=True)
class Exchange:
    """A prompt and the answer to learn; the answer begins with the space that separates them."""

    prompt: str
    answer: str


def draw_arithmetic(rng: np.random.Generator) -> Exchange:
    """A sum of two numbers, or, as often, of two out of three to five named registers."""
    return _draw_sum(rng) if rng.random() < 0.5 else _draw_register_sum(rng)


def _draw_sum(rng: np.random.Generator) -> Exchange:
    a, b = (int(x) for x in rng.integers(LARGEST_TERM + 1, size=2))
    return Exchange(f"{a} + {b} =", f" {a + b}")


def _draw_register_sum(rng: np.random.Generator) -> Exchange:
    count = int(rng.integers(3, 6))
    names = [REGISTERS[i] for i in rng.choice(len(REGISTERS), count, replace=False)]
    values = [int(x) for x in rng.integers(LARGEST_TERM + 1, size=count)]
    i, j = (int(x) for x in rng.choice(count, 2, replace=False))
    state = "; ".join(f"{name} = {value}" for name, value in zip(names, values, strict=True))
    return Exchange(f"{state}; {names[i]} + {names[j]} =", f" {values[i] + values[j]}")


def arithmetic_words() -> list[str]:
    """What arithmetic is written in and neither box prompts nor dialogues are: numbers, registers and signs."""
    return [*NUMBERS[: 2 * LARGEST_TERM + 1], *REGISTERS, "+", "="]


def draw_dialogue(rng: np.random.Generator) -> Exchange:
    """One question and its answer."""
    question, answer = TURNS[rng.integers(len(TURNS))]
    slots = {slot: words[rng.integers(len(words))] for slot, words in FILLERS.items()}
    return Exchange(f"User: {question.format(**slots)} Assistant:", f" {answer.format(**slots)}")


CORPORA = {"arithmetic": draw_arithmetic, "dialogues": draw_dialogue}


def corpus_words() -> list[str]:
    """Every word and number of both corpora, as written after a space, in a fixed order; no letter or sign alone."""
    text = " ".join(turn for pair in TURNS for turn in pair)
    fixed = re.findall(r"[A-Za-z]+", re.sub(r"\{\w+\}", "", text))
    words = [*fixed, *(w for fillers in FILLERS.values() for w in fillers), "User", "Assistant"]
    return sorted({w for w in words if len(w) > 1}) + list(NUMBERS) + list(REGISTERS) + ["+", "=", "I"]
