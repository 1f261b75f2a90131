"""Path patching: the plain way on a model worked out by hand, and limit cases of both ways on random Llamas."""

from math import exp, sqrt
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hand_model import hand_model
from mechdiff.circuits import Head, Position
from mechdiff.engine.edits import Part
from mechdiff.engine.examples import Examples, clean_examples, noise_examples
from mechdiff.engine.plain import PlainRun
from mechdiff.engine.run import Run
from mechdiff.experiments.model_check import capture_difference, null_patch_differences, rounding
from mechdiff.experiments.path_patching import change_table, relative_changes
from mechdiff.experiments.ranking import (
    Step,
    at_rounding,
    ranked,
    reaching,
    receiver_heads,
    score_table,
    select_candidates,
)
from mechdiff.models.hooks import capture_outputs, editing_outputs, last_logits
from mechdiff.models.patchable import PatchableModel
from micro import build_dataset, micro_llama

LAST = Position.LAST


def sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x))


def examples(*prompts: list[int]) -> Examples:
    ids = torch.tensor(prompts)
    at = torch.full((len(ids),), ids.shape[1] - 1)
    return Examples(ids, torch.zeros(len(ids), dtype=torch.int64), {LAST: at, Position.QUERY_LABEL: at - 1})


def by_hand(model, clean: Examples, noise: Examples, *into) -> dict:
    runs: list[Any] = [PlainRun(model, each) for each in (clean, noise)]  # in place of Run
    return relative_changes(*runs, *into)


def test_into_the_logits_by_hand():
    # Clean tokens (1, 3): head 0 gives the mean 2, head 1 gives 4, p = sigmoid(6).
    # Noise tokens (0, 2): head 0 gives 1, head 1 gives 2: patching one head lowers the sum to 5 and to 4.
    changes = by_hand(hand_model(1), examples([1, 3]), examples([0, 2]), LAST, None, None)
    assert changes[Head(0, 0)].tolist() == pytest.approx([sigmoid(5) / sigmoid(6) - 1], rel=1e-9)
    assert changes[Head(0, 1)].tolist() == pytest.approx([sigmoid(4) / sigmoid(6) - 1], rel=1e-9)


def test_into_queries_by_hand_changes_the_query_and_nothing_else():
    # Tokens (1, 3), s = 6 after layer 0. Layer 1 attends to 3 with weight sigmoid(3s - s) and gives
    # z = 1 + 2 sigmoid(2s); p = sigmoid(s + z). With head 0 patched the query is 5, but s itself stays 6 on its way
    # to the logits.
    receivers = [Head(1, 0)]
    changes = by_hand(hand_model(2), examples([1, 3]), examples([0, 2]), LAST, receivers, Part.QUERY)

    def p(query: float) -> float:
        return sigmoid(6 + 1 + 2 * sigmoid(2 * query))

    assert changes[Head(0, 0)].tolist() == pytest.approx([p(5) / p(6) - 1], rel=1e-9)
    assert changes[Head(0, 1)].tolist() == pytest.approx([p(4) / p(6) - 1], rel=1e-9)


def test_into_values_by_hand_at_an_earlier_position():
    # Layer 1 carries the second coordinate s_t of each token t: at tokens (1, 3), s = (3, 6), with weight
    # w = sigmoid(2·6) on the last. Patched at the first token from noise (0, 2): head 0 gives 0 instead of 1, so the
    # value there is 2.
    model = hand_model(2, values_from="second")
    clean, noise = examples([1, 3]), examples([0, 2])
    changes = by_hand(model, clean, noise, Position.QUERY_LABEL, [Head(1, 0)], Part.VALUE)
    w = sigmoid(12)

    def p(first_value: float) -> float:
        return sigmoid(6 + (1 - w) * first_value + w * 6)

    assert changes[Head(0, 0)].tolist() == pytest.approx([p(2) / p(3) - 1], rel=1e-9)
    assert changes[Head(0, 1)].tolist() == pytest.approx([p(1) / p(3) - 1], rel=1e-9)


def test_heads_between_are_frozen_and_mlps_are_not():
    # Tokens (0, 1): head 0 gives 0.5, head 1 gives 1, so s = 1.5, doubled by the MLP to 3; layer 1 asks with 3 and
    # finds z = sigmoid(3); the sum is doubled again. Noise (0, -1): head 0 gives -0.5, s = 0.5, doubled to 1; z stays.
    model = hand_model(2, mlp=True)
    changes = by_hand(model, examples([0, 1]), examples([0, -1]), LAST, None, None)
    z = sigmoid(3)
    assert changes[Head(0, 0)].tolist() == pytest.approx([sigmoid(2 * (1 + z)) / sigmoid(2 * (3 + z)) - 1], rel=1e-9)
    # Head 1 alone gives -1 instead of 1: s = -0.5, doubled to -1.
    assert changes[Head(0, 1)].tolist() == pytest.approx([sigmoid(2 * (-1 + z)) / sigmoid(2 * (3 + z)) - 1], rel=1e-9)


def test_noise_is_read_at_the_noise_prompts_own_position():
    # As into values above, but the noise prompt (0, 4) has its query label at its last token, where head 0 gives 2 and
    # head 1 gives 4: the value at the clean prompt's first token becomes 2 + 2, or 1 + 4.
    model = hand_model(2, values_from="second")
    clean, noise = examples([1, 3]), examples([0, 4])
    noise.positions[Position.QUERY_LABEL] = torch.tensor([1])
    changes = by_hand(model, clean, noise, Position.QUERY_LABEL, [Head(1, 0)], Part.VALUE)
    w = sigmoid(12)

    def p(first_value: float) -> float:
        return sigmoid(6 + (1 - w) * first_value + w * 6)

    assert changes[Head(0, 0)].tolist() == pytest.approx([p(4) / p(3) - 1], rel=1e-6)
    assert changes[Head(0, 1)].tolist() == pytest.approx([p(5) / p(3) - 1], rel=1e-6)
    assert changes[Head(0, 0)].item() > 0, "a larger value makes the answer likelier"


@pytest.fixture(scope="module")
def prompts(task) -> tuple[Examples, Examples]:
    rows = {"discovery": 6, "minimality": 1, "evaluation": 1, "means": 1}
    table = build_dataset(task, rows, 0)["discovery"]
    return clean_examples(table), noise_examples(table)


def on_engine(examples: Examples, values: int = 3, layers: int = 3) -> Run:
    return Run(micro_llama(layers=layers, heads=3, values=values), examples, 10**9)


def plain(examples: Examples, values: int = 3, layers: int = 3) -> PlainRun:
    return PlainRun(micro_llama(layers=layers, heads=3, values=values), examples)


STEPS = [
    (LAST, None, None),
    (LAST, [Head(2, 0), Head(1, 2)], Part.QUERY),
    (Position.QUERY_LABEL, [Head(2, 1)], Part.VALUE),
    (Position.PREVIOUS_QUERY_LABEL, [Head(1, 0), Head(2, 2)], Part.VALUE),
    (LAST, [Head(2, 2)], Part.KEY),
]
BOTH = pytest.mark.parametrize("run", [on_engine, plain])


@BOTH
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("values", [3, 1])
def test_noise_equal_to_the_original_changes_nothing(prompts, run, step, values):
    clean, _ = prompts
    changes = relative_changes(run(clean, values), run(clean, values), *step)
    assert all(change.abs().max() < 1e-5 for change in changes.values())


@BOTH
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("values", [3, 1])
def test_heads_in_or_above_the_highest_receiver_score_exactly_zero_and_some_below_do_not(prompts, run, step, values):
    clean, noise = prompts
    changes = relative_changes(run(clean, values), run(noise, values), *step)
    highest = 3 if step[1] is None else max(head.layer for head in step[1])
    for head, change in changes.items():
        assert change.eq(0).all() == (head.layer >= highest), head


@BOTH
def test_in_one_layer_a_path_patch_is_an_activation_patch(prompts, run):
    """With one layer nothing lies between head and logits, so freezing the other heads is no restriction."""
    clean, noise = prompts
    changes = relative_changes(run(clean, layers=1), run(noise, layers=1), LAST, None, None)
    model = micro_llama(layers=1, heads=3)
    outputs, _ = capture_outputs(model, noise.input_ids)
    original = probability(last_logits(model, clean.input_ids), clean.answers)
    for head in model.heads:

        def patch(layer, z, head=head):
            z = z.clone()
            z[:, -1, head.index] = outputs[layer][:, -1, head.index]
            return z

        with editing_outputs(model, patch):
            patched = probability(last_logits(model, clean.input_ids), clean.answers)
        torch.testing.assert_close(changes[head], patched / original - 1, atol=1e-5, rtol=0)


def probability(logits, answers):
    return logits.double().softmax(-1)[range(len(answers)), answers]


def test_no_hook_is_left_behind_even_after_an_error():
    model = micro_llama()
    ids = torch.arange(6)[None]
    before = last_logits(model, ids)

    def fail(layer, z):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), editing_outputs(model, fail):
        last_logits(model, ids)
    assert torch.equal(last_logits(model, ids), before)


def test_the_table_has_mean_standard_error_and_n():
    changes = {Head(0, 1): torch.tensor([-0.5, -0.1, 0.0, 0.2], dtype=torch.float64)}
    table = score_table("m", "A", change_table(changes))
    row = table.iloc[0]
    assert (row["model"], row["group"], row["layer"], row["head"], row["n"]) == ("m", "A", 0, 1, 4)
    assert row["score"] == pytest.approx(-0.1)
    assert row["stderr"] == pytest.approx((0.26 / 3 / 4) ** 0.5)  # variance 0.26 / 3, of the mean of four


def scores(values: dict[str, float]) -> pd.DataFrame:
    heads = [Head.parse(name) for name in values]
    return pd.DataFrame(
        {"layer": [h.layer for h in heads], "head": [h.index for h in heads], "score": list(values.values())}
    )


def test_most_negative_first_and_ties_in_model_order():
    table = scores({"L2 H0": 0.0, "L1 H1": -0.5, "L0 H1": 0.0, "L0 H0": 0.3})
    assert [str(head) for head in ranked(table)] == ["L1 H1", "L0 H1", "L2 H0", "L0 H0"]
    assert receiver_heads(table, 1) == receiver_heads(table, 0.25) == receiver_heads(table, 0.01) == [Head(1, 1)]


def test_a_share_of_the_heads_is_a_count_where_the_heads_are_known():
    entry = {"group": "A", "position": "last", "receiver": "logits", "keep": 0.08, "exclude": ["B"]}
    assert Step.from_config(entry, 1024) == Step("A", LAST, keep=82, exclude=("B",))
    assert Step.from_config(entry, 4).keep == 1 and Step.from_config(entry | {"keep": 3}, 4).keep == 3


def test_candidates_pass_over_the_heads_of_excluded_groups():
    plan = [
        Step("A", LAST, keep=2, exclude=("B",)),
        Step("B", LAST, keep=1),
    ]
    circuit = select_candidates(
        plan,
        {
            "A": scores({"L0 H0": -0.9, "L0 H1": -0.8, "L1 H0": -0.7, "L1 H1": 0.1}),
            "B": scores({"L0 H0": 0.0, "L0 H1": -0.2, "L1 H0": -0.1, "L1 H1": 0.0}),
        },
    )
    assert circuit["A"].heads == (Head(0, 0), Head(1, 0))
    assert circuit["B"].heads == (Head(0, 1),)


HEADS = ["L0 H0", "L0 H1", "L1 H0", "L1 H1"]
LEVEL = 1e-6  # of one example


def noise(largest: float, n: int = 50) -> pd.DataFrame:
    """Changes as rounding makes them: of any sign in any example, most of them well below the largest."""
    return pd.DataFrame(np.random.default_rng(0).normal(0, largest / 5, (n, len(HEADS))), columns=HEADS)


@pytest.mark.parametrize(
    ("changes", "nothing"),
    [
        (noise(0), True),
        (noise(LEVEL), True),
        (noise(LEVEL).assign(**{"L1 H0": -LEVEL / sqrt(50) * 0.99}), True),
        (noise(LEVEL).assign(**{"L1 H0": -LEVEL / sqrt(50) * 1.01}), False),
        (noise(LEVEL).assign(**{"L1 H0": 0.3}), False),
        (noise(LEVEL).assign(**{"L1 H0": float("nan")}), False),
    ],
    ids=["zero", "noise", "below", "above", "never negative", "undefined"],
)
def test_scores_are_at_rounding_level_when_all_of_them_are(changes, nothing):
    """Errors of single examples cancel in a mean, so that a score is told from rounding below the largest of them."""
    assert at_rounding(changes, LEVEL) == nothing


PLAN = [
    Step("A", LAST, keep=2, exclude=("B",)),
    Step("B", LAST, keep=1, receiver="A"),
    Step("C", Position.QUERY_LABEL, keep=2, receiver="B"),
    Step("D", LAST, keep=1, receiver="A"),
]


def found(*nothing: str) -> dict[str, pd.DataFrame]:
    """Changes of each group's heads, the first the strongest; noise where nothing reaches."""
    real = noise(0.01).add([-0.5, -0.3, -0.2, 0.0])
    return {step.group: noise(LEVEL) if step.group in nothing else real for step in PLAN}


@pytest.mark.parametrize(
    ("nothing", "heads"),
    [
        ("", {"A": 2, "B": 1, "C": 2, "D": 1}),
        ("B", {"A": 2, "B": 0, "C": 0, "D": 1}),
        ("C", {"A": 2, "B": 1, "C": 0, "D": 1}),
        ("A", {"A": 0, "B": 0, "C": 0, "D": 0}),
    ],
)
def test_what_nothing_reaches_has_no_heads_nor_has_what_is_sent_to_it(nothing, heads):
    changes = found(*nothing)
    steps = reaching(PLAN, changes, LEVEL)
    circuit = select_candidates(steps, {group: score_table("m", group, table) for group, table in changes.items()})
    assert {group.name: len(group.heads) for group in circuit.groups} == heads
    for step, group in zip(PLAN, circuit.groups, strict=True):
        assert bool(group.note) == (heads[step.group] == 0)
        if group.note:
            receiver = "the logits" if step.receiver == "logits" else step.receiver
            assert group.note.startswith(f"nothing reaches {receiver}: ")
            assert group.note.endswith("no heads") == (step.group not in nothing), "the group that is empty is named"
    if nothing == "B":
        assert circuit["A"].heads == (Head(0, 0), Head(0, 1)), "an empty group excludes nothing"


def blind(layers: int = 3) -> PatchableModel:
    """A model whose heads look everywhere alike, whatever they ask: nothing can reach a query."""
    model = micro_llama(layers=layers, heads=3, head_dim=8)
    with torch.no_grad():
        for name, weight in model.network.named_parameters():
            weight.mul_("k_proj" not in name)
    return model


@pytest.mark.parametrize(
    "kind", [lambda model, examples: Run(model, examples, 10**9), PlainRun], ids=["engine", "plain"]
)
@pytest.mark.parametrize(
    ("step", "nothing"),
    [((LAST, [Head(2, 0), Head(1, 2)], Part.QUERY), True), ((LAST, [Head(0, 1)], Part.VALUE), True), (STEPS[0], False)],
    ids=["queries that do not matter", "receivers in the lowest layer", "logits"],
)
def test_rounding_is_told_from_what_reaches(prompts, kind, step, nothing):
    clean, noisy = (kind(blind(), each) for each in prompts)
    level = rounding(clean, [capture_difference(clean), *null_patch_differences(clean)])
    assert 0 < level < 1e-4
    assert at_rounding(change_table(relative_changes(clean, noisy, *step)), level) == nothing


@BOTH
def test_without_receivers_every_score_is_exactly_zero(prompts, run):
    clean, noisy = prompts
    changes = relative_changes(run(clean), run(noisy), LAST, [], Part.QUERY)
    assert len(changes) == 9 and all(change.eq(0).all() for change in changes.values())
