"""The verdicts follow from the numbers by their stated rules."""

import numpy as np
import pandas as pd
import pytest

from mechdiff.report.tables.circuits import NO_CIRCUIT
from mechdiff.report.verdict import FAILS, HOLDS, UNSURE, better_information, overall, page, same_circuit, same_function


def row(model: str, faithfulness: tuple, circuit: tuple = (0.7, 0.6, 0.8), note: str = "") -> dict:
    found = {"model": model, "note": note, "n": 500}
    numbers = {"faithfulness": faithfulness, "circuit": circuit, "random_circuit": (0.02, 0.0, 0.04)}
    for name, values in numbers.items():
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
    return found


@pytest.mark.parametrize(
    ("faithfulness", "circuit", "verdict"),
    [
        ((0.95, 0.85, 1.0), (0.7, 0.6, 0.8), HOLDS),
        ((0.85, 0.75, 0.9), (0.7, 0.6, 0.8), UNSURE),
        ((0.6, 0.5, 0.7), (0.7, 0.6, 0.8), FAILS),
        ((0.95, 0.85, 1.0), (0.05, 0.03, 0.08), UNSURE),
    ],
)
def test_the_same_circuit(faithfulness, circuit, verdict):
    base = row("base", (1.0, 0.9, 1.1))
    claim = same_circuit(pd.DataFrame([base, row("tuned", faithfulness, circuit)]), "base", least=0.8)
    assert claim.verdict == verdict and claim.numbers["Model"].tolist() == ["tuned"]


def test_a_model_that_was_not_evaluated_leaves_the_claim_open():
    nothing = (np.nan, np.nan, np.nan)
    weak = row("weak", nothing, nothing, note="not evaluated: accuracy 0.15, chance 0.14")
    claim = same_circuit(pd.DataFrame([row("base", (1, 1, 1)), row("tuned", (1, 0.9, 1.1)), weak]), "base", 0.8)
    assert claim.verdict == UNSURE and "accuracy 0.15" in claim.numbers["Verdict"].iloc[1]


def test_a_model_that_gets_nothing_right_has_a_dash_for_its_faithfulness():
    undefined = row("tuned", (np.nan, np.nan, np.nan), (0, 0, 0.1))
    claim = same_circuit(pd.DataFrame([row("base", (1, 0.9, 1.1)), undefined]), "base", 0.8)
    assert claim.verdict == UNSURE and claim.numbers.iloc[0, 1:3].tolist() == ["–", "0.00 [0.00, 0.10]"]


def test_a_circuit_without_heads_leaves_the_claim_open():
    nothing = (np.nan, np.nan, np.nan)
    rows = [row(model, nothing, nothing, note=NO_CIRCUIT) for model in ("base", "tuned")]
    claim = same_circuit(pd.DataFrame(rows), "base", 0.8)
    assert claim.verdict == UNSURE and NO_CIRCUIT in claim.numbers["Verdict"].item()


def patching(model: str, group: str, **found: tuple) -> list[dict]:
    columns = {"circuit_of": "base", "model": model, "group": group, "name": f"{group}s", "n": 5000, "heads": 2}
    return [
        columns | {"desideratum": name} | dict(zip(("accuracy", "low", "high"), values, strict=True))
        for name, values in found.items()
    ]


@pytest.mark.parametrize(
    ("other", "verdict"), [((0.1, 0.0, 0.2), HOLDS), ((0.5, 0.4, 0.6), UNSURE), ((0.9, 0.8, 1.0), FAILS)]
)
def test_the_same_function(other, verdict):
    own = (0.5, 0.45, 0.55)
    rows = patching("tuned", "A", object=own, position=other, label=(0, 0, 0.1))
    rows += patching("tuned", "D", object=(0, 0, 0), position=(0, 0, 0), label=(0, 0, 0))
    claim = same_function(pd.DataFrame(rows), "base", {"A": "object", "D": None}, 1 / 7, {"tuned": None})
    assert claim.verdict == verdict and len(claim.numbers) == 1


REASONS = {"base": None, "tuned": None, "same": None}


def gains(value: tuple, position: tuple) -> pd.DataFrame:
    found = [("A", "As", value), ("B", "Bs", position)]
    rows = [("tuned", "base", g, name, 2, *each) for g, name, each in found]
    columns = ["donor", "recipient", "group", "name", "nodes", "gain", "gain_low", "gain_high"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(
    ("value", "position", "verdict"),
    [
        ((0.3, 0.2, 0.4), (0.1, 0.05, 0.2), HOLDS),
        ((0.3, 0.2, 0.4), (0.02, -0.01, 0.05), UNSURE),
        ((0.3, 0.2, 0.4), (0.0, -0.01, 0.01), FAILS),
    ],
)
def test_better_information(value, position, verdict):
    base, tuned = (pd.Series(np.arange(100) < k, index=range(100)) for k in (50, 90))
    functions = {"A": "object", "B": "position"}
    correct = {"base": base, "tuned": tuned, "same": base}
    claim = better_information(correct, gains(value, position), "base", functions, REASONS, 0.1, 200, 0)
    assert claim.verdict == verdict
    first = claim.numbers.set_index("Information")["Gain of the base when patched"]["first step that is better"]
    assert first.startswith("B Bs: +0.10" if position[1] > 0 else "A As: +0.30"), "B is before A"
    assert claim.numbers["Verdict"].tolist()[-1] == "nothing to explain", "a model that is not better has no part in it"
    nothing = better_information(
        {"base": base, "same": base}, gains(value, position), "base", functions, REASONS, 0.1, 200, 0
    )
    assert nothing.verdict == UNSURE
    reasons = REASONS | {"tuned": "accuracy 0.15, chance 0.14"}
    weak = better_information(correct, gains(value, position), "base", functions, reasons, 0.1, 200, 0)
    assert weak.verdict == UNSURE and "accuracy 0.15" in weak.numbers["Verdict"].iloc[0]


def test_a_function_needs_heads_a_level_above_chance_and_every_model():
    functions, low = {"B": "position"}, {"label": (0.05, 0.04, 0.06), "object": (0, 0, 0.01)}
    below = pd.DataFrame(patching("tuned", "B", position=(0.1, 0.09, 0.11), **low))
    above = pd.DataFrame(patching("tuned", "B", position=(0.3, 0.29, 0.31), **low))
    for table, reasons, verdict in [
        (below, {}, FAILS),
        (above, {}, HOLDS),
        (above.assign(heads=0), {}, UNSURE),
        (above, {"weak": "accuracy 0.15, chance 0.14"}, UNSURE),
    ]:
        assert same_function(table, "base", functions, 1 / 7, reasons).verdict == verdict


def test_the_page_has_every_claim_with_its_rule_and_its_numbers():
    claim = same_circuit(pd.DataFrame([row("base", (1, 1, 1)), row("tuned", (0.95, 0.85, 1.0))]), "base", 0.8)
    text = page("base", "mini", 20, [claim, claim], " Planted.")
    assert "resampled scenes. Planted." in text
    assert "1. The same circuit: **holds**" in text and "0.95 [0.85, 1.00]" in text and "at least 0.8" in text
    assert overall([HOLDS, HOLDS]) == HOLDS and overall([HOLDS, FAILS]) == FAILS and overall([]) == UNSURE
